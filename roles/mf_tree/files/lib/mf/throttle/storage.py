"""Storage of a host's leases: the marker and its stamp on tmpfs, operators' leases on disk, the boot token.

A whole marker wins over the disk; without a marker (deleted, garbage, reboot) the disk counts. Nothing here raises for
a file that can't be written: the caller gets a sentence, because a full disk must not keep a host from throttling.
"""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from .. import claims, state
from . import lease, marker
from .lease import Lease

DRIFT = 60.0  # seconds the wall clock may move before deadlines on disk are rewritten


@dataclass
class Kept:
    """The stored state as a command reads it: valid ``leases``, ``now`` on CLOCK_BOOTTIME, ``epoch`` seconds.

    ``disk`` is the content of the file of operators' leases and ``disk_damage`` what is wrong with it; ``dropped`` are
    sentences about leases in it that were left out.
    """

    now: float
    epoch: float
    boot: str
    reading: marker.Reading
    disk: bytes | None
    disk_damage: str
    leases: tuple[Lease, ...] = ()
    dropped: list[str] = field(default_factory=list)


class Storage:
    """The files of one host. With ``dry_run`` nothing is written and every write succeeds."""

    def __init__(self, places: state.Places, *, dry_run: bool = False) -> None:
        self.marker = places.marker
        self.disk = places.persistent + "/leases.json"
        self._stamp = marker.stamp(places)
        self._places = places
        self._dry_run = dry_run

    def load(self, now: float, epoch: float) -> Kept:
        """Read everything, once. Makes a boot token when there is none."""
        reading = marker.read(self._places, now)
        boot = state.boot_token(self._places, make=not self._dry_run)
        kept = Kept(now, epoch, boot, reading, *state.read_plain(self.disk))
        if reading.marker is None:
            kept.leases = lease.from_disk(kept.disk, now, epoch, boot, dropped=kept.dropped) or ()
        else:
            kept.leases = lease.valid(reading.marker.leases, now)
        return kept

    def write_marker(self, content: marker.Marker, now: float) -> str:
        """Replace the marker; returns what went wrong."""
        if self._dry_run:
            return ""
        data = content.encode(now)
        try:
            try:
                _replace(self.marker, data)
            except OSError as error:
                if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                    raise
                # the old marker must not stay as it is: the next reconcile would trust it
                try:
                    if os.lstat(self.marker).st_size > lease.MAX_BYTES:
                        # no marker of ours; it may be what fills the disk
                        _unlink(self.marker)
                        _replace(self.marker, data)
                    else:
                        _overwrite(self.marker, data)
                except OSError:
                    raise error from None
        except OSError as error:
            return f"the marker {self.marker} can't be written: {error.strerror}; jobs don't see the change"
        return ""

    def remove_marker(self) -> str:
        """Remove the marker; returns what went wrong."""
        if not self._dry_run:
            try:
                _unlink(self.marker)
            except OSError as error:
                return f"the marker {self.marker} can't be removed: {error.strerror}"
        return ""

    def stamp(self, in_force: str, now: float) -> str:
        """Store that marker and firewall were compared now, and what is in force; returns what went wrong."""
        if self._dry_run:
            return ""
        try:
            try:
                _replace(self._stamp, f"{in_force} {now:.3f}\n".encode())
            except OSError:
                _unlink(self._stamp)  # without one check-load compares each time
                raise
        except OSError as error:
            return f"{self._stamp} can't be written: {error.strerror}"
        return ""

    def is_kept(self, wanted: Sequence[Lease], kept: Kept) -> bool:
        """Whether the disk has the operators' leases among these, and no others."""
        mine = _operators(wanted)
        if not mine:
            return kept.disk is None and not kept.disk_damage
        # by the wall clock alone, so that a step of it shows and is made good before a reboot
        there = lease.from_disk(kept.disk, kept.now, kept.epoch, "", limit=False)
        same_boot = (state.decode(kept.disk) or {}).get("boot") == kept.boot
        return there is not None and same_boot and _alike(mine, there)

    def keep(self, wanted: Sequence[Lease], kept: Kept) -> str:
        """Replace what is on disk by the operators' leases among these; returns what went wrong."""
        mine = _operators(wanted)
        if self._dry_run:
            return ""
        try:
            if mine:
                record = lease.to_disk(mine, kept.now, kept.epoch, kept.boot)
                _replace(self.disk, (state.encode(record) + "\n").encode(), durable=True)
            else:
                _unlink(self.disk)
        except OSError as error:
            effect = "the lease won't survive a reboot" if mine else "a reboot would put the lease back"
            return f"{self.disk} can't be written ({error.strerror}): {effect}"
        return ""


def _operators(leases: Sequence[Lease]) -> list[Lease]:
    """All but check-load's own, which ends with a reboot."""
    return [item for item in leases if item.owner != claims.LOAD]


def _alike(mine: Sequence[Lease], there: Sequence[Lease]) -> bool:
    def key(leases: Sequence[Lease]) -> list[tuple[object, ...]]:
        return [(item.owner, item.reason, item.refuse, item.until is None) for item in leases]

    return key(mine) == key(there) and all(
        abs((ours.until or 0) - (theirs.until or 0)) <= DRIFT for ours, theirs in zip(mine, there, strict=True)
    )


def _replace(path: str, data: bytes, *, durable: bool = False) -> None:
    """Atomic write that also gets a directory, put there by mistake or malice, out of the way. Raises OSError."""
    try:
        state.put(path, data, durable=durable)
    except IsADirectoryError:
        os.rename(path, f"{path}.damaged.{os.getpid()}.{time.monotonic_ns()}")
        state.put(path, data, durable=durable)


def _overwrite(path: str, data: bytes) -> None:
    """Put data in the place of a file's content within the room it already has: works where nothing is free.

    One write, the rest filled with white space, which JSON ignores. Raises OSError, and then nothing has changed.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or len(data) > max(status.st_size, status.st_blocks * 512):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        os.pwrite(descriptor, data.ljust(status.st_size), 0)
    finally:
        os.close(descriptor)


def _unlink(path: str) -> None:
    """Remove a file, if there is one; a directory in its place is moved out of the way. Raises OSError."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass
    except IsADirectoryError:
        os.rename(path, f"{path}.damaged.{os.getpid()}.{time.monotonic_ns()}")
