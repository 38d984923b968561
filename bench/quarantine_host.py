"""Measures the quarantine's index and import on a control host, in a database and folders of its own. As root.

    import N | fill N | query RUNS | expire SECONDS | drop

bench_quarantine.py sends it there with quarantine_made.py and one of these. Prints one JSON object.
The library is the host's own, /mf/lib; the floors use MariaDB's LOAD DATA and coreutils.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, "/mf/lib")
from mf import message_id
from mf_quarantine import database, envelope, expire, importer, layout, query
from mf_quarantine.index import Index
from quarantine_made import BODY, DOMAINS, NAME, ROOT, connect, kept_for, make_files, ours, timed

if TYPE_CHECKING:
    from collections.abc import Callable
    from multiprocessing.connection import Connection
    from multiprocessing.synchronize import Event

COMMAND = "/mf/bin/quarantine"
TABLES = Path(ROOT) / "tables"  # what LOAD DATA reads
DAYS = 30
FILES = 60_000  # of the messages that expire


def client(statement: str) -> None:
    """MariaDB's own client."""
    subprocess.run(["mariadb", "--local-infile=1", NAME, "-e", statement], check=True)


LOAD_MESSAGE = (
    "LOAD DATA LOCAL INFILE '{}' INTO TABLE message CHARACTER SET utf8mb4"
    " (domain, id, mx, sender, recipients, subject, plugin, reason, size, kept, truncated, @hex)"
    " SET sha256 = UNHEX(@hex)"
)
LOAD_LEDGER = "LOAD DATA LOCAL INFILE '{}' INTO TABLE ledger (id, domain, state)"


def bench_import(count: int) -> dict[str, Any]:
    """Messages into store and index by our importer; beside it the same work by LOAD DATA and coreutils."""
    index = connect()
    places = layout.Layout(ROOT)
    for folder in (places.mail, places.bad, places.state, places.locks, str(TABLES)):
        os.makedirs(folder, exist_ok=True)
    now = time.time()
    rates: dict[str, list[float]] = {}
    for round_number in range(3):
        names = make_files(places, count, now - 3600 * (round_number + 1), round_number)
        rates.setdefault("quarantine pull, its import", []).append(count / timed(lambda: ours(index, places)))
        messages = [envelope.read(places.path(domain, ident), domain, ident) for domain, ident in names]
        wipe(index, names)

        def rows(messages: list[envelope.Message] = messages) -> None:
            for start in range(0, count, importer.BATCH):
                index.add(messages[start : start + importer.BATCH])

        rates.setdefault("its index alone", []).append(count / timed(rows))
        wipe(index, names)
        tables(messages)
        rates.setdefault("LOAD DATA alone", []).append(count / timed(load))
        wipe(index, names)
        shutil.rmtree(places.mail)
        os.makedirs(places.mail)
        make_files(places, count, now - 3600 * (round_number + 1), round_number)
        rates.setdefault("cp -l, sha256sum, LOAD DATA, rm", []).append(count / timed(lambda: plain(places)))
        wipe(index, names)
        shutil.rmtree(places.mail)
        os.makedirs(places.mail)
    index.close()
    return {"count": count, "rates": {name: statistics.median(values) for name, values in rates.items()}}


def plain(places: layout.Layout) -> None:
    """The least that coreutils need for the same: link each file into the store, hash it, sync, drop the first name."""
    incoming = places.incoming("mx1")
    script = (
        f"cp -al {incoming}/. {places.mail}/ && find {incoming} -type f -print0 | xargs -0 sha256sum >/dev/null"
        f" && sync -f {places.mail} && rm -r {incoming}"
    )
    subprocess.run(["/bin/sh", "-c", script], check=True)
    load()


def tables(messages: list[envelope.Message]) -> None:
    """What LOAD DATA reads, prepared outside of the measured time."""
    with (TABLES / "message").open("w") as rows, (TABLES / "ledger").open("w") as ledger:
        for message in messages:
            rows.write(
                f"{message.domain}\t{message.id}\t{message.mx}\t{message.sender}\t{message.recipients}\t"
                f"{message.subject}\t{message.plugin}\t{message.reason}\t{message.size}\t{message.kept}\t"
                f"{int(message.truncated)}\t{message.sha256.hex()}\n"
            )
            ledger.write(f"{message.id}\t{message.domain}\tkept\n")


def load() -> None:
    """Both tables, durable when it returns."""
    client(LOAD_MESSAGE.format(TABLES / "message") + ";" + LOAD_LEDGER.format(TABLES / "ledger"))


def wipe(index: Index, names: list[tuple[str, str]]) -> None:
    """Take the messages of a turn out of the tables again."""
    for start in range(0, len(names), 1000):
        chunk = [ident for _, ident in names[start : start + 1000]]
        marks = ", ".join(["%s"] * len(chunk))
        index.run(f"DELETE FROM ledger WHERE id IN ({marks})", chunk)
        for domain in DOMAINS[:20]:
            index.run(f"DELETE FROM message WHERE domain = %s AND id IN ({marks})", [domain, *chunk])


# Messages as the server makes them up from their numbers, evenly over DAYS until now; a few domains get most.
MADE_UP = """
  SELECT CONCAT('customer-', LPAD(FLOOR(300 * POW(RAND(seq), 2)), 3, '0'), '.example') AS domain,
         CONCAT(DATE_FORMAT(FROM_UNIXTIME({now} - {span} * (1 - seq / {count})), '%Y%m%dT%H%i%s'), '.',
                LPAD(seq % 1000000, 6, '0'), 'Z-mx', seq % 3 + 1, '-', seq % 30000, '-0-', LEFT(MD5(seq), 16), '.0') id,
         CONCAT('mx', seq % 3 + 1) AS mx,
         CONCAT('bounce-', seq % 9973, '@sender-', seq % 4999, '.example') AS sender,
         CONCAT('user', seq % 997, '@customer-', LPAD(FLOOR(300 * POW(RAND(seq), 2)), 3, '0'), '.example') AS rcpt,
         CONCAT('Special offer number ', seq, ' only for you') AS subject,
         'mf_content' AS plugin, 'the message looks like spam (score 7.3)' AS reason, 4000 + seq % 9000 AS size
  FROM seq_{first}_to_{last}
"""


def bench_fill(count: int) -> dict[str, Any]:
    """Rows for ``count`` messages of 30 days, in the order in which they would have come."""
    index = connect()
    there = int(index.rows("SELECT COUNT(*) FROM ledger")[0][0])
    now = time.time()
    step = 100_000
    for first in range(there + 1, count + 1, step):
        last = min(count, first + step - 1)
        made = MADE_UP.format(now=now, span=DAYS * 86400, count=count, first=first, last=last)
        index.run(
            "INSERT INTO message"
            " (domain, id, mx, sender, recipients, subject, plugin, reason, size, kept, truncated, sha256)"
            f" SELECT m.*, size, 0, UNHEX(SHA2(id, 256)) FROM ({made}) AS m"
        )
        index.run(f"INSERT INTO ledger (id, domain, state) SELECT id, domain, 'kept' FROM ({made}) AS m")
        index.run(
            "INSERT INTO tally (day, domain, mx, imported, imported_bytes)"
            f" SELECT LEFT(id, 8), domain, mx, COUNT(*), SUM(size) FROM ({made}) AS m GROUP BY 1, 2, 3"
            " ON DUPLICATE KEY UPDATE imported = imported + VALUES(imported),"
            " imported_bytes = imported_bytes + VALUES(imported_bytes)"
        )
        print(f"{last:,} of {count:,} rows", file=sys.stderr, flush=True)
    for table in ("message", "ledger", "tally"):
        index.rows(f"ANALYZE TABLE {table}")
    sizes = index.rows(
        "SELECT table_name, data_length + index_length FROM information_schema.tables WHERE table_schema = %s", (NAME,)
    )
    rows = int(index.rows("SELECT COUNT(*) FROM message")[0][0])
    index.close()
    return {"rows": rows, "bytes": {name: int(size) / rows for name, size in sizes if name != "schema_version"}}


def bench_query(runs: int) -> dict[str, Any]:
    """The queries of operators and programs, each time for another domain, day or message; milliseconds, sorted."""
    index = connect()
    dice = random.Random(7)
    idents = [row[0] for row in index.rows("SELECT id FROM ledger ORDER BY RAND(7) LIMIT %s", (runs,))]
    days = sorted({message_id.day(ident) for ident in idents})

    def page(**wanted: Any) -> Callable[[], object]:
        return lambda: list(index.stream(*query.select(query.Filter(limit=100, **wanted))))

    def day() -> dict[str, str]:
        start = dice.choice(days).replace("-", "")
        return {"start": start, "end": start + "~"}

    asked: dict[str, Callable[[], Callable[[], object]]] = {
        "SELECT 1, the floor": lambda: lambda: index.rows("SELECT 1"),
        "list --domain --day": lambda: page(domain=dice.choice(DOMAINS), **day()),
        "list --domain --day --recipient": lambda: page(domain=dice.choice(DOMAINS), recipient="user5", **day()),
        "list --domain, newest": lambda: page(domain=dice.choice(DOMAINS)),
        "list, newest of all": page,
        "list --day, of all domains": lambda: page(**day()),
        "show ID": lambda: lambda: index.find(dice.choice(idents)),
        "1,000 ids against the ledger": lambda: lambda: index.known(idents[:1000]),
    }
    measured = {}
    for name, prepare in asked.items():
        prepare()()
        measured[name] = sorted(
            timed(prepare()) * 1000 for _ in range(runs if "ids" not in name else max(10, runs // 10))
        )
    measured |= {name: commands(make_command, runs // 3) for name, make_command in whole(days[1:-1]).items()}
    measured["stats"] = sorted(timed(lambda: query.stats(index)) * 1000 for _ in range(5))
    index.close()
    return {"runs": runs, "ms": measured}


def whole(days: list[str]) -> dict[str, Callable[[], list[str]]]:
    """The command as operators start it, of the bench's database and of whole days, and Python alone."""
    source = Path(COMMAND).read_text()
    program = Path(ROOT) / "quarantine"
    program.parent.mkdir(exist_ok=True)
    defaults = (
        "from mf_quarantine import database\n"
        f"database.Database.__init__.__defaults__ = {(database.SOCKET, NAME, database.USER)!r}"
    )
    program.write_text(source.replace("\nsys.exit(", f"\n{defaults}\nsys.exit("))
    program.chmod(0o755)
    dice = random.Random(9)
    return {
        "quarantine list --domain --day, the whole command": lambda: [
            *(str(program), "list", "--domain", dice.choice(DOMAINS), "--day", dice.choice(days))
        ],
        "python3 -I, the least of it": lambda: ["/usr/bin/python3", "-I", "-c", "print()"],
    }


def commands(make_command: Callable[[], list[str]], runs: int) -> list[float]:
    """Milliseconds of each run, sorted; SystemExit when a run prints nothing."""
    spent = []
    for _ in range(runs):
        command = make_command()
        began = time.perf_counter()
        done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
        spent.append((time.perf_counter() - began) * 1000)
        if not done.stdout:
            sys.exit(f"{' '.join(command)} lists nothing")
    return sorted(spent)


def bench_expire(seconds: float) -> dict[str, Any]:
    """Expire messages, each with its file, from the full table for some seconds, or until FILES of them are gone.

    Meanwhile another process lists as a reader would, and a third imports as fast as it can.
    """
    index = connect()
    places = layout.Layout(ROOT)
    short = kept_for(5)
    first = index.domains()[0]
    older = "SELECT id FROM message WHERE domain = %s AND id < %s ORDER BY id LIMIT %s"
    for (ident,) in index.rows(older, (first, short.cutoff(first, time.time()), FILES)):
        path = Path(places.path(first, ident))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(BODY * 50)
    os.sync()
    reader, importing = Beside(read_on), Beside(import_on)
    time.sleep(seconds / 4)
    end = time.monotonic() + seconds
    batches = 0

    def pause() -> bool:
        nonlocal batches
        batches += 1
        return time.monotonic() < end and batches < FILES // expire.BATCH

    began = time.monotonic()
    # the rows are of days gone by
    outcome = expire.run(index, places, short, pause=pause, trust_clock=True)
    spent = time.monotonic() - began
    waits, imports = reader.end(), importing.end()
    index.close()
    phases = {"before": (0.0, began), "meanwhile": (began, began + spent)}

    def within(series: list[tuple[float, float]], phase: str) -> list[float]:
        start, stop = phases[phase]
        return sorted(value for moment, value in series if start <= moment < stop)

    return {
        "messages": outcome.messages,
        "rate": outcome.messages / spent,
        "ms": {phase: within(waits, phase) for phase in phases},
        "imports": {phase: statistics.median(within(imports, phase) or [0.0]) for phase in phases},
    }


class Beside:
    """A process that does something again and again until it is ended, and what it measured: (moment, figure)."""

    def __init__(self, work: Callable[[Event, Connection], None]) -> None:
        fork = multiprocessing.get_context("fork")
        self.stop = fork.Event()
        self.results, results_writer = fork.Pipe(duplex=False)
        self.process = fork.Process(target=work, args=(self.stop, results_writer))
        self.process.start()
        results_writer.close()

    def end(self) -> list[tuple[float, float]]:
        """What was measured."""
        self.stop.set()
        results: list[tuple[float, float]] = self.results.recv()
        self.process.join()
        return results


def read_on(stop: Event, results: Connection) -> None:
    """A reader's ``list --domain``, in milliseconds."""
    index = connect()
    dice = random.Random(8)
    waits = []
    while not stop.wait(0.02):
        wanted = query.Filter(domain=dice.choice(DOMAINS), limit=100)
        began = time.monotonic()
        rows = list(index.stream(*query.select(wanted)))
        waits.append((began, (time.monotonic() - began) * 1000))
        del rows
    results.send(waits)


def import_on(stop: Event, results: Connection) -> None:
    """Imports of 500 messages each, in messages a second; to make them isn't counted."""
    index = connect()
    places = layout.Layout(ROOT)
    rates: list[tuple[float, float]] = []
    while not stop.is_set():
        make_files(places, 500, time.time() - 600, 10 + len(rates))
        began = time.monotonic()
        spent = timed(lambda: ours(index, places))
        rates.append((began, 500 / spent))
    results.send(rates)


def drop() -> dict[str, Any]:
    """Remove what this program made."""
    subprocess.run(
        ["mariadb", "-e", f"DROP DATABASE IF EXISTS {NAME}; REVOKE ALL ON {NAME}.* FROM '{database.USER}'@localhost"],
        check=False,
        stderr=subprocess.DEVNULL,
    )
    shutil.rmtree(ROOT, ignore_errors=True)
    return {}


def main(argv: list[str]) -> int:
    """Measure one thing."""
    part, number = argv[0], float(argv[1]) if len(argv) > 1 else 0.0
    parts: dict[str, Callable[[], dict[str, Any]]] = {
        "import": lambda: bench_import(int(number)),
        "fill": lambda: bench_fill(int(number)),
        "query": lambda: bench_query(int(number)),
        "expire": lambda: bench_expire(number),
        "drop": drop,
    }
    print(json.dumps(parts[part]()))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
