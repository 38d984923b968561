"""/mf/bin/quarantine: the quarantine for people and for cron."""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import os
import pwd
import sys
import time

from mf import cli, config, ssh, state, text

from . import QuarantineError, database, layout, query, schema, settings

TYPE_CHECKING = False
if TYPE_CHECKING:
    import shutil
    from collections.abc import Iterator, Sequence
    from typing import Any

    from mf import canary, decisions
    from mf.command import throttle

    from . import canaries, check, envelope, expire, importer, pull, release, repair
else:

    def _later(name):
        """A module that is read when it is first used: somebody waits for a list, which needs few of them."""
        name = importlib.util.resolve_name(name, __package__)
        if name not in sys.modules:
            spec = importlib.util.find_spec(name)
            spec.loader = importlib.util.LazyLoader(spec.loader)
            sys.modules[name] = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(sys.modules[name])
        return sys.modules[name]

    shutil = _later("shutil")
    canary, decisions = _later("mf.canary"), _later("mf.decisions")
    throttle = _later("mf.command.throttle")
    canaries, envelope, expire, importer = map(_later, (".canaries", ".envelope", ".expire", ".importer"))
    pull, release, repair = map(_later, (".pull", ".release", ".repair"))
    check = _later(".check")

DONE, FAILED, MISUSE = 0, cli.FAILED, cli.MISUSE
KEYS = "/mf/etc/quarantine"
THROTTLE_LIMIT = 600.0  # seconds that expire waits for the throttle before it goes on all the same
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
    try:
        return _parser().main(argv, places)
    except (QuarantineError, config.SettingsError) as error:
        return _fail(str(error))
    except OSError as error:
        return _fail(
            f"{text.clean(str(error.filename or ''), 200)}: {error.strerror}" if error.filename else str(error)
        )


# --- who runs this


def become(account: str = database.USER) -> str:
    """The name of the person behind this process; then root becomes the quarantine's own user.

    Raises QuarantineError when the caller is neither.
    """
    uid = os.getuid()
    who = os.environ.get("SUDO_USER", "") if uid == 0 else ""
    with contextlib.suppress(KeyError):
        who = who or pwd.getpwuid(uid).pw_name
    try:
        entry = pwd.getpwnam(account)
    except KeyError:
        raise QuarantineError(f"there is no user {account} here; deploy with playbooks/site.yml") from None
    if uid == 0:
        os.initgroups(account, entry.pw_gid)
        os.setgid(entry.pw_gid)
        os.setuid(entry.pw_uid)
        os.environ["HOME"] = entry.pw_dir
        os.chdir("/")
    elif uid != entry.pw_uid:
        raise QuarantineError(f"run this as root or as {account}")
    os.umask(0o027)
    return text.clean(who or str(uid), 64)


class Context:
    """What the commands work with; the database is connected when it is first asked for."""

    def __init__(self, host: state.Places) -> None:
        self.host = host
        self.who = become()
        self.settings = settings.load(host)
        self.layout = layout.Layout()
        self._index: dict[int, database.Database] = {}

    @property
    def index(self) -> database.Database:
        """This process's connection to the index, schema checked. Raises DatabaseError.

        A child has one of its own: on one that it shared, the statements of two would mix in one transaction.
        """
        mine = os.getpid()
        if mine not in self._index:
            self._index[mine] = database.Database()
        return self._index[mine]

    def lock(self, name: str, wait: float = 0.0) -> state.Lock:
        """A flock of the quarantine's own."""
        places = state.Places()
        places.locks = self.layout.locks
        return state.Lock(places, name, wait)

    def remote(self, mx: str, held: Sequence[int] = ()) -> pull.Remote:
        """rsync to an MX with the key that may only read."""
        return pull.Remote(self.settings.mx[mx], ssh.command(f"{KEYS}/pull.key", f"{KEYS}/known_hosts"), held)


# --- for people


def _list(chosen: argparse.Namespace, host: state.Places) -> int:
    context = Context(host)
    if chosen.day and (chosen.since or chosen.until):
        return _fail("say either --day or --since and --until", MISUSE)
    wanted = query.Wanted(
        domain=chosen.domain or "",
        start=layout.bound(chosen.since)[:22] if chosen.since else chosen.day.replace("-", "") if chosen.day else "",
        end=layout.bound(chosen.until)[:22]
        if chosen.until
        else chosen.day.replace("-", "") + "~"
        if chosen.day
        else "",
        mx=chosen.mx,
        sender=chosen.sender,
        recipient=chosen.recipient,
        subject=chosen.subject,
        before=chosen.before or "",
        limit=chosen.limit,
        plugin=chosen.plugin,
    )
    width = shutil.get_terminal_size((160, 24)).columns if sys.stdout.isatty() else 0
    for row in query.messages(context.index, wanted):
        print(row["id"] if chosen.ids else json.dumps(query.as_json(row)) if chosen.json else query.line(row, width))
    return DONE


def _show(chosen: argparse.Namespace, host: state.Places) -> int:
    context = Context(host)
    row = context.index.find(chosen.id)
    if row is None:
        return _fail(f"no message {chosen.id} ever came here")
    path = context.layout.path(row["domain"], chosen.id)
    if row["state"] != "kept":
        words = {"expired": "its time is over", "canary": "it was a canary", "bad": "it couldn't be imported; see bad/"}
        return _fail(f"{chosen.id} is not kept: {words.get(row['state'], row['state'])}")
    if chosen.raw:
        if sys.stdout.isatty():
            return _fail("a raw message may play tricks with the terminal; say: quarantine show --raw ID >FILE", MISUSE)
        with open(path, "rb") as file:
            file.readline(envelope.LINE_MAX)
            sys.stdout.flush()
            shutil.copyfileobj(file, sys.stdout.buffer, 1 << 20)
        return DONE
    try:
        with open(path, "rb") as file:
            full = envelope.parse(file.readline(envelope.LINE_MAX).rstrip(b"\n"), chosen.id)
            head = file.read(envelope.HEAD_MAX)
    except (OSError, envelope.DamagedError) as error:
        full, head = {}, b""
        print(f"quarantine: its file can't be read: {error}", file=sys.stderr)
    handover = release.find(context.index, chosen.id)
    if chosen.json:
        record = query.as_json(row) | {
            "recipients": full.get("recipients", []),
            "client_ip": full.get("client_ip", ""),
            "helo": full.get("helo", ""),
            "header": envelope.header(head).decode("latin-1"),
            "release": query.release_as_json(handover) if handover else None,
        }
        print(json.dumps(record))
    else:
        print(query.page(row, full, envelope.header(head), handover))
    return DONE if full else FAILED


def _release(chosen: argparse.Namespace, host: state.Places) -> int:
    context = Context(host)
    failed = False
    for ident in dict.fromkeys(chosen.id):
        problem, name, answer = "", "", None
        # by its last characters, which are random: nobody else releases this one meanwhile, and few files are made
        with context.lock(f"release-{sum(ident.encode()) % 64}", wait=release.LIMIT) as held:
            try:
                if not held:
                    raise release.ReleaseError("somebody else is releasing it just now")
                name, answer = _release_one(context, ident, chosen)
            except QuarantineError as error:
                problem, failed = str(error), True
        if chosen.json:
            word = answer.word if answer else None
            print(
                json.dumps(
                    {"id": ident, "released": word is not None, "mx": name, "answer": word, "error": problem or None}
                )
            )
        elif problem:
            print(f"quarantine: {ident}: {problem}", file=sys.stderr)
        elif answer is None:
            print(f"{ident}: would be handed to {name}")
        else:
            print(f"{ident}: {answer.word} by {name}: {answer.said}")
    return FAILED if failed else DONE


def _release_one(context: Context, ident: str, chosen: argparse.Namespace) -> tuple[str, release.Answer | None]:
    row = context.index.find(ident)
    if row is None:
        raise release.ReleaseError("no such message ever came here")
    path = context.layout.path(row["domain"], ident)
    known = {"lost": False, "truncated": False, **row}
    command = ssh.command(f"{KEYS}/release.key", f"{KEYS}/known_hosts")
    refusals: dict[str, str] = {}
    while True:
        handover = release.find(context.index, ident)
        try:
            name = release.choose(known, handover, context.settings.mx, chosen.mx, chosen.force, asked=list(refusals))
        except release.ReleaseError as error:
            # nobody is left; what those said who were asked says more
            raise release.ReleaseError("; ".join(refusals.values()) or str(error)) from None
        if not os.path.exists(path):
            raise release.ReleaseError("its file is gone; run: quarantine repair")
        if chosen.dry_run:
            return name, None
        try:
            return name, _ask(context, ident, name, chosen.by or context.who, command, path, handover)
        except release.LaterError as error:
            refusals[name] = str(error)
            if chosen.mx:
                raise


def _ask(
    context: Context,
    ident: str,
    name: str,
    who: str,
    command: Sequence[str],
    path: str,
    before: dict[str, Any] | None,
) -> release.Answer:
    """Hand a message to one MX. Raises ReleaseError."""
    address = context.settings.mx[name]
    return release.hand_over(
        context.index, ident, name, who, lambda: release.over_ssh(command, address, ident, path), before=before
    )


def _stats(chosen: argparse.Namespace, host: state.Places) -> int:
    context = Context(host)
    found = query.stats(context.index, chosen.domain or "", chosen.days)
    aside = check.count_bad(context.layout.bad)
    found["sources"] = [
        pull.Source(context.layout, name, time.time()).as_json() | {"bad": aside.get(name, 0)}
        for name in sorted({*context.settings.mx, *known_sources(context.layout)})
    ]
    if chosen.count:
        found["counted"] = int(context.index.rows("SELECT COUNT(*) FROM message")[0][0])
        found["ledger"] = {
            str(name): int(count)
            for name, count in context.index.rows("SELECT state, COUNT(*) FROM ledger GROUP BY state")
        }
    print(json.dumps(found) if chosen.json else query.stats_page(found))
    return DONE


def known_sources(places: layout.Layout) -> list[str]:
    """MXs that something was ever fetched from, in the inventory or not."""
    try:
        names = os.listdir(places.state)
    except FileNotFoundError:
        return []
    return sorted(
        name[:-5]
        for name in names
        if name.endswith(".json") and not name.startswith(canaries.PREFIX) and layout.is_host(name[:-5])
    )


# --- for cron, and for people in need


def _pull(chosen: argparse.Namespace, host: state.Places) -> int:
    context = Context(host)
    names = list(context.settings.mx)
    if chosen.mx:
        if unknown := sorted(set(chosen.mx) - set(names)):
            return _fail(f"no MX is called {text.clean(unknown[0], 64)}; there are {', '.join(sorted(names))}", MISUSE)
        names = chosen.mx
    else:
        # what an MX left here that is gone from the inventory is imported all the same
        names += [name for name in context.layout.stray() if name not in names]
    if chosen.dry_run:
        codes = pull.side_by_side(
            [name for name in names if name in context.settings.mx], lambda name: _would_pull(context, name, chosen)
        )
        return FAILED if any(codes.values()) else DONE
    now = time.time()
    # who didn't answer the last time comes last: with very many MXs, nobody waits for a place behind the dead
    names.sort(key=lambda name: bool(pull.Source(context.layout, name, now).error))
    codes = pull.side_by_side(names, lambda name: _pull_one(context, name, chosen))
    return FAILED if any(codes.values()) else DONE


def _would_pull(context: Context, mx: str, chosen: argparse.Namespace) -> int:
    """Say what one MX has that isn't here; nothing is changed."""
    try:
        names, foreign = pull.missing(context.remote(mx), context.index, pull.EVERYTHING)
    except (QuarantineError, OSError) as problem:
        print(f"quarantine: {mx}: {text.clean(str(problem), 300)}", file=sys.stderr)
        return FAILED
    size = sum(count for _, count in names)
    record = {"mx": mx, "missing": len(names), "bytes": size, "foreign": foreign, "dry_run": True}
    return _say(chosen, record, f"{mx}: would fetch {len(names)} messages, {query.amount(size)}")


def _pull_one(context: Context, mx: str, chosen: argparse.Namespace) -> int:
    """One MX, in a process of its own."""
    lock = context.lock(mx)
    with lock as held:
        if not held:
            if chosen.mx:
                print(f"{mx}: a pull is under way already")
            return DONE
        source = pull.Source(context.layout, mx, time.time())
        before, error = source.error, ""
        counts = importer.Counts()
        try:
            # said before the MX is asked, which may let us wait while it is throttled
            source.save(time.time())
            work = importer.Importer(
                context.index,
                context.layout,
                context.settings,
                mx,
                host=context.host,
                canaries=_canaries(context.layout),
            )
            counts = work.counts
            if mx in context.settings.mx:
                pull.Puller(
                    context.remote(mx, [lock.fileno()]),
                    context.index,
                    context.layout,
                    context.settings,
                    work,
                    source,
                    host=context.host,
                ).run(sweep=chosen.sweep)
            else:
                work.run(fresh=False)
                source.note(counts)
        except (QuarantineError, OSError) as problem:
            error = text.clean(str(problem), 300)
        source.error = error
        try:
            source.save(time.time())
        except OSError as problem:
            # a full disk, most likely: check-quarantine sees that for itself
            error = error or text.clean(str(problem), 300)
        if error and error != before:
            decisions.journal(f"quarantine: {mx}: {error}", {"PRIORITY": "4"})
        if chosen.json:
            print(json.dumps(source.as_json() | {"now": counts.as_json()}))
        elif error:
            print(f"quarantine: {mx}: {error}", file=sys.stderr)
        elif sys.stdout.isatty() or chosen.mx:
            told = ", ".join(f"{value} {name}" for name, value in counts.as_json().items() if value) or "nothing new"
            print(f"{mx}: {told}; {source.unpulled} still there")
    return FAILED if error else DONE


def _canaries(places: layout.Layout) -> canaries.Canaries:
    try:
        return canaries.Canaries(canary.read_key(f"{KEYS}/canary.key"), places.state)
    except canary.KeyFileError as error:
        raise QuarantineError(f"{error}; deploy again with playbooks/site.yml") from None


def _expire(chosen: argparse.Namespace, host: state.Places) -> int:
    context = Context(host)
    with context.lock("expire") as held:
        if not held:
            return _say(chosen, {"running": True}, "an expire is under way already")
        end: float = time.monotonic() + chosen.max

        def pause() -> bool:
            throttle.wait(context.host, min(THROTTLE_LIMIT, max(0.0, end - time.monotonic())))
            return time.monotonic() < end

        try:
            outcome = expire.run(
                context.index,
                context.layout,
                context.settings,
                dry_run=chosen.dry_run,
                pause=pause,
                trust_clock=chosen.trust_clock,
            )
        except expire.ClockError as error:
            # cron's runs have no other reader
            decisions.journal(f"quarantine: {error}", {"PRIORITY": "2"})
            raise
    verb = "would expire" if chosen.dry_run else "expired"
    words = f"{verb}: {outcome.messages} messages, {query.amount(outcome.bytes)}"
    if not outcome.finished:
        words += "; time is up, the next run goes on"
    return _say(chosen, outcome.as_json(), words)


def _repair(chosen: argparse.Namespace, host: state.Places) -> int:
    context = Context(host)
    terminal = sys.stderr.isatty()

    def progress(words: str) -> None:
        if terminal:
            print(f"\r\033[K{words[:100]}", end="", file=sys.stderr, flush=True)

    work = repair.Repair(context.index, context.layout, context.settings, dry_run=chosen.dry_run, progress=progress)
    work.compare()
    problems = work.fetch(_one_by_one(context))
    if terminal:
        print("\r\033[K", end="", file=sys.stderr, flush=True)
    if not chosen.dry_run:
        codes = pull.side_by_side(
            list(context.settings.mx),
            lambda name: _pull_one(context, name, argparse.Namespace(sweep=True, json=False, mx=None)),
        )
        asked = {problem.partition(":")[0] for problem in problems}
        problems += [
            f"{name}: not pulled, see quarantine stats" for name, code in codes.items() if code and name not in asked
        ]
    outcome = work.outcome
    for problem in problems:
        print(f"quarantine: {problem}", file=sys.stderr)
    verb = "would be" if chosen.dry_run else "were"
    parts = [
        f"{outcome.indexed} files {verb} indexed again",
        f"{outcome.removed} files whose time was over {verb} removed",
        f"{outcome.fetched} missing files {verb} fetched from an MX",
        f"{outcome.lost} rows have no file any more"
        + (", and not every MX could be asked" if problems and outcome.lost else ""),
    ]
    if outcome.lost_before:
        parts.append(f"{outcome.lost_before} were called lost before")
    if outcome.damaged:
        parts.append(f"{outcome.damaged} damaged files {verb} put aside in bad/store")
    code = _say(chosen, outcome.as_json() | {"problems": problems}, "; ".join(parts))
    return FAILED if problems or outcome.lost else code


def _one_by_one(context: Context) -> Iterator[tuple[str, pull.Remote | None]]:
    for mx in context.settings.mx:
        lock = context.lock(mx, wait=60.0)
        with lock as held:
            yield mx, context.remote(mx, [lock.fileno()]) if held else None


def _forget(chosen: argparse.Namespace, host: state.Places) -> int:
    context = Context(host)
    if chosen.mx in context.settings.mx:
        return _fail(f"{chosen.mx} is in the inventory; take it out there and deploy first")
    if chosen.mx not in known_sources(context.layout):
        return _fail(f"nothing is known of {text.clean(chosen.mx, 64)}; see quarantine stats")
    words = f"{chosen.mx}: {'would no longer be' if chosen.dry_run else 'no longer'} watched; what came from it stays"
    if not chosen.dry_run:
        os.unlink(f"{context.layout.state}/{chosen.mx}.json")
        with contextlib.suppress(FileNotFoundError):
            os.unlink(f"{context.layout.state}/{canaries.PREFIX}{chosen.mx}.json")
        decisions.journal(f"quarantine: {chosen.mx} forgotten by {context.who}", {"MF_ACTION": "forget"})
    return _say(chosen, {"mx": chosen.mx, "dry_run": chosen.dry_run}, words)


def _migrate(chosen: argparse.Namespace, host: state.Places) -> int:
    del host
    if os.getuid() != 0:
        return _fail("run this as root")
    done = database.migrate(dry_run=chosen.dry_run)
    words = "; ".join(f"would be done: {one}" if chosen.dry_run else one for one in done)
    return _say(
        chosen,
        {"done": done, "schema": schema.SCHEMA, "dry_run": chosen.dry_run},
        words or f"schema {schema.SCHEMA}: nothing to do",
    )


def _say(chosen: argparse.Namespace, record: dict[str, Any], words: str) -> int:
    print(json.dumps(record) if chosen.json else words)
    return DONE


def _fail(message: str, code: int = FAILED) -> int:
    print(f"quarantine: {message}", file=sys.stderr)
    return code


# --- the command line


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
        time.strptime(word, "%Y-%m-%d")
    except ValueError:
        raise ValueError(f"{text.clean(word, 40)!r} is no day; say for example 2026-11-25") from None
    return word


def _moment(word: str) -> float:
    """Epoch seconds of ``2026-11-25``, ``2026-11-25T14:30`` (UTC), or of ``2h`` ago."""
    for form in ("%Y-%m-%dT%H:%M:%S", "%Y-%m-%dT%H:%M", "%Y-%m-%d"):
        with contextlib.suppress(ValueError):
            return float(calendar_seconds(word, form))
    try:
        return time.time() - text.seconds(word)
    except ValueError:
        raise ValueError(
            f"{text.clean(word, 40)!r} is no time; say for example 2h, 2026-11-25 or 2026-11-25T14:30"
        ) from None


def calendar_seconds(word: str, form: str) -> int:
    """Epoch seconds of a UTC time in a format of strptime(3)."""
    import calendar

    return calendar.timegm(time.strptime(word, form))


def _count(word: str) -> int:
    if not word.isascii() or not word.isdigit() or len(word) > 9:
        raise ValueError(f"{text.clean(word, 40)!r} is no number")
    return int(word)


def _who(word: str) -> str:
    if not 0 < len(word) <= 64 or not word.isprintable():
        raise ValueError("a name has 1 to 64 printable characters")
    return word


def _parser() -> cli.Command:
    top = cli.Command("quarantine", "Rejected mail: look, release, count, keep in order.", _EPILOG)

    def command(name: str, work: cli.Work, purpose: str, *, dry_run: bool = False) -> argparse.ArgumentParser:
        parser = top.add(name, work, purpose, dry_run=dry_run)
        parser.add_argument("--json", action="store_true", help="for programs")
        return parser

    ident = cli.checked(_known_id)
    domain = cli.checked(_domain)
    moment = cli.checked(_moment)
    count = cli.checked(_count)

    listing = command("list", _list, "list messages, newest first")
    listing.add_argument("--domain", type=domain, help="of this recipient domain")
    listing.add_argument("--day", type=cli.checked(_day), help="rejected on this day")
    listing.add_argument("--since", type=moment, metavar="TIME", help="rejected since (2h: two hours ago)")
    listing.add_argument("--until", type=moment, metavar="TIME", help="rejected before")
    listing.add_argument("--mx", default="", metavar="NAME", help="rejected by this MX")
    listing.add_argument(
        "--plugin",
        default="",
        metavar="NAME",
        help="refused by this plugin (customer: accepted, refused by its server)",
    )
    for name in ("sender", "recipient", "subject"):
        listing.add_argument(f"--{name}", default="", metavar="TEXT", help=f"with this in its {name}")
    listing.add_argument("--before", type=ident, metavar="ID", help="older than this one: the next page")
    listing.add_argument("--limit", type=count, default=100, metavar="N", help="at most (default 100; 0: all)")
    listing.add_argument("--ids", action="store_true", help="ids and nothing else, one a line")

    show = command("show", _show, "show one message: envelope and header")
    show.add_argument("id", type=ident, metavar="ID")
    show.add_argument("--raw", action="store_true", help="the message itself, as it came")

    handing = command("release", _release, "hand messages to an MX, which delivers them; each once", dry_run=True)
    handing.add_argument("id", type=ident, nargs="+", metavar="ID")
    handing.add_argument(
        "--mx", metavar="NAME", help="to this MX (default: the one that rejected it, or one that answers)"
    )
    handing.add_argument("--by", type=cli.checked(_who), metavar="WHO", help="who asked for it (default: you)")
    handing.add_argument("--force", action="store_true", help="even if a second copy may arrive")

    stats = command("stats", _stats, "count messages, by domain, and what the MXs still have")
    stats.add_argument("--domain", type=domain, help="of this domain only")
    stats.add_argument("--days", type=count, default=0, metavar="N", help="of the last N days (default: all)")
    stats.add_argument("--count", action="store_true", help="count the rows as well: slow, and must be the same")

    ending = command("expire", _expire, "let go of what is older than its domain's retention (cron does)", dry_run=True)
    ending.add_argument(
        "--max",
        type=cli.duration,
        default=EXPIRE_LIMIT,
        metavar="TIME",
        help="for no longer than this (default 50m)",
    )
    ending.add_argument(
        "--trust-clock", action="store_true", help="although nothing has come for days by this host's clock"
    )

    pulling = command("pull", _pull, "fetch and import what the MXs have (cron does, each minute)", dry_run=True)
    pulling.add_argument("--mx", action="append", metavar="NAME", help="from this MX only")
    pulling.add_argument(
        "--sweep", action="store_true", help="look at all days that an MX has, not only the last hours"
    )

    command("repair", _repair, "hold files, index and MXs against each other, as after a restore", dry_run=True)

    forgetting = command("forget", _forget, "stop watching an MX that has left the inventory for good", dry_run=True)
    forgetting.add_argument("mx", metavar="MX")

    command(
        "migrate",
        _migrate,
        "create database and account, bring the schema up to date (the deployment does)",
        dry_run=True,
    )
    return top
