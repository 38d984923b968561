"""Real signals to real processes, and what forbids them."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from mf import state
from mf_checks import killer, orphans, procfs
from mf_checks.orphans import BURNING, GREEDY

from tests.checks.conftest import decisions, diagnosis, executioner, verdict


def test_term_is_enough_for_most(places: state.Places, victim: subprocess.Popen[bytes]) -> None:
    outcomes = executioner(places).end([verdict(victim.pid)])
    assert [outcome for _, outcome in outcomes] == ["TERM"]
    assert victim.wait(2) == -signal.SIGTERM
    assert [entry["outcome"] for entry in decisions(places)] == ["begun", "done: TERM"]
    assert decisions(places)[0]["evidence"]["pid"] == victim.pid


def test_a_stopped_process_takes_its_term(places: state.Places, victim: subprocess.Popen[bytes]) -> None:
    victim.send_signal(signal.SIGSTOP)
    time.sleep(0.1)
    outcomes = executioner(places).end([verdict(victim.pid)])
    assert [outcome for _, outcome in outcomes] == ["TERM"]
    assert victim.wait(2) == -signal.SIGTERM


def test_a_process_that_ignores_term_is_killed(places: state.Places, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(killer, "GRACE", 0.3)
    code = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); time.sleep(100)"
    with subprocess.Popen([sys.executable, "-ISc", code], stdout=subprocess.PIPE) as stubborn:
        assert stubborn.stdout is not None
        stubborn.stdout.readline()
        time.sleep(0.1)
        outcomes = executioner(places).end([verdict(stubborn.pid)])
        assert [outcome for _, outcome in outcomes] == ["KILL"]
        assert stubborn.wait(2) == -signal.SIGKILL


def test_a_process_that_moved_since_is_spared(places: state.Places, victim: subprocess.Popen[bytes]) -> None:
    victim_verdict = verdict(victim.pid)
    victim_verdict.process.progress = (victim_verdict.process.progress[0] + 1, *victim_verdict.process.progress[1:])
    assert [outcome for _, outcome in executioner(places).end([victim_verdict])] == ["spared"]
    assert victim.poll() is None
    assert [entry["outcome"] for entry in decisions(places)] == ["spared: it moved or was replaced"]


def test_a_real_fire_is_seen_and_ended(places: state.Places, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(orphans, "BURNT", 0.1)
    with subprocess.Popen([sys.executable, "-ISc", "while True: pass"], stdin=subprocess.DEVNULL) as fire:
        try:
            # once its start is over it reads nothing any more
            before = verdict(fire.pid).process
            while (now := verdict(fire.pid).process).stat.cpu - before.stat.cpu < 0.2 * procfs.TICK:
                before = before if now.moved == before.moved else now
                time.sleep(0.02)
            memory = orphans.progress_of([before], {}, 40)
            assert orphans.burns_for(now, memory, 100) == 60
            assert orphans.quiet_for(now, memory, 100) == 0
            # it uses more CPU until the signal comes, which spares no one that burns
            while (stat := procfs.read_stat(fire.pid)) is not None and stat.cpu <= now.stat.cpu:
                time.sleep(0.01)
            doomed = orphans.Verdict(now, BURNING, 60, kill=True)
            assert [outcome for _, outcome in executioner(places).end([doomed])] == ["TERM"]
        finally:
            fire.kill()


@pytest.mark.parametrize(("cap", "outcome"), [(-1, "TERM"), (10, "spared")])
def test_a_greedy_one_is_ended_though_it_moves(
    places: state.Places, victim: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch, cap: int, outcome: str
) -> None:
    monkeypatch.setattr(orphans, "CAP", cap)
    process = verdict(victim.pid).process
    process.progress = (0, 0, 0)
    assert [done for _, done in executioner(places).end([orphans.Verdict(process, GREEDY, 0, kill=True)])] == [outcome]


def test_a_reused_pid_is_spared(places: state.Places, victim: subprocess.Popen[bytes]) -> None:
    victim_verdict = verdict(victim.pid)
    victim_verdict.process.stat.start -= 1
    assert [outcome for _, outcome in executioner(places).end([victim_verdict])] == ["spared"]
    assert victim.poll() is None


def test_a_process_that_ended_is_spared(places: state.Places, victim: subprocess.Popen[bytes]) -> None:
    victim_verdict = verdict(victim.pid)
    victim.kill()
    victim.wait()
    assert [outcome for _, outcome in executioner(places).end([victim_verdict])] == ["spared"]


@pytest.mark.parametrize("error", [errno.ENOSYS, errno.EMFILE])
def test_without_a_pidfd_no_process_is_killed_and_that_is_reported(
    places: state.Places, victim: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch, error: int
) -> None:
    def refuse(pid: int) -> int:
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr("os.pidfd_open", refuse)
    result = state.Result("processes", state.OK, "")
    summary = diagnosis(places).kill([verdict(victim.pid)], result)
    assert "1 out of reach" in summary
    assert result.status == state.CRITICAL
    assert victim.poll() is None
    assert [entry["outcome"] for entry in decisions(places)] == [f"failed: no pidfd ({os.strerror(error)})"]


def test_maintenance_kills_no_process(places: state.Places, victim: subprocess.Popen[bytes]) -> None:
    until = state.boottime() + 600
    Path(places.maintenance).write_text(
        state.encode({"owner": "operator", "reason": "disk swap", "since": until - 700, "until": until})
    )
    result = state.Result("processes", state.OK, "")
    diagnosis(places).kill([verdict(victim.pid)], result)
    assert victim.poll() is None
    assert result.status == state.WARNING
    assert [entry["outcome"] for entry in decisions(places)] == ["refused"]


def test_maintenance_that_begins_during_the_wait_kills_no_process(
    places: state.Places, victim: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    until = state.boottime() + 600
    begun = state.encode({"owner": "operator", "reason": "disk swap", "since": until - 700, "until": until})

    class Waiting(state.Lock):
        def __enter__(self) -> bool:
            Path(places.maintenance).write_text(begun)
            return super().__enter__()

    monkeypatch.setattr(state, "Lock", Waiting)
    diagnosis(places).kill([verdict(victim.pid)], state.Result("processes", state.OK, ""))
    assert victim.poll() is None
    assert [entry["outcome"] for entry in decisions(places)] == ["refused"]


def test_a_held_action_lock_kills_no_process(
    places: state.Places, victim: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(killer, "LOCK_WAIT", 0.1)
    with places.lock(state.ACTION) as held:
        assert held
        diagnosis(places).kill([verdict(victim.pid)], state.Result("processes", state.OK, ""))
    assert victim.poll() is None
