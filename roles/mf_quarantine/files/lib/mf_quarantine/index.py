"""The index: the statements on ledger, messages and sums for imports, expiry and repair. Lists are in ``query``."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from mf import message_id

from .database import Database
from .schema import COLUMNS

if TYPE_CHECKING:  # list and show don't need it, and its imports take as long as all others
    from .envelope import Message

Item = TypeVar("Item")

_ESCAPES = str.maketrans({"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\0": "\\0"})
_CHUNK = 1000  # ids in one IN (...), rows in one INSERT


class Index(Database):
    """A connection with the index's statements. An entry of the ledger is ``(id, domain, state)``."""

    def known(self, idents: Sequence[str]) -> set[str]:
        """Those of some ids that are in the ledger."""
        return self._in_ledger("", idents)

    def over(self, idents: Sequence[str]) -> set[str]:
        """Those of some ids that are in the ledger and aren't kept: expired, canaries, bad."""
        return self._in_ledger("state <> 'kept' AND ", idents)

    def _in_ledger(self, condition: str, idents: Sequence[str]) -> set[str]:
        return {
            row[0]
            for chunk in _chunks(idents)
            for row in self.rows(f"SELECT id FROM ledger WHERE {condition}id IN ({_marks(chunk)})", chunk)
        }

    def find(self, ident: str) -> dict[str, Any] | None:
        """``{id, domain, state, ...}`` of an id, with all columns of its row while it is kept; None if unknown."""
        entry = self.rows("SELECT domain, state FROM ledger WHERE id = %s", (ident,))
        if not entry:
            return None
        domain, state = entry[0]
        rows = list(self.stream(f"SELECT {COLUMNS} FROM message WHERE domain = %s AND id = %s", (domain, ident)))
        return {"id": ident, "domain": domain, **(rows[0] if rows else {}), "state": state}

    def handover(self, ident: str) -> dict[str, Any] | None:
        """The release of a message; None if there was none."""
        sql = "SELECT state, mx, who, began, answered, answer, tries FROM handover WHERE id = %s"
        rows = list(self.stream(sql, (ident,)))
        return rows[0] if rows else None

    def newest(self) -> str:
        """The newest id in the ledger; "" if it is empty."""
        return str(self.rows("SELECT COALESCE(MAX(id), '') FROM ledger")[0][0])

    def domains(self) -> list[str]:
        """All domains that have messages. A loose scan of the primary key: its cost is in domains, not messages."""
        return list(self._steps("SELECT domain FROM message WHERE domain > %s ORDER BY domain LIMIT 1"))

    def days(self, domain: str) -> list[str]:
        """The days (``YYYY-MM-DD``) of which a domain has messages."""
        sql = "SELECT id FROM message WHERE domain = %s AND id > %s ORDER BY id LIMIT 1"
        return [message_id.day(ident) for ident in self._steps(sql, domain, after=lambda ident: ident[:8] + "~")]

    def _steps(self, sql: str, *values: str, after: Callable[[str], str] = str) -> Iterator[str]:
        """The result of a statement for "", then for what follows that result, and so on."""
        value = ""
        while row := self.rows(sql, (*values, value)):
            yield row[0][0]
            value = after(row[0][0])

    def idents(self, domain: str, day: str) -> dict[str, bool]:
        """The ids of a domain's day (``YYYY-MM-DD``), each with whether it is marked as lost."""
        start = day.replace("-", "")
        sql = "SELECT id, lost FROM message WHERE domain = %s AND id >= %s AND id < %s"
        return {ident: bool(lost) for ident, lost in self.rows(sql, (domain, start, start + "~"))}

    # --- import and repair

    def add(self, kept: Sequence[Message], others: Sequence[tuple[str, str, str]] = ()) -> None:
        """Index messages, and add other entries to the ledger, in one transaction.

        Raises DuplicateError, with nothing done, when one of them is in the ledger already.
        """
        entries = [(message.id, message.domain, "kept") for message in kept] + [*others]

        def work() -> None:
            if entries:
                self.load("ledger", "(id, domain, state)", ["\t".join(entry) for entry in entries])
            self._insert(kept)

        self.retried(work)

    def index_again(self, kept: Sequence[Message]) -> None:
        """Index messages that have a file and no row (repair); they may be in the ledger as kept.

        Raises DuplicateError, with nothing done, when a row has appeared meanwhile.
        """
        sql = "INSERT INTO ledger (id, domain, state) VALUES (%s, %s, 'kept') ON DUPLICATE KEY UPDATE state = 'kept'"

        def work() -> None:
            for message in kept:
                self.run(sql, (message.id, message.domain))
            self._insert(kept)

        self.retried(work)

    def _insert(self, kept: Sequence[Message]) -> None:
        """Rows of ``message``, and their sums."""
        if not kept:
            return
        self.load(
            "message",
            "(domain, id, mx, sender, recipients, subject, plugin, reason, size, kept, truncated, @sha256)"
            " SET sha256 = UNHEX(@sha256)",
            [_row(message) for message in kept],
        )
        sums = _sums((message.id, message.domain, message.mx, message.size) for message in kept)
        for part in _chunks(sums):
            self.run(
                "INSERT INTO tally (day, domain, mx, imported, imported_bytes)"
                f" VALUES {', '.join(['(%s, %s, %s, %s, %s)'] * len(part))}"
                " ON DUPLICATE KEY UPDATE imported = imported + VALUES(imported),"
                " imported_bytes = imported_bytes + VALUES(imported_bytes)",
                [value for row in part for value in row],
            )

    def mark(self, domain: str, ident: str, *, lost: bool) -> None:
        """Mark a message's file as gone for good, or as there again."""
        self.run("UPDATE message SET lost = %s WHERE domain = %s AND id = %s", (lost, domain, ident))

    # --- expiry

    def older(self, domain: str, before: str, limit: int) -> list[tuple[str, str, int]]:
        """The oldest ``(id, mx, size)`` of a domain whose ids sort before ``before``."""
        sql = "SELECT id, mx, size FROM message WHERE domain = %s AND id < %s ORDER BY id LIMIT %s"
        return [(ident, mx, size) for ident, mx, size in self.rows(sql, (domain, before, limit))]

    def amount(self, domain: str, before: str) -> tuple[int, int]:
        """Number of messages of a domain that sort before ``before``, and their bytes."""
        sql = "SELECT COUNT(*), COALESCE(SUM(size), 0) FROM message WHERE domain = %s AND id < %s"
        count, size = self.rows(sql, (domain, before))[0]
        return int(count), int(size)

    def forget(self, domain: str, expired: Sequence[tuple[str, str, int]]) -> None:
        """Remove expired messages ``(id, mx, size)`` from the index; their ids stay in the ledger."""
        idents = [ident for ident, _, _ in expired]
        marks = _marks(idents)
        locked = f"SELECT id FROM message WHERE domain = %s AND id IN ({marks}) FOR UPDATE"

        def work() -> None:
            # another run may have deleted some: count only what this one deletes
            there = {row[0] for row in self.rows(locked, (domain, *idents))}
            if not there:
                return
            self.run(f"DELETE FROM message WHERE domain = %s AND id IN ({marks})", (domain, *idents))
            self.run(f"UPDATE ledger SET state = 'expired' WHERE id IN ({marks})", idents)
            for *key, count, size in _sums((ident, domain, mx, size) for ident, mx, size in expired if ident in there):
                self.run(
                    "UPDATE tally SET expired = expired + %s, expired_bytes = expired_bytes + %s"
                    " WHERE day = %s AND domain = %s AND mx = %s",
                    (count, size, *key),
                )

        self.retried(work)

    def trim_ledger(self, before: str, limit: int) -> int:
        """Remove the oldest ids from the ledger, at most ``limit``, none that is kept. Returns how many."""
        sql = "SELECT id FROM ledger WHERE id < %s AND state <> 'kept' ORDER BY id LIMIT %s"
        idents = [row[0] for row in self.rows(sql, (before, limit))]
        if idents:
            self.retried(lambda: self.run(f"DELETE FROM ledger WHERE id IN ({_marks(idents)})", idents))
        return len(idents)

    def trim_sums(self, before: str, limit: int) -> int:
        """Remove the sums of days (``YYYY-MM-DD``) before this one of which nothing is kept. Returns how many rows."""
        sql = "DELETE FROM tally WHERE day < %s AND imported = expired LIMIT %s"
        return self.retried(lambda: self.run(sql, (before, limit)))


def _sums(messages: Iterable[tuple[str, str, str, int]]) -> list[tuple[str, str, str, int, int]]:
    """``(day, domain, mx, count, bytes)`` of some messages ``(id, domain, mx, size)``, sorted: so no two writers can
    deadlock.
    """
    sums: dict[tuple[str, str, str], list[int]] = {}
    for ident, domain, mx, size in messages:
        entry = sums.setdefault((message_id.day(ident), domain, mx), [0, 0])
        entry[0] += 1
        entry[1] += size
    return [(*key, count, size) for key, (count, size) in sorted(sums.items())]


def _row(message: Message) -> str:
    """A message as a line for LOAD DATA."""
    texts = (message.sender, message.recipients, message.subject, message.plugin, message.reason)
    fields = [message.domain, message.id, message.mx, *(text.translate(_ESCAPES) for text in texts)]
    numbers = map(str, (message.size, message.kept, int(message.truncated)))
    return "\t".join([*fields, *numbers, message.sha256.hex()])


def _chunks(items: Sequence[Item]) -> Iterator[Sequence[Item]]:
    return (items[start : start + _CHUNK] for start in range(0, len(items), _CHUNK))


def _marks(items: Sequence[object]) -> str:
    return ", ".join(["%s"] * len(items))
