"""check-processes: finds orphaned, stuck and burning qpsmtpd processes, and kills them.

The fast path reads every /proc/PID/stat once: the master is the one of the last run, its children are young,
and there is no stranger. Everything else is judged on evidence (``process_evidence``, ``orphans``): a process is killed
only when it is a qpsmtpd and either is orphaned or older than the session limit and did nothing since the run before,
or used more CPU than any mail needs and moved nothing by it, or ten times as much whatever it moved. A master of
another service, a process that can't be identified, zombies and processes blocked in the kernel are reported, never
killed.
"""

from __future__ import annotations

import posix
import sys

from mf import run, state

from . import procfs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping


NAME = "processes"
PURPOSE = "Find orphaned, stuck and burning qpsmtpd processes and kill them."
RULES: run.Rules = {
    "unit": str,
    "user": str,
    "script": str,  # the script that qpsmtpd runs
    "session_limit": (60, 86400),  # seconds
    "session_cpu": (5, 86400),  # seconds of CPU
    "kill_cap": (1, 1000),  # kills in one run
}


def probe(places: state.Places, values: run.Values) -> state.Result | run.Diagnosis:
    """One scan of /proc."""
    known = last_master(places)
    if known is not None:
        survey = procfs.survey(procfs.lines(places.proc), known[0])
        now = state.boottime()
        sleeps = any(child.state in "DZ" for child in survey.children)
        before = run.former(places, NAME)["metrics"].get("asleep") if sleeps else ""
        asleep = procfs.sleeping(survey.children, before, now)
        if not odd(survey, known, values, asleep, now, places.proc):
            return healthy(survey, asleep)
    return lambda dry_run: _diagnose(places, values, dry_run)


def _diagnose(places: state.Places, values: run.Values, dry_run: bool) -> state.Result:
    # psutil; launchers run without site-packages, and nothing else here needs any
    sys.path.append("/usr/lib/python3/dist-packages")
    try:
        from .processes_diagnose import Diagnosis
    except ImportError as error:
        return state.Result(NAME, state.UNKNOWN, f"no process was judged: {error}; python3-psutil must be installed")
    return Diagnosis(places, values, dry_run).result()


CHECK = run.Check(NAME, probe, RULES, PURPOSE)


def last_master(places: state.Places) -> tuple[int, int, int] | None:
    """The master's (pid, start ticks, uid) as the slow path last found it."""
    try:
        pid, start, uid = state.content(places.results + procfs.MASTER, 100).split()
        return int(pid), int(start), int(uid)
    except ValueError:
        return None


def odd(
    survey: procfs.Survey,
    known: tuple[int, int, int],
    values: run.Values,
    asleep: Mapping[str, float],
    now: float,
    proc: str,
) -> bool:
    """Whether anything in the scan needs a diagnosis."""
    _, start, uid = known
    if survey.master is None or survey.master.start != start or survey.master.state in "ZX":
        return True
    if any(now - first >= procfs.QUIET for first in asleep.values()):
        return True
    limit, cpu = values["session_limit"], values["session_cpu"] * procfs.TICK
    for child in survey.children:
        if child.age(now) > limit or child.cpu > cpu:
            return True
    for stranger in survey.strangers:
        try:
            owner = posix.stat(f"{proc}/{stranger.pid}").st_uid
        except OSError:
            continue
        # a process that changed its user by itself is shown as root's
        if owner == uid or (owner == 0 and (b"qpsmtp" in stranger.comm or stranger.comm.startswith(b"perl"))):
            return True
    return False


def healthy(survey: procfs.Survey, asleep: Mapping[str, float]) -> state.Result:
    """The result when nothing is odd."""
    count = sum(1 for child in survey.children if child.state not in "ZX")
    result = state.Result(
        NAME,
        state.OK,
        f"master and {count} session{'' if count == 1 else 's'}, none orphaned or stuck",
        {"children": count, "processes": survey.total, "killed": 0},
    )
    if asleep:
        result.metrics["asleep"] = procfs.sleepers(asleep)
    return result
