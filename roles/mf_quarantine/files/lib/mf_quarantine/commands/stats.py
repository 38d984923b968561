"""quarantine stats: sums of the index, and what the MXs still have."""

from __future__ import annotations

import argparse
import json
import time

from .. import check, layout, query, source
from ..context import DONE, Context


def run(args: argparse.Namespace, context: Context) -> int:
    """Print the sums, and how far each MX is fetched."""
    sums = query.stats(context.index, args.domain or "", args.days)
    bad = check.count_bad(context.layout.bad)
    sums["sources"] = [
        vars(source.load(context.layout.state, mx, time.time())) | {"bad": bad.get(mx, 0)}
        for mx in sorted({*context.settings.mx, *known_mxs(context.layout)})
    ]
    if args.count:
        sums["counted"] = context.index.rows("SELECT COUNT(*) FROM message")[0][0]
        sums["ledger"] = query.count_states(context.index, "ledger")
    print(json.dumps(sums) if args.json else query.stats_page(sums))
    return DONE


def known_mxs(places: layout.Layout) -> list[str]:
    """MXs that were ever pulled from, in the inventory or not."""
    try:
        return [mx for mx in source.names(places.state) if layout.is_host(mx)]
    except FileNotFoundError:
        return []
