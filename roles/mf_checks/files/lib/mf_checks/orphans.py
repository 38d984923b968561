"""Which qpsmtpd processes may die: evidence from /proc, and the verdict on it. Cold path.

How qpsmtpd 0.94 looks: the master's comm is ``qpsmtpd-forkser``; a child writes ``/usr/bin/qpsmtpd-forkserver [ip :
host : time]`` over its arguments, with what the client's DNS says as host, so names and arguments prove nothing. What
does: the uid, the executable (perl) and the script, which perl keeps open as a file because it ends in ``__END__``,
or, where other users' files can't be read (no CAP_SYS_PTRACE), the unit's cgroup together with the arguments.
"""

from __future__ import annotations

import posix

from mf import state
from mf.text import clean

from .procfs import QUIET, TICK, Stat

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence
    from typing import Any

    from . import systemd


class Process:
    """One process of qpsmtpd's user with its evidence. ``None`` means: could not be known.

    ``ours``: is it a qpsmtpd; ``in_unit``: in the unit's cgroup; ``listens``: holds a listening socket. ``progress``
    is a tuple of counters; as long as they stay the same the process did nothing. ``peer`` is the TCP state of its
    session, ``address`` the session's remote end. ``waits`` is where it sleeps in the kernel, ``stack`` how it came
    there (innermost first; empty where that is root's secret), ``syscall`` the number of the call it is in.
    """

    __slots__ = (
        "address",
        "age",
        "in_unit",
        "listens",
        "ours",
        "peer",
        "progress",
        "stack",
        "stat",
        "syscall",
        "title",
        "waits",
    )

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
        address: str = "",
        title: str = "",
        waits: str = "",
        stack: Sequence[str] = (),
        syscall: str = "",
    ) -> None:
        self.stat = stat
        self.age = age
        self.ours = ours
        self.in_unit = in_unit
        self.listens = listens
        self.progress = progress
        self.peer = peer
        self.address = address
        self.title = title
        self.waits = waits
        self.stack = list(stack)
        self.syscall = syscall

    @property
    def moved(self) -> tuple[int, ...]:
        """Its progress without the CPU it used: counters of what it read, wrote and has yet to send."""
        return self.progress[1:]

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


class Verdict:
    """What is thought of one process. ``kill``: it has to go; otherwise it is reported, or watched (no ``report``)."""

    __slots__ = ("kill", "kind", "process", "quiet", "report")

    def __init__(self, process: Process, kind: str, quiet: float, *, kill: bool = False, report: bool = True) -> None:
        self.process = process
        self.kind = kind
        self.quiet = quiet
        self.kill = kill
        self.report = report

    def why(self) -> str:
        """The evidence in a few words."""
        if self.kind == BURNING:
            return f"{self.process.stat.cpu / TICK:.0f} s of CPU and not a byte moved for {self.quiet:.0f} s"
        return f"no progress for {self.quiet:.0f} s"

    def words(self) -> str:
        """What is reported of a process that isn't killed."""
        where = f" (in {self.process.waits})" if self.kind == BLOCKED and self.process.waits else ""
        return f"{self.kind}: {self.process.stat.pid}{where}"


ORPHAN, STUCK, BURNING, ZOMBIE, BLOCKED, FOREIGN, UNREADABLE = (
    "orphan",
    "stuck",
    "burning",
    "zombie",
    "blocked in the kernel",
    "master of another service",
    "unreadable",
)


SUSPECTS = (ORPHAN, STUCK, BURNING)
BURNT = 1.0  # seconds of CPU without a byte moved, at least: one that waits for its client uses none


def recognised(found: Iterable[Process], master: tuple[int, int]) -> bool:
    """Whether the unit's main process is a qpsmtpd: if not, its children aren't known as such either. Pure."""
    return any(one.ours for one in found if (one.stat.pid, one.stat.start) == master)


def quiet_for(process: Process, seen: Mapping[str, object], now: float) -> float:
    """Seconds this process is known to have made no progress; 0 at first sight or after any progress. Pure."""
    before = seen.get(process.key)
    if not isinstance(before, dict) or before.get("progress") != list(process.progress):
        return 0.0
    since = before.get("since")
    return max(0.0, now - since) if isinstance(since, (int, float)) else 0.0


def burns_for(process: Process, seen: Mapping[str, object], now: float) -> float:
    """Seconds this process is known to have used CPU and moved no byte; 0 for one that used none. Pure."""
    before = seen.get(process.key)
    if not isinstance(before, dict) or before.get("moved") != list(process.moved):
        return 0.0
    still, cpu = before.get("still"), before.get("cpu")
    if not isinstance(still, (int, float)) or not isinstance(cpu, int) or process.stat.cpu - cpu < BURNT * TICK:
        return 0.0
    return max(0.0, now - still)


def remember(found: Iterable[Process], seen: Mapping[str, object], now: float) -> dict[str, state.Json]:
    """What the next run has to know: per identity its progress and since when it is the same; and since when it moved
    no byte (``still``), with the CPU that it had used until then.
    """
    memory: dict[str, state.Json] = {}
    for one in found:
        before = seen.get(one.key)
        still: state.Json = round(now, 1)
        cpu: state.Json = one.stat.cpu
        if isinstance(before, dict) and before.get("moved") == list(one.moved) and "still" in before:
            still, cpu = before["still"], before.get("cpu")
        memory[one.key] = {
            "progress": list(one.progress),
            "since": round(now - quiet_for(one, seen, now), 1),
            "moved": list(one.moved),
            "still": still,
            "cpu": cpu,
        }
    return memory


def decide(
    found: Sequence[Process],
    master: tuple[int, int] | None,
    seen: Mapping[str, object],
    now: float,
    limits: tuple[float, float],
    lasting: Collection[str] = (),
) -> list[Verdict]:
    """Who is orphaned, stuck or odd, most quiet first. ``master`` is (pid, start ticks). Pure.

    ``limits``: seconds of age, seconds of CPU. Orphan: a qpsmtpd whose parent is none. Stuck: older than its limit.
    Either is killed only when it also made no progress for QUIET seconds. Burning: used more CPU than its limit, and
    went on so for QUIET seconds in which it moved no byte; otherwise CPU is progress. Whoever listens is a master, of
    whatever service, and never killed. Zombies and processes blocked in the kernel can't be killed; they are reported
    when their key is in ``lasting``.
    """
    family = {one.stat.pid for one in found if one.ours}
    verdicts = []
    for one in found:
        stat = one.stat
        if master == (stat.pid, stat.start):
            continue
        quiet = quiet_for(one, seen, now)
        orphaned = stat.parent not in family
        if stat.state in "ZX":
            verdicts.append(Verdict(one, ZOMBIE, quiet, report=one.key in lasting))
        elif stat.state == "D" and one.ours is not False:
            verdicts.append(Verdict(one, BLOCKED, quiet, report=one.key in lasting))
        elif one.ours is None:
            if orphaned:
                verdicts.append(Verdict(one, UNREADABLE, quiet))
        elif not one.ours:
            continue
        elif orphaned and (one.listens or (one.listens is None and not one.in_unit)):
            verdicts.append(Verdict(one, FOREIGN, quiet))
        elif one.stat.cpu > limits[1] * TICK and (burns := burns_for(one, seen, now)) >= QUIET:
            verdicts.append(Verdict(one, BURNING, burns, kill=True))
        elif orphaned or one.age > limits[0]:
            idle = quiet >= QUIET
            verdicts.append(Verdict(one, ORPHAN if orphaned else STUCK, quiet, kill=idle, report=idle))
        elif one.stat.cpu > limits[1] * TICK:
            verdicts.append(Verdict(one, BURNING, 0.0, report=False))
    return sorted(verdicts, key=lambda verdict: -verdict.quiet)


def evidence(
    stat: Stat,
    status: str,
    values: Mapping[str, Any],
    sockets: Mapping[int, systemd.Session],
    proc: str,
) -> Process:
    """Everything /proc tells of one process; what can't be read is None or ``unknown``, never guessed."""
    folder = f"{proc}/{stat.pid}"
    arguments = _bytes(f"{folder}/cmdline").split(b"\0")
    in_unit = any(
        values["unit"] in line.split(":", 2)[-1].split("/") for line in text_of(f"{folder}/cgroup").splitlines()
    )
    files = links(folder)
    script = values["script"]
    ours: bool | None
    listens: bool | None = None
    if files is not None:
        ours = _basename(folder + "/exe").startswith("perl") and script in {
            name.removesuffix(" (deleted)") for name in files
        }
        inodes = {int(name[8:-1]) for name in files if name.startswith("socket:[") and name[8:-1].isdigit()}
        mine = [sockets[inode] for inode in inodes if inode in sockets]
        listens = any(one.state == "listen" for one in mine)
        sessions = [one for one in mine if one.state != "listen"]
        peer = sessions[0].state if sessions else "none"
    else:
        named = _named(arguments, script.encode())
        ours = True if named and in_unit else None if named else False
        sessions = []
        peer = "unknown"
    counters = "\n" + text_of(f"{folder}/io")
    if "\nrchar:" in counters:
        moved = _after(counters, "\nrchar:") + _after(counters, "\nwchar:")
    else:
        moved = _after(status, "\nvoluntary_ctxt_switches:")
    unsent = sum(one.sending for one in sessions)
    # "[<0>] wait_woken+0x63/0x80", one a line (man proc)
    frames = [
        clean(line.rpartition(" ")[2].partition("+")[0], 60) for line in text_of(f"{folder}/stack").split("\n") if line
    ]
    waits = frames[0] if frames else text_of(f"{folder}/wchan").removeprefix("0")
    return Process(
        stat,
        age=stat.age(state.boottime()),
        ours=ours,
        in_unit=in_unit,
        listens=listens,
        progress=(stat.cpu, moved, unsent),
        peer=peer,
        address=sessions[0].remote() if sessions else "",
        title=clean(b" ".join(arguments).strip()),
        waits=clean(waits, 60),
        stack=frames[:12],
        syscall=clean(text_of(f"{folder}/syscall").partition(" ")[0].strip(), 20),
    )


def _named(arguments: Sequence[bytes], script: bytes) -> bool:
    """Whether arguments look like the script's: run by perl, or renamed by the child as qpsmtpd does."""
    return script in arguments[1:3] or arguments[0].startswith(script + b" [")


def links(folder: str) -> list[str] | None:
    """What a process has open; None when that can't be read."""
    try:
        names = posix.listdir(folder + "/fd")
        found = []
        for name in names:
            try:
                found.append(posix.readlink(f"{folder}/fd/{name}"))
            except FileNotFoundError:
                continue
    except OSError:
        return None
    return found


def _basename(path: str) -> str:
    try:
        return posix.readlink(path).rpartition("/")[2]
    except OSError:
        return ""


def _bytes(path: str) -> bytes:
    try:
        return state.read_bytes(path, 65536) or b""
    except OSError:
        return b""


def text_of(path: str) -> str:
    """A file of /proc as text; empty when there is none."""
    return _bytes(path).decode("utf-8", "replace")


def _after(text: str, label: str) -> int:
    words = text.partition(label)[2].split(None, 1)
    return int(words[0]) if words and words[0].isascii() and words[0].isdigit() and len(words[0]) <= 20 else 0
