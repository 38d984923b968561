"""Command lines of the checks: only parsed when there is something to parse (cron gives no arguments)."""

from __future__ import annotations

from collections.abc import Sequence

from . import cli

_EXITS = "Exit code: 0 OK, 1 WARNING, 2 CRITICAL, 3 UNKNOWN (also for a wrong command line)."
_DRY_RUN = "print the plan; do and store nothing"
_MISUSE = 3

PURPOSE = {
    "processes": "Find orphaned and stuck qpsmtpd processes and kill those that make no progress.",
    "smtp": "Hold a full SMTP transaction with qpsmtpd on loopback; restart it when it is really broken.",
    "load": "Compare the load with its thresholds; refuse new SMTP connections while it is high.",
    "queue": "Watch Exim behind qpsmtpd: running, oldest and frozen messages, room in its spool.",
    "rejected": "Check that rejected mail is removed in time and that there is room for it.",
    "refused": "List accepted mail that customers' servers refused for good and that waits for an operator.",
    "quarantine": "Compare the mail that the MXs hold with the mail that was fetched, imported and indexed.",
    "canary": "Check that each MX's test messages reach the quarantine and the sink in time.",
    "backup": "Check that backups, the repository's check and the restore drill are recent and succeeded.",
    "offsite": "Watch the repository of the backups: room, age, and unexpected deletions.",
}


def check(name: str, argv: Sequence[str]) -> tuple[bool, bool]:
    """``(dry_run, as_json)`` of a single check's command line. Raises SystemExit: 0 after --help, 3 for misuse."""
    json = "print the stored result instead of a Nagios line"
    parser = cli.Command(f"check-{name}", PURPOSE.get(name, ""), _EXITS, dry_run=_DRY_RUN, json=json, misuse=_MISUSE)
    chosen = parser.parse_args(argv)
    return chosen.dry_run, chosen.json


def due(argv: Sequence[str]) -> tuple[bool, bool]:
    """``(dry_run, everything)`` of run-checks' command line. Raises SystemExit as ``check`` does."""
    parser = cli.Command(
        "run-checks",
        "Run the checks that are due this minute (cron does, every minute).",
        f"{_EXITS} Of several checks, the most urgent.",
        dry_run=_DRY_RUN,
        misuse=_MISUSE,
    )
    parser.add_argument("--all", action="store_true", help="every check of this host, due or not")
    chosen = parser.parse_args(argv)
    return chosen.dry_run, chosen.all
