"""What bench/quarantine_host.py measures on: its database, and messages in folders of its own. On the host, too."""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, "/mf/lib")
from mf import message_id
from mf_quarantine import database, importer, layout, migration, settings
from mf_quarantine.index import Index

if TYPE_CHECKING:
    from collections.abc import Callable

NAME = "mf_quarantine_bench"
ROOT = "/mf/var/quarantine-bench"
DOMAINS = [f"customer-{number:03d}.example" for number in range(300)]
BODY = b"x" * 76 + b"\n"


def connect() -> Index:
    """The bench's own database, as root; made unless it is there."""
    migration.migrate(name=NAME, account=database.USER)
    return Index(name=NAME, user="root")


def control() -> settings.Settings:
    """Settings that let nothing expire."""
    return kept_for(3650)


def kept_for(days: int) -> settings.Settings:
    """Settings with this retention."""
    return settings.Settings(
        {
            "mx": [],
            "retention_days": days,
            "retention": {},
            "mx_keeps_days": 5,
            "import_throttle_sleep": 3,
            "free_percent": 0,
        }
    )


def make_files(places: layout.Layout, count: int, when: float, round_number: int) -> list[tuple[str, str]]:
    """Kept files of about 4 kB in ``incoming``, by 20 domains; returns (domain, id)."""
    names = []
    for number in range(count):
        moment = dt.datetime.fromtimestamp(when + number / count * 600, dt.UTC)
        ident = f"{moment:%Y%m%dT%H%M%S.%f}Z-mx1-{number}-{round_number}-{number:016x}.0"
        domain = DOMAINS[number % 20]
        body = f"From: a@b.example\nSubject: offer {number}\n\n".encode() + BODY * 50
        envelope_line = {
            "id": ident,
            "message": ident,
            "host": "mx1",
            "received": "",
            "sender": f"sender-{number}@world.example",
            "recipients": [f"user{number}@{domain}"],
            "client_ip": "192.0.2.1",
            "helo": "world.example",
            "plugin": "mf_content",
            "reason": "the message looks like spam (score 7.3)",
            "size": len(body),
            "truncated": False,
            "sha256": hashlib.sha256(body).hexdigest(),
        }
        folder = Path(places.incoming("mx1")) / message_id.day(ident) / domain / "new"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / ident).write_bytes(json.dumps(envelope_line).encode() + b"\n" + body)
        names.append((domain, ident))
    os.sync()
    return names


def ours(index: Index, places: layout.Layout) -> None:
    """The importer, as a pull uses it."""
    for _ in importer.Importer(index, places, control(), "mx1").run(fresh=True):
        pass


def timed(work: Callable[[], object]) -> float:
    """Seconds."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began
