"""Break lab hosts in every way of the list and report each outcome. See `python -m chaos --help`."""

from __future__ import annotations

import argparse
import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from types import FrameType

from mflab import machine, ui
from mflab.podman import Podman
from mflab.spec import EXIT_INTERRUPTED, EXIT_USAGE, LabError

from chaos import LAB, ROOT, expression, open_lab, scene, site_command
from chaos.faults import around, backup, breaker, degraded, kills, leases, processes, queue, smtp, throttle
from chaos.faults import deploy as deploys
from chaos.outcomes import attribute, document, show
from chaos.scene import CONTROL, FAULTS, MXS, OFFSITE, Fault, Host, Scene
from chaos.suite import Suite
from chaos.trickle import Trickle

# importing them fills FAULTS
MODULES = (processes, kills, smtp, breaker, degraded, queue, throttle, leases, around, deploys, backup)
SYSTEMS = ("processes", "smtp", "queue", "throttle", "around", "deploy", "backup")
APART = "backup"  # on hosts of its own, without mail: only when it is asked for
HOSTS = "mx1,mx2,mx3,world"
QUEUE_LIMIT = 240.0  # s that deliveries may take in the end: Exim retries every minute


def lab_tool(*arguments: str) -> int:
    """Run lab/lab.py."""
    return subprocess.run([sys.executable, str(ROOT / "lab/lab.py"), *arguments], check=False).returncode


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


def choose(only: Sequence[str]) -> list[Fault]:
    """The faults whose "SYSTEM: NAME" fits a regular expression of `only`; without any, all faults.

    Raises ValueError for an expression that fits nothing.
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
        description="Break real lab hosts on purpose. Fail when anything but the expected happens, or mail is lost.",
        epilog=f"The lab has the number MF_LAB, or {LAB}, and the hosts {HOSTS}. It is made and deployed first, and "
        "removed at the end if it was made here. Exit codes: 0 all as expected, 1 deviations, 2 wrong command line, "
        "130 interrupted, everything restored.",
    )
    top.add_argument("--list", action="store_true", help="list the faults and what is expected; run nothing")
    top.add_argument(
        "--only",
        action="append",
        default=[],
        type=expression,
        metavar="WORD",
        help="only faults with this in 'SYSTEM: NAME' (regular expression); may be repeated",
    )
    top.add_argument(
        "--minutes",
        type=float,
        default=1.0,
        metavar="N",
        help="duration of each fault that tests endurance (default 1; the acceptance run takes 10)",
    )
    top.add_argument("--json", action="store_true", help="print the outcomes as JSON")
    top.add_argument("--table", type=Path, metavar="FILE", help="also write the outcomes to FILE, as Markdown")
    top.add_argument("--keep", action="store_true", help="leave the lab as it is at the end")
    top.add_argument("--no-deploy", action="store_true", help="use a lab that is up and deployed already")
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
        rows = [(fault.system, fault.name, fault.expected, fault.hand or "-") for fault in faults]
        print(ui.table(("system", "fault", "expected", "manual step"), rows))
        return 0
    Scene.minutes = args.minutes
    lab = open_lab("chaos")
    made_here = not lab.home.exists()

    def interrupt(_signal: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)
    started = time.monotonic()
    try:
        if not args.no_deploy and (lab_tool("up", "--only", hosts) or deploy(groups, **settings)):
            return 1
        podman = Podman(machine.inspect(lab.home.parent))
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
    """Run faults on hosts without mail. First run each backup job once, as on a machine that is in service already."""
    fleet[CONTROL].ask("/mf/bin/backup due", limit=900)
    suite = Suite(fleet, quiet=args.json)
    try:
        suite.run(faults)
    except KeyboardInterrupt:
        suite.stop.set()
        suite.wait()
        raise
    wrong = sum(not outcome.ok for outcome in suite.outcomes)
    if args.json:
        print(
            json.dumps(
                {"faults": [asdict(outcome) for outcome in suite.outcomes], "seconds": time.monotonic() - started}
            )
        )
    else:
        print(show(suite.outcomes))
        print(f"{len(suite.outcomes) - wrong} as expected, {wrong} not, in {(time.monotonic() - started) / 60:.0f} min")
    return 1 if wrong else 0


def work(
    args: argparse.Namespace, fleet: dict[str, Host], trickle: Trickle, faults: Sequence[Fault], started: float
) -> int:
    """Run faults and mail at the same time, then report both."""
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
    outcomes = sorted(suite.outcomes, key=lambda outcome: order.index((outcome.system, outcome.name)))
    deviations = [outcome for outcome in outcomes if not outcome.ok]
    faulty = account.faults()
    if args.table:
        day = time.strftime("%Y-%m-%d", time.gmtime())
        args.table.write_text(document(outcomes, account, time.monotonic() - started, day))
    failed = bool(deviations or faulty or len(outcomes) != len(faults))
    if args.json:
        record = {
            "faults": [asdict(outcome) for outcome in outcomes],
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
    for problem in [*faulty, *sorted(set(trickle.trouble))]:
        print(f"chaos: {problem}", file=sys.stderr)
    print("Healed in: with a check run at once; cron's next minute may come up to 60 s (load: 120 s) later.")
    minutes, seconds = divmod(round(time.monotonic() - started), 60)
    print(f"{len(outcomes) - len(deviations)} as expected, {len(deviations)} deviations, in {minutes} min {seconds} s")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
