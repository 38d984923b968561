"""/mf/bin/maintenance: tell the checks to look and not act while somebody is at work on the host."""

from __future__ import annotations

import argparse
import sys

from .. import lease, maintenance, state, text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import NoReturn

_EPILOG = """\
Durations: 90s 15m 2h 1d.

Exit codes
  on, off   0 done, 1 not done, 2 wrong command line
  status    0 no maintenance, 1 maintenance is on

Example
  maintenance on --ttl 2h --reason "replace the disk"
"""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        print(f"{self.prog}: {message}; see {self.prog} --help", file=sys.stderr)
        raise SystemExit(2)


def main(argv: Sequence[str] | None = None, places: state.Places | None = None) -> int:
    """The command; returns its exit code."""
    try:
        chosen = _parser().parse_args(sys.argv[1:] if argv is None else argv)
        command: Callable[[argparse.Namespace, state.Places], int] = chosen.command
        code = command(chosen, places or state.Places())
        sys.stdout.flush()
        return code
    except (maintenance.MaintenanceError, lease.LeaseError) as error:
        print(f"maintenance: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(file=sys.stderr)
        return 130
    except BrokenPipeError:
        sys.stdout = None
        return 1


def _on(chosen: argparse.Namespace, places: state.Places) -> int:
    for warning in maintenance.on(places, chosen.owner, chosen.reason, chosen.ttl, dry_run=chosen.dry_run):
        print(f"maintenance: {warning}", file=sys.stderr)
    if chosen.dry_run:
        print(f"would begin maintenance by {chosen.owner} for {text.span(chosen.ttl)}")
        return 0
    print(_words(places))
    return 0


def _off(chosen: argparse.Namespace, places: state.Places) -> int:
    was_on = maintenance.off(places, dry_run=chosen.dry_run)
    if chosen.dry_run:
        print("would end maintenance" if was_on else "would change nothing")
    else:
        print("maintenance has ended" if was_on else "there was no maintenance")
    return 0


def _status(chosen: argparse.Namespace, places: state.Places) -> int:
    found = maintenance.active(places)
    if chosen.json:
        now = state.boottime()
        shown: dict[str, state.Json] = {"maintenance": found is not None}
        if found is not None:
            left = round(float(str(found["until"])) - now, 1)
            shown.update({"owner": found["owner"], "reason": found["reason"], "left_seconds": left})
        print(state.encode(shown))
    else:
        print(_words(places))
    return 0 if found is None else 1


def _words(places: state.Places) -> str:
    found = maintenance.active(places)
    if found is None:
        return "no maintenance"
    left = text.span(float(str(found["until"])) - state.boottime())
    reason = f" ({text.clean(str(found['reason']))})" if found["reason"] else ""
    return f"maintenance by {text.clean(str(found['owner']), 32)}{reason}, {left} left: checks look and don't act"


def _duration(word: str) -> float:
    try:
        return lease.check_ttl(text.seconds(word))
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _owner(word: str) -> str:
    try:
        return lease.check_owner(word)
    except lease.LeaseError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _reason(word: str) -> str:
    try:
        return lease.check_reason(word)
    except lease.LeaseError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _parser() -> argparse.ArgumentParser:
    top = _Parser(
        prog="maintenance",
        description="While somebody is at work on this host, its checks look and don't act.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    commands = top.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def add(
        name: str, command: Callable[[argparse.Namespace, state.Places], int], purpose: str
    ) -> argparse.ArgumentParser:
        parser = commands.add_parser(name, help=purpose, description=purpose, allow_abbrev=False)
        parser.set_defaults(command=command)
        return parser

    on = add("on", _on, "begin maintenance, or prolong it")
    on.add_argument("--owner", type=_owner, default="operator", help="who is at work (default: operator)")
    on.add_argument("--ttl", type=_duration, default=3600.0, metavar="TIME", help="how long, 1s to 7d (default: 1h)")
    on.add_argument("--reason", type=_reason, default="", metavar="TEXT", help="why")
    on.add_argument("--dry-run", action="store_true", help="say what would be done, and do nothing")
    off = add("off", _off, "end it, whoever began it")
    off.add_argument("--dry-run", action="store_true", help="say what would be done, and do nothing")
    status = add("status", _status, "show it")
    status.add_argument("--json", action="store_true", help="as one JSON object")
    return top
