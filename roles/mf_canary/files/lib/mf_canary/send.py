"""/mf/bin/send-canary: a tagged spam and a tagged ham, through this MX's own front door. See ``mf.canary``."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from typing import Any

from mf import Failure, canary, cli, config, smtp, state

LIMIT = 60.0  # seconds for one dialogue: a busy MX may take its time
SENDER = f"canary@{canary.DOMAIN}"  # a bounce to it is dropped by the queue behind
# the expected outcome of each: a 5xx after the message, or a 250
EXPECTED = {canary.SPAM: (smtp.REFUSED, "message"), canary.HAM: (smtp.ACCEPTED, "message")}
# GTUBE (https://spamassassin.apache.org/gtube/), in two parts so that this file is no spam
_GTUBE = "XJS*C4JDBQADN1.NSBN3*2IDNEN*GTUBE-STANDARD-" + "ANTI-UBE-TEST-EMAIL*C.34X"

_EPILOG = """\
It runs from cron every 10 minutes. check-canary on control reports whether they arrived.

Exit codes: 0 spam refused and ham accepted, as it should be; 1 not so, one line explains it; 2 wrong command line
"""


def main(argv: Sequence[str] | None = None, places: state.Places | None = None) -> int:
    """The command; returns its exit code."""
    job = cli.Command(
        "send-canary",
        "Send a tagged spam and a tagged ham through this MX's own front door.",
        _EPILOG,
        work=_send,
        dry_run="show the messages without tags, and send nothing",
        json="print the outcome as one JSON object",
    )
    return job.main(argv, places)


def _send(chosen: argparse.Namespace, places: state.Places) -> int:
    if chosen.dry_run:
        for kind in EXPECTED:
            print(message("v1 HOST KIND TIME NONCE MAC", kind).decode("ascii").replace("\r", ""))
        return 0
    settings = config.load(places)
    where = settings.section("canary")
    key = canary.read_key(where["key"])
    try:
        ends = {kind: send(settings["host"], where, key, kind) for kind in EXPECTED}
    except ValueError as error:
        raise Failure(str(error)) from None
    if chosen.json:
        print(state.encode({kind: end.describe() for kind, end in ends.items()}))
    wrong = [kind for kind, end in ends.items() if (end.outcome, end.stage) != EXPECTED[kind]]
    for kind in wrong:
        print(f"send-canary: {kind}: {ends[kind].describe()}", file=sys.stderr)
    return cli.FAILED if wrong else 0


def send(host: str, where: dict[str, Any], key: bytes, kind: str) -> smtp.Dialogue:
    """Send one of the two. ValueError when the host's name can't be in a tag."""
    data = message(canary.make(key, host, kind), kind) + b".\r\n"
    return smtp.transaction(where["address"], where["port"], LIMIT, f"{kind}@{canary.DOMAIN}", data, sender=SENDER)


def message(tag: str, kind: str) -> bytes:
    """The whole message, lines ended by CRLF."""
    date = time.strftime("%a, %d %b %Y %H:%M:%S +0000", time.gmtime())
    lines = [
        f"{canary.HEADER}: {tag}",
        f"From: <{SENDER}>",
        f"To: <{kind}@{canary.DOMAIN}>",
        f"Subject: canary ({kind})",
        f"Date: {date}",
        f"Message-ID: <{tag.split(' ')[4]}.{kind}@{canary.DOMAIN}>",
        "Auto-Submitted: auto-generated",
        "",
        "This MX watches itself. You need not read or keep this message.",
    ]
    if kind == canary.SPAM:
        lines += ["", _GTUBE]
    return ("\r\n".join(lines) + "\r\n").encode("ascii")
