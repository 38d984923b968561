"""What the tests of the backups share."""

from __future__ import annotations

import sys

import pytest


@pytest.fixture(autouse=True)
def no_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    """There is no python3-pymysql here, whatever stand-in the quarantine's tests have put in its place."""
    monkeypatch.setitem(sys.modules, "pymysql", None)
