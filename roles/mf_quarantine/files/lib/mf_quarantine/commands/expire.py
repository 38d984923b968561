"""quarantine expire: remove messages whose retention is over."""

from __future__ import annotations

import argparse
import time

from mf import decisions
from mf.command import throttle

from .. import expire, query
from ..context import Context, report

THROTTLE_LIMIT = 600.0  # seconds that a run waits for the throttle before it goes on all the same


def run(args: argparse.Namespace, context: Context) -> int:
    """Expire messages until none is left to expire, or for ``--max``."""
    with context.layout.lock("expire") as held:
        if not held:
            return report(args, {"running": True}, "an expire is under way already")
        end: float = time.monotonic() + args.max

        def pause() -> bool:
            throttle.wait(context.host, min(THROTTLE_LIMIT, max(0.0, end - time.monotonic())))
            return time.monotonic() < end

        try:
            outcome = expire.run(
                context.index,
                context.layout,
                context.settings,
                dry_run=args.dry_run,
                pause=pause,
                trust_clock=args.trust_clock,
            )
        except expire.ClockError as error:
            # under cron only the journal is read
            decisions.journal(f"quarantine: {error}", {"PRIORITY": "2"})
            raise
    verb = "would expire" if args.dry_run else "expired"
    message = f"{verb}: {outcome.messages} messages, {query.amount(outcome.bytes)}"
    if not outcome.finished:
        message += "; time is up, the next run goes on"
    return report(args, vars(outcome), message)
