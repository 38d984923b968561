"""The sink on control: an SMTP listener that takes the MXs' tagged ham, stores its arrival, and keeps no mail.

For each MX ``<folder>/ham-<mx>.json``: ``{"since", "sent", "received": epoch seconds, "seen": [[nonce, sent]]}``;
``since`` is when this MX was first expected here. ``spam-<mx>.json`` is the same for a tagged spam that was delivered
instead of refused.

It serves the MXs only, takes mail for ``canary.DOMAIN`` only, and refuses all mail without a genuine tag: a forged tag
is mail for no recipient here. A tag seen before (Exim may deliver twice after a crash) is accepted and counts once.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Sequence

from mf import canary, state, text

MAX_MESSAGE = 65536  # bytes
MAX_LINE = 2048
MAX_COMMANDS = 50
MAX_SESSIONS = 50
SESSION = 60.0  # seconds for a whole session
MAX_AGE = 4 * 3600.0  # seconds that a canary may have waited in Exim's queue; the sink judges by its own clock


class Notes:
    """The arrivals, in one small file for each MX and kind."""

    def __init__(self, folder: str, hosts: Sequence[str], now: float) -> None:
        self._folder = folder
        self._hosts = {host.lower() for host in hosts}
        for host in self._hosts:
            if not os.path.exists(self._path(canary.HAM, host)):
                self._write(canary.HAM, host, {"since": round(now, 3)})

    def take(self, tag: canary.Tag, now: float) -> bool:
        """Store a canary's arrival; False for an unknown host. Raises OSError."""
        if tag.host not in self._hosts:
            return False
        record = state.decode(state.read_bytes(self._path(tag.kind, tag.host))) or {"since": round(now, 3)}
        seen = canary.Seen(_pairs(record.get("seen")))
        if seen.take(tag):
            sent = record.get("sent")
            if not isinstance(sent, (int, float)) or sent < tag.time:
                record.update(sent=tag.time, received=round(now, 3))
            record["seen"] = seen.items()
            self._write(tag.kind, tag.host, record)
        return True

    def _write(self, kind: str, host: str, record: dict[str, object]) -> None:
        state.write_atomic(self._path(kind, host), json.dumps(record).encode() + b"\n")

    def _path(self, kind: str, host: str) -> str:
        return f"{self._folder}/{kind}-{host}.json"


def _pairs(value: object) -> list[tuple[str, float]]:
    return [
        (str(pair[0]), float(pair[1]))
        for pair in (value if isinstance(value, list) else [])
        if isinstance(pair, list) and len(pair) == 2 and isinstance(pair[1], (int, float))
    ]


class Sink:
    """The server. ``clients`` are the numeric addresses of the MXs."""

    def __init__(self, key: bytes, notes: Notes, clients: Sequence[str]) -> None:
        self._key = key
        self._notes = notes
        self._clients = set(clients)
        self._sessions = 0

    async def serve(self, host: str | None, port: int) -> asyncio.Server:
        """Listen; None is every address."""
        return await asyncio.start_server(self._session, host, port, limit=MAX_LINE)

    async def _session(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._sessions += 1
        try:
            async with asyncio.timeout(SESSION):
                client = str((writer.get_extra_info("peername") or ("",))[0]).removeprefix("::ffff:")
                if client not in self._clients:
                    await _say(writer, "554 5.7.1 not a public mail server")
                elif self._sessions > MAX_SESSIONS:
                    await _say(writer, "421 4.3.2 too many sessions")
                else:
                    await self._talk(reader, writer)
        except (OSError, ValueError, TimeoutError, asyncio.IncompleteReadError):
            pass  # the client's mistake, or its end; it will try again
        finally:
            self._sessions -= 1
            writer.close()

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await _say(writer, "220 canary sink")
        recipients = 0
        for _ in range(MAX_COMMANDS):
            line = (await reader.readline()).decode("latin-1")
            if not line.endswith("\n"):
                return
            verb = line[:4].upper().strip()
            if verb in ("EHLO", "HELO"):
                answer = "250 canary sink"
            elif verb in ("MAIL", "RSET", "NOOP"):
                recipients = 0 if verb != "NOOP" else recipients
                answer = "250 2.0.0 ok"
            elif verb == "RCPT":
                mine = line.rstrip().lower().endswith((f"<spam@{canary.DOMAIN}>", f"<ham@{canary.DOMAIN}>"))
                recipients += mine
                answer = "250 2.1.5 ok" if mine else "550 5.1.1 no such recipient"
            elif verb == "DATA" and recipients:
                await _say(writer, "354 go on")
                answer = self._judge(await _message(reader))
                recipients = 0
            elif verb == "QUIT":
                await _say(writer, "221 2.0.0 bye")
                return
            else:
                answer = "503 5.5.1 not now"
            await _say(writer, answer)

    def _judge(self, message: bytes | None) -> str:
        if message is None:
            return "552 5.3.4 too large"
        value = canary.find(message)
        now = time.time()
        tag = canary.verify(self._key, value, now, MAX_AGE) if value is not None else None
        if tag is None:
            return "550 5.7.1 not a canary"
        try:
            known = self._notes.take(tag, now)
        except OSError as error:
            return f"451 4.3.0 can't note it: {text.clean(error.strerror or '', 60)}"
        return "250 2.0.0 noted" if known else "550 5.7.1 not one of our hosts"


async def _say(writer: asyncio.StreamWriter, line: str) -> None:
    writer.write(line.encode("ascii", "replace") + b"\r\n")
    await writer.drain()


async def _message(reader: asyncio.StreamReader) -> bytes | None:
    """The message up to its final dot; None when it was too large (all of it is read all the same)."""
    lines: list[bytes] = []
    size = 0
    while (line := await reader.readline()) not in (b".\r\n", b".\n"):
        if not line.endswith(b"\n"):
            raise ConnectionError("gone")
        size += len(line)
        if size <= MAX_MESSAGE:
            lines.append(line[1:] if line.startswith(b".") else line)
        elif size > 16 * MAX_MESSAGE:
            raise ConnectionError("endless")
    return b"".join(lines) if size <= MAX_MESSAGE else None
