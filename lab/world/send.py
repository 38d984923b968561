#!/usr/bin/env python3
"""Mail from the internet: behaves as foreign mail servers do towards our MXs.

Sends `--count` messages, a share of them spam, a share to a domain that isn't ours, each over a connection of its own.
The MXs are tried in random order; after a connection failure or a 4xx the next one; when all have failed, the message
waits in a retry queue with back-off until the deadline. A reply that is lost after the final dot leaves the outcome
unknown: such a message is sent again, as RFC 5321 (4.5.3.2.6, 4.2.5) demands, and may then exist twice.

Each message's end is one JSON line on stdout: id, kind (ham, spam, stranger), outcome (accepted, refused, undecided),
mx, stage, code, reply, attempts, unknown (how many replies were lost after the final dot), deferred (why an attempt
had to be repeated, for each), started, finished.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from email.utils import formatdate

GTUBE = "XJS*C4JDBQADN1.NSBN3*2IDNEN*GTUBE-STANDARD-ANTI-UBE-TEST-EMAIL*C.34X"
DOMAINS = ("customer.example", "shop.example")
STRANGER = "nobody@unknown.example"
WORDS = ("the", "order", "invoice", "meeting", "tomorrow", "please", "find", "attached", "regards", "team", "room")

CONNECT_LIMIT = 10.0  # s
REPLY_LIMIT = 60.0  # s for any reply; RFC 5321 allows minutes, but a lab shouldn't take that long to notice
BACKOFF = (0.5, 8.0)  # s: first and longest wait between rounds over all MXs
SHUN = 15.0  # s an MX that didn't answer is tried last, as mail servers remember too


@dataclass(frozen=True)
class Message:
    """One message to be sent."""

    id: str
    kind: str  # ham, spam, stranger
    recipient: str
    text: bytes  # with CRLF, dots stuffed, without the final dot


@dataclass(frozen=True)
class Reply:
    """How one attempt at one MX ended. `outcome`: accepted, refused, later, unknown."""

    outcome: str
    stage: str
    code: int = 0
    text: str = ""


def compose(run: str, number: int, kind: str, choice: random.Random) -> Message:
    """Return message `number` of `run`."""
    recipient = STRANGER if kind == "stranger" else f"user{choice.randrange(50)}@{choice.choice(DOMAINS)}"
    identifier = f"{run}-{number:06d}"
    lines = [" ".join(choice.choices(WORDS, k=10)) for _ in range(choice.choice((5, 20, 60, 300)))]
    if kind == "spam":
        lines.insert(choice.randrange(len(lines)), GTUBE)
    lines.insert(0, ".a line that begins with a dot")
    headers = [
        f"From: Sender <sender{number % 100}@world.example>",
        f"To: <{recipient}>",
        f"Subject: {kind} {number}",
        f"Date: {formatdate()}",
        f"Message-ID: <{identifier}@world.example>",
        f"X-Lab-Id: {identifier}",
        "",
    ]
    stuffed = [f".{line}" if line.startswith(".") else line for line in headers + lines]
    return Message(identifier, kind, recipient, "\r\n".join(stuffed).encode("ascii") + b"\r\n")


def plan(run: str, count: int, spam: float, strangers: float) -> list[Message]:
    """Return `count` messages in random order, the shares `spam` and `strangers` (0..1) of them rounded."""
    choice = random.Random(run)
    bad, unknown = round(count * spam), round(count * strangers)
    kinds = (["spam"] * bad + ["stranger"] * unknown + ["ham"] * count)[:count]
    choice.shuffle(kinds)
    return [compose(run, number, kind, choice) for number, kind in enumerate(kinds)]


def judge(stage: str, code: int, text: str) -> Reply:
    """Return what a reply with `code` at `stage` means when it isn't the one that lets the dialogue go on."""
    # A greeting of 554, or a 5xx to EHLO, is about the server, not about the message: another MX may take it.
    if 500 <= code <= 599 and stage not in ("connect", "ehlo"):
        return Reply("refused", stage, code, text)
    return Reply("later", stage, code, text)


class Dialogue:
    """One SMTP connection that carries one message."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def reply(self) -> tuple[int, str]:
        """Return the code and the last line of the next reply; OSError, ValueError or TimeoutError without one."""
        async with asyncio.timeout(REPLY_LIMIT):
            while True:
                line = (await self.reader.readline()).decode("ascii", "replace")
                if not line.endswith("\n"):
                    raise ConnectionError("connection closed")
                if line[3:4] != "-":
                    return int(line[:3]), line[4:].strip()

    async def ask(self, data: bytes) -> tuple[int, str]:
        """Send `data` and return the reply to it."""
        self.writer.write(data)
        await self.writer.drain()
        return await self.reply()

    async def carry(self, message: Message) -> Reply:
        """Hold the dialogue for `message`; never raises for what the other side does."""
        stage = "connect"
        try:
            code, text = await self.reply()
            if code != 220:
                return judge(stage, code, text)
            steps = (
                ("ehlo", b"EHLO world.example\r\n", 250),
                ("mail", b"MAIL FROM:<sender@world.example>\r\n", 250),
                ("rcpt", f"RCPT TO:<{message.recipient}>\r\n".encode(), 250),
                ("data", b"DATA\r\n", 354),
                ("message", message.text + b".\r\n", 250),
            )
            for stage, command, good in steps:
                code, text = await self.ask(command)
                if code != good:
                    return judge(stage, code, text)
            return Reply("accepted", stage, code, text)
        except (OSError, ValueError, TimeoutError) as error:
            # From the final dot on the other side may have taken it: that can't be known.
            return Reply("unknown" if stage == "message" else "later", stage, 0, str(error) or type(error).__name__)

    async def close(self) -> None:
        """Say QUIT, wait for its reply (so that the server's child is gone) and close."""
        try:
            async with asyncio.timeout(CONNECT_LIMIT):
                await self.ask(b"QUIT\r\n")
        except (OSError, ValueError, TimeoutError):
            pass
        self.writer.close()
        with suppress(OSError):
            await self.writer.wait_closed()


class Sender:
    """Sends messages to MXs, given as {name: address}."""

    def __init__(self, mxs: dict[str, str], port: int, per_mx: int, deadline: float) -> None:
        self.mxs = mxs
        self.port = port
        self.deadline = deadline  # time.monotonic()
        self.slots = {name: asyncio.Semaphore(per_mx) for name in mxs}
        self.work = asyncio.Semaphore(per_mx * len(mxs))
        self.shunned = dict.fromkeys(mxs, 0.0)  # until, time.monotonic()
        self.choice = random.Random()

    async def attempt(self, name: str, message: Message) -> Reply:
        """Try to hand `message` to the MX `name` once."""
        async with self.slots[name]:
            try:
                async with asyncio.timeout(CONNECT_LIMIT):
                    reader, writer = await asyncio.open_connection(self.mxs[name], self.port)
            except (OSError, TimeoutError) as error:
                self.shunned[name] = time.monotonic() + SHUN
                return Reply("later", "connect", 0, str(error) or "timed out")
            dialogue = Dialogue(reader, writer)
            reply = await dialogue.carry(message)
            await dialogue.close()
            return reply

    def order(self) -> list[str]:
        """Return the MXs in random order, those that just didn't answer last."""
        names = list(self.mxs)
        self.choice.shuffle(names)
        now = time.monotonic()
        return sorted(names, key=lambda name: self.shunned[name] > now)

    async def send(self, message: Message) -> dict[str, object]:
        """Send `message` until it is accepted, refused or the deadline is over; return its end."""
        attempts = unknown = 0
        deferred: list[str] = []
        wait = BACKOFF[0]
        started = None
        while True:
            name, reply = "", Reply("later", "connect")
            async with self.work:
                started = started or time.time()
                for name in self.order():
                    attempts += 1
                    reply = await self.attempt(name, message)
                    unknown += reply.outcome == "unknown"
                    if reply.outcome in ("accepted", "refused"):
                        break
                    deferred.append(f"{reply.stage}: {reply.code or ''} {reply.text}"[:100])
            decided = reply.outcome in ("accepted", "refused")
            if decided or time.monotonic() + wait > self.deadline:
                return {
                    "id": message.id,
                    "kind": message.kind,
                    "outcome": reply.outcome if decided else "undecided",
                    "mx": name,
                    "stage": reply.stage,
                    "code": reply.code,
                    "reply": reply.text,
                    "attempts": attempts,
                    "unknown": unknown,
                    "deferred": deferred[-20:],
                    "started": round(started, 3),
                    "finished": round(time.time(), 3),
                }
            await asyncio.sleep(wait * self.choice.uniform(0.7, 1.0))
            wait = min(wait * 2, BACKOFF[1])


async def run(messages: Sequence[Message], sender: Sender) -> bool:
    """Send all `messages` and print each one's end; return whether all were decided."""
    live = sys.stderr.isatty()
    undecided = 0
    work = [asyncio.ensure_future(sender.send(message)) for message in messages]
    for done, future in enumerate(asyncio.as_completed(work), start=1):
        end = await future
        undecided += end["outcome"] == "undecided"
        print(json.dumps(end), flush=True)
        if live:
            print(f"\r{done}/{len(messages)}", end="", file=sys.stderr, flush=True)
    return undecided == 0


def share(text: str) -> float:
    """Return the number in `text`, 0 to 1."""
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"must be 0 to 1, not {text}")
    return value


async def main() -> int:
    """Return 0 when all messages were accepted or refused, 1 when some are undecided at the deadline."""
    parser = argparse.ArgumentParser(description="Send mail as the internet does.")
    parser.add_argument("--run", required=True, help="the run's id, part of each message's X-Lab-Id")
    parser.add_argument("--count", type=int, required=True)
    parser.add_argument("--spam", type=share, default=0.3)
    parser.add_argument("--strangers", type=share, default=0.05, help="share for a domain that isn't ours")
    parser.add_argument("--mx", action="append", required=True, metavar="NAME=ADDRESS")
    parser.add_argument("--port", type=int, default=25)
    parser.add_argument("--per-mx", type=int, default=4, help="connections to one MX at a time")
    parser.add_argument("--deadline", type=float, default=300.0, metavar="SECONDS")
    args = parser.parse_args()
    task = asyncio.current_task()
    if task:
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    mxs = dict(entry.split("=", 1) for entry in args.mx)
    sender = Sender(mxs, args.port, args.per_mx, time.monotonic() + args.deadline)
    return 0 if await run(plan(args.run, args.count, args.spam, args.strangers), sender) else 1


if __name__ == "__main__":
    try:
        sys.exit(asyncio.run(main()))
    except (asyncio.CancelledError, KeyboardInterrupt, BrokenPipeError):
        sys.exit(130)
