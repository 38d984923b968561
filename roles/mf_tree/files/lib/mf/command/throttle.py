"""/mf/bin/throttle: the throttle for operators and for jobs."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TextIO

from .. import Failure, cli, state, text
from ..throttle import lease, marker

if TYPE_CHECKING:
    from ..throttle import control

FREE, STILL_THROTTLED = 0, 4
DEFAULT_TTL = 900.0  # seconds
POLL = 2.0  # seconds between two reads of the marker

_EPILOG = """\
Durations: 90s 15m 2h 1d.

Exit codes
  on, off, restore, reconcile   0 done, 1 not done or not in force, 2 wrong command line, 5 over the fleet's budget
  status                        0 not throttled, 1 throttled, 2 refusing mail (or should be)
  wait                          0 free, 4 still throttled after --max
  run                           CMD's own; 126 CMD can't be run, 127 no such CMD

Examples
  throttle on --ttl 2h --reason "disk swap"      refuse new mail and let jobs wait, for two hours
  throttle on --mark-only --owner backup         only let jobs wait
  throttle on --hold --reason "failed its gate"  until "throttle off"; alarmed all the while
  throttle run --max 10m -- rsync -a /a /b       when the throttle is off, or after ten minutes anyway
"""


def main(argv: Sequence[str] | None = None, places: state.Places | None = None) -> int:
    """The command; returns its exit code."""
    return _parser().main(argv, places)


def wait(
    places: state.Places,
    seconds: float,
    *,
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = state.boottime,
    terminal: TextIO | None = None,
) -> marker.Status:
    """Wait until the host isn't throttled, at most that many seconds; returns its state then.

    A read costs one lstat(2) while there is no marker. ``terminal`` gets a line that shows the progress.
    """
    end = clock() + seconds
    shown = False
    while True:
        now = clock()
        status = marker.current(places)
        if not status.throttled or now >= end:
            if shown and terminal is not None:
                print("\r\033[K", end="", file=terminal, flush=True)
            return status
        if terminal is not None:
            shown = True
            waited = f"waiting {text.span(seconds - (end - now))} of {text.span(seconds)}"
            print(f"\r\033[K{waited}; {status.describe()[:100]}", end="", file=terminal, flush=True)
        sleep(min(POLL, end - now))


def _on(chosen: argparse.Namespace, places: state.Places) -> int:
    ttl = None if chosen.hold else chosen.ttl
    return _do(
        chosen,
        places,
        lambda control: control.on(
            chosen.owner, chosen.reason, ttl, refuse=not chosen.mark_only, force=chosen.force or chosen.hold
        ),
    )


def _off(chosen: argparse.Namespace, places: state.Places) -> int:
    def give_back(control: control.Control) -> control.Outcome:
        outcome = control.off(chosen.owner)
        if lease.find(outcome.before.leases, chosen.owner) is None:
            others = ", ".join(item.owner for item in outcome.after.leases) or "none"
            print(f"{chosen.owner} holds no lease here; held by: {others}")
        return outcome

    return _do(chosen, places, give_back)


def _restore(chosen: argparse.Namespace, places: state.Places) -> int:
    return _do(chosen, places, lambda control: control.reconcile(ensure_table=True))


def _reconcile(chosen: argparse.Namespace, places: state.Places) -> int:
    return _do(chosen, places, lambda control: control.reconcile())


def _remove(chosen: argparse.Namespace, places: state.Places) -> int:
    return _do(chosen, places, lambda control: control.remove())


def _do(chosen: argparse.Namespace, places: state.Places, act: Callable[[control.Control], control.Outcome]) -> int:
    from .. import config
    from ..throttle import control

    throttle = control.Control(places, config.load(places), dry_run=chosen.dry_run)
    outcome = act(throttle)
    for action in outcome.actions:
        print(f"would: {action}" if chosen.dry_run else action)
    for warning in outcome.warnings:
        print(f"throttle: {warning}", file=sys.stderr)
    if chosen.dry_run and not outcome.actions:
        print("would change nothing")
    if not chosen.dry_run:
        print(outcome.after.describe())
    return cli.FAILED if outcome.unmarked or (outcome.after.wrong and throttle.can_refuse) else FREE


def _status(chosen: argparse.Namespace, places: state.Places) -> int:
    now = state.boottime()
    reading = marker.read(places, now)
    status, lost = reading.status(now), reading.lost
    print(state.encode(status.as_json()) if chosen.json else status.describe())
    if lost:
        print(f"throttle: the marker is lost, the host was {lost}; throttle reconcile puts it right", file=sys.stderr)
    if status.refusing or status.should_refuse or lost == marker.REFUSING:
        return 2
    return 1 if status.throttled or lost else 0


def _wait(chosen: argparse.Namespace, places: state.Places) -> int:
    return STILL_THROTTLED if _waited(chosen, places).throttled else FREE


def _waited(chosen: argparse.Namespace, places: state.Places) -> marker.Status:
    return wait(places, chosen.max, terminal=sys.stderr if sys.stderr.isatty() else None)


def _run(chosen: argparse.Namespace, places: state.Places) -> int:
    command = chosen.cmd[1:] if chosen.cmd[:1] == ["--"] else chosen.cmd
    if not command:
        raise Failure("run needs a command: throttle run -- CMD", cli.MISUSE)
    status = _waited(chosen, places)
    if status.throttled:
        print(f"throttle: {status.describe()}. Running all the same after {text.span(chosen.max)}", file=sys.stderr)
    sys.stdout.flush()
    sys.stderr.flush()
    try:
        # the command takes this process's place, so signals and its exit code go straight through
        os.execvp(command[0], command)
    except FileNotFoundError:
        raise Failure(f"{text.clean(command[0])}: no such command", 127) from None
    except OSError as error:
        raise Failure(f"{text.clean(command[0])} can't be run: {error.strerror}", 126) from None


def _parser() -> cli.Command:
    top = cli.Command("throttle", "Let IO-heavy jobs wait and new mail go to the other MXs, for a while.", _EPILOG)
    on = top.add("on", _on, "take a lease, or renew it", dry_run=True)
    on.add_argument("--owner", type=cli.owner, default="operator", help="whose lease it is (default: operator)")
    on.add_argument(
        "--ttl", type=cli.ttl, default=DEFAULT_TTL, metavar="TIME", help="how long, 1s to 7d (default: 15m)"
    )
    on.add_argument("--reason", type=cli.reason, default="", metavar="TEXT", help="why; shown wherever the throttle is")
    on.add_argument("--mark-only", action="store_true", help="jobs wait, but mail is accepted")
    on.add_argument("--hold", action="store_true", help="no end; CRITICAL until it is given back")
    on.add_argument("--force", action="store_true", help="even if too few MXs would be left that accept mail")
    off = top.add("off", _off, "give a lease back", dry_run=True)
    off.add_argument("--owner", type=cli.any_owner, default="operator", help="whose (default: operator)")
    top.add("status", _status, "show the leases", json="as one JSON object")
    waiting = top.add("wait", _wait, "wait until the throttle is off")
    waiting.add_argument("--max", type=cli.duration, required=True, metavar="TIME", help="and no longer than this")
    runner = top.add("run", _run, "wait until the throttle is off, then run a command in any case")
    runner.add_argument("--max", type=cli.duration, default=600.0, metavar="TIME", help="wait no longer (default: 10m)")
    runner.add_argument("cmd", nargs=argparse.REMAINDER, metavar="-- CMD", help="the command and its arguments")
    top.add("restore", _restore, "put everything back after a boot (mf-throttle.service does)", dry_run=True)
    top.add("reconcile", _reconcile, "bring marker, firewall and disk into line (check-load does)", dry_run=True)
    top.add("remove", _remove, "end all leases and take the nftables table away", dry_run=True)
    return top
