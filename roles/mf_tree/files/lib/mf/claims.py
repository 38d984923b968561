"""Owner, reason and duration of a claim on a host. Shared by the throttle's leases and maintenance."""

from __future__ import annotations

from . import Failure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TypeGuard

LOAD = "load"  # the owner reserved for check-load
MAX_REASON = 200  # characters
MIN_TTL = 1.0  # seconds
MAX_TTL = 7 * 86400.0  # seconds
_LETTERS = frozenset("abcdefghijklmnopqrstuvwxyz")
_NAME = _LETTERS | frozenset("0123456789_.-")


class LeaseError(Failure, ValueError):
    """An invalid lease: its text is one line with the mistake and the correct form."""


def check_owner(owner: object, *, reserved: bool = False) -> str:
    """Return the owner if it is valid. ``reserved`` also admits ``load``. Raises LeaseError."""
    if (
        not isinstance(owner, str)
        or not 1 <= len(owner) <= 32
        or owner[0] not in _LETTERS
        or not _NAME.issuperset(owner)
    ):
        raise LeaseError(f"owner {str(owner)[:40]!a} is not a name: a small letter, then up to 31 of a-z 0-9 _ . -")
    if owner == LOAD and not reserved:
        raise LeaseError("owner load belongs to check-load; use another name (for example: operator)")
    return owner


def check_ttl(ttl: float) -> float:
    """Return the time in seconds if it is valid. Raises LeaseError."""
    if isinstance(ttl, bool) or not isinstance(ttl, (int, float)) or not MIN_TTL <= ttl <= MAX_TTL:
        raise LeaseError(f"a lease lasts from 1 s to 7 d, not {ttl!r:.40}; use --hold for a lease without an end")
    return float(ttl)


def check_reason(reason: object) -> str:
    """Return the reason if it is one line of at most MAX_REASON printable characters. Raises LeaseError."""
    if not isinstance(reason, str) or len(reason) > MAX_REASON or not reason.isprintable():
        raise LeaseError(f"a reason is one line of at most {MAX_REASON} printable characters")
    return reason


def is_time(value: object) -> TypeGuard[float]:
    """Whether this can be a time, in seconds of any clock."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and -1e12 < value < 1e12


class Record:
    """Named values, equal when all of them are. No dataclass: its import would cost every reading of health 20 ms."""

    __slots__: tuple[str, ...] = ()

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and self._values() == other._values()

    def __hash__(self) -> int:
        return hash(self._values())

    def __repr__(self) -> str:
        return f"{type(self).__name__}{self._values()}"

    def _values(self) -> tuple[object, ...]:
        return tuple(getattr(self, name) for name in self.__slots__)
