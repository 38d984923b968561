"""Processes as /proc shows them (man 5 proc): a hot survey, evidence, and which qpsmtpd processes may die.

How qpsmtpd 0.94 looks: the master's comm is ``qpsmtpd-forkser``; a child writes ``/usr/bin/qpsmtpd-forkserver [ip :
host : time]`` over its arguments, with what the client's DNS says as host, so names and arguments prove nothing. What
does: the uid, the executable (perl) and the script, which perl keeps open as a file because it ends in ``__END__``,
or, where other users' files can't be read (no CAP_SYS_PTRACE), the unit's cgroup together with the arguments.
"""

from __future__ import annotations

import posix

from . import state

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

QUIET = 45.0  # seconds without progress, at least, between two runs: cron's minute less its jitter
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
    try:
        return parse_stat(state.read_bytes(f"{proc}/{pid}/stat", 4096) or b"")
    except OSError:
        return None


def lines(proc: str = "/proc") -> list[bytes]:
    """The first bytes of every /proc/PID/stat. Hot: one open, read and close a process and nothing else."""
    found: list[bytes] = []
    add, open_, read, close = found.append, posix.open, posix.read, posix.close
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
    return found


def scan(proc: str = "/proc") -> list[Stat]:
    """Every process."""
    return [stat for line in lines(proc) if (stat := parse_stat(line)) is not None]


class Survey:
    """What the hot path sees: is the master there, its children, and strangers that need a closer look."""

    __slots__ = ("children", "master", "strangers", "total")

    def __init__(self, total: int, master: Stat | None, children: list[Stat], strangers: list[Stat]) -> None:
        self.total = total
        self.master = master
        self.children = children
        self.strangers = strangers


def survey(found: Sequence[bytes], master: int) -> Survey:
    """Sort the lines of /proc: few of them are parsed.

    A stranger is neither the master nor its child nor its grandchild, and is named like qpsmtpd or perl or has been
    reparented to process 1: the caller looks at whose it is.
    """
    parent = b" %d " % master
    boss = None
    children = []
    others = []
    for line in found:
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
                boss = other
            else:
                others.append(other)
    family = {child.pid for child in children}
    return Survey(len(found), boss, children, [one for one in others if one.parent not in family])


class Process:
    """One process of qpsmtpd's user with its evidence. ``None`` means: could not be known.

    ``ours``: is it a qpsmtpd; ``in_unit``: in the unit's cgroup; ``listens``: holds a listening socket. ``progress``
    is a tuple of counters; as long as they stay the same the process did nothing. ``peer`` is the TCP state of its
    session; ``waits`` where it sleeps in the kernel.
    """

    __slots__ = ("age", "in_unit", "listens", "ours", "peer", "progress", "stat", "title", "waits")

    def __init__(
        self,
        stat: Stat,
        *,
        age: float,
        ours: bool | None,
        in_unit: bool,
        listens: bool | None,
        progress: tuple[int, ...],
        peer: str = "unknown",
        title: str = "",
        waits: str = "",
    ) -> None:
        self.stat = stat
        self.age = age
        self.ours = ours
        self.in_unit = in_unit
        self.listens = listens
        self.progress = progress
        self.peer = peer
        self.title = title
        self.waits = waits

    @property
    def key(self) -> str:
        """Its identity: the number alone is re-used."""
        return f"{self.stat.pid}:{self.stat.start}"

    def evidence(self) -> dict[str, state.Json]:
        """For the decision log."""
        return {
            "pid": self.stat.pid,
            "start_ticks": self.stat.start,
            "parent": self.stat.parent,
            "state": self.stat.state,
            "age_seconds": round(self.age),
            "progress": list(self.progress),
            "peer": self.peer,
            "in_unit": self.in_unit,
            "waits": self.waits,
            "title": self.title,
        }


class Verdict:
    """What is thought of one process. ``kill``: it has to go; otherwise it is reported, or watched (no ``report``)."""

    __slots__ = ("kill", "kind", "process", "quiet", "report")

    def __init__(self, process: Process, kind: str, quiet: float, *, kill: bool = False, report: bool = True) -> None:
        self.process = process
        self.kind = kind
        self.quiet = quiet
        self.kill = kill
        self.report = report


ORPHAN, STUCK, ZOMBIE, BLOCKED, FOREIGN, UNREADABLE = (
    "orphan",
    "stuck",
    "zombie",
    "blocked in the kernel",
    "master of another service",
    "unreadable",
)


def quiet_for(process: Process, seen: Mapping[str, object], now: float) -> float:
    """Seconds this process is known to have made no progress; 0 at first sight or after any progress. Pure."""
    before = seen.get(process.key)
    if not isinstance(before, dict) or before.get("progress") != list(process.progress):
        return 0.0
    if before.get("state") in ("Z", "D") and process.stat.state != before.get("state"):
        return 0.0
    since = before.get("since")
    return max(0.0, now - since) if isinstance(since, (int, float)) else 0.0


def remember(found: Iterable[Process], seen: Mapping[str, object], now: float) -> dict[str, state.Json]:
    """What the next run has to know: per identity its progress and since when it is the same."""
    return {
        one.key: {
            "progress": list(one.progress),
            "state": one.stat.state,
            "since": round(now - quiet_for(one, seen, now), 1),
        }
        for one in found
    }


def decide(
    found: Sequence[Process],
    master: tuple[int, int] | None,
    seen: Mapping[str, object],
    now: float,
    session_limit: float,
) -> list[Verdict]:
    """Who is orphaned, stuck or odd, most quiet first. ``master`` is (pid, start ticks). Pure.

    Orphan: a qpsmtpd whose parent is none. Stuck: older than ``session_limit``. Either is killed only when it also
    made no progress for QUIET seconds. Whoever listens is a master, of whatever service, and never killed.
    """
    family = {one.stat.pid for one in found if one.ours}
    verdicts = []
    for one in found:
        stat = one.stat
        if master == (stat.pid, stat.start):
            continue
        quiet = quiet_for(one, seen, now)
        if stat.state in "ZX":
            verdicts.append(Verdict(one, ZOMBIE, quiet, report=quiet >= QUIET))
            continue
        orphaned = stat.parent not in family
        if one.ours is None:
            if orphaned:
                verdicts.append(Verdict(one, UNREADABLE, quiet))
            continue
        if not one.ours:
            continue
        if one.listens is not False and (one.listens or not one.in_unit) and orphaned:
            verdicts.append(Verdict(one, FOREIGN, quiet))
            continue
        if not orphaned and one.age <= session_limit:
            if stat.state == "D":
                verdicts.append(Verdict(one, BLOCKED, quiet, report=quiet >= QUIET))
            continue
        if stat.state == "D":
            verdicts.append(Verdict(one, BLOCKED, quiet, report=quiet >= QUIET))
            continue
        idle = quiet >= QUIET
        verdicts.append(Verdict(one, ORPHAN if orphaned else STUCK, quiet, kill=idle, report=idle))
    return sorted(verdicts, key=lambda verdict: -verdict.quiet)
