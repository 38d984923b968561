"""check-smtp: a full SMTP transaction with qpsmtpd on loopback; busy is not dead.

The healthy path is one dialogue. What else can be seen, and what is done then, is in ``smtp_cold``.
"""

from __future__ import annotations

from .. import run, smtp, state

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import NoReturn

NAME = "smtp"
RULES: run.Rules = {
    "address": str,  # IPv4 loopback, numeric
    "address6": str,  # IPv6 loopback, or empty: only its greeting is asked for, the rest is the same process
    "port": (1, 65535),
    "canary": str,  # recipient that qpsmtpd accepts from loopback and discards
    "unit": str,
    "children_max": (1, 10000),
    "dialogue": (1, 300),  # seconds for one whole dialogue
}

OK = "OK"  # the class; the others are the cold path's


def look(places: state.Places, values: run.Values) -> state.Result | run.Rest:
    """One dialogue over IPv4, one greeting over IPv6."""
    first = smtp.transaction(values["address"], values["port"], values["dialogue"], values["canary"])
    if first.outcome == smtp.ACCEPTED and (
        not values["address6"] or smtp.greeting(values["address6"], values["port"], 3.0).outcome == smtp.ACCEPTED
    ):
        return report(state.OK, OK, f"canary accepted in {first.seconds():.3f} s", first)
    return lambda dry_run: _examine(places, values, dry_run, first)


def _examine(places: state.Places, values: run.Values, dry_run: bool, first: smtp.Dialogue) -> state.Result:
    from .smtp_cold import Examination

    return Examination(values, dry_run, places).result(first)


CHECK = run.Check(NAME, look, RULES)


def main(argv: Sequence[str], **release: object) -> NoReturn:
    """Entry of the launcher /mf/bin/check-smtp."""
    run.main(CHECK, argv, **release)  # type: ignore[arg-type]


def report(status: str, kind: str, summary: str, dialogue: smtp.Dialogue) -> state.Result:
    """A result with the time of every stage as performance data."""
    result = state.Result(NAME, status, summary)
    metrics = result.metrics
    metrics["class"] = kind
    metrics["total_seconds"] = round(dialogue.seconds(), 6)
    for stage, seconds in dialogue.timings.items():
        metrics[stage + "_seconds"] = round(seconds, 6)
    metrics["code"] = dialogue.code
    metrics["starttls"] = int(dialogue.starttls)
    return result
