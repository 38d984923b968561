"""The gate of a deploy: what keeps a host from passing, what is a remark, and who is waited for."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from mf import health_record

from action_plugins import mf_gate as plugin
from library import mf_gate

FULL = {"class": "BUSY", "code": 0, "children": 15, "full": 1}
SLOW = {"class": "BUSY", "code": 0, "children": 3, "full": 0}
FILTERING = {**SLOW, "slow": 1}
STARTING = {"class": "BUSY", "code": 0, "children": 0, "full": 0}
DEFERRED = {"class": "BUSY", "code": 451, "children": 1, "full": 0}
WELL = {"class": "OK", "code": 250}


def health(smtp: str = "OK", metrics: Mapping[str, Any] = WELL, door: str = "command", **others: str) -> dict[str, Any]:
    """What mf_health says with details: the status of each check."""
    checks: dict[str, Any] = {
        name: {"status": "OK", "summary": "fine", "metrics": {}} for name in ("processes", "queue", "load")
    }
    checks["smtp"] = {"status": smtp, "summary": "the certificate ends in 9 days", "metrics": dict(metrics)}
    for name, status in others.items():
        checks[name] = {"status": status, "summary": "so many", "metrics": {}}
    flags = dict.fromkeys(("throttled", "refusing", "held"), False)
    return {"status": "OK", **flags, "leases": [], "problems": [], "checks": checks, "door": door}


def answer(result: Mapping[str, Any]) -> plugin.Answer:
    """The parsed answer of mf_health; ``stale`` as the plugin adds it."""
    read = plugin.read(result)
    assert read
    return dataclasses.replace(read, stale=result.get("stale", ()))


def judge(now: Mapping[str, Any], before: Mapping[str, Any], checks: Sequence[str] = plugin.CHECKS) -> plugin.Verdict:
    """The verdict on two answers of mf_health; the one before the change may be missing."""
    return plugin.judge(answer(now), plugin.read(before), checks)


@pytest.mark.parametrize(
    ("now", "before", "wrong", "remarks"),
    [
        (health(), health(), 0, 0),
        # what was there before is a remark, however bad
        (health("WARNING"), health("WARNING"), 0, 1),
        (health("CRITICAL"), health("CRITICAL"), 0, 1),
        (health(queue="CRITICAL"), health(queue="CRITICAL"), 0, 1),
        (health(processes="UNKNOWN"), health(processes="CRITICAL"), 0, 1),
        # what is worse is not
        (health("WARNING"), health(), 1, 0),
        (health("CRITICAL"), health("WARNING"), 1, 0),
        (health(queue="CRITICAL"), health(queue="WARNING"), 1, 0),
        (health(processes="UNKNOWN"), health(), 1, 0),
        # a first warning of these is a matter of time: a message grew old, a session long
        (health(queue="WARNING"), health(), 0, 1),
        # load comes and goes by itself
        (health(load="CRITICAL"), health(), 0, 0),
        # a new host: nothing can be worse than it was, but what is grave counts
        (health("WARNING"), {}, 0, 1),
        (health("CRITICAL"), {}, 1, 0),
        (health(queue="CRITICAL"), {}, 1, 0),
        # who accepts no mail doesn't pass, whatever was before
        (health("CRITICAL", {"class": "WEDGED"}), health("CRITICAL", {"class": "WEDGED"}), 1, 0),
        (health("CRITICAL", {"class": "REFUSED", "code": 550}), health("CRITICAL", {"class": "REFUSED"}), 1, 0),
        (health("WARNING", DEFERRED), health("WARNING", DEFERRED), 1, 0),
        (health("UNKNOWN", WELL), health("UNKNOWN", WELL), 1, 0),
        ({**health(), "checks": {}}, health(), 1, 0),
        # senders that have all its slots are mail
        (health("WARNING", FULL), health(), 0, 1),
        (health("CRITICAL", FULL), health(), 0, 1),
        # a filter slower than the canary's patience costs no mail; a new one may never answer
        (health("WARNING", FILTERING), health("WARNING", FILTERING), 0, 1),
        (health("CRITICAL", FILTERING), health("WARNING", FILTERING), 0, 1),
        (health("WARNING", FILTERING), health("WARNING", FULL), 1, 0),
        (health("WARNING", FILTERING), health(), 1, 0),
        # its own command is part of the release
        (health(door="module"), health(), 1, 0),
        (health(door="module"), health(door="module"), 0, 0),
    ],
)
def test_worse_keeps_it_from_passing_and_the_rest_is_a_remark(
    now: dict[str, Any], before: dict[str, Any], wrong: int, remarks: int
) -> None:
    verdict = judge(now, before)
    assert (len(verdict.wrong), len(verdict.remarks)) == (wrong, remarks), verdict


def ending(status: str, left: float, but_for_time: str = "OK") -> dict[str, Any]:
    """The health of an MX that accepts mail and whose certificate ends in ``left`` seconds."""
    return health(status, {**WELL, "certificate_seconds": left, "status_but_for_time": but_for_time})


def waiting(status: str, but_for_time: str) -> dict[str, Any]:
    """The health of an MX with an old message in its queue."""
    result = health(queue=status)
    result["checks"]["queue"]["metrics"]["status_but_for_time"] = but_for_time
    return result


@pytest.mark.parametrize(
    ("now", "before"),
    [
        # the last handshake before the change was good, and counted for a quarter of an hour
        (ending("WARNING", 1209590), health()),
        (ending("CRITICAL", -20), ending("WARNING", 300)),
        (waiting("CRITICAL", "WARNING"), waiting("WARNING", "OK")),
        (waiting("CRITICAL", "OK"), health()),
    ],
)
def test_what_time_alone_brings_is_a_remark(now: dict[str, Any], before: dict[str, Any]) -> None:
    verdict = judge(now, before)
    assert not verdict.wrong
    assert [remark.endswith("; a matter of time)") for remark in verdict.remarks] == [True]


@pytest.mark.parametrize(
    ("now", "before"),
    [
        # slow as well, which it was not
        (ending("WARNING", 1209590, "WARNING"), health()),
        # the change brought another certificate, which has ended
        (ending("CRITICAL", -20), health()),
        (ending("CRITICAL", -20), health("OK", {**WELL, "certificate_seconds": 7776000})),
        (ending("CRITICAL", -86400), ending("WARNING", 300)),
        # the spool is full as well
        (waiting("CRITICAL", "CRITICAL"), waiting("WARNING", "OK")),
        (waiting("CRITICAL", "no status"), waiting("WARNING", "OK")),
    ],
)
def test_what_is_worse_beside_it_is_not(now: dict[str, Any], before: dict[str, Any]) -> None:
    assert judge(now, before).wrong


def test_a_host_that_refused_mail_before_is_not_worse() -> None:
    deferring, wedged = health("WARNING", DEFERRED), health("CRITICAL", {"class": "WEDGED"})
    assert judge(deferring, deferring).as_before
    assert "it accepts no mail, as before: " in judge(wedged, wedged).wrong[0]
    # another reason, no word of before, or something else that is worse
    for now, before in (
        (wedged, deferring),
        (deferring, health()),
        (deferring, {}),
        (health("WARNING", DEFERRED, queue="CRITICAL"), deferring),
        (health("UNKNOWN", {}), health("UNKNOWN", {})),
        (health("UNKNOWN", WELL), health("UNKNOWN", WELL)),
    ):
        verdict = judge(now, before)
        assert verdict.wrong
        assert not verdict.as_before
    assert not Course(deferring, health("WARNING", SLOW), health("WARNING", FULL)).verdict(deferring).as_before


def test_the_message_names_the_result_and_the_one_before() -> None:
    assert judge(health("CRITICAL"), health("WARNING")).wrong == [
        "smtp CRITICAL: the certificate ends in 9 days (before the change: WARNING)"
    ]
    assert judge(health("WARNING"), health("WARNING")).remarks == [
        "smtp WARNING: the certificate ends in 9 days, as before"
    ]


def test_smtp_alone_may_decide() -> None:
    verdict = judge(health(queue="CRITICAL"), health(), ["smtp"])
    assert (verdict.wrong, verdict.remarks) == ([], ["queue CRITICAL: so many"])
    assert judge(health("CRITICAL", {"class": "DOWN"}), health(), ["processes"]).wrong


def test_text_from_a_host_is_made_safe() -> None:
    now = health("CRITICAL", {"class": "DOWN"})
    now["checks"]["smtp"]["summary"] = "\x1b[2Jgone\nFAKE: all is well" + "x" * 1000
    (problem,) = judge(now, {}).wrong
    assert problem.isprintable()
    assert len(problem) < 500


class Course:
    """Health records in a row, the last one for ever; time passes only while it is waited."""

    def __init__(self, *records: dict[str, Any]) -> None:
        self.records, self.probes, self.now = list(records), 0, 0.0

    def look(self) -> plugin.Answer:
        self.probes += 1
        return answer(self.records[min(self.probes, len(self.records)) - 1])

    def pause(self, seconds: float) -> None:
        self.now += seconds

    def verdict(self, before: Mapping[str, Any] | None = None, checks: Sequence[str] = plugin.CHECKS) -> Any:
        return plugin.watch(self.look, answer(before or health()), checks, self.pause, lambda: self.now)


def test_a_host_that_passes_is_probed_once() -> None:
    course = Course(health())
    assert not course.verdict().wrong
    assert (course.probes, course.now) == (1, 0.0)


def test_what_is_wrong_gets_some_chances() -> None:
    bad = health("CRITICAL", {"class": "DOWN"})
    course = Course(bad, bad, health())
    assert not course.verdict().wrong
    course = Course(bad)
    assert course.verdict().wrong
    assert (course.probes, course.now) == (4, 6.0)


def test_a_full_one_is_waited_for_and_passes() -> None:
    course = Course(health("WARNING", FULL))
    verdict = course.verdict()
    assert (verdict.wrong, len(verdict.remarks)) == ([], 1)
    assert course.now == plugin.BUSY_WAIT
    course = Course(health("WARNING", FULL), health())
    assert course.verdict() == plugin.Verdict([], [])
    assert course.probes == 2


@pytest.mark.parametrize("metrics", [SLOW, STARTING, DEFERRED])
def test_a_busy_one_is_waited_for_and_has_to_accept_mail_in_the_end(metrics: dict[str, Any]) -> None:
    course = Course(*[health("WARNING", metrics)] * 5, health())
    assert not course.verdict().wrong
    course = Course(health("WARNING", metrics))
    assert "accepts no mail" in course.verdict().wrong[0]
    assert course.now == plugin.BUSY_WAIT


def test_sessions_that_hang_are_not_taken_for_many_senders() -> None:
    """The first canary had a slot and no answer; then such sessions fill the service."""
    assert Course(health("WARNING", SLOW), health("WARNING", FULL)).verdict().wrong
    assert not Course(health("WARNING", STARTING), health("WARNING", FULL)).verdict().wrong


def stale(*names: str, **what: Any) -> dict[str, Any]:
    return {**health(**what), "stale": list(names)}


def test_a_result_older_than_the_probe_lets_no_host_pass() -> None:
    """A check that cron began goes on while the looks end: what is on disk is then from before the change."""
    hangs = health("WARNING", SLOW)
    assert Course(stale("smtp"), hangs).verdict().wrong
    assert not Course(stale("smtp"), health()).verdict().wrong
    course = Course(stale("smtp"))
    assert course.verdict().wrong == ["smtp has no result since the change"]
    assert course.now == plugin.BUSY_WAIT
    # and it says nothing of slots
    assert not Course(stale("smtp", smtp="WARNING", metrics=SLOW), health("WARNING", FULL)).verdict().wrong
    assert Course(stale("queue"), health(queue="CRITICAL")).verdict().wrong
    assert not Course(stale("queue")).verdict(checks=["smtp"]).wrong


def test_whether_a_result_is_older_than_the_probe() -> None:
    checks = health()["checks"]
    for name, age in {"smtp": 40.0, "processes": 3.0, "queue": None, "load": 90.0}.items():
        checks[name]["age_seconds"] = age
    read = answer({**health(), "checks": checks}).health.checks
    assert plugin.stale(read, 8.0) == ["smtp"]
    assert plugin.stale(read, 40.0) == []


@pytest.mark.parametrize("torn", [{"checks": []}, {"checks": {"smtp": {"status": "fine"}}}, {"status": "good"}])
def test_an_answer_that_is_no_health_record_is_refused(torn: dict[str, Any]) -> None:
    assert plugin.read({"msg": "no answer"}) is None
    with pytest.raises(health_record.HealthRecordError):
        plugin.read({**health(), **torn})


def test_both_halves_have_the_same_options() -> None:
    assert plugin.ARGUMENTS == mf_gate.ARGUMENTS
