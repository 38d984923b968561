"""/mf/bin/keep-refused: the program behind mf-keep.socket, and the one that shortens a bounce. See ``keeper``."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from mf import cli, config, state

from . import keeper

_EPILOG = """\
systemd starts it for each of Exim's bounces (mf-keep.socket), and Exim with --trim; an operator has no use for it.

Exit codes: 0 done; 1 not done; 2 wrong command line
"""


def main(argv: Sequence[str] | None = None, places: state.Places | None = None) -> int:
    """The command; returns its exit code."""
    parser = cli.Command(
        "keep-refused",
        "Keep what a customer's server refused for good: LMTP on stdin and stdout, for Exim's bounces.",
        _EPILOG,
        work=_keep,
    )
    parser.add_argument("--trim", action="store_true", help="copy a bounce, of the original only the header")
    return parser.main(argv, places)


def _keep(chosen: argparse.Namespace, places: state.Places) -> int:
    if chosen.trim:
        sys.stdout.buffer.write(keeper.trim(sys.stdin.buffer.read()))
        return 0
    settings = config.load(places)
    root, folder, day_size = (settings.section("rejected")[key] for key in ("root", "refused", "refused_day_size"))
    os.umask(0o027)
    with open(0, "rb", closefd=False) as source:
        keeper.serve(source, sys.stdout.buffer, root, folder, settings["host"], day_size)
    return 0
