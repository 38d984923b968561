"""/mf/bin/release-message: the forced command behind control's key for releasing a message. See ``deliver``."""

from __future__ import annotations

import argparse
import os
import signal
import sys

from . import deliver

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

_EPILOG = """\
Reads the file as it was kept (an envelope line in JSON, then the message) from stdin, and answers one line.

Exit codes: 0 accepted, or known from before; 1 refused for good; 75 not now, nothing was done; 70 unclear, ask again
with the same id; 2 wrong command line
"""


def main(argv: Sequence[str] | None = None, environment: dict[str, str] | None = None) -> int:
    """The command; returns its exit code. Under sshd the id is the word that the client asked for."""
    parser = argparse.ArgumentParser(
        prog="release-message",
        description="Hand one message out of the quarantine to this MX's Exim, at most once.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("id", help="the release's id; a second try with the same id hands nothing over")
    asked = dict(os.environ if environment is None else environment).get("SSH_ORIGINAL_COMMAND")
    words = list(sys.argv[1:] if argv is None else argv)
    if asked is not None:
        if len(asked.split()) != 1 or asked.startswith("-"):
            print(f"{deliver.REFUSED} say one word: the release's id")
            return deliver.EXIT_CODES[deliver.REFUSED]
        words = [asked.strip()]
    chosen = parser.parse_args(words)
    # whoever asked may hang up; the message is handed over all the same, and the answer waits for the next who asks
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    answer = deliver.release(chosen.id, sys.stdin.buffer)
    try:
        print(answer.line(), flush=True)
    except BrokenPipeError:
        sys.stdout = None
    return deliver.EXIT_CODES[answer.word]
