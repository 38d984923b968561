"""check-smtp's slow path where it takes no action."""

from __future__ import annotations

import os

import pytest
from mf import run, smtp, state
from mf.smtp import ACCEPTED, CLOSED, SILENT, TEMPORARY, UNTRIED, Dialogue
from mf_checks import smtp as smtp_check
from mf_checks import starttls, systemd
from mf_checks.smtp_verdict import BUSY, REFUSED, View

from tests.checks.conftest import (
    FROZEN,
    FULL,
    GONE,
    HEALED,
    MUTE,
    REFUSING,
    VALUES,
    Scene,
    attempt,
    decided,
    ended,
)
from tests.core.conftest import server, talking

pytestmark = pytest.mark.usefixtures("quick")


def test_a_filter_slower_than_patience_is_busy_while_its_session_lives(
    places: state.Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server's end of the connection is held by this very process, which is here the master and its session."""
    monkeypatch.setattr(systemd, "show", lambda _: systemd.Unit("active", pid=os.getppid()))
    values = {**VALUES, "dialogue": 0.3, "patience": 0.6}
    with server(talking(late=("dot", 60))) as port:
        first = smtp.transaction(
            "127.0.0.1",
            port,
            0.3,
            "a@b.invalid",
            b".\r\n",
            patience=0.6,
            silence=lambda local: smtp_check.serves(values["unit"], local),
        )
    assert (first.outcome, first.stage, first.session) == (SILENT, "message", True)
    assert 0.5 < first.seconds() < 2.0
    scene = Scene(places, [(first, View())])
    result = scene.go()
    assert (result.status, result.metrics["class"], scene.done) == (state.WARNING, BUSY, [])
    assert result.summary.startswith("BUSY: a filter is slow: silence after the final dot for ")


def test_a_refusal_is_an_alarm_with_the_servers_answer(places: state.Places) -> None:
    refusing = (ended(smtp.REFUSED, "message", 552, text="5.7.1 policy"), View())
    scene = Scene(places, [refusing])
    result = scene.go()
    assert (result.status, result.metrics["class"], scene.done) == (state.CRITICAL, REFUSED, [])
    assert result.summary.startswith("REFUSED: 552 at message: 5.7.1 policy; ")
    assert decided(places) == []


def test_a_good_second_dialogue_prevents_the_action(places: state.Places) -> None:
    scene = Scene(places, [FROZEN, HEALED])
    result = scene.go()
    assert scene.done == []
    assert result.status == state.OK
    assert "at the confirmation probe" in result.summary


def test_busy_is_never_acted_on(places: state.Places) -> None:
    scene = Scene(places, [(MUTE, FULL)])
    result = scene.go()
    assert scene.done == []
    assert result.status == state.WARNING
    assert result.metrics["class"] == BUSY


def test_busy_for_ten_minutes_is_critical(places: state.Places) -> None:
    for ago, status in ((0.0, state.WARNING), (599.0, state.WARNING), (601.0, state.CRITICAL)):
        before = state.Result("smtp", state.WARNING, "BUSY", {"busy_since_boottime": state.boottime() - ago})
        state.write_result(places, before, generation="a", started=1.0, period=60, slack=60)
        result = Scene(places, [(MUTE, FULL)]).go()
        assert result.status == status
        assert result.metrics["busy_since_boottime"] == before.metrics["busy_since_boottime"]


def test_busy_before_a_gap_of_hours_counts_not(places: state.Places) -> None:
    before = state.Result("smtp", state.WARNING, "BUSY", {"busy_since_boottime": 1.0})
    state.write_result(places, before, generation="a", started=1.0, period=-4000, slack=0)
    assert Scene(places, [(MUTE, FULL)]).go().status == state.WARNING


def test_a_host_that_cannot_ask_acts_not(places: state.Places) -> None:
    unable = ended(UNTRIED, "connect")
    for probes in ([(unable, View())], [FROZEN, (unable, View())], [GONE, (unable, GONE[1])]):
        scene = Scene(places, probes)
        assert scene.go().status == state.UNKNOWN
        assert scene.done == []


def test_an_unknown_between_ends_no_busy(places: state.Places) -> None:
    class Blind(Scene):
        def view(self) -> View:
            raise systemd.ServiceError("systemctl show took longer than 5 s")

    class Late(Scene):
        def view(self) -> View:
            raise run.DeadlinePassed

    since = round(state.boottime() - 601, 1)
    before = state.Result("smtp", state.WARNING, "BUSY", {"busy_since_boottime": since})
    state.write_result(places, before, generation="a", started=1.0, period=60, slack=60)
    unable = [(ended(UNTRIED, "connect"), View())]
    for scene in (Blind(places, [FROZEN]), Late(places, [FROZEN]), Scene(places, unable)):
        result = scene.go()
        assert result.status == state.UNKNOWN
        state.write_result(places, result, generation="a", started=1.0, period=60, slack=60)
    result = Scene(places, [(MUTE, FULL)]).go()
    assert (result.status, result.metrics["busy_since_boottime"]) == (state.CRITICAL, since)
    # what was known to be otherwise does end it
    state.write_result(places, state.Result("smtp", state.OK, ""), generation="a", started=1.0, period=60, slack=60)
    assert Scene(places, [(MUTE, FULL)]).go().status == state.WARNING


def test_a_stopped_unit_stays_stopped(places: state.Places) -> None:
    scene = Scene(places, [(REFUSING, View("inactive", listening=False, ours=False))])
    assert scene.go().status == state.CRITICAL
    assert scene.done == []


def test_without_evidence_it_is_unknown(places: state.Places) -> None:
    class Blind(Scene):
        def view(self) -> View:
            raise systemd.ServiceError("systemctl show took longer than 5 s")

    scene = Blind(places, [FROZEN])
    assert scene.go().status == state.UNKNOWN
    assert scene.done == []


def test_ipv6_alone_is_a_warning(places: state.Places, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Scene, "greets6", lambda self: False)
    scene = Scene(places, [HEALED])
    assert scene.go().status == state.WARNING
    assert scene.done == []


@pytest.mark.parametrize(
    ("before", "view", "status", "summary"),
    [
        (ended(TEMPORARY, "greeting", 421), View(), state.WARNING, "BUSY: 421 at greeting"),
        (MUTE, FULL, state.WARNING, "BUSY: no greeting: all 15 child slots are taken"),
        (ended(UNTRIED, "connect"), View(), state.UNKNOWN, "UNKNOWN: this host can't ask"),
        (ended(CLOSED), View(), state.OK, "accepted, at the confirmation probe"),
    ],
)
def test_an_end_before_starttls_is_judged_as_any_dialogue(
    places: state.Places, before: Dialogue, view: View, status: str, summary: str
) -> None:
    class Early(Scene):
        def handshake(self) -> starttls.Attempt:
            outcome = attempt("it ended early")
            outcome.before = before
            return outcome

    offering = ended(ACCEPTED, "message", 250)
    offering.starttls = True
    scene = Early(places, [(offering, view), HEALED])
    result = scene.go()
    assert (result.status, result.summary[: len(summary)]) == (status, summary)
    assert scene.done == []


def test_that_a_session_lives_without_an_answer_stands_in_the_result(places: state.Places) -> None:
    """The gate of a deploy reads it there."""
    hangs = ended(SILENT, "message", stall=30.0)
    overloaded = View(ticks=False, hindrance="waits for a disk")
    for dialogue, view, slow in ((hangs, View(), 1), (hangs, overloaded, 0), (MUTE, View(), 0), (MUTE, FULL, 0)):
        assert Scene(places, [(dialogue, view)]).go().metrics["slow"] == slow


def test_that_it_is_full_stands_in_the_result(places: state.Places) -> None:
    """The gate of a deploy and the budget read it there."""
    assert Scene(places, [(MUTE, FULL)]).go().metrics["full"] == 1
    assert Scene(places, [(ended(TEMPORARY, "greeting", 421), FULL)]).go().metrics["full"] == 0


@pytest.mark.parametrize(
    ("tls_attempt", "slow", "status", "but_for_time"),
    [
        (attempt(days=9), False, state.WARNING, state.OK),
        (attempt(days=-1), False, state.CRITICAL, state.OK),
        (attempt(days=9), True, state.WARNING, state.WARNING),
        (attempt("silence at tls"), False, state.CRITICAL, None),
        (attempt(), False, state.OK, None),
    ],
)
def test_an_ending_certificate_is_separate_from_other_faults(
    places: state.Places, tls_attempt: starttls.Attempt, slow: bool, status: str, but_for_time: str | None
) -> None:
    """The gate of a deploy reads it: time alone is no reason for a hold."""

    class Secured(Scene):
        def handshake(self) -> starttls.Attempt:
            return tls_attempt

    first = state.Result("smtp", state.WARNING if slow else state.OK, "canary accepted")
    result = Secured(places, []).secured(first, offered=True)
    assert (result.status, result.metrics.get(state.BUT_FOR_TIME)) == (status, but_for_time)
