"""check-smtp: classes, actions, and the order of events."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mf import maintenance, run, smtp, state
from mf.smtp import ACCEPTED, CLOSED, GARBAGE, SILENT, TEMPORARY, UNREACHABLE, UNTRIED, Dialogue
from mf_checks import breaker, procfs, smtp_diagnose, smtp_verdict, starttls, systemd
from mf_checks import smtp as hot
from mf_checks.smtp import OK
from mf_checks.smtp_verdict import BUSY, DOWN, FOREIGN, REFUSED, STOPPED, UNKNOWN, WEDGED, Finding, View, classify
from smtp_support import server, silent, talking

LIMIT = 10.0
VALUES: dict[str, Any] = {
    "address": "127.0.0.1",
    "address6": "",
    "port": 25,
    "canary": "canary@mx1.mf.invalid",
    "unit": "qpsmtpd.service",
    "children_max": 15,
    "dialogue": LIMIT,
    "patience": 2 * LIMIT,
    "starttls": 0,
    "certificate_days": 14,
    "period": 60,
    "deadline": 55,
}


def ended(
    outcome: str,
    stage: str = "greeting",
    code: int = 0,
    stall: float = 0.0,
    text: str = "",
    session: bool | None = None,
) -> Dialogue:
    dialogue = Dialogue(stage, outcome, code, text)
    dialogue.timings[stage] = stall
    dialogue.session = session
    return dialogue


GOOD = ended(ACCEPTED, "message", 250)
MUTE = ended(SILENT, "greeting", stall=LIMIT)
REFUSING = ended(UNREACHABLE, "connect")
FULL = View(children=15)


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
        *[(ended(smtp.REFUSED, stage, 552), View(), REFUSED) for stage in smtp.STAGES[1:7]],
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
    ("dialogue", "view", "action", "words"),
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
    dialogue: Dialogue, view: View, action: str, words: str
) -> None:
    found = classify(dialogue, view, 15)
    assert (found.kind, found.action) == (REFUSED, action)
    assert words in found.why


dialogues = st.builds(
    ended,
    st.sampled_from([ACCEPTED, TEMPORARY, smtp.REFUSED, GARBAGE, CLOSED, SILENT, UNREACHABLE, UNTRIED]),
    st.sampled_from(smtp.STAGES),
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
def test_what_must_never_be_restarted(dialogue: Dialogue, view: View) -> None:
    found = classify(dialogue, view, 15)
    kind = found.kind
    assert found.why
    assert found.action == {WEDGED: "restart", DOWN: "start"}.get(kind, found.action if kind == REFUSED else "")
    if found.action:
        assert dialogue.outcome != UNTRIED
    if found.action and kind == REFUSED:
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
def test_an_action_takes_two_equal_looks(first: str, second: str, result: str) -> None:
    looks = [Finding(kind, "why", ACTIONS.get(kind, "")) for kind in (first, second)]
    found = smtp_verdict.confirmed(*looks)
    assert found.kind == result
    assert bool(found.action) == (first == second)


def test_a_verdict_that_only_the_second_look_would_cure_stays_an_alarm() -> None:
    cured = Finding(REFUSED, "why", "restart")
    assert smtp_verdict.confirmed(cured, cured).action == "restart"
    for first in (Finding(WEDGED, "why", "restart"), Finding(REFUSED, "why")):
        found = smtp_verdict.confirmed(first, cured)
        assert (found.kind, found.action) == (REFUSED, "")


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


@pytest.fixture
def places(tmp_path: Path) -> state.Places:
    places = state.Places(str(tmp_path))
    for folder in (places.results, places.locks, places.persistent, os.path.dirname(places.decisions)):
        os.makedirs(folder)
    return places


class Scene(smtp_diagnose.Examination):
    """An examination whose hands are scripted: what each look sees, and what an action does."""

    def __init__(
        self,
        places: state.Places,
        looks: list[tuple[Dialogue, View]],
        *,
        dry_run: bool = False,
        failure: str = "",
        ago: float = 0.0,
    ) -> None:
        super().__init__(VALUES, dry_run, places, time.monotonic() - ago)
        self.looks = looks
        self.failure = failure
        self.done: list[str] = []
        self.allowed: list[float] = []
        self.told_before: list[tuple[str, str]] = []
        self.locked: list[bool] = []
        self.limits: list[float] = []
        self._next = iter([dialogue for dialogue, _ in looks[1:]])
        self._views = iter([view for _, view in looks])

    def transaction(self, limit: float = 0.0) -> Dialogue:
        self.limits.append(limit)
        return next(self._next, self.looks[-1][0])

    def view(self) -> View:
        with state.Lock(self.places, state.ACTION) as held:
            self.locked.append(not held)
        return next(self._views, self.looks[-1][1])

    def act(self, action: str, limit: float) -> None:
        self.done.append(action)
        self.allowed.append(limit)
        self.told_before = decided(self.places)
        if self.failure:
            raise systemd.ServiceError(self.failure)

    def go(self) -> state.Result:
        return self.result(self.looks[0][0])


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(smtp_diagnose, "RETEST", 0.0)
    monkeypatch.setattr(smtp_diagnose, "LOCK_WAIT", 0.1)


FROZEN = (MUTE, View(ticks=False))
NONSENSE = (ended(GARBAGE), View())
HEALED = (GOOD, View())
GONE = (REFUSING, View("failed", listening=False, ours=False))


def test_what_is_seen_of_a_process(places: state.Places, monkeypatch: pytest.MonkeyPatch) -> None:
    # a master with a child that it doesn't reap, asleep
    zombie = "import os, time\nif os.fork() == 0: os._exit(0)\nprint(flush=True)\ntime.sleep(100)"
    with subprocess.Popen([sys.executable, "-ISc", zombie], stdout=subprocess.PIPE) as master:
        try:
            assert master.stdout is not None
            master.stdout.readline()
            while (stat := procfs.read_stat(master.pid)) and stat.state != "S":
                time.sleep(0.01)
            monkeypatch.setattr(systemd, "show", lambda _: systemd.Unit("active", pid=master.pid))
            view = smtp_diagnose.Examination({**VALUES, "port": 1}, dry_run=True, places=places).view()
        finally:
            master.kill()
    assert view.pid == master.pid
    assert not view.listening
    assert not view.ticks
    assert 2.0 < view.age < 30.0  # as long as was waited for it to tick
    assert view.children == 1  # a slot is taken until its child has been reaped
    assert classify(REFUSING, view, 15).kind == BUSY


def decided(places: state.Places) -> list[tuple[str, str]]:
    try:
        lines = Path(places.decisions).read_text().splitlines()
    except FileNotFoundError:
        return []
    return [(entry["action"], entry["outcome"]) for entry in map(json.loads, lines)]


def test_a_frozen_master_is_restarted(places: state.Places) -> None:
    scene = Scene(places, [FROZEN, FROZEN, HEALED])
    result = scene.go()
    assert scene.done == ["restart"]
    assert scene.locked == [False, True]
    assert result.status == state.WARNING
    assert result.summary.startswith("restarted, works again; it was WEDGED: the master is frozen")
    assert scene.told_before == [("restart", "begun")]
    assert decided(places) == [("restart", "begun"), ("restart", "done")]
    assert len(breaker.load(places, VALUES["unit"]).restarts) == 1


def test_a_frozen_master_is_looked_at_again_briefly_and_anything_else_in_full(places: state.Places) -> None:
    frozen = Scene(places, [FROZEN, FROZEN, HEALED])
    frozen.go()
    assert frozen.limits[0] == smtp_diagnose.CONFIRM
    deaf = (MUTE, View(waiting=3))
    for looks in ([deaf, deaf, HEALED], [GONE, GONE, HEALED]):
        scene = Scene(places, looks)
        scene.go()
        assert scene.limits[0] == 0.0


def test_a_failed_unit_is_started(places: state.Places) -> None:
    scene = Scene(places, [GONE, GONE, HEALED])
    assert scene.go().status == state.WARNING
    assert scene.done == ["start"]


def test_success_is_not_claimed_before_it_works(places: state.Places) -> None:
    scene = Scene(places, [FROZEN, FROZEN, FROZEN])
    result = scene.go()
    assert scene.done == ["restart"]
    assert result.status == state.CRITICAL
    assert "still not working after it" in result.summary
    assert decided(places) == [("restart", "begun"), ("restart", "failed")]


def test_systemctl_fails(places: state.Places) -> None:
    result = Scene(places, [FROZEN, FROZEN], failure="systemctl try-restart took longer than 20 s").go()
    assert result.status == state.CRITICAL
    assert "took longer than 20 s" in result.summary


@pytest.mark.parametrize("looks", [[FROZEN, FROZEN, HEALED], [GONE, GONE, HEALED]])
def test_an_action_leaves_time_to_test_again(places: state.Places, looks: list[tuple[Dialogue, View]]) -> None:
    deadline = VALUES["deadline"]
    scene = Scene(places, looks, ago=30)
    assert scene.go().status == state.WARNING
    # the wait for it, the test after it and a moment to write it down fit into what is left
    assert (
        deadline - 30 - LIMIT - 2 * smtp_diagnose.SPARE
        < scene.allowed[0]
        <= deadline - 30 - LIMIT - smtp_diagnose.SPARE
    )


def test_an_action_without_time_to_test_again_is_not_begun(places: state.Places) -> None:
    deadline = VALUES["deadline"]
    scene = Scene(places, [FROZEN, FROZEN], ago=deadline - LIMIT - smtp_diagnose.SPARE - smtp_diagnose.LEAST + 0.1)
    result = scene.go()
    assert scene.done == []
    assert result.status == state.CRITICAL
    assert "no restart: too little of this run's time is left" in result.summary
    assert decided(places) == [("restart", "refused")]
    assert breaker.load(places, VALUES["unit"]).restarts == ()


def test_the_test_after_an_action_ends_before_the_deadline(places: state.Places) -> None:
    for behave in (silent, talking(late=("dot", 60))):
        with server(behave) as port:
            scene = smtp_diagnose.Examination({**VALUES, "port": port}, dry_run=True, places=places)
            scene.give_up = time.monotonic() + 1.5  # the action took all that it was given, and more
            begun = time.monotonic()
            assert scene.retest().outcome == SILENT
            assert time.monotonic() - begun < 2.5


def test_a_slow_filter_is_waited_for_and_only_a_warning(places: state.Places) -> None:
    values = {**VALUES, "dialogue": 0.3, "patience": 5.0}
    with server(talking(late=("dot", 0.6), EHLO=b"250 here\r\n")) as port:
        result = hot.look(places, {**values, "port": port})
    assert isinstance(result, state.Result)
    assert (result.status, result.metrics["class"]) == (state.WARNING, OK)
    assert result.summary.startswith("slow: canary accepted in 0.")
    assert result.summary.endswith("s of it at message")


def test_a_filter_slower_than_patience_is_busy_while_its_session_lives(
    places: state.Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server's end of the connection is held by this very process, which is here the master and its session."""
    monkeypatch.setattr(systemd, "show", lambda _: systemd.Unit("active", pid=os.getppid()))
    values = {**VALUES, "dialogue": 0.3, "patience": 0.6}
    with server(talking(late=("dot", 60))) as port:
        first = smtp.transaction(
            "127.0.0.1", port, 0.3, "a@b.invalid", patience=0.6, silence=hot.session_of({**values, "port": port})
        )
    assert (first.outcome, first.stage, first.session) == (SILENT, "message", True)
    assert 0.5 < first.seconds() < 2.0
    scene = Scene(places, [(first, View())])
    result = scene.go()
    assert (result.status, result.metrics["class"], scene.done) == (state.WARNING, BUSY, [])
    assert result.summary.startswith("BUSY: a filter is slow: silence after the final dot for ")


def test_a_session_held_by_no_child_of_the_master_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[bool | None] = []
    look = hot.session_of(VALUES)

    def ask(here: str) -> bool | None:
        for pid in (os.getppid(), os.getpid(), 0):
            monkeypatch.setattr(systemd, "show", lambda _, pid=pid: systemd.Unit("active", pid=pid))
            found.append(look(here))
        found.append(look("127.0.0.1:1"))
        return None

    with server(talking(late=("RCPT", 60))) as port:
        smtp.transaction("127.0.0.1", port, 0.3, "a@b.invalid", patience=0.5, silence=ask)
    # this process is its parent's child, and has itself none that holds the connection
    assert found == [True, False, None, None]


def test_a_process_gone_without_an_answer_is_confirmed_briefly_and_restarted(places: state.Places) -> None:
    gone = (ended(SILENT, "message", stall=20, session=False), View())
    scene = Scene(places, [gone, gone, HEALED])
    result = scene.go()
    assert scene.done == ["restart"]
    assert scene.limits[0] == smtp_diagnose.CONFIRM
    assert result.summary.startswith(
        "restarted, works again; it was WEDGED: silence after the final dot: the session's"
    )


def test_a_verdict_is_an_alarm_in_the_servers_own_words(places: state.Places) -> None:
    refusing = (ended(smtp.REFUSED, "message", 552, text="5.7.1 policy"), View())
    scene = Scene(places, [refusing])
    result = scene.go()
    assert (result.status, result.metrics["class"], scene.done) == (state.CRITICAL, REFUSED, [])
    assert result.summary.startswith("REFUSED: 552 at message: 5.7.1 policy; ")
    assert decided(places) == []


def test_an_outdated_service_that_refuses_the_canary_is_restarted(places: state.Places) -> None:
    refusing = (ended(smtp.REFUSED, "rcpt", 550, text="5.7.1 relaying denied"), View())
    scene = Scene(places, [refusing, refusing, HEALED])
    result = scene.go()
    assert scene.done == ["restart"]
    assert result.summary.startswith("restarted, works again; it was REFUSED: 550 at rcpt: 5.7.1 relaying denied; the")


def test_what_is_seen_of_configuration_and_release(places: state.Places, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(systemd, "show", lambda _: systemd.Unit("active", started=100.0))
    os.makedirs(places.etc + "/qpsmtpd")
    scene = smtp_diagnose.Examination({**VALUES, "port": 1}, dry_run=True, places=places)

    def seen() -> tuple[bool, bool]:
        view = scene.view()
        return view.outdated, view.configured

    assert seen() == (False, False)
    Path(places.etc, "qpsmtpd/plugins").write_text("# not mf_canary_too\nmf_canary\n")
    for stamp, outdated in (("99.5", False), ("100.5", True), ('"x"', False)):
        Path(places.parts).write_text(f'{{"mf_exim": 900.0, "qpsmtpd": {stamp}}}')
        assert seen() == (outdated, True)


def test_the_deadline_counts_from_the_first_look(places: state.Places) -> None:
    with server(silent) as port:
        begun = time.monotonic()
        rest = hot.look(places, {**VALUES, "port": port, "dialogue": 0.3})
        assert not isinstance(rest, state.Result)
    examined: list[smtp_diagnose.Examination] = []

    def result(self: smtp_diagnose.Examination, first: Dialogue) -> state.Result:
        examined.append(self)
        return state.Result("smtp", state.OK, first.words())

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(smtp_diagnose.Examination, "result", result)
        rest(False)
    assert examined[0].give_up - VALUES["deadline"] + smtp_diagnose.SPARE == pytest.approx(begun, abs=0.1)


def test_a_second_look_that_is_fine_acts_not(places: state.Places) -> None:
    scene = Scene(places, [FROZEN, HEALED])
    result = scene.go()
    assert scene.done == []
    assert result.status == state.OK
    assert "at the second look" in result.summary


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
    for looks in ([(unable, View())], [FROZEN, (unable, View())], [GONE, (unable, GONE[1])]):
        scene = Scene(places, looks)
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


def test_a_breaker_that_cannot_remember_allows_nothing(places: state.Places) -> None:
    # files in the place of both directories: works for root, too
    for folder in (places.persistent, places.results):
        os.rmdir(folder)
        Path(folder).write_text("")
    scene = Scene(places, [FROZEN, FROZEN, HEALED])
    result = scene.go()
    assert scene.done == []
    assert result.status == state.CRITICAL
    assert "no restart: the circuit breaker can't be stored" in result.summary
    assert decided(places) == [("restart", "refused")]


def test_a_stopped_unit_stays_stopped(places: state.Places) -> None:
    scene = Scene(places, [(REFUSING, View("inactive", listening=False, ours=False))])
    assert scene.go().status == state.CRITICAL
    assert scene.done == []


def test_maintenance_only_looks(places: state.Places) -> None:
    maintenance.on(places, "operator", "new disk", 600)
    scene = Scene(places, [FROZEN, FROZEN])
    result = scene.go()
    assert scene.done == []
    assert "maintenance (new disk)" in result.summary
    assert ("restart", "refused") in decided(places)
    assert breaker.load(places, VALUES["unit"]).restarts == ()


def test_another_action_under_way(places: state.Places) -> None:
    scene = Scene(places, [FROZEN, FROZEN])
    with state.Lock(places, state.ACTION) as held:
        assert held
        result = scene.go()
    assert scene.done == []
    assert "another action is under way" in result.summary
    assert result.status == state.CRITICAL


def test_a_dry_run_does_and_stores_nothing(places: state.Places) -> None:
    scene = Scene(places, [FROZEN, FROZEN], dry_run=True)
    result = scene.go()
    assert scene.done == []
    # nor keeps others from acting while it looks again
    assert scene.locked == [False, False]
    assert result.actions == ["would restart qpsmtpd.service"]
    assert os.listdir(places.persistent) == []
    assert decided(places) == []


def test_a_restart_that_did_not_cure_is_not_repeated_before_something_changes(
    places: state.Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, start = [10_000.0], ["first"]
    monkeypatch.setattr(state, "boottime", lambda: clock[0])
    monkeypatch.setattr(smtp_diagnose, "service_start", lambda _: start[0])
    os.makedirs(os.path.dirname(places.current), exist_ok=True)
    os.symlink("releases/one", places.current)

    class Acting(Scene):
        def act(self, action: str, limit: float) -> None:
            super().act(action, limit)
            start[0] = f"by the check at {clock[0]}"

    def minutes(count: int, *looks: tuple[Dialogue, View]) -> int:
        restarts = 0
        for _ in range(count):
            scene = Acting(places, list(looks))
            result = scene.go()
            restarts += len(scene.done)
            state.write_result(places, result, generation="a", started=1.0, period=60, slack=60)
            clock[0] += 60
            if looks[0] in (FROZEN, NONSENSE) and not scene.done:
                assert result.status == state.CRITICAL
                assert "a restart did not cure it; not tried again before something changes" in result.summary
        return restarts

    assert minutes(30, FROZEN, FROZEN, FROZEN) == 1
    # neither a moment of another trouble nor one in which nothing could be known changes anything
    assert minutes(2, (MUTE, FULL)) == 0
    assert minutes(2, (ended(UNTRIED, "connect"), View())) == 0
    assert minutes(5, FROZEN, FROZEN, FROZEN) == 0
    # another symptom
    assert minutes(30, NONSENSE, NONSENSE, NONSENSE) == 1
    # another start, by a person
    start[0] = "by hand"
    assert minutes(60, NONSENSE, NONSENSE, NONSENSE) == 1
    # another release
    os.unlink(places.current)
    os.symlink("releases/two", places.current)
    assert minutes(60, NONSENSE, NONSENSE, NONSENSE) == 1
    # it worked in between
    clock[0] += 3 * 3600
    state.write_result(places, state.Result("smtp", state.OK, ""), generation="a", started=1.0, period=60, slack=60)
    assert minutes(60, NONSENSE, NONSENSE, NONSENSE) == 1


def test_a_restart_that_never_works_opens_the_breaker(places: state.Places, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [10_000.0]
    monkeypatch.setattr(state, "boottime", lambda: clock[0])
    # nothing is remembered of the former result here: as if something had changed each time
    restarts = []
    for minute in range(100):
        scene = Scene(places, [FROZEN, FROZEN, FROZEN])
        result = scene.go()
        assert result.status == state.CRITICAL
        restarts += [minute] * len(scene.done)
        clock[0] += 60
    # three at once; half-open after 15, 30 and 60 minutes of back-off, each failing
    assert restarts == [0, 1, 2, 18, 48]
    assert "circuit breaker is open" in result.summary
    scene = Scene(places, [FROZEN, FROZEN, HEALED])
    clock[0] += 3600
    assert scene.go().status == state.WARNING
    assert breaker.load(places, VALUES["unit"]).phase(clock[0]) == breaker.CLOSED


def test_what_stands_behind_cannot_be_seen(places: state.Places) -> None:
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


PLAIN = talking(EHLO=b"250 here\r\n")


def attempt(problem: str = "", days: float | None = 90) -> starttls.Attempt:
    found = starttls.Attempt()
    found.problem = problem
    found.timings = {"greeting": 0.1, "starttls": 0.2, "tls": 0.3}
    found.expires = None if days is None else time.time() + days * 86400
    return found


@pytest.mark.parametrize(
    ("offered", "found", "status", "words"),
    [
        (True, attempt(), state.OK, "TLS works"),
        (True, attempt(days=None), state.OK, "TLS works"),
        (True, attempt(days=13.6), state.WARNING, "the certificate ends in 14 days"),
        (True, attempt(days=-1.2), state.CRITICAL, "the certificate ended 1 days ago"),
        (True, attempt("silence at tls"), state.CRITICAL, "STARTTLS is offered and broken: silence at tls"),
        (False, None, state.CRITICAL, "STARTTLS isn't offered though it is configured"),
    ],
)
def test_the_verdict_on_starttls(offered: bool, found: starttls.Attempt | None, status: str, words: str) -> None:
    verdict = smtp_verdict.tls_verdict(offered, found, time.time(), 14)
    assert verdict[0] == status
    assert verdict[1].startswith(words)


def test_how_early_a_certificate_is_warned_of_is_the_hosts_choice() -> None:
    """One of six days has always less than fourteen left."""
    for days, warning, status in ((5, 2, state.OK), (1.5, 2, state.WARNING), (1, 0, state.OK), (-1, 0, state.CRITICAL)):
        assert smtp_verdict.tls_verdict(True, attempt(days=days), time.time(), warning)[0] == status


def test_a_good_handshake_counts_for_a_while(
    places: state.Places, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries: list[int] = []

    def shake(_: object) -> starttls.Attempt:
        tries.append(1)
        return attempt()

    monkeypatch.setattr(smtp_diagnose.Examination, "handshake", shake)
    monkeypatch.setattr(hot, "STARTS", f"{tmp_path}/start:")
    os.symlink("first", f"{tmp_path}/start:qpsmtpd.service")
    with server(talking()) as port:
        values = {**VALUES, "port": port}

        def one() -> state.Result:
            outcome = hot.look(places, values)
            result = outcome if isinstance(outcome, state.Result) else outcome(False)
            state.write_result(places, result, generation="a", started=1.0, period=60, slack=70)
            return result

        first = one()
        assert (first.status, len(tries)) == (state.OK, 1)
        assert first.summary.endswith("; TLS works")
        assert (first.metrics["starttls_seconds"], first.metrics["tls_seconds"]) == (0.2, 0.3)
        until = first.metrics[hot.TLS_GOOD]
        assert one().metrics[hot.TLS_GOOD] == until
        assert len(tries) == 1
        os.unlink(f"{tmp_path}/start:qpsmtpd.service")
        os.symlink("second", f"{tmp_path}/start:qpsmtpd.service")
        one()
        one()
        assert len(tries) == 2  # the service was started again in between
        later = state.boottime() + hot.TLS_EVERY + 1
        monkeypatch.setattr(state, "boottime", lambda: later)
        one()
        assert len(tries) == 3


def test_a_broken_handshake_is_tried_again_each_run(places: state.Places, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(smtp_diagnose.Examination, "handshake", lambda _: attempt("silence at tls"))
    with server(talking()) as port:
        for _ in range(2):
            outcome = hot.look(places, {**VALUES, "port": port})
            assert not isinstance(outcome, state.Result)
            result = outcome(False)
            assert result.status == state.CRITICAL
            assert hot.TLS_GOOD not in result.metrics
            state.write_result(places, result, generation="a", started=1.0, period=60, slack=70)


@pytest.mark.parametrize(
    ("before", "view", "status", "words"),
    [
        (ended(TEMPORARY, "greeting", 421), View(), state.WARNING, "BUSY: 421 at greeting"),
        (MUTE, FULL, state.WARNING, "BUSY: no greeting: all 15 child slots are taken"),
        (ended(UNTRIED, "connect"), View(), state.UNKNOWN, "UNKNOWN: this host can't ask"),
        (ended(CLOSED), View(), state.OK, "accepted, at the second look"),
    ],
)
def test_what_ends_before_starttls_is_judged_as_any_dialogue(
    places: state.Places, before: Dialogue, view: View, status: str, words: str
) -> None:
    class Early(Scene):
        def handshake(self) -> starttls.Attempt:
            found = attempt("it ended early")
            found.before = before
            return found

    offering = ended(ACCEPTED, "message", 250)
    offering.starttls = True
    scene = Early(places, [(offering, view), HEALED])
    result = scene.go()
    assert (result.status, result.summary[: len(words)]) == (status, words)
    assert scene.done == []


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
def test_full_is_who_works_and_has_no_slot_left(dialogue: Dialogue, view: View, full: bool) -> None:
    assert smtp_verdict.is_full(dialogue, view, 15) is full


def test_that_it_is_full_stands_in_the_result(places: state.Places) -> None:
    """The gate of a deploy and the budget read it there."""
    assert Scene(places, [(MUTE, FULL)]).go().metrics["full"] == 1
    assert Scene(places, [(ended(TEMPORARY, "greeting", 421), FULL)]).go().metrics["full"] == 0


def test_starttls_that_is_configured_must_be_offered(places: state.Places) -> None:
    with server(PLAIN) as port:
        result = hot.look(places, {**VALUES, "port": port})
        assert isinstance(result, state.Result)
        assert result.status == state.OK
        rest = hot.look(places, {**VALUES, "port": port, "starttls": 1})
    assert not isinstance(rest, state.Result)
    assert rest(False).status == state.CRITICAL


def test_the_hot_look(places: state.Places) -> None:
    with server(PLAIN) as port:
        result = hot.look(places, {**VALUES, "port": port})
    assert isinstance(result, state.Result)
    assert result.status == state.OK
    assert result.metrics["starttls"] == 0
    assert {stage + "_seconds" for stage in smtp.STAGES} <= set(result.metrics)
    with server(silent) as port:
        rest = hot.look(places, {**VALUES, "port": port, "dialogue": 0.3})
    assert not isinstance(rest, state.Result)


def test_the_plugin_says_what_the_check_listens_for() -> None:
    plugins = Path(__file__).parents[2] / "roles/qpsmtpd/files/lib/qpsmtpd/plugins"
    assert f"return DENY, '{smtp_verdict.NOBODYS}' unless" in (plugins / "mf_domains").read_text()
