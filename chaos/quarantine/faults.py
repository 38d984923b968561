"""Faults on the way to the quarantine."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Generator
from typing import Any, TypeAlias

from mflab import mail, quarantine
from mflab.reconcile import Account, reconcile

from chaos.quarantine.programs import BACK, CALM, CRON, FILL, HOSTILE, KILL, ON_MX, PUT, RETENTION, ROOM, ROWS, TWICE
from chaos.quarantine.stage import SETTLING, Stage
from chaos.scene import must

KILLS, MIDWAY = 20, 5  # of the importer that meet it, and of those that leave something half way


# Yields what was sent, once nothing is broken any more, perhaps several times; afterwards it may judge more, and
# returns words for the table.
Story: TypeAlias = Callable[[Stage], Generator[mail.Mailer, None, str]]
STORIES: dict[str, Story] = {}


def story(name: str) -> Callable[[Story], Story]:
    """Register a fault."""

    def register(function: Story) -> Story:
        STORIES[name] = function
        return function

    return register


@story("nothing broken")
def nothing(stage: Stage) -> Generator[mail.Mailer, None, str]:
    """The figures to compare the others with."""
    yield stage.send()
    return ""


@story("control down")
def control_down(stage: Stage) -> Generator[mail.Mailer, None, str]:
    """The whole machine is gone for a while: MXs keep the mail, nothing is fetched twice."""
    stage.stack.callback(lambda: stage.podman.run("start", stage.control.place.container, check=False))
    stage.podman.run("kill", stage.control.place.container)
    started = time.monotonic()
    mailer = stage.send()
    stage.until(f"{stage.down:.0f} s of outage", lambda: time.monotonic() - started >= stage.down, stage.down + 60)
    stage.podman.run("start", stage.control.place.container)
    yield mailer
    return f"for {time.monotonic() - started:.0f} s"


@story("importer killed at 20 random moments")
def importer_killed(stage: Stage) -> Generator[mail.Mailer, None, str]:
    """SIGKILL to the puller, its children and its rsync, wherever they are just then: every other time anywhere in a
    pull, otherwise between its first message in ``incoming`` and its end. Mail is under way all the while.
    """
    sending = stage.sending()
    hits = tries = midway = 0

    def pull(moment: str, after: str) -> dict[str, Any]:
        outcome: dict[str, Any] = json.loads(stage.control.python(KILL, quarantine.PULL, moment, after, limit=300))
        return outcome

    lasting = pull("fetched", "never")
    while not lasting["fetched"]:
        must(sending.busy(), "no pull fetched anything")
        lasting = pull("fetched", "never")
    while hits < KILLS or midway < MIDWAY:
        must(tries < 10 * KILLS, f"{hits} of {tries} kills met a process, {midway} left something half way")
        if not sending.busy():
            yield sending.join()
            sending = stage.sending()
        moment = "fetched" if tries % 2 else "begin"
        most = lasting["fetched"] if tries % 2 else lasting["all"]
        outcome = pull(moment, str(stage.choice.uniform(0.0, most)))
        tries += 1
        hits += outcome["killed"] > 0
        midway += outcome["half"]
    yield sending.join()
    return f"{hits} kills met it, {midway} left files half way, {tries} tried"


@story("database stopped")
def database_stopped(stage: Stage) -> Generator[mail.Mailer, None, str]:
    """MariaDB is gone while mail is fetched."""
    stage.undo(stage.control, "systemctl start mariadb.service")
    stage.control.run("systemctl stop mariadb.service")
    mailer = stage.send()
    stage.pulling().join(120)
    _noticed(stage, "MariaDB")
    stage.control.run("systemctl start mariadb.service")
    yield mailer
    stage.until("check-quarantine is content", lambda: stage.control.check("quarantine").get("status") == "OK", 180, 5)
    return "check-quarantine noticed"


@story("unknown schema version")
def schema_unknown(stage: Stage) -> Generator[mail.Mailer, None, str]:
    """The index is of a newer release: no command touches it."""
    stage.undo(stage.control, "mariadb mf_quarantine -e 'DELETE FROM schema_version WHERE version = 99'")
    stage.sql("INSERT INTO schema_version VALUES (99, UTC_TIMESTAMP())")
    mailer = stage.send(most=300)
    stage.pulling().join(120)
    _noticed(stage, "version 99")
    must(not stage.rows(mailer.run.id), "messages came into an index of an unknown schema")
    stage.sql("DELETE FROM schema_version WHERE version = 99")
    yield mailer
    return "check-quarantine noticed, the index was left alone"


def _noticed(stage: Stage, expected: str) -> None:
    result = stage.control.check("quarantine")
    must(
        result.get("status") in ("WARNING", "CRITICAL") and expected in str(result.get("summary")),
        f"check-quarantine doesn't speak of {expected}: {result.get('status')} {result.get('summary')}",
    )


@story("control's disk full")
def disk_full(stage: Stage) -> Generator[mail.Mailer, None, str]:
    """No byte left where the quarantine's files lie."""
    stage.undo(stage.control, BACK)
    stage.control.run(FILL, limit=300)
    _noticed(stage, "0.0% of space or inodes is left")
    mailer = stage.send()
    stage.pulling().join(120)
    _noticed(stage, "0.0% of space or inodes is left")
    must(not stage.rows(mailer.run.id), "messages are in the index though nothing can be written")
    stage.control.run(ROOM)
    yield mailer
    return "check-quarantine noticed at once"


@story("an MX gone for good")
def mx_gone(stage: Stage) -> Generator[mail.Mailer, None, str]:
    """What it still had is known to the message and alarmed; nothing else is missing. (In the end it comes back.)"""
    lost = stage.mxs[-1]
    stage.undo(stage.control, f"/mf/bin/throttle off --owner chaos; {CRON}")
    stage.stack.callback(lambda: stage.podman.run("start", stage.lab.host(lost).container, check=False))
    stage.host(lost).run("systemctl stop cron.service")  # no canaries any more: it must have what was listed
    stage.control.run(CALM, limit=300)
    mailer = stage.send(least=300)  # more than what is fetched at once while throttled
    record = mailer.wait(SETTLING)
    stage.control.run("/mf/bin/throttle on --owner chaos --mark-only --ttl 15m --reason test")
    before = stage.unpulled(lost)
    pull = threading.Thread(target=lambda: stage.control.ask("/mf/bin/quarantine pull", limit=600), daemon=True)
    pull.start()
    stage.until(f"{lost} is listed", lambda: stage.unpulled(lost) > before, 120, 0.5)
    there: dict[str, str] = json.loads(stage.host(lost).python(ON_MX))
    stage.podman.run("kill", stage.lab.host(lost).container)
    stage.control.run(f"/mf/bin/throttle off --owner chaos; {CRON}")
    pull.join(300)

    def account() -> Account:
        return reconcile(mailer.run.ends, record, kept=quarantine.kept(stage.podman, stage.lab, mailer.run.id).ids)

    def missing() -> set[str]:
        return set(there).difference(stage.sql("SELECT id FROM ledger"))

    stage.until("all but what was there is here", lambda: len(account().unkept) <= len(missing()), 300, 5)
    stage.until(
        "the count is what is missing",
        lambda: stage.unpulled(lost) == len(missing()),
        180,
        5,
        lambda: f"{stage.unpulled(lost)} known, {len(missing())} missing",
    )
    gone, reconciled = missing(), account()
    must(gone, f"nothing was left on {lost}")
    must(
        set(reconciled.unkept) == {there[ident] for ident in gone if there[ident]} and len(reconciled.faults()) == 1,
        f"others are missing: {reconciled.faults()}",
    )
    _noticed(stage, f"{len(gone)} messages known there and not fetched")
    _noticed(stage, lost)
    shown = json.loads(stage.control.run("/mf/bin/quarantine stats --json"))["sources"]
    must([source["unpulled"] for source in shown if source["mx"] == lost] == [len(gone)], f"stats shows {shown}")
    stage.podman.run("start", stage.lab.host(lost).container)
    yield mailer
    return f"{len(gone)} known to be on {lost}, shown and alarmed; all else was here"


@story("expired, and its MX still has it")
def expired(stage: Stage) -> Generator[mail.Mailer, None, str]:
    """An expired message stays on its MX for days and isn't imported again."""
    mx, domain, count = stage.mxs[0], f"old{stage.choice.randrange(10**9)}.example", 20
    restore = f"/usr/bin/python3 -c '{RETENTION}'"
    stage.undo(stage.control, restore)
    stage.put(mx, domain, b"Subject: old\n\nbody\n", ago=3, count=count)
    stage.sweep(mx)
    query = f"SELECT state, COUNT(*) FROM ledger WHERE domain = '{domain}' GROUP BY state"
    before = stage.sql(query)
    must(before == [f"kept\t{count}"], f"not imported: {before}")
    stage.control.python(RETENTION, domain, "2")
    stage.control.run("/mf/bin/quarantine expire", limit=300)
    mailer = stage.send(most=300)
    stage.sweep(mx)
    there = int(stage.host(mx).run(f"find /mf/var/rejected/*/{domain}/new -type f | wc -l"))
    must(there == count, f"{mx} has {there} of them any more, so nothing is shown")
    after = stage.sql(query) + stage.sql(f"SELECT id FROM message WHERE domain = '{domain}'")
    must(after == [f"expired\t{count}"], f"afterwards: {after}")
    left = stage.control.run(
        f"find /mf/var/quarantine/mail /mf/var/quarantine/incoming -path '*{domain}*' -type f | wc -l"
    )
    must(int(left) == 0, f"{left} files are here again")
    stage.control.ask(restore)
    yield mailer
    return f"{count} stayed away"


@story("bad input")
def bad_input(stage: Stage) -> Generator[mail.Mailer, None, str]:
    """Hostile mail through an MX's front door, damaged files in its folder: kept, or put aside and reported."""
    mx = stage.mxs[0]
    run = f"bad{stage.choice.randrange(10**9)}"
    sent = json.loads(stage.world.python(HOSTILE, stage.lab.host(mx).address, run, limit=300))
    zero = stage.put(mx, "zero.example", b"")
    half = stage.put(mx, "half.example", b"Subject: half\n\n" + b"x" * 1000, cut="10")
    empty = stage.put(mx, "empty.example", b"x", cut="all")
    dots = stage.put(mx, "..etc", b"Subject: dots\n\n")
    unfinished = stage.host(mx).python(PUT, "zero.example", "0", "1", "00", "tmp", "0").strip()
    mailer = stage.send(most=300)
    stage.sweep(mx)
    codes = {name: code for name, (code, _, _) in sent.items()}
    must(codes.pop("outside") in (501, 550, 553, 554) and set(codes.values()) == {552}, f"the MX answered {codes}")
    rows = json.loads(stage.control.python(ROWS, run, " ".join(sent)))
    must({name: len(listed) for name, listed in rows.items()} == dict.fromkeys(sent, 1) | {"outside": 0}, f"{rows}")
    for name in ("headless", "nul", "utf8"):
        must(rows[name][0]["end"].endswith(sent[name][1]), f"{name} isn't what was sent: {rows[name]}")
    huge = rows["huge"][0]
    # qpsmtpd goes on counting to its databytes, 50 MB, and what is kept is capped below that
    must(50_000_000 < huge["size"] < sent["huge"][2] and huge["truncated"], f"{huge}")
    must(huge["kept"] == 10 << 20 and huge["reason"] == "Message too big!", f"{huge}")
    states = dict(
        line.split("\t")
        for line in stage.sql(
            f"SELECT id, state FROM ledger WHERE id IN ('{zero}', '{half}', '{empty}', '{dots}', '{unfinished}')"
        )
    )
    must(states == {zero: "kept", half: "bad", empty: "bad"}, f"{states}; of {[zero, half, empty, dots, unfinished]}")
    aside = stage.control.run(f"ls /mf/var/quarantine/bad/{mx}").split()
    must({half, empty} <= set(aside), f"not put aside: {aside}")
    stage.undo(stage.control, f"rm -f /mf/var/quarantine/bad/{mx}/{half} /mf/var/quarantine/bad/{mx}/{empty}")
    _noticed(stage, f"{len(aside)} messages can't be imported and lie in /mf/var/quarantine/bad/{mx}")
    foreign = json.loads(stage.control.run(f"cat /mf/var/quarantine/state/{mx}.json"))["foreign"]
    must(foreign == 1, f"{foreign} foreign names")
    must(stage.control.ask("test -e /etc/new || test -e /mf/var/quarantine/etc")[0], "files outside the quarantine")
    code, output = stage.control.ask(f"/mf/bin/quarantine release {huge['id']} 2>&1")
    must(code == 1 and "half a message isn't released" in output, output)
    yield mailer
    return "4 kept from SMTP, 0 bytes kept, 2 put aside, 1 domain refused, 2 left"


@story("very many files in one directory, throttled half way")
def crowd(stage: Stage) -> Generator[mail.Mailer, None, str]:
    """With the marker on import goes at one message per 3 s and the load falls; off, it catches up."""
    stage.undo(stage.control, "/mf/bin/throttle off --owner chaos")
    domain = f"crowd{stage.choice.randrange(10**9)}.example"  # what an earlier run left isn't counted
    query = f"SELECT COUNT(*) FROM message WHERE domain = '{domain}'"

    def count() -> int:
        return int(stage.sql(query)[0])

    stage.control.run(CALM, limit=300)
    stage.undo(stage.control, CRON)
    stage.put(stage.mxs[0], domain, b"Subject: crowd\n\nbody\n", count=stage.crowd)
    idle = stage.load()
    pull = threading.Thread(
        target=lambda: stage.control.ask("/mf/bin/quarantine pull --sweep", limit=1200), daemon=True
    )
    began = time.monotonic()
    pull.start()
    stage.until("a third is imported", lambda: count() * 3 >= stage.crowd, 600)
    rate = count() / (time.monotonic() - began)
    busy = stage.load()
    stage.control.run("/mf/bin/throttle on --owner chaos --mark-only --ttl 15m --reason test")
    pace = stage.pace()
    # the batch that was under way when the marker came is let through
    time.sleep(pace)
    stage.until("the batch under way is over", lambda: _still(count, pace), 120)
    began, before = time.monotonic(), count()
    stage.until("the load has halved", lambda: stage.load() <= busy / 2, 300)
    stage.until("half a minute", lambda: time.monotonic() - began >= 30, 60)
    seconds, slow = time.monotonic() - began, count() - before
    must(0 < slow <= seconds / pace + 1, f"{slow} messages came in {seconds:.0f} s, and the pace is one in {pace:g} s")
    calm = stage.load()
    mailer = stage.send(most=300)
    stage.control.run(f"/mf/bin/throttle off --owner chaos; {CRON}")
    stage.until("all are imported", lambda: count() == stage.crowd, 900)
    pull.join(300)
    yield mailer
    left = int(stage.control.run("find /mf/var/quarantine/incoming -type f | wc -l"))
    must((count(), left) == (stage.crowd, 0), f"{count()} rows, {left} files in incoming")
    return (
        f"{stage.crowd} files, {rate:.0f} a second; throttled one in {seconds / slow:.1f} s,"
        f" load {idle:.1f}, {busy:.1f} at work, {calm:.1f} throttled; then it caught up"
    )


def _still(count: Callable[[], int], pace: float) -> bool:
    """Whether no more than the pace allows comes now."""
    before = count()
    time.sleep(2 * pace)
    return count() - before <= 3


@story("two equal messages")
def equal(stage: Stage) -> Generator[mail.Mailer, None, str]:
    """The same bytes twice are two messages."""
    mailer = stage.send()
    stage.world.python(TWICE, stage.lab.host(stage.mxs[0]).address, mailer.run.id)
    yield mailer
    name = f"{mailer.run.id}-same"

    def copies() -> int:
        quarantine.pull(stage.podman, stage.lab)
        return quarantine.kept(stage.podman, stage.lab, mailer.run.id).ids.count(name)

    stage.until("two copies of it are in the quarantine", lambda: copies() >= 2, 180)
    must(copies() == 2, "more than two copies")
    return "both kept"
