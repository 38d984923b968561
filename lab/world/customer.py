#!/usr/bin/env python3
"""A customer's mail server, as far as the lab needs one: it takes mail on port 2525 and writes down what it took.

Each accepted message is one JSON line in RECORD: id (its X-Lab-Id header, null without one), sender, rcpt (list), time
(epoch seconds), via (who delivered it), size, sha256 (of the message below its Received lines). The line is on disk
before the 250 is sent, so what was accepted is never forgotten. The bytes of a message whose id begins with "bytes-"
are kept in KEPT, under its id.
The file MODE sets its behaviour: "accept" (or no file), "tempfail" (451 to every recipient), "refuse" (550), "strict"
(500 after the final dot to a message with a line that is longer than RFC 5321 allows). A second word limits "tempfail"
and "refuse" to recipients that begin with it.
"""

from __future__ import annotations

import asyncio
import email.parser
import email.policy
import hashlib
import json
import os
import re
import signal
import socket
import time
from pathlib import Path
from types import SimpleNamespace

from aiosmtpd.smtp import SMTP, Envelope, Session

STATE = Path("/var/lib/world")
RECORD = STATE / "mail.jsonl"
MODE = STATE / "mode"
KEPT = STATE / "kept"
PORT = 2525
LARGEST = 100 << 20  # bytes of a message
LONGEST = 1 << 20  # bytes of a line: as most servers, it minds none
STRICT = 998  # bytes of a line, without its end (RFC 5321, 4.5.3.1.6)
TRACE = re.compile(rb"\A(?:Received:[^\n]*\n(?:[ \t][^\n]*\n)*)+")
REPLIES = {"tempfail": "451 4.3.2 try again later", "refuse": "550 5.1.1 no such user"}


def current() -> str:
    """Return the mode, and its second word if there is one."""
    return MODE.read_text(encoding="ascii").strip() if MODE.exists() else "accept"


class Customer:
    """Decides about recipients, records messages."""

    def __init__(self, record: int) -> None:
        self.record = record  # a file descriptor, opened for appending

    async def take_recipient(
        self, _server: SMTP, _session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        """Take a recipient, or refuse it by MODE."""
        mode, _, prefix = current().partition(" ")
        if mode in REPLIES and address.startswith(prefix):
            return REPLIES[mode]
        envelope.rcpt_tos.append(address)
        envelope.rcpt_options.extend(options)
        return "250 2.1.5 ok"

    async def take_message(self, _server: SMTP, session: Session, envelope: Envelope) -> str:
        """Write the message down, then answer 250; or refuse it by MODE."""
        content = envelope.original_content or b""
        if current() == "strict" and max(map(len, content.split(b"\r\n"))) > STRICT:
            return "500 Line too long"
        headers = email.parser.BytesHeaderParser(policy=email.policy.compat32).parsebytes(content)
        identifier = headers["X-Lab-Id"]
        if identifier and re.fullmatch(r"bytes-[a-z-]{1,40}", identifier):
            KEPT.mkdir(exist_ok=True)
            new = KEPT / f".{identifier}"
            new.write_bytes(content)
            new.replace(KEPT / identifier)
        line = {
            "id": identifier,
            "sender": envelope.mail_from,
            "rcpt": envelope.rcpt_tos,
            "time": round(time.time(), 3),
            "via": session.peer[0] if session.peer else None,
            "size": len(content),
            "sha256": hashlib.sha256(TRACE.sub(b"", content, count=1)).hexdigest(),
        }
        os.write(self.record, json.dumps(line).encode() + b"\n")
        os.fsync(self.record)
        return "250 2.0.0 recorded"


def notify_ready() -> None:
    """Tell systemd that mail is being accepted (sd_notify(3))."""
    path = os.environ.get("NOTIFY_SOCKET")
    if path:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
            notify.sendto(b"READY=1", path.replace("@", "\0", 1) if path.startswith("@") else path)


async def serve() -> None:
    """Take mail until SIGTERM."""
    loop = asyncio.get_running_loop()
    STATE.mkdir(parents=True, exist_ok=True)
    record = os.open(RECORD, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
    customer = Customer(record)
    handler = SimpleNamespace(handle_RCPT=customer.take_recipient, handle_DATA=customer.take_message)
    SMTP.line_length_limit = LONGEST
    server = await loop.create_server(
        lambda: SMTP(handler, hostname="mail.customer.example", data_size_limit=LARGEST, loop=loop),
        host="0.0.0.0",
        port=PORT,
        backlog=200,
    )
    stopped = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stopped.set)
    notify_ready()
    async with server:
        await stopped.wait()


if __name__ == "__main__":
    asyncio.run(serve())
