"""When a certificate expires, read from its DER form (RFC 5280, 4.1; X.690).

Python's ssl gives the dates of a certificate only after it has verified it, and a mail server's certificate may be
self-signed or expired.
"""

from __future__ import annotations

import calendar
import time

from mf import text

from ..judging.states import EXPIRED, WARNING, WRONG
from .world import Outcome, World

DAY = 86400
_SEQUENCE, _UTC_TIME, _GENERALIZED_TIME, _VERSION = 0x30, 0x17, 0x18, 0xA0


def not_after(der: bytes) -> float | None:
    """Epoch seconds of the end of validity; None when it can't be read. Never raises."""
    try:
        certificate = _inside(der, 0, _SEQUENCE)
        fields = _inside(der, certificate[0], _SEQUENCE)
        at, end = fields
        if der[at] == _VERSION:
            at = _next(der, at)
        for _ in range(3):  # serial number, signature, issuer
            at = _next(der, at)
        if at >= end:
            return None
        begin, _ = _inside(der, at, _SEQUENCE)
        return _moment(der, _next(der, begin))
    except (IndexError, ValueError, OverflowError):
        return None


def _length(der: bytes, at: int) -> tuple[int, int]:
    """Start and end of the contents of the element at ``at``."""
    size, start = der[at + 1], at + 2
    if size & 0x80:
        count = size & 0x7F
        if not 0 < count <= 4:
            raise ValueError("no definite length")
        size = int.from_bytes(der[start : start + count], "big")
        start += count
    if start + size > len(der):
        raise ValueError("cut off")
    return start, start + size


def _inside(der: bytes, at: int, tag: int) -> tuple[int, int]:
    if der[at] != tag:
        raise ValueError("another element was expected")
    return _length(der, at)


def _next(der: bytes, at: int) -> int:
    return _length(der, at)[1]


def _moment(der: bytes, at: int) -> float:
    start, end = _length(der, at)
    message = der[start:end].decode("ascii")
    if der[at] == _UTC_TIME:
        # RFC 5280, 4.1.2.5.1: 50 to 99 are of the last century
        message = ("19" if message[:2] >= "50" else "20") + message
    elif der[at] != _GENERALIZED_TIME:
        raise ValueError("no time")
    return float(calendar.timegm(time.strptime(message, "%Y%m%d%H%M%SZ")))


def outcome(der: bytes, world: World, message: str) -> Outcome:
    """A certificate's date: expired or about to."""
    now = world.clocks.wall()
    expires = not_after(der)
    if expires is None:
        return Outcome(f"{message}, a certificate that can't be read", WARNING, WRONG)
    left = expires - now
    if left <= 0:
        return Outcome(f"certificate expired {text.span(-left)} ago", WARNING, EXPIRED, expires)
    if left < world.settings.cert_warning_days * DAY:
        return Outcome(f"certificate expires in {text.span(left)}", WARNING, "", expires)
    return Outcome(message, expires=expires)
