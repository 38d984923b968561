"""Gives this container a load average of its own: /proc/loadavg shows that of the whole machine the lab runs on.

Counts the running and the uninterruptible processes in this container every 5 s and averages them as the kernel does
(kernel/sched/loadavg.c), into a file that lies over /proc/loadavg. While FAKE exists, its three numbers are shown
instead (`lab.py load`); SIGUSR1 has it looked at now.
"""

from __future__ import annotations

import math
import os
import signal

PERIOD = 5.0  # s
SPANS = (60.0, 300.0, 900.0)  # s
SHOWN = "/run/lab/loadavg"
FAKE = "/run/lab/fake"
LENGTH = 64  # bytes; always the same, so that a reader never sees half of a shorter line


def active(proc: str = "/proc", own: int = 0) -> tuple[int, int]:
    """Return how many processes run or wait uninterruptibly, without process `own`, and how many there are."""
    count = total = 0
    for name in os.listdir(proc):
        if not name.isdigit() or int(name) == own:
            continue
        try:
            with open(f"{proc}/{name}/stat", encoding="ascii", errors="replace") as stat:
                state = stat.read().rpartition(")")[2].split()[0]
        except (OSError, IndexError):
            continue  # it has ended
        total += 1
        count += state in "RD"
    return count, total


def average(loads: list[float], count: int) -> list[float]:
    """Return `loads` (over SPANS) one period later, in which `count` processes were active."""
    decays = [math.exp(-PERIOD / span) for span in SPANS]
    return [load * decay + count * (1 - decay) for load, decay in zip(loads, decays, strict=True)]


def line(loads: list[float], count: int, total: int) -> bytes:
    """Return LENGTH bytes as in /proc/loadavg (proc(5)); the last field, a process id, is filled up with zeros."""
    text = " ".join(f"{load:.2f}" for load in loads) + f" {count}/{total} "
    return text.encode("ascii").ljust(LENGTH - 2, b"0") + b"1\n"


def main() -> None:
    """Work until SIGTERM."""
    signal.signal(signal.SIGUSR1, lambda *_: None)
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
    loads = [0.0, 0.0, 0.0]
    shown = os.open(SHOWN, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
    while True:
        count, total = active(own=os.getpid())
        try:
            with open(FAKE, encoding="ascii") as fake:
                visible = [float(word) for word in fake.read().split()[:3]]
        except OSError:
            visible = loads
        os.pwrite(shown, line(visible, count, total), 0)
        if signal.sigtimedwait([signal.SIGUSR1], PERIOD) is None:
            loads = average(loads, count)


if __name__ == "__main__":
    main()
