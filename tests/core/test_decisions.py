"""The decision log."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from mf import decisions, state


@pytest.fixture
def places(tmp_path: Path) -> state.Places:
    """A host without any directory yet."""
    return state.Places(str(tmp_path))


def test_decisions_are_lines_of_json(places: state.Places, tmp_path: Path) -> None:
    os.makedirs(os.path.dirname(places.decisions))
    for _ in range(2):
        decisions.record(
            places, "smtp", "restart", "qpsmtpd", "a\nb", "done", {"pid": 1}, journal_socket=str(tmp_path / "none")
        )
    lines = Path(places.decisions).read_text().splitlines()
    assert len(lines) == 2
    entry = json.loads(lines[0])
    assert set(entry) == {"time", "host", "check", "action", "target", "reason", "outcome", "evidence"}


def test_a_log_that_cannot_be_written_stops_nothing(places: state.Places, capsys: pytest.CaptureFixture[str]) -> None:
    decisions.record(places, "smtp", "restart", "qpsmtpd", "why", "done", journal_socket="/none")
    assert "decisions.jsonl: No such file" in capsys.readouterr().err
