#!/usr/bin/env python3
"""Send one large spam to many domains from the internet, and examine control's copies.

    shared.py send ADDRESS COUNT BYTES      from `world`: one message to u@many1.example, u@many2.example, …
    shared.py judge COUNT                   on control, as root, while cron's pulls go on

Prints the results as one JSON object; the scenario judges them.
"""

from __future__ import annotations

import hashlib
import json
import os
import pwd
import shutil
import smtplib
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

GTUBE = "XJS*C4JDBQADN1.NSBN3*2IDNEN*GTUBE-STANDARD-ANTI-UBE-TEST-EMAIL*C.34X"
ROOT = Path("/mf/var/quarantine")
SETTINGS = Path("/mf/etc/mf.json")
COMMAND = "/mf/bin/quarantine"
SENDER = "many@world.example"
LIMIT = 120.0  # seconds for a pull that is running to end, and for the next one


def domains(count: int) -> list[str]:
    """Return the domains that get a copy."""
    return [f"many{number}.example" for number in range(1, count + 1)]


def send(address: str, count: int, size: int) -> dict[str, Any]:
    """Send the message, which is to be refused."""
    body = f"Subject: many\r\nX-Lab-Id: verify-many\r\n\r\n{GTUBE}\r\n" + ("y" * 70 + "\r\n") * (size // 72)
    with smtplib.SMTP(address, 25, timeout=60) as link:
        link.helo("world.example")
        link.mail(SENDER)
        taken = sum(link.rcpt(f"u@{domain}")[0] == 250 for domain in domains(count))
        return {"recipients": taken, "answer": link.data(body)[0]}


def run(*arguments: str) -> subprocess.CompletedProcess[bytes]:
    """Run a command of the quarantine."""
    return subprocess.run([COMMAND, *arguments], capture_output=True, check=False)


def rows(domain: str = "") -> list[dict[str, Any]]:
    """Return the listed copies of the message."""
    where = ("--domain", domain) if domain else ()
    done = run("list", *where, "--sender", SENDER, "--limit", "0", "--json")
    return [json.loads(line) for line in done.stdout.splitlines()]


def pulled(count: int) -> list[dict[str, Any]]:
    """Return the rows as soon as there are that many, or those that came in time."""
    end = time.monotonic() + LIMIT
    while len(listed := rows()) < count and time.monotonic() < end:
        run("pull")
    return listed


def disk(wanted: list[dict[str, Any]]) -> dict[str, int]:
    """Count the messages' names on this disk, the files behind them, and the bytes that these take."""
    files = [path.stat() for row in wanted for path in (ROOT / "mail").glob(row["path"])]
    waiting = [path.stat() for path in (ROOT / "incoming").rglob("*") if path.is_file()]
    once = {file.st_ino: file.st_blocks * 512 for file in files + [file for file in waiting if file.st_size > 100000]}
    return {"names": len(files), "files": len(once), "bytes": sum(once.values())}


def whole(row: dict[str, Any]) -> bool:
    """Return whether a copy is shown with its own recipient only and all of the bytes."""
    shown = json.loads(run("show", row["id"], "--json").stdout or "{}")
    raw = run("show", "--raw", row["id"]).stdout
    return bool(shown.get("recipients") == [f"u@{row['domain']}"] and hashlib.sha256(raw).hexdigest() == row["sha256"])


def intact(row: dict[str, Any]) -> bool:
    """Return whether a copy's file has all of the bytes."""
    _, _, body = (ROOT / "mail" / row["path"]).read_bytes().partition(b"\n")
    return bool(hashlib.sha256(body).hexdigest() == row["sha256"])


def redated(row: dict[str, Any], days: float) -> None:
    """Put the MX's file there again as one of some days ago; the copies' ids derive from the file's name."""
    stamp = time.strftime("%Y%m%dT%H%M%S", time.gmtime(time.time() - days * 86400))
    name = stamp + row["id"].rpartition(".")[0][15:] + ".0"
    folder = ROOT / "incoming/mx1" / time.strftime("%Y-%m-%d", time.strptime(stamp[:8], "%Y%m%d")) / "_shared/new"
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(ROOT / "mail" / row["path"], folder / f".{name}")
    owner = pwd.getpwnam("mf-quarantine")
    for path in (folder / f".{name}", folder, folder.parent, folder.parent.parent):
        os.chown(path, owner.pw_uid, owner.pw_gid)
    (folder / f".{name}").rename(folder / name)


def judge(count: int) -> dict[str, Any]:
    """Examine all copies, then those of an older message of which one domain's copy expires."""
    new = pulled(count)
    result: dict[str, Any] = {
        "rows": len(new),
        "domains": len({row["domain"] for row in new}),
        "whole": sum(map(whole, new)),
        **disk(new),
        "release": next((row["id"] for row in new if row["domain"] == "many2.example"), ""),
    }
    if len(new) != count:
        return result
    redated(new[0], 3)
    both = pulled(2 * count)
    ids = {row["id"] for row in new}
    before = SETTINGS.read_text()
    changed = json.loads(before)
    changed["quarantine"]["retention"]["many3.example"] = 2
    try:
        SETTINGS.write_text(json.dumps(changed))
        run("expire")
    finally:
        SETTINGS.write_text(before)
    left = [row for row in rows() if row["id"] not in ids]
    result["older"] = {
        "rows": len(both) - count,
        "left": len(left),
        "expired": [row["domain"] for row in both if row["id"] not in ids | {row_left["id"] for row_left in left}],
        "whole": sum(map(intact, left)),
        **disk(left),
    }
    return result


def main(argv: list[str]) -> int:
    """Run the part that is named."""
    print(json.dumps(send(argv[1], int(argv[2]), int(argv[3])) if argv[0] == "send" else judge(int(argv[1]))))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
