"""/mf/bin/quarantine: the quarantine for operators and for cron. Its command line; each command is in ``commands``."""

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
Days are YYYY-MM-DD in UTC; an id is the last column of list. --json prints one JSON object a line.
As root, all commands but migrate run as the quarantine's own user (mf-quarantine).

Exit codes: 0 done, 1 failed, at least in part (with one line about the reason), 2 wrong command line, 130 interrupted.

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
    """A command, imported when it is called, and run as the quarantine's own user."""

    def command(args: argparse.Namespace, host: state.Places) -> int:
        caller = context.caller()
        context.drop_root()
        module = importlib.import_module(f".commands.{name}", __package__)
        code: int = module.run(args, context.Context(host, caller))
        return code

    return command


def _migrate(args: argparse.Namespace, _: state.Places) -> int:
    """The one command that stays root."""
    from .commands import migrate

    return migrate.run(args)


# --- the types of arguments


def _id(value: str) -> str:
    if not layout.is_id(value):
        raise ValueError(f"{text.clean(value, 60)!r} is no id; quarantine list shows them")
    return value


def _domain(value: str) -> str:
    if not layout.is_domain(value.lower()):
        raise ValueError(f"{text.clean(value, 60)!r} is no domain")
    return value.lower()


def _day(value: str) -> str:
    try:
        return dt.datetime.strptime(value, "%Y-%m-%d").replace(tzinfo=dt.UTC).strftime("%Y-%m-%d")
    except ValueError:
        raise ValueError(f"{text.clean(value, 40)!r} is no day; write for example 2026-11-25") from None


def _moment(value: str) -> float:
    """Epoch seconds of ``2026-11-25``, ``2026-11-25T14:30`` (UTC), or of ``2h`` ago."""
    for form in ("%Y-%m-%dT%H:%M:%S", "%Y-%m-%dT%H:%M", "%Y-%m-%d"):
        with contextlib.suppress(ValueError):
            return dt.datetime.strptime(value, form).replace(tzinfo=dt.UTC).timestamp()
    try:
        return time.time() - text.seconds(value)
    except ValueError:
        raise ValueError(
            f"{text.clean(value, 40)!r} is no time; write for example 2h, 2026-11-25 or 2026-11-25T14:30"
        ) from None


def _count(value: str) -> int:
    if not value.isascii() or not value.isdigit() or len(value) > 9:
        raise ValueError(f"{text.clean(value, 40)!r} is no number")
    return int(value)


def _name(value: str) -> str:
    if not 0 < len(value) <= 64 or not value.isprintable():
        raise ValueError("a name has 1 to 64 printable characters")
    return value


# --- the command line


def _parser() -> cli.Command:
    top = cli.Command("quarantine", "Rejected mail: list, show, release, count; maintain the quarantine.", _EPILOG)

    def command(name: str, purpose: str, *, dry_run: bool = False) -> cli.Command:
        work = _migrate if name == "migrate" else _dispatch(name)
        return top.add(name, work, purpose, dry_run=dry_run, json="for programs")

    ident = cli.checked(_id)
    domain = cli.checked(_domain)
    moment = cli.checked(_moment)
    count = cli.checked(_count)

    list_ = command("list", "list messages, newest first")
    list_.add_argument("--domain", type=domain, help="to recipients of this domain")
    list_.add_argument("--day", type=cli.checked(_day), help="rejected on this day")
    list_.add_argument("--since", type=moment, metavar="TIME", help="rejected since then (2h: two hours ago)")
    list_.add_argument("--until", type=moment, metavar="TIME", help="rejected before then")
    list_.add_argument("--mx", default="", metavar="NAME", help="rejected by this MX")
    list_.add_argument(
        "--plugin",
        default="",
        metavar="NAME",
        help="refused by this plugin (customer: accepted, refused by its server)",
    )
    for name in ("sender", "recipient", "subject"):
        list_.add_argument(f"--{name}", default="", metavar="TEXT", help=f"with this text in its {name}")
    list_.add_argument("--before", type=ident, metavar="ID", help="older than this message: the next page")
    list_.add_argument("--limit", type=count, default=100, metavar="N", help="at most so many (default 100; 0: all)")
    list_.add_argument("--ids", action="store_true", help="print only ids, one a line")

    show = command("show", "show one message: envelope and header")
    show.add_argument("id", type=ident, metavar="ID")
    show.add_argument("--raw", action="store_true", help="print the message itself, unchanged")

    release = command("release", "hand messages to an MX, which delivers each once", dry_run=True)
    release.add_argument("id", type=ident, nargs="+", metavar="ID")
    release.add_argument(
        "--mx", metavar="NAME", help="to this MX (default: the MX that rejected it, or another that answers)"
    )
    release.add_argument("--by", type=cli.checked(_name), metavar="WHO", help="on whose behalf (default: you)")
    release.add_argument("--force", action="store_true", help="even if a second copy may arrive")

    stats = command("stats", "count messages by domain, and messages not yet fetched by MX")
    stats.add_argument("--domain", type=domain, help="of this domain only")
    stats.add_argument("--days", type=count, default=0, metavar="N", help="of the last N days (default: all)")
    stats.add_argument("--count", action="store_true", help="also count the rows: slow; must give the same sums")

    expire = command("expire", "remove messages older than their domain's retention (run by cron)", dry_run=True)
    limit = "stop after this time (default 50m)"
    expire.add_argument("--max", type=cli.duration, default=EXPIRE_LIMIT, metavar="TIME", help=limit)
    expire.add_argument(
        "--trust-clock", action="store_true", help="even if this host's clock is days ahead of the newest message"
    )

    pull = command("pull", "fetch and import messages from the MXs (run by cron each minute)", dry_run=True)
    pull.add_argument("--mx", action="append", metavar="NAME", help="from this MX only")
    pull.add_argument("--sweep", action="store_true", help="list all days of an MX, not only the last hours")

    command("repair", "compare files, index and MXs, and repair differences, as after a restore", dry_run=True)

    forget = command("forget", "stop reporting an MX that has left the inventory for good", dry_run=True)
    forget.add_argument("mx", metavar="MX")

    command("migrate", "create database and account, bring the schema up to date (run by deployment)", dry_run=True)
    return top
