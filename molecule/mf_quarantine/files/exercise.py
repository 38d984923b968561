#!/usr/bin/env python3
"""Exercise a real quarantine on its own host: real files, the real database, SIGKILL at random moments. As root.

    exercise.py WHAT [ARGUMENT]

Puts messages where rsync does (incoming/mx9, an MX that no inventory has), then runs the commands. Prints the results
as one JSON object; the scenario judges them. The random moments follow a seed, which is printed.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import os
import pwd
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path("/mf/var/quarantine")
INCOMING = ROOT / "incoming/mx9"
COMMAND = "/mf/bin/quarantine"
HOSTILE = "\x1b]0;owned\x07\x1b[2J\u202egnp.exe\r\nFrom: you\x00\x9b31m"


def ident(number: int, when: float) -> str:
    """Return an id as an MX gives it."""
    stamp = time.strftime("%Y%m%dT%H%M%S", time.gmtime(when))
    return f"{stamp}.{number % 1000000:06d}Z-mx9-{number}-0-{number:016x}.0"


def put(number: int, body: bytes, when: float, domain: str = "customer.example", **changes: Any) -> str:
    """Put a message into ``incoming``; return its id."""
    name = ident(number, when)
    envelope = {
        "id": name,
        "message": name[:-2],
        "host": "mx9",
        "received": "",
        "sender": "sender@world.example",
        "recipients": [f"user{number}@{domain}"],
        "client_ip": "192.0.2.1",
        "helo": "world.example",
        "plugin": "exercise",
        "reason": "spam",
        "size": len(body),
        "truncated": False,
        "sha256": hashlib.sha256(body).hexdigest(),
    } | changes
    write(name, domain, json.dumps(envelope).encode() + b"\n" + body)
    return name


def write(name: str, domain: str, data: bytes) -> None:
    """Write a file into ``incoming``, with the owner that rsync gives it."""
    folder = INCOMING / f"{name[:4]}-{name[4:6]}-{name[6:8]}" / domain / "new"
    owner = pwd.getpwnam("mf-quarantine")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(data)
    for path in (folder / name, folder, folder.parent, folder.parent.parent, INCOMING):
        os.chown(path, owner.pw_uid, owner.pw_gid)


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a command of the quarantine."""
    return subprocess.run([COMMAND, *arguments], capture_output=True, text=True, errors="replace", check=False)


def objects(*arguments: str) -> list[dict[str, Any]]:
    """Return the objects that a command prints with --json."""
    done = run(*arguments, "--json")
    return [json.loads(line) for line in done.stdout.splitlines()]


def sql(statement: str) -> str:
    """Return the answer of MariaDB's own client, as root."""
    return subprocess.run(
        ["mariadb", "--batch", "--skip-column-names", "mf_quarantine", "-e", statement],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()


def pull() -> int:
    """Import all that is in ``incoming`` (and pull from the inventory's MXs); return the number of files left there."""
    run("pull")
    return sum(1 for path in INCOMING.rglob("*") if path.is_file())


def state() -> dict[str, Any]:
    """Count the messages in index, sums, ledger and files."""
    return {
        "rows": int(sql("SELECT COUNT(*) FROM message WHERE mx = 'mx9'")),
        "tally": int(sql("SELECT COALESCE(SUM(imported - expired), 0) FROM tally WHERE mx = 'mx9'")),
        "ledger": int(sql("SELECT COUNT(*) FROM ledger WHERE id LIKE '%-mx9-%' AND state = 'kept'")),
        "all": int(sql("SELECT COUNT(*) FROM ledger")),
        "files": sum(1 for path in (ROOT / "mail").rglob("*-mx9-*")),
        "incoming": sum(1 for path in INCOMING.rglob("*") if path.is_file()),
        "new": sum(1 for path in (ROOT / "mail").rglob("*.new")),
    }


EACH_TURN = 250  # messages


def crashes(count: int) -> dict[str, Any]:
    """Import some thousand messages while the importer is killed repeatedly, then to the end.

    Some are added before each turn, so that each kill finds work under way.
    """
    seed = int.from_bytes(os.urandom(4), "big")
    dice = random.Random(seed)
    now = time.time()
    names: set[str] = set()
    kills = interrupted = 0

    def come(number: int) -> None:
        names.add(put(number, f"Subject: {number}\n\nbody\n".encode(), now - number % 7200))

    for round_number in range(count):
        for number in range(round_number * EACH_TURN, (round_number + 1) * EACH_TURN):
            come(number)
        before = state()
        process = subprocess.Popen(
            [COMMAND, "pull"], start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        # kill by turns: at any moment, while a batch is linked and not committed, just after a commit
        while round_number % 3 and process.poll() is None:
            if round_number % 3 == 1 and sum(1 for _ in (ROOT / "mail").glob("*/*/*-mx9-*")) > before["files"]:
                break
            if round_number % 3 == 2 and int(sql("SELECT COUNT(*) FROM ledger")) > before["all"]:
                break
        time.sleep(dice.uniform(0, 0.02 if round_number % 3 else 0.6))
        kills += process.poll() is None
        # the whole session: the parent, and each MX's process
        with contextlib.suppress(ProcessLookupError):  # it has ended already
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        interrupted += state()["rows"] < len(names)
        # one message comes again, as when an MX is pulled from once more
        come(dice.randrange(len(names)))
    left = pull()
    listed = [row["id"] for row in objects("list", "--mx", "mx9", "--limit", "0")]
    return {
        "seed": seed,
        "kills": kills,
        "interrupted": interrupted,
        "left": left,
        "missing": len(names - set(listed)),
        "doubled": len(listed) - len(set(listed)),
        **state(),
    }


def bad() -> dict[str, Any]:
    """Import input that no honest MX sends, and unusual input of an honest one."""
    now = time.time()
    good = {
        "empty": put(900001, b"", now, "bad.example"),
        "no header": put(900002, b"\nSubject: body\n", now, "bad.example"),
        "hostile": put(
            900003,
            b"Subject: " + HOSTILE.encode() + b"\n\n\0\xff\xfe",
            now,
            "bad.example",
            sender=HOSTILE,
            reason=HOSTILE,
            recipients=[HOSTILE],
            helo=HOSTILE,
        ),
        "huge": put(900004, b"Subject: huge\n\n" + b"x" * 200_000_000, now, "bad.example"),
        "invalid": put(900005, b"Subject: x\n\nx", now, "_invalid"),
    }
    write(ident(900010, now), "bad.example", b"")
    write(ident(900011, now), "bad.example", b"\0" * 4096)
    half = put(900012, b"Subject: half\n\n" + b"x" * 1000, now, "bad.example")
    path = next(INCOMING.rglob(half))
    os.truncate(path, path.stat().st_size - 10)
    # names that no message of ours has
    for name in ("x", "..hidden", "20261125T120000.000000Z-mx9-1-0-1.0;rm -rf"):
        write(name.ljust(10, "x"), "bad.example", b"x")
    left = pull()
    listed = {row["id"]: row for row in objects("list", "--limit", "0") if row["domain"] in ("bad.example", "_invalid")}
    pages = [run("list", "--domain", "bad.example").stdout, run("show", good["hostile"]).stdout, run("stats").stdout]
    # nothing but printable ASCII in the lines
    harmless = all(line.isascii() and line.isprintable() for page in pages for line in page.split("\n"))
    raw = subprocess.run([COMMAND, "show", "--raw", good["hostile"]], capture_output=True, check=True).stdout
    traversal = run("list", "--domain", "../../etc")
    check = subprocess.run(["/mf/bin/check-quarantine"], capture_output=True, text=True, check=False)
    return {
        "imported": sorted(name for name, ident in good.items() if ident in listed),
        "others": sorted(set(listed) - set(good.values())),
        "huge": listed[good["huge"]]["size"],
        "harmless": harmless,
        "raw": raw == b"Subject: " + HOSTILE.encode() + b"\n\n\0\xff\xfe",
        "traversal": [traversal.returncode, len(traversal.stderr.splitlines())],
        "foreign left": left,
        "aside": [source["bad"] for source in objects("stats")[0]["sources"] if source["mx"] == "mx9"],
        "said": [check.returncode, check.stdout],
        "etc": Path("/etc/new").exists(),
    }


def crowd(count: int) -> dict[str, Any]:
    """Import very many files of one directory."""
    now = time.time()
    for number in range(count):
        put(1000000 + number, b"Subject: crowd\n\n", now, "crowd.example")
    began = time.monotonic()
    left = pull()
    seconds = time.monotonic() - began
    return {
        "left": left,
        "rows": int(sql("SELECT COUNT(*) FROM message WHERE domain = 'crowd.example'")),
        "seconds": seconds,
    }


def throttled() -> dict[str, Any]:
    """Measure the pace of the import during a lease, and count the messages after it."""
    now = time.time()
    for number in range(60):
        put(2000000 + number, b"Subject: paced\n\n", now, "paced.example")
    subprocess.run(["/mf/bin/throttle", "on", "--mark-only", "--ttl", "5m", "--owner", "exercise"], check=True)
    process = subprocess.Popen([COMMAND, "pull"], stderr=subprocess.DEVNULL)
    times: list[float] = []
    last_count = 0
    while len(times) < 4:
        count = int(sql("SELECT COUNT(*) FROM message WHERE domain = 'paced.example'"))
        if count > last_count:
            times += [time.monotonic()] * (count - last_count)
            last_count = count
        time.sleep(0.02)
    subprocess.run(["/mf/bin/throttle", "off", "--owner", "exercise"], check=True)
    process.wait()
    gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
    return {"gaps": gaps, "rows": int(sql("SELECT COUNT(*) FROM message WHERE domain = 'paced.example'"))}


def expiry() -> dict[str, Any]:
    """Expire mail by a domain's retention, killed repeatedly, while readers run; expired mail must not come back."""
    now = time.time()
    old = [put(3000000 + number, b"Subject: old\n\n", now - 6.5 * 86400, "week.example") for number in range(3000)]
    # older than this domain's retention when it comes: it is recorded, not kept
    late = put(3100000, b"Subject: late\n\n", now - 8 * 86400, "week.example")
    pull()
    kept = int(sql("SELECT COUNT(*) FROM message WHERE domain = 'week.example'"))
    settings = Path("/mf/etc/mf.json")
    before = settings.read_text()
    waits: list[float] = []
    kills = 0
    try:
        changed = json.loads(before)
        changed["quarantine"]["retention"]["week.example"] = 6
        settings.write_text(json.dumps(changed))
        process = subprocess.Popen([COMMAND, "expire"], stdout=subprocess.DEVNULL)
        while process.poll() is None:
            began = time.monotonic()
            sql("SELECT COUNT(*) FROM (SELECT id FROM message WHERE domain = 'week.example' LIMIT 100) AS page")
            waits.append(time.monotonic() - began)
            if len(waits) % 3 == 0 and kills < 3:
                process.kill()
                process.wait()
                kills += 1
                process = subprocess.Popen([COMMAND, "expire"], stdout=subprocess.DEVNULL)
        for name in (*old[:10], late):
            write(name, "week.example", b"again")
        pull()
    finally:
        settings.write_text(before)
    return {
        "kept": kept,
        "kills": kills,
        "after": int(sql("SELECT COUNT(*) FROM message WHERE domain = 'week.example'")),
        "expired": int(sql("SELECT COUNT(*) FROM ledger WHERE domain = 'week.example' AND state = 'expired'")),
        "tally": sql("SELECT SUM(imported), SUM(expired) FROM tally WHERE domain = 'week.example'"),
        "files": sum(1 for _ in (ROOT / "mail").glob("*/week.example/*")),
        "longest": max(waits),
    }


def mended() -> dict[str, Any]:
    """Repair rows without files, and files without rows or sums, as after the restore of an older dump."""
    names = [row["id"] for row in objects("list", "--domain", "customer.example", "--mx", "mx9", "--limit", "20")]
    gone, forgotten = names[:5], names[5:15]
    for name in gone:
        next((ROOT / "mail").rglob(name)).unlink()
    for name in forgotten:
        sql(
            "UPDATE tally JOIN message ON tally.domain = message.domain AND tally.mx = message.mx"
            " AND tally.day = DATE(message.received)"
            " SET tally.imported = tally.imported - 1, tally.imported_bytes = tally.imported_bytes - message.size"
            f" WHERE message.domain = 'customer.example' AND message.id = '{name}'"
        )
        sql(f"DELETE FROM message WHERE domain = 'customer.example' AND id = '{name}'")
        sql(f"DELETE FROM ledger WHERE id = '{name}'")
    plan = objects("repair", "--dry-run")[0]
    done = run("repair", "--json")
    outcome = json.loads(done.stdout)
    again = run("repair", "--json")
    twice = json.loads(again.stdout)
    shown = run("show", gone[0])
    return {
        "plan": {key: plan[key] for key in ("indexed", "lost")},
        "done": {key: outcome[key] for key in ("indexed", "lost")},
        "back": len(
            {row["id"] for row in objects("list", "--domain", "customer.example", "--limit", "0")} & set(forgotten)
        ),
        "marked": sum(row["lost"] for row in objects("list", "--domain", "customer.example", "--limit", "0")),
        "code": done.returncode,
        "again": [again.returncode, twice["lost"], twice["lost_before"]],
        "show": shown.returncode,
    }


def schema() -> dict[str, Any]:
    """Run commands with a schema newer than this release's, then with an older one."""
    sql("INSERT INTO schema_version VALUES (99, UTC_TIMESTAMP())")
    newer = [run(*arguments) for arguments in (("list",), ("pull", "--mx", "none"), ("migrate",), ("expire",))]
    sql("DELETE FROM schema_version WHERE version = 99")
    rows = sql("SELECT version, applied FROM schema_version").split()
    sql("DELETE FROM schema_version")
    older = run("list")
    again = [run("migrate"), run("migrate")]
    return {
        "newer": [done.returncode for done in newer],
        "words": newer[0].stderr,
        "older": older.stderr,
        "version": rows[0],
        "migrate": [done.stdout.strip() for done in again],
        "list": run("list").returncode,
    }


def spoken() -> dict[str, Any]:
    """Run each command with --json; return its exit code and its first object's keys."""
    rows = objects("list", "--domain", "customer.example", "--mx", "mx9", "--limit", "100")
    name = next(row["id"] for row in rows if not row["lost"])
    answers: dict[str, Any] = {}
    for command in (
        ("list", "--limit", "3"),
        ("show", name),
        ("stats",),
        ("release", "--dry-run", name),
        ("expire",),
        ("pull",),
        ("repair", "--dry-run"),
        ("forget", "mx9", "--dry-run"),
        ("migrate", "--dry-run"),
    ):
        done = run(*command, "--json")
        try:
            first, *_ = [json.loads(line) for line in done.stdout.splitlines()]
        except ValueError:
            first = [done.stdout, done.stderr]
        answers[command[0]] = [done.returncode, *sorted(first)]
    return answers


def main(argv: list[str]) -> int:
    """Run one exercise."""
    parts: dict[str, Any] = {
        "crashes": lambda: crashes(int(argv[1])),
        "bad": bad,
        "crowd": lambda: crowd(int(argv[1])),
        "throttled": throttled,
        "expiry": expiry,
        "mended": mended,
        "schema": schema,
        "spoken": spoken,
        "state": state,
    }
    print(json.dumps(parts[argv[0]]()))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
