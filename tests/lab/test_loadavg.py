"""A container's own load average."""

from __future__ import annotations

from pathlib import Path

import pytest
from image import loadavg


def test_load_average_converges_as_the_kernels() -> None:
    loads = [0.0, 0.0, 0.0]
    for _ in range(12):  # one minute of three busy processes
        loads = loadavg.average(loads, 3)
    assert loads[0] == pytest.approx(3 * (1 - 1 / 2.718281828), abs=0.001)
    assert loads[0] > loads[1] > loads[2] > 0


def test_active_processes(tmp_path: Path) -> None:
    for pid, state in ((1, "S"), (2, "R"), (3, "D"), (4, "R"), (5, "Z")):
        (tmp_path / str(pid)).mkdir()
        (tmp_path / str(pid) / "stat").write_text(f"{pid} (a) R (b)) {state} 1 1 1")
    (tmp_path / "uptime").write_text("1 1")
    (tmp_path / "6").mkdir()  # ended between the two looks
    assert loadavg.active(str(tmp_path), own=4) == (2, 4)


def test_a_line_of_load_keeps_its_length() -> None:
    short, long = loadavg.line([0, 0, 0], 0, 5), loadavg.line([1234.5, 99.99, 10], 100, 1000)
    assert len(short) == len(long) == loadavg.LENGTH
    assert long.decode().split()[:4] == ["1234.50", "99.99", "10.00", "100/1000"]
    assert int(long.decode().split()[4]) == 1
