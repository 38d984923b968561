#!/usr/bin/env python3
"""What backups cost, on control and offsite of a lab that is deployed: ratios within one run, not absolute figures.

1. The daily archive of some megabytes, then again with 1 % of the files changed: time and bytes of both.
2. Rows that an importer gets into MariaDB in a second while a dump is made, beside the rate without one; by turns.

    MF_LAB=4 python bench/bench_backup.py --megabytes 200 --rows 200000

Exit codes: 0 measured, 1 a job failed, 2 usage.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "lab")]

from mflab import machine
from mflab.podman import Podman
from mflab.spec import LabError, open_lab

from chaos.scene import Host

FILES = 1000
ROUNDS = 5
FOLDER = "/mf/var/bench-backup"

FILL = """
import os, sys
folder, count, size = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
os.makedirs(folder, exist_ok=True)
for number in range(count):
    with open(f"{folder}/{number}", "wb") as file:
        file.write(os.urandom(size))
"""

# An importer in a process of its own: transactions of 20 rows; counts what was committed in so many seconds.
IMPORT = """
import os, sys, time
import pymysql
seconds = float(sys.argv[1])
line = pymysql.connect(unix_socket="/run/mysqld/mysqld.sock", user="root", database="bench_backup")
end, rows = time.monotonic() + seconds, 0
with line.cursor() as cursor:
    while time.monotonic() < end:
        cursor.executemany("INSERT INTO arrived (body) VALUES (%s)", [("x" * 300,)] * 20)
        line.commit()
        rows += 20
print(rows / seconds)
"""

DUMP = """
import sys
sys.path.insert(0, "/mf/current/lib")
from mf_backup import stream
with open("/dev/null", "wb") as nowhere:
    while True:
        stream.dump("/run/mysqld/mysqld.sock", ["bench_backup"], {}, nowhere)
        print("dumped", flush=True)
"""


def job(control: Host, name: str) -> dict[str, Any]:
    """Run a job and return its record. Raises SystemExit when it failed."""
    outcome: dict[str, Any] = json.loads(control.ask(f"/mf/bin/backup run {name} --json --wait 10m", limit=1800)[1])
    if outcome["failures"]:
        print(f"bench_backup: {name}: {outcome['error']}", file=sys.stderr)
        raise SystemExit(1)
    return outcome


def files(control: Host, megabytes: int) -> None:
    """First and second daily archive."""
    job(control, "full")
    size = megabytes * 1_000_000 // FILES
    control.python(FILL, FOLDER, str(FILES), str(size), limit=600)
    first = job(control, "full")
    control.python(FILL, FOLDER, str(FILES // 100), str(size))
    second = job(control, "full")
    for name, unit in (("seconds", "s"), ("stored_bytes", "bytes")):
        before, after = ((each.get(name) or each["figures"].get(name)) for each in (first, second))
        print(
            f"daily archive, {megabytes} MB new, then 1 % changed: {before:.1f}, {after:.1f} {unit},"
            f" {after / before:.3f} of it"
        )


def imports(control: Host, rows: int, seconds: float) -> None:
    """The rate of an importer alone, and while mariadb-dump, facts and all, reads the same database."""
    control.run(
        "mariadb -e 'CREATE OR REPLACE DATABASE bench_backup; USE bench_backup; CREATE TABLE arrived"
        " (id INT AUTO_INCREMENT PRIMARY KEY, body VARCHAR(400)); INSERT INTO arrived (body)"
        f" SELECT REPEAT(CHAR(65 + seq % 26), 300) FROM seq_1_to_{rows}'",
        limit=600,
    )
    control.run("cat > /run/bench-dump.py", text=DUMP)
    alone, beside = [], []
    for _ in range(ROUNDS):
        alone.append(float(control.python(IMPORT, str(seconds), limit=300)))
        control.run("setsid /usr/bin/python3 /run/bench-dump.py > /run/bench-dumps 2>&1 & echo $! > /run/bench-pid")
        try:
            beside.append(float(control.python(IMPORT, str(seconds), limit=300)))
        finally:
            control.ask("kill -- -$(cat /run/bench-pid)")
    alone_rate, beside_rate = statistics.median(alone), statistics.median(beside)
    print(
        f"rows a second into MariaDB: {alone_rate:.0f} alone, {beside_rate:.0f} while dumps run without a pause,"
        f" ratio {beside_rate / alone_rate:.2f}"
    )


def main() -> int:
    """The command; returns its exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=200, help="size of the first archive (default: 200)")
    parser.add_argument("--rows", type=int, default=200_000, help="rows of the table that is dumped (default: 200000)")
    parser.add_argument("--seconds", type=float, default=5.0, help="length of each round of the import (default: 5)")
    args = parser.parse_args()
    try:
        lab = open_lab(None)
        control = Host(Podman(machine.inspect(lab.home.parent)), lab.host("control1"))
        control.run("test -x /mf/bin/backup")
    except LabError as error:
        print(f"bench_backup: {error} (it needs a deployed lab: make demo)", file=sys.stderr)
        return error.code
    try:
        files(control, args.megabytes)
        imports(control, args.rows, args.seconds)
    finally:
        control.ask(f"rm -rf {FOLDER} /run/bench-*; mariadb -e 'DROP DATABASE IF EXISTS bench_backup'")
    return 0


if __name__ == "__main__":
    sys.exit(main())
