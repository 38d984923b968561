"""Faking a host's load average.

In a container lab-loadavg (lab/image/loadavg.py) keeps a file over /proc/loadavg, which everything there reads instead,
`uptime` included. It shows the load that was set, until another is set or until a restart.
"""

from __future__ import annotations

import math

from mflab.podman import Podman
from mflab.spec import EXIT_USAGE, Host, LabError

# $1 is the line to show, "" for the host's own load again. Ends once it is shown.
SHOW = """\
set -eu
cd /run/lab
if [ -n "$1" ]; then
    echo "$1" > fake.part
    mv fake.part fake
else
    rm -f fake
fi
systemctl kill --signal=USR1 lab-loadavg.service
waited=0
until case $(cat /proc/loadavg) in "$1"*) true ;; *) false ;; esac; do
    waited=$((waited + 1))
    [ $waited -lt 100 ] || { echo 'lab-loadavg does not answer' >&2; exit 1; }
    sleep 0.1
done
"""


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
    """Return what /proc/loadavg (proc(5)) begins with at the load average `value` over 1, 5 and 15 minutes."""
    return f"{value:.2f} {value:.2f} {value:.2f}"


def fake(podman: Podman, host: Host, value: float | None) -> None:
    """Let `host` see the load average `value` from now on, or the real one again (None)."""
    podman.run("exec", host.container, "sh", "-c", SHOW, "sh", "" if value is None else line(value))
