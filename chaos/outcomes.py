"""The outcomes of a run: lost messages counted with their faults, the table, the page of docs/."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from mflab import ui
from mflab.reconcile import Account

from chaos.scene import FAULTS, Outcome


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
            "ok" if outcome.ok else "DEVIATION",
            outcome.system,
            outcome.name,
            outcome.expected,
            ui.clean(outcome.happened),
            "-" if outcome.heal is None else f"{outcome.heal:.1f} s",
            outcome.lost,
        )
        for outcome in outcomes
    ]
    header = ("", "system", "fault", "expected", "what happened", "healed in", "lost")
    return ui.table(header, rows, right=(5, 6))


def document(outcomes: Sequence[Outcome], account: Account, seconds: float, day: str) -> str:
    """The outcomes as a page of docs/, at most 120 columns wide."""

    def item(name: str, happened: str, expected: str, healed: str) -> list[str]:
        text = f"**{name}**: {happened}. Expected: {expected}.{healed}"
        clean = ui.clean(text).replace("<", "&lt;")
        return textwrap.wrap(clean, 118, initial_indent="- ", subsequent_indent="  ", break_on_hyphens=False)

    wrong = sum(not outcome.ok for outcome in outcomes)
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
    hands = {(fault.system, fault.name): fault.hand for fault in FAULTS}
    for system in dict.fromkeys(outcome.system for outcome in outcomes):
        lines += ["", f"## {system.capitalize()}", ""]
        for outcome in outcomes:
            if outcome.system == system:
                hand = hands.get((outcome.system, outcome.name))
                expected = outcome.expected + (f" (manual step: {hand})" if hand else "")
                happened = outcome.happened if outcome.ok else f"deviation: {outcome.happened}"
                healed = "" if outcome.heal is None else f" Healed in {outcome.heal:.1f} s."
                lines += item(
                    outcome.name, happened, expected, healed + (f" Lost: {outcome.lost}." if outcome.lost else "")
                )
    return "\n".join(lines) + "\n"
