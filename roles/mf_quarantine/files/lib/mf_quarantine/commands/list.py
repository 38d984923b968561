"""quarantine list: messages, newest first."""

from __future__ import annotations

import argparse
import json
import sys

from .. import QuarantineError, layout, query
from ..context import DONE, MISUSE, Context


def run(args: argparse.Namespace, context: Context) -> int:
    """Print a line for each message."""
    if args.day and (args.since or args.until):
        raise QuarantineError("say either --day or --since and --until", MISUSE)
    start, end = (layout.bound(moment) if moment else "" for moment in (args.since, args.until))
    if args.day:
        start = args.day.replace("-", "")
        end = start + "~"
    wanted = query.Wanted(
        domain=args.domain or "",
        start=start,
        end=end,
        mx=args.mx,
        sender=args.sender,
        recipient=args.recipient,
        subject=args.subject,
        before=args.before or "",
        limit=args.limit,
        plugin=args.plugin,
    )
    width = 0
    if sys.stdout.isatty():
        import shutil

        width = shutil.get_terminal_size((160, 24)).columns
    for row in query.messages(context.index, wanted):
        print(row["id"] if args.ids else json.dumps(query.as_json(row)) if args.json else query.line(row, width))
    return DONE
