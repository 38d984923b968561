"""The decision log: the actions taken on a host, or refused, with their evidence."""

from __future__ import annotations

import os
import socket
import sys
import time
from collections.abc import Mapping

from . import state

JOURNAL = "/run/systemd/journal/socket"


def record(
    places: state.Places,
    check: str,
    action: str,
    target: str,
    reason: str,
    outcome: str,
    evidence: Mapping[str, state.Json] | None = None,
    journal_socket: str = JOURNAL,
) -> None:
    """Append one JSON line to /mf/var/log/decisions.jsonl and send one line to the journal. Never raises.

    ``action`` is a verb such as kill, restart, throttle, release, refuse; ``outcome`` is begun, done, failed or
    refused. A log that can't be written must not stop a repair, so failures go to stderr only.
    Texts from outside must have gone through ``text.clean``.
    """
    entry: dict[str, state.Json] = {
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "host": socket.gethostname(),
        "check": check,
        "action": action,
        "target": target,
        "reason": reason,
        "outcome": outcome,
        "evidence": dict(evidence) if evidence else {},
    }
    line = (state.encode(entry) + "\n").encode()
    try:
        # one write to an O_APPEND file: lines of concurrent writers don't mix
        descriptor = os.open(
            places.decisions, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW, 0o640
        )
        try:
            os.write(descriptor, line)
        finally:
            os.close(descriptor)
    except OSError as error:
        print(f"mf: {places.decisions}: {error.strerror}", file=sys.stderr)
    journal(
        f"{check}: {action} {target}: {outcome} ({reason})", {"MF_CHECK": check, "MF_ACTION": action}, journal_socket
    )


def journal(message: str, fields: Mapping[str, str], path: str = JOURNAL) -> None:
    """Send one entry to systemd's journal (its native protocol, systemd.io/JOURNAL_NATIVE_PROTOCOL). Never raises."""
    entry = b""
    for name, value in {"PRIORITY": "5", "SYSLOG_IDENTIFIER": "mf", **fields, "MESSAGE": message}.items():
        data = value.encode(errors="backslashreplace")
        if b"\n" in data:
            entry += name.encode() + b"\n" + len(data).to_bytes(8, "little") + data + b"\n"
        else:
            entry += name.encode() + b"=" + data + b"\n"
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
            channel.settimeout(1)
            channel.sendto(entry, path)
    except OSError:
        pass
