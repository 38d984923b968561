"""/mf/bin/release-message: the forced command behind control's key for releasing a message. See ``deliver``."""

from __future__ import annotations

import argparse
import io
import os
import signal
import sys
from collections.abc import Sequence

from mf import cli, state

from . import deliver

_EPILOG = """\
Reads the file as it was kept (an envelope line in JSON, then the message) from stdin, and answers one line.

Exit codes: 0 accepted, or known from before; 1 refused for good; 75 not now, nothing was done; 70 unclear, ask again
with the same id; 2 wrong command line
"""


def main(argv: Sequence[str] | None = None, environment: dict[str, str] | None = None) -> int:
    """The command; returns its exit code. Under sshd the id is what the client asked for."""
    parser = cli.Command(
        "release-message",
        "Hand one message out of the quarantine to this MX's Exim, at most once.",
        _EPILOG,
        work=_deliver,
    )
    parser.add_argument("id", help="the release's id; a second try with the same id hands nothing over")
    requested = dict(os.environ if environment is None else environment).get("SSH_ORIGINAL_COMMAND")
    if requested is None:
        return parser.main(argv)
    if len(requested.split()) != 1 or requested.strip().startswith("-"):
        print(f"{deliver.REFUSED} expected one word: the release's id")
        return deliver.EXIT_CODES[deliver.REFUSED]
    return parser.main([requested.strip()])


def _deliver(chosen: argparse.Namespace, _: state.Places) -> int:
    # the client may hang up; the message is delivered all the same, and the next request gets the answer
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    answer = deliver.deliver(chosen.id, sys.stdin.buffer)
    try:
        print(answer.line(), flush=True)
    except BrokenPipeError:
        sys.stdout = io.StringIO()
    return deliver.EXIT_CODES[answer.word]
