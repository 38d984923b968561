"""check-refused: accepted mail that a customer's server refused for good and that waits for an operator's decision.

It takes no action; it judges the notes on such mail (see ``mf_rejected.refused``).
"""

from __future__ import annotations

from mf import message_id, run, state

from . import refused

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

NAME = "refused"
PURPOSE = "List accepted mail that customers' servers refused for good and that waits for an operator."
RULES: run.Rules = {
    "root": str,
    "folder": str,
    "releases": str,
}

READ = 1000  # notes read in one run, the newest
DOMAINS = 2  # named in the summary


def decide(
    waiting: Sequence[str], groups: Sequence[tuple[str, int, str, str]], stored: int, missing: int
) -> tuple[str, str]:
    """``(status, summary)`` of the ids, oldest first; the rest, of the newest READ, as ``refused`` gives it. Pure."""
    if not waiting:
        return state.OK, "nothing that a customer's server refused waits for an operator"
    from mf.text import clean

    shown = [
        f"{clean(domain, 60)} {number} since {refused.moment(first)} ({clean(reason, 60)})"
        for domain, number, first, reason in groups[:DOMAINS]
    ]
    if len(groups) > DOMAINS:
        shown.append(f"and {len(groups) - DOMAINS} more domains")
    number = f"{len(waiting)} messages" if len(waiting) > 1 else "1 message"
    least = "at least " if len(waiting) > READ else ""
    room = f"{least}{-(-stored // (1 << 20))} MiB, the oldest of {message_id.day(waiting[0])}"
    lost = f"; {missing} without a file" if missing else ""
    domains = ", ".join(shown)
    return (
        state.CRITICAL,
        f"{number} refused for good by customers' servers, kept: {domains}; {room}{lost}; see refused list",
    )


def probe(places: state.Places, values: run.Values) -> state.Result:
    """Judge the notes."""
    try:
        waiting = refused.waiting(values["folder"], values["releases"])
    except OSError as error:
        return state.Result(NAME, state.CRITICAL, f"{values['folder']} can't be read: {error.strerror}")
    notes = {ident: refused.read(values["folder"], ident) for ident in waiting[-READ:]}
    groups = list(refused.groups(notes))
    stored, missing = refused.stored(values["root"], notes)
    result = state.Result(NAME, *decide(waiting, groups, stored, missing))
    result.metrics = {"waiting": len(waiting), "domains": len(groups), "bytes": stored, "missing": missing}
    return result


CHECK = run.Check(NAME, probe, RULES, PURPOSE)
