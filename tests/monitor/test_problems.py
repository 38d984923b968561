"""Root causes from the states of all subjects: one problem each, with its severity."""

from __future__ import annotations

import dataclasses

import pytest
from mf_monitor import settings
from mf_monitor.judging import complaints, problems
from mf_monitor.judging.states import DOWN, REFUSED, SILENT, THROTTLED, UNKNOWN, UNREAD, UP, WARNING, SubjectState

from tests.monitor import samples
from tests.monitor.conftest import NOW, RULES, bad, keys, run, silent, subjects


def test_one_service_of_one_mx_is_a_notice() -> None:
    assert keys(subjects(mx2_smtp=bad())) == {"service:mx2/smtp": "notice"}


def test_a_silent_host_is_one_problem_not_five() -> None:
    assert keys(subjects() | silent("mx1")) == {"host:mx1": "notice"}


def test_silence_of_one_service_waits_for_probes_of_the_others() -> None:
    down = bad(SILENT)
    stale = subjects(mx2_smtp=down)
    stale["mx2/ssh"] = dataclasses.replace(stale["mx2/ssh"], checked=down.since - 1)
    assert keys(stale) == {}
    fresh = subjects(mx2_smtp=down)
    fresh["mx2/ssh"] = fresh["mx2/relay"] = dataclasses.replace(fresh["mx2/ssh"], checked=down.since + 1)
    assert keys(fresh) == {"service:mx2/smtp": "notice"}


def test_a_refused_port_shows_that_the_host_is_there() -> None:
    current = subjects() | silent("mx1")
    current["mx1/ssh"] = bad(REFUSED)
    assert "host:mx1" not in keys(current)


def test_fewer_than_must_is_urgent_and_names_them() -> None:
    view = problems.judge(RULES, subjects(mx2_smtp=bad(), mx3_smtp=bad("", THROTTLED)), {}, (), NOW + 100)
    fleet = view.problems["fleet"]
    assert fleet.severity == "urgent"
    assert fleet.title == "1 of 3 MX accept mail, 2 must: mx2 down, mx3 throttled"
    assert set(fleet.about) == {"service:mx2/smtp", "throttled:mx3"}
    assert view.sentence == "Only 1 of 3 MXs accepts mail; 2 must."


@pytest.mark.parametrize("many", [1, 3])
def test_the_last_mx_that_accepts_mail_is_always_urgent(many: int) -> None:
    hosts = [{"name": f"mx{number}", "role": "mx", "address": "192.0.2.1"} for number in range(many)]
    rules = settings.parse({"hosts": hosts, "min_accepting": 0})
    current = {service.subject: run(UP) for host in rules.hosts for service in host.services}
    well = problems.judge(rules, current, {}, (), NOW + 100)
    assert (well.problems, well.state) == ({}, UP)
    for left in range(many - 1, -1, -1):
        current[f"mx{left}/smtp"] = bad()
        view = problems.judge(rules, current, {}, (), NOW + 100)
        assert {key for key, problem in view.problems.items() if problem.severity == "urgent"} == (
            {"fleet"} if not left else set()
        )
        assert (view.state == DOWN) is (left == 0)
    assert view.sentence == ("The only MX doesn't accept mail." if many == 1 else "None of 3 MXs accept mail; 1 must.")


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
    current = {service.subject: bad() if service.name in broken else run(UP) for service in rules.hosts[0].services}
    assert problems.judge(rules, current, {}, (), NOW + 100).hosts["mx1"].accepts is accepts


def test_one_throttled_mx_is_for_the_page() -> None:
    assert keys(subjects(mx3_smtp=bad("", THROTTLED))) == {"throttled:mx3": "page"}


def test_control_is_urgent_and_others_are_a_notice() -> None:
    assert keys(subjects(control1_ssh=bad()))["service:control1/ssh"] == "urgent"
    assert keys(subjects(offsite1_ssh=bad(SILENT))) == {"host:offsite1": "notice"}
    assert keys(subjects(mx2_ssh=bad())) == {"service:mx2/ssh": "notice"}


@pytest.mark.parametrize("host", ["mx1", "control1", "offsite1", "monitor1"])
def test_what_is_not_known_of_a_host_is_a_notice_when_it_lasts(host: str) -> None:
    rules = samples.settings(urgent_checks=["backup"])
    wait = complaints.NOT_KNOWN * rules.interval
    for reason in ("", "unread"):  # a dead cron; a key that ssh doesn't take any more
        current = run(WARNING, WARNING, WARNING, reason=reason, current=run(UP))
        # it isn't known whether control's data are whole: that can't wait any longer
        loud = "urgent" if host == "control1" and reason else "notice"
        for lasted, severity in ((wait - 1, "page"), (wait, loud)):
            unknown = dataclasses.replace(current, seen=current.since + lasted)
            view = problems.judge(rules, subjects() | {f"{host}/health": unknown}, {}, (), NOW + 100)
            assert {key: problem.severity for key, problem in view.problems.items()} == {f"health:{host}": severity}
        # a monitor that was away for a day doesn't know that it lasted
        view = problems.judge(RULES, subjects() | {f"{host}/health": current}, {}, (), NOW + 86400)
        assert view.problems[f"health:{host}"].severity == "page"


def test_a_dead_sshd_is_notified_once_not_as_a_host_that_is_not_known() -> None:
    unread = run(*[WARNING] * 300, reason="unread", current=run(UP))
    assert keys(subjects(mx2_ssh=bad(), mx2_health=unread)) == {"service:mx2/ssh": "notice"}


def test_an_urgent_check_that_is_not_known_is_as_bad_as_a_failed_one() -> None:
    rules = samples.settings(urgent_checks=["backup"])
    current = subjects() | {f"control1/check-{name}": bad("unread") for name in ("backup", "quarantine")}
    view = problems.judge(rules, current, {}, (), NOW + 100)
    # once, however many there are: the reason is one
    assert {key: problem.severity for key, problem in view.problems.items()} == {"health:control1": "urgent"}
    assert view.problems["health:control1"].title == "control1 backup: down (and 1 more)"


@pytest.mark.parametrize(
    ("open_", "hidden", "mended"),
    [
        ("service:mx2/smtp", silent("mx2"), {"mx2/smtp": run(UP)}),
        ("service:mx2/smtp", {"mx2/smtp": bad("", THROTTLED)}, {"mx2/smtp": run(UP)}),
        ("warning:mx2/smtp", {"mx2/smtp": bad()}, {"mx2/smtp": run(UP)}),
        ("throttled:mx2", {"mx2/smtp": bad()}, {"mx2/smtp": run(UP)}),
        ("health:mx2", {"mx2/ssh": bad(), "mx2/health": bad(UNREAD)}, {"mx2/ssh": run(UP), "mx2/health": run(UP)}),
        (
            "check:mx2/smtp",
            {"mx2/smtp": bad(), "mx2/check-smtp": bad()},
            {"mx2/smtp": run(UP), "mx2/check-smtp": run(UP)},
        ),
        ("check:mx2/backup", silent("mx2") | {"mx2/check-backup": bad()}, {"mx2/check-backup": run(UP)}),
    ],
)
def test_a_suppressed_problem_is_not_over(
    open_: str, hidden: dict[str, SubjectState], mended: dict[str, SubjectState]
) -> None:
    rules = samples.settings(urgent_checks=["backup"])
    view = problems.judge(rules, subjects() | hidden, {}, (open_,), NOW + 100)
    assert open_ not in view.problems
    assert view.behind == {open_}
    over = problems.judge(rules, subjects() | hidden | mended, {}, (open_,), NOW + 100)
    assert (open_ in over.problems, over.behind) == (False, frozenset())


def test_a_throttle_is_over_though_smtp_over_ipv6_is_down_for_long() -> None:
    current = subjects(mx1_smtp6=bad())
    assert "throttled:mx1" in keys(current | {"mx1/smtp": bad("", THROTTLED)})
    view = problems.judge(RULES, current, {}, ("throttled:mx1", "service:mx1/smtp6"), NOW + 100)
    assert (set(view.problems), view.behind) == ({"service:mx1/smtp6"}, frozenset())


def test_a_fleet_without_mxs_has_no_incident() -> None:
    rules = dataclasses.replace(RULES, hosts=tuple(host for host in RULES.hosts if host.role != "mx"))
    assert problems.judge(rules, subjects(), {}, ("fleet",), NOW + 100).behind == frozenset()


def test_enough_accept_mail_again_only_when_that_was_seen() -> None:
    current = subjects(mx3_smtp=bad()) | vain("mx2/smtp")
    view = problems.judge(RULES, current, {}, ("fleet",), NOW + 100)
    assert "fleet" not in view.problems
    assert view.behind == {"fleet"}
    assert problems.judge(RULES, subjects(mx3_smtp=bad()), {}, ("fleet",), NOW + 100).behind == frozenset()


def test_overdue_canaries_are_urgent_unless_no_mx_takes_mail_anyway() -> None:
    rules = samples.settings(urgent_checks=["canary"])
    current = subjects() | {"control1/check-canary": bad()}
    view = problems.judge(rules, current, {}, (), NOW + 100)
    assert view.problems["check:control1/canary"].severity == "urgent"
    none = current | silent("mx1") | silent("mx2") | silent("mx3")
    assert "check:control1/canary" in problems.judge(rules, none, {}, (), NOW + 100).problems["fleet"].about
    some = current | silent("mx1") | silent("mx2")
    assert "check:control1/canary" not in problems.judge(rules, some, {}, (), NOW + 100).problems["fleet"].about


def test_a_complaint_is_not_mentioned_beside_its_cause() -> None:
    own = {"mx1/health": bad(), "mx1/check-smtp": bad(), "mx1/check-queue": bad(), "mx1/check-rejected": bad()}
    notified = dict.fromkeys(("check:mx1/smtp", "check:mx1/queue", "check:mx1/rejected", "health:mx1"), "notice")
    assert keys(subjects() | own) == notified
    assert keys(subjects(mx1_ssh6=bad()) | own) == {"service:mx1/ssh6": "page", **notified}
    assert keys(subjects() | silent("mx1") | own) == {"host:mx1": "notice"}
    # the first probe of SMTP that fails, and one that finds the queue dead
    left = {"check:mx1/rejected": "notice", "health:mx1": "notice"}
    assert keys(subjects(mx1_smtp=run(UP, DOWN, reason=REFUSED)) | own) == left
    no_queue = dataclasses.replace(bad(), message=f"{complaints.NO_QUEUE}: 4.3.2 the queue behind takes no mail now")
    assert keys(subjects(mx1_smtp=no_queue) | own) == {"service:mx1/smtp": "notice", **left}


@pytest.mark.parametrize("check", ["load", "queue", "rejected", "smtp"])
def test_a_flapping_host_hides_its_complaints(check: str) -> None:
    flaps = run(UP, *([DOWN] * 3 + [UP] * 2) * 3, reason=SILENT)
    current = subjects() | dict.fromkeys(silent("mx1"), flaps)
    assert set(keys(current | {f"mx1/check-{check}": bad(), "mx1/health": bad()}, ["host:mx1"])) == {"host:mx1"}


def test_an_old_check_result_of_a_recovered_service_is_ignored() -> None:
    back = run(UP, UP, current=bad())
    soon = back.changes[-1] + 60
    later = back.changes[-1] + complaints.RUNS_AGAIN["smtp"] + RULES.interval + 1
    # an MX with a dead queue does not greet, and check-queue runs every five minutes
    latest = back.changes[-1] + complaints.RUNS_AGAIN["queue"] + RULES.interval + 1
    for check, now, notified in (
        *(("smtp", soon, False), ("smtp", later, True)),
        *(("queue", soon, False), ("queue", later, False), ("queue", latest, True)),
        ("rejected", soon, True),
    ):
        # only those two are looked at here; the others were seen just now
        current = {name: dataclasses.replace(subject, checked=now) for name, subject in subjects().items()}
        current |= {
            "mx2/smtp": dataclasses.replace(back, checked=now),
            f"mx2/check-{check}": dataclasses.replace(bad(), checked=now),
        }
        assert (f"check:mx2/{check}" in problems.judge(RULES, current, {}, (), now).problems) is notified


def test_health_is_read_again_before_it_is_notified_that_it_cannot_be() -> None:
    back = run(UP, UP, current=bad())
    unread = dataclasses.replace(bad(UNREAD, WARNING), since=NOW - 9999)
    for later, notified in ((RULES.interval, False), (RULES.interval + complaints.READS + 1, True)):
        now = back.changes[-1] + later
        current = subjects(mx2_ssh=back) | {"mx2/health": unread}
        assert ("health:mx2" in problems.judge(RULES, current, {}, (), now).problems) is notified


def test_offline_there_is_one_problem_and_open_incidents_stay() -> None:
    current = subjects(mx2_smtp=bad(), control1_ssh=bad(), uplink=bad(SILENT))
    assert set(keys(current)) == {"uplink"}
    assert set(keys(current, ["service:mx2/smtp"])) == {"uplink", "service:mx2/smtp"}


def test_maintenance_mutes_a_host_but_not_the_fleet() -> None:
    at_work = problems.Maintenance("ops", "disk", NOW + 999)
    current = subjects() | silent("mx1") | {"mx2/smtp": bad()}
    severities = keys(current, mx1=at_work)
    assert severities == {"host:mx1": "page", "service:mx2/smtp": "notice", "fleet": "urgent"}


def test_a_host_that_comes_back_stays_one_incident_for_an_interval() -> None:
    current = subjects() | silent("mx1")
    back = run(UP, UP, current=bad(SILENT))
    current["mx1/ssh"] = back
    now = back.since + RULES.interval - 1
    open_ = ["host:mx1"]
    assert set(problems.judge(RULES, current, {}, open_, now).problems) == {"host:mx1"}
    later = problems.judge(RULES, current, {}, open_, now + 5).problems
    assert "host:mx1" not in later
    assert "service:mx1/smtp" in later


def test_before_the_first_probes_nothing_is_wrong() -> None:
    view = problems.judge(RULES, {}, {}, (), NOW)
    assert view.problems == {}
    assert view.state == UNKNOWN


def vain(service: str, current: SubjectState | None = None) -> dict[str, SubjectState]:
    """Looks that saw nothing for ten minutes, up to when the view is judged."""
    current = run(*[UNKNOWN] * 60, current=current or run(UP))
    return {service: dataclasses.replace(current, seen=current.seen - 600, checked=current.checked - 600)}


@pytest.mark.parametrize("service", ["mx1/relay", "dns/mx", "control1/panel", "mx1/ssh"])
def test_what_is_probed_in_vain_is_not_shown_as_good(service: str) -> None:
    host = service.partition("/")[0]
    current = subjects() | vain(service)
    if service == "mx1/relay":  # every ten intervals
        current[service] = dataclasses.replace(current[service], seen=NOW - 7200)
    view = problems.judge(RULES, current, {}, (), NOW + 100)
    assert {key: problem.severity for key, problem in view.problems.items()} == {f"unknown:{service}": "page"}
    assert view.hosts[host].state == (UNKNOWN if service == "dns/mx" else WARNING)
    assert "not known since" in view.hosts[host].message
    assert view.state == WARNING
    assert view.sentence != "All 3 MXs accept mail. All is well."


def test_a_nearer_problem_explains_why_relaying_is_not_known() -> None:
    current = subjects(mx1_smtp=bad(), mx1_smtp6=bad()) | vain("mx1/relay")
    current["mx1/relay"] = dataclasses.replace(current["mx1/relay"], seen=NOW - 7200)
    assert set(keys(current)) == {"service:mx1/smtp", "service:mx1/smtp6"}


def test_an_mx_of_which_nothing_is_known_is_not_counted_as_accepting() -> None:
    current = subjects() | vain("mx2/smtp")
    view = problems.judge(RULES, current, {}, (), NOW + 100)
    assert (view.accepting, view.state, view.sentence) == (2, UNKNOWN, "Nothing is known at the moment of mx2.")
    assert view.hosts["mx2"].state == UNKNOWN
    assert "fleet" not in view.problems  # nor is it an alarm
    blind = problems.judge(RULES, current | vain("mx3/smtp"), {}, (), NOW + 100)
    assert blind.problems["unknown:fleet"].severity == "notice"
    assert blind.problems["unknown:fleet"].title.endswith("not known of mx2, mx3")


def test_what_is_wrong_stays_wrong_while_nothing_is_known() -> None:
    current = subjects(mx2_smtp=bad(), mx3_smtp=bad())
    later = NOW + 86400  # the monitor was away for a day
    view = problems.judge(RULES, current, {}, ("fleet",), later)
    assert view.problems["fleet"].severity == "urgent"
    assert {host.state for host in view.hosts.values()} == {UNKNOWN}
    assert (view.accepting, view.state) == (0, UNKNOWN)


def test_known_trouble_counts_before_what_is_not_known() -> None:
    current = subjects(mx2_smtp=bad(), mx3_smtp=bad()) | vain("mx1/smtp") | vain("mx1/smtp6")
    view = problems.judge(RULES, current, {}, (), NOW + 100)
    assert (view.state, view.sentence) == (DOWN, "None of 3 MXs are known to accept mail; 2 must.")
