"""The sender of world: its plan, what a reply means, what it does when an MX refuses or falls silent."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from typing import Any

import pytest
from world import send


def test_the_plan_keeps_its_shares() -> None:
    messages = send.plan("run", 100, 0.3, 0.05)
    kinds = [message.kind for message in messages]
    assert (kinds.count("spam"), kinds.count("stranger"), kinds.count("ham")) == (30, 5, 65)
    assert len({message.id for message in messages}) == 100
    assert all((send.GTUBE.encode() in message.text) == (message.kind == "spam") for message in messages)
    assert all(message.recipient == send.STRANGER for message in messages if message.kind == "stranger")
    assert all(b"\r\n..a line" in message.text for message in messages), "a leading dot is stuffed (RFC 5321, 4.5.2)"
    assert len(send.plan("run", 3, 1.0, 1.0)) == 3


@pytest.mark.parametrize(
    ("stage", "code", "outcome"),
    [
        ("connect", 554, "later"),
        ("ehlo", 502, "later"),
        ("rcpt", 550, "refused"),
        ("message", 552, "refused"),
        ("rcpt", 451, "later"),
        ("message", 250, "later"),
        ("data", 250, "later"),
    ],
)
def test_what_a_reply_means(stage: str, code: int, outcome: str) -> None:
    assert send.judge(stage, code, "").outcome == outcome


class Server:
    """An MX that answers each command with what `replies` say; None closes the connection."""

    def __init__(self, **replies: str | None) -> None:
        self.replies = {
            "greet": "220 mx",
            "EHLO": "250-mx\r\n250 SIZE",
            "MAIL": "250 ok",
            "RCPT": "250 ok",
            "DATA": "354 go",
            ".": "250 queued",
            "QUIT": "221 bye",
            **replies,
        }
        self.connections = 0
        self.gone = asyncio.Event()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        verb = "greet"
        while (reply := self.replies[verb]) is not None:
            writer.write(reply.encode() + b"\r\n")
            if verb == "DATA" and reply.startswith("354"):
                while await reader.readline() != b".\r\n":
                    pass
                verb = "."
                continue
            line = await reader.readline()
            if not line:
                break
            verb = line[:4].decode()
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()
        self.gone.set()


class OrderedSender(send.Sender):
    """Tries MXs on this machine, each on a port of its own, in the given order."""

    def __init__(self, ports: dict[str, int], seconds: float) -> None:
        super().__init__(dict.fromkeys(ports, "127.0.0.1"), 0, 1, time.monotonic() + seconds)
        self.ports = ports

    async def attempt(self, name: str, message: send.Message) -> send.Reply:
        self.port = self.ports[name]
        return await super().attempt(name, message)

    def order(self) -> list[str]:
        return list(self.ports)


def deliver(*servers: Server, seconds: float = 0.0) -> dict[str, Any]:
    """Send one message to `servers` as mx0, mx1 … in this order; give up after `seconds`."""

    async def work() -> dict[str, Any]:
        running = [await asyncio.start_server(server.serve, "127.0.0.1", 0) for server in servers]
        ports = {f"mx{index}": server.sockets[0].getsockname()[1] for index, server in enumerate(running)}
        sender = OrderedSender(ports, seconds)
        result = await sender.send(send.plan("run", 1, 0, 0)[0])
        for mx in servers:
            if mx.connections:
                await mx.gone.wait()
        for server in running:
            server.close()
            await server.wait_closed()
        return result

    return asyncio.run(work())


def test_accepted_at_once() -> None:
    result = deliver(Server())
    assert (result["outcome"], result["code"], result["attempts"], result["unknown"]) == ("accepted", 250, 1, 0)


def test_a_temporary_refusal_leads_to_the_next_mx() -> None:
    result = deliver(Server(RCPT="451 later"), Server())
    assert (result["outcome"], result["mx"], result["attempts"]) == ("accepted", "mx1", 2)


def test_a_permanent_refusal_ends_it() -> None:
    other = Server()
    result = deliver(Server(**{".": "552 spam"}), other)
    assert (result["outcome"], result["stage"], result["code"]) == ("refused", "message", 552)
    assert other.connections == 0


def test_a_lost_reply_after_the_final_dot_is_unknown_and_tried_again() -> None:
    result = deliver(Server(**{".": None}), Server())
    assert (result["outcome"], result["unknown"], result["attempts"]) == ("accepted", 1, 2)


def test_a_connection_lost_before_the_final_dot_is_not_unknown() -> None:
    result = deliver(Server(DATA=None), Server(greet="554 no"), Server(greet="garbage"))
    assert (result["outcome"], result["unknown"], result["attempts"]) == ("undecided", 0, 3)
