"""Faking a host's load average.

A container sees the machine's /proc/loadavg. A file bound over it inside the container is what everything there reads
instead, `uptime` included; its text is replaced in place, since a rename wouldn't be seen through the mount. Gone after
a restart.
"""

from __future__ import annotations

import math

from mflab.podman import Podman
from mflab.spec import EXIT_USAGE, Host, LabError

FAKE = """\
set -eu
mkdir -p /run/lab
echo "$1" > /run/lab/loadavg
mountpoint -q /proc/loadavg || mount --bind /run/lab/loadavg /proc/loadavg
"""
REAL = "while mountpoint -q /proc/loadavg; do umount /proc/loadavg || exit 1; done"


def parse(text: str) -> float | None:
    """Return the load average in `text`, None for "off"; LabError (usage) for anything else."""
    if text == "off":
        return None
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not (math.isfinite(value) and 0 <= value < 10_000):
        raise LabError(f"a load is a number from 0, or off; not {text!r}", EXIT_USAGE)
    return value


def line(value: float) -> str:
    """Return the text of /proc/loadavg (proc(5)) for the load average `value` over 1, 5 and 15 minutes."""
    return f"{value:.2f} {value:.2f} {value:.2f} 1/100 1"


def fake(podman: Podman, host: Host, value: float | None) -> None:
    """Let `host` see the load average `value` from now on, or the real one again (None)."""
    words = ("sh", "-c", REAL) if value is None else ("sh", "-c", FAKE, "sh", line(value))
    podman.run("exec", host.container, *words)
