"""The time in a message's id."""

from __future__ import annotations

from mf import message_id


def test_an_id_begins_with_its_time() -> None:
    ident = "20261125T020001.123456Z-mx1-1234-5-abc"
    assert message_id.day(ident) == "2026-11-25"
    assert message_id.iso(ident) == "2026-11-25T02:00:01.123456Z"
