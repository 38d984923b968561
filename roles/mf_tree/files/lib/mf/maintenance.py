"""Maintenance: an operator or a deploy works on this host, so the checks report and don't act.

The marker /run/mf/maintenance is ``{"owner", "reason", "since", "until"}`` with times on CLOCK_BOOTTIME; it always has
an end. A deploy writes the same marker (owner ``deploy``, 15 minutes) and removes it. An operator's is also kept in
/mf/var/state/maintenance.json, which is read when no marker is valid: so it outlives a reboot, and a deploy that came
in between. Within one boot its ``until`` counts, after a reboot ``until_epoch``.
"""

from __future__ import annotations

import posix
import time

from . import Failure, claims, state, text
from .claims import is_time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_TTL = 7 * 86400.0  # seconds
LOCK_WAIT = 60.0  # seconds; a restart with its confirmation probe and its test takes no longer than a check's deadline


class MaintenanceError(Failure):
    """It can't be done. Its text is one line."""


class UnderWayError(MaintenanceError):
    """Maintenance is on, but an action that began before it hasn't ended."""

    code = 4


class Maintenance(claims.Record):
    """Maintenance that is on; times in CLOCK_BOOTTIME seconds."""

    __slots__ = ("owner", "reason", "since", "until")

    def __init__(self, owner: str, reason: str, since: float, until: float) -> None:
        self.owner = owner
        self.reason = reason
        self.since = since
        self.until = until


def active(places: state.Places, now: float | None = None) -> Maintenance | None:
    """The maintenance that is on, or None. Expired counts as absent, and so does what can't be read.

    Never raises; without maintenance it costs two failed lstat(2).
    """
    moment = state.boottime() if now is None else now
    shown = marked(places, moment)
    if shown is not None:
        return shown
    data, _ = state.read_plain(_kept(places))
    if data is None:
        return None
    boot = state.boot_token(places, make=False)
    return _from_disk(data, moment, time.time(), boot)


def marked(places: state.Places, now: float) -> Maintenance | None:
    """Maintenance by the marker alone; None unless that is valid. Never raises."""
    record = state.decode(state.read_plain(places.maintenance)[0])
    return None if record is None else _plausible(record, now)


def mark(places: state.Places, owner: str, reason: str, ttl: float) -> dict[str, state.Json]:
    """Write the marker and return its content. Raises OSError."""
    now = state.boottime()
    marker: dict[str, state.Json] = {
        "owner": owner,
        "reason": reason,
        "since": round(now, 3),
        "until": round(now + ttl, 3),
    }
    _write(places.maintenance, marker)
    return marker


def on(places: state.Places, owner: str, reason: str, ttl: float, *, dry_run: bool = False) -> list[str]:
    """Begin or prolong maintenance for ``ttl`` seconds; returns warnings. Raises MaintenanceError, LeaseError.

    From the marker on no check begins an action; one under way holds the action lock, and is waited for.
    """
    from . import decisions

    claims.check_owner(owner)
    claims.check_reason(reason)
    claims.check_ttl(ttl)
    if dry_run:
        return []
    epoch = time.time()
    warnings = []
    try:
        marker = mark(places, owner, reason, ttl)
    except OSError as error:
        raise MaintenanceError(_explain(places.maintenance, error)) from None
    boot = state.boot_token(places)
    disk = {**marker, "boot": boot, "until_epoch": round(epoch + ttl, 3), "written_epoch": round(epoch, 3)}
    try:
        _write(_kept(places), disk, durable=True)
    except OSError as error:
        warnings.append(f"{_explain(_kept(places), error)}: maintenance won't survive a reboot")
    decisions.record(places, "maintenance", "begin", owner, text.clean(reason, 200), "done", {"seconds": ttl})
    try:
        with places.lock(state.ACTION, LOCK_WAIT) as mine:
            if not mine:
                raise UnderWayError(
                    f"maintenance is on, but an action or a deploy that began before it has been under way for"
                    f" {LOCK_WAIT:g} s ({places.locks}/{state.ACTION}.lock); wait for it before you touch anything"
                )
    except OSError as error:
        warnings.append(f"{places.locks} can't be used: {error.strerror}; an action may still be under way")
    return warnings


def off(places: state.Places, *, dry_run: bool = False) -> bool:
    """End maintenance, whoever began it. Returns whether there was any. Raises MaintenanceError."""
    from . import decisions

    before = active(places)
    if dry_run:
        return before is not None
    for path in (_kept(places), places.maintenance):
        try:
            posix.unlink(path)
        except FileNotFoundError:
            pass
        except OSError as error:
            raise MaintenanceError(_explain(path, error)) from None
    if before is not None:
        decisions.record(places, "maintenance", "end", before.owner, "ended by command", "done")
    return before is not None


def _plausible(record: Mapping[str, object], now: float) -> Maintenance | None:
    owner, reason = record.get("owner"), record.get("reason", "")
    since, until = record.get("since"), record.get("until")
    if not isinstance(owner, str) or not isinstance(reason, str) or not is_time(until):
        return None
    if not owner or len(owner) > 32 or len(reason) > 1000 or not now < until <= now + MAX_TTL + 1:
        return None
    begun = float(since) if is_time(since) and since <= now + 1 else now
    return Maintenance(owner, reason, begun, float(until))


def _from_disk(data: bytes, now: float, epoch: float, boot: str) -> Maintenance | None:
    record = state.decode(data)
    if record is None:
        return None
    if not boot or record.get("boot") != boot:
        until, written = record.get("until_epoch"), record.get("written_epoch")
        if not is_time(until) or not is_time(written):
            return None
        # a clock that went backwards doesn't lengthen it
        left = min(until - epoch, until - written)
        record = {**record, "since": now, "until": now + left}
    return _plausible(record, now)


def _write(path: str, record: Mapping[str, state.Json], *, durable: bool = False) -> None:
    state.put(path, (state.encode(record) + "\n").encode(), durable=durable)


def _kept(places: state.Places) -> str:
    return places.persistent + "/maintenance.json"


def _explain(path: str, error: OSError) -> str:
    hint = "; run this as root" if isinstance(error, PermissionError) else ""
    return f"{path} can't be changed: {error.strerror}{hint}"
