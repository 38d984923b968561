"""Rewinding the repository to an earlier transaction."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import pytest
from mf_offsite import rewind, segment_log

from tests.offsite.conftest import CONFIG, GONE, PUT, made_repository


def test_rewinding_leaves_out_what_came_later_and_loses_nothing(tmp_path: Path) -> None:
    folder = made_repository(tmp_path, PUT, PUT, GONE)
    Path(folder, "config").write_text("what an intruder left")
    kept = rewind.rewind(folder, 1, "now", CONFIG.encode())
    assert list(segment_log.segments(folder)) == [0, 1]
    assert list(segment_log.segments(kept)) == [0, 1, 2]
    assert [transaction.segment for transaction in segment_log.transactions(folder)] == [0, 1]
    assert Path(folder, "config").read_text() == CONFIG
    assert not Path(folder, "index.2").exists()
    with pytest.raises(rewind.RewindError, match="no transaction 9"):
        rewind.rewind(folder, 9, "later", CONFIG.encode())


def test_no_rewind_during_a_backup(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    lock.touch()
    descriptor = os.open(lock, os.O_RDWR)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    with pytest.raises(rewind.BusyError, match="under way"), rewind.repository_lock(str(lock), 0.1):
        raise AssertionError
    os.close(descriptor)
    with rewind.repository_lock(str(lock), 0.1):
        pass
