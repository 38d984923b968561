"""The state of units, read from systemd once for all of them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from . import host
from .layout import DeployError

_ASKED = "LoadState,ActiveState,UnitFileState,InactiveExitTimestampMonotonic"
# "static" and its like have no [Install] section: there is nothing left to enable
_ENABLED = frozenset({"enabled", "enabled-runtime", "static", "alias", "indirect", "generated", "transient", "linked"})


class Unit(NamedTuple):
    """``started``: seconds on CLOCK_MONOTONIC when it last began to start, 0 for never."""

    exists: bool
    active: bool
    enabled: bool
    started: float


def read(names: Iterable[str], run: host.Run) -> dict[str, Unit]:
    """Return the state of some units, by name. Raises DeployError when systemd doesn't answer."""
    wanted = sorted(set(names))
    if not wanted:
        return {}
    code, output = run(["systemctl", "show", f"--property={_ASKED}", "--", *wanted])
    blocks = [
        dict(line.split("=", 1) for line in block.splitlines() if "=" in line)
        for block in output.split("\n\n")
        if block.strip()
    ]
    if code != 0 or len(blocks) != len(wanted):
        raise DeployError(f"systemctl show {' '.join(wanted)}: exit code {code}: {output[-500:]}")
    return {name: _unit(block) for name, block in zip(wanted, blocks, strict=True)}


def _unit(block: Mapping[str, str]) -> Unit:
    started = block.get("InactiveExitTimestampMonotonic", "0")
    return Unit(
        exists=block.get("LoadState") not in ("not-found", None),
        active=block.get("ActiveState") in ("active", "activating", "reloading"),
        enabled=block.get("UnitFileState") in _ENABLED,
        started=int(started) / 1e6 if started.isdigit() else 0.0,
    )


def is_mask(path: str) -> bool:
    """Return whether this is a unit's mask (man systemctl): a link to /dev/null where the unit's file would be."""
    return os.path.islink(path) and os.readlink(path) == "/dev/null"


def is_unit_file(path: str) -> bool:
    """Return whether systemd reads its units (or their drop-ins) from there."""
    return path.startswith(("/etc/systemd/system/", "/usr/lib/systemd/system/", "/lib/systemd/system/"))
