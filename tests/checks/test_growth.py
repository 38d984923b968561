"""What strangers wrote is read in a time that grows with its length, not with the square of it.

The counterpart, for what runs in Python, of tests/perl/growth.t.
"""

from __future__ import annotations

import io
import json
import time
from collections.abc import Callable
from typing import Any

import pytest
from mf import canary, text
from mf_checks import queue
from mf_quarantine import envelope, layout
from mf_rejected import deliver, keeper

SMALL, TIMES = 8192, 8
UNITS = [
    *(bytes([code]) for code in b"\0\t\n\v\r\x1b \"'(),-./:<=>?@[\\]a\x7f\x80\xa0\xff"),
    *(b"\r\n", b"\n ", b"\r\n\t", b" \r", b"=?", b"?=", b"=?a?q?b?= ", b"=?utf-8?b?"),
    *(b'\\"', b'"\\', b"a.", b"-a", b"a:\n", b"[", b"{", b'{"a":', b"X-Mf-Canary: ", b"\xc3\xa9", b"\xed\xa0\x80"),
    *(b"\n.", b"\r\n.", b"\n-", b"\n--b\n", b"--b--\n", b"=a@0", b"@", b"Action: failed\n\n"),
    *(b"AA refused@keep.mf.invalid\n", b"--b\n\n"),
    *(b"Content-Type:\n", b"Content-Type: multipart/report;\n", b"Content-Type: message/rfc822\n", b"Message-Id:\n"),
]
ENVELOPE = {
    "id": "20260101T000000.000000Z-mx1-1-0-0000000000000000",
    "host": "mx1",
    "sender": "",
    "recipients": ["u@ours.example"],
    "plugin": "x",
    "reason": "",
    "size": 1,
    "truncated": False,
    "sha256": "0" * 64,
}

IN_BOUNCE = ("header", "kind", "text", "status", "part", "sender", "message")
HEAD = b"1abcde-000001-AB-H\nx 1 1\n<>\n1 0\n-received_protocol local\n"


class Pieces(io.BytesIO):
    """A socket that gives 4 KiB at once."""

    def readinto(self, buffer: Any, /) -> int:
        return super().readinto(memoryview(buffer)[:4096])


def swallow(work: Callable[[bytes], object]) -> Callable[[bytes], object]:
    """The same, with refusals as an ordinary end."""

    def tried(data: bytes) -> object:
        try:
            return work(data)
        except (envelope.DamagedError, deliver.RefusedError, keeper.ReportError, EOFError):
            return None

    return tried


def with_sender(data: bytes) -> object:
    """An envelope whose sender, reason and recipient are hostile, as the index stores it."""
    hostile_text = data.decode("latin-1")
    line = json.dumps(
        {**ENVELOPE, "sender": hostile_text, "reason": hostile_text, "recipients": [hostile_text]}
    ).encode()
    return envelope.Message("ours.example", envelope.parse(line, str(ENVELOPE["id"])), b"", 0, b"")


def bounce(**places: bytes) -> bytes:
    """A bounce of Exim's with hostile bytes in `places`."""
    fields = {**dict.fromkeys(IN_BOUNCE, b""), "sender": b"a@b.example"}
    return b"""Message-Id: <E1abcde-000001-AB@mx1>
%(header)sContent-Type: multipart/report; report-type=delivery-status;%(kind)s boundary=b

--b

    %(text)s

--b
Content-Type: message/delivery-status

Action: failed
Final-Recipient: rfc822;u@ours.example
Diagnostic-Code: smtp; %(status)s

--b
Content-Type: message/rfc822
%(part)s
Return-path: <%(sender)s>
Subject: x
%(message)s

--b--
""" % {name.encode(): value for name, value in (fields | places).items()}


def in_bounce(place: str) -> Callable[[bytes], object]:
    """Parse and trim a bounce with hostile bytes in one place."""
    return lambda data: (keeper.parse(bounce(**{place: data})), keeper.trim(bounce(**{place: data})))


PLACES: dict[str, Callable[[bytes], object]] = {
    "an envelope": lambda data: envelope.parse(data, "x"),
    "a string in an envelope": lambda data: envelope.parse(b'{"id": "' + data + b'"}', "x"),
    "addresses in an envelope": with_sender,
    "a header": envelope.subject,
    "a subject": lambda data: envelope.subject(b"Subject: " + data + b"\n\n"),
    "a folded subject": lambda data: envelope.subject(b"subject: x\n " + data + b"\nTo: x\n\n"),
    "a canary's header": canary.find,
    "a canary's tag": lambda data: canary.verify(b"k" * 32, data, 0.0),
    "a name of a file": lambda data: [layout.is_host(data.decode("latin-1")), layout.is_domain(data.decode("latin-1"))],
    "an address": lambda data: deliver.path(data.decode("latin-1")),
    "a release": lambda data: deliver.read(io.BytesIO(data)),
    "a released message": lambda data: sum(len(block) for block in deliver.wire(data)),
    "a line that is shown": lambda data: text.clean(data, 300),
    "a message for the keeper": lambda data: keeper.receive(io.BytesIO(data + b"\r\n.\r\n")),
    "a message in pieces": lambda data: keeper.receive(io.BufferedReader(Pieces(data + b"\r\n.\r\n"))),
    "a whole bounce": keeper.parse,
    **{f"a bounce's {place}": in_bounce(place) for place in IN_BOUNCE},
    "a queued message": lambda data: (queue.is_frozen(data), queue.is_unkept(data)),
    "options of a queued message": lambda data: (queue.is_frozen(HEAD + data), queue.is_unkept(HEAD + data)),
}


def cost(work: Callable[[bytes], object], data: bytes) -> float:
    """CPU seconds of one call."""
    before = time.process_time()
    work(data)
    return time.process_time() - before


def grows_too_fast(work: Callable[[bytes], object], unit: bytes) -> str | None:
    """What was measured when eight times as much took more than twenty times as long; noise doesn't reach that."""
    short, long = (unit * (size // len(unit)) for size in (SMALL, SMALL * TIMES))
    least, most = float("inf"), float("inf")
    for _ in range(4):
        least = min(least, cost(work, short))
        most = min(most, cost(work, long))
        if most <= 20 * least + 0.005:
            return None
    return f"{unit!r}: {least:.4f} s, {TIMES} times as much {most:.4f} s"


@pytest.mark.parametrize("place", PLACES)
def test_time_grows_with_the_length(place: str) -> None:
    work = swallow(PLACES[place])
    assert [slowdown for unit in UNITS if (slowdown := grows_too_fast(work, unit))] == []


def test_the_hostile_bounces_are_bounces() -> None:
    assert keeper.parse(bounce()).recipients == {"u@ours.example": "no reason given"}


def test_a_square_would_be_seen() -> None:
    def square(data: bytes) -> object:
        return [data[start:].rstrip(b"a") for start in range(0, len(data), 16)]

    assert grows_too_fast(square, b"a") is not None
