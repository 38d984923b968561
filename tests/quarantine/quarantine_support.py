"""A quarantine in a test's own directory: kept files as an MX writes them, and an index in memory."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mf_quarantine import DuplicateError, layout
from mf_quarantine.envelope import Message
from mf_quarantine.settings import Settings

NOON = 1795608000.0  # 2026-11-25 12:00:00 UTC


def ident(number: int = 0, when: float = NOON, host: str = "mx1") -> str:
    """An id as an MX gives it."""
    return f"{layout.bound(when)}Z-{host}-{1000 + number}-{number}-{number:016x}.0"


def kept(name: str, body: bytes = b"Subject: spam\n\nbuy\n", **changes: Any) -> bytes:
    """A file as Mf/Rejected.pm writes it."""
    envelope = {
        "id": name,
        "message": name.rpartition(".")[0],
        "host": "mx1",
        "received": "2026-11-25T12:00:00.000000Z",
        "sender": "sender@world.example",
        "recipients": ["user@customer.example"],
        "client_ip": "192.0.2.1",
        "helo": "world.example",
        "plugin": "mf_reject_gtube",
        "reason": "test spam",
        "size": len(body),
        "truncated": False,
        "sha256": hashlib.sha256(body).hexdigest(),
    } | changes
    return json.dumps(envelope).encode() + b"\n" + body


def shared(name: str, domains: Sequence[str], body: bytes = b"Subject: spam\n\nbuy\n", **changes: Any) -> bytes:
    """A file as Mf/Rejected.pm writes it for several domains; ``name`` is the first copy's id."""
    line, _, _ = kept(name, body, **changes).partition(b"\n")
    envelope = json.loads(line)
    del envelope["id"], envelope["recipients"]
    envelope["copies"] = [{"domain": domain, "recipients": [f"user@{domain}"]} for domain in domains]
    return json.dumps(envelope | changes).encode() + b"\n" + body


def put(folder: str, name: str, data: bytes, domain: str = "customer.example") -> Path:
    """A kept file below an MX's folder, or ``incoming``."""
    path = Path(folder) / layout.day(name) / domain / "new" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def settings(**changes: Any) -> Settings:
    """Settings of a control machine with one MX."""
    section: dict[str, Any] = {
        "mx": [{"name": "mx1", "address": "192.0.2.11"}],
        "retention_days": 30,
        "retention": {"short.example": 2},
        "mx_keeps_days": 5,
        "import_throttle_sleep": 3,
        "free_percent": 0,
    }
    return Settings(section | changes)


class Died(BaseException):
    """SIGKILL, as far as a test's own process can have it: nothing of ours may catch it."""


class Index:
    """What mf_quarantine.database.Database does, in memory; ``die`` names the call at which it dies."""

    def __init__(self) -> None:
        self.ledger: dict[str, tuple[str, str]] = {}
        self.message: dict[tuple[str, str], Message] = {}
        self.lost: set[str] = set()
        self.die = ""

    def known(self, idents: Sequence[str]) -> set[str]:
        return {one for one in idents if one in self.ledger}

    def add(self, kept: Sequence[Message], others: Sequence[tuple[str, str, str]] = ()) -> None:
        self._maybe("before the commit")
        entries = [(one.id, one.domain, "kept") for one in kept] + [*others]
        if any(entry[0] in self.ledger for entry in entries):
            raise DuplicateError("came twice")
        self.ledger.update({name: (domain, state) for name, domain, state in entries})
        self.message.update({(one.domain, one.id): one for one in kept})
        self._maybe("after the commit")

    def index_again(self, kept: Sequence[Message]) -> None:
        if any((one.domain, one.id) in self.message for one in kept):
            raise DuplicateError("came twice")
        self.ledger.update({one.id: (one.domain, "kept") for one in kept})
        self.message.update({(one.domain, one.id): one for one in kept})

    def newest(self) -> str:
        return max(self.ledger, default="")

    def domains(self) -> list[str]:
        return sorted({domain for domain, _ in self.message})

    def days(self, domain: str) -> list[str]:
        return sorted({layout.day(name) for where, name in self.message if where == domain})

    def idents(self, domain: str, day: str) -> dict[str, bool]:
        return {name: name in self.lost for where, name in self.message if where == domain and layout.day(name) == day}

    def older(self, domain: str, before: str, limit: int) -> list[tuple[str, str, int]]:
        return sorted(
            (name, one.mx, one.size) for (where, name), one in self.message.items() if where == domain and name < before
        )[:limit]

    def forget(self, domain: str, gone: Sequence[tuple[str, str, int]]) -> None:
        self._maybe("before the commit")
        for name, _, _ in gone:
            self.message.pop((domain, name), None)
            self.ledger[name] = (domain, "expired")

    def trim_ledger(self, before: str, limit: int) -> int:
        names = sorted(name for name, (_, state) in self.ledger.items() if name < before and state != "kept")[:limit]
        for name in names:
            del self.ledger[name]
        return len(names)

    def trim_sums(self, before: str, limit: int) -> int:
        del before, limit
        return 0

    def over(self, idents: Sequence[str]) -> set[str]:
        return {name for name in idents if self.ledger.get(name, ("", "kept"))[1] != "kept"}

    def mark(self, domain: str, name: str, *, lost: bool) -> None:
        del domain
        (self.lost.add if lost else self.lost.discard)(name)

    def _maybe(self, moment: str) -> None:
        if self.die == moment:
            raise Died
