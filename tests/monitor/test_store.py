"""The monitor's store and snapshot: history adds up, damage is survived and said, queries are quick."""

from __future__ import annotations

import json
import sqlite3
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from mf_monitor.page import charts, metrics, model, snapshot, view
from mf_monitor.store import DAY, QUEUED, SENDING, SENT, Store, StoreError

from tests.monitor import samples

NOW = 1_790_000_000.0


def test_time_over_midnight_belongs_to_both_days(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "m.sqlite"))
    midnight = float(20000 * DAY)
    with store.writing():
        store.history.add_time([("mx1", midnight + 10, "down", 40.0, None), ("mx1", midnight + 70, "up", 60.0, 12.0)])
    before, after = store.history.days(19999, 20000)["mx1"]
    assert (before.down, before.up) == (30.0, 0.0)
    assert (after.down, after.up, after.ms, after.timed) == (10.0, 60.0, 12.0, 1)


def test_results_are_counted_in_buckets(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "m.sqlite"))
    with store.writing():
        store.history.add_results(
            [("a/s", 600.0, False, 10.0), ("a/s", 899.9, False, 30.0), ("a/s", 900.0, True, None)]
        )
    first, second = store.history.latency(0)["a/s"]
    assert (first.start, first.looks, first.bad, first.timed, first.ms, first.ms_max) == ((600, 2, 0, 2, 40.0, 30.0))
    assert (second.start, second.looks, second.bad, second.timed) == (900, 1, 1, 0)


def test_a_second_process_at_the_same_moment_opens_a_whole_database(tmp_path: Path) -> None:
    many = 8
    for number in range(10):
        path, start = str(tmp_path / f"{number}.sqlite"), threading.Barrier(many)

        def begin(_: int, path: str = path, start: threading.Barrier = start) -> str:
            start.wait()
            store = Store(path)
            with store.writing():
                store.put("key", "value")
            store.close()
            return store.damage

        with ThreadPoolExecutor(many) as pool:
            assert set(pool.map(begin, range(many))) == {""}


def test_an_error_in_a_transaction_undoes_all_of_it(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "m.sqlite"))

    def fail() -> None:
        with store.writing():
            store.put("key", "value")
            store.subject("new")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert store.get("key") == ""
    with store.writing():
        assert store.subject("new") == store.subject("new")


@pytest.mark.parametrize(
    "damage",
    [b"this is no database, but long enough to be read as one" * 40, b""],
    ids=["garbage", "half"],
)
def test_a_damaged_file_is_moved_aside_and_said(tmp_path: Path, damage: bytes) -> None:
    path = tmp_path / "m.sqlite"
    store, _ = samples.sample(path, NOW, days=20)
    store.close()
    whole = path.read_bytes()
    path.write_bytes(damage or whole[: len(whole) // 2] + b"\xff" * 4096)
    again = Store(str(path), now=NOW)
    assert "moved to m.sqlite.damaged-20260921T" in again.damage
    assert again.current.load() == {}
    assert list(tmp_path.glob("m.sqlite.damaged-*"))


def test_a_whole_file_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "m.sqlite"
    samples.sample(path, NOW, days=3)[0].close()
    again = Store(str(path))
    assert again.damage == ""
    assert "mx1/smtp" in again.current.load()


def test_a_missing_folder_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="does its folder exist"):
        Store(str(tmp_path / "none" / "m.sqlite"))


def test_one_open_incident_for_each_key(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "m.sqlite"))
    first = store.incidents.open("host:mx1", "host", "mx1", "", "notice", "down", NOW)
    with pytest.raises(sqlite3.IntegrityError):
        store.incidents.open("host:mx1", "host", "mx1", "", "notice", "down", NOW)
    store.incidents.close(first, NOW + 5)
    assert store.incidents.open("host:mx1", "host", "mx1", "", "notice", "down", NOW + 9) > first
    assert not store.incidents.acknowledge(first, NOW, "ops", None)


def test_what_was_being_sent_in_a_crash_is_sent_again_as_repeat(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "m.sqlite"))
    numbers = [store.messages.enqueue(NOW, "sms", "opened", "notice", "text") for _ in range(3)]
    store.messages.set(numbers[0], SENT, attempts=1, next_try=NOW, finished=NOW, error="")
    store.messages.set(numbers[1], SENDING, attempts=1, next_try=NOW, finished=None, error="")
    assert store.messages.recover(NOW + 9) == 1
    again = {row.id: row for row in store.messages.newest()}
    assert [again[number].repeat for number in numbers] == [0, 1, 0]
    assert again[numbers[1]].status == QUEUED
    assert [row.id for row in store.messages.due(NOW + 9)] == [numbers[1]]  # the older one first


def test_a_failed_read_of_health_keeps_what_was_read(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "m.sqlite"))
    store.current.set_health("mx1", NOW, True, "read", samples.health_record("mx1", "mx", NOW))
    store.current.set_health("mx1", NOW + 60, False, "ssh: no route", None)
    stored = store.current.health()["mx1"]
    assert (stored.ok, stored.read, stored.message) == (False, NOW, "ssh: no route")
    assert stored.record is not None
    assert stored.record.host == "mx1"


@pytest.mark.parametrize("record", [None, {}, {"load1": "high"}])
def test_a_stored_record_of_another_shape_counts_as_never_read(tmp_path: Path, record: dict[str, str] | None) -> None:
    store = Store(str(tmp_path / "m.sqlite"))
    store.current.set_health("mx1", NOW, True, "read", record)
    assert store.current.health()["mx1"].record is None


def test_texts_where_a_host_should_say_numbers_are_passed_over(tmp_path: Path) -> None:
    store, settings = samples.sample(tmp_path / "m.sqlite", NOW)
    record = samples.health_record("control1", "control", NOW)
    for check in ("backup", "canary"):
        metrics = record["checks"][check]["metrics"]
        record["checks"][check]["metrics"] = dict.fromkeys(metrics, "<b>soon</b>")
    store.current.set_health("control1", NOW, True, "read", record)
    shot = snapshot.take(store, settings, NOW)
    notified = json.dumps(model.as_json([[host.canary, host.backups] for host in shot.hosts]))
    assert "soon" not in notified


def test_an_mx_has_no_say_about_the_canaries_of_others(tmp_path: Path) -> None:
    store, settings = samples.sample(tmp_path / "m.sqlite", NOW)
    record = samples.health_record("mx2", "mx", NOW)
    lie = {"mx": 3, "overdue": 3, "mx1_age_seconds": 9e5, "mx3_age_seconds": 9e5}
    record["checks"]["canary"] = {**record["checks"]["load"], "status": "CRITICAL", "metrics": lie}
    store.current.set_health("mx2", NOW, True, "read", record)
    notified = {host.name: host.canary for host in snapshot.take(store, settings, NOW).hosts}
    assert notified["mx3"] is None
    assert notified["mx1"] is not None
    assert notified["mx1"].status == "OK"
    assert (notified["mx1"].age_seconds or 1e9) < 1000


KEYS = {
    "snapshot": "version generated interval stale_after name monitor fleet uplink hosts incidents silences heartbeat "
    "test_message messages",
    "fleet": "state since sentence accepting mxs min_accepting hosts hosts_up days",
    "day": "day state up up_seconds down_seconds throttled_seconds warning_seconds maintenance_seconds unknown_seconds "
    "unmeasured_seconds mean_ms",
    "uplink": "state since words",
    "host": "name role provider location address state since words flapping maintenance services health canary "
    "backups days",
    "service": "name kind port state since checked latency_ms words soft flapping expires days latency",
    "health": "read age_seconds fresh ok words status load1 throttled refusing held leases queue accepting "
    "uptime_seconds problems checks",
    "lease": "owner reason refuse held_seconds left_seconds",
    "check": "name status summary age_seconds since metrics",
    "canary": "seconds age_seconds status summary",
    "backups": "age_seconds status summary",
    "maintenance": "owner reason until",
    "incident": "id key kind host service severity title opened closed acked_by ack_until acked silenced timeline",
    "event": "at what words",
    "silence": "id pattern until reason by created",
    "messages": "waiting failing channels recent",
    "message": "at channel kind severity text status attempts finished error incidents repeat",
}


def test_the_snapshot_has_its_documented_shape(tmp_path: Path) -> None:
    store, settings = samples.sample(tmp_path / "m.sqlite", NOW)
    shot = snapshot.take(store, settings, NOW)
    assert shot.fleet.accepting == 1
    assert shot.fleet.since == NOW - 700
    assert (shot.fleet.hosts, shot.fleet.mxs) == (6, 3)
    assert len(shot.fleet.days) == snapshot.HISTORY_DAYS
    mx1, control = shot.hosts[1], shot.hosts[4]
    assert [service.name for service in mx1.services] == ["smtp", "smtp6", "ssh", "ssh6", "relay", "relay6"]
    assert mx1.canary is not None
    assert mx1.canary.seconds == 4.1
    assert len(mx1.services[0].latency) == 288
    assert control.backups is not None
    assert control.backups.age_seconds == 4320 + 34.2 + 25  # the check's own age, and that of reading it
    assert [incident.key for incident in shot.incidents.open] == ["fleet", "throttled:mx3", "service:mx2/smtp"]
    assert shot.incidents.open[0].acked
    assert shot.messages.waiting == 1


def test_the_keys_of_the_json_are_the_documented_ones(tmp_path: Path) -> None:
    store, settings = samples.sample(tmp_path / "m.sqlite", NOW)
    shot = model.as_json(snapshot.take(store, settings, NOW))
    _, mx1, _, mx3, control, offsite, _ = shot["hosts"]
    parts = {
        "snapshot": shot,
        "fleet": shot["fleet"],
        "day": shot["fleet"]["days"][-1],
        "uplink": shot["uplink"],
        "host": mx1,
        "service": mx1["services"][0],
        "health": mx1["health"],
        "lease": mx3["health"]["leases"][0],
        "check": mx1["health"]["checks"][0],
        "canary": mx1["canary"],
        "backups": control["backups"],
        "maintenance": offsite["maintenance"],
        "incident": shot["incidents"]["open"][0],
        "event": shot["incidents"]["open"][0]["timeline"][0],
        "silence": shot["silences"][0],
        "messages": shot["messages"],
        "message": shot["messages"]["recent"][0],
    }
    assert {name: " ".join(part) for name, part in parts.items()} == KEYS


def test_time_without_probes_is_not_measured(tmp_path: Path) -> None:
    store, settings = samples.sample(tmp_path / "m.sqlite", NOW, days=1)
    midnight = NOW // DAY * DAY
    with store.writing():
        store.rows("DELETE FROM days")
        # yesterday it was started at 23:00; today it was away for a while, and offline
        durations = (("up", 3600.0), ("warning", 60.0), ("maintenance", 60.0), ("throttled", 60.0), ("down", 60.0))
        store.history.add_time([("mx1", midnight, "up", 3600.0, None)])
        store.history.add_time(
            [("mx1", NOW, state, seconds, None) for state, seconds in (*durations, ("unknown", 300.0))]
        )
    yesterday, today = snapshot.take(store, settings, NOW).hosts[1].days[-2:]
    assert yesterday
    assert today
    assert (yesterday.up_seconds, yesterday.unmeasured_seconds) == (3600, 23 * 3600)
    assert (today.up_seconds, today.unknown_seconds) == (3600, 300)
    assert today.unmeasured_seconds == NOW - midnight - 3840
    assert [charts.classify(day)[0] for day in (yesterday, replace(today, down_seconds=0))] == ["part", "throttled"]


GOOD = {"up", "warning", "throttled", "maintenance", "OK", "WARNING"}


def shown(shot: Any) -> set[str]:
    """Every state and status of now that a snapshot shows; history is another matter."""
    if isinstance(shot, dict):
        own = {shot[key] for key in ("state", "status") if isinstance(shot.get(key), str)}
        return own.union(*(shown(value) for key, value in shot.items() if key not in ("days", "messages")))
    return set().union(*map(shown, shot)) if isinstance(shot, list) else set()


def test_what_was_seen_long_ago_is_nowhere_shown_as_good(tmp_path: Path) -> None:
    store, settings = samples.sample(tmp_path / "m.sqlite", NOW)
    assert shown(model.as_json(snapshot.take(store, settings, NOW))) >= {"up", "OK", "throttled", "maintenance", "down"}
    late = snapshot.take(store, settings, NOW + 3600)
    assert shown(model.as_json(late)) == {"unknown", "UNKNOWN"}
    assert late.fleet.accepting is None
    assert late.fleet.sentence.startswith("Nothing is known at the moment: nothing was probed since ")
    lines = [line for line in metrics.text(late).splitlines() if line.startswith(("mf_service_up", "mf_fleet_mx_a"))]
    assert lines == []
    for page in (view.private(late), view.public(late)):
        assert page["icon"] == "unknown"


def test_while_the_monitor_is_offline_nothing_is_shown_as_good(tmp_path: Path) -> None:
    store, settings = samples.sample(tmp_path / "m.sqlite", NOW)
    with store.writing():
        store.current.set([("uplink", "down", NOW - 9, NOW - 9, None, "none of 2 reference hosts answers", {})])
    shot = snapshot.take(store, settings, NOW)
    assert shot.connectivity.state == "down"
    assert {service.state for host in shot.hosts for service in host.services} == {"unknown"}
    assert {host.state for host in shot.hosts} | {shot.fleet.state} == {"unknown"}


def test_one_service_that_is_not_probed_any_more_is_not_known(tmp_path: Path) -> None:
    store, settings = samples.sample(tmp_path / "m.sqlite", NOW)
    with store.writing():
        memory = {"seen": NOW - 4000, "blind": "not asked: 550 at MAIL"}
        store.current.set([("mx1/relay", "up", NOW - 9000, NOW - 9, 1.0, "refuses: 550", memory)])
    (relay,) = [service for service in snapshot.take(store, settings, NOW).hosts[1].services if service.name == "relay"]
    assert (relay.state, relay.latency_ms) == ("unknown", None)
    assert relay.message.endswith("Z: not asked: 550 at MAIL")


def test_a_year_of_history_is_found_by_an_index_and_read_once(tmp_path: Path) -> None:
    """How long it takes is a matter for bench/bench_page.py."""
    store, _ = samples.sample(tmp_path / "m.sqlite", NOW, days=500)
    today = int(NOW // DAY)
    queries: list[str] = []
    store._connection.set_trace_callback(queries.append)
    by_subject = store.history.days(today - 364, today)
    (query,) = queries
    assert {len(rows) for rows in by_subject.values()} <= {364, 365}  # of mx3 one day is missing
    plan = [row["detail"] for row in store.rows(f"EXPLAIN QUERY PLAN {query}")]
    assert not [step for step in plan if step.startswith("SCAN days")], plan
