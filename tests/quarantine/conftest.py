"""Fixtures of the quarantine's tests, and a stand-in for python3-pymysql: no test connects."""

from __future__ import annotations

import os
import sys
import types
from pathlib import Path
from typing import Any

import pytest

driver: Any = types.ModuleType("pymysql")
driver.cursors = types.ModuleType("pymysql.cursors")
driver.MySQLError = driver.ProgrammingError = type("MySQLError", (Exception,), {})
sys.modules.setdefault("pymysql", driver)
sys.modules.setdefault("pymysql.cursors", driver.cursors)

import quarantine_support as support
from mf import canary, decisions
from mf_quarantine import context, layout, settings


@pytest.fixture
def room(tmp_path: Path) -> support.Room:
    return support.Room(tmp_path)


@pytest.fixture
def command(room: support.Room, monkeypatch: pytest.MonkeyPatch) -> support.Room:
    """The command on this quarantine, without a database and without another user."""
    monkeypatch.setattr(context, "drop_root", lambda: None)
    monkeypatch.setattr(context, "Index", lambda: types.SimpleNamespace(made_by=os.getpid()))
    monkeypatch.setattr(settings, "load", lambda _: room.settings)
    monkeypatch.setattr(layout, "Layout", lambda *_: room.layout)
    monkeypatch.setattr(canary, "read_key", lambda _: bytes(32))
    monkeypatch.setattr(decisions, "journal", lambda *_: None)
    return room
