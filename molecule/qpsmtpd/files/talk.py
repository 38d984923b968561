#!/usr/bin/env python3
r"""Hold an SMTP session and compare each reply with what is expected.

    talk.py ADDRESS PORT '[["EHLO a.example", "250"], ["RCPT TO:<b@c.example>", "550 5\\.7\\.1"]]'

A step is a text to send and a regular expression that the last line of the reply must match from its beginning. Each
"\n" is sent as CRLF; a text with "\r" in it is sent as it is, for input that no mail server would send. The expression
"-" stands for a connection that is closed without a reply. The greeting must be a 220.

Exit codes: 0 all as expected, 1 not. Prints each step and its reply up to there.
"""

from __future__ import annotations

import json
import re
import socket
import sys

LIMIT = 15.0  # s for connecting and for each reply


def reply(lines: socket.SocketIO) -> str:
    """Return the last line of the next reply without its end; "" at the end of the connection."""
    while True:
        line = bytearray()
        while not line.endswith(b"\n"):
            byte = lines.read(1)
            if not byte:
                return ""
            line += byte
        if line[3:4] != b"-":
            return line.decode("ascii", "backslashreplace").rstrip("\r\n")


def wire(text: str) -> bytes:
    """Return `text` as the bytes to send."""
    if "\r" not in text:
        text = text.replace("\n", "\r\n") + "\r\n"
    return text.encode("latin-1")


def main(address: str, port: str, steps: str) -> int:
    """Hold the session; return the exit code."""
    with socket.create_connection((address, int(port)), LIMIT) as connection:
        lines = connection.makefile("rb", buffering=0)
        for text, expected in [("", "220"), *json.loads(steps)]:
            if text:
                connection.sendall(wire(text))
            try:
                answer = reply(lines)
            except ConnectionError:
                answer = ""
            print(f"{text.splitlines()[0] if text else 'greeting'}: {answer or 'closed'}", flush=True)
            if not re.match("$" if expected == "-" else expected, answer):
                print(f"expected {expected}")
                return 1
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(*sys.argv[1:]))
    except OSError as error:
        sys.exit(f"{sys.argv[1]} port {sys.argv[2]}: {error}")
