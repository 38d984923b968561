"""A thousand hostile files of each kind: no traceback, none that takes 0.1 s, no more than 20 MiB."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.integration import bounds


@pytest.mark.parametrize("kind", ["names", "files"])
def test_hostile_files_by_the_thousand(kind: str, tmp_path: Path) -> None:
    bounds.feed(kind, tmp_path)
