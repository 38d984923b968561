"""Processes: the parser, the survey, the verdicts, and real signals to real processes."""

from __future__ import annotations

import errno
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mf import state
from mf_checks import orphans, processes_diagnose, procfs, systemd
from mf_checks import processes as check
from mf_checks.orphans import BLOCKED, BURNING, FOREIGN, ORPHAN, STUCK, UNREADABLE, ZOMBIE, Process
from mf_checks.procfs import QUIET, Stat

NOW = 100_000.0
MASTER = (1000, 500)
LIMIT = 1800.0
CPU = 60.0  # seconds of it


def stat_line(
    pid: int, comm: bytes = b"perl", state_: str = "S", parent: int = 1, start: int = 500, cpu: int = 0
) -> bytes:
    return b"%d (%s) %s %d 1 1 0 -1 4194560 5613 0 14 0 %d 7 0 0 20 0 1 0 %d 30265344 6713 184 1 1\n" % (
        pid,
        comm,
        state_.encode(),
        parent,
        cpu,
        start,
    )


def test_a_line_of_stat() -> None:
    stat = procfs.parse_stat(stat_line(1760, b"qpsmtpd-forkser", "S", 1, 223730, 12))
    assert stat is not None
    assert (stat.pid, stat.comm, stat.state, stat.parent, stat.start, stat.cpu) == (
        1760,
        b"qpsmtpd-forkser",
        "S",
        1,
        223730,
        19,
    )


def test_this_process_as_the_kernel_shows_it() -> None:
    stat = procfs.read_stat(os.getpid())
    assert stat is not None
    assert (stat.pid, stat.parent, stat.state) == (os.getpid(), os.getppid(), "R")
    assert 0 <= stat.age(state.boottime()) < 3600


@given(st.binary(max_size=64).filter(lambda name: b"\0" not in name))
@settings(max_examples=1000)
def test_any_name_is_read_right(name: bytes) -> None:
    stat = procfs.parse_stat(stat_line(7, name, "T", 3, 99, 5))
    assert stat is not None
    assert (stat.pid, stat.comm, stat.state, stat.parent, stat.start) == (7, name, "T", 3, 99)


def test_a_name_that_looks_like_the_rest_of_the_line() -> None:
    line = stat_line(7, b"x) S 1 1 1 (perl", "S", 42)
    stat = procfs.parse_stat(line)
    assert stat is not None
    assert stat.parent == 42
    seen = procfs.survey([line], 42)
    assert [child.pid for child in seen.children] == [7]


@given(st.binary(max_size=400) | st.text(max_size=200).map(str.encode))
@settings(max_examples=2000)
def test_garbage_is_no_process(line: bytes) -> None:
    stat = procfs.parse_stat(line)
    assert stat is None or isinstance(stat.pid, int)
    procfs.survey([line, b"1 " + line, line + b") S 1 "], 1)


def test_the_scan_sees_what_ps_sees() -> None:
    mine = {stat.pid for stat in procfs.scan()}
    assert os.getpid() in mine
    assert 1 in mine


def test_survey_sorts() -> None:
    found = procfs.survey(
        [
            stat_line(1, b"systemd", parent=0),
            stat_line(1000, b"qpsmtpd-forkser", parent=1),
            stat_line(1001, b"/usr/bin/qpsmtp", parent=1000),
            stat_line(1002, b"perl", parent=1001),  # a plugin's helper
            stat_line(1003, b"/usr/bin/qpsmtp", parent=1),  # orphan
            stat_line(1004, b"/usr/bin/qpsmtp", parent=77),  # adopted by a subreaper
            stat_line(1005, b"cron", parent=1),
            stat_line(1006, b"bash", parent=77),
            stat_line(10001, b"sshd", parent=10000),
        ],
        1000,
    )
    assert found.total == 9
    assert found.master is not None
    assert [one.pid for one in found.children] == [1001]
    assert [one.pid for one in found.strangers] == [1003, 1004, 1005]


def a(
    pid: int,
    *,
    parent: int = MASTER[0],
    age: float = 60.0,
    ours: bool | None = True,
    in_unit: bool = True,
    listens: bool | None = False,
    state_: str = "S",
    progress: tuple[int, ...] = (5, 500, 0),
    start: int = 700,
) -> Process:
    return Process(
        Stat(pid, b"/usr/bin/qpsmtp", state_, parent, start, progress[0]),
        age=age,
        ours=ours,
        in_unit=in_unit,
        listens=listens,
        progress=progress,
    )


BOSS = a(MASTER[0], parent=1, start=MASTER[1], listens=True, age=99_999)


def seen(*some: Process, ago: float = 60.0) -> dict[str, Any]:
    return {one.key: {"progress": list(one.progress), "since": NOW - ago} for one in some}


def judged(*some: Process, before: dict[str, Any] | None = None, lasting: set[str] | None = None) -> list[Any]:
    memory = seen(*some) if before is None else before
    return [
        (one.process.stat.pid, one.kind, one.kill, one.report)
        for one in orphans.decide([BOSS, *some], MASTER, memory, NOW, (LIMIT, CPU), lasting or set())
    ]


def test_a_healthy_service() -> None:
    assert judged(a(11), a(12), a(13, age=1799)) == []


def test_the_master_is_never_judged() -> None:
    boss = a(MASTER[0], parent=1, start=MASTER[1], listens=None, in_unit=False, age=99_999)
    assert orphans.decide([boss], MASTER, seen(boss), NOW, (LIMIT, CPU)) == []


def test_an_orphan_without_progress_dies() -> None:
    assert judged(a(11, parent=1)) == [(11, ORPHAN, True, True)]


def test_an_orphan_at_first_sight_is_watched() -> None:
    assert judged(a(11, parent=1), before={}) == [(11, ORPHAN, False, False)]


@pytest.mark.parametrize("progress", [(6, 500, 0), (5, 501, 0), (5, 500, 9)])
def test_an_orphan_that_moves_lives(progress: tuple[int, ...]) -> None:
    assert judged(a(11, parent=1, progress=progress), before=seen(a(11))) == [(11, ORPHAN, False, False)]


def test_a_stuck_session_dies_and_a_long_one_that_moves_lives() -> None:
    assert judged(a(11, age=1801)) == [(11, STUCK, True, True)]
    assert judged(a(11, age=1801, progress=(6, 9999, 0)), before=seen(a(11))) == [(11, STUCK, False, False)]
    assert judged(a(11, age=1799)) == []


# ticks of CPU at the run before and now: more than its limit
BEFORE, HOT = int(70 * procfs.TICK), int(100 * procfs.TICK)


def test_a_session_that_burns_dies() -> None:
    before = orphans.remember([a(11, progress=(BEFORE, 500, 0))], {}, NOW - 60)
    burning = a(11, progress=(HOT, 500, 0))
    assert judged(burning, before=before) == [(11, BURNING, True, True)]
    (found,) = orphans.decide([BOSS, burning], MASTER, before, NOW, (LIMIT, CPU))
    assert found.why() == "100 s of CPU and not a byte moved for 60 s"
    # an old one and an orphan too, though their CPU was once their progress
    assert judged(a(11, age=9999, progress=(HOT, 500, 0)), before=before) == [(11, BURNING, True, True)]
    assert judged(a(11, parent=1, progress=(HOT, 500, 0)), before=before) == [(11, BURNING, True, True)]


@pytest.mark.parametrize(
    "progress",
    [
        (HOT, 501, 0),  # it read or wrote
        (HOT, 500, 9),  # it has something to send
        (BEFORE, 500, 0),  # it waits for its client, after a long but honest day
        (BEFORE + int(0.5 * procfs.TICK), 500, 0),
    ],
)
def test_a_session_that_used_much_cpu_and_moves_or_waits_lives(progress: tuple[int, ...]) -> None:
    before = orphans.remember([a(11, progress=(BEFORE, 500, 0))], {}, NOW - 60)
    assert judged(a(11, progress=progress), before=before) == [(11, BURNING, False, False)]


def test_cpu_up_to_the_limit_is_progress() -> None:
    before = orphans.remember([a(11, progress=(100, 500, 0))], {}, NOW - 60)
    assert judged(a(11, progress=(int(CPU * procfs.TICK), 500, 0)), before=before) == []


def test_one_look_or_two_within_a_minute_prove_no_fire() -> None:
    burning = a(11, progress=(HOT, 500, 0))
    assert judged(burning, before={}) == [(11, BURNING, False, False)]
    before = orphans.remember([a(11, progress=(BEFORE, 500, 0))], {}, NOW - 44)
    assert judged(burning, before=before) == [(11, BURNING, False, False)]


def test_a_fire_with_little_of_the_cpu_is_seen_in_the_end() -> None:
    """On a host with many of them each gets a share that is small within a minute."""
    memory: dict[str, Any] = {}
    kills = []
    for minute in range(6):
        one = a(11, progress=(BEFORE + int(0.3 * minute * procfs.TICK), 500, 0))
        kills += [verdict.kill for verdict in orphans.decide([BOSS, one], MASTER, memory, NOW, (LIMIT, CPU))]
        memory = orphans.remember([one], memory, NOW - 3600 + 60 * minute)
    assert kills == [False, False, False, False, True, True]


def test_a_burning_session_makes_the_quick_look_call_for_the_close_one() -> None:
    values = {"session_limit": LIMIT, "session_cpu": CPU}
    master = Stat(MASTER[0], b"qpsmtpd-forkser", "S", 1, MASTER[1], 5)
    for cpu, odd in ((CPU * procfs.TICK, False), (CPU * procfs.TICK + 1, True)):
        child = Stat(11, b"qpsmtpd", "R", MASTER[0], int(10_000 * procfs.TICK), int(cpu))
        survey = procfs.Survey(2, master, [child], [])
        assert check.odd(survey, (*MASTER, 0), values, {}, 10_100.0, "/proc") == odd


def test_a_stopped_process_is_stuck_like_any_other() -> None:
    assert judged(a(11, age=1801, state_="T")) == [(11, STUCK, True, True)]


def test_two_looks_within_a_minute_prove_nothing() -> None:
    one = a(11, parent=1)
    assert judged(one, before=seen(one, ago=QUIET - 1)) == [(11, ORPHAN, False, False)]
    assert judged(one, before=seen(one, ago=QUIET)) == [(11, ORPHAN, True, True)]


def test_a_reused_number_is_somebody_else() -> None:
    assert judged(a(11, parent=1, start=900), before=seen(a(11, start=700))) == [(11, ORPHAN, False, False)]


def test_a_decoy_lives() -> None:
    assert judged(a(11, parent=1, ours=False, age=99_999)) == []


def test_who_cannot_be_identified_lives_and_is_reported() -> None:
    assert judged(a(11, parent=1, ours=None, listens=None, in_unit=False)) == [(11, UNREADABLE, False, True)]


def test_the_master_of_another_service_lives_and_so_do_its_sessions() -> None:
    other = a(50, parent=1, listens=True, in_unit=False, age=99_999)
    assert judged(other, a(51, parent=50)) == [(50, FOREIGN, False, True)]


def test_an_orphan_in_the_unit_dies_where_files_cannot_be_read() -> None:
    assert judged(a(11, parent=1, listens=None)) == [(11, ORPHAN, True, True)]


def test_zombies_and_blocked_processes_are_never_killed() -> None:
    zombie, blocked = a(11, parent=1, state_="Z", age=9999), a(12, parent=1, state_="D", age=9999)
    assert judged(zombie, blocked) == [(11, ZOMBIE, False, False), (12, BLOCKED, False, False)]
    assert judged(zombie, blocked, lasting={zombie.key, blocked.key}) == [
        (11, ZOMBIE, False, True),
        (12, BLOCKED, False, True),
    ]


def test_without_a_master_sessions_are_orphans() -> None:
    one = a(11, parent=1)
    verdicts = orphans.decide([one], None, seen(one), NOW, (LIMIT, CPU))
    assert [(verdict.kind, verdict.kill) for verdict in verdicts] == [(ORPHAN, True)]


def test_the_quietest_come_first() -> None:
    one, two = a(11, parent=1), a(12, parent=1)
    memory = {**seen(one, ago=100), **seen(two, ago=5000)}
    assert [pid for pid, *_ in judged(one, two, before=memory)] == [12, 11]


def test_memory_keeps_since_while_nothing_moves() -> None:
    one = a(11)
    first = orphans.remember([one], {}, NOW)
    later = orphans.remember([one], first, NOW + 60)
    assert later[one.key]["since"] == NOW  # type: ignore[index, call-overload]
    moved = orphans.remember([a(11, progress=(9, 9, 9))], later, NOW + 120)
    assert moved[one.key]["since"] == NOW + 120  # type: ignore[index, call-overload]


@given(
    st.dictionaries(st.just("11:700"), st.none() | st.integers() | st.text() | st.dictionaries(st.text(), st.text()))
)
def test_a_corrupt_memory_kills_nobody(memory: dict[str, Any]) -> None:
    assert judged(a(11, parent=1), before=memory) == [(11, ORPHAN, False, False)]


def test_first_sights_of_sleepers_are_carried() -> None:
    one = Stat(7, b"x", "Z", 1000, 70, 0)
    first = check.sleeping([one, Stat(8, b"x", "S", 1000, 71, 0)], b"", 500.0)
    assert first == {"7:70": 500.0}
    text = f'{{"metrics": {{"asleep": "{check.words(first)}"}}}}'.encode()
    assert check.sleeping([one], text, 560.0) == {"7:70": 500.0}
    assert check.sleeping([one], text, 400.0) == {"7:70": 400.0}
    assert check.sleeping([one], b'"7:70@nonsense ', 560.0) == {"7:70": 560.0}


def test_a_sleepers_number_is_not_the_end_of_anothers() -> None:
    one, other = Stat(12, b"x", "Z", 1000, 345, 0), Stat(112, b"x", "Z", 1000, 345, 0)
    text = f'{{"metrics": {{"asleep": "{check.words({"112:345": 400.0, "12:345": 500.0})}"}}}}'.encode()
    assert check.sleeping([one, other], text, 560.0) == {"12:345": 500.0, "112:345": 400.0}


# real processes


@pytest.fixture
def places(tmp_path: Path) -> state.Places:
    places = state.Places(str(tmp_path))
    for folder in (places.results, places.locks, os.path.dirname(places.decisions)):
        os.makedirs(folder)
    return places


@pytest.fixture
def victim() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(["sleep", "1000"], stdin=subprocess.DEVNULL) as process:
        yield process
        process.kill()


def examination(places: state.Places, cap: int = 5, *, dry_run: bool = False) -> processes_diagnose.Examination:
    values = {"unit": "no-such.service", "user": "root", "script": "/none", "session_limit": 60, "kill_cap": cap}
    values["session_cpu"] = 60
    return processes_diagnose.Examination(places, values, dry_run)


def test_a_close_look_counts_all_processes_as_the_quick_one_does(
    places: state.Places, victim: subprocess.Popen[bytes]
) -> None:
    one = examination(places)
    others = one.collect(os.getuid() + 4711)  # nobody's
    assert others == []
    assert one.scanned > 1  # at least this one and its child


def verdict(pid: int) -> orphans.Verdict:
    stat = procfs.read_stat(pid)
    assert stat is not None
    text = orphans.text_of(f"/proc/{pid}/status")
    values = {"unit": "no-such.service", "script": "/none"}
    process = orphans.evidence(stat, text, values, systemd.sessions(), "/proc")
    return orphans.Verdict(process, ORPHAN, 60.0, kill=True)


def decisions(places: state.Places) -> list[dict[str, Any]]:
    try:
        text = Path(places.decisions).read_bytes()
    except FileNotFoundError:
        return []
    return [one for line in text.splitlines() if (one := state.decode(line)) is not None]


def test_term_is_enough_for_most(places: state.Places, victim: subprocess.Popen[bytes]) -> None:
    outcomes = examination(places).end([verdict(victim.pid)])
    assert [outcome for _, outcome in outcomes] == ["TERM"]
    assert victim.wait(2) == -signal.SIGTERM
    assert [entry["outcome"] for entry in decisions(places)] == ["begun", "done: TERM"]
    assert decisions(places)[0]["evidence"]["pid"] == victim.pid


def test_a_stopped_process_takes_its_term(places: state.Places, victim: subprocess.Popen[bytes]) -> None:
    victim.send_signal(signal.SIGSTOP)
    time.sleep(0.1)
    outcomes = examination(places).end([verdict(victim.pid)])
    assert [outcome for _, outcome in outcomes] == ["TERM"]
    assert victim.wait(2) == -signal.SIGTERM


def test_who_ignores_term_is_killed(places: state.Places, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes_diagnose, "GRACE", 0.3)
    code = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); time.sleep(100)"
    with subprocess.Popen([sys.executable, "-ISc", code], stdout=subprocess.PIPE) as stubborn:
        assert stubborn.stdout is not None
        stubborn.stdout.readline()
        time.sleep(0.1)
        outcomes = examination(places).end([verdict(stubborn.pid)])
        assert [outcome for _, outcome in outcomes] == ["KILL"]
        assert stubborn.wait(2) == -signal.SIGKILL


def test_who_moved_since_the_look_is_spared(places: state.Places, victim: subprocess.Popen[bytes]) -> None:
    one = verdict(victim.pid)
    one.process.progress = (one.process.progress[0] + 1, *one.process.progress[1:])
    assert [outcome for _, outcome in examination(places).end([one])] == ["spared"]
    assert victim.poll() is None
    assert [entry["outcome"] for entry in decisions(places)] == ["spared: it moved or was replaced"]


def test_a_real_fire_is_seen_and_ended(places: state.Places) -> None:
    with subprocess.Popen([sys.executable, "-ISc", "while True: pass"], stdin=subprocess.DEVNULL) as fire:
        try:
            # once its start is over it reads nothing any more
            before = verdict(fire.pid).process
            while (now := verdict(fire.pid).process).stat.cpu - before.stat.cpu < 1.5 * procfs.TICK:
                before = before if now.moved == before.moved else now
                time.sleep(0.05)
            memory = orphans.remember([before], {}, NOW - 60)
            assert orphans.burns_for(now, memory, NOW) == 60
            assert orphans.quiet_for(now, memory, NOW) == 0
            # it uses more CPU until the signal comes, which spares no one that burns
            while (stat := procfs.read_stat(fire.pid)) is not None and stat.cpu <= now.stat.cpu:
                time.sleep(0.01)
            doomed = orphans.Verdict(now, BURNING, 60, kill=True)
            assert [outcome for _, outcome in examination(places).end([doomed])] == ["TERM"]
        finally:
            fire.kill()


def test_a_reused_pid_is_spared(places: state.Places, victim: subprocess.Popen[bytes]) -> None:
    one = verdict(victim.pid)
    one.process.stat.start -= 1
    assert [outcome for _, outcome in examination(places).end([one])] == ["spared"]
    assert victim.poll() is None


def test_who_is_gone_is_spared(places: state.Places, victim: subprocess.Popen[bytes]) -> None:
    one = verdict(victim.pid)
    victim.kill()
    victim.wait()
    assert [outcome for _, outcome in examination(places).end([one])] == ["spared"]


@pytest.mark.parametrize("error", [errno.ENOSYS, errno.EMFILE])
def test_without_a_pidfd_nobody_is_killed_and_that_is_said(
    places: state.Places, victim: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch, error: int
) -> None:
    def refuse(pid: int) -> int:
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr("posix.pidfd_open", refuse)
    result = state.Result("processes", state.OK, "")
    words = examination(places).kill([verdict(victim.pid)], result)
    assert "1 out of reach" in words
    assert result.status == state.CRITICAL
    assert victim.poll() is None
    assert [entry["outcome"] for entry in decisions(places)] == [f"failed: no pidfd ({os.strerror(error)})"]


def test_a_main_process_that_is_no_qpsmtpd_is_unknown_each_time(
    places: state.Places, victim: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    unit = systemd.Unit("active", "running", victim.pid)
    monkeypatch.setattr(systemd, "show", lambda _: unit)
    hot = Path(places.results + check.MASTER)
    hot.write_text("1 2 3\n")
    for _ in range(2):
        result = examination(places).result()
        assert result.status == state.UNKNOWN
        assert f", {victim.pid}, isn't /none of user root" in result.summary
        assert not hot.exists()
    # who has just ended was no master of another kind
    monkeypatch.setattr(systemd, "show", lambda _: systemd.Unit("active", "running", 2**22 + 1))
    assert examination(places).result().status != state.UNKNOWN


def test_the_cap(places: state.Places) -> None:
    crowd = [subprocess.Popen(["sleep", "1000"]) for _ in range(3)]
    try:
        result = state.Result("processes", state.OK, "")
        words = examination(places, 2).kill([verdict(one.pid) for one in crowd], result)
        give_up = time.monotonic() + 10
        while sum(one.poll() is None for one in crowd) > 1 and time.monotonic() < give_up:
            time.sleep(0.01)
        assert sorted(one.poll() is None for one in crowd) == [False, False, True]
        assert result.status == state.CRITICAL
        assert result.metrics["killed"] == 2
        assert "cap of 2" in words
    finally:
        for one in crowd:
            one.kill()
            one.wait()


def test_a_dry_run_kills_nobody(places: state.Places, victim: subprocess.Popen[bytes]) -> None:
    result = state.Result("processes", state.OK, "")
    examination(places, dry_run=True).kill([verdict(victim.pid)], result)
    assert result.actions == [f"would kill orphan {victim.pid}"]
    assert victim.poll() is None
    assert decisions(places) == []


def test_maintenance_kills_nobody(places: state.Places, victim: subprocess.Popen[bytes]) -> None:
    until = state.boottime() + 600
    Path(places.maintenance).write_text(
        state.encode({"owner": "operator", "reason": "disk swap", "since": until - 700, "until": until})
    )
    result = state.Result("processes", state.OK, "")
    examination(places).kill([verdict(victim.pid)], result)
    assert victim.poll() is None
    assert result.status == state.WARNING
    assert [entry["outcome"] for entry in decisions(places)] == ["refused"]


def test_maintenance_that_begins_during_the_wait_kills_nobody(
    places: state.Places, victim: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    until = state.boottime() + 600
    begun = state.encode({"owner": "operator", "reason": "disk swap", "since": until - 700, "until": until})

    class Waiting(state.Lock):
        def __enter__(self) -> bool:
            Path(places.maintenance).write_text(begun)
            return super().__enter__()

    monkeypatch.setattr(state, "Lock", Waiting)
    examination(places).kill([verdict(victim.pid)], state.Result("processes", state.OK, ""))
    assert victim.poll() is None
    assert [entry["outcome"] for entry in decisions(places)] == ["refused"]


def test_a_held_action_lock_kills_nobody(
    places: state.Places, victim: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes_diagnose, "LOCK_WAIT", 0.1)
    with state.Lock(places, state.ACTION) as held:
        assert held
        examination(places).kill([verdict(victim.pid)], state.Result("processes", state.OK, ""))
    assert victim.poll() is None


def test_evidence_names_no_decoy_ours() -> None:
    script = "/usr/bin/qpsmtpd-forkserver"
    decoy = subprocess.Popen([sys.executable, "-ISc", "import time; time.sleep(100)", script, "qpsmtpd"])
    try:
        time.sleep(0.1)
        stat = procfs.read_stat(decoy.pid)
        assert stat is not None
        values = {"unit": "qpsmtpd.service", "script": script}
        status = orphans.text_of(f"/proc/{decoy.pid}/status")
        assert orphans.evidence(stat, status, values, {}, "/proc").ours is False
    finally:
        decoy.kill()
        decoy.wait()


def test_evidence_knows_a_perl_that_has_the_script_open(tmp_path: Path) -> None:
    script = tmp_path / "server"
    script.write_text('$0 = "renamed\\n\\e[31m"; sleep 100;\n__END__\n')
    with subprocess.Popen(["/usr/bin/perl", str(script)]) as process:
        try:
            time.sleep(0.3)
            stat = procfs.read_stat(process.pid)
            assert stat is not None
            values = {"unit": "qpsmtpd.service", "script": str(script)}
            status = orphans.text_of(f"/proc/{process.pid}/status")
            found = orphans.evidence(stat, status, values, systemd.sessions(), "/proc")
            assert found.ours is True
            assert found.listens is False
            assert found.title == "renamed\\n\\x1b[31m"
        finally:
            process.kill()


def test_evidence_names_the_peer_and_where_it_waits() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        program = f"import socket; socket.create_connection(('127.0.0.1', {port})).recv(1)"
        with subprocess.Popen([sys.executable, "-c", program]) as client:
            accepted, _ = listener.accept()
            found: dict[str, Any] = {}
            give_up = time.monotonic() + 10
            while not str(found.get("syscall", "")).isdigit() and time.monotonic() < give_up:
                found = verdict(client.pid).process.evidence()
            client.kill()
            accepted.close()
    assert found["peer"] == "established"
    assert found["address"] == f"127.0.0.1:{port}"
    # what the kernel tells of it differs; here it tells at least one
    assert found["waits"] or found["syscall"].isdigit()
    assert all(one and one.isascii() for one in found["stack"])
