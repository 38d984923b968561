"""Hostile input by the thousand, fed to the parsers in bare processes, and what it may cost."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import psutil

HERE = Path(__file__).resolve().parent
LIBRARIES = [*HERE.parents[1].glob("roles/*/files/lib"), Path(psutil.__file__).parents[1]]
COUNT = 1000
MEMORY = 20.0  # MiB
LATE = 0.1  # s


def feed(kind: str, folder: Path, port: int = 0, processes: int = 1) -> None:
    """Run bounds_feed.py, the inputs shared by so many processes, and hold each to its limits."""
    script = [sys.executable, "-I", "-S", str(HERE / "bounds_feed.py"), os.pathsep.join(map(str, LIBRARIES))]
    arguments = [kind, str(folder), str(port), str(COUNT // processes)]
    pipe = subprocess.PIPE
    children = [subprocess.Popen([*script, *arguments], stdout=pipe, stderr=pipe, text=True) for _ in range(processes)]
    total = 0
    for child in children:
        output, errors = child.communicate(timeout=400)
        assert (child.returncode, errors) == (0, "")
        count, slowest, peak = output.split()
        total += int(count)
        assert float(peak) <= MEMORY
        assert float(slowest) <= LATE
    assert total >= COUNT
