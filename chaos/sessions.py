"""SMTP clients that do what a fault needs: hold a slot, dawdle, vanish. They run on a lab host (``CLIENT``)."""

from __future__ import annotations

import queue
import subprocess
import threading
import time

from mflab.podman import Podman

# Commands on stdin, one a line: `open NAME ADDRESS STAGE DRIP`, `finish NAME`, `close NAME`. STAGE is how far the
# dialogue goes: connect, greeting, mail, data. DRIP: seconds between two bits of progress, 0 for silence. Each answer
# is a line: NAME WHAT. At the end of stdin it ends, and with it all connections.
CLIENT = r"""
import socket, sys, threading, time
STEPS = {"connect": [], "greeting": [None], "mail": [None, "EHLO chaos.example", "MAIL FROM:<a@world.example>"]}
STEPS["blocked"] = [*STEPS["greeting"], "EHLO chaos.example", "MAIL FROM:<blocked@world.example>"]
STEPS["data"] = [*STEPS["mail"], "RCPT TO:<user1@customer.example>", "DATA"]
lines, going = {}, {}
def say(name, what):
    # one write, because threads share the stream
    sys.stdout.write(f"{name} {what}\n")
    sys.stdout.flush()
def reply(line, limit=120):
    line.settimeout(limit)
    data = b""
    while True:
        more = line.recv(4096)
        if not more:
            return data.decode("ascii", "replace") + " closed"
        data += more
        last = data.rstrip(b"\r\n").rpartition(b"\n")[2]
        if data.endswith(b"\n") and last[3:4] == b" ":
            return last.decode("ascii", "replace")
def drip(name, line, stage, every):
    while going.get(name):
        time.sleep(every)
        try:
            if going.get(name):
                line.sendall(b"one more line\r\n" if stage == "data" else b"NOOP\r\n")
                if stage != "data":
                    reply(line)
        except OSError:
            return
def start(name, address, stage, every):
    try:
        line = socket.create_connection((address, 25), 15)
        lines[name] = line
        answer = "connected"
        for step in STEPS[stage]:
            if step is not None:
                line.sendall(step.encode() + b"\r\n")
            answer = reply(line)
            if answer[:1] not in "23":
                break
        if stage == "data":
            line.sendall(b"Subject: slow\r\n\r\nbegin\r\n")
        say(name, answer)
        going[name] = every > 0
        if every:
            drip(name, line, stage, every)
    except OSError as error:
        say(name, type(error).__name__)
def finish(name):
    try:
        going[name] = False
        lines[name].sendall(b"end\r\n.\r\n")
        say(name, reply(lines[name]))
    except OSError as error:
        say(name, type(error).__name__)
for text in sys.stdin:
    verb, name, *rest = text.split()
    if verb == "open":
        threading.Thread(target=start, args=(name, rest[0], rest[1], float(rest[2])), daemon=True).start()
    elif verb == "finish":
        threading.Thread(target=finish, args=(name,), daemon=True).start()
    else:
        going[name] = False
        lines.pop(name).close()
"""


class Sessions:
    """A handful of SMTP clients on one host, in one process."""

    def __init__(self, podman: Podman, container: str) -> None:
        self.process = subprocess.Popen(
            podman.command("exec", "-i", container, "/usr/bin/python3", "-u", "-c", CLIENT),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=podman.machine.env,
            start_new_session=True,
        )
        self.answers: dict[str, queue.Queue[str]] = {}
        self.guard = threading.Lock()
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            name, _, reply = line.strip().partition(" ")
            self._box(name).put(reply)

    def _box(self, name: str) -> queue.Queue[str]:
        with self.guard:
            return self.answers.setdefault(name, queue.Queue())

    def _send(self, line: str) -> None:
        assert self.process.stdin is not None
        with self.guard:
            self.process.stdin.write(line + "\n")
            self.process.stdin.flush()

    def open(self, name: str, address: str, stage: str, drip: float = 0.0) -> None:
        """Begin a session; `answer` returns its progress."""
        self._send(f"open {name} {address} {stage} {drip}")

    def answer(self, name: str, limit: float = 40.0) -> str:
        """The server's last reply to this session; "silence" without a reply within `limit` seconds."""
        try:
            return self._box(name).get(timeout=limit)
        except queue.Empty:
            return "silence"

    def finish(self, name: str, limit: float = 40.0) -> str:
        """Send the final dot and return the reply."""
        self._send(f"finish {name}")
        return self.answer(name, limit)

    def end(self, name: str) -> None:
        """Close one connection."""
        self._send(f"close {name}")

    def close(self) -> None:
        """End them all."""
        if self.process.poll() is not None:
            return
        assert self.process.stdin is not None
        try:
            self.process.stdin.close()
        except OSError:
            pass
        give_up = time.monotonic() + 5
        while self.process.poll() is None and time.monotonic() < give_up:
            time.sleep(0.1)
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
