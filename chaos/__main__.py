"""`python -m chaos`: break the lab in every way of the list, and say what came of it. See --help."""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections import deque
from collections.abc import Generator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from types import FrameType

from mflab import machine, ui
from mflab.podman import Podman
from mflab.reconcile import Account
from mflab.spec import EXIT_INTERRUPTED, EXIT_USAGE, LabError, open_lab

from chaos import ROOT, scene, site_command
from chaos.faults import around, backup, degraded, processes, queue, smtp, throttle
from chaos.faults import deploy as deploys
from chaos.scene import CONTROL, FAULTS, MXS, OFFSITE, Deviation, Fault, Host, Outcome, Scene
from chaos.trickle import Trickle

MODULES = (processes, smtp, degraded, queue, throttle, around, deploys, backup)  # importing them fills FAULTS
SYSTEMS = ("processes", "smtp", "queue", "throttle", "around", "deploy", "backup")
APART = "backup"  # on hosts of its own, without mail: only when it is asked for
LAB = "3"
HOSTS = "mx1,mx2,mx3,world"
WELL_LIMIT = 90.0  # s a host may take to be well again after its fault was taken away
QUEUE_LIMIT = 240.0  # s that deliveries may take in the end: Exim retries every minute

# What a person would find after a quiet hour: no restarts counted, no lease, nothing left of the fault before.
CLEAN = """\
rm -f /mf/var/state/breaker.json /run/mf/state/breaker.fallback
systemctl is-active --quiet cron.service || systemctl start cron.service
/mf/bin/throttle status > /dev/null
"""
WELL = """\
systemctl is-active --quiet qpsmtpd.service && systemctl is-active --quiet mf-exim.service &&
/mf/bin/throttle status >/dev/null && [ ! -e /run/mf/maintenance ]
"""
MEND = """\
for owner in operator chaos deploy; do /mf/bin/throttle off --owner $owner; done
/mf/bin/maintenance off
systemctl reset-failed; systemctl restart mf-exim.service qpsmtpd.service
"""
MEND_BACKUPS = "for job in dump full verify; do /mf/bin/backup run $job; done"


class Suite:
    """One run over a list of faults."""

    def __init__(self, fleet: dict[str, Host], quiet: bool) -> None:
        self.fleet = fleet
        self.quiet = quiet
        self.stop = threading.Event()
        self.outcomes: list[Outcome] = []
        self.errors: list[BaseException] = []
        self.lanes: list[threading.Event] = []
        self.guard = threading.Lock()
        self.shared: deque[Fault] = deque()
        self.sound: set[str] = set()  # hosts that were well when their last fault was over

    def run(self, faults: Sequence[Fault]) -> None:
        """All faults: each host's own beside each other, then those that need the fleet."""
        self.shared.extend(sorted((one for one in faults if one.lane == "any"), key=lambda one: -one.seconds))
        for name in (*MXS, CONTROL):
            self.begin([fault for fault in faults if fault.lane == name], name)
        self.wait()
        self.begin([fault for fault in faults if fault.lane == "fleet"])
        self.wait()
        if self.errors:
            raise self.errors[0]

    def begin(self, faults: Sequence[Fault], name: str = "") -> None:
        """Start a lane in a thread of its own."""
        over = threading.Event()
        self.lanes.append(over)

        def walk() -> None:
            try:
                self.lane(faults, name)
            finally:
                over.set()

        threading.Thread(target=walk).start()

    def wait(self) -> None:
        """Wait for all lanes. (Not by Thread.join: an interrupted one takes its thread for ended.)"""
        for over in self.lanes:
            while not over.wait(0.5):
                pass

    def lane(self, faults: Sequence[Fault], name: str = "") -> None:
        """Faults of the host `name`, one group after the other; then those that any host will do for."""
        done: set[str] = set()
        try:
            for fault in faults:
                if self.stop.is_set():
                    return
                if fault.together in done:
                    continue
                group = [one for one in faults if one.together == fault.together] if fault.together else [fault]
                done |= {fault.together} - {""}
                self.group(group)
            while name in MXS and not self.stop.is_set():
                with self.guard:
                    if not self.shared:
                        return
                    fault = self.shared.popleft()
                self.group([replace(fault, host=name)])
        except BaseException as error:  # noqa: BLE001  (the main thread raises it)
            self.errors.append(error)
            self.stop.set()

    def group(self, faults: Sequence[Fault]) -> None:
        """Inject these faults, then judge each, then restore all and see that the hosts are well."""
        outcomes = [Outcome(fault.system, fault.name, fault.expected) for fault in faults]
        hosts = {*MXS} if any(fault.lane == "fleet" for fault in faults) else {fault.host for fault in faults}
        scenes: list[Scene] = []
        stories: list[Generator[None, None, str] | None] = []
        try:
            ready = self.prepare(hosts)
            for fault, outcome in zip(faults, outcomes, strict=True):
                scenes.append(Scene(self.fleet, fault.host, self.stop))
                outcome.began = time.time()
                outcome.happened = ready
                stories.append(None if ready else self.inject(fault, scenes[-1], outcome))
            for scene_, story, outcome in zip(scenes, stories, outcomes, strict=True):
                if story is not None:
                    self.judge(scene_, story, outcome)
                outcome.ended = time.time()
        finally:
            for scene_ in reversed(scenes):
                scene_.stack.close()
        trouble = self.recover(hosts)
        if not trouble:
            self.sound |= hosts
        for outcome in outcomes:
            if trouble and outcome.ok:
                outcome.ok, outcome.happened = False, f"{outcome.happened}; afterwards: {trouble}"
            self.tell(outcome)

    def inject(self, fault: Fault, scene_: Scene, outcome: Outcome) -> Generator[None, None, str] | None:
        """Break it; None when that alone failed."""
        story = fault.story(scene_)
        try:
            next(story)
        except (Deviation, LabError, ValueError, subprocess.SubprocessError) as error:
            outcome.happened = f"not injected: {error}"
            return None
        return story

    def judge(self, scene_: Scene, story: Generator[None, None, str], outcome: Outcome) -> None:
        """Await what is expected."""
        try:
            next(story)
        except StopIteration as end:
            outcome.ok, outcome.happened = True, str(end.value)
        except Deviation as error:
            outcome.happened = str(error)
        except (LabError, ValueError, KeyError, subprocess.SubprocessError) as error:
            outcome.happened = f"{type(error).__name__}: {error}"
        outcome.heal = scene_.heal

    def prepare(self, hosts: set[str]) -> str:
        """Forget former restarts; what is wrong with a host before anything was broken, or nothing."""
        for name in sorted(hosts):
            self.fleet[name].ask(CLEAN)
        trouble = self.recover(hosts - self.sound)
        self.sound -= hosts
        return trouble

    def recover(self, hosts: set[str]) -> str:
        """Wait until the hosts are well by themselves; else mend them and say so."""
        unwell = []
        for name in sorted(hosts):
            host = self.fleet[name]
            give_up = time.monotonic() + WELL_LIMIT
            while not self.well(host):
                if time.monotonic() > give_up or self.stop.is_set():
                    host.ask(MEND_BACKUPS if name == CONTROL else MEND, limit=300)
                    unwell.append(name)
                    break
                time.sleep(1)
        return f"{', '.join(unwell)} had to be mended by hand" if unwell else ""

    @staticmethod
    def well(host: Host) -> bool:
        """Whether services run, nothing throttles and the SMTP check says OK."""
        if host.name == CONTROL:
            return host.ask("/mf/bin/throttle status")[0] == 0 and host.check("backup").get("status") == "OK"
        return host.ask(WELL)[0] == 0 and host.check("smtp").get("status") == "OK"

    def tell(self, outcome: Outcome) -> None:
        """One line as soon as a fault is over."""
        with self.guard:
            self.outcomes.append(outcome)
            if not self.quiet:
                mark = "ok       " if outcome.ok else "DEVIATION"
                took = f"{outcome.ended - outcome.began:3.0f} s"
                print(f"{mark} {took} {outcome.system}: {outcome.name}: {ui.clean(outcome.happened)}", flush=True)


def lab_tool(*words: str) -> int:
    """Run lab/lab.py."""
    return subprocess.run([sys.executable, str(ROOT / "lab/lab.py"), *words], check=False).returncode


def deploy(limit: str, **settings: object) -> int:
    """Run site.yml on these groups; return its exit status."""
    log = ROOT / "build/chaos-site.log"
    log.parent.mkdir(exist_ok=True)
    with log.open("wb") as out:
        code = subprocess.run(
            site_command(limit, **settings), cwd=ROOT, stdout=out, stderr=subprocess.STDOUT, check=False
        ).returncode
    if code:
        print(log.read_text(errors="replace")[-3000:], file=sys.stderr)
    return code


def attribute(outcomes: Sequence[Outcome], account: Account, ends: Sequence[dict[str, object]]) -> None:
    """Count each lost message with every fault during which it was under way."""
    lost = {*account.lost, *account.undecided}
    for end in ends:
        if end["id"] in lost:
            for outcome in outcomes:
                started, finished = float(str(end["started"])), float(str(end["finished"]))
                outcome.lost += started <= outcome.ended and outcome.began <= finished


def show(outcomes: Sequence[Outcome]) -> str:
    """The table."""
    rows = [
        (
            "ok" if one.ok else "DEVIATION",
            one.system,
            one.name,
            one.expected,
            ui.clean(one.happened),
            "-" if one.heal is None else f"{one.heal:.1f} s",
            one.lost,
        )
        for one in outcomes
    ]
    header = ("", "system", "fault", "expected", "what happened", "healed in", "lost")
    return ui.table(header, rows, right=(5, 6))


def document(outcomes: Sequence[Outcome], account: Account, seconds: float, day: str) -> str:
    """The outcomes as a page of docs/, at most 120 columns wide."""

    def item(name: str, happened: str, expected: str, healed: str) -> list[str]:
        text = f"**{name}**: {happened}. Expected: {expected}.{healed}"
        clean = ui.clean(text).replace("<", "&lt;")
        return textwrap.wrap(clean, 118, initial_indent="- ", subsequent_indent="  ", break_on_hyphens=False)

    wrong = sum(not one.ok for one in outcomes)
    lines = [
        "# Faults",
        "",
        "What came of each fault in one run of the fault suite on real lab hosts, with mail going on all the while.",
        f"Written by `python -m chaos --table docs/faults.md` on {day}.",
        "",
        f"- {len(outcomes) - wrong} faults ended as expected, {wrong} didn't, in {seconds / 60:.0f} minutes.",
        f"- Mail: {account.sent} sent, {account.delivered} delivered, {account.refused_total} refused as spam,",
        f"  {len(account.lost)} lost, {len(account.doubled)} doubled, {len(account.undecided)} undecided.",
        "- *Healed in*: from the injection until all was well again, with a check run at once; cron's next minute may",
        "  come up to 60 s (load: 120 s) later.",
        "- *Lost*: messages that an MX had accepted while the fault was there and that never arrived. No figure: none.",
    ]
    hands = {(one.system, one.name): one.hand for one in FAULTS}
    for system in dict.fromkeys(one.system for one in outcomes):
        lines += ["", f"## {system.capitalize()}", ""]
        for one in outcomes:
            if one.system == system:
                hand = hands.get((one.system, one.name))
                expected = one.expected + (f" (a person's part: {hand})" if hand else "")
                happened = one.happened if one.ok else f"deviation: {one.happened}"
                healed = "" if one.heal is None else f" Healed in {one.heal:.1f} s."
                lines += item(one.name, happened, expected, healed + (f" Lost: {one.lost}." if one.lost else ""))
    return "\n".join(lines) + "\n"


def choose(only: Sequence[str]) -> list[Fault]:
    """The faults of which system or name fits one of `only` (a regular expression); all when there is none.

    Raises ValueError for one that fits nothing.
    """
    faults = sorted(FAULTS, key=lambda fault: SYSTEMS.index(fault.system))
    if not only:
        return [fault for fault in faults if fault.system != APART]
    for pattern in only:
        if not any(re.search(pattern, f"{fault.system}: {fault.name}") for fault in faults):
            raise ValueError(f"no fault is called {pattern!r}; see --list")
    return [f for f in faults if any(re.search(pattern, f"{f.system}: {f.name}") for pattern in only)]


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(
        prog="chaos",
        description="Break real lab hosts on purpose; fail when anything but the expected happens, or mail is lost.",
        epilog=f"The lab is number MF_LAB, or {LAB}: {HOSTS}. It is made and deployed first, and removed in the end "
        "if it was made here. Exit: 0 all as expected, 1 deviations, 2 usage, 130 interrupted, everything restored.",
    )
    top.add_argument("--list", action="store_true", help="name the faults and what is expected; run nothing")
    top.add_argument("--only", action="append", default=[], metavar="NAME", help="these faults (part of the name)")
    top.add_argument(
        "--minutes",
        type=float,
        default=1.0,
        metavar="N",
        help="how long a fault goes on that is about endurance (default 1; the acceptance run takes 10)",
    )
    top.add_argument("--json", action="store_true", help="the table for programs")
    top.add_argument("--table", type=Path, metavar="FILE", help="write the outcomes there, too, as Markdown")
    top.add_argument("--keep", action="store_true", help="leave the lab as it is in the end")
    top.add_argument("--no-deploy", action="store_true", help="the lab is up and deployed already")
    return top


def main() -> int:
    """Run the suite; return the exit code."""
    args = parser().parse_args()
    try:
        faults = choose(args.only)
    except ValueError as error:
        print(f"chaos: {error}", file=sys.stderr)
        return EXIT_USAGE
    apart = [fault for fault in faults if fault.system == APART]
    if apart and len(apart) < len(faults):
        print(
            f"chaos: faults of {APART} have hosts of their own; ask for nothing else: --only ^{APART}", file=sys.stderr
        )
        return EXIT_USAGE
    hosts, groups = (f"{CONTROL},{OFFSITE}", "control,offsite") if apart else (HOSTS, "mx")
    settings: dict[str, object] = {"mf_quarantine_mx": []} if apart else {}  # this lab has no MX to fetch from
    if args.list:
        if not args.only:
            faults = sorted(FAULTS, key=lambda fault: SYSTEMS.index(fault.system))
        rows = [(one.system, one.name, one.expected, one.hand or "-") for one in faults]
        print(ui.table(("system", "fault", "expected", "needs a person"), rows))
        return 0
    Scene.minutes = args.minutes
    os.environ.setdefault("MF_LAB", LAB)
    os.environ["ANSIBLE_CONFIG"] = str(ROOT / "ansible.cfg")
    lab = open_lab(None)
    made_here = not lab.home.exists()

    def interrupt(_signal: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)
    started = time.monotonic()
    try:
        if not args.no_deploy and (lab_tool("up", "--only", hosts) or deploy(groups, **settings)):
            return 1
        podman = Podman(machine.look(lab.home.parent))
        if apart:
            code = without_mail(args, scene.fleet_of(podman, lab), faults, started)
        else:
            code = work(args, scene.fleet_of(podman, lab), Trickle(podman, lab), faults, started)
    except KeyboardInterrupt:
        print("chaos: interrupted; what was broken is restored", file=sys.stderr)
        code = EXIT_INTERRUPTED
    except LabError as error:
        print(f"chaos: {error}", file=sys.stderr)
        code = 1
    if made_here and not args.keep:
        lab_tool("down")
    return code


def without_mail(args: argparse.Namespace, fleet: dict[str, Host], faults: Sequence[Fault], started: float) -> int:
    """Faults of hosts that take no mail. First each job runs once, as on a machine that has been there for a while."""
    fleet[CONTROL].ask("/mf/bin/backup due", limit=900)
    suite = Suite(fleet, quiet=args.json)
    try:
        suite.run(faults)
    except KeyboardInterrupt:
        suite.stop.set()
        suite.wait()
        raise
    wrong = sum(not one.ok for one in suite.outcomes)
    if args.json:
        print(json.dumps({"faults": [asdict(one) for one in suite.outcomes], "seconds": time.monotonic() - started}))
    else:
        print(show(suite.outcomes))
        print(f"{len(suite.outcomes) - wrong} as expected, {wrong} not, in {(time.monotonic() - started) / 60:.0f} min")
    return 1 if wrong else 0


def work(
    args: argparse.Namespace, fleet: dict[str, Host], trickle: Trickle, faults: Sequence[Fault], started: float
) -> int:
    """Faults and mail at once, then the account of both."""
    for name in MXS:
        fleet[name].load(0.2)
    suite = Suite(fleet, quiet=args.json)
    trickle.start()
    try:
        suite.run(faults)
    except KeyboardInterrupt:
        suite.stop.set()
        suite.wait()
        trickle.abandon()
        raise
    account = trickle.finish(QUEUE_LIMIT)
    attribute(suite.outcomes, account, trickle.ends())
    order = [(fault.system, fault.name) for fault in faults]
    outcomes = sorted(suite.outcomes, key=lambda one: order.index((one.system, one.name)))
    deviations = [one for one in outcomes if not one.ok]
    faulty = account.faults()
    if args.table:
        day = time.strftime("%Y-%m-%d", time.gmtime())
        args.table.write_text(document(outcomes, account, time.monotonic() - started, day))
    failed = bool(deviations or faulty or len(outcomes) != len(faults))
    if args.json:
        record = {
            "faults": [asdict(one) for one in outcomes],
            "mail": asdict(account),
            "mail_faults": faulty,
            "trouble": trickle.trouble,
            "seconds": round(time.monotonic() - started, 1),
        }
        print(json.dumps(record, indent=2))
        return int(failed)
    print()
    print(show(outcomes))
    print(
        f"\nmail: {account.sent} sent, {account.delivered} delivered, {account.refused_total} refused "
        f"as spam, {len(account.lost)} lost, {len(account.doubled)} doubled, {len(account.undecided)} undecided; "
        f"{account.retried} needed a second attempt"
    )
    for words in [*faulty, *sorted(set(trickle.trouble))]:
        print(f"chaos: {words}", file=sys.stderr)
    print("Healed in: with a check run at once; cron's next minute may come up to 60 s (load: 120 s) later.")
    minutes, seconds = divmod(round(time.monotonic() - started), 60)
    print(f"{len(outcomes) - len(deviations)} as expected, {len(deviations)} deviations, in {minutes} min {seconds} s")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
