#!/usr/bin/env python3
"""Let processes of a mail service die for want of memory, in the middle of other sessions; print the effects as JSON.

    deaths.py UNIT ADDRESS PORT RECIPIENT ID DEATH ...

DEATH, the way to die:
    limit     a session takes memory until LimitDATA ends it (the plugin lab_memory takes it, by the message's sender)
    kernel    the same in a full memory cgroup of the whole service: the kernel's OOM killer ends it
    session   SIGKILL, as by the OOM killer, to sessions in the middle of a message, one after the other
    delivery  SIGKILL to all processes that deliver a message; the customer's server has to keep them waiting

Prints by DEATH: dead: the answers to the final dots of the dead sessions, "closed" without one (delivery: the answer to
the message, "lost" if it isn't in the queue); killed: number of processes that SIGKILL ended; other: the answer to a
session that was in the middle of its message; next: the next client's greeting; before, after: the unit's properties.
X-Lab-Id of messages that are to be delivered: ID-DEATH of other sessions, ID-waiting of a delivery; of others: ID-dead.
"""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

LIMIT = 15.0  # s for each answer, and for each wait
SESSIONS = 16  # one more than qpsmtpd takes at once: what died gives its place back
FULL = 96 << 20  # bytes of the memory cgroup: far below LimitDATA, enough for the service and three sessions
GREEDY = "greedy@world.example"
CUSTOMER = 2525  # the port of the customer's server
SPOOL = Path("/var/spool/exim4/input")
MOUNT = Path("/run/lab-memory")
PROPERTIES = ("MainPID", "NRestarts", "ActiveState", "SubState")


class Session:
    """An SMTP session in the middle of its message."""

    def __init__(self, target: tuple[str, int], recipient: str, identifier: str, sender: str = "a@world.example"):
        self.connection = socket.create_connection(target, LIMIT)
        self.lines = self.connection.makefile("rb")
        self.answer()
        for text in ("EHLO world.example", f"MAIL FROM:<{sender}>", f"RCPT TO:<{recipient}>", "DATA"):
            self.connection.sendall(text.encode("ascii") + b"\r\n")
            if (answer := self.answer())[:1] not in ("2", "3"):
                raise OSError(f"{text}: {answer}")
        self.connection.sendall(f"Subject: x\r\nX-Lab-Id: {identifier}\r\n\r\nfirst half\r\n".encode("ascii"))

    def answer(self) -> str:
        """Return the last line of the next answer, "closed" without one."""
        try:
            while (line := self.lines.readline().decode("ascii"))[3:4] == "-":
                pass
        except ConnectionError:
            line = ""
        return line.strip() or "closed"

    def end(self) -> str:
        """Send the rest of the message and return the answer."""
        with suppress(ConnectionError):
            self.connection.sendall(b"second half\r\n.\r\n")
        answer = self.answer()
        self.lines.close()
        self.connection.close()
        return answer

    def process(self) -> int:
        """Return the pid of the session's process."""
        port, client = self.connection.getpeername()[1], self.connection.getsockname()[1]
        text = output("ss", "-Htnp", f"sport = :{port} and dport = :{client}")
        return int(re.findall(r"pid=(\d+)", text)[0])


def output(*command: str) -> str:
    """Return what a command prints. Raises CalledProcessError."""
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def properties(unit: str) -> dict[str, str]:
    """Return the unit's properties."""
    return dict(line.split("=", 1) for line in output("systemctl", "show", "-p", ",".join(PROPERTIES), unit).split())


def greeting(target: tuple[str, int]) -> str:
    """Connect and return the first line, or why there is none."""
    try:
        with socket.create_connection(target, LIMIT) as connection:
            return connection.makefile("rb").readline().decode("ascii").strip()
    except OSError as error:
        return str(error)


def wait_for(event: str, condition: Callable[[], Any]) -> Any:
    """Return the first value of `condition` that is true. Raises TimeoutError with `event`."""
    give_up = time.monotonic() + LIMIT
    while not (value := condition()):
        if time.monotonic() > give_up:
            raise TimeoutError(f"no {event} within {LIMIT:.0f} s")
        time.sleep(0.02)
    return value


@contextmanager
def full_cgroup(master: int) -> Iterator[Callable[[], int]]:
    """Limit the memory of the service's processes; yield a function that counts those that the kernel has killed.

    Version 1 is mounted anew, for containers have it read-only, and gets a cgroup for the purpose.
    """
    groups = dict(line.split(":")[1:] for line in Path(f"/proc/{master}/cgroup").read_text(encoding="ascii").split())
    if "memory" not in groups:
        own = Path(f"/sys/fs/cgroup{groups['']}")
        limits = {own / "memory.swap.max": "0", own / "memory.max": str(FULL)}
        before = {path: path.read_text(encoding="ascii") for path in limits if path.exists()}
        try:
            for path in before:
                path.write_text(limits[path], encoding="ascii")
            yield lambda: kills(own / "memory.events")
        finally:
            for path, text in before.items():
                path.write_text(text, encoding="ascii")
        return
    MOUNT.mkdir()
    output("mount", "-t", "cgroup", "-o", "memory", "lab", str(MOUNT))
    own = Path(f"{MOUNT}{groups['memory']}/lab")
    own.mkdir()
    try:
        (own / "memory.limit_in_bytes").write_text(str(FULL), encoding="ascii")
        (own / "memory.swappiness").write_text("0", encoding="ascii")
        (own / "cgroup.procs").write_text(str(master), encoding="ascii")
        yield lambda: kills(own / "memory.oom_control")
    finally:
        (own.parent / "cgroup.procs").write_text(str(master), encoding="ascii")
        wait_for("end of the sessions", lambda: not (own / "cgroup.procs").read_text(encoding="ascii"))
        own.rmdir()
        output("umount", str(MOUNT))
        MOUNT.rmdir()


def kills(path: Path) -> int:
    """Return the number of processes that the kernel has killed in a cgroup."""
    return int(re.findall(r"^oom_kill (\d+)", path.read_text(encoding="ascii"), re.MULTILINE)[0])


def deliveries(message: str) -> list[int]:
    """Return the pids of the processes that deliver a message, once one has a connection to the customer's server."""
    holders = set()
    for path in Path("/proc").glob("[0-9]*/fd/*"):
        with suppress(OSError):
            if path.readlink().name == f"{message}-D":
                holders.add(int(path.parts[2]))
    connected = set(map(int, re.findall(r"pid=(\d+)", output("ss", "-Htnp", f"dport = :{CUSTOMER}"))))
    return sorted(holders) if holders & connected else []


def kill(pids: list[int]) -> int:
    """Kill processes; return how many were there."""
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    return len(pids)


def die(death: str, begin: Callable[..., Session], identifier: str) -> tuple[list[str], int]:
    """Let processes die; return what became of their messages, and the number of processes that were sent SIGKILL."""
    if death == "delivery":
        answer = begin(f"{identifier}-waiting").end()
        message = answer.removeprefix("250 OK id=")
        count = kill(wait_for("delivery", lambda: deliveries(message)))
        return [answer if list(SPOOL.glob(f"**/{message}-[DH]")) else "lost"], count
    if death != "session":
        return [begin(f"{identifier}-dead", GREEDY).end()], 0
    answers = []
    for _ in range(SESSIONS):
        session = begin(f"{identifier}-dead")
        kill([session.process()])
        answers.append(session.end())
    return answers, SESSIONS


def main(unit: str, address: str, port: str, recipient: str, identifier: str, *deaths: str) -> None:
    """Go through the ways to die, until the service itself dies; print the result."""
    target = (address, int(port))

    def begin(*arguments: str) -> Session:
        return Session(target, recipient, *arguments)

    result = {}
    for death in deaths:
        before = properties(unit)
        with full_cgroup(int(before["MainPID"])) if death == "kernel" else nullcontext(lambda: 0) as by_kernel:
            other = begin(f"{identifier}-{death}")
            dead, killed = die(death, begin, identifier)
            result[death] = {
                "dead": dead,
                "killed": killed or by_kernel(),
                "other": other.end(),
                "next": greeting(target),
                "before": before,
                "after": properties(unit),
            }
        if result[death]["after"] != before:
            break
    print(json.dumps(result))


if __name__ == "__main__":
    main(*sys.argv[1:])
