"""Bounces as Exim writes them, and the directories in which an MX keeps refused mail."""

from __future__ import annotations

from pathlib import Path

import pytest
from mf_rejected import keeper

QUEUED = "1xXjgd-0000WL-1H"
LONG = "20261129T183148.028033Z-mx1-customer-1xXjgd.0000WL.1H-070bdfa20dd752e8"
RAW = (
    b"Received: by mx1\n\tfor gone@customer.example\nSubject: t\n\n"
    + b"z" * 5000
    + b"\n.dots\n. \xe9\xff \x00 8bit\n\n\n"
)
REPLY = "550 5.1.1 no such user"

# as Exim 4.96 writes one
BOUNCE = b"""\
Received: from Debian-exim by mx1 with local (Exim 4.96)
\tid 1xXjgd-0000WL-1H
\tfor a@world.example;
\tSun, 29 Nov 2026 18:31:43 +0000
X-Failed-Recipients: %(first)s
Auto-Submitted: auto-replied
From: Mail Delivery System <Mailer-Daemon@mx1>
To: a@world.example
References: <x@world.example>
Content-Type: multipart/report; report-type=delivery-status; boundary=1795977103-eximdsn-142172802
MIME-Version: 1.0
Subject: Mail delivery failed: returning message to sender
Message-Id: <E1xXjgd-0000WL-1H@mx1>
Date: Sun, 29 Nov 2026 18:31:43 +0000

--1795977103-eximdsn-142172802
Content-type: text/plain; charset=us-ascii

This message was created automatically by mail delivery software.

A message that you sent could not be delivered to one or more of its
recipients. This is a permanent error. The following address(es) failed:

  %(first)s
    host mail.customer.example [192.0.2.5]
    retry timeout exceeded

--1795977103-eximdsn-142172802
Content-type: message/delivery-status

Reporting-MTA: dns; mx1

%(report)s
--1795977103-eximdsn-142172802
Content-type: %(kind)s

%(path)s%(raw)s
--1795977103-eximdsn-142172802--
"""


def failed(address: str, reply: str = REPLY) -> str:
    diagnosis = f"Remote-MTA: dns; mail.customer.example\nDiagnostic-Code: smtp; {reply}\n" if reply else ""
    return f"Action: failed\nFinal-Recipient: rfc822;{address}\nStatus: 5.0.0\n{diagnosis}"


def bounce(
    raw: bytes = RAW, *reports: str, path: bytes = b"Return-path: <a@world.example>\n", kind: bytes = b"message/rfc822"
) -> bytes:
    report = "\n".join(reports or (failed("gone@customer.example"),)).encode("latin-1")
    return BOUNCE % {b"first": b"gone@customer.example", b"report": report, b"kind": kind, b"path": path, b"raw": raw}


TWO = (
    failed("a@Customer.Example", "550 5.1.1 a"),
    failed("b@customer.example", "550 5.1.1 b"),
    failed("c@shop.example", ""),
    "Action: delayed\nFinal-Recipient: rfc822;later@shop.example\nStatus: 4.0.0\n",
)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "rejected"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "refused"
    path.mkdir()
    return path


def files(root: Path) -> list[Path]:
    return sorted(path for path in root.rglob("*") if path.is_file())


def keep(root: Path, folder: Path, report: bytes | bytearray | None = None) -> list[str]:
    return keeper.keep(bounce() if report is None else report, str(root), str(folder), "mx1")
