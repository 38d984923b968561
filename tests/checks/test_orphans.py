"""The verdicts on qpsmtpd processes, and what is remembered of them."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mf_checks import orphans, procfs
from mf_checks.orphans import BLOCKED, BURNING, FOREIGN, GREEDY, ORPHAN, STUCK, UNREADABLE, ZOMBIE, Process
from mf_checks.procfs import QUIET, Stat

NOW = 100_000.0


MASTER = (1000, 500)


LIMIT = 1800.0


CPU = 60.0  # seconds of it


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
    message: float | None = None,
) -> Process:
    return Process(
        Stat(pid, b"/usr/bin/qpsmtp", state_, parent, start, progress[0]),
        age=age,
        ours=ours,
        in_unit=in_unit,
        listens=listens,
        progress=progress,
        message=message,
    )


BOSS = a(MASTER[0], parent=1, start=MASTER[1], listens=True, age=99_999)


def memory_of(*some: Process, ago: float = 60.0) -> dict[str, Any]:
    return {process.key: {"progress": list(process.progress), "since": NOW - ago} for process in some}


def judged(*some: Process, before: dict[str, Any] | None = None, lasting: set[str] | None = None) -> list[Any]:
    memory = memory_of(*some) if before is None else before
    return [
        (verdict.process.stat.pid, verdict.kind, verdict.kill, verdict.report)
        for verdict in orphans.decide([BOSS, *some], MASTER, memory, NOW, (LIMIT, CPU), lasting or set())
    ]


def test_a_healthy_service() -> None:
    assert judged(a(11), a(12), a(13, age=1799)) == []


def test_the_master_is_never_judged() -> None:
    boss = a(MASTER[0], parent=1, start=MASTER[1], listens=None, in_unit=False, age=99_999)
    assert orphans.decide([boss], MASTER, memory_of(boss), NOW, (LIMIT, CPU)) == []


def test_an_orphan_without_progress_dies() -> None:
    assert judged(a(11, parent=1)) == [(11, ORPHAN, True, True)]


def test_an_orphan_at_first_sight_is_watched() -> None:
    assert judged(a(11, parent=1), before={}) == [(11, ORPHAN, False, False)]


@pytest.mark.parametrize("progress", [(6, 500, 0), (5, 501, 0), (5, 500, 9)])
def test_an_orphan_that_moves_lives(progress: tuple[int, ...]) -> None:
    assert judged(a(11, parent=1, progress=progress), before=memory_of(a(11))) == [(11, ORPHAN, False, False)]


def test_a_stuck_session_dies_and_a_long_one_that_moves_lives() -> None:
    assert judged(a(11, age=1801)) == [(11, STUCK, True, True)]
    assert judged(a(11, age=1801, progress=(6, 9999, 0)), before=memory_of(a(11))) == [(11, STUCK, False, False)]
    assert judged(a(11, age=1799)) == []


# ticks of CPU at the run before and now: more than its limit
BEFORE, BURNT = int(70 * procfs.TICK), int(100 * procfs.TICK)


def test_a_session_that_burns_dies() -> None:
    before = orphans.progress_of([a(11, progress=(BEFORE, 500, 0))], {}, NOW - 60)
    burning = a(11, progress=(BURNT, 500, 0))
    assert judged(burning, before=before) == [(11, BURNING, True, True)]
    (verdict,) = orphans.decide([BOSS, burning], MASTER, before, NOW, (LIMIT, CPU))
    assert verdict.why() == "100 s of CPU and not a byte moved for 60 s"
    # an old one and an orphan too, though their CPU was once their progress
    assert judged(a(11, age=9999, progress=(BURNT, 500, 0)), before=before) == [(11, BURNING, True, True)]
    assert judged(a(11, parent=1, progress=(BURNT, 500, 0)), before=before) == [(11, BURNING, True, True)]


@pytest.mark.parametrize(
    "progress",
    [
        (BURNT, 501, 0),  # it read or wrote
        (BURNT, 500, 9),  # it has something to send
        (BEFORE, 500, 0),  # it waits for its client, after a long but honest day
        (BEFORE + int(0.5 * procfs.TICK), 500, 0),
    ],
)
def test_a_session_that_used_much_cpu_and_moves_or_waits_lives(progress: tuple[int, ...]) -> None:
    before = orphans.progress_of([a(11, progress=(BEFORE, 500, 0))], {}, NOW - 60)
    assert judged(a(11, progress=progress), before=before) == [(11, BURNING, False, False)]


def test_cpu_up_to_the_limit_is_progress() -> None:
    before = orphans.progress_of([a(11, progress=(100, 500, 0))], {}, NOW - 60)
    assert judged(a(11, progress=(int(CPU * procfs.TICK), 500, 0)), before=before) == []


def test_one_run_or_two_within_a_minute_are_no_proof_of_burning() -> None:
    burning = a(11, progress=(BURNT, 500, 0))
    assert judged(burning, before={}) == [(11, BURNING, False, False)]
    before = orphans.progress_of([a(11, progress=(BEFORE, 500, 0))], {}, NOW - 44)
    assert judged(burning, before=before) == [(11, BURNING, False, False)]


def test_a_fire_with_little_of_the_cpu_is_seen_in_the_end() -> None:
    """On a host with many of them each gets a share that is small within a minute."""
    memory: dict[str, Any] = {}
    kills = []
    for minute in range(6):
        session = a(11, progress=(BEFORE + int(0.3 * minute * procfs.TICK), 500, 0))
        kills += [verdict.kill for verdict in orphans.decide([BOSS, session], MASTER, memory, NOW, (LIMIT, CPU))]
        memory = orphans.progress_of([session], memory, NOW - 3600 + 60 * minute)
    assert kills == [False, False, False, False, True, True]


def test_a_session_that_talks_without_end_dies() -> None:
    """An hour of a whole core, with bytes moved in each minute."""
    memory: dict[str, Any] = {}
    kinds = []
    for minute in range(60):
        session = a(11, age=60.0 * minute, progress=(int(60 * minute * procfs.TICK), 500 * minute, 0))
        kinds += [
            verdict.kind
            for verdict in orphans.decide([BOSS, session], MASTER, memory, NOW, (LIMIT, CPU))
            if verdict.kill
        ]
        memory = orphans.progress_of([session], memory, NOW - 3600 + 60 * minute)
    assert kinds == [GREEDY] * 49
    (verdict,) = orphans.decide([BOSS, session], MASTER, {}, NOW, (LIMIT, CPU))
    assert verdict.why() == "3540 s of CPU, more than 10 times the limit"


def test_a_greedy_session_may_finish_its_message() -> None:
    spent = (int(10 * CPU * procfs.TICK) + 1, 500, 0)
    assert judged(a(11, progress=(spent[0] - 1, 500, 0)), before={}) == [(11, BURNING, False, False)]
    assert judged(a(11, progress=spent), before={}) == [(11, GREEDY, True, True)]
    assert judged(a(11, progress=spent, message=LIMIT), before={}) == [(11, BURNING, False, False)]
    # longer than any session: the largest message takes no such time
    assert judged(a(11, progress=spent, message=LIMIT + 1), before={}) == [(11, GREEDY, True, True)]


def test_a_stopped_process_is_stuck_like_any_other() -> None:
    assert judged(a(11, age=1801, state_="T")) == [(11, STUCK, True, True)]


def test_two_runs_within_a_minute_are_no_proof() -> None:
    session = a(11, parent=1)
    assert judged(session, before=memory_of(session, ago=QUIET - 1)) == [(11, ORPHAN, False, False)]
    assert judged(session, before=memory_of(session, ago=QUIET)) == [(11, ORPHAN, True, True)]


def test_a_reused_number_is_another_process() -> None:
    assert judged(a(11, parent=1, start=900), before=memory_of(a(11, start=700))) == [(11, ORPHAN, False, False)]


def test_a_decoy_lives() -> None:
    assert judged(a(11, parent=1, ours=False, age=99_999)) == []


def test_an_unidentified_process_lives_and_is_reported() -> None:
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
    session = a(11, parent=1)
    verdicts = orphans.decide([session], None, memory_of(session), NOW, (LIMIT, CPU))
    assert [(verdict.kind, verdict.kill) for verdict in verdicts] == [(ORPHAN, True)]


def test_the_quietest_come_first() -> None:
    recent, quietest = a(11, parent=1), a(12, parent=1)
    memory = {**memory_of(recent, ago=100), **memory_of(quietest, ago=5000)}
    assert [pid for pid, *_ in judged(recent, quietest, before=memory)] == [12, 11]


def test_memory_keeps_since_while_nothing_moves() -> None:
    session = a(11)
    first = orphans.progress_of([session], {}, NOW)
    later = orphans.progress_of([session], first, NOW + 60)
    assert later[session.key]["since"] == NOW  # type: ignore[index, call-overload]
    moved = orphans.progress_of([a(11, progress=(9, 9, 9))], later, NOW + 120)
    assert moved[session.key]["since"] == NOW + 120  # type: ignore[index, call-overload]


@given(
    st.dictionaries(st.just("11:700"), st.none() | st.integers() | st.text() | st.dictionaries(st.text(), st.text()))
)
def test_a_corrupt_memory_kills_no_process(memory: dict[str, Any]) -> None:
    assert judged(a(11, parent=1), before=memory) == [(11, ORPHAN, False, False)]
