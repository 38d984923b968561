"""quarantine forget: stop watching an MX that has left the inventory for good."""

from __future__ import annotations

import argparse
import contextlib
import os

from mf import decisions, text

from .. import QuarantineError, source
from ..context import Context, report
from .stats import known_mxs


def run(args: argparse.Namespace, context: Context) -> int:
    """Remove the records of an MX; its messages stay."""
    if args.mx in context.settings.mx:
        raise QuarantineError(f"{args.mx} is in the inventory; take it out there and deploy first")
    if args.mx not in known_mxs(context.layout):
        raise QuarantineError(f"nothing is known of {text.clean(args.mx, 64)}; see quarantine stats")
    if not args.dry_run:
        os.unlink(f"{context.layout.state}/{args.mx}.json")
        with contextlib.suppress(FileNotFoundError):
            os.unlink(f"{context.layout.state}/{source.CANARY}{args.mx}.json")
        decisions.journal(f"quarantine: {args.mx} forgotten by {context.caller}", {"MF_ACTION": "forget"})
    verb = "would no longer be" if args.dry_run else "no longer"
    message = f"{args.mx}: {verb} watched; what came from it stays"
    return report(args, {"mx": args.mx, "dry_run": args.dry_run}, message)
