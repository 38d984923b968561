"""run-checks: what is due, and how a round of checks gets on with a bad one among them."""

from __future__ import annotations

import json
import os
import resource
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mf import run, state
from mf_checks import due


@given(st.integers(0, 10**8), st.integers(0, 59), st.integers(1, 1440))
def test_each_period_is_due_once(start: int, offset: int, minutes: int) -> None:
    turns = [minute for minute in range(start, start + minutes) if due.due(minute, offset, minutes * 60)]
    assert len(turns) == 1


@pytest.fixture
def places(tmp_path: Path) -> state.Places:
    places = state.Places(str(tmp_path))
    os.makedirs(places.etc)
    Path(places.settings).write_text('{"generation": "abc"}\n')
    return places


Round = Callable[..., int]


@pytest.fixture
def round_of(places: state.Places, monkeypatch: pytest.MonkeyPatch) -> Round:
    """Run a round of made-up checks, ``name=probe function``, in a process of its own so that forks are its."""

    def go(everything: bool = True, deadline: int = 1, **probes: run.Probe) -> int:
        monkeypatch.setattr(due, "ORDER", tuple(probes))
        monkeypatch.setattr(due, "_check", lambda name, _: run.Check(name, probes[name], {}, ""))
        values: dict[str, dict[str, Any]] = {name: {"period": 60, "deadline": deadline} for name in probes}
        child = os.fork()
        if child == 0:
            code = 99
            try:
                code = due.round_of(values, "abc", places, everything=everything)
            finally:
                os._exit(code)
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

    return go


def stored(places: state.Places, name: str) -> dict[str, Any]:
    result: dict[str, Any] = json.loads(Path(places.results, f"{name}.json").read_text())
    return result


def fine(*_: object) -> state.Result:
    return state.Result("load", state.OK, "fine")


def broken(*_: object) -> state.Result:
    raise RuntimeError("broken")


def odd(status: str = state.WARNING, name: str = "smtp") -> run.Probe:
    def probe(*_: object) -> run.Diagnosis:
        return lambda dry_run: state.Result(name, status, "diagnosed")

    return probe


def test_all_fine(round_of: Round, places: state.Places) -> None:
    assert round_of(load=fine) == 0
    assert stored(places, "load")["status"] == "OK"


def test_one_that_breaks_leaves_the_others_alone(round_of: Round, places: state.Places) -> None:
    assert round_of(processes=broken, load=fine, smtp=odd()) == 3
    assert stored(places, "processes")["status"] == "UNKNOWN"
    assert stored(places, "load")["status"] == "OK"
    assert stored(places, "smtp")["status"] == "WARNING"


def test_the_most_urgent_exit_code_wins(round_of: Round) -> None:
    assert round_of(processes=broken, smtp=odd(state.CRITICAL)) == 2


def test_a_slow_diagnosis_delays_no_other_check(round_of: Round, places: state.Places) -> None:
    other = Path(places.results, "load.json")

    def slow(*_: object) -> run.Diagnosis:
        def diagnose(dry_run: bool) -> state.Result:
            del dry_run
            while not other.exists():
                time.sleep(0.01)
            return state.Result("processes", state.OK, "after the other")

        return diagnose

    assert round_of(deadline=10, processes=slow, load=fine) == 0
    assert stored(places, "processes")["summary"] == "after the other"


def test_a_diagnosis_that_ignores_its_deadline_is_killed(
    round_of: Round, places: state.Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(due, "MERCY", 0.3)

    def deaf(*_: object) -> run.Diagnosis:
        def diagnose(dry_run: bool) -> state.Result:
            del dry_run
            while True:
                try:
                    time.sleep(100)
                except run.DeadlinePassed:
                    pass

        return diagnose

    begun = time.monotonic()
    assert round_of(smtp=deaf, load=fine) == 3
    assert time.monotonic() - begun < 30
    assert "was killed" in stored(places, "smtp")["summary"]
    assert stored(places, "load")["status"] == "OK"


def test_a_diagnosis_that_dies_is_reported(round_of: Round, places: state.Places) -> None:
    def dies(*_: object) -> run.Diagnosis:
        def diagnose(dry_run: bool) -> state.Result:
            del dry_run
            os.kill(os.getpid(), 9)
            return state.Result("smtp", state.OK, "never")

        return diagnose

    assert round_of(smtp=dies) == 3
    assert stored(places, "smtp")["summary"] == "the check was killed by signal 9"


def test_a_diagnosis_that_cannot_publish_is_reported(
    round_of: Round, places: state.Places, capfd: pytest.CaptureFixture[str]
) -> None:
    def probe(*_: object) -> run.Diagnosis:
        return lambda dry_run: state.Result("smtp", "FINE", "no such status")

    assert round_of(smtp=probe, load=fine) == 3
    assert stored(places, "smtp")["summary"] == "the check ended without a result"
    assert "smtp: the result can't be published: KeyError: 'FINE'" in capfd.readouterr().err
    assert stored(places, "load")["status"] == "OK"


def test_no_descriptor_is_needed_to_wait(round_of: Round, places: state.Places) -> None:
    def probe(*_: object) -> run.Diagnosis:
        # its lock is open already; not one more from here to the diagnosis
        free = os.dup(0)
        os.close(free)
        most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (free, most[1]))

        def diagnose(dry_run: bool) -> state.Result:
            resource.setrlimit(resource.RLIMIT_NOFILE, most)
            return state.Result("smtp", state.OK, f"diagnosed {dry_run}")

        return diagnose

    assert round_of(smtp=probe) == 0
    assert stored(places, "smtp")["summary"] == "diagnosed False"


def test_a_diagnosis_may_wait_for_children_of_its_own(round_of: Round, places: state.Places) -> None:
    def probe(*_: object) -> run.Diagnosis:
        def diagnose(dry_run: bool) -> state.Result:
            del dry_run
            blocked = signal.pthread_sigmask(signal.SIG_BLOCK, [])
            return state.Result("smtp", state.OK, f"blocked: {sorted(blocked)}")

        return diagnose

    round_of(smtp=probe)
    assert stored(places, "smtp")["summary"] == "blocked: []"


def test_a_running_check_is_left_alone(round_of: Round, places: state.Places) -> None:
    assert round_of(load=fine) == 0
    before = stored(places, "load")
    with places.lock("load") as held:
        assert held
        assert round_of(load=broken) == 0
    assert stored(places, "load") == before


def test_a_running_check_that_hangs_is_unknown(
    round_of: Round, places: state.Places, capfd: pytest.CaptureFixture[str]
) -> None:
    result = state.Result("load", state.OK, "fine")
    state.write_result(places, result, generation="abc", started=time.time(), period=60, slack=-61)
    before = stored(places, "load")
    with places.lock("load") as held:
        assert held
        assert round_of(load=fine) == 3
    assert "LOAD UNKNOWN - another run is under way, and the last result" in capfd.readouterr().out
    assert stored(places, "load") == before


def test_the_lock_of_a_diagnosis_is_held_until_its_end(round_of: Round, places: state.Places) -> None:
    def probe(*_: object) -> run.Diagnosis:
        def diagnose(dry_run: bool) -> state.Result:
            del dry_run
            time.sleep(0.3)  # by now the parent has closed its own descriptor
            with places.lock("smtp") as held:
                return state.Result("smtp", state.OK, f"free: {held}")

        return diagnose

    round_of(smtp=probe)
    assert stored(places, "smtp")["summary"] == "free: False"


def test_a_check_that_is_not_due_waits(places: state.Places, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(due, "_check", lambda name, _: run.Check(name, fine, {}, ""))
    monkeypatch.setattr(time, "time", lambda: 61 * 60.0)
    values = {"load": {"period": 120, "deadline": 5, "offset": 0}}
    due.round_of(values, "abc", places)
    assert stored(places, "load")["started"] == 3660.0  # it had never run
    monkeypatch.setattr(time, "time", lambda: 63 * 60.0)
    due.round_of(values, "abc", places)
    assert stored(places, "load")["started"] == 3660.0
    monkeypatch.setattr(time, "time", lambda: 64 * 60.0)
    due.round_of(values, "abc", places)
    assert stored(places, "load")["started"] == 3840.0


def test_a_check_that_cannot_be_loaded(places: state.Places) -> None:
    assert due.round_of({"nonsense": {"module": "mf_checks.none", "period": 60, "deadline": 5}}, "abc", places) == 3
    assert "can't be loaded" in stored(places, "nonsense")["summary"]


def test_garbage_instead_of_settings(places: state.Places) -> None:
    assert due.round_of({"load": {"module": "mf_checks.load", "period": "often", "offset": None}}, "abc", places) == 3
    assert "period must be a number" in stored(places, "load")["summary"]
