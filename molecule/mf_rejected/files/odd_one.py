#!/usr/bin/env python3
"""Send an MX one odd message among others, and check what the customer's server got.

    odd_one.py send ADDRESS      three messages to the MX at ADDRESS, port 25; the second has a line of 2,000 bytes
    odd_one.py large ADDRESS     one message of 1.4 MB for two domains; no command line takes so much
    odd_one.py got               "same" when the second arrived as it was sent

An MX puts its own header fields in front; all that was sent follows unchanged.
"""

from __future__ import annotations

import smtplib
import sys
from pathlib import Path

ARRIVED = Path("/var/lib/world/kept/bytes-odd")
LONG = b"l" * 2000 + b"\r\n.\r\n..dots \r\n\t\xe9\xff 8bit, not UTF-8\r\n\r\n\r\n"
BODIES = {"odd-before": b"x\r\n", "bytes-odd": LONG, "odd-after": b"x\r\n"}


def message(name: str) -> bytes:
    """Return a message, from its header to its end."""
    return b"Subject: odd\r\nX-Lab-Id: " + name.encode() + b"\r\n\r\n" + BODIES[name]


def send(address: str, data: bytes, *recipients: str) -> None:
    """Send a message; the MX has to accept it."""
    with smtplib.SMTP(address, 25, "world.example", timeout=60) as link:
        link.ehlo()
        link.mail("sender@world.example")
        for recipient in recipients:
            link.rcpt(recipient)
        link.docmd("DATA")
        link.send(data.replace(b"\r\n.", b"\r\n..") + b".\r\n")
        code, text = link.getreply()
        if code != 250:
            raise SystemExit(f"{code} {text!r}")


if __name__ == "__main__":
    if sys.argv[1] == "send":
        for name in BODIES:
            send(sys.argv[2], message(name), "user@customer.example")
    elif sys.argv[1] == "large":
        large = b"Subject: refused\r\nX-Lab-Id: verify-refused\r\n\r\n" + (b"y" * 72 + b"\r\n") * 20000
        send(sys.argv[2], large, "user@customer.example", "user@shop.example")
    else:
        print("same" if ARRIVED.read_bytes().endswith(b"\n" + message("bytes-odd")) else "another")
