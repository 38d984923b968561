"""The throttle: leases on this host, shown by the marker and enforced by the firewall. Cold path only.

What is true is the set of valid leases. It is kept in the marker (/run/mf/throttled, which also says whether refusal is
really in force), operators' leases also on disk (/mf/var/state/leases.json). Firewall and files are brought into line
with it, in an order that leaves something sound behind wherever the program is killed:

1. the marker, so that local IO work backs off even if nft fails;
2. the firewall, one atomic batch, the kernel's own timeout in it;
3. the marker again, with what the firewall really does;
4. the file on disk; and when nothing is left to say, the marker goes.

A whole marker wins over the disk; without one (deleted, garbage, reboot) the disk is what is left. So an ``off`` that
died half way is finished, not undone, by the next ``reconcile``, which check-load does whenever it sees a marker.
"""

from __future__ import annotations

import errno
import os
import stat
import time

from .. import Failure, claims, decisions, state, text
from . import firewall, lease, marker, peers

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any

    from .lease import Lease

LOCK = "throttle"
LOCK_WAIT = 30.0  # seconds; fifty commands at once need about five
_SAME = 2.0  # seconds two deadlines may differ and still be the same (nft lists whole seconds)
_DRIFT = 60.0  # seconds the wall clock may move before deadlines on disk are rewritten


class ThrottleError(Failure):
    """The command can't be carried out. Its text is one line."""


class OverBudgetError(ThrottleError):
    """Too few MXs would be left that accept mail."""

    code = 5


class Outcome:
    """What a command did, or with ``dry_run`` would do.

    ``before`` and ``after`` are Status; ``actions`` are sentences in order; ``warnings`` say what didn't work out;
    ``changed`` leaves mere renewals out; ``over_budget`` says why a lease only marks, when it was to refuse;
    ``unmarked``: the marker couldn't be written, so local jobs don't know.
    """

    __slots__ = ("actions", "after", "before", "changed", "over_budget", "unmarked", "warnings")

    def __init__(self, before: marker.Status) -> None:
        self.before = before
        self.after = before
        self.changed = False
        self.actions: list[str] = []
        self.warnings: list[str] = []
        self.over_budget = ""
        self.unmarked = False


class Control:
    """Commands on the throttle of one host. ``settings`` is mf.json, already verified.

    ``patience``: seconds it waits for other commands. Everything it touches is a parameter, for tests: the ``look`` at
    peers, ``sleep``, ``epoch`` (time.time).
    """

    def __init__(
        self,
        places: state.Places,
        settings: Mapping[str, Any],
        *,
        check: str = "throttle",
        dry_run: bool = False,
        patience: float | None = None,
        look: Callable[..., peers.Sight] = peers.look,
        sleep: Callable[[float], None] = time.sleep,
        epoch: Callable[[], float] = time.time,
    ) -> None:
        self._places = places
        self._host = str(settings.get("host", ""))
        self._ports: list[int] = list(settings.get("throttle", {}).get("ports", []))
        self._fleet: Mapping[str, Any] = settings.get("fleet", {})
        self._minimum = int(self._fleet.get("min_accepting", 0))
        self._check = check
        self._dry_run = dry_run
        self._patience = LOCK_WAIT if patience is None else patience
        self._look = look
        self._sleep = sleep
        self._epoch = epoch
        self._disk = places.persistent + "/leases.json"
        self._boot = places.marker.rpartition("/")[0] + "/boot"

    @property
    def can_refuse(self) -> bool:
        """Whether this host has SMTP ports to refuse on."""
        return bool(self._ports)

    def on(
        self,
        owner: str,
        reason: str,
        ttl: float | None,
        *,
        refuse: bool = True,
        force: bool = False,
        mark_instead: bool = False,
    ) -> Outcome:
        """Take or renew the owner's lease; ``ttl`` None is a hold.

        A lease that is to refuse obeys the fleet budget (see ``peers``) unless it is a hold or ``force``: over budget
        it raises OverBudgetError and nothing has changed, or with ``mark_instead`` only marks. Also raises
        LeaseError and ThrottleError.
        """
        lease.make(owner, reason, 0.0, ttl, refuse)  # refuse nonsense before any waiting
        refuse = refuse and self.can_refuse
        asks = refuse and not force and ttl is not None and self._minimum > 0
        own = lease.find(marker.current(self._places).leases, owner)
        renewal = own is not None and own.refuse
        first: peers.Sight | None = None
        if asks and (owner == claims.LOAD or not renewal):
            if owner == claims.LOAD and not renewal and not self._dry_run:
                self._sleep(peers.turn(self._host, self._fleet))
            first = self._look(self._fleet)
            if not peers.is_enough(first, self._minimum):
                if not mark_instead:
                    raise self._over_budget(first)
                return self._mark_instead(first, owner, reason, ttl)
        outcome = self._take(owner, reason, ttl, refuse)
        if first is None or renewal or self._dry_run:
            return outcome
        for step in ("rank", "last"):
            self._sleep(peers.settle(self._fleet))
            sight = self._look(self._fleet, only=first.asked)
            if peers.is_enough(sight, self._minimum):
                break
            if step == "last" or peers.must_yield(self._host, first, sight, self._minimum):
                if mark_instead:
                    return self._mark_instead(sight, owner, reason, ttl)
                self._give_way(owner, own)
                raise self._over_budget(sight)
        return outcome

    def off(self, owner: str) -> Outcome:
        """Give the owner's lease back. Fine when there is none. Raises LeaseError, ThrottleError."""
        claims.check_owner(owner, reserved=True)
        return self._change(lambda held, now: lease.without(held, owner, now), "release", owner, "given back")

    def reconcile(self, *, ensure_table: bool = False) -> Outcome:
        """Bring marker, disk and firewall into line with the leases that are valid. Raises ThrottleError."""
        return self._change(lambda held, now: held, "repair", "throttle", "reconcile", ensure_table=ensure_table)

    def firewall(self) -> firewall.Found:
        """What the kernel has. Raises FirewallError."""
        return firewall.read() if self._ports else firewall.Found()

    def remove(self) -> Outcome:
        """Take everything away: all leases, marker, table (the role is being removed). Raises ThrottleError."""
        outcome = self._change(lambda held, now: (), "release", "throttle", "removed")
        if not self._dry_run:
            try:
                firewall.remove()
            except firewall.FirewallError as error:
                outcome.warnings.append(str(error))
        return outcome

    def _take(self, owner: str, reason: str, ttl: float | None, refuse: bool) -> Outcome:
        return self._change(
            lambda held, now: lease.put(held, lease.make(owner, reason, now, ttl, refuse), now),
            "throttle" if refuse else "mark",
            owner,
            reason,
        )

    def _mark_instead(self, sight: peers.Sight, owner: str, reason: str, ttl: float | None) -> Outcome:
        outcome = self._take(owner, reason, ttl, False)
        outcome.over_budget = f"over budget: {sight.words(self._minimum)}"
        return outcome

    def _give_way(self, owner: str, before: Lease | None) -> None:
        """Undo a lease that was taken a moment ago: back to the owner's lease of before, or to none."""
        if before is None:
            self.off(owner)
        else:
            self._change(lambda held, now: lease.put(held, before, now), "release", owner, "over budget after all")

    def _over_budget(self, sight: peers.Sight) -> OverBudgetError:
        return OverBudgetError(
            f"over budget: {sight.words(self._minimum)}. Nothing is refused; mark only (--mark-only), or refuse all the"
            " same (--force)"
        )

    def _change(
        self,
        edit: Callable[[tuple[Lease, ...], float], tuple[Lease, ...]],
        action: str,
        target: str,
        reason: str,
        *,
        ensure_table: bool = False,
    ) -> Outcome:
        if self._dry_run:
            return self._settle(edit, action, target, reason, ensure_table)
        try:
            with self._places.lock(LOCK, self._patience) as mine:
                if not mine:
                    raise ThrottleError(
                        f"other throttle commands have been at work for {self._patience:g} s; try again"
                    )
                return self._settle(edit, action, target, reason, ensure_table)
        except PermissionError as error:
            raise ThrottleError(f"{error.filename or self._places.locks}: {error.strerror}; run this as root") from None
        except OSError as error:
            raise ThrottleError(f"{error.filename or self._places.locks}: {error.strerror}") from None

    def _settle(
        self,
        edit: Callable[[tuple[Lease, ...], float], tuple[Lease, ...]],
        action: str,
        target: str,
        reason: str,
        ensure_table: bool,
    ) -> Outcome:
        now, epoch = state.boottime(), self._epoch()
        data, damage = marker.read_plain(self._places.marker)
        shown = marker.parse(data, now)
        lost = marker.lost(self._places, now)
        boot = self._boot_token()
        kept, disk_damage = marker.read_plain(self._disk)
        dropped: list[str] = []
        if shown is None:
            held = lease.from_disk(kept, now, epoch, boot, dropped=dropped) or ()
        else:
            held = lease.valid(shown.leases, now)
        outcome = Outcome(marker.Status(held if shown is not None else (), shown is not None and shown.refusing, now))
        outcome.warnings.extend(dropped)
        if damage or (data is not None and shown is None):
            outcome.actions.append(f"replace the marker, which was {damage or 'not whole'}")
        if shown is None and held:
            outcome.actions.append("put back the leases of " + ", ".join(one.owner for one in held))
        wanted = edit(held, now)
        if shown is not None:
            ended = [one.owner for one in shown.leases if not one.is_valid(now)]
            outcome.actions.extend(f"the lease of {owner} has ended" for owner in ended)
        outcome.actions.extend(_differences(held, wanted, now))

        known_refusing = lost == marker.REFUSING if shown is None else shown.refusing
        if wanted or shown is not None or damage:
            self._write_marker(marker.Marker(wanted, known_refusing), now, outcome)
        refusing = self._enforce(wanted, now, known_refusing, ensure_table, outcome)
        if wanted or refusing or shown is not None or damage:
            self._write_marker(marker.Marker(wanted, refusing), now, outcome)
        disk_right = self._keep(wanted, (kept, disk_damage), (now, epoch), boot, outcome)
        if not self._dry_run:
            self._stamp(marker.REFUSING if refusing else marker.THROTTLED if wanted else marker.NOTHING, outcome)
        if not wanted and not refusing and disk_right:
            self._forget_marker(outcome)
        if lost and data is None and not damage:
            what = "; ".join(outcome.actions) or "nothing is in force any more"
            outcome.warnings.insert(0, f"the marker {self._places.marker} was lost: {what}")

        outcome.after = marker.Status(wanted, refusing, now)
        outcome.changed = bool(outcome.actions)
        if outcome.changed:
            self._record(action, target, reason, outcome)
        return outcome

    def _enforce(
        self, wanted: Sequence[Lease], now: float, refusing: bool, ensure_table: bool, outcome: Outcome
    ) -> bool:
        """Bring the firewall into line; returns whether it refuses afterwards."""
        if not self._ports:
            return False
        seconds = lease.refusal(wanted, now)
        refused: dict[int, float | None] = {} if seconds == 0 else dict.fromkeys(self._ports, seconds)
        ports = ", ".join(str(port) for port in self._ports)
        try:
            found = firewall.read()
        except firewall.FirewallError as error:
            if refused or refusing:
                outcome.warnings.append(str(error))
            return refusing and not refused
        if refused and not found.refuses(refused):
            end = "until it is given back" if seconds is None else f"for {text.span(seconds or 0)}"
            outcome.actions.append(f"refuse new connections to port {ports} {end}")
        elif found.ports and not refused:
            outcome.actions.append("accept new connections again")
        elif refused and set(found.ports) != set(refused):
            outcome.actions.append(f"refuse new connections to port {ports} only")
        if _agree(found, refused) and not (ensure_table and not found.whole):
            return bool(refused)
        if self._dry_run:
            return bool(refused)
        try:
            firewall.apply(refused)
        except firewall.FirewallError as error:
            outcome.warnings.append(str(error))
            return found.refuses(self._ports)
        return bool(refused)

    def _write_marker(self, content: marker.Marker, now: float, outcome: Outcome) -> None:
        if self._dry_run:
            return
        try:
            try:
                _replace(self._places.marker, content.encode(now))
            except OSError as error:
                if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                    raise
                # the old one must not go on saying what is no longer so: the next reconcile would believe it
                try:
                    if os.lstat(self._places.marker).st_size > lease.MAX_BYTES:
                        # no marker of ours, and perhaps it is what fills the disk
                        _unlink(self._places.marker)
                        _replace(self._places.marker, content.encode(now))
                    else:
                        _overwrite(self._places.marker, content.encode(now))
                except OSError:
                    raise error from None
        except OSError as error:
            outcome.unmarked = True
            warning = f"the marker {self._places.marker} can't be written: {error.strerror}; jobs don't know of it"
            if warning not in outcome.warnings:
                outcome.warnings.append(warning)

    def _forget_marker(self, outcome: Outcome) -> None:
        if self._dry_run:
            return
        try:
            _unlink(self._places.marker)
        except OSError as error:
            outcome.warnings.append(f"the marker {self._places.marker} can't be removed: {error.strerror}")

    def _keep(
        self,
        wanted: Sequence[Lease],
        disk: tuple[bytes | None, str],
        clocks: tuple[float, float],
        boot: str,
        outcome: Outcome,
    ) -> bool:
        """Keep operators' leases on disk, where they differ from what is there. Returns whether the disk is right."""
        kept, damage = disk
        now, epoch = clocks
        mine = [one for one in wanted if one.owner != claims.LOAD]
        # by the wall clock alone, so that a step of it shows and is made good before a reboot
        there = lease.from_disk(kept, now, epoch, "", limit=False)
        if not mine and kept is None and not damage:
            return True
        if damage or (kept is not None and state.decode(kept) is None):
            outcome.actions.append(f"replace {self._disk}, which was {damage or 'not whole'}")
        if mine and there is not None and _alike(mine, there) and f'"boot": "{boot}"'.encode() in (kept or b""):
            return True
        if self._dry_run:
            return True
        try:
            if mine:
                _replace(
                    self._disk, (state.encode(lease.to_disk(mine, now, epoch, boot)) + "\n").encode(), durable=True
                )
            else:
                _unlink(self._disk)
        except OSError as error:
            effect = "the lease won't survive a reboot" if mine else "a reboot would put the lease back"
            outcome.warnings.append(f"{self._disk} can't be written ({error.strerror}): {effect}")
            return False
        return True

    def _boot_token(self) -> str:
        """A token on tmpfs that stands for the present boot; made when missing."""
        found, _ = marker.read_plain(self._boot)
        token = (found or b"").strip().decode("ascii", "replace")
        if len(token) == 16 and token.isalnum():
            return token
        token = os.urandom(8).hex()
        if not self._dry_run:
            try:
                _replace(self._boot, token.encode() + b"\n")
            except OSError:
                return ""
        return token

    def _stamp(self, in_force: str, outcome: Outcome) -> None:
        """Say when marker and firewall were last compared, and what is in force (see ``marker.stamp``)."""
        path = marker.stamp(self._places)
        try:
            try:
                _replace(path, in_force.encode())
            except OSError:
                _unlink(path)  # without one check-load compares each time
                raise
        except OSError as error:
            outcome.warnings.append(f"{path} can't be written: {error.strerror}")

    def _record(self, action: str, target: str, reason: str, outcome: Outcome) -> None:
        if self._dry_run:
            return
        decisions.record(
            self._places,
            self._check,
            action,
            target,
            text.clean(reason, claims.MAX_REASON),
            "failed" if outcome.after.wrong else "done",
            {
                "actions": [text.clean(one, 300) for one in outcome.actions],
                "warnings": [text.clean(one, 300) for one in outcome.warnings],
                "leases": [text.clean(marker.words(one, outcome.after.now), 200) for one in outcome.after.leases],
                "refusing": outcome.after.refusing,
            },
        )


def _differences(before: Sequence[Lease], after: Sequence[Lease], now: float) -> list[str]:
    """What changes between two sets of leases, in sentences; a renewal is no change."""
    said = []
    for one in after:
        former = lease.find(before, one.owner)
        kind = ("a hold" if one.until is None else "a lease") + (
            " that refuses mail" if one.refuse else " that marks only"
        )
        if former is None:
            said.append(f"{one.owner} takes {kind}")
        elif (former.refuse, former.until is None) != (one.refuse, one.until is None):
            said.append(f"{one.owner} changes to {kind}")
        elif former.reason != one.reason and one.owner != claims.LOAD:
            said.append(f"{one.owner} gives another reason")
    said.extend(f"{one.owner} gives its lease back" for one in before if lease.find(after, one.owner) is None)
    return said


def _agree(found: firewall.Found, refused: Mapping[int, float | None]) -> bool:
    """Whether the kernel refuses what it should for as long as it should."""
    if not refused:
        return not found.ports
    if not found.whole or set(found.ports) != set(refused):
        return False
    for port, seconds in refused.items():
        there = found.ports[port]
        if there is None or seconds is None:
            if there is not seconds:
                return False
        elif abs(there - seconds) > _SAME:
            return False
    return True


def _alike(mine: Sequence[Lease], there: Sequence[Lease]) -> bool:
    if [(one.owner, one.reason, one.refuse) for one in mine] != [(one.owner, one.reason, one.refuse) for one in there]:
        return False
    for ours, theirs in zip(mine, there, strict=True):
        if ours.until is None or theirs.until is None:
            if ours.until is not theirs.until:
                return False
        elif abs(ours.until - theirs.until) > _DRIFT:
            return False
    return True


def _replace(path: str, data: bytes, *, durable: bool = False) -> None:
    """Atomic write that also gets a directory, put there by mistake or malice, out of the way. Raises OSError."""
    try:
        state.write_atomic(path, data, durable=durable)
    except FileNotFoundError:
        state.make_folder(path.rpartition("/")[0])
        state.write_atomic(path, data, durable=durable)
    except IsADirectoryError:
        os.rename(path, f"{path}.damaged.{os.getpid()}.{time.monotonic_ns()}")
        state.write_atomic(path, data, durable=durable)


def _overwrite(path: str, data: bytes) -> None:
    """Put data in the place of a file's content within the room it already has: works where nothing is free.

    One write, the rest filled with white space, which JSON ignores. Raises OSError, and then nothing has changed.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode) or len(data) > max(found.st_size, found.st_blocks * 512):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        os.pwrite(descriptor, data.ljust(found.st_size), 0)
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
