"""The schedule of jobs. Pure: the clock is a parameter.

A period begins at a *slot*, always the same for a host, and another one than that of other hosts. A job is due when its
last success is before the newest slot: so a missed job (the machine was off, offsite was down, the throttle was on) is
made up for by the next ``backup due``, and is never skipped.
"""

from __future__ import annotations

from collections.abc import Mapping

from . import settings
from .record import Past

FIRST_RETRY = 300.0  # seconds after the first failure; doubled by each further one
LAST_RETRY = 3600.0


def slot(now: float, job: settings.Job) -> float:
    """The newest slot (epoch seconds) that is not after ``now``."""
    return now - (now - job.offset) % job.period


def due(now: float, past: Past, job: settings.Job) -> bool:
    """Whether the job should start now.

    A success or a start in the future means that the clock was set back: such a time is ignored, so the job runs.
    """
    if past.failures:
        pause = min(LAST_RETRY, FIRST_RETRY * 2.0 ** min(past.failures - 1, 10))
        return not 0 <= now - past.started < pause
    return past.succeeded > now or past.succeeded < slot(now, job)


def chosen(now: float, past: Mapping[str, Past], jobs: Mapping[str, settings.Job]) -> list[str]:
    """The jobs that are due, most urgent first. A drill needs a dump to restore."""
    names = [name for name in settings.JOBS if name in jobs and due(now, past.get(name, Past()), jobs[name])]
    if not past.get("dump", Past()).succeeded and "drill" in names and "dump" not in names:
        names.remove("drill")
    return names
