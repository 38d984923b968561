#!/usr/bin/env python3
"""Make file systems read-only, one after the other, and writable again; print as JSON how the MX greets and answers.

    read_only.py ADDRESS CANARY DIRECTORY ...

By directory: greeting: the 421 of ADDRESS; canary: the answer to a canary's message on loopback; again: the greeting
once the file system is writable. Meanwhile each DIRECTORY is a file system of its own: the whole of it changes, as
after a disk error, and a running service sees it.
"""

from __future__ import annotations

import json
import smtplib
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
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


def main(address: str, canary: str, *directories: str) -> None:
    """Go through the directories and print the result."""
    result = {}
    with apart(directories):
        greeting(address, "220")
        for directory in directories:
            run("mount", "-o", "remount,ro", directory)
            try:
                VERDICT.unlink(missing_ok=True)  # a good one is believed for 5 s
                result[directory] = {"greeting": greeting(address, "421"), "canary": answer(canary)}
            finally:
                run("mount", "-o", "remount,rw", directory)
            result[directory]["again"] = greeting(address, "220")
    print(json.dumps(result))


if __name__ == "__main__":
    main(*sys.argv[1:])
