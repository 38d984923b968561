"""Hand one message to Apprise: a process of its own, so that a gateway that hangs or a plugin that dies harms nobody.

Reads one JSON object on stdin (``url``, ``title``, ``body``): the URL holds secrets, so it is never in an argument.
Exit code 0: the gateway took it. Otherwise one line on stderr says why, without the URL.
"""

from __future__ import annotations

import json
import logging
import sys


def main() -> int:
    """Send; returns the exit code."""
    order = json.load(sys.stdin)
    import apprise

    said: list[str] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            said.append(record.getMessage())

    logger = logging.getLogger("apprise")
    logger.addHandler(Keep(logging.WARNING))
    logger.propagate = False
    service = apprise.Apprise()
    if not service.add(order["url"]):
        print("not an Apprise URL", file=sys.stderr)
        return 2
    if service.notify(body=order["body"], title=order["title"], body_format=apprise.NotifyFormat.TEXT):
        return 0
    print(" ".join(said).replace(order["url"], "URL")[:300] or "the gateway refused it", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
