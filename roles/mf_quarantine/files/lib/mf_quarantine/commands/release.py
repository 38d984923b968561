"""quarantine release: hand messages to an MX, each once."""

from __future__ import annotations

import argparse
import json
import os

from mf import ssh

from .. import QuarantineError, release
from ..context import DONE, FAILED, KEYS, Context, fail


def run(args: argparse.Namespace, context: Context) -> int:
    """Release each message; a failure doesn't stop the others."""
    failed = False
    for ident in dict.fromkeys(args.id):
        problem, mx, answer = "", "", None
        # 64 files for all ids, by their random end: two ids rarely share a lock
        with context.layout.lock(f"release-{sum(ident.encode()) % 64}", wait=release.LIMIT) as held:
            try:
                if not held:
                    raise release.ReleaseError("another process is releasing it just now")
                mx, answer = release_message(context, ident, args)
            except QuarantineError as error:
                problem, failed = str(error), True
        if args.json:
            word = answer.word if answer else None
            record = {"id": ident, "released": word is not None, "mx": mx, "answer": word, "error": problem or None}
            print(json.dumps(record))
        elif problem:
            fail(f"{ident}: {problem}")
        elif answer is None:
            print(f"{ident}: would be handed to {mx}")
        else:
            print(f"{ident}: {answer.word} by {mx}: {answer.detail}")
    return FAILED if failed else DONE


def release_message(context: Context, ident: str, args: argparse.Namespace) -> tuple[str, release.Answer | None]:
    """Hand a message to the first MX that takes it; returns that MX and its answer, None for a dry run.

    Raises ReleaseError; the caller holds the message's lock.
    """
    row = context.index.find(ident)
    if row is None:
        raise release.ReleaseError("no such message ever came here")
    path = context.layout.path(row["domain"], ident)
    row = {"lost": False, "truncated": False, **row}
    command = ssh.command(f"{KEYS}/release.key", f"{KEYS}/known_hosts")
    refusals: dict[str, str] = {}
    while True:
        handover = context.index.handover(ident)
        try:
            mx = release.choose(row, handover, context.settings.mx, args.mx, args.force, asked=list(refusals))
        except release.ReleaseError as error:
            # no MX is left to ask: the answers of the others explain more
            raise release.ReleaseError("; ".join(refusals.values()) or str(error)) from None
        if not os.path.exists(path):
            raise release.ReleaseError("its file is gone; run: quarantine repair")
        if args.dry_run:
            return mx, None
        address = context.settings.mx[mx]

        def send(address: str = address) -> release.Answer:
            return release.over_ssh(command, address, ident, path)

        try:
            return mx, release.hand_over(context.index, ident, mx, args.by or context.caller, send, before=handover)
        except release.LaterError as error:
            refusals[mx] = str(error)
            if args.mx:
                raise
