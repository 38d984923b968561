"""Lists, settings and the schema's version."""

from __future__ import annotations

import datetime as dt
import json
import re
from pathlib import Path
from typing import Any

import pytest
from mf import config
from mf_quarantine import QuarantineError, layout, query, schema

from tests.quarantine import conftest as support
from tests.quarantine.conftest import NOON, ident

ROLE = Path(__file__).resolve().parents[2] / "roles/mf_quarantine"


def test_a_domains_list_is_a_range_of_the_primary_key() -> None:
    sql, values = query.select(
        query.Filter(domain="a.example", start="20261125", end="20261125~", subject="50%_\\", limit=9)
    )
    assert "FROM message WHERE message.domain = %s AND message.id >= %s AND message.id < %s" in sql
    assert sql.endswith("ORDER BY message.id DESC LIMIT %s")
    assert values == ["a.example", "20261125", "20261125~", "%50\\%\\_\\\\%", 9]


def test_a_hostile_subject_stays_in_its_line() -> None:
    row = {
        "received": dt.datetime(2026, 11, 25, 12),  # noqa: DTZ001
        "mx": "mx1",
        "size": 1,
        "lost": 0,
        "truncated": 1,
        "sender": "a\nb@x",
        "recipients": "c",
        "subject": "\x1b]0;owned\x07\x9b2J\u202egnp.exe\r\n\0",
        "id": ident(),
    }
    line = query.line(row, 0)
    assert line.isascii()
    assert line.isprintable()
    assert line.endswith(ident())
    assert len(query.line(row, 120)) <= 125
    json.dumps(query.as_json(row | {"sha256": b"\xff" * 32}))


@pytest.mark.parametrize(
    "change",
    [
        {"retention_days": 0},
        {"retention_days": True},
        {"retention": {"a.example": "7"}},
        {"mx": [{"name": "../x", "address": "192.0.2.1"}]},
        {"mx": [{"name": "mx1", "address": "-oProxyCommand=x"}]},
        {"import_throttle_sleep": -1},
        {"mx_keeps_days": 0},
        {"mx_keeps_days": "5"},
        {"mx": None},
    ],
)
def test_settings_that_cannot_be_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(config.SettingsError):
        support.settings(**change)


def test_the_ledger_outlives_what_an_mx_still_has() -> None:
    for days in (5, 60):
        kept_by = support.settings(mx_keeps_days=days, retention_days=1, retention={})
        # a message may be noted as expired on the day it comes, and its MX has it to its own end
        assert kept_by.ledger_cutoff(NOON) < layout.bound(NOON - (days + 10) * 86400)


def test_both_roles_have_the_same_days() -> None:
    """Other hosts don't have an MX's default, so control's role repeats it."""
    default = (ROLE.parent / "mf_rejected/defaults/main.yml").read_text()
    days = re.search(r"^mf_rejected_keep_days: (\d+)$", default, re.MULTILINE)
    assert days is not None
    assert f"mf_rejected_keep_days | default({days[1]})" in (ROLE / "vars/main.yml").read_text()


def test_the_files_of_the_schema_lead_to_its_version(tmp_path: Path) -> None:
    files = schema.migrations(str(ROLE / "files/lib/mf_quarantine/schema"))
    tables = [statement.split("(")[0].split()[-1] for statement in schema.statements(files[1])]
    assert tables == ["message", "ledger", "tally", "handover"]
    assert all("IF NOT EXISTS" in statement for statement in schema.statements(files[1]))
    with pytest.raises(schema.SchemaError, match="needs 1 to"):
        schema.migrations(str(tmp_path))


def test_an_unknown_schema_is_refused() -> None:
    schema.judge(schema.SCHEMA, "x")
    with pytest.raises(QuarantineError, match="version 99 and this release supports versions up to"):
        schema.judge(99, "x")
    with pytest.raises(QuarantineError, match="quarantine migrate"):
        schema.judge(0, "x")
