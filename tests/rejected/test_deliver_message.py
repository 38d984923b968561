"""A message as it goes to Exim: its addresses, its lines, in blocks and little memory."""

from __future__ import annotations

import random
import re
import tracemalloc

import pytest
from mf_rejected import deliver


@pytest.mark.parametrize(
    ("raw", "sent"),
    [(b"", b""), (b"\n", b"\r\n"), (b"no end", b"no end\r\n"), (b"a\r\r\n", b"a\r\n"), (b"\0\xff\n", b"\0\xff\r\n")],
)
def test_odd_messages_go_as_they_are(raw: bytes, sent: bytes) -> None:
    assert b"".join(deliver.wire(raw)) == sent


def whole(raw: bytes) -> bytes:
    """What goes after DATA, all lines at once: what the blocks must add up to."""
    lines = [line.rstrip(b"\r").replace(b"\r", b" ") for line in raw.split(b"\n")]
    if lines[-1] == b"":
        lines.pop()
    return b"".join((b"." + line if line.startswith(b".") else line) + b"\r\n" for line in lines)


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_blocks_add_up_wherever_they_are_cut(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    monkeypatch.setattr(deliver, "BLOCK", size)
    chance = random.Random(size)
    for length in range(40):
        for _ in range(100):
            raw = bytes(chance.choices(b"\r\n.a ", weights=[3, 3, 3, 1, 1], k=length))
            assert b"".join(deliver.wire(raw)) == whole(raw), raw


def test_blocks_are_of_a_size(monkeypatch: pytest.MonkeyPatch) -> None:
    for raw in (b"x" * (3 * deliver.BLOCK), b"." + b"\n.x" * deliver.BLOCK):
        blocks = list(deliver.wire(raw))
        assert b"".join(blocks) == whole(raw)
        assert len(blocks) > 2
        assert max(map(len, blocks)) < 2 * deliver.BLOCK + 2


@pytest.mark.parametrize("raw", [b"\n" * (1 << 18), b"\r\n.\n" * (1 << 16), b"x" * (1 << 22)])
def test_a_message_is_made_ready_in_little_memory(raw: bytes) -> None:
    tracemalloc.start()
    try:
        for _ in deliver.wire(raw):
            pass
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("address", "written"),
    [
        ("a.b+c@d.example", "<a.b+c@d.example>"),
        ("a@[192.0.2.1]", "<a@[192.0.2.1]>"),
        ("a@[IPv6:2001:db8::1]", "<a@[IPv6:2001:db8::1]>"),
        ("John Doe@x.example", '<"John\\ Doe"@x.example>'),
        ("a@b@c.example", '<"a\\@b"@c.example>'),
        ('"\\@c.example', '<"\\"\\\\"@c.example>'),
        ("a>b@c.example", '<"a\\>b"@c.example>'),
        ("bounce@em_1234.news.example", "<bounce@em_1234.news.example>"),
        ("SRS0=x=" + "y" * 100 + "@c.example", "<SRS0=x=" + "y" * 100 + "@c.example>"),
        ("x" * 244 + "@c.example", "<" + "x" * 244 + "@c.example>"),
    ],
)
def test_addresses_are_written_so_that_they_mean_one_thing(address: str, written: str) -> None:
    assert deliver.path(address) == written


def test_an_address_has_no_second_meaning() -> None:
    """Whatever characters it has: refused, or one path in RFC 5321's form, whose unquoted parts are the address."""
    form = re.compile(
        r"<(?:[a-zA-Z0-9!#$%&'*+\-/=?^_`{|}~.]+|\"((?:[^\"\\]|\\.)*)\")@(?:[A-Za-z0-9._-]+|\[[A-Fa-f0-9IPv:.]+\])>"
    )
    chance = random.Random(3)
    odd = [chr(code) for code in range(256)] + list('<>"\\@ \r\n\0[]().,:;') * 8 + ["\u2028", "\u0130", "\uff1e"]
    taken = 0
    for _ in range(20000):
        local = "".join(chance.choices(odd, k=chance.randrange(5)))
        address = local + chance.choice(["@d.example", "@[192.0.2.1]", "", "@" + "".join(chance.choices(odd, k=2))])
        try:
            written = deliver.path(address)
        except deliver.RefusedError:
            continue
        taken += 1
        assert written.isascii()
        assert written.isprintable()
        match = form.fullmatch(written)
        assert match, written
        plain = (
            written[1:-1] if match[1] is None else re.sub(r"\\(.)", r"\1", match[1]) + written[written.rindex("@") : -1]
        )
        assert plain == address
    assert taken > 1000
