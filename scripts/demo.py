#!/usr/bin/env python3
"""Start the lab, deploy the fleet, send real mail through it, show its health.

Each phase shows its duration; its output is in build/demo/. A second run re-uses a lab that exists.
Exit codes: 0 every host is OK and no mail was lost, 1 not so, 2 usage, 130 interrupted. A phase that fails ends the run
with the end of its output.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
LOGS = ROOT / "build/demo"
HEALTH = LOGS / "health.json"
TAIL_LINES = 40
BUSY = 4.0  # load from which check-load may be the reason

# Commands to try next, and what they show.
NEXT = (
    ("make mail N=300 STOP=mx2", "more mail, one MX stopped half way: nothing is lost"),
    ("python3 lab/lab.py load mx1 9", "fake a load of 9: within two minutes mx1 refuses mail (`load mx1 off` ends it)"),
    (".venv/bin/ansible mx -m mf_health", "one line a host; `make check` for the table"),
)


class Failure(Exception):
    """A phase failed; the text names it and its log."""


def lab(*arguments: str) -> None:
    """Run lab.py, which shows its own progress. Raises Failure."""
    if subprocess.run([sys.executable, "lab/lab.py", *arguments], cwd=ROOT, check=False).returncode:
        raise Failure(f"`lab/lab.py {arguments[0]}` failed")


def current_task(line: str) -> str | None:
    """Return the name of the play or task that begins in this line of ansible-playbook's output."""
    match = re.match(r"(?:TASK|PLAY|RUNNING HANDLER) \[(.+?)\]", line)
    return match[1] if match else None


def recap(text: str) -> dict[str, dict[str, int]]:
    """Return each host's counts (ok, changed, unreachable, failed, …) from ansible-playbook's last lines."""
    lines = re.findall(r"^(\S+) +: (ok=.*)$", text, re.MULTILINE)
    return {host: {key: int(value) for key, value in re.findall(r"(\w+)=(\d+)", counts)} for host, counts in lines}


def summary(hosts: dict[str, dict[str, int]]) -> str:
    """Sum up a playbook's changes in a few words."""
    managed = {host: counts for host, counts in hosts.items() if host != "localhost"}
    changed = sorted(host for host, counts in managed.items() if counts.get("changed"))
    return f"{len(managed)} hosts, " + (f"changed {' '.join(changed)}" if changed else "nothing to change")


def playbook(title: str, name: str, *arguments: str, may_fail: bool = False) -> str:
    """Run a playbook into its log and show one line; return its output. Raises Failure unless it `may_fail`."""
    log = LOGS / f"{name}.log"
    live = sys.stdout.isatty()
    started = time.monotonic()
    seen: list[str] = []
    print(f"{title:<12} ...", end="" if live else "\n", flush=True)
    with (
        log.open("w") as out,
        subprocess.Popen(
            ["ansible-playbook", f"playbooks/{name}.yml", *arguments],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        ) as process,
    ):
        assert process.stdout is not None
        for line in process.stdout:
            seen.append(line)
            out.write(line)
            out.flush()
            if live and (task := current_task(line)):
                print(f"\r\033[K{title:<12} {task[:80]}", end="", flush=True)
    text = "".join(seen)
    took = f"({time.monotonic() - started:.1f} s)"
    clear = "\r\033[K" if live else ""
    if process.returncode and not may_fail:
        print(f"{clear}{title:<12} failed {took}\n--- the end of {log.relative_to(ROOT)}")
        print("".join(seen[-TAIL_LINES:]), end="---\n", flush=True)
        raise Failure(f"playbooks/{name}.yml failed; its whole output is in {log.relative_to(ROOT)}")
    print(f"{clear}{title:<12} {summary(recap(text))} {took}", flush=True)
    return text


def health() -> list[dict[str, Any]]:
    """Run the checks and return each host's health. Raises Failure without any."""
    HEALTH.unlink(missing_ok=True)
    playbook("health", "check_fleet", "-e", f"json_file={HEALTH}", "-e", "refresh=true", may_fail=True)
    try:
        hosts: list[dict[str, Any]] = json.loads(HEALTH.read_text())["hosts"]
    except (OSError, ValueError, KeyError) as error:
        raise Failure(f"no health to show ({error}); see {(LOGS / 'check_fleet.log').relative_to(ROOT)}") from None
    return hosts


def table(hosts: Sequence[dict[str, Any]]) -> str:
    """Return the table of check_fleet.yml."""
    sys.path.insert(0, str(ROOT))
    from action_plugins import mf_report

    return mf_report.table([mf_report.Report.of(host) for host in hosts])


def demo(messages: int) -> bool:
    """Run all phases; return whether every host is OK and no mail was lost. Raises Failure."""
    started = time.monotonic()
    LOGS.mkdir(parents=True, exist_ok=True)
    lab("up")
    playbook("deployment", "site")
    print(f"{'mail':<12} {messages} messages from the internet to the MXs", flush=True)
    lost = subprocess.run([sys.executable, "lab/lab.py", "mail", str(messages)], cwd=ROOT, check=False).returncode
    hosts = health()
    print(f"\n{table(hosts)}\n")
    good = not lost and all(host["status"] == "OK" for host in hosts)
    minutes, seconds = divmod(round(time.monotonic() - started), 60)
    print(f"The fleet {'runs' if good else 'runs, but not as it should'} ({minutes} min {seconds} s).\n")
    if not good and not lost and os.getloadavg()[0] >= BUSY:
        print(f"(All containers see this machine's load, {os.getloadavg()[0]:.1f} now. When it is calm: make check)\n")
    number = os.environ.get("MF_LAB")
    prefix = f"MF_LAB={number} " if number else ""
    print("Try next:")
    for command, shows in NEXT:
        print(f"  {prefix}{command:<36} {shows}")
    print(f"\nAll of it goes away with: {prefix}make demo-down")
    return good


def main() -> int:
    """Run the demo; return the exit code."""
    parser = argparse.ArgumentParser(description="Start the lab, deploy the fleet, send mail, show its health.")
    parser.add_argument("--mail", type=int, default=30, metavar="N", help="messages to send (default 30)")
    options = parser.parse_args()
    if options.mail < 1:
        parser.error("--mail needs a number of messages from 1")
    try:
        return 0 if demo(options.mail) else 1
    except Failure as failure:
        print(f"demo: {failure}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\ndemo: interrupted; `make demo` carries on, `make demo-down` removes what is there", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
