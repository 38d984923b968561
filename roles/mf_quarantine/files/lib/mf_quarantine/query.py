"""Questions to the index, and their answers as text for people and as JSON for programs.

Everything shown on a terminal goes through ``text.clean``: a subject can't move the cursor, end a line or hide.
"""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Iterator, Mapping
from typing import Any

from mf import text

from .database import Database
from .schema import COLUMNS


class Wanted:
    """Which messages: ``start`` and ``end`` are bounds for ids, texts are searched for, "" and 0 ask for nothing."""

    def __init__(
        self,
        domain: str = "",
        start: str = "",
        end: str = "",
        mx: str = "",
        sender: str = "",
        recipient: str = "",
        subject: str = "",
        before: str = "",
        limit: int = 0,
        plugin: str = "",
    ) -> None:
        self.domain = domain
        self.start = start
        self.end = end
        self.mx = mx
        self.sender = sender
        self.recipient = recipient
        self.subject = subject
        self.before = before
        self.limit = limit
        self.plugin = plugin


def select(wanted: Wanted) -> tuple[str, list[object]]:
    """The statement and its values. With a domain it is a range of the primary key, otherwise one of the ledger's."""
    bounds = "message" if wanted.domain else "ledger"
    conditions: list[str] = []
    values: list[object] = []

    def add(condition: str, value: object) -> None:
        conditions.append(condition)
        values.append(value)

    if wanted.domain:
        source = "message"
        add("message.domain = %s", wanted.domain)
    else:
        # ids sort by time, so the newest of all domains are at the end of the ledger
        source = "ledger STRAIGHT_JOIN message ON message.domain = ledger.domain AND message.id = ledger.id"
        add("ledger.state = %s", "kept")
    if wanted.start:
        add(f"{bounds}.id >= %s", wanted.start)
    if wanted.end:
        add(f"{bounds}.id < %s", wanted.end)
    if wanted.before:
        add(f"{bounds}.id < %s", wanted.before)
    if wanted.mx:
        add("message.mx = %s", wanted.mx)
    if wanted.plugin:
        add("message.plugin = %s", wanted.plugin)
    for column, word in (("sender", wanted.sender), ("recipients", wanted.recipient), ("subject", wanted.subject)):
        if word:
            add(f"message.{column} LIKE %s", f"%{_literal(word)}%")
    columns = ", ".join(f"message.{column}" for column in COLUMNS)
    sql = f"SELECT {columns} FROM {source} WHERE {' AND '.join(conditions)} ORDER BY {bounds}.id DESC"
    if wanted.limit:
        sql += " LIMIT %s"
        values.append(wanted.limit)
    return sql, values


def _literal(word: str) -> str:
    return word.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")


def messages(index: Database, wanted: Wanted) -> Iterator[dict[str, Any]]:
    """The rows, newest first, as they come."""
    yield from index.stream(*select(wanted))


def as_json(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row for programs: times in ISO 8601, ``recipients`` as the index has them, separated by blanks."""
    record = {
        key: value.isoformat(timespec="microseconds") + "Z" if isinstance(value, dt.datetime) else value
        for key, value in row.items()
    }
    for key in ("truncated", "lost"):
        if key in record:
            record[key] = bool(record[key])
    checksum = row.get("sha256")
    if isinstance(checksum, bytes):
        record["sha256"] = checksum.hex()
    return record


def release_as_json(handover: Mapping[str, Any]) -> dict[str, Any]:
    """A handover for programs."""
    return {key: as_json({key: value})[key] for key, value in handover.items() if key != "id"}


def line(row: Mapping[str, Any], width: int) -> str:
    """A message in one line; the id last, so that it can be picked up. ``width`` 0: nothing is cut."""
    flags = ("L" if row["lost"] else "-") + ("T" if row["truncated"] else "-")
    fixed = f"{row['received']:%Y-%m-%d %H:%M:%S}  {row['mx']:<8}  {amount(row['size']):>9}  {flags}  "
    who = f"{text.clean(row['sender'], 60) or '<>'} > {text.clean(row['recipients'], 60)}"
    words = f"{who}  {text.clean(row['subject'], 80)!r}"
    if width:
        words = words[: max(20, width - len(fixed) - len(row["id"]) - 2)]
    return f"{fixed}{words}  {row['id']}"


def page(row: Mapping[str, Any], full: Mapping[str, Any], header: bytes, handover: Mapping[str, Any] | None) -> str:
    """One message on a page."""
    lines = [
        f"id          {row['id']}",
        f"rejected    {row['received']:%Y-%m-%d %H:%M:%S} UTC by {row['mx']}, plugin {text.clean(row['plugin'])}",
        f"reason      {text.clean(row['reason'], 300)}",
        f"sender      {text.clean(row['sender'], 320) or '<>'}",
        *(f"recipient   {text.clean(str(one), 320)}" for one in full.get("recipients", [row["recipients"]])),
        f"client      {text.clean(str(full.get('client_ip', '')))}, HELO {text.clean(str(full.get('helo', '')))}",
        f"subject     {text.clean(row['subject'], 300)}",
        f"size        {amount(row['size'])}"
        + (f", only the first {amount(row['kept'])} were kept" if row["truncated"] else ""),
        f"file        {'LOST, it was ' if row['lost'] else ''}{row['path']}",
        f"sha256      {row['sha256'].hex()}",
    ]
    if handover:
        lines.append(
            f"released    {handover['state']}, by {text.clean(handover['who'], 64)}"
            f" at {handover['began']:%Y-%m-%d %H:%M:%S} UTC to {handover['mx']}: {text.clean(handover['answer'], 200)}"
        )
    lines.append("")
    lines += [f"    {text.clean(one, 500)}" for one in header.split(b"\n")[:200]]
    return "\n".join(lines)


def stats(index: Database, domain: str = "", days: int = 0) -> dict[str, Any]:
    """``{schema, rows, bytes, imported, expired, newest, released, domains: [...], mx: [...]}`` out of the
    sums.
    """
    conditions: list[str] = []
    values: list[object] = []
    if domain:
        conditions.append("domain = %s")
        values.append(domain)
    if days:
        conditions.append("day > %s")
        values.append(time.strftime("%Y-%m-%d", time.gmtime(time.time() - days * 86400)))
    where = f" WHERE {' AND '.join(conditions)}" if conditions else ""
    sums = (
        "COALESCE(SUM(imported - expired), 0), COALESCE(SUM(imported_bytes - expired_bytes), 0),"
        " COALESCE(SUM(imported), 0), COALESCE(SUM(expired), 0)"
    )
    keys = ("rows", "bytes", "imported", "expired")
    found: dict[str, Any] = {"schema": index.version()}
    found.update(zip(keys, map(int, index.rows(f"SELECT {sums} FROM tally{where}", values)[0]), strict=True))
    newest = index.rows("SELECT id FROM ledger WHERE state = 'kept' ORDER BY id DESC LIMIT 1")
    found["newest"] = {"id": newest[0][0], "received": _iso(newest[0][0])} if newest else None
    for name in ("domain", "mx"):
        rows = index.rows(f"SELECT {name}, {sums} FROM tally{where} GROUP BY {name} ORDER BY 4 DESC, 1", values)
        found[f"{name}s" if name == "domain" else name] = [
            {name: row[0], **dict(zip(keys, map(int, row[1:]), strict=True))} for row in rows
        ]
    found["released"] = {
        str(state): int(count) for state, count in index.rows("SELECT state, COUNT(*) FROM handover GROUP BY state")
    }
    return found


def _iso(ident: str) -> str:
    return f"{ident[:4]}-{ident[4:6]}-{ident[6:11]}:{ident[11:13]}:{ident[13:22]}Z"


def stats_page(found: Mapping[str, Any]) -> str:
    """The sums for people."""
    newest = found["newest"]["received"] if found["newest"] else "none"
    lines = [
        (
            f"{found['rows']} messages, {amount(found['bytes'])}; imported {found['imported']},"
            f" expired {found['expired']}; newest {newest}"
        )
    ]
    if "counted" in found:
        lines.append(f"{found['counted']} rows counted")
    if found["released"]:
        lines.append("released: " + ", ".join(f"{count} {state}" for state, count in sorted(found["released"].items())))
    lines += ["", f"{'domain':<40} {'messages':>10} {'bytes':>10} {'expired':>10}"]
    lines += [
        f"{one['domain']:<40} {one['rows']:>10} {amount(one['bytes']):>10} {one['expired']:>10}"
        for one in found["domains"][:30]
    ]
    if len(found["domains"]) > 30:
        lines.append(f"and {len(found['domains']) - 30} more; --domain or --json shows them")
    lines += ["", f"{'MX':<20} {'imported':>10} {'still there':>12}  state"]
    imported = {one["mx"]: one["imported"] for one in found["mx"]}
    for source in found["sources"]:
        listed = source["listed"]
        told = "never listed" if listed is None else f"listed {text.span(max(0.0, time.time() - listed))} ago"
        if source["bad"]:
            told += f"; {source['bad']} can't be imported and lie in bad/{source['mx']}"
        if source["error"]:
            told += f"; {text.clean(source['error'], 200)}"
        lines.append(f"{source['mx']:<20} {imported.get(source['mx'], 0):>10} {source['unpulled']:>12}  {told}")
    return "\n".join(lines)


def amount(size: float) -> str:
    """Bytes as people say them: ``512 B``, ``12.3 kB``, ``4.0 MB``."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"
