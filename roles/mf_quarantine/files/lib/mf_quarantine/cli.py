"""/mf/bin/quarantine: the quarantine for people and for cron. Its command line; the commands are in ``commands``."""

from __future__ import annotations

import argparse
import contextlib
import datetime as dt
import importlib
import time
from collections.abc import Sequence

from mf import cli, state, text

from . import context, layout

EXPIRE_LIMIT = 3000.0  # seconds of one expire; cron starts the next within an hour

_EPILOG = """\
Days are YYYY-MM-DD in UTC; an id is what list shows last. --json prints one JSON object a line.
root becomes the quarantine's own user (mf-quarantine) for all but migrate.

Exit codes: 0 done, 1 not done or not all of it (one line says why), 2 wrong command line, 130 interrupted.

Examples
  quarantine list --domain customer.example --day 2026-11-25
  quarantine list --domain customer.example --recipient jane --since 2h
  quarantine show ID            the envelope and the header
  quarantine show --raw ID >message.eml
  quarantine release ID         hand it to an MX, once
  quarantine list --plugin customer --domain customer.example --since 1d --limit 0 --ids | xargs quarantine release
  quarantine stats
"""


def main(argv: Sequence[str] | None = None, places: state.Places | None = None) -> int:
    """The command; returns its exit code."""
    return _parser().main(argv, places)


def _dispatch(name: str) -> cli.Work:
    """A command, to be imported when it is called, and carried out as the quarantine's own user."""

    def command(args: argparse.Namespace, host: state.Places) -> int:
        who = context.caller()
        context.drop_root()
        module = importlib.import_module(f".commands.{name}", __package__)
        code: int = module.run(args, context.Context(host, who))
        return code

    return command


def _migrate(args: argparse.Namespace, _: state.Places) -> int:
    """The one command that stays root."""
    from .commands import migrate

    return migrate.run(args)


# --- the types of arguments


def _known_id(word: str) -> str:
    if not layout.is_id(word):
        raise ValueError(f"{text.clean(word, 60)!r} is no id; quarantine list shows them")
    return word


def _domain(word: str) -> str:
    if not layout.is_domain(word.lower()):
        raise ValueError(f"{text.clean(word, 60)!r} is no domain")
    return word.lower()


def _day(word: str) -> str:
    try:
        return dt.datetime.strptime(word, "%Y-%m-%d").replace(tzinfo=dt.UTC).strftime("%Y-%m-%d")
    except ValueError:
        raise ValueError(f"{text.clean(word, 40)!r} is no day; say for example 2026-11-25") from None


def _moment(word: str) -> float:
    """Epoch seconds of ``2026-11-25``, ``2026-11-25T14:30`` (UTC), or of ``2h`` ago."""
    for form in ("%Y-%m-%dT%H:%M:%S", "%Y-%m-%dT%H:%M", "%Y-%m-%d"):
        with contextlib.suppress(ValueError):
            return dt.datetime.strptime(word, form).replace(tzinfo=dt.UTC).timestamp()
    try:
        return time.time() - text.seconds(word)
    except ValueError:
        raise ValueError(
            f"{text.clean(word, 40)!r} is no time; say for example 2h, 2026-11-25 or 2026-11-25T14:30"
        ) from None


def _count(word: str) -> int:
    if not word.isascii() or not word.isdigit() or len(word) > 9:
        raise ValueError(f"{text.clean(word, 40)!r} is no number")
    return int(word)


def _who(word: str) -> str:
    if not 0 < len(word) <= 64 or not word.isprintable():
        raise ValueError("a name has 1 to 64 printable characters")
    return word


# --- the command line


def _parser() -> cli.Command:
    top = cli.Command("quarantine", "Rejected mail: look, release, count, keep in order.", _EPILOG)

    def command(name: str, purpose: str, *, dry_run: bool = False) -> cli.Command:
        work = _migrate if name == "migrate" else _dispatch(name)
        return top.add(name, work, purpose, dry_run=dry_run, json="for programs")

    ident = cli.checked(_known_id)
    domain = cli.checked(_domain)
    moment = cli.checked(_moment)
    count = cli.checked(_count)

    list_ = command("list", "list messages, newest first")
    list_.add_argument("--domain", type=domain, help="of this recipient domain")
    list_.add_argument("--day", type=cli.checked(_day), help="rejected on this day")
    list_.add_argument("--since", type=moment, metavar="TIME", help="rejected since (2h: two hours ago)")
    list_.add_argument("--until", type=moment, metavar="TIME", help="rejected before")
    list_.add_argument("--mx", default="", metavar="NAME", help="rejected by this MX")
    list_.add_argument(
        "--plugin",
        default="",
        metavar="NAME",
        help="refused by this plugin (customer: accepted, refused by its server)",
    )
    for name in ("sender", "recipient", "subject"):
        list_.add_argument(f"--{name}", default="", metavar="TEXT", help=f"with this in its {name}")
    list_.add_argument("--before", type=ident, metavar="ID", help="older than this one: the next page")
    list_.add_argument("--limit", type=count, default=100, metavar="N", help="at most (default 100; 0: all)")
    list_.add_argument("--ids", action="store_true", help="ids and nothing else, one a line")

    show = command("show", "show one message: envelope and header")
    show.add_argument("id", type=ident, metavar="ID")
    show.add_argument("--raw", action="store_true", help="the message itself, as it came")

    release = command("release", "hand messages to an MX, which delivers them; each once", dry_run=True)
    release.add_argument("id", type=ident, nargs="+", metavar="ID")
    release.add_argument(
        "--mx", metavar="NAME", help="to this MX (default: the one that rejected it, or one that answers)"
    )
    release.add_argument("--by", type=cli.checked(_who), metavar="WHO", help="who asked for it (default: you)")
    release.add_argument("--force", action="store_true", help="even if a second copy may arrive")

    stats = command("stats", "count messages, by domain, and what the MXs still have")
    stats.add_argument("--domain", type=domain, help="of this domain only")
    stats.add_argument("--days", type=count, default=0, metavar="N", help="of the last N days (default: all)")
    stats.add_argument("--count", action="store_true", help="count the rows as well: slow, and must be the same")

    expire = command("expire", "let go of what is older than its domain's retention (cron does)", dry_run=True)
    limit = "for no longer than this (default 50m)"
    expire.add_argument("--max", type=cli.duration, default=EXPIRE_LIMIT, metavar="TIME", help=limit)
    expire.add_argument(
        "--trust-clock", action="store_true", help="although nothing has come for days by this host's clock"
    )

    pull = command("pull", "fetch and import what the MXs have (cron does, each minute)", dry_run=True)
    pull.add_argument("--mx", action="append", metavar="NAME", help="from this MX only")
    pull.add_argument("--sweep", action="store_true", help="look at all days that an MX has, not only the last hours")

    command("repair", "hold files, index and MXs against each other, as after a restore", dry_run=True)

    forget = command("forget", "stop watching an MX that has left the inventory for good", dry_run=True)
    forget.add_argument("mx", metavar="MX")

    command("migrate", "create database and account, bring the schema up to date (the deployment does)", dry_run=True)
    return top
