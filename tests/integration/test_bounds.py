"""A thousand hostile servers of each kind: no traceback, no hang past the deadline + 0.1 s, no more than 20 MiB."""

from __future__ import annotations

import random
import socket
import ssl
import time
from functools import partial
from pathlib import Path

import pytest

from tests.core.conftest import GOOD, server
from tests.integration import bounds


def anything(seeds: random.Random, connection: socket.socket) -> None:
    """A server that answers with what it should, with garbage, with too much, too late, or not at all."""
    dice = random.Random(seeds.random())
    kinds = ("good", "bytes", "endless", "drip", "silent", "close", "codes", "torn")
    replies = [b"220 ready\r\n", *GOOD.values()]
    for turn in range(12):
        kind = dice.choice(kinds) if turn or dice.random() < 0.7 else "good"
        if kind == "close":
            return
        if kind == "bytes":
            connection.sendall(dice.randbytes(dice.randrange(1, 3000)))
        elif kind == "endless":
            line = dice.choice((b"220-", b"250-x\r\n", b"\0", b"250-" + b"y" * 4000 + b"\r\n"))
            for _ in range(200000 // len(line)):
                connection.sendall(line)
        elif kind == "drip":
            for byte in b"250-slowly\r\n250 done\r\n":
                connection.sendall(bytes([byte]))
                time.sleep(0.02)
        elif kind == "silent":
            connection.recv(100)
            continue
        elif kind == "codes":
            connection.sendall(b"%03d%c%s\r\n" % (dice.randrange(1000), dice.choice(b" -\t"), dice.randbytes(9)))
        elif kind == "torn":
            whole = dice.choice(replies)
            connection.sendall(whole[: dice.randrange(len(whole))])
        else:
            connection.sendall(replies[min(turn, len(replies) - 1)])
        if not connection.recv(4096):
            return


def context_of(certificate: Path) -> ssl.SSLContext:
    """A server's side of TLS."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    return context


def after_starttls(seeds: random.Random, context: ssl.SSLContext, connection: socket.socket) -> None:
    """A server that offers STARTTLS, says go ahead, and then: anything but a sound handshake and a sound reply."""
    dice = random.Random(seeds.random())
    connection.sendall(b"220 ready\r\n")
    connection.recv(4096)
    connection.sendall(GOOD[b"EHLO"])
    connection.recv(4096)
    connection.sendall(b"220 go ahead\r\n")
    kind = dice.choice(("garbage", "record", "endless", "drip", "silent", "close", "torn", "inside"))
    hello = connection.recv(4096)
    record = bytes([dice.choice((20, 21, 22, 23, 255)), 3, dice.choice((0, 3, 4, 255))])
    if kind == "garbage":
        connection.sendall(dice.randbytes(dice.randrange(1, 3000)))
    elif kind == "record":
        size = dice.randrange(65536)
        connection.sendall(record + size.to_bytes(2, "big") + dice.randbytes(min(size, 2000)))
    elif kind == "endless":
        for _ in range(200):
            connection.sendall(record + b"\x04\x00" + dice.randbytes(1024))
    elif kind == "drip":
        for byte in record + b"\x40\x00" + hello:
            connection.sendall(bytes([byte]))
            time.sleep(0.02)
    elif kind == "close":
        return
    elif kind in ("torn", "inside"):
        # a real handshake, by hand: cut short, or sound with a reply in it that isn't
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        inner = context.wrap_bio(incoming, outgoing, server_side=True)
        incoming.write(hello)
        while not shaken(inner):
            flight = outgoing.read()
            if kind == "torn":
                connection.sendall(flight[: dice.randrange(len(flight) + 1)] + dice.randbytes(dice.randrange(50)))
                break
            connection.sendall(flight)
            if not (more := connection.recv(4096)):
                return
            incoming.write(more)
        else:
            inner.write(dice.choice((dice.randbytes(2000), b"250-x\r\n" * 9000, b"2", b"250-" + b"y" * 9000, b"\0\n")))
            connection.sendall(outgoing.read())
    connection.recv(4096)


def shaken(inner: ssl.SSLObject) -> bool:
    """Whether the handshake is done, as far as what came allows."""
    try:
        inner.do_handshake()
    except ssl.SSLWantReadError:
        return False
    return True


@pytest.mark.parametrize("kind", ["dialogues", "handshakes"])
def test_hostile_servers_by_the_thousand(kind: str, certificate: Path, tmp_path: Path) -> None:
    seeds = random.Random(0)
    hostile = (
        partial(after_starttls, seeds, context_of(certificate)) if kind == "handshakes" else partial(anything, seeds)
    )
    with server(hostile) as port:
        # most of the time is spent waiting
        bounds.feed(kind, tmp_path, port, processes=4)
