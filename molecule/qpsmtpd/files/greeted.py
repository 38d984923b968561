#!/usr/bin/env python3
"""Wait until a server greets with a certain code.

    greeted.py ADDRESS PORT CODE SECONDS

Exit codes: 0 it does, 1 not within SECONDS. Prints the last greeting and the time until it.
"""

from __future__ import annotations

import socket
import sys
import time


def main(address: str, port: str, code: str, seconds: str) -> int:
    """Connect until the greeting has the code; return the exit code."""
    begun = time.monotonic()
    while True:
        try:
            with socket.create_connection((address, int(port)), 10) as connection:
                reply = connection.makefile("rb").readline(600).decode("ascii", "backslashreplace").strip()
        except OSError as error:
            reply = str(error)
        took = time.monotonic() - begun
        if reply.startswith(f"{code} ") or took > float(seconds):
            print(f"{reply} (after {took:.1f} s)")
            return int(took > float(seconds))
        time.sleep(0.2)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
