#!/usr/bin/env python3
"""Measure how long greetings take while the host's DNS server takes queries and never answers.

    dead_dns.py ADDRESS...

Connects to port 25 at each address while /etc/resolv.conf names a socket of this script; restores that file.
Prints JSON: {"seconds": {ADDRESS: time until the 220, null without one}, "questions": number of DNS queries}.
"""

from __future__ import annotations

import json
import select
import socket
import sys
import time
from pathlib import Path

RESOLVER = Path("/etc/resolv.conf")
SILENT = ("127.0.0.153", 53)


def greeting(address: str) -> float | None:
    """Return the seconds until the service at `address` greets; None if it doesn't within ten."""
    started = time.monotonic()
    with socket.create_connection((address, 25), 10) as connection:
        try:
            reply = connection.recv(200)
        except TimeoutError:
            return None
        if not reply.startswith(b"220 "):
            raise ConnectionError(f"{address} said {reply!r}")
    return round(time.monotonic() - started, 3)


def main(addresses: list[str]) -> None:
    """Measure all addresses and print the result."""
    before = RESOLVER.read_bytes()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(SILENT)
        try:
            # written in place: containers mount it as a file
            RESOLVER.write_text(f"nameserver {SILENT[0]}\n", encoding="ascii")
            seconds = {address: greeting(address) for address in addresses}
        finally:
            RESOLVER.write_bytes(before)
        questions = 0
        while select.select([server], [], [], 0)[0]:
            server.recv(2000)
            questions += 1
    print(json.dumps({"seconds": seconds, "questions": questions}))


if __name__ == "__main__":
    main(sys.argv[1:])
