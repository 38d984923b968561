"""Command lines of the checks: only parsed when there is something to parse (cron gives no arguments)."""

from __future__ import annotations

from collections.abc import Sequence

from . import cli


def check(name: str, purpose: str, argv: Sequence[str]) -> tuple[bool, bool]:
    """``(dry_run, as_json)`` of a single check's command line. Raises SystemExit: 0 after --help, 3 for misuse."""
    chosen = command(f"check-{name}", purpose, json="print the stored result instead of a Nagios line").parse_args(argv)
    return chosen.dry_run, chosen.json


def command(name: str, purpose: str, more: str = "", *, json: str = "") -> cli.Command:
    """The command line of a program that runs checks; ``more``: a sentence on its exit code."""
    exits = f"Exit code: 0 OK, 1 WARNING, 2 CRITICAL, 3 UNKNOWN (also for a wrong command line).{more}"
    return cli.Command(name, purpose, exits, dry_run="print the plan; do and store nothing", json=json, misuse=3)
