"""Processes in /proc (man 5 proc): one scan, and the processes in it that need a diagnosis. Fast path.

Which processes are judged, and on what evidence, is in ``mf_checks.orphans`` and ``mf_checks.process_evidence``.
"""

from __future__ import annotations

import posix

from mf import state

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

QUIET = 45.0  # seconds without progress, at least, between two runs: cron's minute less its jitter
MASTER = "/service.master"  # below places.results: "PID START UID" of the master, for the fast path
TICK = posix.sysconf("SC_CLK_TCK")  # clock ticks a second in /proc/*/stat


class Stat:
    """The fields of one /proc/PID/stat that matter here. ``start`` and ``cpu`` are clock ticks; start since boot."""

    __slots__ = ("comm", "cpu", "parent", "pid", "start", "state")

    def __init__(self, pid: int, comm: bytes, state_: str, parent: int, start: int, cpu: int) -> None:
        self.pid = pid
        self.comm = comm
        self.state = state_
        self.parent = parent
        self.start = start
        self.cpu = cpu

    def age(self, boottime: float) -> float:
        """Seconds since it was created."""
        return boottime - self.start / TICK


def parse_stat(line: bytes) -> Stat | None:
    """One /proc/PID/stat, at least up to its 22nd field; None for anything else. The name may hold any byte."""
    head, bracket, tail = line.rpartition(b")")
    pid, opening, comm = head.partition(b" (")
    fields = tail.split()
    if not bracket or not opening or len(fields) < 20 or len(fields[0]) != 1:
        return None
    try:
        return Stat(
            int(pid),
            comm,
            fields[0].decode("ascii"),
            int(fields[1]),
            int(fields[19]),
            int(fields[11]) + int(fields[12]),
        )
    except ValueError:
        return None


def read_stat(pid: int, proc: str = "/proc") -> Stat | None:
    """One process, or None when there is none."""
    return parse_stat(state.content(f"{proc}/{pid}/stat", 4096))


def lines(proc: str = "/proc") -> list[bytes]:
    """The first bytes of every /proc/PID/stat. Fast path: one open, read and close a process and nothing else."""
    stats: list[bytes] = []
    add, open_, read, close = stats.append, posix.open, posix.read, posix.close
    folder = open_(proc, posix.O_RDONLY | posix.O_DIRECTORY | posix.O_CLOEXEC)
    try:
        for name in posix.listdir(folder):
            if name[0] > "9":
                continue
            try:
                descriptor = open_(name + "/stat", posix.O_RDONLY | posix.O_CLOEXEC, dir_fd=folder)
            except OSError:
                continue
            try:
                add(read(descriptor, 640))
            except OSError:
                pass
            finally:
                close(descriptor)
    finally:
        close(folder)
    return stats


def scan(proc: str = "/proc") -> list[Stat]:
    """Every process."""
    return [stat for line in lines(proc) if (stat := parse_stat(line)) is not None]


class Survey:
    """The fast path's scan: the master if it is there, its children, and strangers to diagnose."""

    __slots__ = ("children", "master", "strangers", "total")

    def __init__(self, total: int, master: Stat | None, children: list[Stat], strangers: list[Stat]) -> None:
        self.total = total
        self.master = master
        self.children = children
        self.strangers = strangers


def survey(stats: Sequence[bytes], master: int) -> Survey:
    """Sort the lines of /proc: few of them are parsed.

    A stranger is neither the master nor its child nor its grandchild, and is named like qpsmtpd or perl or has been
    reparented to process 1: the caller checks its user.
    """
    parent = b" %d " % master
    running = None
    children = []
    others = []
    for line in stats:
        end = line.rfind(b")")
        # ") S 1 " : state at end + 2, the parent's number from end + 4
        if line.startswith(parent, end + 3):
            child = parse_stat(line)
            if child is not None:
                children.append(child)
        elif line.startswith(b" 1 ", end + 3) or b"qpsmtp" in line or b"(perl" in line:
            other = parse_stat(line)
            if other is None:
                continue
            if other.pid == master:
                running = other
            else:
                others.append(other)
    family = {child.pid for child in children}
    return Survey(len(stats), running, children, [other for other in others if other.parent not in family])


def sleeping(processes: Sequence[Stat], before: object, now: float) -> dict[str, float]:
    """Zombies and processes in D-state, ``{pid:start: boot-time seconds of first sight}``.

    Both are normal for a moment (the master reaps once a second). First sights are carried from result to result in
    the metric ``asleep``, items of the form ``pid:start@seconds``; ``before`` is that of the former result.
    """
    asleep = {}
    seen = dict([item.split("@", 1) for item in str(before).split() if "@" in item])
    for process in processes:
        if process.state in "DZ":
            key = f"{process.pid}:{process.start}"
            try:
                first = float(seen.get(key, now))
            except ValueError:
                first = now
            asleep[key] = first if 0 < first <= now else now
    return asleep


def sleepers(asleep: Mapping[str, float]) -> str:
    """The metric ``asleep``, of 50 processes at most."""
    return " ".join([f"{key}@{first:.0f}" for key, first in asleep.items()][:50])
