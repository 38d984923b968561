#!/usr/bin/env python3
"""Make file systems read-only and paths unusable, one after the other; print as JSON how the MX greets and answers.

    read_only.py ADDRESS CANARY DIRECTORY ... -- PATH ...

By path: greeting: the 421 of ADDRESS; canary: the answer to a canary's message on loopback; again: the greeting
once the path is as before. Meanwhile each DIRECTORY is a file system of its own: the whole of it changes, as
after a disk error, and a running service sees it. Each PATH becomes root's, with no permission for others.
"""

from __future__ import annotations

import json
import os
import smtplib
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

SERVICES = ("mf-exim.service", "qpsmtpd.service")  # in this order
LIMIT = 15.0  # s for a greeting
VERDICT = Path("/run/qpsmtpd/queue")


def greeting(address: str, code: str) -> str:
    """Connect until the greeting has the code; return the last one."""
    give_up = time.monotonic() + LIMIT
    while True:
        try:
            with socket.create_connection((address, 25), LIMIT) as connection:
                reply = connection.makefile("rb").readline(600).decode("ascii", "backslashreplace").strip()
        except OSError as error:
            reply = str(error)
        if reply.startswith(code) or time.monotonic() > give_up:
            return reply
        time.sleep(0.1)


def answer(canary: str) -> str:
    """Send a canary from loopback; return the answer to its final dot."""
    with smtplib.SMTP("127.0.0.1", 25, "localhost", LIMIT) as connection:
        try:
            connection.sendmail("<>", [canary], "Subject: canary\r\n\r\nx\r\n")
        except smtplib.SMTPDataError as error:
            reply = error.smtp_error
            return f"{error.smtp_code} {reply.decode() if isinstance(reply, bytes) else reply}"
    return "250"


def run(*command: str) -> None:
    """Run a command. Raises CalledProcessError."""
    subprocess.run(command, check=True)


@contextmanager
def apart(directories: Sequence[str]) -> Iterator[None]:
    """Give each directory an empty file system with its owner, group and mode; start the services anew with them."""
    mounted = []
    run("systemctl", "stop", *SERVICES)
    try:
        for directory in directories:
            status = Path(directory).stat()
            options = f"size=100m,mode={stat.S_IMODE(status.st_mode):o},uid={status.st_uid},gid={status.st_gid}"
            run("mount", "-t", "tmpfs", "-o", options, "lab", directory)
            mounted.append(directory)
        run("systemctl", "start", *SERVICES)
        yield
        run("systemctl", "stop", *SERVICES)
    finally:
        for directory in mounted:
            run("umount", directory)
        run("systemctl", "start", *SERVICES)


@contextmanager
def read_only(directory: str) -> Iterator[None]:
    """Make the file system of the directory read-only."""
    run("mount", "-o", "remount,ro", directory)
    try:
        yield
    finally:
        run("mount", "-o", "remount,rw", directory)


@contextmanager
def unusable(path: str) -> Iterator[None]:
    """Take all permissions from every user but root."""
    status = Path(path).stat()
    os.chown(path, 0, 0)
    Path(path).chmod(0)
    try:
        yield
    finally:
        os.chown(path, status.st_uid, status.st_gid)
        Path(path).chmod(stat.S_IMODE(status.st_mode))


def outcome(address: str, canary: str, fault: AbstractContextManager[None]) -> dict[str, str]:
    """Return the greetings and the canary's answer with the fault, and the greeting after it."""
    greeting(address, "220")
    with fault:
        VERDICT.unlink(missing_ok=True)  # a good one is believed for 5 s
        result = {"greeting": greeting(address, "421"), "canary": answer(canary)}
    return {**result, "again": greeting(address, "220")}


def main(address: str, canary: str, *paths: str) -> None:
    """Go through the paths and print the result."""
    split = paths.index("--")
    directories, others = paths[:split], paths[split + 1 :]
    with apart(directories):
        result = {path: outcome(address, canary, read_only(path)) for path in directories}
    result |= {path: outcome(address, canary, unusable(path)) for path in others}
    print(json.dumps(result))


if __name__ == "__main__":
    main(*sys.argv[1:])
