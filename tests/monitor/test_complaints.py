"""What matters is notified: every state that a host's checks and its health can have, from reading to severity."""

from __future__ import annotations

import asyncio
import dataclasses
import importlib
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from mf import health_record, state
from mf_monitor import engine
from mf_monitor.clocks import Clocks
from mf_monitor.judging import health, problems, states
from mf_monitor.judging.states import SubjectState
from mf_monitor.probing import hosthealth
from mf_monitor.store import Store

from tests.monitor import samples
from tests.monitor.conftest import bad

ROOT = Path(__file__).resolve().parents[2]
CHECKS = sorted(
    importlib.import_module(f"{path.parent.name}.{path.stem}").CHECK.name
    for path in ROOT.glob("roles/*/files/lib/mf_*/*.py")
    if "\nCHECK = run.Check(" in path.read_text()
)
URGENT = yaml.safe_load((ROOT / "roles/mf_monitor/vars/main.yml").read_text())["__mf_monitor_urgent_checks"]
RULES = samples.settings(urgent_checks=URGENT)
HOSTS = {host.name: host for host in RULES.hosts if host.health}
NOW = 1_790_000_000.0

# What is CRITICAL and for the page only, with the reason.
PAGE_ONLY = {
    ("canary", "one MX's are overdue"): "that MX has messages of its own, or check-quarantine has",
}

TROUBLES = {
    "refused": bad(),
    "421": dataclasses.replace(bad(), message="421 at greeting: 4.3.2 the queue behind takes no mail now"),
    "throttled": bad("", states.THROTTLED),
}
# A host's service and its trouble, and the checks that it explains; without a service all is well.
EXPLAINED = {
    ("smtp", "refused"): {"smtp"},
    ("smtp", "421"): {"smtp", "queue"},
    ("smtp", "throttled"): {"load"},
    ("smtp6", "throttled"): {"load"},
}
BESIDE = [
    *((host, "", "") for host in HOSTS),
    *((host.name, service.name, "refused") for host in HOSTS.values() for service in host.services),
    *(("mx1", service, trouble) for service in ("smtp", "smtp6") for trouble in ("421", "throttled")),
]


def up() -> SubjectState:
    return SubjectState(state=states.UP, since=NOW - 9999, checked=NOW, seen=NOW)


def notified(
    host: str,
    record: dict[str, Any] | None,
    lasts: float = 700.0,
    before: bool = True,
    beside: tuple[str, str] = ("", ""),
) -> dict[str, str]:
    """Severity by incident, when a host has reported it for that long; ``before``: it was well before that.

    ``beside``: a service of the host and its trouble; the incidents of services are left out then.
    """
    current = {service.subject: up() for watched in RULES.hosts for service in watched.services} | {"uplink": up()}
    known: set[str] = set()
    vital = health.vital(RULES, HOSTS[host])
    well = samples.health_record(host, HOSTS[host].role, NOW)
    at = NOW
    while at <= NOW + 60 + lasts:
        reported = well if before and at == NOW else record
        parsed = None if reported is None else hosthealth.parse(json.dumps(reported).encode())
        assert reported is None or parsed is not None
        reading = health.Reading(host, at, at, parsed, "ssh doesn't let us in")
        for result in health.results(reading, vital, known):
            current[result.subject] = states.advance(current.get(result.subject, SubjectState()), result, RULES)
            if result.subject.startswith(health.check_subject(host, "")):
                known.add(result.subject.removeprefix(health.check_subject(host, "")))
        at += RULES.interval
    if beside[0]:
        current[f"{host}/{beside[0]}"] = TROUBLES[beside[1]]
    # the services were looked at meanwhile
    for service in (probed_service.subject for other in RULES.hosts for probed_service in other.services):
        current[service] = dataclasses.replace(current[service], checked=at, seen=at)
    view = problems.judge(RULES, current, {}, (), at)
    assert not before or beside[0] or view.hosts[host].state == states.WARNING
    return {
        key: problem.severity
        for key, problem in view.problems.items()
        if not beside[0] or problem.kind in ("check", "health")
    }


def says(host: str, check: str, status: str, metrics: dict[str, Any] | None = None, **changed: Any) -> dict[str, Any]:
    record = samples.health_record(host, HOSTS[host].role, NOW, status=status, **changed)
    entry = {"status": status, "summary": "as it is", "age_seconds": 1.0, "since": NOW, "metrics": metrics or {}}
    record["checks"][check] = entry
    return {**record, "problems": [f"{check} {status}: as it is"]}


def test_all_checks_are_known_here() -> None:
    assert {
        "smtp",
        "processes",
        "load",
        "queue",
        "rejected",
        "refused",
        "quarantine",
        "backup",
        "offsite",
        "canary",
    } <= set(CHECKS)
    assert set(URGENT) <= set(CHECKS)


@pytest.mark.parametrize(("host", "service", "trouble"), BESIDE)
@pytest.mark.parametrize("check", CHECKS)
def test_what_is_critical_is_notified(check: str, host: str, service: str, trouble: str) -> None:
    urgent = check in URGENT and (check != "canary" or host == "control1")
    metrics = {"mx": 3, "overdue": 3} if check == "canary" and urgent else {"delivered": 1}
    expected = {f"check:{host}/{check}": "urgent" if urgent else "notice"}
    if check in EXPLAINED.get((service, trouble), ()):
        expected = {}
    told = notified(host, says(host, check, state.CRITICAL, metrics), 3 * RULES.interval, beside=(service, trouble))
    assert told == expected
    # nothing but the status decides, except for what stands there
    partly = {f"check:{host}/{check}": "page"} if (check, "one MX's are overdue") in PAGE_ONLY else expected
    told = notified(host, says(host, check, state.CRITICAL), 3 * RULES.interval, beside=(service, trouble))
    assert told == partly


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("check", CHECKS)
def test_what_is_not_known_is_notified_once_it_lasts(check: str, host: str) -> None:
    vital = host == "control1" and check in URGENT
    lasting = {f"health:{host}": "urgent" if vital else "notice"}
    assert notified(host, says(host, check, state.UNKNOWN)) == lasting
    shortly = notified(host, says(host, check, state.UNKNOWN), 4 * RULES.interval)
    assert shortly == (lasting if vital else {f"health:{host}": "page"})
    # one that was never heard of otherwise isn't well either
    assert notified(host, says(host, check, state.UNKNOWN), before=False) == lasting


@pytest.mark.parametrize(("host", "service", "trouble"), BESIDE)
def test_a_dead_cron_is_one_incident(host: str, service: str, trouble: str) -> None:
    record = samples.health_record(host, HOSTS[host].role, NOW, status=state.UNKNOWN)
    for entry in record["checks"].values():
        entry.update({"status": state.UNKNOWN, "summary": "last ran 12 min ago, then OK; is cron running?"})
    expected = {f"health:{host}": "urgent" if host == "control1" else "notice"}
    assert notified(host, record, beside=(service, trouble)) == expected


@pytest.mark.parametrize(("host", "service", "trouble"), BESIDE)
def test_health_that_cannot_be_read_is_notified_unless_ssh_is_down(host: str, service: str, trouble: str) -> None:
    expected = {} if service == "ssh" else {f"health:{host}": "urgent" if host == "control1" else "notice"}
    assert notified(host, None, beside=(service, trouble)) == expected


@pytest.mark.parametrize("host", HOSTS)
def test_a_complaint_without_a_check_is_notified_as_well(host: str) -> None:
    role = HOSTS[host].role
    unread = "urgent" if host == "control1" else "notice"
    assert notified(host, None) == {f"health:{host}": unread}
    lost = samples.health_record(
        host, role, NOW, status=state.UNKNOWN, checks={}, problems=["/mf/etc/mf.json is missing"]
    )
    assert notified(host, lost) == {f"health:{host}": unread}
    for status, wait in ((state.CRITICAL, 3 * RULES.interval), (state.UNKNOWN, 700.0)):
        fact = samples.health_record(host, role, NOW, status=status, problems=["the marker is lost"])
        assert notified(host, fact, wait) == {f"health:{host}": "notice"}
    held = says(host, "load", state.CRITICAL, throttled=True, refusing=True, held=True)
    assert notified(host, held, 3 * RULES.interval) == {f"health:{host}": "notice"}


def test_a_throttle_that_is_not_in_force_is_notified() -> None:
    wrong = says("mx1", "load", state.CRITICAL, throttled=True, refusing=False)
    assert notified("mx1", wrong, 3 * RULES.interval) == {"check:mx1/load": "notice"}
    throttled = says("mx1", "load", state.WARNING, throttled=True, refusing=True)
    assert notified("mx1", throttled, before=False) == {}


def test_what_is_wrong_already_hides_no_other_check() -> None:
    record = says("mx1", "queue", state.CRITICAL)
    record["checks"]["smtp"] = {**record["checks"]["queue"], "summary": "STARTTLS is broken"}
    assert notified("mx1", record, 3 * RULES.interval) == {"check:mx1/queue": "notice", "check:mx1/smtp": "notice"}
    flaps = SubjectState(states.DOWN, NOW, "full", flapping=NOW, changes=(NOW,) * 3, checked=NOW, seen=NOW)
    other = dataclasses.replace(flaps, flapping=None, changes=(), message="STARTTLS is broken")
    current = {"mx1/check-queue": flaps, "mx1/check-smtp": other, "mx1/smtp": up(), "mx1/ssh": up()}
    view = problems.judge(RULES, current, {}, (), NOW + 60)
    assert view.problems["check:mx1/queue"].title == "mx1 queue is flapping, 3 changes: full"
    assert view.problems["check:mx1/smtp"].title == "mx1: smtp CRITICAL: STARTTLS is broken"


def test_what_is_not_known_of_a_check_ends_nothing(tmp_path: Path) -> None:
    monitor = engine.Engine(dataclasses.replace(RULES, database=str(tmp_path / "m.sqlite")))
    at = NOW
    for status in (*[state.CRITICAL] * 3, *[state.UNKNOWN] * 20):
        record = hosthealth.parse(json.dumps(says("mx1", "queue", status)).encode())
        monitor.advance(monitor.subjects.ingest_health(health.Reading("mx1", at, at, record, "read")))
        at += RULES.interval
    view = problems.judge(RULES, monitor.subjects.states, {}, ("check:mx1/queue",), at)
    assert view.problems["check:mx1/queue"].severity == "notice"
    assert view.problems["health:mx1"].severity == "notice"
    monitor.recorder.close()


def test_a_vital_check_alternating_critical_and_unknown_is_one_urgent_incident(tmp_path: Path) -> None:
    monitor = engine.Engine(dataclasses.replace(RULES, database=str(tmp_path / "m.sqlite")))
    at, urgent = NOW, []
    held: set[str] = set()
    for status in [state.CRITICAL] * 4 + ([state.UNKNOWN] * 4 + [state.CRITICAL] * 4) * 3:
        record = hosthealth.parse(json.dumps(says("control1", "backup", status)).encode())
        monitor.advance(monitor.subjects.ingest_health(health.Reading("control1", at, at, record, "read")))
        view = problems.judge(RULES, monitor.subjects.states, {}, held, at)
        urgent += [key for key, problem in view.problems.items() if problem.severity == "urgent" and key not in held]
        held = {*view.problems, *view.behind}
        at += RULES.interval
    assert urgent == ["check:control1/backup"]
    monitor.recorder.close()


def test_what_the_release_before_knew_of_checks_is_known_by_its_new_name(tmp_path: Path) -> None:
    """Otherwise an upgrade would say OK of what is wrong, and then tell it again."""
    rules = dataclasses.replace(RULES, database=str(tmp_path / "m.sqlite"))
    store = Store(rules.database, now=NOW)
    down = SubjectState(states.DOWN, NOW - 900, "newest dump 2 days old", checked=NOW, seen=NOW)
    full = dataclasses.replace(down, message="queue CRITICAL: 3% of the spool's space free")
    held = dataclasses.replace(down, message="on hold: refuses mail, an operator must end it", reason=states.HELD)
    silent = SubjectState(states.WARNING, NOW - 900, "smtp UNKNOWN: last ran 12 min ago", checked=NOW, seen=NOW)
    told_before = {
        "check:control1/backup": "urgent",
        "health:mx1": "notice",
        "health:mx2": "notice",
        "health:mx3": "page",
    }
    with store.writing():
        before = {"control1/backup": down, "mx1/health": full, "mx2/health": held, "mx3/health": silent}
        store.current.set(
            (name, subject.state, subject.since, NOW, None, subject.message, subject.as_json())
            for name, subject in before.items()
        )
        for key, severity in told_before.items():
            host = key.partition(":")[2].partition("/")[0]
            number = store.incidents.open(key, key.partition(":")[0], host, "", severity, "as it was", NOW - 900)
            store.incidents.acknowledge(number, NOW, "ops", None)
    store.close()
    monitor = engine.Engine(rules, clocks=Clocks(wall=lambda: NOW))
    for _ in range(2):
        asyncio.run(monitor.recorder.stored(monitor.restore))
        assert set(monitor.incidents.open) == {"check:control1/backup", "check:mx1/queue", "health:mx2", "health:mx3"}
    assert all(incident.acked_at for incident in monitor.incidents.open.values())
    assert monitor.incidents.open["check:mx1/queue"].service == "queue"
    view = problems.judge(rules, monitor.subjects.states, {}, monitor.incidents.open, NOW)
    assert not view.behind
    assert {key: problem.severity for key, problem in view.problems.items() if key in monitor.incidents.open} == {
        "check:control1/backup": "urgent",
        "check:mx1/queue": "notice",
        "health:mx2": "notice",
        "health:mx3": "notice",
    }
    assert view.problems["check:mx1/queue"].title == "mx1: queue CRITICAL: 3% of the spool's space free"
    monitor.recorder.close()


def test_a_host_that_makes_up_checks_is_bounded(tmp_path: Path) -> None:
    monitor = engine.Engine(dataclasses.replace(RULES, database=str(tmp_path / "m.sqlite")))
    for number in range(40):
        record = samples.health_record("mx1", "mx", NOW, status=state.CRITICAL)
        entry = {**record["checks"]["queue"], "status": state.CRITICAL}
        record["checks"] = {f"c{number}_{index}": entry for index in range(40)}
        parsed = hosthealth.parse(json.dumps(record).encode())
        monitor.advance(
            monitor.subjects.ingest_health(health.Reading("mx1", NOW + number, NOW + number, parsed, "read"))
        )
    assert len(monitor.subjects.states) <= health_record.MAX_CHECKS + 1
    monitor.recorder.close()
