"""Break the way to the quarantine under mail, and account for each message (`python -m chaos.quarantine`).

In every fault real mail, most of it spam, goes through the MXs while something is broken. Then the fault is taken away,
and cron and the puller do the rest. The messages' ids at both ends decide: sent = delivered + quarantined + refused
before DATA, nothing doubled, and every row of the index has its file. The lab needs the MXs, `control1` and `world`,
deployed.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from mflab import machine, mail, quarantine, ui
from mflab.podman import Podman, PodmanError
from mflab.spec import EXIT_INTERRUPTED, LabError

from chaos import open_lab
from chaos.quarantine.faults import STORIES
from chaos.quarantine.stage import SETTLING, Stage
from chaos.scene import Deviation
from chaos.tally import Tally


@dataclass
class Outcome(Tally):
    """One row of the table."""

    name: str
    words: str = ""
    seconds: float = 0.0


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
        # an unexpected answer doesn't end the suite: the other faults still run
        outcome.faults.append(ui.clean(f"{type(error).__name__}: {error}"))
    outcome.seconds = time.monotonic() - started
    outcome.ok = not outcome.faults
    return outcome


def _judge(stage: Stage, mailer: mail.Mailer, outcome: Outcome) -> None:
    """Wait until all that was sent has come to its end, and add it to the account."""
    record = mailer.wait(SETTLING)
    stage.until(
        "the quarantine answers", lambda: quarantine.kept_or_none(stage.podman, stage.lab, "0") is not None, 120
    )
    mailer.wait_for_quarantine(SETTLING)
    outcome.add(mailer.run, record)


def main() -> int:
    """Run it; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m chaos.quarantine",
        description=(__doc__ or "").split("\n\n", 1)[1],
        epilog="Exit codes: 0 every message is accounted for, 1 not so, 2 wrong command line, 130 interrupted",
    )
    parser.add_argument("--only", default="", metavar="WORD", help="only faults with this in their name")
    parser.add_argument("--count", type=int, default=5000, metavar="N", help="messages in each fault (default 5000)")
    parser.add_argument(
        "--down", type=float, default=300, metavar="S", help="seconds that control is down (default 300)"
    )
    parser.add_argument(
        "--crowd", type=int, default=100_000, metavar="N", help="files in the crowded directory (default 100000)"
    )
    parser.add_argument("--json", action="store_true", help="print the outcomes as JSON")
    args = parser.parse_args()
    names = [name for name in STORIES if args.only in name]
    if not names:
        parser.error(f"no fault is called {args.only!r}; there are: {', '.join(STORIES)}")
    if args.count < 10:
        parser.error("--count takes 10 messages or more")
    lab = open_lab("chaos.quarantine")
    outcomes = []
    try:
        stage = Stage(Podman(machine.inspect(lab.home.parent)), lab, args.count, args.down, args.crowd)
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
        print(json.dumps([asdict(outcome) for outcome in outcomes], indent=2))
    else:
        rows: list[Sequence[Any]] = [
            (
                outcome.name,
                outcome.sent,
                outcome.delivered,
                outcome.quarantined,
                outcome.refused_early,
                "yes" if outcome.ok else "NO",
            )
            for outcome in outcomes
        ]
        print(ui.table(("fault", "sent", "delivered", "quarantined", "refused before DATA", "all there"), rows))
    return int(any(not outcome.ok for outcome in outcomes))


def line(outcome: Outcome) -> str:
    """One outcome for a terminal."""
    comment = "; ".join(outcome.faults) if outcome.faults else outcome.words
    return (
        f"{'ok ' if outcome.ok else 'NO '} {outcome.name} ({outcome.seconds:.0f} s){': ' + comment if comment else ''}"
    )


if __name__ == "__main__":
    sys.exit(main())
