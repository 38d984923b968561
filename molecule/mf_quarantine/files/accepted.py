#!/usr/bin/env python3
"""Hand the queue mail that a customer's server may refuse, as the SMTP service in front does.

    accepted.py          prints {"X-Lab-Id": {"sha256": ..., "sender": ..., "recipients": [...]}}

The hash is over the message as it was sent, without any Received line. The delivered message must have the same hash.
"""

from __future__ import annotations

import hashlib
import json
import smtplib

ODD = b"z" * 5000 + b"\r\n.\r\n..dots\r\n \xe9\xff 8bit, not UTF-8\r\n\r\n\r\n"
LARGE = (b"y" * 99 + b"\r\n") * 1010
# the longest addresses that are accepted, with underscores, which Exim by itself refuses
LONG_SENDER = f"SRS0={'x' * 213}=a_b.example@em_1234_.Shop_1.example"
LONG_RECIPIENT = f"gone+{'u' * 232}@customer.example"
MESSAGES = {
    **{f"accepted-{number}": ("a@world.example", ["gone@customer.example"], LARGE) for number in range(2)},
    "accepted-odd": ("a@world.example", ["gone@customer.example"], ODD),
    "accepted-bounce": ("", ["gone@customer.example"], b"a bounce from outside\r\n"),
    "accepted-long": (LONG_SENDER, [LONG_RECIPIENT], b"from and to long addresses\r\n"),
    "accepted-two": ("a@world.example", ["gone@customer.example", "here@customer.example"], b"to two\r\n"),
    # the largest size that is accepted
    "accepted-huge": ("a@world.example", ["gone@customer.example"], (b"h" * 998 + b"\r\n") * 52000),
}


def main() -> None:
    """Send all messages and print their hashes."""
    accepted = {}
    for name, (sender, recipients, body) in MESSAGES.items():
        message = f"Subject: accepted\r\nX-Lab-Id: {name}\r\n\r\n".encode() + body
        with smtplib.SMTP("127.0.0.1", 10025, "mx1", timeout=60) as link:
            link.ehlo()
            link.mail(sender)
            for recipient in recipients:
                link.rcpt(recipient)
            link.docmd("DATA")
            link.send(message.replace(b"\r\n.", b"\r\n..") + b".\r\n")
            code, answer = link.getreply()
            if code != 250:
                raise SystemExit(f"{name}: {code} {answer!r}")
        digest = hashlib.sha256(message).hexdigest()
        accepted[name] = {"sha256": digest, "sender": sender or "<>", "recipients": recipients}
    print(json.dumps(accepted))


if __name__ == "__main__":
    main()
