"""The monitor's pure decisions: states, causes, alerts, texts."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import monitor_support
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from mf_monitor import rules, settings, texts
from mf_monitor.incidents import fresh_alert
from mf_monitor.judging import complaints, problems, states
from mf_monitor.judging.states import DOWN, REFUSED, SILENT, THROTTLED, UNKNOWN, UP, WARNING, ProbeResult, SubjectState
from mf_monitor.notifying import alerts
from mf_monitor.notifying.alerts import Alert, Incident
from mf_monitor.settings import MonitorSettingsError, Settings

RULES = monitor_support.settings()
ROLE = Path(__file__).resolve().parents[2] / "roles/mf_monitor"
NOW = 1_790_000_000.0


def run(*seen: str, every: float = 10.0, reason: str = "", current: SubjectState | None = None) -> SubjectState:
    """The memory after these looks, ``every`` seconds apart."""
    found = current or SubjectState()
    for number, state in enumerate(seen):
        at = max(NOW, found.checked) + (every if found.checked or number else 0.0)
        found = states.advance(found, ProbeResult("mx1/smtp", at - 1, at, state, state, reason), RULES)
    return found


# --- states


def test_what_is_stored_keeps_its_keys() -> None:
    """An upgrade of a running monitor reads what the release before has written."""
    before = {"state": DOWN, "words": "refused", "why": REFUSED, "looks": [1.0, 2.0], "pending": UP, "checked": 9.0}
    state = SubjectState.of(before)
    assert (state.message, state.reason, state.turns, state.seen) == ("refused", REFUSED, (1.0, 2.0), 9.0)
    assert {**before, "looks": (1.0, 2.0)}.items() <= state.as_json().items()
    keys = {"told": "notice", "told_at": 1.0, "told_level": 2, "covered": True, "over_told": True, "stays_told": True}
    alert = Alert.of(keys)
    assert (alert.notified, alert.notified_at, alert.notified_level) == ("notice", 1.0, 2)
    assert alert.suppressed
    assert alert.resolution_notified
    assert alert.stays_notified
    assert keys.items() <= alert.as_json().items()


def test_the_first_look_is_believed_when_it_is_good_only() -> None:
    assert run(UP).state == UP
    assert run(DOWN).state == UNKNOWN
    assert run(DOWN, DOWN, DOWN).state == DOWN


def test_bad_news_is_believed_after_failures_in_a_row_and_dates_from_the_first() -> None:
    soft = run(UP, DOWN, DOWN)
    assert (soft.state, soft.pending, soft.count) == (UP, DOWN, 2)
    hard = run(DOWN, current=soft)
    assert (hard.state, hard.pending) == (DOWN, "")
    assert hard.since == NOW + 10 - 1


def test_a_good_look_in_between_begins_anew() -> None:
    assert run(UP, DOWN, DOWN, UP, DOWN, DOWN).state == UP


def test_good_news_needs_its_threshold() -> None:
    down = run(DOWN, DOWN, DOWN)
    assert run(UP, current=down).state == DOWN
    assert run(UP, UP, current=down).state == UP


def test_a_lease_that_was_read_is_believed_at_once() -> None:
    assert run(UP, THROTTLED).state == THROTTLED
    assert run(UP, THROTTLED, UP).state == UP


def test_health_that_could_not_be_read_once_is_no_news() -> None:
    assert run(UP, WARNING).state == WARNING
    assert run(WARNING, WARNING, reason="unread", current=run(UP)).state == UP
    assert run(WARNING, WARNING, WARNING, reason="unread", current=run(UP)).state == WARNING


def test_unknown_changes_nothing_that_is_believed() -> None:
    soft = run(UP, DOWN, DOWN)
    after = run(UNKNOWN, UNKNOWN, current=soft)
    assert (after.blind, after.checked) == (UNKNOWN, soft.checked + 20)
    assert dataclasses.replace(after, checked=soft.checked, blind="") == soft


def test_what_was_seen_too_long_ago_is_not_known() -> None:
    limit = states.patience(60, 10)
    seen = run(UP)
    assert states.shown(seen, NOW + limit, limit) == (UP, UP)
    assert states.shown(seen, NOW + limit + 1, limit) == (UNKNOWN, "not known since 14:13Z")
    vain = run(*[UNKNOWN] * 30, current=seen)
    assert states.shown(vain, vain.checked, limit) == (UNKNOWN, "not known since 14:13Z: unknown")
    # looks in vain are another thing than no looks: nobody hears of it after a restart
    assert states.blind(vain, limit) == NOW
    assert states.blind(run(*[UNKNOWN] * 2, current=seen), limit) is None
    assert states.blind(seen, 0.0) is None
    assert states.blind(run(*[UNKNOWN] * 30), limit) is not None  # never seen at all


def test_three_changes_are_flapping_and_calm_ends_it() -> None:
    once = run(UP, *[DOWN] * 3, *[UP] * 2)
    assert once.flapping is None
    again = run(*[DOWN] * 3, current=once)
    assert again.flapping == again.checked
    assert run(*[UP] * 5, current=again).flapping is not None
    calm = run(*[UP] * 10, current=again, every=RULES.flap_calm / 5)
    assert (calm.flapping, calm.state) == (None, UP)


def test_time_in_which_nothing_was_seen_is_no_calm() -> None:
    flapping = run(UP, *[DOWN] * 3, *[UP] * 2, *[DOWN] * 3, *[UP] * 2)
    assert flapping.flapping is not None
    offline = run(*[UNKNOWN] * 20, current=flapping, every=RULES.flap_calm / 10)
    assert run(UP, current=offline).flapping is not None
    assert run(UP, current=flapping, every=10 * RULES.flap_calm).flapping is not None
    assert run(*[UP] * 10, current=flapping, every=RULES.flap_calm / 9).flapping is None


def test_what_never_becomes_hard_flaps_as_well() -> None:
    found = run(UP)
    for _ in range(RULES.flap_changes):
        found = run(DOWN, UP, current=found)
    assert found.state == UP
    assert found.flapping is not None


def test_changes_that_are_far_apart_are_no_flapping() -> None:
    found = run(UP)
    for _ in range(5):
        found = run(*[DOWN] * 3, *[UP] * 2, current=found, every=RULES.flap_window / 3)
    assert found.flapping is None


def flaps(times: int, down: float, current: SubjectState | None = None) -> SubjectState:
    """It goes down and comes back this often, for ``down`` seconds each."""
    found = current or run(UP)
    for _ in range(times):
        found = run(*[DOWN] * 4, *[UP] * 4, every=down / 4, current=found)
    return found


@pytest.mark.parametrize("down", [20.0, 200.0])
def test_what_stays_down_flaps_no_more(down: float) -> None:
    found = flaps(5, down)
    assert states.wavers(found)
    began = found.checked
    while states.wavers(found):
        found = run(DOWN, current=found)
        assert found.checked - began < 600  # flap_calm
    assert found.flapping is not None  # it isn't relied on until it is calm
    # two intervals; longer than an outage before, or every turn of a slow flapping would be told
    assert 0 <= found.checked - began - max(states.STAYS * RULES.interval, states.LONGER * down) <= 30
    assert found.fell == found.since
    # back again, and down for as long again: told at its calm only
    again = run(*[DOWN] * 40, current=flaps(1, 20.0, found))
    assert states.wavers(again)
    assert not states.wavers(run(*[DOWN] * 40, current=again))


def test_slow_flapping_is_not_told_at_each_turn() -> None:
    found = run(UP)
    for _ in range(3):
        found = run(*[DOWN] * 20, current=found)
        assert found.fell == 0.0
        found = run(*[UP] * 20, current=found)
    assert states.wavers(found)


@given(st.lists(st.sampled_from([UP, DOWN, WARNING, THROTTLED, UNKNOWN]), max_size=40))
def test_a_memory_survives_its_json(seen: list[str]) -> None:
    found = run(*seen)
    assert SubjectState.of(found.as_json()) == found


# --- causes


def subjects(**special: SubjectState) -> dict[str, SubjectState]:
    """All well, but for these (``mx1_smtp=…``)."""
    good = run(UP)
    found = {service.subject: good for host in RULES.hosts for service in host.services}
    found |= {f"{host.name}/health": good for host in RULES.hosts if host.health}
    return found | {"uplink": good} | {name.replace("_", "/"): one for name, one in special.items()}


def bad(reason: str = REFUSED, state: str = DOWN) -> SubjectState:
    return run(UP, *[state] * 3, reason=reason)


def keys(found: dict[str, SubjectState], open_: Sequence[str] = (), **maintenance: Any) -> dict[str, str]:
    view = problems.judge(RULES, found, maintenance, open_, NOW + 100)
    return {key: one.severity for key, one in view.problems.items()}


def silent(host: str) -> dict[str, SubjectState]:
    down = bad(SILENT)
    return {f"{host}/{name}": down for name in ("smtp", "smtp6", "ssh", "ssh6", "relay", "relay6")}


def test_one_service_of_one_mx_is_a_notice() -> None:
    assert keys(subjects(mx2_smtp=bad())) == {"service:mx2/smtp": "notice"}


def test_a_silent_host_is_one_cause_not_five() -> None:
    assert keys(subjects() | silent("mx1")) == {"host:mx1": "notice"}


def test_silence_of_one_service_waits_for_a_look_at_the_others() -> None:
    down = bad(SILENT)
    stale = subjects(mx2_smtp=down)
    stale["mx2/ssh"] = dataclasses.replace(stale["mx2/ssh"], checked=down.since - 1)
    assert keys(stale) == {}
    fresh = subjects(mx2_smtp=down)
    fresh["mx2/ssh"] = fresh["mx2/relay"] = dataclasses.replace(fresh["mx2/ssh"], checked=down.since + 1)
    assert keys(fresh) == {"service:mx2/smtp": "notice"}


def test_a_refused_port_shows_that_the_host_is_there() -> None:
    found = subjects() | silent("mx1")
    found["mx1/ssh"] = bad(REFUSED)
    assert "host:mx1" not in keys(found)


def test_fewer_than_must_is_urgent_and_names_them() -> None:
    view = problems.judge(RULES, subjects(mx2_smtp=bad(), mx3_smtp=bad("", THROTTLED)), {}, (), NOW + 100)
    fleet = view.problems["fleet"]
    assert fleet.severity == "urgent"
    assert fleet.title == "1 of 3 MX accept mail, 2 must: mx2 down, mx3 throttled"
    assert set(fleet.about) == {"service:mx2/smtp", "throttled:mx3"}
    assert view.sentence == "Only 1 of 3 MXs accepts mail; 2 must."


def messages(role: str, rounds: int, services: Mapping[str, str], stays: int = 0) -> list[str]:
    """What is told of a host of which these fall silent and come back, some minutes each, in turn; then it is calm.

    ``stays``: it doesn't come back from the last turn for so many looks more.
    """
    smtp = {"kind": "smtp"}
    entry = {"name": "a", "role": role, "address": "192.0.2.1", "services": [{"kind": "ssh"}, smtp]}
    rules = settings.parse({"hosts": [entry], "urgent_checks": ["backup"], "channels": [{"name": "sms", "url": "x"}]})
    found = {f"a/{name}": SubjectState() for name in ("ssh", "smtp", "check-backup")}
    open_: dict[str, Incident] = {}
    ended: list[Incident] = []
    told: list[str] = []
    planned: dict[int, Alert] = {}
    now, number, calm = NOW, 0, int(2 * rules.flap_calm / 20)
    turns = [turn % 2 == 0 for turn in range(2 * rounds) for _ in range(5)]
    for bad_ in (*[False] * 3, *turns, *[True] * stays, *[False] * calm):
        for name in ("ssh", "smtp", "check-backup"):
            now += 5
            state, reason = (DOWN, services[name]) if bad_ and name in services else (UP, "")
            result = ProbeResult(f"a/{name}", now - 1, now, state, state, reason)
            found[result.subject] = states.advance(found[result.subject], result, rules)
            view = problems.judge(rules, found, {}, open_, now)
            for key, problem in view.problems.items():
                if key not in open_:
                    number += 1
                    open_[key] = incident(number, key, alert=Alert(noticed=now))
                alert = fresh_alert(planned.get(open_[key].number, open_[key].alert), problem)
                planned[open_[key].number] = alert
                open_[key] = dataclasses.replace(
                    open_[key], severity=problem.severity, title=problem.title, flapping=problem.flapping
                )
            gone = [one for one in open_ if one not in view.problems and one not in view.behind]
            ended += [dataclasses.replace(open_.pop(key), closed=now) for key in gone]
            for later in (0, 4):
                known = [
                    dataclasses.replace(
                        one, behind=one.key in view.behind and not one.closed, alert=planned.get(one.number, one.alert)
                    )
                    for one in (*open_.values(), *ended)
                ]
                plan = alerts.plan(rules, known, [], now + later)
                planned |= plan.alerts
                told += [draft.text for draft in plan.drafts if draft.kind in ("opened", "flapping", "stays", "closed")]
    return told


@pytest.mark.parametrize("many", [1, 3])
def test_the_last_mx_that_accepts_mail_is_always_urgent(many: int) -> None:
    hosts = [{"name": f"mx{one}", "role": "mx", "address": "192.0.2.1"} for one in range(many)]
    rules = settings.parse({"hosts": hosts, "min_accepting": 0})
    found = {one.subject: run(UP) for host in rules.hosts for one in host.services}
    well = problems.judge(rules, found, {}, (), NOW + 100)
    assert (well.problems, well.state) == ({}, UP)
    for left in range(many - 1, -1, -1):
        found[f"mx{left}/smtp"] = bad()
        view = problems.judge(rules, found, {}, (), NOW + 100)
        assert {key for key, one in view.problems.items() if one.severity == "urgent"} == (
            {"fleet"} if not left else set()
        )
        assert (view.state == DOWN) is (left == 0)
    assert view.sentence == ("The only MX doesn't accept mail." if many == 1 else "None of 3 MXs accept mail; 1 must.")


@pytest.mark.parametrize(
    ("services", "message"),
    [({"ssh": SILENT, "smtp": SILENT}, "a"), ({"ssh": REFUSED}, "a ssh"), ({"check-backup": "wrong"}, "a backup")],
)
def test_what_flaps_says_so_once(services: dict[str, str], message: str) -> None:
    told = messages("control", 6, services)
    assert [text.partition(": ")[0] for text in told] == ["mf URGENT", "mf OK", "mf URGENT", "mf OK"], told
    assert f"{message} is flapping, 3 changes" in told[2] or f"{message} is flapping, 6 changes" in told[2], told
    assert f"{message} well again" in told[3], told
    assert len(messages("control", 1, services)) == 2


@pytest.mark.parametrize(
    ("services", "message"),
    [
        ({"ssh": SILENT, "smtp": SILENT}, "a does not answer"),
        ({"ssh": REFUSED}, "a ssh stays down after flapping: down"),
        ({"check-backup": "wrong"}, "a backup stays CRITICAL after flapping: down"),
    ],
)
def test_the_state_in_which_flapping_ends_is_told(services: dict[str, str], message: str) -> None:
    told = messages("control", 5, services, stays=40)
    heads = [text.partition(": ")[0] for text in told]
    assert heads == ["mf URGENT", "mf OK", "mf URGENT", "mf URGENT", "mf OK"], told
    assert "is flapping" in told[2]
    assert message in told[3]
    assert told[3].rpartition("since ")[2][:5] > told[2].rpartition("since ")[2][:5]


def test_a_host_that_dies_while_a_service_flaps_is_not_flapping() -> None:
    flapping = dataclasses.replace(bad(SILENT), flapping=NOW)
    view = problems.judge(RULES, subjects() | silent("mx1") | {"mx1/ssh": flapping}, {}, ("host:mx1",), NOW + 100)
    assert view.problems["host:mx1"].title == "mx1 does not answer"


def test_what_flaps_does_not_count_as_accepting_until_it_is_calm() -> None:
    for seen in (bad(), run(UP)):
        flapping = dataclasses.replace(seen, flapping=NOW)
        assert "fleet" in keys(subjects(mx3_smtp=bad(), mx2_smtp=flapping))


@pytest.mark.parametrize(
    ("addresses", "broken", "accepts"),
    [
        ({"address": "192.0.2.1", "address6": "2001:db8::1"}, {"smtp"}, False),
        ({"address": "192.0.2.1", "address6": "2001:db8::1"}, {"smtp6", "submission", "submission6"}, True),
        ({"address": "2001:db8::1"}, {"smtp"}, False),
        ({"address": "2001:db8::1"}, {"submission"}, True),
    ],
)
def test_mail_is_accepted_at_port_25_over_ipv4(addresses: dict[str, str], broken: set[str], accepts: bool) -> None:
    smtp = [{"kind": "smtp"}, {"kind": "smtp", "name": "submission", "port": 587}]
    rules = settings.parse({"hosts": [{"name": "mx1", "role": "mx", "services": smtp, **addresses}]})
    found = {one.subject: bad() if one.name in broken else run(UP) for one in rules.hosts[0].services}
    assert problems.judge(rules, found, {}, (), NOW + 100).hosts["mx1"].accepts is accepts


def test_one_throttled_mx_is_for_the_page() -> None:
    assert keys(subjects(mx3_smtp=bad("", THROTTLED))) == {"throttled:mx3": "page"}


def test_control_is_urgent_and_others_are_a_notice() -> None:
    assert keys(subjects(control1_ssh=bad()))["service:control1/ssh"] == "urgent"
    assert keys(subjects(offsite1_ssh=bad(SILENT))) == {"host:offsite1": "notice"}
    assert keys(subjects(mx2_ssh=bad())) == {"service:mx2/ssh": "notice"}


@pytest.mark.parametrize("host", ["mx1", "control1", "offsite1", "monitor1"])
def test_what_is_not_known_of_a_host_is_a_notice_when_it_lasts(host: str) -> None:
    rules = monitor_support.settings(urgent_checks=["backup"])
    wait = complaints.NOT_KNOWN * rules.interval
    for reason in ("", "unread"):  # a dead cron; a key that ssh doesn't take any more
        found = run(WARNING, WARNING, WARNING, reason=reason, current=run(UP))
        # nobody knows whether control's data are whole: that can't wait any longer
        loud = "urgent" if host == "control1" and reason else "notice"
        for lasted, severity in ((wait - 1, "page"), (wait, loud)):
            unknown = dataclasses.replace(found, seen=found.since + lasted)
            view = problems.judge(rules, subjects() | {f"{host}/health": unknown}, {}, (), NOW + 100)
            assert {key: one.severity for key, one in view.problems.items()} == {f"health:{host}": severity}
        # a monitor that was away for a day doesn't know that it lasted
        view = problems.judge(RULES, subjects() | {f"{host}/health": found}, {}, (), NOW + 86400)
        assert view.problems[f"health:{host}"].severity == "page"


def test_a_dead_sshd_is_told_once_not_as_a_host_that_is_not_known() -> None:
    unread = run(*[WARNING] * 300, reason="unread", current=run(UP))
    assert keys(subjects(mx2_ssh=bad(), mx2_health=unread)) == {"service:mx2/ssh": "notice"}


def test_an_urgent_check_that_is_not_known_is_as_bad_as_a_failed_one() -> None:
    rules = monitor_support.settings(urgent_checks=["backup"])
    found = subjects() | {f"control1/check-{name}": bad("unread") for name in ("backup", "quarantine")}
    view = problems.judge(rules, found, {}, (), NOW + 100)
    # once, however many there are: the reason is one
    assert {key: one.severity for key, one in view.problems.items()} == {"health:control1": "urgent"}
    assert view.problems["health:control1"].title == "control1 backup: down (and 1 more)"


@pytest.mark.parametrize(
    ("open_", "hidden", "mended"),
    [
        ("service:mx2/smtp", silent("mx2"), {"mx2/smtp": run(UP)}),
        ("service:mx2/smtp", {"mx2/smtp": bad("", THROTTLED)}, {"mx2/smtp": run(UP)}),
        ("warning:mx2/smtp", {"mx2/smtp": bad()}, {"mx2/smtp": run(UP)}),
        ("throttled:mx2", {"mx2/smtp": bad()}, {"mx2/smtp": run(UP)}),
        ("health:mx2", {"mx2/smtp": bad(), "mx2/health": bad()}, {"mx2/smtp": run(UP), "mx2/health": run(UP)}),
        (
            "check:mx2/queue",
            {"mx2/smtp": bad(), "mx2/check-queue": bad()},
            {"mx2/smtp": run(UP), "mx2/check-queue": run(UP)},
        ),
        ("check:mx2/backup", silent("mx2") | {"mx2/check-backup": bad()}, {"mx2/check-backup": run(UP)}),
    ],
)
def test_what_another_cause_hides_is_not_over(
    open_: str, hidden: dict[str, SubjectState], mended: dict[str, SubjectState]
) -> None:
    rules = monitor_support.settings(urgent_checks=["backup"])
    view = problems.judge(rules, subjects() | hidden, {}, (open_,), NOW + 100)
    assert open_ not in view.problems
    assert view.behind == {open_}
    over = problems.judge(rules, subjects() | hidden | mended, {}, (open_,), NOW + 100)
    assert (open_ in over.problems, over.behind) == (False, frozenset())


def test_a_throttle_is_over_though_smtp_over_ipv6_is_down_for_long() -> None:
    found = subjects(mx1_smtp6=bad())
    assert "throttled:mx1" in keys(found | {"mx1/smtp": bad("", THROTTLED)})
    view = problems.judge(RULES, found, {}, ("throttled:mx1", "service:mx1/smtp6"), NOW + 100)
    assert (set(view.problems), view.behind) == ({"service:mx1/smtp6"}, frozenset())


def test_a_fleet_without_mxs_has_no_incident() -> None:
    rules = dataclasses.replace(RULES, hosts=tuple(host for host in RULES.hosts if host.role != "mx"))
    assert problems.judge(rules, subjects(), {}, ("fleet",), NOW + 100).behind == frozenset()


def test_enough_accept_mail_again_only_when_that_was_seen() -> None:
    found = subjects(mx3_smtp=bad()) | vain("mx2/smtp")
    view = problems.judge(RULES, found, {}, ("fleet",), NOW + 100)
    assert "fleet" not in view.problems
    assert view.behind == {"fleet"}
    assert problems.judge(RULES, subjects(mx3_smtp=bad()), {}, ("fleet",), NOW + 100).behind == frozenset()


def test_overdue_canaries_are_urgent_unless_no_mx_takes_mail_anyway() -> None:
    rules = monitor_support.settings(urgent_checks=["canary"])
    found = subjects() | {"control1/check-canary": bad()}
    view = problems.judge(rules, found, {}, (), NOW + 100)
    assert view.problems["check:control1/canary"].severity == "urgent"
    nobody = found | silent("mx1") | silent("mx2") | silent("mx3")
    assert "check:control1/canary" in problems.judge(rules, nobody, {}, (), NOW + 100).problems["fleet"].about
    some = found | silent("mx1") | silent("mx2")
    assert "check:control1/canary" not in problems.judge(rules, some, {}, (), NOW + 100).problems["fleet"].about


def test_health_is_not_mentioned_beside_a_nearer_cause() -> None:
    said = {"mx1/health": bad(), "mx1/check-queue": bad()}
    assert list(keys(subjects(mx1_smtp=bad()) | said)) == ["service:mx1/smtp"]
    told = {"check:mx1/queue": "notice", "health:mx1": "notice"}
    assert keys(subjects() | said) == told
    assert keys(subjects(mx1_ssh6=bad()) | said) == {"service:mx1/ssh6": "page", **told}


def test_what_its_own_check_says_of_a_service_just_back_is_from_before() -> None:
    back = run(UP, UP, current=bad())
    soon = back.changes[-1] + 60
    later = back.changes[-1] + complaints.LOOKS_AGAIN["smtp"] + RULES.interval + 1
    # who has a dead queue behind greets nobody, and check-queue looks every five minutes
    latest = back.changes[-1] + complaints.LOOKS_AGAIN["queue"] + RULES.interval + 1
    for check, now, told in (
        *(("smtp", soon, False), ("smtp", later, True)),
        *(("queue", soon, False), ("queue", later, False), ("queue", latest, True)),
        ("rejected", soon, True),
    ):
        # only those two are looked at here; the others were seen just now
        found = {name: dataclasses.replace(one, checked=now) for name, one in subjects().items()}
        found |= {
            "mx2/smtp": dataclasses.replace(back, checked=now),
            f"mx2/check-{check}": dataclasses.replace(bad(), checked=now),
        }
        assert (f"check:mx2/{check}" in problems.judge(RULES, found, {}, (), now).problems) is told


def test_offline_there_is_one_cause_and_what_was_open_stays() -> None:
    found = subjects(mx2_smtp=bad(), control1_ssh=bad(), uplink=bad(SILENT))
    assert set(keys(found)) == {"uplink"}
    assert set(keys(found, ["service:mx2/smtp"])) == {"uplink", "service:mx2/smtp"}


def test_maintenance_mutes_a_host_but_not_the_fleet() -> None:
    at_work = {"owner": "ops", "reason": "disk", "until": NOW + 999}
    found = subjects() | silent("mx1") | {"mx2/smtp": bad()}
    seen = keys(found, mx1=at_work)
    assert seen == {"host:mx1": "page", "service:mx2/smtp": "notice", "fleet": "urgent"}


def test_a_host_that_comes_back_stays_one_incident_for_an_interval() -> None:
    found = subjects() | silent("mx1")
    back = run(UP, UP, current=bad(SILENT))
    found["mx1/ssh"] = back
    now = back.since + RULES.interval - 1
    open_ = ["host:mx1"]
    assert set(problems.judge(RULES, found, {}, open_, now).problems) == {"host:mx1"}
    later = problems.judge(RULES, found, {}, open_, now + 5).problems
    assert "host:mx1" not in later
    assert "service:mx1/smtp" in later


def test_before_the_first_looks_nothing_is_wrong() -> None:
    view = problems.judge(RULES, {}, {}, (), NOW)
    assert view.problems == {}
    assert view.state == UNKNOWN


def vain(service: str, current: SubjectState | None = None) -> dict[str, SubjectState]:
    """Looks that saw nothing for ten minutes, up to when the view is judged."""
    found = run(*[UNKNOWN] * 60, current=current or run(UP))
    return {service: dataclasses.replace(found, seen=found.seen - 600, checked=found.checked - 600)}


@pytest.mark.parametrize("service", ["mx1/relay", "dns/mx", "control1/panel", "mx1/ssh"])
def test_what_is_looked_at_in_vain_is_not_shown_as_good(service: str) -> None:
    host = service.partition("/")[0]
    found = subjects() | vain(service)
    if service == "mx1/relay":  # every ten intervals
        found[service] = dataclasses.replace(found[service], seen=NOW - 7200)
    view = problems.judge(RULES, found, {}, (), NOW + 100)
    assert {key: one.severity for key, one in view.problems.items()} == {f"unknown:{service}": "page"}
    assert view.hosts[host].state == (UNKNOWN if service == "dns/mx" else WARNING)
    assert "not known since" in view.hosts[host].message
    assert view.state == WARNING
    assert view.sentence != "All 3 MXs accept mail. All is well."


def test_a_nearer_cause_explains_why_relaying_is_not_known() -> None:
    found = subjects(mx1_smtp=bad(), mx1_smtp6=bad()) | vain("mx1/relay")
    found["mx1/relay"] = dataclasses.replace(found["mx1/relay"], seen=NOW - 7200)
    assert set(keys(found)) == {"service:mx1/smtp", "service:mx1/smtp6"}


def test_an_mx_of_which_nothing_is_known_is_not_counted_as_accepting() -> None:
    found = subjects() | vain("mx2/smtp")
    view = problems.judge(RULES, found, {}, (), NOW + 100)
    assert (view.accepting, view.state, view.sentence) == (2, UNKNOWN, "Nothing is known at the moment of mx2.")
    assert view.hosts["mx2"].state == UNKNOWN
    assert "fleet" not in view.problems  # nor is it an alarm
    blind = problems.judge(RULES, found | vain("mx3/smtp"), {}, (), NOW + 100)
    assert blind.problems["unknown:fleet"].severity == "notice"
    assert blind.problems["unknown:fleet"].title.endswith("not known of mx2, mx3")


def test_what_is_wrong_stays_wrong_while_nothing_is_known() -> None:
    found = subjects(mx2_smtp=bad(), mx3_smtp=bad())
    later = NOW + 86400  # the monitor was away for a day
    view = problems.judge(RULES, found, {}, ("fleet",), later)
    assert view.problems["fleet"].severity == "urgent"
    assert {one.state for one in view.hosts.values()} == {UNKNOWN}
    assert (view.accepting, view.state) == (0, UNKNOWN)


def test_known_trouble_counts_before_what_is_not_known() -> None:
    found = subjects(mx2_smtp=bad(), mx3_smtp=bad()) | vain("mx1/smtp") | vain("mx1/smtp6")
    view = problems.judge(RULES, found, {}, (), NOW + 100)
    assert (view.state, view.sentence) == (DOWN, "None of 3 MXs are known to accept mail; 2 must.")


# --- alerts


def incident(number: int, key: str, severity: str = "notice", **changed: Any) -> Incident:
    kind = key.partition(":")[0]
    host = key.partition(":")[2].partition("/")[0]
    given_: dict[str, Any] = {
        "number": number,
        "key": key,
        "kind": kind,
        "host": host,
        "severity": severity,
        "title": f"{host} is broken",
        "opened": NOW - 60,
        "closed": None,
        "acked": False,
        "flapping": False,
        "alert": Alert(noticed=NOW),
    }
    return Incident(**{**given_, **changed})


class Story:
    """Plans one after the other, as the engine does."""

    def __init__(self, rules: Settings = RULES) -> None:
        self.rules = rules
        self.silences: list[dict[str, str]] = []
        self.alerts: dict[int, Alert] = {}

    def at(self, seconds: float, *incidents: Incident) -> list[alerts.Draft]:
        known = [dataclasses.replace(one, alert=self.alerts.get(one.number, one.alert)) for one in incidents]
        plan = alerts.plan(self.rules, known, self.silences, NOW + seconds)
        self.alerts |= plan.alerts
        return plan.drafts


def test_what_begins_together_is_one_message_and_is_told_once() -> None:
    story = Story()
    pair = (incident(1, "host:mx1"), incident(2, "service:mx2/smtp"))
    assert story.at(1, *pair) == []
    (draft,) = story.at(4, *pair)
    assert draft.incidents == (1, 2)
    assert "mx1 is broken; mx2 is broken" in draft.text
    assert draft.text.endswith("#1,#2")
    assert [story.at(after, *pair) for after in (5, 4000, 99999)] == [[], [], []]


def test_the_younger_go_with_the_eldest() -> None:
    story = Story()
    pair = (incident(1, "host:mx1"), incident(2, "host:mx2", alert=Alert(noticed=NOW + alerts.GROUP - 0.1)))
    (draft,) = story.at(alerts.GROUP, *pair)
    assert draft.incidents == (1, 2)
    later = incident(3, "host:mx3", alert=Alert(noticed=NOW + alerts.GROUP + 0.1))
    assert story.at(alerts.GROUP + 1, *pair, later) == []
    (second,) = story.at(2 * alerts.GROUP + 0.2, *pair, later)
    assert second.incidents == (3,)


def test_what_ends_together_is_one_message() -> None:
    story = Story()
    pair = [incident(1, "host:mx1"), incident(2, "host:mx2")]
    story.at(4, *pair)
    pair[0] = dataclasses.replace(pair[0], closed=NOW + 60)
    assert story.at(60, *pair) == []
    pair[1] = dataclasses.replace(pair[1], closed=NOW + 62.5)
    # what was never told doesn't hurry the others
    assert story.at(62.5, *pair, incident(3, "warning:mx2/smtp", "page", closed=NOW + 62.5)) == []
    (draft,) = story.at(63, *pair)
    assert draft.incidents == (1, 2)
    assert "OK: mx1 well again after" in draft.text
    assert "; mx2 well again after" in draft.text
    assert story.at(70, *pair) == []


def test_an_end_is_told_before_it_begins_anew() -> None:
    story = Story()
    one = incident(1, "host:mx1")
    story.at(4, one)
    closed = dataclasses.replace(one, closed=NOW + 60)
    assert story.at(60, closed) == []
    (over,) = story.at(61, closed, incident(2, "host:mx1", alert=Alert(noticed=NOW + 61)))
    assert (over.kind, over.incidents) == ("closed", (1,))


def test_the_end_is_told_once_and_only_if_the_beginning_was() -> None:
    story = Story()
    one = incident(1, "host:mx1")
    closed = dataclasses.replace(one, closed=NOW + 2)
    assert story.at(2, closed) == []
    story = Story()
    story.at(4, one)
    (draft,) = story.at(63, dataclasses.replace(one, closed=NOW + 60))
    assert draft.kind == "closed"
    assert "OK: mx1 well again after 2 min" in draft.text or "OK: mx1 well again after 120 s" in draft.text
    assert story.at(64, dataclasses.replace(one, closed=NOW + 60)) == []


def test_what_another_cause_hides_sends_nothing_until_it_is_really_over() -> None:
    boss = {"name": "boss", "url": "json://x", "escalation": True}
    story = Story(monitor_support.settings(channels=[boss]))
    one = incident(1, "service:control1/ssh", "urgent")
    story.at(1, one)
    behind = dataclasses.replace(one, behind=True)
    assert [story.at(after, behind) for after in (RULES.escalate_after + 9, RULES.reminder + 9)] == [[], []]
    (over,) = story.at(9999, dataclasses.replace(one, closed=NOW + 9990))
    assert "control1 ssh well again" in over.text
    assert Story().at(99, dataclasses.replace(one, behind=True)) == []


def test_well_again_is_only_what_has_nothing_else() -> None:
    host, ssh = incident(1, "host:mx1"), incident(2, "service:mx1/ssh")
    expired, smtp = incident(3, "warning:mx2/smtp"), incident(4, "service:mx2/smtp")
    slow = incident(5, "internal:slow", host="")
    for over, left, said in (
        (host, ssh, "mx1 answers again"),
        (smtp, expired, "mx2 smtp better"),
        (slow, ssh, "keeps up"),
    ):
        story = Story()
        story.at(4, over, left)
        (draft,) = story.at(63, dataclasses.replace(over, closed=NOW + 60), left)
        assert said in draft.text
        assert "well again" not in draft.text


@pytest.mark.parametrize(("key", "said"), [("host:mx9", "mx9"), ("service:mx1/imap", "mx1 imap")])
def test_what_was_taken_off_the_inventory_is_not_well_again(key: str, said: str) -> None:
    story, one = Story(), incident(1, key)
    story.at(4, one)
    (draft,) = story.at(63, dataclasses.replace(one, closed=NOW + 60))
    assert f"OK: {said} is watched no more" in draft.text


def test_the_page_gets_no_message() -> None:
    story = Story()
    one = incident(1, "throttled:mx3", "page", alert=Alert(noticed=NOW, held_since=NOW))
    assert story.at(RULES.throttled_after - 1, one) == []
    (draft,) = story.at(RULES.throttled_after, one)
    assert draft.severity == "notice"


def test_urgent_is_told_again_and_escalates_until_somebody_acknowledges() -> None:
    boss = {"name": "boss", "url": "json://x", "escalation": True}
    story = Story(monitor_support.settings(channels=[boss]))
    one = incident(1, "fleet", "urgent")
    assert [draft.kind for draft in story.at(1, one)] == ["opened"]
    assert story.at(RULES.escalate_after, one) == []
    (escalation,) = story.at(RULES.escalate_after + 2, one)
    assert escalation.escalation
    assert "ESCALATION" in escalation.text
    (reminder,) = story.at(RULES.reminder + 2, one)
    assert reminder.kind == "reminder"
    assert story.at(RULES.reminder * 5, dataclasses.replace(one, acked=True)) == []


def boss_story() -> Story:
    return Story(monitor_support.settings(channels=[{"name": "boss", "url": "json://x", "escalation": True}]))


def test_what_is_not_urgent_any_more_wakes_nobody_until_it_is_again() -> None:
    story, one = boss_story(), incident(1, "check:control1/backup", "urgent")
    story.at(1, one)
    calm = dataclasses.replace(one, severity="page")  # maintenance, or a warning by now
    assert [story.at(after, calm) for after in (RULES.escalate_after + 9, RULES.reminder + 9)] == [[], []]
    again = RULES.reminder + 99
    assert [draft.kind for draft in story.at(again, one)] == ["reminder"]
    assert [draft.kind for draft in story.at(again + RULES.escalate_after, one)] == ["escalation"]


def test_whom_it_was_escalated_to_learns_that_it_is_over() -> None:
    story, one = boss_story(), incident(1, "fleet", "urgent")
    story.at(1, one)
    story.at(RULES.escalate_after + 2, one)
    over = story.at(9999, dataclasses.replace(one, closed=NOW + 9990))
    assert [(draft.kind, draft.escalation) for draft in over] == [("closed", False), ("closed", True)]
    story = boss_story()
    story.at(1, one)
    assert [draft.escalation for draft in story.at(99, dataclasses.replace(one, closed=NOW + 90))] == [False]


def test_after_an_acknowledgement_ran_out_somebody_has_as_long_again() -> None:
    story, one = boss_story(), incident(1, "fleet", "urgent")
    story.at(1, one)
    ended = RULES.escalate_after * 2
    assert story.at(ended - 1, dataclasses.replace(one, acked=True)) == []
    lapsed = dataclasses.replace(one, ack_ended=NOW + ended)
    assert story.at(ended + RULES.escalate_after - 1, lapsed) == []
    (escalation,) = story.at(ended + RULES.escalate_after, lapsed)
    assert "nobody acknowledged for 10 min" in escalation.text
    # and so it is with one that had been escalated before
    later = dataclasses.replace(one, ack_ended=NOW + ended * 2)
    kinds = [[draft.kind for draft in story.at(ended * 2 + RULES.escalate_after + after, later)] for after in (-1, 0)]
    assert ["escalation" in one for one in kinds] == [False, True]


def test_that_it_can_see_again_is_not_that_all_is_well() -> None:
    unseen = incident(1, "unknown:fleet", host="")
    fleet = incident(2, "fleet", "urgent", alert=Alert(noticed=NOW + 60))
    story = Story()
    story.at(4, unseen)
    over = dataclasses.replace(unseen, closed=NOW + 60)
    assert [draft.kind for draft in story.at(64, over, fleet)] == ["opened"]
    story = Story()
    story.at(4, unseen)
    (draft,) = story.at(64, over)
    assert "sees again after 2 min that enough MX accept mail" in draft.text


def test_what_an_operator_has_acknowledged_before_escalates_no_more() -> None:
    boss = {"name": "boss", "url": "json://x", "escalation": True}
    story = Story(monitor_support.settings(channels=[boss]))
    one = incident(1, "fleet", "urgent")
    story.at(1, one)
    assert story.at(RULES.escalate_after + 9, dataclasses.replace(one, acked=True)) == []


def test_the_fleets_message_speaks_for_its_members() -> None:
    story = Story()
    member = incident(1, "service:mx2/smtp")
    fleet = incident(2, "fleet", "urgent", alert=Alert(noticed=NOW, about=("service:mx2/smtp",)))
    (draft,) = story.at(4, member, fleet)
    assert draft.incidents == (2,)
    (over,) = story.at(63, member, dataclasses.replace(fleet, closed=NOW + 60))
    assert "still wrong: mx2" in over.text
    (end,) = story.at(93, dataclasses.replace(member, closed=NOW + 90))
    assert "mx2 smtp well again" in end.text


def test_what_is_urgent_beneath_the_fleets_stays_so_and_is_not_told_twice() -> None:
    story = Story()
    member = incident(1, "check:control1/canary", "urgent")
    fleet = incident(2, "fleet", "urgent", alert=Alert(noticed=NOW, about=("check:control1/canary",)))
    story.at(1, member, fleet)
    (over,) = story.at(63, member, dataclasses.replace(fleet, closed=NOW + 60))
    assert "still wrong: control1" in over.text
    assert story.at(64, member) == []
    (reminder,) = story.at(63 + RULES.reminder, member)
    assert reminder.kind == "reminder"


def test_what_an_acknowledged_or_silenced_fleet_does_not_speak_for_is_told() -> None:
    fleet = incident(2, "fleet", "urgent", alert=Alert(noticed=NOW, about=("service:mx1/smtp", "service:mx2/smtp")))
    for silences, acked in (([{"pattern": "fleet"}], False), ([], True)):
        story = Story()
        story.silences = silences
        one = dataclasses.replace(fleet, acked=acked)
        (draft,) = story.at(4, incident(1, "service:mx1/smtp"), one)
        assert draft.incidents == (1,)


def test_a_higher_severity_is_told_though_the_lower_one_was_acknowledged() -> None:
    story = Story()
    assert story.at(4, incident(1, "check:control1/backup", "page", acked=True)) == []
    worse = incident(1, "check:control1/backup", "urgent", acked=True, alert=story.alerts[1])
    assert alerts.plan(RULES, [worse], [], NOW + 10).void == {1}
    (draft,) = story.at(10, worse)
    assert (draft.kind, draft.severity) == ("opened", "urgent")
    # who acknowledged what is urgent already isn't asked again, whatever it was called meanwhile
    for severity in ("page", "urgent"):
        told = incident(1, "check:control1/backup", severity, acked=True, alert=story.alerts[1])
        assert alerts.plan(RULES, [told], [], NOW + 20).void == set()
        assert story.at(20, told) == []


def test_fewer_still_is_told_anew_and_voids_the_acknowledgement() -> None:
    def at(level: int, acked: bool = False) -> Incident:
        alert = dataclasses.replace(story.alerts.get(3, Alert(noticed=NOW)), level=level)
        story.alerts[3] = alert
        return incident(3, "fleet", "urgent", title=f"{level} of 3 MX accept mail", acked=acked, alert=alert)

    story = Story()
    (first,) = story.at(4, at(1))
    assert "1 of 3" in first.text
    assert story.at(10, at(1, acked=True)) == []
    worse = at(0, acked=True)
    assert alerts.plan(RULES, [worse], [], NOW + 20).void == {3}
    assert story.at(20, worse) == []  # noticed just now
    (second,) = story.at(21, at(0))
    assert "0 of 3" in second.text
    assert [story.at(after, at(level)) for after, level in ((30, 1), (40, 0))] == [[], []]


def test_a_certificate_is_told_at_each_of_its_days_once() -> None:
    """From looks to messages, every half a day until it is renewed."""
    story = Story()
    told = []
    for half in range(32, -3, -1):
        left, now = half / 2 * 86400, NOW - half / 2 * 86400
        warns = left < RULES.cert_warning_days * 86400
        reason, message = (states.EXPIRED if left <= 0 else ""), f"certificate expires in {half / 2:g} days"
        result = ProbeResult("mx2/smtp", now - 1, now, WARNING if warns else UP, message, reason, expires=NOW)
        current = states.advance(run(UP), result, RULES)
        view = problems.judge(RULES, subjects(mx2_smtp=current), {}, (), now)
        for problem in view.problems.values():
            alert = fresh_alert(story.alerts.get(1, Alert(noticed=now)), problem)
            story.alerts[1] = Alert.of(json.loads(json.dumps(alert.as_json())))  # a kill -9 in between
            one = incident(1, problem.key, problem.severity, title=problem.title)
            for later in (0, alerts.GROUP + 1):
                told += [(half / 2, draft.severity) for draft in story.at(now - NOW + later, one)]
    assert told == [(10.0, "notice"), (3.0, "notice"), (0.0, "notice")]


def test_silence_is_by_pattern() -> None:
    story = Story()
    story.silences = [{"pattern": "*:mx1*"}]
    (draft,) = story.at(4, incident(1, "host:mx1"), incident(2, "host:mx10x"), incident(3, "host:mx2"))
    assert draft.incidents == (3,)


def test_flapping_is_said_once() -> None:
    story = Story()
    one = incident(1, "service:mx1/smtp")
    story.at(4, one)
    flaps = dataclasses.replace(one, flapping=True, title="mx1 smtp is flapping")
    (draft,) = story.at(9, flaps)
    assert draft.kind == "flapping"
    assert [story.at(after, flaps) for after in (10, 500)] == [[], []]


def test_what_grows_worse_is_told_anew() -> None:
    story = Story()
    one = incident(1, "host:control1")
    story.at(4, one)
    (draft,) = story.at(30, dataclasses.replace(one, severity="urgent"))
    assert draft.severity == "urgent"


def test_offline_is_told_afterwards() -> None:
    story = Story()
    one = incident(1, "uplink")
    assert story.at(50, one) == []
    (draft,) = story.at(63, dataclasses.replace(one, closed=NOW + 60))
    assert "monitor1 was offline for" in draft.text


# --- texts

GSM = set("@$_!\"#%&'()*+,-./0123456789:;<=>?ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz ")


@given(st.text(max_size=400), st.integers(4, 160))
def test_every_text_is_plain_gsm_within_its_limit(message: str, limit: int) -> None:
    made = texts.gsm7(message, limit)
    assert len(made) <= limit
    assert set(made) <= GSM


@given(st.text(max_size=40), st.lists(st.text(min_size=1, max_size=200), min_size=1, max_size=12), st.text(max_size=80))
def test_a_message_is_one_sms_even_as_a_repeat(name: str, titles: list[str], tail: str) -> None:
    made = texts.REPEAT + texts.compose(name, "ESCALATION", titles, tail)
    assert len(made) <= texts.LIMIT
    assert set(made) <= GSM


@given(st.integers(2, 50_000), st.integers(1, 120), st.sampled_from(["", "URGENT", "ESCALATION", "OK"]))
def test_what_does_not_fit_is_counted(many: int, length: int, mark: str) -> None:
    titles = [f"{number} ".ljust(length, "x") for number in range(many)]
    made = texts.REPEAT + texts.compose("a fleet of some name", mark, titles, "nobody acknowledged for 9 min #1,#2,#3+")
    assert len(made) <= texts.LIMIT
    shown = made.partition(": ")[2].partition(": ")[2].partition(" nobody")[0].split("; ")
    counted = int(shown.pop()[1:-5]) if shown[-1].endswith(" more") else 0
    assert len(shown) + counted == many


def test_the_tail_stays_when_titles_are_cut() -> None:
    made = texts.compose("mf", "URGENT", ["x" * 300, "y" * 300, "z" * 300], "since 12:03Z #7")
    assert made.startswith("mf URGENT: xxx")
    assert made.endswith("since 12:03Z #7")
    assert "+2 more" in made


def test_hosts_are_named_when_their_titles_do_not_fit() -> None:
    hosts = ["control1", "offsite1", "mx1", "mx1"]
    titles = [f"{host} says: {'load UNKNOWN: last ran 5 min ago, then OK; ' * 2}" for host in hosts]
    made = texts.compose("mf", "", titles, "since 00:56Z #3,#4,#5+", hosts)
    assert made.endswith("; also offsite1, mx1 since 00:56Z #3,#4,#5+")


def test_two_titles_that_fit_when_cut_are_both_there() -> None:
    titles = [f"{host} {'x' * 70}" for host in ("control1", "offsite1")]
    made = texts.compose("mf", "", titles, "since 00:56Z #3,#4")
    assert "; offsite1 xxx" in made
    assert "more" not in made


# --- settings


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"interval": 0}, "interval must be a number"),
        ({"bogus": 1}, "'bogus' is no setting"),
        ({"test_at": "someday"}, "test_at"),
        ({"cert_notice_days": [10, 0]}, "cert_notice_days must be a list of days"),
        ({"cert_notice_days": "10"}, "cert_notice_days must be a list of days"),
        ({"failures": 2.5}, "failures must be a whole number"),
        ({"references": ["nowhere"]}, "is not address:port"),
        ({"references": "192.0.2.1:53"}, "references must be a list of texts"),
        ({"resolvers": ["resolver"]}, "'resolver' is not an IP address"),
        ({"heartbeat": "switch.example"}, "heartbeat must be an http"),
        ({"relay_sender": "a b@c"}, "relay_sender must be an address"),
        ({"relay_recipient": ""}, "relay_recipient must be an address"),
        ({"relay_recipient": "me@Filter.example", "domains": ["filter.example"]}, "is our own, not a stranger"),
        ({"health": {"user": "u"}}, "health must have the texts"),
        ({"channels": [{"url": "x"}]}, "a channel has no name"),
        ({"channels": [{"name": "sms"}]}, "channel 'sms' has no url"),
        ({"channels": [{"name": "sms", "url": "x", "colour": 1}]}, "'colour' is no option"),
        ({"channels": [{"name": "sms", "url": "x", "sms": "yes"}]}, "sms must be true or false"),
        ({"channels": [{"name": "sms", "url": "x"}] * 2}, "two channels have the same name"),
        ({"channels": [{"name": "sms", "url": "x", "second": "mail"}]}, "names 'mail' as its second, which is none"),
        ({"channels": [{"name": "sms", "url": "x", "second": "sms"}]}, "which is itself"),
        ({"channels": [{"name": "sms", "url": "x", "severities": ["loud"]}]}, "unknown severity, 'loud'"),
        ({"channels": [{"name": "sms", "url": "x", "severities": []}]}, "channel 'sms' would tell nothing"),
        ({"channels": [{"name": "sms", "url": "x", "severities": ["page"]}]}, "unknown severity, 'page'; there are"),
        ({"hosts": [{"name": "a", "adress": "192.0.2.1"}]}, "'adress' is nothing a host has"),
        ({"hosts": [{"name": "a", "services": [{"kind": "ssh"}]}]}, "it has no address"),
        ({"hosts": [{"name": "a", "address6": "nowhere"}]}, "is not an IP address"),
        ({"hosts": [{"name": "a", "services": ["ssh"]}]}, "services of a must be a list of objects"),
        ({"hosts": [{"name": "a", "services": [{"kind": "ssh", "port": "22"}]}]}, "port must be a whole number"),
        ({"hosts": [{"name": "a", "services": [{"kind": "smtp", "starttls": "yes"}]}]}, "starttls must be optional"),
        ({"hosts": [{"name": "a", "services": [{"kind": "http", "path": "x"}]}]}, "path must be a path"),
        ({"hosts": [{"name": "a", "services": [{"kind": "relay", "sender": "x\r\n@y"}]}]}, "sender must be an address"),
        ({"hosts": [{"name": "a", "address": "a", "services": [{"kind": "ssh", "name": "health"}]}]}, "this name"),
        ({"hosts": [{"name": "a", "address": "a", "services": [{"kind": "ssh", "name": "check-x"}]}]}, "this name"),
        ({"hosts": [{"name": "a", "services": [{"kind": "telnet"}]}]}, "kind 'telnet'"),
        ({"hosts": [{"name": "a", "services": [{"kind": "tcp"}]}]}, "port is missing"),
        ({"hosts": [{"name": "a", "services": [{"kind": "ssh", "pørt": 1}]}]}, "is no option"),
        ({"hosts": [{"name": "a", "address": "192.0.2.1"}] * 2}, "two hosts have the same name"),
        ({"hosts": "mx1"}, "hosts must be a list of objects"),
    ],
)
def test_wrong_settings_are_one_clear_line(changed: dict[str, Any], said: str) -> None:
    with pytest.raises(MonitorSettingsError) as caught:
        settings.parse(monitor_support.raw_settings(**changed))
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_ansible_knows_the_options_of_a_service_and_of_a_channel() -> None:
    specs = yaml.safe_load((ROLE / "meta/argument_specs.yml").read_text())["argument_specs"]
    service = specs["services"]["options"]["mf_services"]["options"]
    # the DNS is asked for mf_domains: no service of a host
    kinds = {kind: options for kind, options in rules.KINDS.items() if kind != "mx"}
    assert set(service["kind"]["choices"]) == set(kinds)
    assert set(service) == {"kind", "name", "address", "interval"}.union(*kinds.values())
    channel = specs["main"]["options"]["mf_monitor_channels"]["options"]
    assert set(channel) == {field.name for field in dataclasses.fields(settings.Channel)}
    assert channel["severities"]["choices"] == list(settings.SEVERITIES)


def test_services_by_role_where_none_are_said() -> None:
    hosts = [
        {"name": "a", "role": "mx", "address": "192.0.2.1", "address6": "2001:db8::1", "mx_name": "A.example"},
        {"name": "b", "role": "control", "address": "192.0.2.2"},
        {"name": "c", "role": "offsite", "address": "192.0.2.3", "services": []},
    ]
    found = settings.parse({"hosts": hosts, "domains": ["customer.example"]})
    assert [[service.name for service in host.services] for host in found.hosts] == [
        ["customer.example"],
        ["smtp", "smtp6", "ssh", "ssh6", "relay", "relay6"],
        ["ssh"],
        [],
    ]
    assert found.hosts[0].services[0].options["expect"] == {"a.example": ["192.0.2.1", "2001:db8::1"]}


def test_a_channel_takes_all_unless_it_stands_behind_another() -> None:
    boss, chat = {"name": "boss", "url": "x", "escalation": True}, {"name": "chat", "url": "x"}
    sms = {"name": "sms", "url": "x", "second": "chat"}
    found = settings.parse({"channels": [sms, boss, chat]}).channels
    assert [one.severities for one in found] == [settings.SEVERITIES, (), ()]


def test_a_channels_url_is_not_shown() -> None:
    found = settings.parse({"channels": [{"name": "sms", "url": "secret://token", "severities": ["urgent"]}]})
    assert "token" not in repr(found)
