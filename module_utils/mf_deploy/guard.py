"""Keep a release from acting beside others (action lock, maintenance marker), and from dropping a role by accident.

Lock and marker are the package's (mf/state.py, mf/maintenance.py).
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterator
from contextlib import contextmanager

from ansible.module_utils.mf import maintenance, state

from . import host, manifest
from .layout import DeployError, Layout

OWNER = "deploy"
LEASE = 900.0
"""Seconds after which the marker expires by itself."""
WAIT = 30.0
RENAMED = {"mf_watched": "mf_health_access"}
"""Former name -> name of a role. Releases made before the change have the former one."""
UNKNOWN = "unknown"
"""Stands for the roles of a host on which no release's manifest can be read; ``mf_tree_remove_roles`` may name it."""


def present_roles(layout: Layout) -> set[str]:
    """The roles that the host has: those of its current release; none on a host without any release.

    When that manifest can't be read or /mf/current is lost: those of all releases on disk, or UNKNOWN.
    """
    current = layout.generation()
    known = manifest.stored(layout, current) if current else None
    if known:
        return known.roles
    roles = {role for other in manifest.all_stored(layout) for role in other.roles}
    released = os.path.lexists(layout.current) or layout.generations()
    return roles or ({UNKNOWN} if released else set())


def keep_roles(present: Collection[str], roles: Collection[str], removed: Collection[str]) -> None:
    """Raise DeployError when a release of ``roles`` would drop a role of ``present`` that ``removed`` lacks.

    "Just run that role" is a habit; a release without qpsmtpd would stop and remove the SMTP service. A play that names
    a role by its former name is refused as well; in ``present`` both names mean the same role.
    """
    former = sorted(set(roles) & set(RENAMED))
    if former:
        names = ", ".join(f"{name} is now called {RENAMED[name]}" for name in former)
        raise DeployError(f"role {names}: change the name in your play. Nothing was changed.")
    present, removed = ({RENAMED.get(name, name) for name in names} for names in (present, removed))
    kept = sorted(set(roles) & removed)
    if kept:
        raise DeployError(
            f"mf_tree_remove_roles names {', '.join(kept)}, and this play brings it. Nothing was changed. "
            "Take the role out of the play, or its name out of the variable."
        )
    lost = sorted(present - set(roles) - removed)
    if lost == [UNKNOWN]:
        raise DeployError(
            "this host has a release, and no manifest in /mf/releases can be read, so its roles are unknown: a play "
            "without one of them would remove its services and files. Nothing was changed. Run playbooks/site.yml "
            "(--limit for one host), which has all roles, "
            f"with {_option([UNKNOWN])}"
        )
    if lost:
        raise DeployError(
            f"this host has {', '.join(lost)}, and this play doesn't: a release is made of all roles of a play, so "
            "their services and files would be removed. Nothing was changed. "
            "Run playbooks/site.yml (--limit for one host). "
            f"To remove them on purpose: {_option(lost)}"
        )


def keep_roles_in_rollback(present: Collection[str], target: manifest.Manifest, removed: Collection[str]) -> None:
    """Raise DeployError when going back to ``target`` would drop a role of ``present`` that ``removed`` lacks."""
    present, roles, removed = (
        {RENAMED.get(name, name) for name in names} for names in (present, target.roles, removed)
    )
    lost = sorted(present - roles - removed)
    if lost:
        raise DeployError(
            f"release {target.generation} was made without {', '.join(lost)}, which this host has now: their services "
            f"and files would be removed. Nothing was changed. To go back without them: {_option(lost)}"
        )


def _option(roles: list[str]) -> str:
    """The option of ansible-playbook that lets a release drop roles."""
    return f"-e '{json.dumps({'mf_tree_remove_roles': roles})}'"


@contextmanager
def lock(layout: Layout, name: str, what: str) -> Iterator[None]:
    """Hold a lock of the host. Raises DeployError when another process keeps it for WAIT seconds."""
    with state.Places(layout.root).lock(name, WAIT) as held:
        if not held:
            raise DeployError(
                f"{what} has held {layout.run}/lock/{name}.lock for {WAIT:.0f} s. Nothing was changed. "
                f"Find that process: fuser -v {layout.run}/lock/{name}.lock; then run this again."
            )
        yield


def ours(layout: Layout) -> bool:
    """Return whether a deployment's marker is in force."""
    return _owner(layout) == OWNER


def mark(layout: Layout, generation: str) -> bool:
    """Keep the checks from acting for a while; leave an operator's maintenance alone. Return whether it is ours now."""
    if _owner(layout) not in (None, OWNER):
        return False
    host.make_folders(layout.run)
    maintenance.mark(state.Places(layout.root), OWNER, f"release {generation}", LEASE)
    return True


def unmark(layout: Layout) -> bool:
    """Remove our marker, and only ours. Return whether there was one."""
    return ours(layout) and host.forget(state.Places(layout.root).maintenance)


def _owner(layout: Layout) -> str | None:
    """Return the owner of the maintenance marker in force."""
    marker = maintenance.marked(state.Places(layout.root), state.boottime())
    return None if marker is None else marker.owner
