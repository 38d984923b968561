"""quarantine show: one message, its envelope and header, or the message itself."""

from __future__ import annotations

import argparse
import json
import shutil
import sys

from .. import QuarantineError, envelope, query
from ..context import DONE, FAILED, MISUSE, Context, fail

_GONE = {"expired": "it has expired", "canary": "it was a canary", "bad": "it couldn't be imported; see bad/"}


def run(args: argparse.Namespace, context: Context) -> int:
    """Print a message's row, envelope and header."""
    row = context.index.find(args.id)
    if row is None:
        raise QuarantineError(f"no message {args.id} ever came here")
    if row["state"] != "kept":
        raise QuarantineError(f"{args.id} is not kept: {_GONE.get(row['state'], row['state'])}")
    path = context.layout.path(row["domain"], args.id)
    if args.raw:
        return _raw(path)
    try:
        with open(path, "rb") as file:
            full = envelope.parse(file.readline(envelope.LINE_MAX).rstrip(b"\n"), args.id)
            head = file.read(envelope.HEAD_MAX)
    except (OSError, envelope.DamagedError) as error:
        full, head = {}, b""
        fail(f"its file can't be read: {error}")
    handover = context.index.handover(args.id)
    if args.json:
        record = query.as_json(row) | {
            "recipients": full.get("recipients", []),
            "client_ip": full.get("client_ip", ""),
            "helo": full.get("helo", ""),
            "header": envelope.header(head).decode("latin-1"),
            "release": query.as_json(handover) if handover else None,
        }
        print(json.dumps(record))
    else:
        print(query.page(row, full, envelope.header(head), handover))
    return DONE if full else FAILED


def _raw(path: str) -> int:
    if sys.stdout.isatty():
        raise QuarantineError("a raw message can harm a terminal; run: quarantine show --raw ID >FILE", MISUSE)
    with open(path, "rb") as file:
        file.readline(envelope.LINE_MAX)
        sys.stdout.flush()
        shutil.copyfileobj(file, sys.stdout.buffer, 1 << 20)
    return DONE
