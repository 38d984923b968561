#!/usr/bin/env python3
"""Stop qpsmtpd in the middle of a session's message; print what its clients get and what is left of the service.

    graceful_stop.py ADDRESS RECIPIENT MESSAGE_ID

Prints JSON: {"newcomer": the greeting of a client that connects during the stop ("" without one), "answer": the reply
to the session's final dot, "goodbye": that to its QUIT, "stopped": seconds from the final dot to the end of the stop,
"unit": ActiveState, "left": number of processes of the service's user}. The service stays stopped.
"""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from pathlib import Path

UNIT = "qpsmtpd.service"
LIMIT = 15.0  # s for each reply


class Session:
    """An SMTP session: a command, then its reply."""

    def __init__(self, address: str) -> None:
        self.connection = socket.create_connection((address, 25), LIMIT)
        self.lines = self.connection.makefile("rb")

    def hear(self) -> str:
        """Return the last line of the next reply."""
        while True:
            line = self.lines.readline().decode("ascii")
            if line[3:4] != "-":
                return line.strip()

    def ask(self, text: str) -> str:
        """Send `text` and return the reply."""
        self.connection.sendall(text.encode("ascii") + b"\r\n")
        return self.hear()


def show(unit_property: str) -> str:
    """Return a property of the unit."""
    command = ("systemctl", "show", f"--property={unit_property}", "--value", UNIT)
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def wait_until_frozen(pid: str) -> None:
    """Wait until the master is frozen, at most 8 s; the newcomer then shows the effect."""
    deadline = time.monotonic() + 8
    status = Path("/proc", pid, "status")
    while status.exists() and "\nState:\tT" not in status.read_text(encoding="ascii") and time.monotonic() < deadline:
        time.sleep(0.1)


def newcomer(address: str) -> str:
    """Connect; return the bytes that come within a second."""
    with socket.create_connection((address, 25), LIMIT) as connection:
        connection.settimeout(1.0)
        try:
            return connection.recv(200).decode("ascii")
        except (TimeoutError, ConnectionError):
            return ""


def main(address: str, recipient: str, identifier: str) -> None:
    """Stop the service and print the result."""
    master = show("MainPID")
    session = Session(address)
    session.hear()
    for text in ("EHLO slow.example", "MAIL FROM:<slow@slow.example>", f"RCPT TO:<{recipient}>", "DATA"):
        session.ask(text)
    session.connection.sendall(
        f"Subject: half a message\r\nX-Lab-Id: {identifier}\r\n\r\nfirst half\r\n".encode("ascii")
    )
    subprocess.run(("systemctl", "stop", "--no-block", UNIT), check=True)
    wait_until_frozen(master)
    greeting = newcomer(address)
    answer = session.ask("second half\r\n.")
    dot = time.monotonic()
    goodbye = session.ask("QUIT")
    while show("ActiveState") == "deactivating" and time.monotonic() - dot < 60:
        time.sleep(0.1)
    stopped = round(time.monotonic() - dot, 2)
    left = subprocess.run(("pgrep", "--count", "--uid", "qpsmtpd"), capture_output=True, text=True, check=False).stdout
    print(
        json.dumps(
            {
                "newcomer": greeting,
                "answer": answer,
                "goodbye": goodbye,
                "stopped": stopped,
                "unit": show("ActiveState"),
                "left": int(left),
            }
        )
    )


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except OSError as error:
        sys.exit(f"the session could not finish: {error}")
