"""Destroy control, restore it from its backups, and account for each message (`python -m chaos.restore`).

In every round real mail, most of it spam, goes through the MXs: some before the daily archive, some between it and the
dump, some that control has fetched and not saved, some while there is no control, some while it is being restored. The
container of control is removed, a bare one takes its place, and playbooks/restore_control.yml does the rest. The ids of
all messages since the beginning decide: sent = delivered + quarantined + refused before DATA, each once, each with its
file.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

from mflab import hosts, machine, mail, quarantine, ui
from mflab.podman import Podman, PodmanError
from mflab.spec import EXIT_INTERRUPTED, EXIT_USAGE, Lab, LabError

from chaos import ROOT, open_lab
from chaos.__main__ import deploy, lab_tool
from chaos.scene import CONTROL, MXS, OFFSITE, Deviation, Host, must
from chaos.tally import Tally

SPAM, STRANGERS = 0.6, 0.05
SENDING, SETTLING = 900.0, 300.0  # s a message may be tried; s until everything must have arrived
JOB = 900.0  # s
RESTORE = 1800.0
# When the mail of a round is sent, and which share of it.
MOMENTS = {
    "before the daily archive": 0.6,
    "between it and the dump": 0.2,
    "fetched, not saved": 0.1,
    "while there is no control": 0.05,
    "while it is restored": 0.05,
}


@dataclass
class Outcome(Tally):
    """One row of the table. ``again``: messages of this round that were in no backup and came back from the MXs."""

    round: int
    again: int = 0
    rpo: float = 0.0  # s from the dump that was restored to the loss of control
    restored: float = 0.0  # s of restore_control.yml


class Stage:
    """The lab, and all mail that ever went through it."""

    def __init__(self, podman: Podman, lab: Lab, count: int) -> None:
        self.podman = podman
        self.lab = lab
        self.count = count
        self.control = Host(podman, lab.host(CONTROL))
        self.offsite = Host(podman, lab.host(OFFSITE))
        self.mail: list[tuple[mail.Mailer, list[dict[str, Any]]]] = []

    def send(self, moment: str) -> mail.Mailer:
        """Send a round's mail of that moment, and wait until what was accepted is delivered."""
        mailer = mail.Mailer(self.podman, self.lab, show=False)
        mailer.send(max(10, round(self.count * MOMENTS[moment])), SPAM, STRANGERS, SENDING)
        self.mail.append((mailer, mailer.wait(SETTLING)))
        return mailer

    def fetched(self, moment: str) -> mail.Mailer:
        """Send as `send` does, and wait until the quarantine has every message it should have."""
        mailer = self.send(moment)
        mailer.wait_for_quarantine(SETTLING)
        return mailer

    def job(self, name: str) -> dict[str, Any]:
        """Run a backup job; return its record. Deviation when it fails."""
        outcome: dict[str, Any] = json.loads(
            self.control.ask(f"/mf/bin/backup run {name} --json --wait 10m", limit=JOB)[1]
        )
        must(not outcome["failures"], f"{name}: {outcome['error']}")
        return outcome

    def destroy(self) -> float:
        """Remove control with all its data, in the middle of its work; return the time (epoch seconds)."""
        hosts.remove(self.podman, [self.control.place.container])
        return time.time()

    def restore(self) -> tuple[float, str]:
        """Make a bare machine and run the playbook on it; return seconds and output."""
        must(not lab_tool("up", "--only", CONTROL), "no new container")
        log = ROOT / "build/chaos-restore.log"
        command = ["ansible-playbook", str(ROOT / "playbooks/restore_control.yml"), "--limit", "localhost,control"]
        began = time.monotonic()
        with log.open("wb") as out:
            code = subprocess.run(
                command, cwd=ROOT, stdout=out, stderr=subprocess.STDOUT, timeout=RESTORE, check=False
            ).returncode
        output = log.read_text(errors="replace")
        must(code == 0, f"restore_control.yml ended with {code}; its output is in {log.relative_to(ROOT)}")
        return time.monotonic() - began, output

    def account(self, outcome: Outcome) -> None:
        """Compare every message ever sent with both ends."""
        for mailer, record in self.mail:
            mailer.wait_for_quarantine(SETTLING)
            outcome.add(mailer.run, record)


def perform(stage: Stage, number: int) -> Outcome:
    """One round."""
    outcome = Outcome(number)
    try:
        _perform(stage, outcome)
        stage.account(outcome)
        _healthy(stage)
    except (Deviation, PodmanError, LabError, subprocess.TimeoutExpired) as error:
        outcome.faults.append(ui.clean(str(error)))
    outcome.ok = not outcome.faults
    return outcome


def _perform(stage: Stage, outcome: Outcome) -> None:
    first, second, third, fourth, fifth = MOMENTS
    stage.fetched(first)
    stage.job("full")
    stage.fetched(second)
    dump = stage.job("dump")
    unsaved = [stage.fetched(third)]
    must(unsaved[0].run.kept, "nothing was in the quarantine that is in no backup")
    outcome.rpo = stage.destroy() - float(dump["started"])
    unsaved.append(stage.send(fourth))
    with ThreadPoolExecutor(1) as pool:
        sending = pool.submit(stage.send, fifth)
        outcome.restored, output = stage.restore()
        unsaved.append(sending.result())
    must(re.search(r"restored in \d+ s, deployment included", output), "the playbook doesn't say how long it took")
    must(str(dump["archive"]) in output, f"what was restored isn't the newest dump, {dump['archive']}")
    for mailer in unsaved:
        mailer.wait_for_quarantine(SETTLING)
        outcome.again += len(set(mailer.run.kept or ()))


def _healthy(stage: Stage) -> None:
    """Require that the new machine continues: its list agrees, its newest dump comes back, no alarm."""
    code, _ = stage.control.ask("/mf/bin/backup list --wait 10m", limit=JOB)
    must(code == 0, f"backup list ended with {code}")
    stage.job("full")
    stage.job("verify")
    stage.job("drill")
    for host, name in ((stage.control, "backup"), (stage.control, "quarantine"), (stage.offsite, "offsite")):
        result = host.check(name)
        must(result.get("status") == "OK", f"check-{name} reports {result.get('status')} {result.get('summary')}")


def show(outcomes: Sequence[Outcome]) -> str:
    """The table."""
    header = ("", "round", "sent", "delivered", "kept", "early", "came again", "RPO", "restored in", "what is wrong")
    rows = [
        (
            "ok" if outcome.ok else "DEVIATION",
            outcome.round,
            outcome.sent,
            outcome.delivered,
            outcome.quarantined,
            outcome.refused_early,
            outcome.again,
            f"{outcome.rpo:.0f} s",
            f"{outcome.restored:.0f} s",
            "; ".join(outcome.faults) or "-",
        )
        for outcome in outcomes
    ]
    return ui.table(header, rows, right=(1, 2, 3, 4, 5, 6, 7, 8))


def main() -> int:
    """Run it; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m chaos.restore",
        description=(__doc__ or "").split("\n\n", 1)[1],
        epilog="Exit codes: 0 every message is accounted for, 1 not so, 2 wrong command line, 130 interrupted",
    )
    parser.add_argument("--count", type=int, default=1000, metavar="N", help="messages in each round (default 1000)")
    parser.add_argument("--rounds", type=int, default=2, metavar="N", help="how often control is destroyed (default 2)")
    parser.add_argument("--json", action="store_true", help="print the rounds as JSON")
    parser.add_argument("--keep", action="store_true", help="leave the lab as it is at the end")
    parser.add_argument("--no-deploy", action="store_true", help="use a lab that is up and deployed already")
    args = parser.parse_args()
    if args.count < 100 or args.rounds < 1:
        print("chaos.restore: it takes 100 messages or more, and one round or more", file=sys.stderr)
        return EXIT_USAGE
    lab = open_lab("chaos.restore")
    made_here = not lab.home.exists()
    outcomes: list[Outcome] = []
    code = 1
    try:
        names = ",".join((*MXS, CONTROL, OFFSITE, "world"))
        if args.no_deploy or not (lab_tool("up", "--only", names) or deploy("mx,control,offsite")):
            stage = Stage(Podman(machine.inspect(lab.home.parent)), lab, args.count)
            must(quarantine.deployed(stage.podman, lab), "control has no quarantine")
            stage.control.ask("/mf/bin/backup due", limit=JOB)  # so that no job comes in between by itself
            for number in range(1, args.rounds + 1):
                outcomes.append(perform(stage, number))
                if not args.json:
                    print(show(outcomes[-1:]), flush=True)
                if not outcomes[-1].ok:
                    break
            code = 0 if len(outcomes) == args.rounds and all(outcome.ok for outcome in outcomes) else 1
    except KeyboardInterrupt:
        code = EXIT_INTERRUPTED
    except (Deviation, LabError) as error:
        print(f"chaos.restore: {ui.clean(str(error))}", file=sys.stderr)
    if args.json:
        print(json.dumps({"rounds": [asdict(outcome) for outcome in outcomes]}, indent=2))
    elif outcomes:
        print(show(outcomes))
    if made_here and not args.keep:
        lab_tool("down")
    return code


if __name__ == "__main__":
    sys.exit(main())
