"""What the status page costs: 1,000 machines with four services each written once, and a year of history read.

Needs no lab. Each figure is the median of some runs, in CPU time, which a busy machine falsifies less. Exit codes: 0
within the limits (1 s for the page, 100 ms for the year), 1 not.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = map(str, [*ROOT.glob("roles/*/files/lib"), ROOT])

from mf_monitor.page import render
from mf_monitor.store import DAY

from tests.monitor import page_samples, samples

RUNS = 7
PAGE_LIMIT, YEAR_LIMIT = 1.0, 0.1  # seconds


def cpu(work: Callable[[], object]) -> float:
    """Seconds of this process's CPU for one run."""
    started = time.process_time()
    work()
    return time.process_time() - started


def main() -> int:
    """Measure and print; returns the exit code."""
    now = time.time()
    big = page_samples.big(now)
    with tempfile.TemporaryDirectory() as folder:
        render.write(big, folder)  # templates are compiled once in a prober's life
        page = statistics.median(cpu(lambda: render.write(big, folder)) for _ in range(RUNS))
        size = Path(folder, "private/index.html").stat().st_size
        store, chosen = samples.sample(Path(folder, "monitor.sqlite"), now, days=366)
        last = int(now // DAY)
        year = statistics.median(cpu(lambda: store.history.days(last - 365, last)) for _ in range(RUNS))
        subjects = len(store.history.days(last - 365, last))
        store.close()
    print(f"1,000 machines x 4 services, all files:  {page:.2f} s CPU")
    print(f"  the private page:                      {size / 1e6:.1f} MB before compression")
    print(f"one year of {subjects} subjects ({len(chosen.hosts)} hosts):     {year * 1000:.1f} ms CPU")
    return int(page > PAGE_LIMIT or year > YEAR_LIMIT)


if __name__ == "__main__":
    sys.exit(main())
