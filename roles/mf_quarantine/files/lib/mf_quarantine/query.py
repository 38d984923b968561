"""Lists and sums out of the index, as text for operators and as JSON for programs.

Everything shown on a terminal goes through ``text.clean``: a subject can't move the cursor, end a line or hide.
"""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

from mf import message_id, text

from .database import Database
from .schema import COLUMNS


class Filter(NamedTuple):
    """Messages to list. ``start``, ``end`` and ``before`` are bounds of ids, ``sender``, ``recipient`` and
    ``subject`` parts of the text; "" and 0 are no condition.
    """

    domain: str = ""
    start: str = ""
    end: str = ""
    before: str = ""
    mx: str = ""
    plugin: str = ""
    sender: str = ""
    recipient: str = ""
    subject: str = ""
    limit: int = 0


def select(chosen: Filter) -> tuple[str, list[object]]:
    """The statement, newest first, and its values.

    With a domain it is a range of the primary key, otherwise one of the ledger's.
    """
    bounds = "message" if chosen.domain else "ledger"
    conditions = {
        "message.domain = %s": chosen.domain,
        "ledger.state = %s": "" if chosen.domain else "kept",
        f"{bounds}.id >= %s": chosen.start,
        # whichever is earlier: the end of the time, or the last id of the page before
        f"{bounds}.id < %s": min(filter(None, (chosen.end, chosen.before)), default=""),
        "message.mx = %s": chosen.mx,
        "message.plugin = %s": chosen.plugin,
        "message.sender LIKE %s": _containing(chosen.sender),
        "message.recipients LIKE %s": _containing(chosen.recipient),
        "message.subject LIKE %s": _containing(chosen.subject),
    }
    given: dict[str, object] = {condition: value for condition, value in conditions.items() if value}
    # ids sort by time, so the newest of all domains are at the end of the ledger
    join = "ledger STRAIGHT_JOIN message ON message.domain = ledger.domain AND message.id = ledger.id"
    source = "message" if chosen.domain else join
    sql = f"SELECT {COLUMNS} FROM {source} WHERE {' AND '.join(given)} ORDER BY {bounds}.id DESC"
    return (f"{sql} LIMIT %s", [*given.values(), chosen.limit]) if chosen.limit else (sql, [*given.values()])


def _containing(text: str) -> str:
    """The pattern of LIKE for a text anywhere in a column; "" for no text."""
    literal = text.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
    return f"%{literal}%" if text else ""


def as_json(row: Mapping[str, Any]) -> dict[str, Any]:
    """The row of a message or a handover for programs: times in ISO 8601, ``recipients`` separated by blanks."""
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


def line(row: Mapping[str, Any], width: int) -> str:
    """A message in one line, its id last, where it is easily copied. ``width`` 0: nothing is cut."""
    flags = ("L" if row["lost"] else "-") + ("T" if row["truncated"] else "-")
    fixed = f"{row['received']:%Y-%m-%d %H:%M:%S}  {row['mx']:<8}  {amount(row['size']):>9}  {flags}  "
    addresses = f"{text.clean(row['sender'], 60) or '<>'} > {text.clean(row['recipients'], 60)}"
    variable = f"{addresses}  {text.clean(row['subject'], 80)!r}"
    if width:
        variable = variable[: max(20, width - len(fixed) - len(row["id"]) - 2)]
    return f"{fixed}{variable}  {row['id']}"


def page(row: Mapping[str, Any], full: Mapping[str, Any], header: bytes, handover: Mapping[str, Any] | None) -> str:
    """One message on a page."""
    lines = [
        f"id          {row['id']}",
        f"rejected    {row['received']:%Y-%m-%d %H:%M:%S} UTC by {row['mx']}, plugin {text.clean(row['plugin'])}",
        f"reason      {text.clean(row['reason'], 300)}",
        f"sender      {text.clean(row['sender'], 320) or '<>'}",
        *(f"recipient   {text.clean(str(address), 320)}" for address in full.get("recipients", [row["recipients"]])),
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
    lines += [f"    {text.clean(field, 500)}" for field in header.split(b"\n")[:200]]
    return "\n".join(lines)


def stats(index: Database, domain: str = "", days: int = 0) -> dict[str, Any]:
    """``{schema, rows, bytes, imported, expired, newest, released, domains: [...], mx: [...]}``, from the tally."""
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
    figures: dict[str, Any] = {"schema": index.version()}
    figures.update(zip(keys, map(int, index.rows(f"SELECT {sums} FROM tally{where}", values)[0]), strict=True))
    newest = index.rows("SELECT id FROM ledger WHERE state = 'kept' ORDER BY id DESC LIMIT 1")
    figures["newest"] = {"id": newest[0][0], "received": message_id.iso(newest[0][0])} if newest else None
    for column, key in (("domain", "domains"), ("mx", "mx")):
        rows = index.rows(f"SELECT {column}, {sums} FROM tally{where} GROUP BY {column} ORDER BY 4 DESC, 1", values)
        figures[key] = [{column: row[0], **dict(zip(keys, map(int, row[1:]), strict=True))} for row in rows]
    figures["released"] = count_states(index, "handover")
    return figures


def count_states(index: Database, table: str) -> dict[str, int]:
    """Number of rows of a table in each ``state``."""
    return dict(index.rows(f"SELECT state, COUNT(*) FROM {table} GROUP BY state"))


def stats_page(figures: Mapping[str, Any]) -> str:
    """The sums for operators."""
    newest = figures["newest"]["received"] if figures["newest"] else "none"
    total = f"{figures['rows']} messages, {amount(figures['bytes'])}"
    lines = [f"{total}; imported {figures['imported']}, expired {figures['expired']}; newest {newest}"]
    if "counted" in figures:
        lines.append(f"{figures['counted']} rows counted")
    if figures["released"]:
        released = sorted(figures["released"].items())
        lines.append("released: " + ", ".join(f"{count} {state}" for state, count in released))
    lines += ["", f"{'domain':<40} {'messages':>10} {'bytes':>10} {'expired':>10}"]
    lines += [
        f"{sums['domain']:<40} {sums['rows']:>10} {amount(sums['bytes']):>10} {sums['expired']:>10}"
        for sums in figures["domains"][:30]
    ]
    if len(figures["domains"]) > 30:
        lines.append(f"and {len(figures['domains']) - 30} more; --domain or --json shows them")
    lines += ["", f"{'MX':<20} {'imported':>10} {'still there':>12}  state"]
    imported = {sums["mx"]: sums["imported"] for sums in figures["mx"]}
    for source in figures["sources"]:
        listed = source["listed"]
        status = "never listed" if listed is None else f"listed {text.span(max(0.0, time.time() - listed))} ago"
        if source["bad"]:
            status += f"; {source['bad']} can't be imported and lie in bad/{source['mx']}"
        if source["error"]:
            status += f"; {text.clean(source['error'], 200)}"
        lines.append(f"{source['mx']:<20} {imported.get(source['mx'], 0):>10} {source['unpulled']:>12}  {status}")
    return "\n".join(lines)


def amount(size: float) -> str:
    """Bytes with a unit: ``512 B``, ``12.3 kB``, ``4.0 MB``."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"
