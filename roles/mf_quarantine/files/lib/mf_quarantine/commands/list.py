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
        raise QuarantineError("use either --day or --since and --until", MISUSE)
    start, end = (layout.bound(moment) if moment else "" for moment in (args.since, args.until))
    if args.day:
        start = args.day.replace("-", "")
        end = start + "~"
    texts = {key: getattr(args, key) for key in ("mx", "plugin", "sender", "recipient", "subject")}
    chosen = query.Filter(args.domain or "", start, end, args.before or "", **texts, limit=args.limit)
    width = 0
    if sys.stdout.isatty():
        import shutil

        width = shutil.get_terminal_size((160, 24)).columns
    for row in context.index.stream(*query.select(chosen)):
        print(row["id"] if args.ids else json.dumps(query.as_json(row)) if args.json else query.line(row, width))
    return DONE
