"""A quarantine in a test's own directory: kept files as an MX writes them, an index in memory, an MX without rsync."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

# A stand-in for python3-pymysql: no test connects.
driver: Any = ModuleType("pymysql")
driver.cursors = ModuleType("pymysql.cursors")
driver.MySQLError = driver.ProgrammingError = type("MySQLError", (Exception,), {})
sys.modules.setdefault("pymysql", driver)
sys.modules.setdefault("pymysql.cursors", driver.cursors)

from mf import canary, decisions, message_id, state
from mf_quarantine import DuplicateError, context, layout
from mf_quarantine import settings as settings_module
from mf_quarantine.canaries import Canaries
from mf_quarantine.envelope import Message
from mf_quarantine.importer import Batch, Counts, Importer
from mf_quarantine.pull import Puller
from mf_quarantine.remote import File
from mf_quarantine.repair import Repair
from mf_quarantine.settings import Settings
from mf_quarantine.source import Source, load

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
    path = Path(folder) / message_id.day(name) / domain / "new" / name
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
    """What mf_quarantine.index.Index does, in memory; ``die`` names the call at which it dies."""

    def __init__(self) -> None:
        self.ledger: dict[str, tuple[str, str]] = {}
        self.message: dict[tuple[str, str], Message] = {}
        self.lost: set[str] = set()
        self.die = ""

    def known(self, idents: Sequence[str]) -> set[str]:
        return {name for name in idents if name in self.ledger}

    def add(self, kept: Sequence[Message], others: Sequence[tuple[str, str, str]] = ()) -> None:
        self._maybe("before the commit")
        entries = [(message.id, message.domain, "kept") for message in kept] + [*others]
        if any(entry[0] in self.ledger for entry in entries):
            raise DuplicateError("came twice")
        self.ledger.update({name: (domain, state) for name, domain, state in entries})
        self.message.update({(message.domain, message.id): message for message in kept})
        self._maybe("after the commit")

    def index_again(self, kept: Sequence[Message]) -> None:
        if any((message.domain, message.id) in self.message for message in kept):
            raise DuplicateError("came twice")
        self.ledger.update({message.id: (message.domain, "kept") for message in kept})
        self.message.update({(message.domain, message.id): message for message in kept})

    def newest(self) -> str:
        return max(self.ledger, default="")

    def domains(self) -> list[str]:
        return sorted({domain for domain, _ in self.message})

    def days(self, domain: str) -> list[str]:
        return sorted({message_id.day(name) for where, name in self.message if where == domain})

    def idents(self, domain: str, day: str) -> dict[str, bool]:
        return {
            name: name in self.lost for where, name in self.message if where == domain and message_id.day(name) == day
        }

    def older(self, domain: str, before: str, limit: int) -> list[tuple[str, str, int]]:
        messages = [message for (where, _), message in self.message.items() if where == domain]
        return sorted((message.id, message.mx, message.size) for message in messages if message.id < before)[:limit]

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


class Mx:
    """An MX's folder, and rsync's work on it, without rsync."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.asked: list[Sequence[str]] = []
        self.unreadable: set[str] = set()
        self.fail: Exception | None = None

    def listing(self, filters: Sequence[str]) -> Iterator[File | None]:
        self.asked.append(filters)
        if self.fail:
            raise self.fail
        for path in sorted(self.root.rglob("*")):
            if path.is_file():
                yield File(str(path.relative_to(self.root)), path.stat().st_size)

    def fetch(self, paths: Sequence[str], target: str) -> None:
        for path in paths:
            if path not in self.unreadable and (self.root / path).exists():
                put(target, path.rpartition("/")[2], (self.root / path).read_bytes(), path.split("/")[1])


class Room:
    """A control machine with a quarantine, and an MX, mx1."""

    def __init__(self, root: Path) -> None:
        self.layout = layout.Layout(str(root / "quarantine"))
        self.places = state.Places(str(root))
        for folder in (self.layout.mail, self.layout.bad, self.layout.state, self.layout.locks):
            Path(folder).mkdir(parents=True)
        for folder in ("mx", "run/mf"):
            (root / folder).mkdir(parents=True)
        self.mx: Any = Mx(root / "mx")
        self.index: Any = Index()
        self.settings = settings()
        self.incoming = self.layout.incoming("mx1")
        self.now = NOON + 60
        self.canaries: Canaries | None = None
        self.counts = Counts()
        self.slept: list[float] = []

    def importer(self) -> Importer:
        return Importer(
            self.index,
            self.layout,
            self.settings,
            "mx1",
            host=self.places,
            canaries=self.canaries,
            clock=lambda: self.now,
            sleep=self.slept.append,
        )

    def run(self, *, fresh: bool = True) -> Counts:
        """Import ``incoming``."""
        return total(self.importer().run(fresh=fresh))

    def puller(self, limit: float = 900.0) -> Puller:
        return Puller(
            self.index,
            self.layout,
            self.settings,
            self.importer(),
            self.source(),
            host=self.places,
            clock=lambda: self.now,
            limit=limit,
        )

    def pull(self, limit: float = 900.0) -> Source:
        """A whole pull; returns its record. ``counts``: its imports."""
        puller = self.puller(limit)
        self.counts = puller.counts
        puller.run(self.mx)
        return self.source()

    def source(self) -> Source:
        return load(self.layout.state, "mx1", self.now)

    def repair(self, *, dry_run: bool = False) -> Repair:
        """A repair that has compared files and rows."""
        work = Repair(self.index, self.layout, self.settings, dry_run=dry_run, clock=lambda: self.now)
        work.compare()
        return work

    def fill(self, count: int, start: int = 0) -> list[str]:
        """Messages on the MX; returns their ids, oldest first."""
        names = [ident(number, NOON + number / 1000) for number in range(start, start + count)]
        for name in names:
            put(str(self.mx.root), name, kept(name))
        return names

    def stored(self) -> list[str]:
        return sorted(path.name for path in Path(self.layout.mail).rglob("*") if path.is_file())

    def waiting(self) -> list[str]:
        return [file.ident for file in layout.waiting(self.incoming)]


def total(batches: Iterator[Batch]) -> Counts:
    """The counts of some imports."""
    counts = Counts()
    for batch in batches:
        counts.add(batch)
    return counts


@pytest.fixture
def room(tmp_path: Path) -> Room:
    return Room(tmp_path)


@pytest.fixture
def command(room: Room, monkeypatch: pytest.MonkeyPatch) -> Room:
    """The command on this quarantine, without a database and without another user."""
    monkeypatch.setattr(context, "drop_root", lambda: None)
    monkeypatch.setattr(context, "Index", lambda: SimpleNamespace(made_by=os.getpid()))
    monkeypatch.setattr(settings_module, "load", lambda _: room.settings)
    monkeypatch.setattr(layout, "Layout", lambda *_: room.layout)
    monkeypatch.setattr(canary, "read_key", lambda _: bytes(32))
    monkeypatch.setattr(decisions, "journal", lambda *_: None)
    return room
