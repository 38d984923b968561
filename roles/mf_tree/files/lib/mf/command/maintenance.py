"""/mf/bin/maintenance: keep the checks from acting while an operator works on the host."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from .. import cli, maintenance, state, text

_EPILOG = """\
Durations: 90s 15m 2h 1d.

Exit codes
  on, off   0 done, 1 not done, 2 wrong command line, 4 on, but an action that began before it is still under way
  status    0 no maintenance, 1 maintenance is on

Example
  maintenance on --ttl 2h --reason "replace the disk"
"""


def main(argv: Sequence[str] | None = None, places: state.Places | None = None) -> int:
    """The command; returns its exit code."""
    return _parser().main(argv, places)


def _on(chosen: argparse.Namespace, places: state.Places) -> int:
    for warning in maintenance.on(places, chosen.owner, chosen.reason, chosen.ttl, dry_run=chosen.dry_run):
        print(f"maintenance: {warning}", file=sys.stderr)
    if chosen.dry_run:
        print(f"would begin maintenance by {chosen.owner} for {text.span(chosen.ttl)}")
        return 0
    print(_describe(maintenance.active(places)))
    return 0


def _off(chosen: argparse.Namespace, places: state.Places) -> int:
    was_on = maintenance.off(places, dry_run=chosen.dry_run)
    if chosen.dry_run:
        print("would end maintenance" if was_on else "would change nothing")
    else:
        print("maintenance has ended" if was_on else "there was no maintenance")
    return 0


def _status(chosen: argparse.Namespace, places: state.Places) -> int:
    active = maintenance.active(places)
    if chosen.json:
        shown: dict[str, state.Json] = {"maintenance": active is not None}
        if active is not None:
            left = round(active.until - state.boottime(), 1)
            shown.update({"owner": active.owner, "reason": active.reason, "left_seconds": left})
        print(state.encode(shown))
    else:
        print(_describe(active))
    return 0 if active is None else 1


def _describe(active: maintenance.Maintenance | None) -> str:
    if active is None:
        return "no maintenance"
    left = text.span(active.until - state.boottime())
    reason = f" ({text.clean(active.reason)})" if active.reason else ""
    return f"maintenance by {text.clean(active.owner, 32)}{reason}, {left} left: checks report and don't act"


def _parser() -> cli.Command:
    top = cli.Command("maintenance", "While an operator works on this host, its checks report and don't act.", _EPILOG)
    on = top.add("on", _on, "begin maintenance, or prolong it", dry_run=True)
    on.add_argument("--owner", type=cli.owner, default="operator", help="the name of the operator (default: operator)")
    on.add_argument("--ttl", type=cli.ttl, default=3600.0, metavar="TIME", help="how long, 1s to 7d (default: 1h)")
    on.add_argument("--reason", type=cli.reason, default="", metavar="TEXT", help="why")
    top.add("off", _off, "end it, of any owner", dry_run=True)
    top.add("status", _status, "show it", json="as one JSON object")
    return top
