"""The end of a certificate, read from its DER form (RFC 5280, 4.1; X.690).

Python's ssl shows the fields of a certificate only after it has verified it, and a mail server's certificate may be
self-signed or expired.
"""

from __future__ import annotations

import calendar
import time

_SEQUENCE, _UTC_TIME, _GENERALIZED_TIME, _VERSION = 0x30, 0x17, 0x18, 0xA0


def not_after(der: bytes) -> float | None:
    """Epoch seconds of the end of validity; None when it can't be read. Never raises."""
    try:
        fields = _sequence(_sequence(der))
        if fields[0] == _VERSION:
            fields = _element(fields)[2]
        for _ in range(3):  # serial number, signature, issuer
            fields = _element(fields)[2]
        tag, end, _ = _element(_element(_sequence(fields))[2])
        return _moment(tag, end.decode("ascii"))
    except (IndexError, ValueError, OverflowError):
        return None


def _sequence(der: bytes) -> bytes:
    """The content of the sequence that the data begins with. Raises ValueError, IndexError."""
    tag, content, _ = _element(der)
    if tag != _SEQUENCE:
        raise ValueError("another element was expected")
    return content


def _element(der: bytes) -> tuple[int, bytes, bytes]:
    """Tag and content of the first element, and what follows it. Raises ValueError, IndexError."""
    size, start = der[1], 2
    if size & 0x80:
        count = size & 0x7F
        if not 0 < count <= 4:
            raise ValueError("no definite length")
        start += count
        size = int.from_bytes(der[2:start], "big")
    if start + size > len(der):
        raise ValueError("cut off")
    return der[0], der[start : start + size], der[start + size :]


def _moment(tag: int, text: str) -> float:
    """Epoch seconds of a time. Raises ValueError, OverflowError."""
    if tag == _UTC_TIME:
        # RFC 5280, 4.1.2.5.1: 50 to 99 are of the last century
        text = ("19" if text[:2] >= "50" else "20") + text
    elif tag != _GENERALIZED_TIME:
        raise ValueError("no time")
    return float(calendar.timegm(time.strptime(text, "%Y%m%d%H%M%SZ")))
