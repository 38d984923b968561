#!/usr/bin/env python3
"""Attack an MX's CPU and memory, from the MX itself; print the cost and the answers as JSON.

    burn.py ADDRESS RECIPIENT ID

cpu: seconds that the sessions used; memory: the highest private memory of one session, MiB; answers: by attack; left:
sessions that are still running. ID is the X-Lab-Id of the message of carriage returns, which is to be delivered.

Then awkward bytes go to each place of commands and messages, in three sizes. places: CPU seconds of all bytes together,
by place and size, of the sessions and of the queue's processes; too_fast: places whose CPU grows faster than the size;
peak: the highest private memory of one of these processes, MiB.
"""

from __future__ import annotations

import itertools
import json
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

PATIENCE = 10.0  # s for an answer
FLOOD = 96 << 20  # bytes of a line without an end
BLOCK = b"x" * (1 << 20)
HELLO = b"EHLO world.example"
TICKS = os.sysconf("SC_CLK_TCK")
SIZES = (1000, 31_250, 1_000_000)  # bytes; a header of a mebibyte would be refused unread
FACTOR, REST = 60, 1.0  # 32 times as much may take 60 times as long and 1 s; a square takes 1,024 times as long
SETTLE = 120.0  # s for the sessions to end and the queue to empty
SPOOL = Path("/var/spool/exim4/input")
UNITS = (b"\r", b"a", b"\0", b" ", b"\t", b'"', b"\\", b"(", b"<", b";", b":", b"\xff", b".", b"-", b"@")
LINE_ENDS = (b"\n", b"\r\n")  # in messages; a command would end there
SHARE = 10  # a line takes microseconds, so a tenth of the bytes
IN_COMMAND = {
    "command": (b"", b""),
    "parameter": (b"MAIL FROM:<a@world.example> ", b""),
    "sender": (b"MAIL FROM:<a@", b"!>"),
}
AFTER_SENDER = {"recipient": (b"RCPT TO:<a@", b"!>"), "local part": (b"RCPT TO:<", b"a@world.example>")}
IN_MESSAGE = {
    "header name": (b"", b": x\r\n\r\nx\r\n."),
    "header body": (b"Subject: ", b"x\r\n\r\nx\r\n."),
    "line end": (b"Subject: x\r\n\r\nx", b"\r\nx\r\n."),
    "body": (b"Subject: x\r\n\r\nx", b"x\r\n."),
}


def master(unit: str = "qpsmtpd.service") -> int:
    """Return the pid of a service's master."""
    show = ("systemctl", "show", "--value", "--property=MainPID", unit)
    return int(subprocess.run(show, capture_output=True, text=True, check=True).stdout)


def sessions(pid: int) -> list[int]:
    """Return the master's children."""
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()]


def cpu(pid: int) -> float:
    """Return the CPU seconds of the master's children that have ended."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[13]) + int(fields[14])) / TICKS


def memory(pid: int) -> float:
    """Return the private memory of the largest session, MiB."""
    largest = 0
    for child in sessions(pid):
        try:
            text = Path(f"/proc/{child}/status").read_text(encoding="ascii", errors="replace")
        except OSError:
            continue
        largest = max(largest, *(int(line.split()[1]) for line in text.splitlines() if line.startswith("RssAnon")), 0)
    return largest / 1024


def reply(lines: socket.SocketIO) -> str:
    """Return the last line of the next reply, "closed" at the end and "silence" without one."""
    line = bytearray()
    try:
        while True:
            byte = lines.read(1)
            if not byte:
                return "closed"
            line += byte
            if byte == b"\n":
                if line[3:4] != b"-":
                    return line.decode("ascii", "replace").strip()
                line.clear()
    except TimeoutError:
        return "silence"
    except ConnectionError:
        return "closed"


def talk(address: str, *steps: bytes) -> str:
    """Send `steps` and QUIT; return the reply to the last step."""
    with socket.create_connection((address, 25), PATIENCE) as connection:
        lines = connection.makefile("rb", buffering=0)
        answer = reply(lines)
        for step in steps:
            connection.sendall(step + b"\r\n")
            answer = reply(lines)
            if answer in ("silence", "closed"):
                return answer
        connection.sendall(b"QUIT\r\n")
        reply(lines)
        return answer


def flood(address: str, pid: int, *steps: bytes) -> float:
    """Send `steps`, then a line without an end until the server closes; return the highest memory of a session."""
    highest = 0.0
    with socket.create_connection((address, 25), PATIENCE) as connection:
        lines = connection.makefile("rb", buffering=0)
        reply(lines)
        for step in steps:
            connection.sendall(step + b"\r\n")
            reply(lines)
        try:
            for _ in range(FLOOD // len(BLOCK)):
                connection.sendall(BLOCK)
                highest = max(highest, memory(pid))
        except (ConnectionError, TimeoutError):
            pass
    return highest


class Gauge(threading.Thread):
    """Reads the CPU and the memory of the queue's processes, and the memory of the sessions, until `ended` is set."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self.pid = pid
        self.queue = master("mf-exim.service")
        self.ended = threading.Event()
        self.peak = 0.0
        self.used: dict[tuple[str, str], int] = {}  # ticks of processes that the queue's master doesn't wait for

    def run(self) -> None:
        """Read until the end."""
        while not self.ended.wait(0.03):
            self.peak = max(self.peak, memory(self.pid), memory(self.queue))
            for path in Path("/proc").glob("[0-9]*/stat"):
                try:
                    name, _, rest = path.read_text(encoding="ascii", errors="replace").rpartition(")")
                except OSError:
                    continue
                fields = rest.split()
                if name.endswith("(exim4") and int(fields[1]) != self.queue and int(path.parent.name) != self.queue:
                    self.used[path.parent.name, fields[19]] = int(fields[11]) + int(fields[12])

    def cpu(self) -> tuple[float, float]:
        """Return the CPU seconds of the sessions that have ended, and of the queue's processes."""
        return cpu(self.pid), cpu(self.queue) + sum(list(self.used.values())) / TICKS

    def settle(self) -> None:
        """Wait until no session runs and the queue is empty. Raises TimeoutError."""
        give_up = time.monotonic() + SETTLE
        while sessions(self.pid) or sessions(self.queue) or any(SPOOL.glob("**/*-[DHJ]")):
            if time.monotonic() > give_up:
                raise TimeoutError
            time.sleep(0.02)


def batch(address: str, messages: list[tuple[bytes, ...]]) -> None:
    """Send the steps of all messages; connect anew when the server closed: after ten faulty commands.

    Raises TimeoutError without an answer.
    """
    rest = list(messages)
    while rest:
        with socket.create_connection((address, 25), SETTLE) as connection:
            lines = connection.makefile("rb", buffering=0)
            try:
                reply(lines)
                connection.sendall(HELLO + b"\r\n")
                reply(lines)
                while rest:
                    for step in rest.pop(0):
                        connection.sendall(step + b"\r\n")
                        answer = reply(lines)
                        if answer == "silence":
                            raise TimeoutError
                        if answer == "closed":
                            raise ConnectionError
                connection.sendall(b"QUIT\r\n")
                reply(lines)
            except ConnectionError:
                continue


def growth(address: str, pid: int, begin: tuple[bytes, ...]) -> dict[str, object]:
    """Send each unit to each place in each size; return the figures."""
    gauge = Gauge(pid)
    gauge.start()
    costs: dict[str, list[list[float]]] = {}
    too_fast = []
    for place, (before, after) in (IN_COMMAND | AFTER_SENDER | IN_MESSAGE).items():
        opening = (b"RSET", *(begin if place in IN_MESSAGE else begin[:1] if place in AFTER_SENDER else ()))
        line_ends = LINE_ENDS if place in IN_MESSAGE else ()
        costs[place] = []
        try:
            for size in SIZES:
                start = gauge.cpu()
                long = [unit * size for unit in UNITS] + [unit * (size // SHARE) for unit in line_ends]
                batch(address, [(*opening, before + part + after) for part in long])
                gauge.settle()
                costs[place].append([round(now - then, 2) for now, then in zip(gauge.cpu(), start, strict=True)])
        except TimeoutError:
            too_fast.append(f"{place}: no end after {SETTLE:.0f} s")
            break
        for smaller, larger in itertools.pairwise(costs[place]):
            if any(more > FACTOR * less + REST for less, more in zip(smaller, larger, strict=True)):
                too_fast.append(f"{place}: {smaller}, {larger}")
    gauge.ended.set()
    gauge.join()
    return {"places": costs, "too_fast": too_fast, "peak": gauge.peak}


def main(address: str, recipient: str, identifier: str) -> None:
    """Run all attacks and print the result."""
    pid = master()
    before = cpu(pid)
    begin = (HELLO, b"MAIL FROM:<a@world.example>", f"RCPT TO:<{recipient}>".encode(), b"DATA")
    header = f"Subject: x\r\nX-Lab-Id: {identifier}\r\n\r\n".encode()
    answers = {
        "address": talk(address, HELLO, b"MAIL FROM:<a@" + b"a" * 20_000 + b"!>"),
        "parameters": talk(address, HELLO, b"MAIL FROM:<a@b.c>" + b" A=b" * 10_000),
        "afterwards": talk(address, HELLO, b"MAIL FROM:<a@" + b"a" * 20_000 + b"!>", b"RSET"),
        "carriage returns": talk(address, *begin, header + b"\r" * 60_000 + b"x\r\n."),
    }
    peaks = {"before EHLO": flood(address, pid), "in a message": flood(address, pid, *begin)}
    give_up = time.monotonic() + PATIENCE
    while sessions(pid) and time.monotonic() < give_up:
        time.sleep(0.1)
    result = {"answers": answers, "memory": peaks, "cpu": cpu(pid) - before, "left": len(sessions(pid))}
    print(json.dumps({**result, **growth(address, pid, begin[1:])}))


if __name__ == "__main__":
    main(*sys.argv[1:])
