"""Leases: owner, reason and end of each request to throttle this host. Pure functions; nothing here touches the host.

A lease asks for local restraint (IO-heavy jobs wait) and, with ``refuse``, for new SMTP connections to be refused.
The throttle is on while any lease is valid. Several owners hold one lease each. Deadlines are CLOCK_BOOTTIME
seconds (see ``state.boottime``), so a step of the wall clock changes nothing; no deadline at all is a *hold*.

Stored leases are hostile until they are verified: a marker with anything wrong in it counts as absent. That is safe
because the important part is kept twice (operators' leases on disk, refusals in the kernel with their own timeouts).
"""

from __future__ import annotations

from .. import state
from ..claims import LOAD, MAX_TTL, LeaseError, Record, check_owner, check_reason, check_ttl, is_time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

DAMAGED = "damaged"  # the owner of a hold whose owner can't be read
MAX_LEASES = 32
MAX_BYTES = 65536  # of a marker


class Lease(Record):
    """One owner's lease. ``since`` and ``until`` are CLOCK_BOOTTIME seconds; ``until`` None is a hold."""

    __slots__ = ("owner", "reason", "refuse", "since", "until")

    def __init__(self, owner: str, reason: str, since: float, until: float | None, refuse: bool) -> None:
        self.owner = owner
        self.reason = reason
        self.since = since
        self.until = until
        self.refuse = refuse

    def as_json(self) -> dict[str, state.Json]:
        """The lease as it stands in the marker."""
        return {
            "owner": self.owner,
            "reason": self.reason,
            "since": self.since,
            "until": self.until,
            "refuse": self.refuse,
        }

    def left(self, now: float) -> float | None:
        """Seconds until it ends, 0 when it has ended; None for a hold."""
        return None if self.until is None else max(0.0, self.until - now)

    def is_valid(self, now: float) -> bool:
        """Whether it still holds."""
        return self.until is None or self.until > now


def make(owner: str, reason: str, now: float, ttl: float | None, refuse: bool) -> Lease:
    """A lease from now on for ``ttl`` seconds, or a hold. Raises LeaseError."""
    check_owner(owner, reserved=True)
    check_reason(reason)
    until = None if ttl is None else round(now + check_ttl(ttl), 3)
    return Lease(owner, reason, round(now, 3), until, bool(refuse))


def valid(leases: Iterable[Lease], now: float) -> tuple[Lease, ...]:
    """The leases that have not ended."""
    return tuple(lease for lease in leases if lease.is_valid(now))


def put(leases: Iterable[Lease], new: Lease, now: float) -> tuple[Lease, ...]:
    """The valid leases with ``new`` in place of its owner's former one, whose ``since`` it inherits: a renewal.

    Raises LeaseError when there are too many.
    """
    kept = valid(leases, now)
    former = find(kept, new.owner)
    if former is not None:
        new = Lease(new.owner, new.reason, former.since, new.until, new.refuse)
    others = tuple(lease for lease in kept if lease.owner != new.owner)
    if len(others) >= MAX_LEASES:
        raise LeaseError(f"{MAX_LEASES} leases are held already; give one back first (throttle status shows them)")
    return tuple(sorted((*others, new), key=lambda lease: lease.owner))


def without(leases: Iterable[Lease], owner: str, now: float) -> tuple[Lease, ...]:
    """The valid leases of all other owners."""
    return tuple(lease for lease in valid(leases, now) if lease.owner != owner)


def find(leases: Iterable[Lease], owner: str) -> Lease | None:
    """The owner's lease."""
    return next((lease for lease in leases if lease.owner == owner), None)


def differences(before: Iterable[Lease], after: Iterable[Lease]) -> list[str]:
    """The changes between two sets of leases, in sentences; a renewal is no change."""
    sentences = []
    for new in after:
        former = find(before, new.owner)
        kind = ("a hold" if new.until is None else "a lease") + (
            " that refuses mail" if new.refuse else " that marks only"
        )
        if former is None:
            sentences.append(f"{new.owner} takes {kind}")
        elif (former.refuse, former.until is None) != (new.refuse, new.until is None):
            sentences.append(f"{new.owner} changes to {kind}")
        elif former.reason != new.reason and new.owner != LOAD:
            sentences.append(f"{new.owner} gives another reason")
    sentences.extend(f"{old.owner} gives its lease back" for old in before if find(after, old.owner) is None)
    return sentences


def refusal(leases: Iterable[Lease], now: float) -> float | None:
    """Seconds for which new connections are to be refused: 0 not at all, None without end."""
    left = [lease.left(now) for lease in leases if lease.refuse and lease.is_valid(now)]
    if None in left:
        return None
    return max((seconds for seconds in left if seconds is not None), default=0.0)


def parse_leases(stored: object, now: float) -> tuple[Lease, ...] | None:
    """Leases read from JSON, all of them or None; expired ones are among them."""
    if not isinstance(stored, list) or len(stored) > MAX_LEASES:
        return None
    leases: dict[str, Lease] = {}
    for item in stored:
        try:
            lease = _parse(item, now)
        except (LeaseError, TypeError, OverflowError):
            return None
        if lease.owner in leases:
            return None
        leases[lease.owner] = lease
    return tuple(sorted(leases.values(), key=lambda lease: lease.owner))


def _parse(item: object, now: float) -> Lease:
    if not isinstance(item, dict):
        raise LeaseError("not an object")
    fields: Mapping[str, object] = item
    since, until = fields.get("since"), fields.get("until")
    if not is_time(since) or float(since) > now + 1:
        raise LeaseError("since must be a time that has passed")
    if until is not None and (not is_time(until) or float(until) > now + MAX_TTL + 1):
        raise LeaseError("until must be a time within 7 d, or null")
    if not isinstance(fields.get("refuse"), bool):
        raise LeaseError("refuse must be true or false")
    return Lease(
        check_owner(fields.get("owner"), reserved=True),
        check_reason(fields.get("reason")),
        float(since),
        None if until is None else float(until),
        fields["refuse"] is True,
    )


def to_disk(leases: Iterable[Lease], now: float, epoch: float, boot: str) -> dict[str, state.Json]:
    """Operators' leases as stored across a reboot: with deadlines in epoch seconds as well.

    ``boot`` is a token of the present boot. Within that boot ``until`` counts; after a reboot ``until_epoch`` does,
    for across a reboot the wall clock is all there is. ``check-load``'s own lease is left out: it ends with a reboot.
    """
    kept: list[dict[str, state.Json]] = []
    for lease in leases:
        if lease.owner != LOAD and lease.is_valid(now):
            until_epoch = None if lease.until is None else round(epoch + lease.until - now, 3)
            since_epoch = round(epoch + lease.since - now, 3)
            kept.append({**lease.as_json(), "since_epoch": since_epoch, "until_epoch": until_epoch})
    return {"leases": kept, "boot": boot, "written_epoch": round(epoch, 3)}


def from_disk(
    data: bytes | None, now: float, epoch: float, boot: str, *, limit: bool = True, dropped: list[str] | None = None
) -> tuple[Lease, ...] | None:
    """The stored leases (see ``to_disk``) that have not ended, on this boot's clock. None when they can't be read.

    A wall clock that went backwards never lengthens a lease: none gets more than it had left when it was written
    (``limit``). An implausible lease is left out, but a hold is kept with any damage, because only an operator
    may end it; ``dropped`` gets a sentence for either.
    """
    if data is None or len(data) > MAX_BYTES:
        return None
    record = state.decode(data)
    if record is None:
        return None
    kept = record.get("leases")
    written = record.get("written_epoch")
    if not isinstance(kept, list) or not is_time(written):
        return None
    same_boot = bool(boot) and record.get("boot") == boot
    since_then = max(epoch, written) if limit else epoch
    sentences = [] if dropped is None else dropped
    leases: dict[str, Lease] = {}
    for item in kept:
        ends = [item.get("until", 0), item.get("until_epoch", 0)] if isinstance(item, dict) else []
        try:
            if ends.count(None) == 1:
                raise LeaseError("until and until_epoch differ")
            lease = _parse(item if same_boot else _on_this_boot(item, now, epoch, since_then), now)
        except (LeaseError, TypeError, OverflowError) as error:
            if not isinstance(item, dict) or None not in ends:
                sentences.append(f"a lease on disk was left out: {error}")
                continue
            lease = _mended(item, now)
            sentences.append(f"a hold on disk was damaged ({error}): kept for {lease.owner}")
        former = leases.get(lease.owner)
        if former is None or former.until is not None:
            leases[lease.owner] = lease
    # holds first, should there be too many
    holds_first = sorted(leases.values(), key=lambda lease: (lease.until is not None, lease.owner))[:MAX_LEASES]
    return tuple(
        lease
        for lease in sorted(holds_first, key=lambda lease: lease.owner)
        if lease.owner != LOAD and lease.is_valid(now)
    )


def _on_this_boot(item: object, now: float, epoch: float, since_then: float) -> object:
    """A kept lease with its times moved from the wall clock to this boot's. Raises LeaseError."""
    if not isinstance(item, dict):
        return item
    until, since = item.get("until_epoch"), item.get("since_epoch")
    if not is_time(since) or not (until is None or is_time(until)):
        raise LeaseError("since_epoch must be a time, until_epoch one or null")
    left = None if until is None else until - since_then
    return {**item, "since": min(now, now + since - epoch), "until": None if left is None else now + left}


def _mended(item: Mapping[str, object], now: float) -> Lease:
    """A damaged hold: each missing value is replaced by the safest."""
    try:
        owner = check_owner(item.get("owner"))
    except LeaseError:
        owner = DAMAGED
    try:
        reason = check_reason(item.get("reason"))
    except LeaseError:
        reason = "damaged on disk"
    return Lease(owner, reason, round(now, 3), None, item.get("refuse") is not False)
