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
from mflab.reconcile import reconcile
from mflab.spec import EXIT_INTERRUPTED, EXIT_USAGE, Lab, LabError, open_lab

from chaos import ROOT
from chaos.scene import Deviation, Host, must

LAB = "3"
SPAM, STRANGERS = 0.6, 0.05
SENDING = 900.0  # s a message may be tried
SETTLING = 900.0  # s until everything must have arrived, once nothing is broken any more

# The pullers' processes and what they started; prints how many.
KILL = """
count=0
for pid in $(pgrep -u mf-quarantine); do kill -KILL "$pid" 2> /dev/null && count=$((count + 1)); done
echo $count
"""
# A file system of 24 MiB over the quarantine's, with what was in it, then filled.
FILL = """
cp -a /mf/var/quarantine /run/chaos-quarantine
mount -t tmpfs -o size=24m,mode=0755 chaos /mf/var/quarantine
cp -a /run/chaos-quarantine/. /mf/var/quarantine/
dd if=/dev/zero of=/mf/var/quarantine/full bs=4k 2> /dev/null || :
"""
ROOM = "rm -f /mf/var/quarantine/full"
BACK = """
systemctl stop cron.service
while pgrep -u mf-quarantine > /dev/null; do sleep 0.2; done
cp -a /mf/var/quarantine /run/chaos-after && umount /mf/var/quarantine && cp -a /run/chaos-after/. /mf/var/quarantine/
rm -rf /run/chaos-after /run/chaos-quarantine
systemctl start cron.service
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

    def __init__(self, podman: Podman, lab: Lab, count: int, down: float) -> None:
        self.podman = podman
        self.lab = lab
        self.count = count
        self.down = down
        up = [name for name, entry in hosts.listed(podman, lab).items() if entry.get("State") == "running"]
        self.mxs = [name for name in ("mx1", "mx2", "mx3") if lab.host(name).container in up]
        self.control = Host(podman, lab.host("control1"))
        self.world = Host(podman, lab.host("world"))
        self.choice = random.Random()
        self.stack = ExitStack()

    def host(self, name: str) -> Host:
        """A host of the lab."""
        return Host(self.podman, self.lab.host(name))

    def undo(self, host: Host, script: str) -> None:
        """Have this run in the end, whatever happens; that it was done already is no news."""
        self.stack.callback(lambda: host.ask(script))

    def send(self, stop: Sequence[str] = (), kill: bool = False) -> mail.Mailer:
        """Send the mail of one run, and wait until what was accepted is delivered."""
        mailer = mail.Mailer(self.podman, self.lab, stop, kill, show=False)
        mailer.send(self.count, SPAM, STRANGERS, SENDING)
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

    def pace(self) -> float:
        """Seconds between two imported messages on control while it is throttled, as it is configured."""
        return float(json.loads(self.control.run("cat /mf/etc/mf.json"))["quarantine"]["import_throttle_sleep"])

    def rows(self, run: str) -> int:
        """How many messages of a run the quarantine has; 0 while it can't be asked."""
        found = quarantine.look(self.podman, self.lab, run)
        return len(found.ids) if found else 0

    def until(self, what: str, condition: Callable[[], bool], limit: float, every: float = 1.0) -> float:
        """Wait for a condition; returns the seconds taken."""
        started = time.monotonic()
        while not condition():
            if time.monotonic() - started > limit:
                raise Deviation(f"not within {limit:.0f} s: {what}")
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


# Yields what was sent, once nothing is broken any more; afterwards it may judge more, and returns words for the table.
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
    """SIGKILL to the puller, its children and its rsync, wherever they are just then."""
    sending = stage.sending()
    hits = tries = 0
    while hits < 20:
        tries += 1
        must(tries < 200, f"only {hits} of {tries} kills met a process: nobody pulls")
        pull = stage.pulling()
        time.sleep(stage.choice.uniform(0.0, 2.5))
        hits += int(stage.control.run(KILL).strip()) > 0
        pull.join(60)
    yield sending.join()
    return f"{hits} kills met it, {tries} tried"


@story("database stopped")
def database_stopped(stage: Stage) -> Generator[mail.Mailer, None, str]:
    """MariaDB is gone while mail is fetched."""
    stage.undo(stage.control, "systemctl start mariadb.service")
    stage.control.run("systemctl stop mariadb.service")
    mailer = stage.send()
    stage.pulling().join(120)
    result = stage.control.check("quarantine")
    must(result.get("status") != "OK", f"check-quarantine says {result.get('summary')}")
    stage.control.run("systemctl start mariadb.service")
    yield mailer
    return "check-quarantine noticed"


@story("control's disk full")
def disk_full(stage: Stage) -> Generator[mail.Mailer, None, str]:
    """No byte left where the quarantine's files lie."""
    stage.undo(stage.control, BACK)
    stage.control.run(FILL)
    mailer = stage.send()
    stage.pulling().join(120)
    result = stage.control.check("quarantine")
    must(result.get("status") != "OK", f"check-quarantine says {result.get('summary')}")
    must(not stage.rows(mailer.run.id), "messages are in the index though nothing can be written")
    stage.control.run(ROOM)
    yield mailer
    return "check-quarantine noticed"


@story("throttled, then an MX gone")
def throttled(stage: Stage) -> Generator[mail.Mailer, None, str]:
    """With the marker on import goes at one message per 3 s; what an MX still has when it dies is known and alarmed."""
    lost = stage.mxs[-1]
    stage.undo(stage.control, "/mf/bin/throttle off --owner chaos")
    stage.stack.callback(lambda: stage.podman.run("start", stage.lab.host(lost).container, check=False))
    stage.control.run("/mf/bin/throttle on --owner chaos --mark-only --ttl 15m --reason test")
    mailer = stage.send()
    pull = stage.pulling()  # waits for the throttle at most two minutes, then goes on slowly
    stage.until("import begins", lambda: stage.rows(mailer.run.id) > 0, 300)
    began, before = time.monotonic(), stage.rows(mailer.run.id)
    stage.until("half a minute", lambda: time.monotonic() - began >= 30, 60)
    seconds, after = time.monotonic() - began, stage.rows(mailer.run.id)
    pace = stage.pace()
    must(
        after - before <= seconds / pace + 1,
        f"{after - before} messages came in {seconds:.0f} s, and the pace is one in {pace:g} s",
    )
    each = seconds / max(1, after - before)
    left = stage.unpulled(lost)
    must(left > 0, f"nothing was left on {lost}")
    stage.podman.run("kill", stage.lab.host(lost).container)
    stage.control.run("/mf/bin/throttle off --owner chaos")
    pull.join(300)
    # the pull that is under way has to find out first that nobody answers any more
    stage.until(f"check-quarantine names {lost}", lambda: _alarmed(stage, lost), 300, every=5)
    known = stage.unpulled(lost)
    must(known > 0, f"control has forgotten that {lost} had {left} messages")
    stage.podman.run("start", stage.lab.host(lost).container)
    yield mailer
    return f"one message in {each:.1f} s; {known} known on {lost} while it was gone"


def _alarmed(stage: Stage, mx: str) -> bool:
    result = stage.control.check("quarantine")
    return result.get("status") in ("WARNING", "CRITICAL") and mx in str(result.get("summary"))


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
            mailer = next(steps)
            record = mailer.wait(SETTLING)
            stage.until(
                "the quarantine answers", lambda: quarantine.look(stage.podman, stage.lab, "0") is not None, 120
            )
            mailer.wait_for_quarantine(SETTLING)
            account = reconcile(mailer.run.ends, record, stopped=False, kept=mailer.run.kept)
            outcome.sent, outcome.delivered = account.sent, account.delivered
            outcome.quarantined, outcome.refused_early = account.quarantined or 0, account.refused_early
            outcome.faults = account.faults()
            if mailer.run.missing:
                outcome.faults.append(f"{len(mailer.run.missing)} rows without a file")
            try:
                next(steps)
            except StopIteration as end:
                outcome.words = str(end.value)
        finally:
            steps.close()
            stage.stack.close()
    except (Deviation, PodmanError, LabError) as error:
        outcome.faults.append(ui.clean(str(error)))
    outcome.seconds = time.monotonic() - started
    outcome.ok = not outcome.faults
    return outcome


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
        stage = Stage(Podman(machine.look(lab.home.parent)), lab, args.count, args.down)
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
