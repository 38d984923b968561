"""What the quarantine's import, queries and expiry cost at five million messages, beside the least the work needs.

Needs the lab of ``make demo``. Works on control1, in a database and folders of its own, which it removes, for some 20
minutes. Rates are medians of three turns, each beside its floor: compare within a table. Exit codes: 0 done and within
the aims, 1 an aim was missed or something failed, 3 there is no lab.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
from typing import TYPE_CHECKING, Any

from bench import PYTHON, REPO, BenchError, number_of_lab, ssh, table

if TYPE_CHECKING:
    from collections.abc import Sequence

CONTROL1 = 21  # last octet and port offset of control1 in the lab
ROWS = 5_000_000
FLOOR, WITH_FILES = "LOAD DATA alone", "cp -l, sha256sum, LOAD DATA, rm"
IMPORT, INDEX = "quarantine pull, its import", "its index alone"
LIST, COMMAND = "list --domain --day", "quarantine list --domain --day, the whole command"
AIM_RATE, AIM_LIST = 0.5, 100.0  # of the floor; ms at the 95th percentile, of a reader during expiry as well
PARTS = ("quarantine_made", "quarantine_host")  # of the program on control1; the last one has its main
LOADER = """\
import sys, types
for name, source in {!r}:
    part = sys.modules[name] = types.ModuleType(name)
    exec(compile(source, name, "exec"), part.__dict__)
sys.exit(part.main(sys.argv[1:]))
"""
A_MONTH = 6_900_000 / 30 / 86400  # messages a second of the size to hold


def on_control(lab: int, *arguments: str) -> dict[str, Any]:
    """Have control1 measure one thing; show its progress."""
    parts = [(name, (REPO / "bench" / f"{name}.py").read_text(encoding="utf-8")) for name in PARTS]
    answer = subprocess.run(
        ssh(lab, CONTROL1, f"{PYTHON} -I - {shlex.join(arguments)}"),
        input=LOADER.format(parts),
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    if answer.returncode:
        raise BenchError(f"measuring on control1 failed with exit code {answer.returncode}")
    figures: dict[str, Any] = json.loads(answer.stdout)
    return figures


def percentile(sorted_: Sequence[float], share: float) -> float:
    """The nearest rank. BenchError without any value: no query got an answer."""
    if not sorted_:
        raise BenchError("a reader got no answer at all")
    return sorted_[min(len(sorted_) - 1, int(share * len(sorted_)))]


def rates(lab: int, count: int, where: str) -> list[str]:
    """Measure the import beside its floors; return each missed aim."""
    measured = on_control(lab, "import", str(count))["rates"]
    rows = [
        [
            name,
            f"{rate:,.0f}",
            f"{rate / measured[FLOOR]:.2f}",
            f"{rate / measured[WITH_FILES]:.2f}",
            f"{rate / A_MONTH:,.0f}",
        ]
        for name, rate in measured.items()
    ]
    table(
        f"{count:,} messages of 4 kB, {where} (medians of 3)",
        ["", "messages/s", "x LOAD DATA", "x with files", "x 6.9 million a month"],
        rows,
    )
    missed = []
    if measured[INDEX] < AIM_RATE * measured[FLOOR]:
        missed.append(
            f"the index alone takes {measured[INDEX] / measured[FLOOR]:.2f} of the rate of LOAD DATA,"
            f" {AIM_RATE} is the aim"
        )
    if measured[IMPORT] < AIM_RATE * measured[WITH_FILES]:
        missed.append(
            f"import goes at {measured[IMPORT] / measured[WITH_FILES]:.2f} of its floor's rate, {AIM_RATE} is the aim"
        )
    return missed


def slow(query: str, ms: Sequence[float]) -> list[str]:
    """The message when sorted times miss their aim."""
    most = percentile(ms, 0.95)
    return [f"{query} takes {most:.0f} ms at the 95th percentile, {AIM_LIST:.0f} is the aim"] if most > AIM_LIST else []


def full(lab: int, count: int, runs: int) -> list[str]:
    """Measure size, queries and expiry with many rows; return each missed aim."""
    filled = on_control(lab, "fill", str(count))
    sizes = filled["bytes"]
    table(
        f"Index of {filled['rows']:,} messages, bytes a message",
        ["table", "bytes"],
        [*([name, f"{size:.0f}"] for name, size in sorted(sizes.items())), ["together", f"{sum(sizes.values()):.0f}"]],
    )
    asked = on_control(lab, "query", str(runs))["ms"]
    table(
        f"Queries at {filled['rows']:,} messages, ms ({runs} of each)",
        ["", "median", "95 %", "longest"],
        [[name, *(f"{percentile(ms, share):.1f}" for share in (0.5, 0.95, 1.0))] for name, ms in asked.items()],
    )
    missed = [*slow(LIST, asked[LIST]), *slow(COMMAND, asked[COMMAND])]
    missed += rates(lab, 4000, f"beside {filled['rows']:,}")
    ended = on_control(lab, "expire", "30")
    table(
        f"Expiry: {ended['messages']:,} messages, {ended['rate']:,.0f} a second,"
        f" {ended['rate'] / A_MONTH:,.0f} x what arrives",
        ["a reader's list --domain, ms", "median", "95 %", "longest"],
        [[name, *(f"{percentile(ms, share):.1f}" for share in (0.5, 0.95, 1.0))] for name, ms in ended["ms"].items()],
    )
    table(
        "Imports as fast as they go beside it",
        ["", "messages/s"],
        [[name, f"{rate:,.0f}"] for name, rate in ended["imports"].items()],
    )
    missed += slow("a reader's list during expiry", ended["ms"]["meanwhile"])
    if ended["rate"] < A_MONTH:
        missed.append(f"expiry does {ended['rate']:.1f} messages a second, {A_MONTH:.1f} arrive")
    return missed


def main(argv: Sequence[str]) -> int:
    """Parse the command line, run the chosen parts."""
    parser = argparse.ArgumentParser(prog="bench_quarantine", description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument(
        "--rows", type=int, default=ROWS, help=f"messages in the index (default {ROWS:,}; 0: only import)"
    )
    parser.add_argument(
        "--import", type=int, default=20000, dest="messages", help="messages to import (default 20,000)"
    )
    parser.add_argument("--runs", type=int, default=300, help="runs of each query (default 300)")
    parser.add_argument("--keep", action="store_true", help="leave the filled database for another run")
    options = parser.parse_args(argv)
    lab = number_of_lab(parser)
    try:
        missed = rates(lab, options.messages, "into an empty index")
        if options.rows:
            missed += full(lab, options.rows, options.runs)
        if not options.keep:
            on_control(lab, "drop")
    except BenchError as error:
        print(f"bench_quarantine: {error}", file=sys.stderr)
        return error.code
    except KeyboardInterrupt:
        return 130
    for target in missed:
        print(f"bench_quarantine: {target}", file=sys.stderr)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
