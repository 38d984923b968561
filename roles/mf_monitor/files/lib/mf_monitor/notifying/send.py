"""Send one message through Apprise, in a process of its own: if a gateway hangs or a plugin dies, the monitor goes on.

Reads one JSON object on stdin (``url``, ``title``, ``body``). The URL holds secrets, so it is never in an argument.
Exit code 0: the gateway accepted the message. Otherwise one line on stderr gives the reason, without the URL; 3: the
gateway may have accepted it.
"""

from __future__ import annotations

import json
import logging
import re
import sys
from collections.abc import Iterable

UNSURE = 3
# what Apprise logs of requests and smtplib after the gateway had been reached
_BROKE_OFF = re.compile(r"timed out|connection aborted|reset by peer|broken pipe|unexpectedly closed", re.IGNORECASE)
_NEVER_BEGAN = re.compile(r"failed to establish|connect timeout", re.IGNORECASE)


def may_have_arrived(lines: Iterable[str]) -> bool:
    """Whether an attempt failed after the gateway had been reached and before it answered."""
    return any(_BROKE_OFF.search(line) and not _NEVER_BEGAN.search(line) for line in lines)


def main() -> int:
    """Send the message; returns the exit code."""
    order = json.load(sys.stdin)
    import apprise

    warnings: list[str] = []
    details: list[str] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.levelno >= logging.WARNING:
                warnings.append(record.getMessage())
            elif record.getMessage().startswith("Socket Exception"):
                details.append(record.getMessage())

    logger = logging.getLogger("apprise")
    logger.addHandler(Keep())
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    service = apprise.Apprise()
    if not service.add(order["url"]):
        print("not an Apprise URL", file=sys.stderr)
        return 2
    if service.notify(body=order["body"], title=order["title"], body_format=apprise.NotifyFormat.TEXT):
        return 0
    print(" ".join(warnings).replace(order["url"], "URL")[:300] or "the gateway refused it", file=sys.stderr)
    return UNSURE if may_have_arrived([*warnings, *details]) else 1


if __name__ == "__main__":
    sys.exit(main())
