"""Command lines of the checks: only parsed when there is something to parse (cron gives no arguments)."""

from __future__ import annotations

import argparse
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import NoReturn

_EXITS = "Exit code: 0 OK, 1 WARNING, 2 CRITICAL, 3 UNKNOWN (also for a wrong command line)."

PURPOSE = {
    "processes": "Find orphaned and stuck qpsmtpd processes and kill those that make no progress.",
    "smtp": "Hold a full SMTP transaction with qpsmtpd on loopback; restart it when it is really broken.",
    "load": "Compare the load with its thresholds; refuse new SMTP connections while it is high.",
    "queue": "Watch Exim behind qpsmtpd: running, oldest and frozen messages, room in its spool.",
    "backup": "See that backups, the repository's check and the restore drill are young enough and went well.",
    "offsite": "Watch the repository of the backups: room, age, and deletions that nobody asked for.",
}


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        print(f"{self.prog}: {message}; see {self.prog} --help", file=sys.stderr)
        raise SystemExit(3)


def one(check: str, argv: Sequence[str]) -> tuple[bool, bool]:
    """``(dry_run, as_json)`` of a single check's command line. Raises SystemExit: 0 after --help, 3 for misuse."""
    parser = _Parser(prog=f"check-{check}", description=PURPOSE.get(check), epilog=_EXITS, allow_abbrev=False)
    _common(parser)
    parser.add_argument("--json", action="store_true", help="print the stored result instead of a Nagios line")
    chosen = parser.parse_args(argv)
    return chosen.dry_run, chosen.json


def due(argv: Sequence[str]) -> tuple[bool, bool]:
    """``(dry_run, everything)`` of run-checks' command line. Raises SystemExit as ``one`` does."""
    parser = _Parser(
        prog="run-checks",
        description="Run the checks that are due this minute (cron does, every minute).",
        epilog=_EXITS + " Of several checks, the most urgent.",
        allow_abbrev=False,
    )
    _common(parser)
    parser.add_argument("--all", action="store_true", help="every check of this host, due or not")
    chosen = parser.parse_args(argv)
    return chosen.dry_run, chosen.all


def _common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dry-run", action="store_true", help="say what would be done; do and store nothing")
