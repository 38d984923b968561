"""The states a host's tree can be brought to: present, rolled_back, settled, absent. Each returns what it did."""

from __future__ import annotations

import os
import time
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from . import commit, drift, guard, host, journal, manifest, secret, stage, units
from .layout import TREE, DeployError, Layout

DIFF_LIMIT = 100_000
"""Bytes; larger files are only named in a diff."""


class Plan:
    """The difference between a host and a release. Reads only."""

    def __init__(self, layout: Layout, wanted: manifest.Manifest) -> None:
        self.layout = layout
        self.wanted = wanted
        self.current = layout.generation()
        self.old = manifest.stored(layout, self.current) if self.current else None
        self.known = journal.read(layout)
        self.tree = drift.tree(layout, wanted)
        self.outside = drift.outside(layout, wanted)
        self.elsewhere = [
            *drift.links(layout),
            *drift.folders(layout, drift.texts_below(layout, wanted, drift.TMPFILES)),
            *drift.accounts(drift.texts_below(layout, wanted, drift.SYSUSERS)),
        ]
        self.removed = [
            path for path in self.known.files if path not in wanted.files and os.path.lexists(layout.on_host(path))
        ]
        self.drifted = [file for file in map(self._drifted, self.outside) if file]
        self.meant = manifest.difference(self.old, wanted)
        # a run that was killed may have left some; only a release that is whole on disk shows it
        self.secrets = [] if self.new or self.tree else secret.stale(layout, wanted)

    def _drifted(self, finding: drift.Finding) -> manifest.File | None:
        """A host file that differs from the current release, so it was changed by hand."""
        before = self.old.files.get(finding.path) if self.old else None
        wanted = self.wanted.files[finding.path]
        if before is None or not wanted.same(before):
            return None
        touched = {finding.path for finding in drift.outside(self.layout, self.old)} if self.old else set()
        return wanted if finding.path in touched else None

    @property
    def new(self) -> bool:
        """Return whether another release than the current one is wanted."""
        return self.current != self.wanted.generation

    @property
    def needed(self) -> bool:
        """Return whether there is anything to do."""
        return bool(
            self.new or self.tree or self.outside or self.elsewhere or self.removed or self.known.pending
            or self.secrets or journal.leftovers(self.layout)
        )  # fmt: skip

    @property
    def paths(self) -> list[str]:
        """Return the changes, by meaning."""
        if not self.needed:
            return []
        touched = {file.path for file in self.drifted} | {finding.path for finding in self.elsewhere}
        if not self.new:
            touched |= {_manifest_path(finding.path) for finding in self.tree}
        return sorted({*self.meant.paths, *touched, *self.removed})

    @property
    def parts(self) -> list[str]:
        """Roles of which files or settings change."""
        return sorted({*self.meant.parts, *self.restart})

    @property
    def restart(self) -> list[str]:
        """Roles of which files change."""
        touched = {file.part for file in self.drifted}
        if not self.new:
            paths = (_manifest_path(finding.path) for finding in self.tree)
            touched |= {self.wanted.files[path].part for path in paths if path in self.wanted.files}
        return sorted({*self.meant.restart, *touched} - {manifest.SETTINGS})

    def unknown(self, contents: stage.Contents) -> list[str]:
        """Hashes of contents that this host would need and doesn't have."""
        if not self.tree:
            return []
        paths = {_manifest_path(finding.path) for finding in self.tree if finding.kind in ("content", "rights")}
        files = self.wanted.files.values()
        whole = self.new or "." in paths
        return sorted({file.sha256 for file in files if (whole or file.path in paths) and file.sha256 not in contents})


def _manifest_path(stored: str) -> str:
    """The manifest's name of something in a release directory."""
    return stored.removeprefix("root") if stored.startswith("root/") else stored


def present(
    layout: Layout,
    wanted: manifest.Manifest,
    sent: Mapping[str, bytes] | None,
    run: host.Run,
    *,
    check: bool = False,
    diff: bool = False,
) -> dict[str, Any]:
    """Have a release in force, whole and untouched.

    Without ``sent`` (contents by sha256) this only lists what would be done, and in ``needed`` which contents it lacks.
    In check mode it then builds and validates the release in a temporary directory, and changes nothing.
    Raises DeployError or OSError; nothing is changed then, unless its text states otherwise.
    """
    plan = Plan(layout, wanted)
    result = _report(plan, run)
    if diff:
        result["before"] = _before(layout, plan)
    if check and sent is not None and plan.new:
        stage.rehearse(layout, wanted, stage.Contents(layout, sent), run)
    if not plan.needed or (check and sent is not None):
        if not check and any(unit["stale"] for unit in result["units"].values()):
            # an earlier run ended before the restart: it is about to happen now
            result["maintenance"] = guard.mark(layout, wanted.generation)
        return result
    if sent is None:
        return {**result, "needed": plan.unknown(stage.Contents(layout))}
    with guard.lock(layout, "release", "another deployment"):
        # what was seen before the lock was held may be old
        plan = Plan(layout, wanted)
        contents = stage.Contents(layout, sent)
        stage.make_accounts(wanted, contents, run)
        if plan.tree and not plan.new:
            stage.repair(layout, wanted, plan.tree, contents)
        elif plan.tree:
            stage.build(layout, wanted, contents, run)
        history = journal.deployed(plan.known.history, wanted.generation)
        _enforce(layout, plan, history, run)
        journal.prune(layout, history, time.time())
        try:
            secret.replace(layout, wanted)
        except OSError as error:
            raise DeployError(
                f"release {wanted.generation} is current, but older secrets are left in /mf/releases: {error.strerror}."
                " The next run does it again."
            ) from None
    return {**result, **_services(layout, wanted, [], run), **_end(layout, wanted, run)}


def rolled_back(layout: Layout, run: host.Run, removed: Collection[str] = (), *, check: bool = False) -> dict[str, Any]:
    """Go back to the release that was current before this one.

    Raises DeployError when there is none that is whole, or when it lacks a role of the host that isn't in ``removed``.
    """
    known = journal.read(layout)
    current = layout.generation()
    if known.previous is None:
        raise DeployError(
            f"there is no release before {current} on this host" if current else "there is no release on this host"
        )
    if not check:
        _no_older_secrets(layout, current)
    target = manifest.stored(layout, known.previous)
    if target is None:
        raise DeployError(f"release {known.previous} has no readable manifest; deploy with playbooks/site.yml instead")
    guard.keep_roles_in_rollback(guard.present_roles(layout), target, removed)
    plan = Plan(layout, target)
    gone = [finding.path for finding in plan.tree if _is_secret(target, finding.path)]
    if gone:
        raise DeployError(
            f"release {known.previous} needs {', '.join(gone[:5])}, which {current} doesn't have: an older secret never"
            " comes back. Deploy what you want with playbooks/site.yml. Nothing was changed."
        )
    if plan.tree:
        what = ", ".join(f"{finding.path} ({finding.kind})" for finding in plan.tree[:5])
        raise DeployError(f"release {known.previous} is damaged: {what}; deploy with playbooks/site.yml instead")
    # the programs of then with the secrets of now
    stage.validate_secrets(layout, target, run)
    result = _report(plan, run)
    if check:
        return result
    with guard.lock(layout, "release", "another deployment"):
        plan = Plan(layout, target)
        _enforce(layout, plan, known.history[:-1], run)
    return {**result, **_services(layout, target, [], run), **_end(layout, target, run)}


def _no_older_secrets(layout: Layout, current: str | None) -> None:
    """Do what a deployment does at its end, and may not have come to. Raises DeployError."""
    with guard.lock(layout, "release", "another deployment"):
        present = manifest.stored(layout, current) if current else None
        if present is None or any(_is_secret(present, finding.path) for finding in drift.tree(layout, present)):
            return  # what was changed by hand isn't what was deployed
        try:
            secret.replace(layout, present)
        except OSError as error:
            raise DeployError(
                f"older secrets are left in /mf/releases: {error.strerror}. Replace them before a rollback."
            ) from None


def _is_secret(wanted: manifest.Manifest, stored: str) -> bool:
    file = wanted.files.get(_manifest_path(stored))
    return file is not None and file.secret


def _enforce(layout: Layout, plan: Plan, history: list[str], run: host.Run) -> None:
    generation = plan.wanted.generation
    with guard.lock(layout, "action", "a check, a restart or an operator"):
        guard.mark(layout, generation)
        try:
            commit.switch(layout, plan.wanted, plan.known, history, plan.restart, run)
        except BaseException:
            guard.unmark(layout)
            if generation not in (layout.generation(), *plan.known.history):
                host.discard(layout.release(generation))
            if not plan.known.files and layout.generation() is None:
                host.forget(layout.journal)
                host.remove_empty([layout.mf, layout.releases])
            raise


def _end(layout: Layout, wanted: manifest.Manifest, run: host.Run) -> dict[str, Any]:
    """Return whether the marker stays: it does while a unit still waits for its restart or its start."""
    waiting = [
        state
        for state in _services(layout, wanted, [], run)["units"].values()
        if state["stale"] or not state["active"] or not state["enabled"]
    ]
    if not waiting:
        guard.unmark(layout)
    return {"maintenance": guard.ours(layout)}


def _report(plan: Plan, run: host.Run) -> dict[str, Any]:
    return {
        "changed": plan.needed,
        "generation": plan.wanted.generation,
        "previous": plan.current,
        "changed_paths": plan.paths,
        "changed_parts": plan.parts,
        "maintenance": guard.ours(plan.layout),
        **_services(plan.layout, plan.wanted, plan.restart, run),
    }


def _services(layout: Layout, wanted: manifest.Manifest, changing: Iterable[str], run: host.Run) -> dict[str, Any]:
    """State of all registered units; ``stale``: running since before a file of their roles changed (or would)."""
    stamps = commit.stamps(layout)
    soon = set(changing)
    states = {}
    for name, unit in units.read(wanted.units, run).items():
        parts = wanted.units[name]
        behind = any(unit.started < stamps.get(part, 0.0) for part in parts) or bool(soon & set(parts))
        states[name] = {
            "exists": unit.exists,
            "active": unit.active,
            "enabled": unit.enabled,
            "stale": unit.active and behind,
        }
    return {"units": states}


def _before(layout: Layout, plan: Plan) -> dict[str, str]:
    """Text of the files that change, as it is now, for a diff; none of files that not every user may read."""
    texts = {}
    for path in plan.paths:
        file = plan.wanted.files.get(path) or (plan.old.files.get(path) if plan.old else None)
        if file is None or not file.mode & 0o004:
            continue
        now = layout.on_host(path) if path.startswith("/") else f"{layout.current}/{path}"
        try:
            with open(now, encoding="utf-8") as text:
                content = text.read(DIFF_LIMIT + 1)
        except (OSError, UnicodeError):
            continue
        if len(content) <= DIFF_LIMIT:
            texts[path] = content.replace(plan.current, "@generation@") if plan.current else content
    return texts


def settled(layout: Layout, *, check: bool = False) -> dict[str, Any]:
    """End the maintenance that a release began: all its units have been restarted."""
    changed = guard.ours(layout) if check else guard.unmark(layout)
    return {"changed": changed, "generation": layout.generation(), "maintenance": False}


def absent(layout: Layout, run: host.Run, *, check: bool = False) -> dict[str, Any]:
    """Remove everything that is ours: units and masks, host files, /mf with /mf/var in it, /run/mf."""
    known = journal.read(layout)
    manifests = manifest.all_stored(layout)
    files = sorted({*known.files, *(file.path for stored in manifests for file in stored.outside)})
    names = sorted({name for stored in manifests for name in stored.units})
    trees = [layout.current, *(f"{layout.mf}/{name}" for name in TREE), layout.releases, layout.var, layout.run]
    there = [path for path in map(layout.on_host, files) if os.path.lexists(path)]
    there += [path for path in trees if os.path.lexists(path)]
    result: dict[str, Any] = {
        "changed": bool(there),
        "generation": None,
        "previous": layout.generation(),
        "changed_paths": [path.removeprefix(layout.root) for path in there],
        "changed_parts": sorted(
            {file.part for stored in manifests for file in stored.files.values()} - {manifest.SETTINGS}
        ),
        "units": {},
        "maintenance": False,
    }
    if check or not there:
        return result
    with (
        guard.lock(layout, "release", "another deployment"),
        guard.lock(layout, "action", "a check, a restart or an operator"),
    ):
        for name, unit in units.read(names, run).items():
            if unit.exists:
                commit.retire(name, run)
        masks = [mask for name in names if units.is_mask(mask := layout.on_host(f"/etc/systemd/system/{name}"))]
        for path in [*map(layout.on_host, files), *masks]:
            for leftover in (path, host.beside(path, "new"), host.beside(path, "old")):
                host.forget(leftover)
        host.remove_empty(map(layout.on_host, known.folders))
        if masks or any(units.is_unit_file(path) for path in files):
            run(["systemctl", "daemon-reload"])
        if any(path.startswith(commit.SSHD) for path in files):
            run(commit.RELOAD_SSHD)
        for path in trees:
            host.discard(path)
        host.remove_empty([layout.mf])
    return result
