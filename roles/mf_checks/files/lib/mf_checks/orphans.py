"""The qpsmtpd processes to kill: a verdict on the evidence (``mf_checks.process_evidence``). Pure. Slow path."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

from mf import state

from .procfs import QUIET, TICK, Stat


@dataclass
class Process:
    """One process of qpsmtpd's user with its evidence. ``None``: unknown.

    ``ours``: is it a qpsmtpd; ``in_unit``: in the unit's cgroup; ``listens``: holds a listening socket. ``progress``
    is a tuple of counters; as long as they stay the same the process did nothing. ``peer`` is the TCP state of its
    session, ``address`` the session's remote end. ``waits`` is the kernel function in which it sleeps, ``stack`` its
    callers (innermost first; empty where only root may read it), ``syscall`` the number of its system call.
    ``message``: seconds since the message began that it holds in the spool (a large one that it receives, filters or
    hands on); None also without one.
    """

    stat: Stat
    age: float
    ours: bool | None
    in_unit: bool
    listens: bool | None
    progress: tuple[int, ...]
    peer: str = "unknown"
    address: str = ""
    title: str = ""
    waits: str = ""
    stack: list[str] = field(default_factory=list)
    syscall: str = ""
    message: float | None = None

    @property
    def moved(self) -> tuple[int, ...]:
        """Its progress without the CPU it used: counters of what it read, wrote and has yet to send."""
        return self.progress[1:]

    @property
    def key(self) -> str:
        """Its identity: the process number alone is re-used."""
        return f"{self.stat.pid}:{self.stat.start}"

    def evidence(self) -> dict[str, state.Json]:
        """For the decision log."""
        return {
            "pid": self.stat.pid,
            "start_ticks": self.stat.start,
            "parent": self.stat.parent,
            "state": self.stat.state,
            "age_seconds": round(self.age),
            "cpu_seconds": round(self.stat.cpu / TICK, 1),
            "progress": list(self.progress),
            "peer": self.peer,
            "address": self.address,
            "in_unit": self.in_unit,
            "waits": self.waits,
            "stack": self.stack,
            "syscall": self.syscall,
            "title": self.title,
        }


@dataclass
class Verdict:
    """The verdict on one process. ``kill``: end it; otherwise it is reported, or watched (no ``report``).

    ``quiet``: seconds without progress.
    """

    process: Process
    kind: str
    quiet: float
    kill: bool = False
    report: bool = True

    def why(self) -> str:
        """The evidence, in short."""
        if self.kind == BURNING:
            return f"{self.process.stat.cpu / TICK:.0f} s of CPU and not a byte moved for {self.quiet:.0f} s"
        if self.kind == GREEDY:
            return f"{self.process.stat.cpu / TICK:.0f} s of CPU, more than {CAP} times the limit"
        return f"no progress for {self.quiet:.0f} s"

    def describe(self) -> str:
        """The report of a process that isn't killed."""
        where = f" (in {self.process.waits})" if self.kind == BLOCKED and self.process.waits else ""
        return f"{self.kind}: {self.process.stat.pid}{where}"


ORPHAN, STUCK, BURNING, GREEDY, ZOMBIE, BLOCKED, FOREIGN, UNREADABLE = (
    "orphan",
    "stuck",
    "burning",
    "greedy",
    "zombie",
    "blocked in the kernel",
    "master of another service",
    "unreadable",
)


SUSPECTS = (ORPHAN, STUCK, BURNING)
BURNT = 1.0  # seconds of CPU without a byte moved, at least: a process that waits for its client uses none
CAP = 10  # times the limit of CPU after which no session lives, whatever it moves


def recognised(processes: Iterable[Process], master: tuple[int, int]) -> bool:
    """Whether the unit's main process is a qpsmtpd: if not, its children can't be recognised either. Pure."""
    return any(process.ours for process in processes if (process.stat.pid, process.stat.start) == master)


def quiet_for(process: Process, seen: Mapping[str, object], now: float) -> float:
    """Seconds this process is known to have made no progress; 0 at first sight or after any progress. Pure."""
    before = seen.get(process.key)
    if not isinstance(before, dict) or before.get("progress") != list(process.progress):
        return 0.0
    since = before.get("since")
    return max(0.0, now - since) if isinstance(since, (int, float)) else 0.0


def burns_for(process: Process, seen: Mapping[str, object], now: float) -> float:
    """Seconds this process is known to have used CPU and moved no byte; 0 for a process that used none. Pure."""
    before = seen.get(process.key)
    if not isinstance(before, dict) or before.get("moved") != list(process.moved):
        return 0.0
    still, cpu = before.get("still"), before.get("cpu")
    if not isinstance(still, (int, float)) or not isinstance(cpu, int) or process.stat.cpu - cpu < BURNT * TICK:
        return 0.0
    return max(0.0, now - still)


def greedy(process: Process, limits: tuple[float, float]) -> bool:
    """Whether this process used more CPU than any session may. Pure.

    ``limits``: as for ``decide``. A message in the spool is finished first, unless it takes longer than a session may.
    """
    taking = process.message is not None and process.message <= limits[0]
    return process.stat.cpu > CAP * limits[1] * TICK and not taking


def progress_of(processes: Iterable[Process], seen: Mapping[str, object], now: float) -> dict[str, state.Json]:
    """For the next run: per identity its progress and since when it is the same; and since when it moved no byte
    (``still``), with the CPU that it had used until then.
    """
    stored: dict[str, state.Json] = {}
    for process in processes:
        before = seen.get(process.key)
        still: state.Json = round(now, 1)
        cpu: state.Json = process.stat.cpu
        if isinstance(before, dict) and before.get("moved") == list(process.moved) and "still" in before:
            still, cpu = before["still"], before.get("cpu")
        stored[process.key] = {
            "progress": list(process.progress),
            "since": round(now - quiet_for(process, seen, now), 1),
            "moved": list(process.moved),
            "still": still,
            "cpu": cpu,
        }
    return stored


def decide(
    processes: Collection[Process],
    master: tuple[int, int] | None,
    seen: Mapping[str, object],
    now: float,
    limits: tuple[float, float],
    lasting: Collection[str] = (),
) -> list[Verdict]:
    """The verdicts on orphaned, stuck and odd processes, longest without progress first. Pure.

    ``master``: (pid, start ticks). ``limits``: seconds of age, seconds of CPU. Orphan: a qpsmtpd whose parent is not
    one. Stuck: older than its limit. Either is killed only when it also made no progress for QUIET seconds. Burning:
    used more CPU than its limit, and more of it for QUIET seconds in which it moved no byte; otherwise CPU is progress,
    up to CAP times the limit (``greedy``): who talks without end moves bytes, too.
    An orphan that listens is the master of some service, and never killed. Zombies and processes blocked in the kernel
    can't be killed; they are reported when their key is in ``lasting``.
    """
    family = {process.stat.pid for process in processes if process.ours}
    verdicts = []
    for process in processes:
        stat = process.stat
        if master == (stat.pid, stat.start):
            continue
        quiet = quiet_for(process, seen, now)
        orphaned = stat.parent not in family
        if stat.state in "ZX":
            verdicts.append(Verdict(process, ZOMBIE, quiet, report=process.key in lasting))
        elif stat.state == "D" and process.ours is not False:
            verdicts.append(Verdict(process, BLOCKED, quiet, report=process.key in lasting))
        elif process.ours is None:
            if orphaned:
                verdicts.append(Verdict(process, UNREADABLE, quiet))
        elif not process.ours:
            continue
        elif orphaned and (process.listens or (process.listens is None and not process.in_unit)):
            verdicts.append(Verdict(process, FOREIGN, quiet))
        elif stat.cpu > limits[1] * TICK and (burns := burns_for(process, seen, now)) >= QUIET:
            verdicts.append(Verdict(process, BURNING, burns, kill=True))
        elif greedy(process, limits):
            verdicts.append(Verdict(process, GREEDY, quiet, kill=True))
        elif orphaned or process.age > limits[0]:
            idle = quiet >= QUIET
            verdicts.append(Verdict(process, ORPHAN if orphaned else STUCK, quiet, kill=idle, report=idle))
        elif stat.cpu > limits[1] * TICK:
            verdicts.append(Verdict(process, BURNING, 0.0, report=False))
    return sorted(verdicts, key=lambda verdict: -verdict.quiet)
