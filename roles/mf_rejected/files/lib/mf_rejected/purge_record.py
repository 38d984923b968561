"""The record of the removal of rejected mail on an MX, and which days are over. Fast path: a check reads it.

The job that removes is ``purge``. Its record is ``/mf/var/state/rejected``: lines of ``name value``, so that no
JSON parser is needed to read it. qpsmtpd counts a day's bytes in the same form (Mf/DayLimit.pm).
"""

from __future__ import annotations

import posix
import time

from mf import state

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import TypeAlias

    Record: TypeAlias = Mapping[str, float]

RECORD = "rejected"  # its name in the directory of persistent state

DOUBTED = "the clock has gone on by more than a day at once; is it right?"

# Epoch seconds and counts; 0 is never, or none.
EMPTY: Record = {
    "ran": 0,  # the last run
    "full": 0,  # since when the disk is nearly full although removing rejected mail wouldn't help
    "doubted": 0,  # since when the clock is doubted, and nothing goes by age
    "early": 0,  # when messages were last removed before their time
    "early_files": 0,  # how many, reset after a day without one
    "failed": 0,  # messages that couldn't be kept since the counters began
    "failed_at": 0,  # when that was last seen to grow
}


NO_DAY: Record = {
    "day": 0,  # the day of "used", 20261129
    "used": 0,  # bytes
    "limit": 0,  # bytes
    "missed": 0,  # messages not kept because of it, reset after a day without one
    "missed_at": 0,  # when that was last
}


def read(places: state.Places) -> Record:
    """The record; a missing or damaged number counts as 0. Raises OSError when it can't be read."""
    return _numbers(state.read_bytes(f"{places.persistent}/{RECORD}", 4096) or b"", EMPTY)


def today(root: str, now: float) -> Record:
    """This day's use of its limit; ``used`` is 0 when nothing came yet. Raises OSError."""
    try:
        record = _numbers(read_foreign(f"{root}/.day", 1024), NO_DAY)
    except FileNotFoundError:
        return NO_DAY
    return record if record["day"] == int(time.strftime("%Y%m%d", time.gmtime(now))) else {**record, "used": 0}


def read_foreign(path: str, limit: int) -> bytes:
    """Up to ``limit`` bytes of a file of the account that talks to the internet. Raises OSError.

    That account may put anything in its place: a FIFO doesn't block here, a symbolic link is refused.
    """
    descriptor = posix.open(path, posix.O_RDONLY | posix.O_CLOEXEC | posix.O_NOFOLLOW | posix.O_NONBLOCK)
    try:
        return posix.read(descriptor, limit)
    finally:
        posix.close(descriptor)


def _numbers(data: bytes, names: Record) -> Record:
    record = dict(names)
    for line in data.decode("ascii", "replace").splitlines():
        name, _, value = line.partition(" ")
        if name in names and value.isdigit() and len(value) < 16:
            record[name] = int(value)
    return record


def write(places: state.Places, record: Record) -> None:
    """Store the record. Raises OSError."""
    lines = [f"{name} {value:.0f}\n" for name, value in record.items()]
    state.write_atomic(f"{places.persistent}/{RECORD}", "".join(lines).encode(), durable=True)


def is_day(name: str) -> bool:
    """Whether a directory's name has the form YYYY-MM-DD."""
    return len(name) == 10 and name[4] == name[7] == "-" and name.replace("-", "").isdecimal() and name.isascii()


def expired(days: Iterable[str], now: float, keep_days: int) -> list[str]:
    """The days that have been over for ``keep_days`` days or longer, oldest first. Pure. Days are in UTC."""
    first = time.strftime("%Y-%m-%d", time.gmtime(now - keep_days * 86400))
    return sorted(day for day in days if is_day(day) and day < first)
