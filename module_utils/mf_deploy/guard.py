"""Keeping others from acting meanwhile: the host's action lock and the maintenance marker.

The formats are the package's (mf/state.py, mf/maintenance.py); both doors use the same lock.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ansible.module_utils.mf import state

from . import host
from .layout import Layout, ReleaseError

OWNER = "deploy"
LEASE = 900.0
"""Seconds after which the marker counts for nothing, should nobody take it away."""
WAIT = 30.0


@contextmanager
def lock(layout: Layout, name: str, what: str) -> Iterator[None]:
    """Hold one of the host's locks; raises ReleaseError when somebody else keeps it for WAIT seconds."""
    with state.Lock(state.Places(layout.root), name, WAIT) as held:
        if not held:
            raise ReleaseError(
                f"{what} has held {layout.run}/lock/{name}.lock for {WAIT:.0f} s. Nothing was changed. "
                f"Who it is: fuser -v {layout.run}/lock/{name}.lock; then run this again."
            )
        yield


def marker(layout: Layout) -> dict[str, Any] | None:
    """The maintenance marker that is in force, or None."""
    try:
        with open(state.Places(layout.root).maintenance, encoding="utf-8") as file:
            data = json.load(file)
        until = data["until"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    # as the package reads it: a maintenance has an end, and anything else is no marker
    lasts = isinstance(until, (int, float)) and not isinstance(until, bool) and until > state.boottime()
    return data if lasts else None


def ours(layout: Layout) -> bool:
    """Whether a marker of a deployment is in force."""
    found = marker(layout)
    return found is not None and found.get("owner") == OWNER


def mark(layout: Layout, generation: str) -> bool:
    """Have the checks only look for a while. An operator's own maintenance is left alone; whether it is ours now."""
    found = marker(layout)
    if found is not None and found.get("owner") != OWNER:
        return False
    now = state.boottime()
    record = {"owner": OWNER, "reason": f"release {generation}", "since": round(now, 3), "until": round(now + LEASE, 3)}
    host.make_folders(layout.run)
    host.replace(state.Places(layout.root).maintenance, (json.dumps(record) + "\n").encode(), 0o644, (-1, -1))
    return True


def unmark(layout: Layout) -> bool:
    """Take our marker away, and only ours; whether there was one."""
    return ours(layout) and host.forget(state.Places(layout.root).maintenance)
