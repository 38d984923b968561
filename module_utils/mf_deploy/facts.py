"""The facts of a host that a deployment needs, read before anything is changed. Refuses nothing; returns data."""

from __future__ import annotations

import os
import platform
import re
import time
from collections.abc import Sequence
from typing import Any

from . import host

DAY = 86400.0
LISTS = "/var/lib/apt/lists"
_SIMULATE = ("apt-get", "--simulate", "--quiet", "--no-install-recommends", "install", "--")


def read(packages: Sequence[str], run: host.Run, *, check: bool) -> dict[str, Any]:
    """Read the facts.

    ``system`` ("debian 12"), ``python`` ("3.11.2"), ``root``, ``systemd``, ``free_mib`` for /mf, ``missing`` packages,
    ``refused`` (why apt can't install those, or ""), ``unknown`` (that isn't sure: ``check`` forbade to fetch lists).
    """
    status = _content("/var/lib/dpkg/status")
    missing = sorted(set(packages) - installed(status, packages))
    if missing and "python3-apt" not in missing and not installed(status, ["python3-apt"]):
        # what Ansible's apt module itself needs
        missing.append("python3-apt")
    space = os.statvfs("/mf" if os.path.isdir("/mf") else "/")
    refused, unknown = obtainable(missing, run, check=check) if missing else ("", False)
    return {
        "system": system((_content("/etc/os-release") or _content("/usr/lib/os-release")).decode(errors="replace")),
        "python": platform.python_version(),
        "root": os.geteuid() == 0,
        "systemd": os.path.isdir("/run/systemd/system"),
        "free_mib": space.f_bavail * space.f_frsize // (1 << 20),
        "missing": missing,
        "refused": refused,
        "unknown": unknown,
    }


def _content(path: str) -> bytes:
    """Read a file; empty when that fails."""
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError:
        return b""


def installed(status: bytes, packages: Sequence[str]) -> set[str]:
    """Return those of ``packages`` that are installed by dpkg's status file (man dpkg-query)."""
    present = set()
    for package in packages:
        pattern = rb"^Package: " + re.escape(package.encode()) + rb"\n(?:[^\n]+\n)*?Status: ([^\n]+)\n"
        head = re.search(pattern, status, re.MULTILINE)
        if head and head[1].split()[-1:] == [b"installed"]:
            present.add(package)
    return present


def system(text: str) -> str:
    """Return ID and VERSION_ID of os-release(5)."""
    fields = dict(line.split("=", 1) for line in text.splitlines() if "=" in line and not line.startswith("#"))
    return " ".join(fields.get(key, "unknown").strip("\"'") for key in ("ID", "VERSION_ID"))


def obtainable(missing: Sequence[str], run: host.Run, *, check: bool) -> tuple[str, bool]:
    """Return why apt can't install some packages together ("" when it can), and whether that isn't sure.

    Old or missing lists are fetched once, except in check mode.
    """
    refused = _simulate(missing, run)
    if not refused or not stale(LISTS, time.time()):
        return refused, False
    if check:
        return "", True
    update = run(["apt-get", "--quiet", "update"])
    refused = _simulate(missing, run)
    if refused and update.code != 0:
        refused += f"; apt-get update failed: {reason(update.output)}"
    return refused, False


def _simulate(packages: Sequence[str], run: host.Run) -> str:
    code, output = run([*_SIMULATE, *packages])
    return "" if code == 0 else reason(output)


def stale(lists: str, now: float) -> bool:
    """Return whether apt's package lists are missing or older than a day."""
    try:
        times = [entry.stat().st_mtime for entry in os.scandir(lists) if entry.name.endswith("_Packages")]
        # fetching lists that didn't change upstream leaves their times alone, but touches the directories
        return not times or now - max(*times, os.stat(lists).st_mtime, os.stat(f"{lists}/partial").st_mtime) > DAY
    except FileNotFoundError:
        return True


def reason(output: str) -> str:
    """Return apt's errors in one line."""
    lines = [line.strip() for line in output.splitlines()]
    errors = [line for line in lines if line.startswith("E: ")]
    broken = [line for line in lines if " : Depends:" in line]
    return "; ".join(dict.fromkeys([*errors, *broken])) or (lines[-1] if lines else "apt-get failed without a word")
