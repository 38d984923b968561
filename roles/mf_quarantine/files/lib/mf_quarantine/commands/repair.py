"""quarantine repair: compare files, index and MXs with each other, then pull from every MX."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator

from .. import pull, remote, repair
from ..context import FAILED, Context, fail, report
from .pull import pull_mx, remote_of


def run(args: argparse.Namespace, context: Context) -> int:
    """Repair differences and report what is lost."""
    terminal = sys.stderr.isatty()

    def progress(message: str) -> None:
        if terminal:
            print(f"\r\033[K{message[:100]}", end="", file=sys.stderr, flush=True)

    work = repair.Repair(context.index, context.layout, context.settings, dry_run=args.dry_run, progress=progress)
    work.compare()
    problems = work.fetch(_remotes(context))
    progress("")
    if not args.dry_run:
        codes = pull.side_by_side(list(context.settings.mx), lambda mx: pull_mx(context, mx, sweep=True))
        asked = {problem.partition(":")[0] for problem in problems}
        problems += [
            f"{mx}: not pulled, see quarantine stats" for mx, code in codes.items() if code and mx not in asked
        ]
    for problem in problems:
        fail(problem)
    outcome = work.outcome
    verb = "would be" if args.dry_run else "were"
    parts = [
        f"{outcome.indexed} files {verb} indexed again",
        f"{outcome.removed} expired files {verb} removed",
        f"{outcome.fetched} missing files {verb} fetched from an MX",
        f"{outcome.lost} rows have no file any more"
        + (", and not every MX could be asked" if problems and outcome.lost else ""),
    ]
    if outcome.lost_before:
        parts.append(f"{outcome.lost_before} were marked as lost before")
    if outcome.damaged:
        parts.append(f"{outcome.damaged} damaged files {verb} put aside in bad/store")
    code = report(args, vars(outcome) | {"problems": problems}, "; ".join(parts))
    return FAILED if problems or outcome.lost else code


def _remotes(context: Context) -> Iterator[tuple[str, remote.Remote | None]]:
    for mx in context.settings.mx:
        lock = context.layout.lock(mx, wait=60.0)
        with lock as held:
            yield mx, remote_of(context, mx, [lock.fileno()]) if held else None
