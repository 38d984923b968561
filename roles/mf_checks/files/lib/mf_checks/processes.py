"""check-processes: finds orphaned and stuck qpsmtpd processes, and kills those that make no progress.

The healthy path reads every /proc/PID/stat once: the master is the one known from before, its children are young, and
nobody looks like a stranger. Everything else is judged on evidence (``mf_checks.orphans``): a process dies only when
it is a qpsmtpd, is orphaned or older than the session limit, and did nothing since the run before. The master of any
service, a process that can't be identified, zombies and processes blocked in the kernel are reported, never killed.
A session that used more CPU than any mail needs is looked at as well: it dies when all that CPU moves nothing.
"""

from __future__ import annotations

import posix

from mf import run, state

from . import procfs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import NoReturn


NAME = "processes"
RULES: run.Rules = {
    "unit": str,
    "user": str,
    "script": str,  # the script that qpsmtpd runs
    "session_limit": (60, 86400),  # seconds
    "session_cpu": (5, 86400),  # seconds of CPU
    "kill_cap": (1, 1000),  # kills in one run
}

MASTER = "/service.master"  # below places.results: what the hot path knows of the master


def look(places: state.Places, values: run.Values) -> state.Result | run.Rest:
    """One scan of /proc."""
    known = recall(places)
    if known is not None:
        found = procfs.survey(procfs.lines(places.proc), known[0])
        now = state.boottime()
        asleep = sleeping(
            found.children, former(places) if any(one.state in "DZ" for one in found.children) else b"", now
        )
        if not odd(found, known, values, asleep, now, places.proc):
            return healthy(found, asleep)
    return lambda dry_run: _examine(places, values, dry_run)


def _examine(places: state.Places, values: run.Values, dry_run: bool) -> state.Result:
    from .processes_diagnose import Examination

    return Examination(places, values, dry_run).result()


CHECK = run.Check(NAME, look, RULES)


def main(argv: Sequence[str], **release: object) -> NoReturn:
    """Entry of the launcher /mf/bin/check-processes."""
    run.main(CHECK, argv, **release)  # type: ignore[arg-type]


def recall(places: state.Places) -> tuple[int, int, int] | None:
    """The master's (pid, start ticks, uid) as a cold run last found it."""
    try:
        pid, start, uid = (state.read_bytes(places.results + MASTER, 100) or b"").split()
        return int(pid), int(start), int(uid)
    except (OSError, ValueError):
        return None


def former(places: state.Places) -> bytes:
    """The check's former result as it is on disk."""
    try:
        return state.read_bytes(f"{places.results}/{NAME}.json", 65536) or b""
    except OSError:
        return b""


def sleeping(found: Sequence[procfs.Stat], before: bytes, now: float) -> dict[str, float]:
    """Zombies and processes in D-state, ``{pid:start: boot-time seconds of first sight}``.

    Both are normal for a moment (the master reaps once a second). First sights are carried from result to result in
    the metric ``asleep``, words of the form ``pid:start@seconds``, so the hot path needs no other memory.
    """
    asleep = {}
    spaced = before.replace(b'"', b" ")
    for one in found:
        if one.state in "DZ":
            key = f"{one.pid}:{one.start}"
            text = spaced.partition(f" {key}@".encode())[2][:20].partition(b" ")[0]
            try:
                first = float(text)
            except ValueError:
                first = now
            asleep[key] = first if 0 < first <= now else now
    return asleep


def odd(
    found: procfs.Survey,
    known: tuple[int, int, int],
    values: run.Values,
    asleep: Mapping[str, float],
    now: float,
    proc: str,
) -> bool:
    """Whether anything in the scan needs a closer look."""
    _, start, uid = known
    if found.master is None or found.master.start != start or found.master.state in "ZX":
        return True
    if any(now - first >= procfs.QUIET for first in asleep.values()):
        return True
    limit, cpu = values["session_limit"], values["session_cpu"] * procfs.TICK
    for child in found.children:
        if child.age(now) > limit or child.cpu > cpu:
            return True
    for stranger in found.strangers:
        try:
            owner = posix.stat(f"{proc}/{stranger.pid}").st_uid
        except OSError:
            continue
        # a process that changed its user by itself is shown as root's
        if owner == uid or (owner == 0 and (b"qpsmtp" in stranger.comm or stranger.comm.startswith(b"perl"))):
            return True
    return False


def healthy(found: procfs.Survey, asleep: Mapping[str, float]) -> state.Result:
    """Nothing odd."""
    count = sum(1 for child in found.children if child.state not in "ZX")
    result = state.Result(
        NAME,
        state.OK,
        f"master and {count} session{'' if count == 1 else 's'}, none orphaned or stuck",
        {"children": count, "processes": found.total, "killed": 0},
    )
    if asleep:
        result.metrics["asleep"] = words(asleep)
    return result


def words(asleep: Mapping[str, float]) -> str:
    """The metric ``asleep``; a few are enough to see that something is."""
    return " ".join([f"{key}@{first:.0f}" for key, first in asleep.items()][:50])
