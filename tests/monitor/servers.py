"""Targets on loopback that behave as a test asks, and a gateway that records what it was given."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

from mf_monitor import settings
from mf_monitor.clocks import Clocks
from mf_monitor.judging.states import ProbeResult
from mf_monitor.probing import probes
from mf_monitor.probing.world import World

LIMIT = 1.0
SLACK = 6.0  # seconds; a probe without a deadline never ends, and a busy machine is slow
HOSTILE = b"220 <script>alert(1)</script> \x1b[2J\x07 \xff\xfe\r\n"

Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]

# Sends a message by HTTP with the standard library: what Apprise's json:// does, without Apprise.
SENDER_PROGRAM = """
import json, sys, urllib.request
order = json.load(sys.stdin)
data = json.dumps({"message": order["body"]}).encode()
request = urllib.request.Request(order["url"], data, {"Content-Type": "application/json"})
urllib.request.urlopen(request, timeout=5).read()
"""
SENDER = (sys.executable, "-I", "-c", SENDER_PROGRAM)


class Target:
    """A server on a loopback address. ``talk`` may be changed at any time; ``stop`` refuses, ``start`` is back."""

    def __init__(self, talk: Talk, address: str = "127.0.0.1") -> None:
        self.talk = talk
        self.address = address
        self.port = 0
        self._server: asyncio.Server | None = None

    async def start(self) -> Target:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                await self.talk(reader, writer)
            except (ConnectionError, asyncio.IncompleteReadError, ValueError):
                pass
            finally:
                writer.close()

        self._server = await asyncio.start_server(serve, self.address, self.port, limit=1 << 20)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()
            self._server = None


def says(data: bytes, *, hold: bool = False) -> Talk:
    """Says this at once; with ``hold`` the connection stays open."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(data)
        await writer.drain()
        if hold:
            await reader.read()

    return talk


def smtp(**replies: bytes) -> Talk:
    """An SMTP server; ``replies`` by verb in capitals, ``GREETING`` and ``DOT`` (the final dot) replace its own."""
    own = {
        "GREETING": b"220 here\r\n",
        "EHLO": b"250-here\r\n250 HELP\r\n",
        "MAIL": b"250 ok\r\n",
        "RCPT": b"550 relaying denied\r\n",
        "DATA": b"354 go on\r\n",
        "DOT": b"250 taken\r\n",
        "RSET": b"250 ok\r\n",
        "QUIT": b"221 bye\r\n",
    }
    script = {**own, **replies}

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(script["GREETING"])
        while line := await reader.readline():
            verb = line[:4].decode("latin-1").upper()
            writer.write(script.get(verb, b"500 what?\r\n"))
            if verb == "DATA":
                await reader.readuntil(b"\r\n.\r\n")
                writer.write(script["DOT"])
            if verb == "QUIT":
                break
        await writer.drain()

    return talk


class Gateway:
    """Takes what the sender posts; ``texts`` in their order. ``broken`` answers 503."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.broken = False
        self.target = Target(self._talk)

    async def start(self) -> Gateway:
        await self.target.start()
        return self

    @property
    def url(self) -> str:
        """Where to post."""
        return f"http://127.0.0.1:{self.target.port}/"

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        size = next(int(line[15:]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:"))
        request: dict[str, Any] = json.loads(await reader.readexactly(size))
        if self.broken:
            writer.write(b"HTTP/1.1 503 no\r\nContent-Length: 0\r\n\r\n")
        else:
            self.texts.append(request["message"])
            writer.write(b"HTTP/1.1 200 ok\r\nContent-Length: 0\r\n\r\n")
        await writer.drain()


async def until(condition: Callable[[], bool], limit: float = 20.0) -> None:
    """Wait for a condition."""
    async with asyncio.timeout(limit):
        while not condition():
            await asyncio.sleep(0.02)


def probe(
    talk: Talk, entry: dict[str, Any], limit: float = LIMIT, address: str = "127.0.0.1"
) -> tuple[ProbeResult, float]:
    """Probe such a target once; the result, and how long it took."""

    async def go() -> tuple[ProbeResult, float]:
        target = await Target(talk, address).start()
        try:
            service = {"port": target.port, **entry}
            raw = {"timeout": limit, "hosts": [{"name": "mx1", "address": address, "services": [service]}]}
            chosen = settings.parse(raw)
            started = time.monotonic()
            result = await probes.probe(chosen.hosts[0].services[0], World.of(chosen, Clocks()))
            return result, time.monotonic() - started
        finally:
            await target.stop()

    return asyncio.run(go())


async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while True:
        writer.write(b"2")
        await writer.drain()
        await asyncio.sleep(0.05)


async def flood(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    for _ in range(160):
        writer.write(b"x" * 65536)
        await writer.drain()


async def lines_without_end(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while True:
        writer.write(b"220-more\r\n" * 1000)
        await writer.drain()


def http(*lines: str, body: str = "") -> Talk:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(("\r\n".join(lines) + "\r\n\r\n" + body).encode("latin-1"))
        await writer.drain()

    return talk
