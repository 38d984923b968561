"""`python -m chaos.quarantine`: mail while the way to the quarantine is broken; what becomes of each message.

In every fault real mail, most of it spam, goes through the MXs while something is broken; then it is put right, and
cron and the puller do the rest. Judged by the messages' ids over both ends: sent = delivered + quarantined + refused
before DATA, nothing doubled, and every row of the index has its file. The lab needs the MXs, `control1` and `world`,
deployed.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import threading
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from typing import Any, TypeAlias

from mflab import hosts, machine, mail, quarantine, ui
from mflab.podman import Podman, PodmanError
from mflab.reconcile import Account, reconcile
from mflab.spec import EXIT_INTERRUPTED, EXIT_USAGE, Lab, LabError, open_lab

from chaos import ROOT
from chaos.scene import Deviation, Host, must

LAB = "3"
SPAM, STRANGERS = 0.6, 0.05
KILLS, MIDWAY = 20, 5  # of the importer that meet it, and of those that leave something half way
SENDING = 900.0  # s a message may be tried
SETTLING = 900.0  # s until everything must have arrived, once nothing is broken any more

# $1 a pull, $2 "begin" or "fetched", $3 seconds or "never": begin a pull as cron does; so long after its begin, or
# after the first message it fetched lay in incoming, kill it, its children and its rsync. Prints JSON: how many were
# killed, whether they left something half way (what lies in incoming isn't what lay there), and what a pull that wasn't
# killed took: seconds in all, and from the first message fetched.
KILL = """
import json, os, pwd, signal, subprocess, sys, time
command, moment, after = sys.argv[1:]
owner = pwd.getpwnam("mf-quarantine").pw_uid

def lying():
    return {name for _, _, names in os.walk("/mf/var/quarantine/incoming") for name in names}

def kill():
    count = 0
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            if os.stat("/proc/" + pid).st_uid == owner:
                os.kill(int(pid), signal.SIGKILL)
                count += 1
        except (FileNotFoundError, ProcessLookupError):
            pass
    return count

before = lying()
pull = subprocess.Popen(["sh", "-c", command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
began = time.monotonic()
fetched = None
while moment == "fetched" and pull.poll() is None and fetched is None:
    if lying() - before:
        fetched = time.monotonic()
    time.sleep(0.001)
killed, left = 0, set()
if after != "never":
    time.sleep(float(after))
    killed = kill()
    left = lying()
pull.wait()
ended = time.monotonic()
print(json.dumps({"killed": killed, "half": bool(left) and left != before, "all": ended - began,
                  "fetched": ended - fetched if fetched else None}))
"""
# Nobody pulls any more: cron doesn't begin it, and what was under way is over.
CALM = """
systemctl stop cron.service
while pgrep -u mf-quarantine > /dev/null; do sleep 0.2; done
"""
CRON = "systemctl start cron.service"
# A file system of 24 MiB over the quarantine's, with all but the kept mail in it, then filled.
FILL = f"""{CALM}
mkdir -p /run/chaos-below
mount --bind /mf/var/quarantine /run/chaos-below
mount -t tmpfs -o size=24m,mode=0750,uid=$(id -u mf-quarantine),gid=$(id -g mf-quarantine) chaos /mf/var/quarantine
install -d -o mf-quarantine -g mf-quarantine -m 0750 /mf/var/quarantine/mail
for part in /run/chaos-below/*; do [ "${{part##*/}}" = mail ] || cp -a "$part" /mf/var/quarantine/; done
dd if=/dev/zero of=/mf/var/quarantine/full bs=4k 2> /dev/null || :
{CRON}
"""
ROOM = "rm -f /mf/var/quarantine/full; mount -o remount,size=256m /mf/var/quarantine"
BACK = f"""{CALM}
if mountpoint -q /mf/var/quarantine; then
  rm -rf /run/chaos-below/incoming/*
  cp -a /mf/var/quarantine/. /run/chaos-below/ && umount /mf/var/quarantine
fi
if mountpoint -q /run/chaos-below; then umount /run/chaos-below; fi
rm -f /mf/var/quarantine/full
{CRON}
"""
# What an MX keeps, as {id: X-Lab-Id or ""}.
ON_MX = """
import glob, json, re
found = {}
for path in glob.glob("/mf/var/rejected/*/*/new/*"):
    with open(path, "rb") as source:
        name = re.search(rb"^X-Lab-Id: (\\S+)\\r?$", source.read(65536), re.MULTILINE)
    found[path.rpartition("/")[2]] = name[1].decode("latin-1") if name else ""
print(json.dumps(found))
"""
# $1 domain, $2 days ago, $3 how many, $4 the message in hex, $5 box, $6 bytes cut off at the end ("all": each byte).
# Files as mf_keep_rejected writes them, but for what is cut off; prints the first's id.
PUT = """
import hashlib, json, os, pwd, socket, sys, time
domain, ago, count, body, box, cut = sys.argv[1:]
body, count = bytes.fromhex(body), int(count)
when, host, owner = time.time() - float(ago) * 86400, socket.gethostname(), pwd.getpwnam("qpsmtpd")
day, stamp = time.strftime("%Y-%m-%d %Y%m%dT%H%M%S", time.gmtime(when)).split()
folder = f"/mf/var/rejected/{day}/{domain}/{box}"
for path in (f"/mf/var/rejected/{day}", f"/mf/var/rejected/{day}/{domain}", folder):
    os.makedirs(path, 0o750, exist_ok=True)
    os.chown(path, owner.pw_uid, owner.pw_gid)
first = ""
for number in range(count):
    name = f"{stamp}.{number:06d}Z-{host}-{os.getpid()}-{number}-{time.time_ns():016x}.0"
    first = first or name
    envelope = {"id": name, "message": name[:-2], "host": host, "received": "", "sender": f"put@{domain}",
                "recipients": [f"user@{domain}"], "client_ip": "192.0.2.1", "helo": "world.example", "plugin": "chaos",
                "reason": "test", "size": len(body), "truncated": False, "sha256": hashlib.sha256(body).hexdigest()}
    data = json.dumps(envelope).encode() + b"\\n" + body
    data = b"" if cut == "all" else data[: len(data) - int(cut)]
    descriptor = os.open(f"{folder}/{name}", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o640)
    os.write(descriptor, data)
    os.fchown(descriptor, owner.pw_uid, owner.pw_gid)
    os.close(descriptor)
print(first)
"""
# $1 address, $2 run
TWICE = """
import smtplib, sys
GTUBE = "XJS*C4JDBQADN1.NSBN3*2IDNEN*GTUBE-STANDARD-ANTI-UBE-TEST-EMAIL*C.34X"
lines = ["X-Lab-Id: " + sys.argv[2] + "-same", "Subject: the same", "", GTUBE, ""]
for _ in range(2):
    link = smtplib.SMTP(sys.argv[1], 25, timeout=30)
    try:
        link.sendmail("a@world.example", ["user@customer.example"], "\\r\\n".join(lines))
        raise SystemExit("it was accepted")
    except smtplib.SMTPDataError:
        link.quit()
"""

# $1 address, $2 run: hostile mail by SMTP; prints what became of each, and the end of what was sent, in hex.
HOSTILE = """
import json, socket, sys
GTUBE = b"XJS*C4JDBQADN1.NSBN3*2IDNEN*GTUBE-STANDARD-ANTI-UBE-TEST-EMAIL*C.34X\\r\\n"
LINE = b"x" * 998 + b"\\r\\n"
messages = {
    "headless": [b"\\r\\n", GTUBE, b"no header at all\\r\\n"],
    "nul": [b"Subject: a\\0b\\r\\n\\r\\n", GTUBE, b"\\0\\0 c\\0\\r\\n"],
    "utf8": [b"Subject: \\xff\\xfe\\xc3(\\r\\n\\r\\n", GTUBE, b"\\xc3(\\xed\\xa0\\x80\\xff\\r\\n"],
    "huge": [b"Subject: huge\\r\\n\\r\\n", GTUBE] + [LINE] * 200000,
    "outside": [],
}
found = {}
for name, parts in messages.items():
    line = socket.create_connection((sys.argv[1], 25), 30)
    line.settimeout(300)
    reader = line.makefile("rb")
    def ask(data):
        if data:
            line.sendall(data)
        while (said := reader.readline())[3:4] == b"-":
            pass
        return int(said[:3])
    ask(b"")
    ask(b"EHLO world.example\\r\\n")
    ask(f"MAIL FROM:<{name}-{sys.argv[2]}@world.example>\\r\\n".encode())
    code = ask(b"RCPT TO:<user@%s>\\r\\n" % (b"customer.example" if parts else b"../../etc"))
    if code == 250:
        ask(b"DATA\\r\\n")
        for part in parts:
            line.sendall(part)
        code = ask(b".\\r\\n")
    found[name] = [code, b"".join(parts[-1:]).replace(b"\\r\\n", b"\\n").hex(), sum(map(len, parts))]
    ask(b"QUIT\\r\\n")
print(json.dumps(found))
"""
# $1 run, $2 names: the rows of mail from NAME-RUN@, each with the end of its raw message, in hex.
ROWS = """
import json, subprocess, sys
found = {}
for name in sys.argv[2].split():
    done = subprocess.run(["/mf/bin/quarantine", "list", "--json", "--sender", f"{name}-{sys.argv[1]}@"],
                          capture_output=True, check=True, text=True)
    found[name] = [json.loads(line) for line in done.stdout.splitlines()]
    for row in found[name]:
        raw = subprocess.run(["/mf/bin/quarantine", "show", "--raw", row["id"]], capture_output=True, check=True).stdout
        row["end"] = raw[-100:].hex()
print(json.dumps(found))
"""
# $1 domain, $2 days or nothing: its retention in the settings; without days as it was deployed.
RETENTION = """
import json, os, sys
path, before = "/mf/etc/mf.json", "/run/chaos-mf.json"
if len(sys.argv) < 3:
    if os.path.exists(before):
        data = open(before).read()
        os.unlink(before)
        open(path, "w").write(data)
else:
    data = open(path).read()
    open(before, "w").write(data)
    settings = json.loads(data)
    settings["quarantine"]["retention"][sys.argv[1]] = int(sys.argv[2])
    open(path, "w").write(json.dumps(settings))
"""


@dataclass
class Outcome:
    """One row of the table."""

    name: str
    ok: bool = False
    words: str = ""
    sent: int = 0
    delivered: int = 0
    quarantined: int = 0
    refused_early: int = 0
    seconds: float = 0.0
    faults: list[str] = field(default_factory=list)


class Stage:
    """The lab, and one run of mail through it."""

    def __init__(self, podman: Podman, lab: Lab, count: int, down: float, crowd: int) -> None:
        self.podman = podman
        self.lab = lab
        self.count = count
        self.crowd = crowd
        self.down = down
        up = [name for name, entry in hosts.listed(podman, lab).items() if entry.get("State") == "running"]
        self.mxs = [name for name in ("mx1", "mx2", "mx3") if lab.host(name).container in up]
        if not self.mxs or not {lab.host(name).container for name in ("control1", "world")} <= set(up):
            raise LabError(f"lab {lab.number} has no MX, control1 and world; run: make demo MF_LAB={lab.number}")
        self.control = Host(podman, lab.host("control1"))
        before = self.control.check("quarantine")
        if before.get("status") != "OK":
            raise LabError(f"control1 isn't well before anything is broken; mend that first: {before.get('summary')}")
        self.world = Host(podman, lab.host("world"))
        self.choice = random.Random()
        self.stack = ExitStack()

    def host(self, name: str) -> Host:
        """A host of the lab."""
        return Host(self.podman, self.lab.host(name))

    def undo(self, host: Host, script: str) -> None:
        """Have this run in the end, whatever happens; that it was done already is no news."""
        self.stack.callback(lambda: host.ask(script))

    def send(self, most: int = 1_000_000, least: int = 0) -> mail.Mailer:
        """Send the mail of one run, so many messages at most and at least; returns when each is accepted or refused."""
        mailer = mail.Mailer(self.podman, self.lab, show=False)
        mailer.send(max(least, min(self.count, most)), SPAM, STRANGERS, SENDING)
        return mailer

    def sending(self) -> Sending:
        """The same beside other things."""
        return Sending(self)

    def pulling(self) -> threading.Thread:
        """A pull as cron starts it, in the background."""
        thread = threading.Thread(target=quarantine.pull, args=(self.podman, self.lab), daemon=True)
        thread.start()
        return thread

    def unpulled(self, mx: str) -> int:
        """How many messages control knows to be on that MX and has not imported."""
        found = json.loads(self.control.run(f"cat /mf/var/quarantine/state/{mx}.json"))
        return int(found["unpulled"])

    def sweep(self, *mxs: str) -> None:
        """Pull all days that some MXs have, now, after what is under way."""
        which = " ".join(f"--mx {mx}" for mx in mxs)
        self.control.ask(f"{CALM} /mf/bin/quarantine pull --sweep {which}; {CRON}", limit=300)

    def sql(self, query: str) -> list[str]:
        """The rows of a query of the index, as MariaDB's own client prints them."""
        return self.control.run('mariadb --batch --skip-column-names mf_quarantine -e "$1"', query).splitlines()

    def put(self, mx: str, domain: str, body: bytes, *, ago: float = 0, count: int = 1, cut: str = "0") -> str:
        """Leave files on an MX as if it had rejected messages; returns the first one's id."""
        host = self.host(mx)
        self.undo(host, f"rm -rf /mf/var/rejected/*/'{domain}'")
        return host.python(PUT, domain, str(ago), str(count), body.hex(), "new", cut, limit=300).strip()

    def load(self) -> float:
        """Control's load average of the last minute."""
        return float(self.control.run("cat /proc/loadavg").split()[0])

    def pace(self) -> float:
        """Seconds between two imported messages on control while it is throttled, as it is configured."""
        return float(json.loads(self.control.run("cat /mf/etc/mf.json"))["quarantine"]["import_throttle_sleep"])

    def rows(self, run: str) -> int:
        """How many messages of a run the quarantine has; 0 while it can't be asked."""
        found = quarantine.look(self.podman, self.lab, run)
        return len(found.ids) if found else 0

    def until(
        self,
        what: str,
        condition: Callable[[], bool],
        limit: float,
        every: float = 1.0,
        instead: Callable[[], str] = lambda: "",
    ) -> float:
        """Wait for a condition; returns the seconds taken. ``instead`` says what there is when it doesn't come."""
        started = time.monotonic()
        while not condition():
            if time.monotonic() - started > limit:
                found = instead()
                raise Deviation(f"not within {limit:.0f} s: {what}{f' ({found})' if found else ''}")
            time.sleep(every)
        return time.monotonic() - started


class Sending:
    """Mail on its way in a thread of its own."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._mailer: mail.Mailer | None = None
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def _work(self) -> None:
        try:
            self._mailer = self._stage.send()
        except BaseException as error:  # noqa: BLE001  (raised by `join`)
            self._error = error

    def busy(self) -> bool:
        """Whether messages are still being sent."""
        return self._thread.is_alive()

    def join(self) -> mail.Mailer:
        """Wait until all are decided."""
        self._thread.join(SENDING + 60)
        if self._error is not None:
            raise self._error
        if self._mailer is None:
            raise Deviation("sending didn't come to its end")
        return self._mailer


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
    """The measure of the others."""
    yield stage.send()
    return ""


@story("control down")
def control_down(stage: Stage) -> Generator[mail.Mailer, None, str]:
    """The whole machine is gone for a while: MXs keep, nothing is asked twice."""
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
        found: dict[str, Any] = json.loads(stage.control.python(KILL, quarantine.PULL, moment, after, limit=300))
        return found

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
        found = pull(moment, str(stage.choice.uniform(0.0, most)))
        tries += 1
        hits += found["killed"] > 0
        midway += found["half"]
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
    """The index is of a newer release: nobody touches it."""
    stage.undo(stage.control, "mariadb mf_quarantine -e 'DELETE FROM schema_version WHERE version = 99'")
    stage.sql("INSERT INTO schema_version VALUES (99, UTC_TIMESTAMP())")
    mailer = stage.send(most=300)
    stage.pulling().join(120)
    _noticed(stage, "version 99")
    must(not stage.rows(mailer.run.id), "messages came into an index that nobody knows")
    stage.sql("DELETE FROM schema_version WHERE version = 99")
    yield mailer
    return "check-quarantine noticed, the index was left alone"


def _noticed(stage: Stage, word: str) -> None:
    result = stage.control.check("quarantine")
    must(
        result.get("status") in ("WARNING", "CRITICAL") and word in str(result.get("summary")),
        f"check-quarantine doesn't speak of {word}: {result.get('status')} {result.get('summary')}",
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
    gone, found = missing(), account()
    must(gone, f"nothing was left on {lost}")
    must(
        set(found.unkept) == {there[ident] for ident in gone if there[ident]} and len(found.faults()) == 1,
        f"others are missing: {found.faults()}",
    )
    _noticed(stage, f"{len(gone)} messages known there and not fetched")
    _noticed(stage, lost)
    shown = json.loads(stage.control.run("/mf/bin/quarantine stats --json"))["sources"]
    must([one["unpulled"] for one in shown if one["mx"] == lost] == [len(gone)], f"stats shows {shown}")
    stage.podman.run("start", stage.lab.host(lost).container)
    yield mailer
    return f"{len(gone)} known to be on {lost}, shown and alarmed; all else was here"


@story("expired, and its MX still has it")
def expired(stage: Stage) -> Generator[mail.Mailer, None, str]:
    """What has expired is left on its MX for days, and isn't imported again."""
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
    """Hostile mail through an MX's front door, damaged files in its folder: kept as it is, or put aside, and said."""
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
    must(codes.pop("outside") in (501, 550, 553, 554) and set(codes.values()) == {552}, f"the MX said {codes}")
    rows = json.loads(stage.control.python(ROWS, run, " ".join(sent)))
    must({name: len(found) for name, found in rows.items()} == dict.fromkeys(sent, 1) | {"outside": 0}, f"{rows}")
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
    code, said = stage.control.ask(f"/mf/bin/quarantine release {huge['id']} 2>&1")
    must(code == 1 and "half a message isn't released" in said, said)
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


def perform(stage: Stage, name: str) -> Outcome:
    """One fault, its mail, and the account of it."""
    outcome = Outcome(name)
    started = time.monotonic()
    steps = STORIES[name](stage)
    try:
        try:
            while True:
                _judge(stage, next(steps), outcome)
        except StopIteration as end:
            outcome.words = str(end.value)
        finally:
            steps.close()
            stage.stack.close()
    except (Deviation, PodmanError, LabError) as error:
        outcome.faults.append(ui.clean(str(error)))
    except (ArithmeticError, LookupError, OSError, ValueError) as error:
        # an answer that nobody expected: the next fault is worth its while all the same
        outcome.faults.append(ui.clean(f"{type(error).__name__}: {error}"))
    outcome.seconds = time.monotonic() - started
    outcome.ok = not outcome.faults
    return outcome


def _judge(stage: Stage, mailer: mail.Mailer, outcome: Outcome) -> None:
    """Wait until all that was sent has come to its end, and add it to the account."""
    record = mailer.wait(SETTLING)
    stage.until("the quarantine answers", lambda: quarantine.look(stage.podman, stage.lab, "0") is not None, 120)
    mailer.wait_for_quarantine(SETTLING)
    account = reconcile(mailer.run.ends, record, stopped=False, kept=mailer.run.kept)
    outcome.sent += account.sent
    outcome.delivered += account.delivered
    outcome.quarantined += account.quarantined or 0
    outcome.refused_early += account.refused_early
    outcome.faults += account.faults()
    if mailer.run.missing:
        outcome.faults.append(f"{len(mailer.run.missing)} rows without a file")


def main() -> int:
    """Run it; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m chaos.quarantine",
        description=(__doc__ or "").split("\n\n", 1)[1],
        epilog="Exit codes: 0 every message is accounted for, 1 not so, 2 wrong command line, 130 interrupted",
    )
    parser.add_argument("--only", default="", metavar="WORD", help="faults with this word in their name")
    parser.add_argument("--count", type=int, default=5000, metavar="N", help="messages in each (default 5000)")
    parser.add_argument("--down", type=float, default=300, metavar="S", help="how long control is down (default 300)")
    parser.add_argument(
        "--crowd", type=int, default=100_000, metavar="N", help="files in one directory (default 100000)"
    )
    parser.add_argument("--json", action="store_true", help="for programs")
    args = parser.parse_args()
    names = [name for name in STORIES if args.only in name]
    if not names or args.count < 10:
        print("chaos.quarantine: no such fault, or less than 10 messages", file=sys.stderr)
        return EXIT_USAGE
    os.environ.setdefault("MF_LAB", LAB)
    os.environ["ANSIBLE_CONFIG"] = str(ROOT / "ansible.cfg")
    lab = open_lab(None)
    outcomes = []
    try:
        stage = Stage(Podman(machine.look(lab.home.parent)), lab, args.count, args.down, args.crowd)
        for name in names:
            outcomes.append(perform(stage, name))
            if not args.json:
                print(line(outcomes[-1]), flush=True)
    except LabError as error:
        print(f"chaos.quarantine: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    if args.json:
        print(json.dumps([asdict(one) for one in outcomes], indent=2))
    else:
        rows: list[Sequence[Any]] = [
            (one.name, one.sent, one.delivered, one.quarantined, one.refused_early, "yes" if one.ok else "NO")
            for one in outcomes
        ]
        print(ui.table(("fault", "sent", "delivered", "quarantined", "refused before DATA", "all there"), rows))
    return int(any(not one.ok for one in outcomes))


def line(outcome: Outcome) -> str:
    """One outcome for people."""
    what = "; ".join(outcome.faults) if outcome.faults else outcome.words
    return f"{'ok ' if outcome.ok else 'NO '} {outcome.name} ({outcome.seconds:.0f} s){': ' + what if what else ''}"


if __name__ == "__main__":
    sys.exit(main())
