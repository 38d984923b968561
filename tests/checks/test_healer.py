"""What check-smtp does about a broken service, and what forbids it."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from mf import maintenance, smtp, state
from mf.smtp import SILENT, UNTRIED, Dialogue
from mf_checks import breaker, healer, smtp_diagnose
from mf_checks.smtp_verdict import View

from tests.checks.conftest import (
    FROZEN,
    FULL,
    GONE,
    HEALED,
    LIMIT,
    MUTE,
    NONSENSE,
    VALUES,
    Scene,
    decided,
    ended,
)
from tests.core.conftest import server, silent, talking

pytestmark = pytest.mark.usefixtures("quick")


def test_a_frozen_master_is_restarted(places: state.Places) -> None:
    scene = Scene(places, [FROZEN, FROZEN, HEALED])
    result = scene.go()
    assert scene.done == ["restart"]
    assert scene.locked == [False, True]
    assert result.status == state.WARNING
    assert result.summary.startswith("restarted, works again; it was WEDGED: the master is frozen")
    assert scene.recorded_before == [("restart", "begun")]
    assert decided(places) == [("restart", "begun"), ("restart", "done")]
    assert len(breaker.load(places, VALUES["unit"]).restarts) == 1


def test_a_frozen_master_gets_a_shorter_confirmation(places: state.Places) -> None:
    frozen = Scene(places, [FROZEN, FROZEN, HEALED])
    frozen.go()
    assert frozen.limits[0] == smtp_diagnose.CONFIRM
    deaf = (MUTE, View(waiting=3))
    for probes in ([deaf, deaf, HEALED], [GONE, GONE, HEALED]):
        scene = Scene(places, probes)
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


@pytest.mark.parametrize("probes", [[FROZEN, FROZEN, HEALED], [GONE, GONE, HEALED]])
def test_an_action_leaves_time_to_test_again(places: state.Places, probes: list[tuple[Dialogue, View]]) -> None:
    deadline = VALUES["deadline"]
    scene = Scene(places, probes, ago=30)
    assert scene.go().status == state.WARNING
    # the wait for it, the test after it and a moment to write it down fit into what is left
    assert (
        deadline - 30 - LIMIT - 2 * smtp_diagnose.SPARE
        < scene.allowed[0]
        <= deadline - 30 - LIMIT - smtp_diagnose.SPARE
    )


def test_an_action_without_time_to_test_again_is_not_begun(places: state.Places) -> None:
    deadline = VALUES["deadline"]
    scene = Scene(places, [FROZEN, FROZEN], ago=deadline - LIMIT - smtp_diagnose.SPARE - healer.LEAST + 0.1)
    result = scene.go()
    assert scene.done == []
    assert result.status == state.CRITICAL
    assert "no restart: too little of this run's time is left" in result.summary
    assert decided(places) == [("restart", "refused")]
    assert breaker.load(places, VALUES["unit"]).restarts == ()


def test_the_test_after_an_action_ends_before_the_deadline(places: state.Places) -> None:
    for behave in (silent, talking(late=("dot", 60))):
        with server(behave) as port:
            begun = time.monotonic()
            # the action took all that it was given, and more
            late = begun + 1.5 + smtp_diagnose.SPARE - VALUES["deadline"]
            scene = smtp_diagnose.Diagnosis({**VALUES, "port": port}, dry_run=True, places=places, begun=late)
            assert scene.retest().outcome == SILENT
            assert time.monotonic() - begun < 5


def test_a_process_gone_without_an_answer_is_confirmed_briefly_and_restarted(places: state.Places) -> None:
    gone = (ended(SILENT, "message", stall=20, session=False), View())
    scene = Scene(places, [gone, gone, HEALED])
    result = scene.go()
    assert scene.done == ["restart"]
    assert scene.limits[0] == smtp_diagnose.CONFIRM
    assert result.summary.startswith(
        "restarted, works again; it was WEDGED: silence after the final dot: the session's"
    )


def test_an_outdated_service_that_refuses_the_canary_is_restarted(places: state.Places) -> None:
    refusing = (ended(smtp.REFUSED, "rcpt", 550, text="5.7.1 relaying denied"), View())
    scene = Scene(places, [refusing, refusing, HEALED])
    result = scene.go()
    assert scene.done == ["restart"]
    assert result.summary.startswith("restarted, works again; it was REFUSED: 550 at rcpt: 5.7.1 relaying denied; the")


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


def test_under_maintenance_it_only_reports(places: state.Places) -> None:
    maintenance.on(places, "operator", "new disk", 600)
    scene = Scene(places, [FROZEN, FROZEN])
    result = scene.go()
    assert scene.done == []
    assert "maintenance (new disk)" in result.summary
    assert ("restart", "refused") in decided(places)
    assert breaker.load(places, VALUES["unit"]).restarts == ()


def test_another_action_under_way(places: state.Places) -> None:
    scene = Scene(places, [FROZEN, FROZEN])
    with places.lock(state.ACTION) as held:
        assert held
        result = scene.go()
    assert scene.done == []
    assert "another action is under way" in result.summary
    assert result.status == state.CRITICAL


def test_a_dry_run_does_and_stores_nothing(places: state.Places) -> None:
    scene = Scene(places, [FROZEN, FROZEN], dry_run=True)
    result = scene.go()
    assert scene.done == []
    # nor keeps others from acting while it probes again
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

    def minutes(count: int, *probes: tuple[Dialogue, View]) -> int:
        restarts = 0
        for _ in range(count):
            scene = Acting(places, list(probes))
            result = scene.go()
            restarts += len(scene.done)
            state.write_result(places, result, generation="a", started=1.0, period=60, slack=60)
            clock[0] += 60
            if probes[0] in (FROZEN, NONSENSE) and not scene.done:
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
    # another start, by an operator
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
