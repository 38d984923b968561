"""Time whole commands side by side: A B C, A B C, … so that a machine's drift meets all of them alike.

Needs the standard library only, for it also runs on the hosts of the lab. As a program it reads a JSON object on stdin:
``{"runs": 30, "commands": {"name": ["argv", …], …}, "crowd": 0}`` and writes ``{"name": {"cpu_ms": …, "wall_ms": …,
"rss_mib": …, "exits": [0]}, …}``: medians over the counted runs. CPU is user + system of the process and of the
children it waited for (getrusage(2) through wait4(2)). Memory is the largest resident set of one process, taken in one
further run under GNU time, because a child of this program would inherit this program's own peak; 0 where GNU time is
missing. ``crowd`` is how many idle processes stand about meanwhile; they end with this program's run.
"""

from __future__ import annotations

import json
import os
import signal
import statistics
import subprocess
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypedDict

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence


class Figures(TypedDict):
    """Medians of one command: CPU and wall time in ms, peak memory in MiB, and the exit codes that were seen."""

    cpu_ms: float
    wall_ms: float
    rss_mib: float
    exits: list[int]


def run(argv: Sequence[str]) -> tuple[float, float, int]:
    """CPU in ms, wall in ms and the exit code of one run; its output is thrown away."""
    null = os.open(os.devnull, os.O_RDWR)
    started = time.perf_counter()
    pid = os.posix_spawnp(
        argv[0], list(argv), os.environ, file_actions=[(os.POSIX_SPAWN_DUP2, null, fd) for fd in (0, 1, 2)]
    )
    _, status, usage = os.wait4(pid, 0)
    wall = time.perf_counter() - started
    os.close(null)
    return (usage.ru_utime + usage.ru_stime) * 1000, wall * 1000, os.waitstatus_to_exitcode(status)


def peak_memory(argv: Sequence[str]) -> float:
    """The largest resident set of the command or a child of it, in MiB."""
    timer = "/usr/bin/time"
    if not os.access(timer, os.X_OK):
        return 0.0
    figures = subprocess.run([timer, "-f", "%M", *argv], capture_output=True, text=True, check=False).stderr.split()
    return int(figures[-1]) / 1024


@contextmanager
def crowd(size: int) -> Iterator[None]:
    """So many idle child processes for as long as the block lasts."""
    children = []
    try:
        for _ in range(size):
            child = os.fork()
            if child == 0:
                signal.pause()
                os._exit(0)
            children.append(child)
        yield
    finally:
        for child in children:
            os.kill(child, signal.SIGKILL)
        for child in children:
            os.waitpid(child, 0)


def compare(commands: Mapping[str, Sequence[str]], runs: int, warm_up: int = 2) -> dict[str, Figures]:
    """Medians for each command, run in turn; the warm-up rounds are not counted."""
    samples: dict[str, list[tuple[float, float, int]]] = {name: [] for name in commands}
    for round_number in range(warm_up + runs):
        for name, argv in commands.items():
            figures = run(argv)
            if round_number >= warm_up:
                samples[name].append(figures)
    return {
        name: {
            "cpu_ms": statistics.median(row[0] for row in rows),
            "wall_ms": statistics.median(row[1] for row in rows),
            "rss_mib": peak_memory(commands[name]),
            "exits": sorted({row[2] for row in rows}),
        }
        for name, rows in samples.items()
    }


if __name__ == "__main__":
    order = json.load(sys.stdin)
    with crowd(order["crowd"]):
        json.dump(compare(order["commands"], order["runs"]), sys.stdout)
