"""What check-smtp concludes: classes, statuses, what must never be restarted."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mf import smtp, state
from mf.smtp import ACCEPTED, CLOSED, GARBAGE, SILENT, TEMPORARY, UNREACHABLE, UNTRIED, Dialogue
from mf_checks import smtp_verdict, starttls, systemd
from mf_checks.smtp_report import OK
from mf_checks.smtp_verdict import BUSY, DOWN, FOREIGN, REFUSED, STOPPED, UNKNOWN, WEDGED, Finding, View, classify

from tests.checks.conftest import (
    FULL,
    GOOD,
    LIMIT,
    MUTE,
    REFUSING,
    attempt,
    ended,
)
from tests.core.conftest import STAGES


@pytest.mark.parametrize(
    ("dialogue", "view", "kind"),
    [
        (GOOD, View(), OK),
        # busy is not dead
        (ended(TEMPORARY, "greeting", 421), View(), BUSY),
        (ended(TEMPORARY, "rcpt", 450), View(), BUSY),
        (ended(TEMPORARY, "message", 452), View(), BUSY),
        (MUTE, FULL, BUSY),
        (MUTE, View(children=16, waiting=40), BUSY),
        (MUTE, View(children=3), BUSY),
        (ended(SILENT, "ehlo", stall=LIMIT), View(), BUSY),
        (ended(SILENT, "rcpt", stall=LIMIT), View(children=15), BUSY),
        # silence proves nothing while somebody is there who may answer
        *[
            (ended(SILENT, stage, stall=2 * LIMIT, session=session), View(), BUSY)
            for stage in ("ehlo", "mail", "rcpt", "data", "message")
            for session in (True, None)
        ],
        (ended(SILENT, "message", stall=2 * LIMIT, session=True), View(children=15), BUSY),
        # a verdict is never cured by a restart, unless it isn't this release's service that speaks
        *[(ended(smtp.REFUSED, stage, 552), View(), REFUSED) for stage in STAGES[1:7]],
        (ended(smtp.REFUSED, "message", 554, text="5.7.1 relaying denied"), View(), REFUSED),
        (ended(smtp.REFUSED, "rcpt", 550, text="5.7.1 relaying denied"), View(configured=False), REFUSED),
        # wedged
        (MUTE, View(ticks=False), WEDGED),
        (MUTE, View(children=15, ticks=False), WEDGED),
        (MUTE, View(children=14, waiting=1), WEDGED),
        (ended(SILENT, "connect", stall=LIMIT), View(waiting=128), WEDGED),
        (ended(SILENT, "message", session=False), View(), WEDGED),
        (ended(SILENT, "rcpt", session=False), View(children=15), WEDGED),
        (ended(SILENT, "message", session=True), View(ticks=False), WEDGED),
        (ended(smtp.REFUSED, "mail", 552), View(ticks=False), WEDGED),
        (ended(smtp.REFUSED, "mail", 354), View(), WEDGED),  # no verdict: it has no place there
        (ended(GARBAGE), View(), WEDGED),
        (ended(CLOSED), View(), WEDGED),
        (ended(CLOSED, "data"), View(), WEDGED),
        (ended(TEMPORARY, "greeting", 421), View(ticks=False), WEDGED),
        (REFUSING, View(listening=False, ours=False), WEDGED),
        (REFUSING, View(listening=False, ours=False, age=smtp_verdict.STARTING), WEDGED),
        (GOOD, View(ticks=False), OK),
        # it has just been started, and needs a moment until it listens
        (REFUSING, View(listening=False, ours=False, age=29.9), BUSY),
        # an overloaded host isn't helped by a restart
        (MUTE, View(ticks=False, hindrance=systemd.BLOCKED, waiting=9), BUSY),
        (MUTE, View(ticks=False, hindrance=systemd.STARVED, children=15), BUSY),
        # it couldn't be asked
        (ended(UNTRIED, "connect"), View(), UNKNOWN),
        (ended(UNTRIED, "connect"), View(ticks=False), UNKNOWN),
        (ended(UNTRIED, "data"), View("failed", listening=False, ours=False), UNKNOWN),
        # down, stopped, foreign
        (REFUSING, View("failed", listening=False, ours=False), DOWN),
        (REFUSING, View("inactive", listening=False, ours=False), STOPPED),
        (ended(smtp.REFUSED, "greeting", 554), View("failed", ours=False), FOREIGN),
        (ended(GARBAGE), View("inactive", ours=False), FOREIGN),
        (ended(GARBAGE), View("active", ours=False), FOREIGN),
        # somebody is at it
        (REFUSING, View("activating", listening=False, ours=False), BUSY),
        (MUTE, View("deactivating", ticks=False), BUSY),
        (MUTE, View("reloading", ticks=False), BUSY),
    ],
)
def test_classes(dialogue: Dialogue, view: View, kind: str) -> None:
    assert classify(dialogue, view, 15).kind == kind


@pytest.mark.parametrize(
    ("dialogue", "view", "action", "reason"),
    [
        (ended(smtp.REFUSED, "message", 552, text="5.7.1 policy"), View(), "", "552 at message: 5.7.1 policy"),
        (ended(smtp.REFUSED, "mail", 550), View(outdated=True), "restart", "older files than the release"),
        (ended(smtp.REFUSED, "rcpt", 550, text="5.7.1 relaying denied"), View(), "restart", "plugin isn't loaded"),
        (ended(smtp.REFUSED, "rcpt", 550, text="5.1.1 unknown"), View(), "", "5.1.1 unknown"),
        (
            ended(smtp.REFUSED, "rcpt", 550, text="5.7.1 relaying denied"),
            View(configured=False),
            "",
            "mf_canary isn't in /mf/etc/qpsmtpd/plugins: deploy again",
        ),
    ],
)
def test_a_verdict_is_an_alarm_unless_a_restart_can_cure_it(
    dialogue: Dialogue, view: View, action: str, reason: str
) -> None:
    finding = classify(dialogue, view, 15)
    assert (finding.kind, finding.action) == (REFUSED, action)
    assert reason in finding.why


dialogues = st.builds(
    ended,
    st.sampled_from([ACCEPTED, TEMPORARY, smtp.REFUSED, GARBAGE, CLOSED, SILENT, UNREACHABLE, UNTRIED]),
    st.sampled_from(STAGES),
    st.sampled_from([0, 220, 250, 421, 450, 550]),
    st.floats(0, LIMIT),
    st.sampled_from(["", "5.7.1 relaying denied"]),
    st.sampled_from([True, False, None]),
)


views = st.builds(
    View,
    st.sampled_from(["active", "failed", "inactive", "activating", "deactivating", "unknown"]),
    ticks=st.booleans(),
    children=st.integers(0, 20),
    listening=st.booleans(),
    ours=st.sampled_from([True, False, None]),
    waiting=st.integers(0, 200),
    hindrance=st.sampled_from(["", systemd.BLOCKED, systemd.STARVED]),
    age=st.sampled_from([0.0, 29.0, 31.0, 1e6]),
    outdated=st.booleans(),
    configured=st.booleans(),
)


@given(dialogues, views)
def test_states_without_a_restart(dialogue: Dialogue, view: View) -> None:
    finding = classify(dialogue, view, 15)
    kind = finding.kind
    assert finding.why
    assert finding.action == {WEDGED: "restart", DOWN: "start"}.get(kind, finding.action if kind == REFUSED else "")
    if finding.action:
        assert dialogue.outcome != UNTRIED
    if finding.action and kind == REFUSED:
        assert view.outdated or (dialogue.stage == "rcpt" and view.configured)
    if kind == WEDGED:
        assert view.active == "active"
        assert dialogue.outcome != ACCEPTED
        assert not (dialogue.outcome == TEMPORARY and view.ticks and view.listening)
        assert not (dialogue.outcome == smtp.REFUSED and dialogue.code >= 500 and view.ticks and view.listening)
        late = dialogue.outcome == SILENT and dialogue.stage not in ("connect", "greeting")
        assert not (late and view.ticks and view.listening and dialogue.session is not False)
        assert not (view.listening and not view.ticks and view.hindrance)
        assert view.listening or view.age >= smtp_verdict.STARTING
        assert not (
            view.children >= 15
            and view.ticks
            and view.listening
            and dialogue.stage == "greeting"
            and dialogue.outcome == SILENT
        )
    if kind == DOWN:
        assert view.active == "failed"
        assert not view.listening


ACTIONS = {WEDGED: "restart", DOWN: "start"}


@pytest.mark.parametrize(
    ("first", "second", "result"),
    [
        (WEDGED, WEDGED, WEDGED),
        (DOWN, WEDGED, BUSY),
        (WEDGED, DOWN, BUSY),
        (WEDGED, OK, OK),
        (WEDGED, BUSY, BUSY),
        (WEDGED, REFUSED, REFUSED),
    ],
)
def test_an_action_takes_two_equal_findings(first: str, second: str, result: str) -> None:
    findings = [Finding(kind, "why", ACTIONS.get(kind, "")) for kind in (first, second)]
    finding = smtp_verdict.confirmed(*findings)
    assert finding.kind == result
    assert bool(finding.action) == (first == second)


def test_a_refusal_with_an_action_in_the_second_finding_alone_stays_an_alarm() -> None:
    cured = Finding(REFUSED, "why", "restart")
    assert smtp_verdict.confirmed(cured, cured).action == "restart"
    for first in (Finding(WEDGED, "why", "restart"), Finding(REFUSED, "why")):
        finding = smtp_verdict.confirmed(first, cured)
        assert (finding.kind, finding.action) == (REFUSED, "")


@pytest.mark.parametrize(
    ("kind", "minutes", "status"),
    [
        (OK, 0, state.OK),
        (BUSY, 0, state.WARNING),
        (BUSY, 9.9, state.WARNING),
        (BUSY, 10, state.CRITICAL),
        (STOPPED, 0, state.CRITICAL),
        (FOREIGN, 0, state.CRITICAL),
        (UNKNOWN, 0, state.UNKNOWN),
        (WEDGED, 0, state.CRITICAL),
        (DOWN, 0, state.CRITICAL),
        (REFUSED, 0, state.CRITICAL),
    ],
)
def test_status(kind: str, minutes: float, status: str) -> None:
    assert smtp_verdict.status_of(kind, minutes * 60) == status


@pytest.mark.parametrize(
    ("offered", "tls_attempt", "status", "summary"),
    [
        (True, attempt(), state.OK, "TLS works"),
        (True, attempt(days=None), state.OK, "TLS works"),
        (True, attempt(days=13.6), state.WARNING, "the certificate ends in 14 days"),
        (True, attempt(days=-1.2), state.CRITICAL, "the certificate ended 1 days ago"),
        (True, attempt("silence at tls"), state.CRITICAL, "STARTTLS is offered and broken: silence at tls"),
        (False, None, state.CRITICAL, "STARTTLS isn't offered though it is configured"),
    ],
)
def test_the_verdict_on_starttls(
    offered: bool, tls_attempt: starttls.Attempt | None, status: str, summary: str
) -> None:
    verdict = smtp_verdict.tls_verdict(offered, tls_attempt, time.time(), 14)
    assert verdict[0] == status
    assert verdict[1].startswith(summary)


def test_how_early_a_certificate_is_warned_of_is_the_hosts_choice() -> None:
    """One of six days has always less than fourteen left."""
    for days, warning, status in ((5, 2, state.OK), (1.5, 2, state.WARNING), (1, 0, state.OK), (-1, 0, state.CRITICAL)):
        assert smtp_verdict.tls_verdict(True, attempt(days=days), time.time(), warning)[0] == status


@pytest.mark.parametrize(
    ("dialogue", "view", "full"),
    [
        (MUTE, FULL, True),
        (MUTE, View(children=14), False),
        (MUTE, View(children=15, ticks=False), False),  # frozen
        (MUTE, View(children=15, ticks=False, hindrance="waits for a disk"), False),
        (MUTE, View("deactivating", children=15), False),
        (MUTE, View(children=15, ours=False), False),  # another program holds the port
        (ended(SILENT, "message", stall=LIMIT), FULL, False),  # it had a slot
        (ended(TEMPORARY, "greeting", 421), FULL, False),
        (ended(CLOSED), FULL, False),
    ],
)
def test_a_working_service_without_a_free_slot_is_full(dialogue: Dialogue, view: View, full: bool) -> None:
    assert smtp_verdict.is_full(dialogue, view, 15) is full


def test_the_plugins_answer_is_the_one_that_the_check_expects() -> None:
    plugins = Path(__file__).parents[2] / "roles/qpsmtpd/files/lib/qpsmtpd/plugins"
    assert f"return DENY, '{smtp_verdict.NO_DOMAIN}' unless" in (plugins / "mf_domains").read_text()
