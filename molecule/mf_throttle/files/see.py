#!/usr/bin/env python3
"""Print how port 25 at each address answers a sender: ``open``, ``refused`` by a reset, or the error's name."""

import socket
import sys


def see(address: str) -> str:
    """Return the result of one connection."""
    try:
        socket.create_connection((address, 25), timeout=4).close()
    except ConnectionRefusedError:
        return "refused"
    except OSError as error:
        return type(error).__name__
    return "open"


print(*[see(address) for address in sys.argv[1:]])
