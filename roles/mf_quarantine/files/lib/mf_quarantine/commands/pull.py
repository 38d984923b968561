"""quarantine pull: fetch and import messages from the MXs, each MX in a process of its own."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence

from mf import canary, decisions, ssh, text

from .. import QuarantineError, canaries, importer, pull, query, remote, source
from ..context import DONE, FAILED, KEYS, MISUSE, Context, fail, report


def run(args: argparse.Namespace, context: Context) -> int:
    """Pull from all MXs, or from those that were named."""
    names = list(context.settings.mx)
    if args.mx:
        if unknown := sorted(set(args.mx) - set(names)):
            there = ", ".join(sorted(names))
            raise QuarantineError(f"no MX is called {text.clean(unknown[0], 64)}; there are {there}", MISUSE)
        names = args.mx
    else:
        # files that were fetched from an MX that has left the inventory since are imported all the same
        names += [name for name in context.layout.stray() if name not in names]
    if args.dry_run:
        codes = pull.side_by_side(
            [name for name in names if name in context.settings.mx], lambda name: _dry_run(context, name, args)
        )
        return FAILED if any(codes.values()) else DONE
    # MXs that failed the last time come last: with very many MXs, the others needn't wait for them
    names.sort(key=lambda name: bool(source.load(context.layout.state, name, 0.0).error))
    codes = pull.side_by_side(
        names, lambda name: pull_mx(context, name, sweep=args.sweep, as_json=args.json, verbose=bool(args.mx))
    )
    return FAILED if any(codes.values()) else DONE


def remote_of(context: Context, mx: str, held: Sequence[int] = ()) -> remote.Remote:
    """rsync to an MX with the key that may only read."""
    return remote.Remote(context.settings.mx[mx], ssh.command(f"{KEYS}/pull.key", f"{KEYS}/known_hosts"), held)


def _dry_run(context: Context, mx: str, args: argparse.Namespace) -> int:
    """Report the messages of one MX that are missing here; change nothing."""
    try:
        files, foreign = pull.missing(remote_of(context, mx), context.index, remote.EVERYTHING)
    except (QuarantineError, OSError) as problem:
        return fail(f"{mx}: {text.clean(str(problem), 300)}")
    size = sum(file.size for file in files)
    record = {"mx": mx, "missing": len(files), "bytes": size, "foreign": foreign, "dry_run": True}
    return report(args, record, f"{mx}: would fetch {len(files)} messages, {query.amount(size)}")


def pull_mx(context: Context, mx: str, *, sweep: bool, as_json: bool = False, verbose: bool = False) -> int:
    """Pull from one MX under its lock; returns the exit code. ``verbose``: print the outcome in any case."""
    lock = context.layout.lock(mx)
    with lock as held:
        if not held:
            if verbose:
                print(f"{mx}: a pull is under way already")
            return DONE
        folder = context.layout.state
        state = source.load(folder, mx, time.time())
        before, error = state.error, ""
        counts = importer.Counts()
        try:
            # before the MX is asked: it may let us wait while it is throttled
            state.save(folder, time.time())
            puller = _puller(context, state)
            counts = puller.counts
            if mx in context.settings.mx:
                puller.run(remote_of(context, mx, [lock.fileno()]), sweep=sweep)
            else:
                puller.finish()
        except (QuarantineError, OSError) as problem:
            error = text.clean(str(problem), 300)
        state.error = error
        try:
            state.save(folder, time.time())
        except OSError as problem:
            # a full disk, most likely: check-quarantine detects that by itself
            error = error or text.clean(str(problem), 300)
        if error and error != before:
            decisions.journal(f"quarantine: {mx}: {error}", {"PRIORITY": "4"})
        if as_json:
            print(json.dumps(vars(state) | {"now": vars(counts)}))
        elif error:
            fail(f"{mx}: {error}")
        elif verbose or sys.stdout.isatty():
            news = ", ".join(f"{value} {name}" for name, value in vars(counts).items() if value) or "nothing new"
            print(f"{mx}: {news}; {state.unpulled} still there")
    return FAILED if error else DONE


def _puller(context: Context, state: source.Source) -> pull.Puller:
    index, places, settings = context.index, context.layout, context.settings
    try:
        own = canaries.Canaries(canary.read_key(f"{KEYS}/canary.key"), places.state)
    except canary.KeyFileError as error:
        raise QuarantineError(f"{error}; deploy again with playbooks/site.yml") from None
    work = importer.Importer(index, places, settings, state.mx, host=context.host, canaries=own)
    return pull.Puller(index, places, settings, work, state, host=context.host)
