"""Write to the journal, and notify systemd (sd_notify(3))."""

from __future__ import annotations

import os
import socket
import sys
from contextlib import suppress

from mf import text


def log(message: str) -> None:
    """Write a line for the journal."""
    print(text.clean(message, 400), file=sys.stderr, flush=True)


def sd_notify(message: str) -> None:
    """Notify systemd, when it listens."""
    path = os.environ.get("NOTIFY_SOCKET")
    if path:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel, suppress(OSError):
            channel.sendto(message.encode(), "\0" + path[1:] if path.startswith("@") else path)
