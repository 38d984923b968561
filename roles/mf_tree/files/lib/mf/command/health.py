"""/mf/bin/health. No argparse: the monitor runs this on every host each minute (6 ms saved)."""

from __future__ import annotations

import sys

from .. import health, state

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

RUN_CHECKS = "/mf/bin/run-checks"
REFRESH_LIMIT = 90.0  # seconds all checks together may take

USAGE = """\
usage: health [--json] [--refresh]

Print this host's health, in one line.

  --json     the whole of it as one JSON object on one line
  --refresh  run this host's checks now, then read their results
  --help     this text

Exit code: 0 OK, 1 WARNING, 2 CRITICAL, 3 UNKNOWN (also for a wrong command line)."""


def main(argv: Sequence[str] | None = None, places: state.Places | None = None) -> int:
    """The command; returns its exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if "--help" in arguments or "-h" in arguments:
        return _say(USAGE, 0)
    unknown = [argument for argument in arguments if argument not in ("--json", "--refresh")]
    if unknown:
        print(f"health: unknown argument {unknown[0][:40]!a}; see health --help", file=sys.stderr)
        return state.EXIT_CODES[state.UNKNOWN]
    try:
        if "--refresh" in arguments:
            refresh()
        record = health.collect(places or state.Places())
        answer = state.encode(record) if "--json" in arguments else record["line"]
        return _say(answer, state.EXIT_CODES[record["status"]])
    except KeyboardInterrupt:
        return 130


def refresh(command: str = RUN_CHECKS) -> None:
    """Run all checks of this host. Their output and exit code are ignored: their results are read afterwards."""
    import subprocess

    try:
        subprocess.run(
            [command, "--all"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=REFRESH_LIMIT,
            check=False,
        )
    except OSError as error:
        print(f"health: {command} can't be run: {error.strerror}", file=sys.stderr)
    except subprocess.TimeoutExpired:
        print(f"health: {command} did not finish within {REFRESH_LIMIT:g} s", file=sys.stderr)


def _say(text: str, code: int) -> int:
    try:
        print(text, flush=True)
    except BrokenPipeError:
        # the reader is gone; keep the interpreter from complaining when it closes stdout
        sys.stdout = None
    return code
