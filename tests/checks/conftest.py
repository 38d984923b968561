"""What the tests of the checks share."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from mf import state
from mf_checks import procfs


@pytest.fixture
def places(tmp_path: Path) -> state.Places:
    """A host's folders, empty."""
    places = state.Places(str(tmp_path))
    for folder in (places.results, places.locks, places.persistent, os.path.dirname(places.decisions)):
        os.makedirs(folder)
    return places


@pytest.fixture
def victim() -> Iterator[subprocess.Popen[bytes]]:
    """A process that may be killed, once it does nothing any more."""
    with subprocess.Popen(["sleep", "1000"], stdin=subprocess.DEVNULL) as process:
        while (stat := procfs.read_stat(process.pid)) and (stat.comm, stat.state) != (b"sleep", "S"):
            time.sleep(0.01)
        yield process
        process.kill()
