#!/usr/bin/env python3
"""Send unusual mail of real senders through an MX; compare it with what the customer gets, byte for byte.

    odd_mail.py ADDRESS DOMAIN [FLEET_NAME ...]

Runs on `world`, where the customer's server keeps the messages whose X-Lab-Id begins with "bytes-". ADDRESS is the MX,
DOMAIN one of the customer's, FLEET_NAMEs the names under which the fleet writes Authentication-Results.

Above a message there must be the fleet's own fields and nothing else: two Received, one Authentication-Results.
Exit codes: 0 all as expected, 1 not; prints the differences.
"""

from __future__ import annotations

import json
import re
import smtplib
import sys
import time
from pathlib import Path
from typing import NamedTuple

STATE = Path("/var/lib/world")
LIMIT = 30.0  # s until the last message has arrived
OURS = re.compile(rb"(?:(Received|Authentication-Results): [^\n]*\r\n(?:[ \t][^\n]*\r\n)*)")

SRS = "SRS0=fGv9=BC=a.ccdefghijklmn.com=bounce-4IDNASXYtY_FG21s4IoV1XzCfCtHkb2RZY_qdGZ8Q-6A@email.sender.example"
VERP = f"b-{'0123456789abcdef' * 12}+user=customer.example@news.example"
PLAIN = "sender@world.example"
# of the 254 bytes that fit into a path of 256; Exim's form of such a sender is longer
LONGEST = f"SRS0={'x' * 213}=a_b.example@em_1234_.Shop_1.example"
UNDERSCORES = f"b@{('_' * 60 + '.') * 4}example"


class Odd(NamedTuple):
    """A message: its envelope, its bytes as sent, and as the customer must get them (empty: the same)."""

    name: str
    sender: str
    local: str
    sent: bytes
    right: bytes = b""


def messages(names: list[str]) -> list[Odd]:
    """Return all messages."""
    body = b"\r\nbody \r\n.dot\r\n..\r\n\t\r\n\xe9\xff\x00\r\n" + b"y" * 2000 + b"\r\n \r\n\r\n"
    common = {
        "long-sender": b"Subject: x\r\n",
        "long-recipient": b"Subject: x\r\n",
        "underscore": b"Subject: x\r\n",
        "underscores": b"Subject: x\r\n",
        "many-underscores": b"Subject: x\r\n",
        "longest": b"Subject: x\r\n",
        "colon": b"Subject : x\r\nFrom : a@b.example\r\nTo\t \t: u@customer.example\r\nX-After:y\r\n",
        "fold": b"Subject: a\r\n \r\n\t \r\n b\r\nX-Tab:\r\n\t\r\n\tz\r\nFrom: a@b.example\r\nX-Last: 1\r\n",
        "bytes": (
            b"sUbJeCt:    many   blanks \t \r\nX-Empty:\r\nX-Blank: \r\nX-8: gr\xfc\xdfe \xe2\x82\xac\r\n"
            b'FROM: "a, b"\r\n    <a@b.example>,\r\n\t\tc\r\nMime-Version:1.0\r\n'
            b"..X-Dot: y\r\n!#$%&'*+-/=?^_`{|}~: odd name\r\n" + b"n" * 2000 + b": a long name\r\n"
        )
        + (b"x-long: " + b"z" * 2000 + b"\r\nX-Words: " + b"word " * 400 + b"\r\n"),
        # fields that a relay must not touch (RFC 5321, 4.4)
        "trace": (
            b"Return-Path: <r@b.example>\r\nEnvelope-To: u@customer.example\r\n"
            b"Delivery-Date: Mon, 2 Nov 2026 10:00:00 +0100\r\n"
            b"Bcc: hidden@b.example\r\nSender: s@b.example\r\nReceived: from a by b; Mon, 2 Nov 2026 10:00:00 +0100\r\n"
            b"Mail-From: x\r\nResent-From: y@b.example\r\nTo: unqualified\r\n"
        ),
    }
    envelopes = {
        "long-sender": (SRS, "user"),
        "long-recipient": (VERP, "u" * 120),
        "underscore": ("bounce@em_1234.news.example", "user"),
        "underscores": ("bounce@_a_.b_.example", "user"),
        "many-underscores": (UNDERSCORES, "user"),
        "longest": (LONGEST, "u" * (len(LONGEST) - len("@customer.example"))),
    }
    listed = []
    for name, lines in common.items():
        sender, local = envelopes.get(name, (PLAIN, "user"))
        listed.append(Odd(name, sender, local, b"X-Lab-Id: bytes-" + name.encode() + b"\r\n" + lines + body))
    # Exim drops such lines at the end of a field (no option keeps them), but the following fields stay in the header
    first, end, rest = (
        b"X-Lab-Id: bytes-fold-end\r\nSubject: a\r\n",
        b" \r\n\t\r\n",
        b"From: a@b.example\r\nX-Last: 1\r\n" + body,
    )
    listed.append(Odd("fold-end", PLAIN, "user", first + end + rest, first + rest))
    # an mbox separator is no field, and the queue would begin the body there
    rest = b"X-Lab-Id: bytes-mbox\r\nSubject: x\r\n" + body
    line = b"From a@b.example Mon Nov  2 10:00:00 2026\r\n"
    listed.append(Odd("mbox", PLAIN, "user", line + rest, b"Mail-" + line.replace(b"From ", b"From: ", 1) + rest))
    return [*listed, forged(names, body)]


def forged(names: list[str], body: bytes) -> Odd:
    """Return a message with results of checks that claim to be the fleet's, and some that don't."""
    field, claim = b"Authentication-Results", b"; dkim=pass header.d=bank.example\r\n"
    ours = []
    for name in (name_.encode() for name_ in names):
        ours += [
            field + b": " + name + claim,
            field.upper() + b":" + name.upper() + b" 1" + claim,
            field.lower() + b" : (a (nested \\) comment)) " + name + b" (after) 1 ()" + claim,
            field + b":\r\n\t" + name + b"\r\n ;\r\n dkim=pass\r\n",
            field + b': "' + name + b'"' + claim,
            field + b": " + name + b"\r\n",
        ]
    foreign_fields = [
        field + b": other.example; dkim=pass header.d=bank.example\r\n",
        field + b": " + names[0].encode() + b".other.example" + claim,
        field + b": x" + names[0].encode() + claim,
        field + b": (" + names[0].encode() + b") other.example 1" + claim,
        b"X-" + field + b": " + names[0].encode() + claim,
        b"Subject: " + names[0].encode() + b"\r\n",
    ]
    lines = [b"X-Lab-Id: bytes-forged\r\n"]
    for number, line in enumerate(foreign_fields):
        lines += [line, *ours[number :: len(foreign_fields)]]
    right = b"".join([lines[0], *foreign_fields]) + body
    return Odd("forged", PLAIN, "user", b"".join(lines) + body, right)


def send(address: str, domain: str, odd: Odd) -> str:
    """Send one message; return the MX's refusal, "" without one."""
    with smtplib.SMTP(address, 25, "my_host.example", timeout=15) as link:
        for say in ("EHLO my_host.example", f"MAIL FROM:<{odd.sender}>", f"RCPT TO:<{odd.local}@{domain}>", "DATA"):
            code, answer = link.docmd(say)
            if code not in (250, 354):
                return f"{say}: {code} {answer.decode('ascii', 'replace')}"
        link.send(re.sub(rb"(?m)^\.", b"..", odd.sent) + b".\r\n")
        code, answer = link.getreply()
        return "" if code == 250 else f"final dot: {code} {answer.decode('ascii', 'replace')}"


def compare(odd: Odd, domain: str) -> str:
    """Return how the customer's copy differs, "" when it doesn't; raise FileNotFoundError until it has arrived."""
    got = (STATE / "kept" / f"bytes-{odd.name}").read_bytes()
    right = odd.right or odd.sent
    if not got.endswith(right):
        end = next((n for n in range(1, len(right)) if got[-n:] != right[-n:]), len(right))
        window = slice(-end - 60, -end + 1)
        return f"differs {end} bytes before its end: …{got[window]!r}, not …{right[window]!r}"
    above = got[: len(got) - len(right)]
    if OURS.sub(b"", above) or sorted(OURS.findall(above)) != [b"Authentication-Results", b"Received", b"Received"]:
        return f"above it: {above!r}"
    lines = [json.loads(line) for line in (STATE / "mail.jsonl").read_text().splitlines()]
    envelope = [(line["sender"], line["rcpt"]) for line in lines if line["id"] == f"bytes-{odd.name}"]
    if not envelope:
        raise FileNotFoundError  # the bytes are kept first
    return "" if envelope == [(odd.sender, [f"{odd.local}@{domain}"])] else f"its envelope: {envelope}"


def main(address: str, domain: str, *names: str) -> int:
    """Send all messages, then compare each; return the exit code."""
    odd = messages([*names])
    wrong = {message.name: problem for message in odd if (problem := send(address, domain, message))}
    deadline = time.monotonic() + LIMIT
    for message in odd:
        while message.name not in wrong:
            try:
                problem = compare(message, domain)
            except FileNotFoundError:
                problem = "never came"
                if time.monotonic() < deadline:
                    time.sleep(0.1)
                    continue
            wrong |= {message.name: problem}
    for name, problem in wrong.items():
        print(f"{name}: {problem or 'as it should be'}")
    return 1 if any(wrong.values()) else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
