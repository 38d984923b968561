"""/mf/bin/keep-refused: the program behind mf-keep.socket, and the one that shortens a bounce. See ``keeper``."""

from __future__ import annotations

import argparse
import os
import sys

from mf import cli, config, state

from . import keeper

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

_EPILOG = """\
systemd starts it for each of Exim's bounces (mf-keep.socket), and Exim with --trim; a person has no use for it.

Exit codes: 0 done; 1 not done; 2 wrong command line
"""


def main(argv: Sequence[str] | None = None, places: state.Places | None = None) -> int:
    """The command; returns its exit code."""
    parser = argparse.ArgumentParser(
        prog="keep-refused",
        description="Keep what a customer's server refused for good: LMTP on stdin and stdout, for Exim's bounces.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--trim", action="store_true", help="copy a bounce, of the original only the header")
    chosen = parser.parse_args(sys.argv[1:] if argv is None else argv)
    host = places or state.Places()
    try:
        if chosen.trim:
            sys.stdout.buffer.write(keeper.trim(sys.stdin.buffer.read()))
            return 0
        settings = config.load(host)
        root, folder = (settings.get("rejected", {})[key] for key in ("root", "refused"))
        os.umask(0o027)
        with open(0, "rb", closefd=False) as source:
            keeper.serve(source, sys.stdout.buffer, root, folder, settings["host"])
    except (config.SettingsError, keeper.ReportError) as error:
        return _failed(str(error))
    except KeyError as error:
        return _failed(cli.lacks(host, f"rejected.{error.args[0]}"))
    except OSError as error:
        return _failed(f"{error.filename or 'Exim'}: {error.strerror}")
    return 0


def _failed(message: str) -> int:
    print(f"keep-refused: {message}", file=sys.stderr)
    return 1
