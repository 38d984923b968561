"""/mf/bin/monitor: show problems, acknowledge and silence them, send a test message."""

from __future__ import annotations

import getpass
import json
import os
import pwd
import sqlite3
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Self

from mf import cli, state, text

from . import settings, store, texts
from .page import model, snapshot

if TYPE_CHECKING:
    import argparse

_EPILOG = """\
Durations: 90s 15m 2h 1d. A pattern matches keys of incidents, as `status` shows them: service:mx1/smtp, host:mx1,
fleet, check:mx1/queue (a check's result), health:mx2 (health not known, or a hold); * matches anything.

Exit codes
  status    0 nothing is wrong, 1 something is, 2 something urgent is, 3 no current results (the monitor doesn't run)
  others    0 done, 1 not done, 2 wrong command line

Examples
  monitor status
  monitor ack 12 --by anna --ttl 2h
  monitor silence 'service:mx3/*' --ttl 4h --reason "new disk"
"""
SETTINGS = settings.DEFAULT_PATH
ACCOUNT = "mf-monitor"


def main(argv: Sequence[str] | None = None, path: str = SETTINGS) -> int:
    """The command; returns its exit code."""
    global SETTINGS
    SETTINGS = path
    try:
        return _parser().main(argv, None)
    except sqlite3.Error as error:
        print(f"monitor: the database can't be used: {text.clean(str(error))}", file=sys.stderr)
        return cli.FAILED


def _status(chosen: argparse.Namespace, _: state.Places) -> int:
    now = time.time()
    with _Opened(readonly=True) as opened:
        shot = snapshot.take(opened.store, opened.settings, now)
        last = opened.store.rows("SELECT max(checked) AS at FROM current")[0]["at"]
    age = now - last if last else None
    stale = age is None or age > shot.stale_after
    if chosen.json:
        print(json.dumps({**model.as_json(shot), "stale": stale}, indent=1))
    else:
        print("\n".join(_lines(shot, now)))
    if stale:
        seen = "nothing was ever probed" if age is None else f"the last probe was {text.span(age)} ago"
        print(f"monitor: {seen}; is mf-monitor.service running?", file=sys.stderr)
        return 3
    severities = {incident.severity for incident in shot.incidents.open}
    return 2 if "urgent" in severities else int(bool(severities))


def _lines(shot: model.Snapshot, now: float) -> list[str]:
    lines = [shot.fleet.sentence]
    if shot.connectivity.state == "down":
        lines.append("This monitor is offline.")
    for host in shot.hosts:
        services = " ".join(f"{service.name}={service.state}" for service in host.services)
        lines.append(f"  {text.clean(host.name, 40):<12} {host.state:<12} {services}  {text.clean(host.message)}")
    for incident in shot.incidents.open:
        marks = [f"acknowledged by {text.clean(incident.acked_by or '?', 32)}"] if incident.acked else []
        marks += ["silenced"] if incident.silenced else []
        more = f" ({', '.join(marks)})" if marks else ""
        named = f"#{incident.id} {incident.severity} {text.clean(incident.key, 60)}"
        lines.append(f"{named} for {text.span(now - incident.opened)}: {text.clean(incident.title)}{more}")
    for silence in shot.silences:
        left, why = text.span(silence.until - now), text.clean(silence.reason)
        lines.append(f"silence {silence.id}: {text.clean(silence.pattern, 60)} for {left} more ({why})")
    if shot.messages.waiting:
        lines.append(f"{shot.messages.waiting} messages wait, {shot.messages.failing} of them in vain so far")
    return lines


def _ack(chosen: argparse.Namespace, _: state.Places) -> int:
    now = time.time()
    with _Opened() as opened:
        known = {incident.id: incident for incident in opened.store.incidents.load()}
        wanted = list(known) if chosen.incident == "all" else [int(chosen.incident)]
        missing = [number for number in wanted if number not in known]
        if missing or not wanted:
            open_ = ", ".join(f"#{number}" for number in known) or "none"
            print(f"monitor: there is no open incident #{chosen.incident}; open: {open_}", file=sys.stderr)
            return cli.FAILED
        until = now + chosen.ttl if chosen.ttl else None
        for number in wanted:
            note = f"by {chosen.by}" + (f", for {text.span(chosen.ttl)}" if chosen.ttl else "")
            if not chosen.dry_run:
                with opened.store.writing():
                    opened.store.incidents.acknowledge(number, now, chosen.by, until)
                    opened.store.incidents.add_event(number, now, "acked", note)
            verb = "would be acknowledged" if chosen.dry_run else "acknowledged"
            print(f"#{number} {verb} {note}: {text.clean(known[number].title)}")
    return 0


def _silence(chosen: argparse.Namespace, _: state.Places) -> int:
    now = time.time()
    silenced = f"{text.clean(chosen.pattern, 60)} for {text.span(chosen.ttl)}"
    if chosen.dry_run:
        print(f"would silence {silenced}")
        return 0
    with _Opened() as opened, opened.store.writing():
        number = opened.store.incidents.add_silence(chosen.pattern, now + chosen.ttl, chosen.reason, chosen.by, now)
    print(f"silence {number}: {silenced}")
    return 0


def _unsilence(chosen: argparse.Namespace, _: state.Places) -> int:
    with _Opened() as opened:
        ended = any(silence.id == chosen.silence for silence in opened.store.incidents.silences(time.time()))
        if not chosen.dry_run:
            with opened.store.writing():
                ended = opened.store.incidents.end_silence(chosen.silence)
    verb = "would end" if chosen.dry_run else "has ended"
    print(f"silence {chosen.silence} {verb}" if ended else f"there is no silence {chosen.silence}")
    return 0 if ended else cli.FAILED


def _test(chosen: argparse.Namespace, _: state.Places) -> int:
    now = time.time()
    with _Opened() as opened:
        channels = [channel.name for channel in opened.settings.channels if chosen.channel in ("", channel.name)]
        if not channels:
            known = ", ".join(channel.name for channel in opened.settings.channels) or "none is set"
            print(
                f"monitor: there is no channel {text.clean(chosen.channel, 40)!r}; there are: {known}", file=sys.stderr
            )
            return cli.FAILED
        if chosen.dry_run:
            print(f"would send a test message to {', '.join(channels)}")
            return 0
        message = texts.compose(
            opened.settings.name, "TEST", [f"a test by {chosen.by}; all is well if you read it"], ""
        )
        with opened.store.writing():
            numbers = [opened.store.messages.enqueue(now, channel, "test", "notice", message) for channel in channels]
        print(f"queued for {', '.join(channels)}", flush=True)
        if not chosen.wait:
            return 0
        give_up = time.monotonic() + chosen.wait
        while True:
            sent = [message for message in opened.store.messages.newest(200) if message.id in numbers]
            if all(message.status == store.SENT for message in sent):
                print("taken by " + ", ".join(message.channel for message in sent))
                return 0
            if time.monotonic() > give_up:
                bad = [f"{each.channel}: {each.error or each.status}" for each in sent if each.status != store.SENT]
                print(f"monitor: not taken: {text.clean('; '.join(bad), 300)}", file=sys.stderr)
                return cli.FAILED
            time.sleep(0.2)


class _Opened:
    """Settings and store, opened as the monitor's account, so that no file is created as root."""

    def __init__(self, *, readonly: bool = False) -> None:
        self._readonly = readonly

    def __enter__(self) -> Self:
        self.settings = settings.load(SETTINGS)
        if not Path(self.settings.database).exists():
            raise store.StoreError(f"{self.settings.database} is missing; is mf-monitor.service running?")
        if os.geteuid() == 0:
            with suppress(KeyError):  # no such account: not a monitor that was deployed
                account = pwd.getpwnam(ACCOUNT)
                os.setgroups([])
                os.setgid(account.pw_gid)
                os.setuid(account.pw_uid)
        try:
            self.store = store.Store(self.settings.database, readonly=self._readonly, own=False)
        except sqlite3.Error as error:
            raise store.StoreError(f"{self.settings.database} can't be read: {error}") from None
        return self

    def __exit__(self, *_: object) -> None:
        self.store.close()


def _incident(value: str) -> str:
    plain = value.removeprefix("#")
    if plain != "all" and not (plain.isascii() and plain.isdigit() and len(plain) < 10):
        raise ValueError(f"{text.clean(value, 20)!r} is no incident; use its number, as 12 or #12, or all")
    return plain


def _pattern(value: str) -> str:
    if not value or len(value) > 100 or not value.isprintable():
        raise ValueError("a pattern is 1 to 100 printable characters")
    return value


def _operator() -> str:
    try:
        return os.environ.get("SUDO_USER") or getpass.getuser()
    except (KeyError, OSError):
        return pwd.getpwuid(0).pw_name


def _parser() -> cli.Command:
    top = cli.Command("monitor", "Show what the external monitor sees, and control its notifications.", _EPILOG)
    incident: Callable[[str], str] = cli.checked(_incident)
    pattern: Callable[[str], str] = cli.checked(_pattern)
    status = top.add("status", _status, "show hosts, incidents and silences")
    status.add_argument("--json", action="store_true", help="everything as one JSON object")
    ack = top.add("ack", _ack, "acknowledge an incident: no reminders, no escalation", dry_run=True)
    ack.add_argument("incident", type=incident, metavar="NUMBER", help="number of the incident, or all")
    ack.add_argument(
        "--ttl", type=cli.duration, default=0.0, metavar="TIME", help="for how long (default: until it is over)"
    )
    ack.add_argument("--by", type=cli.owner, default=_operator(), help="operator who handles it (default: you)")
    silence = top.add("silence", _silence, "send no messages about incidents that match a pattern", dry_run=True)
    silence.add_argument("pattern", type=pattern, metavar="PATTERN", help="keys of incidents, * matches anything")
    silence.add_argument("--ttl", type=cli.ttl, default=3600.0, metavar="TIME", help="1s to 7d (default: 1h)")
    silence.add_argument("--reason", type=cli.reason, default="", metavar="TEXT", help="why")
    silence.add_argument("--by", type=cli.owner, default=_operator(), help="operator (default: you)")
    unsilence = top.add("unsilence", _unsilence, "end a silence", dry_run=True)
    unsilence.add_argument("silence", type=int, metavar="NUMBER", help="number of the silence")
    test = top.add("test", _test, "send a test message", dry_run=True)
    test.add_argument("--channel", default="", metavar="NAME", help="only to this channel")
    test.add_argument(
        "--wait", type=cli.duration, default=0.0, metavar="TIME", help="wait until the gateway accepted it"
    )
    test.add_argument("--by", type=cli.owner, default=_operator(), help="operator (default: you)")
    return top
