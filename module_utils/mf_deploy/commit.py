"""The moment a release takes effect: host files, units and the link /mf/current go over together, or not at all."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager

from . import drift, host, journal, manifest, units
from .layout import TREE, DeployError, Layout

SSHD = "/etc/ssh/sshd_config.d/"
RELOAD_SSHD = ["systemctl", "reload", "ssh.service"]


@contextmanager
def undisturbed() -> Iterator[None]:
    """Hold back the signals of a lost connection or an impatient operator until the few steps inside are done."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP, signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def switch(
    layout: Layout,
    wanted: manifest.Manifest,
    known: journal.Journal,
    history: list[str],
    restart: Iterable[str],
    run: host.Run,
) -> None:
    """Make a release that is complete on disk the current one, and bring the host's files in line with it.

    ``known``: the journal before. ``history``: the one to write. ``restart``: roles whose files change by this.
    Raises DeployError or OSError; then everything is as it was. An exception is what comes after the point of no
    return (daemon-reload, tmpfiles, sshd): the text names it, and the next run does it again.
    """
    release = layout.release(wanted.generation)
    findings = [finding.path for finding in drift.outside(layout, wanted)]
    removed = [path for path in known.files if path not in wanted.files and os.path.lexists(layout.on_host(path))]
    leaving = layout.generation()
    old = manifest.stored(layout, leaving) if leaving else None
    ours = sorted({*known.files, *(file.path for file in wanted.outside)})
    missing = {folder for path in findings for folder in host.missing_folders(os.path.dirname(layout.on_host(path)))}
    folders = sorted({*known.folders, *(folder.removeprefix(layout.root) for folder in missing)})
    with undisturbed(), ExitStack() as undo:
        # from here on a run that is killed leaves word of everything it may have begun
        undo.callback(journal.write, layout, known)
        journal.write(layout, known._replace(files=ours, folders=folders, pending=True))
        _tidy(layout, ours)
        undo.callback(host.remove_empty, missing)
        for path in findings:
            _prepare(layout, wanted.files[path], release, undo)
        _stamp(layout, restart, undo)
        _retire(set(old.units if old else ()) - set(wanted.units), run, undo)
        _flip(layout, wanted.generation, undo)
        backups = [_replace(layout, path, undo) for path in findings]
        backups += [_remove(layout, path, undo) for path in removed]
        undo.pop_all()
        journal.left(layout, leaving if leaving != wanted.generation else None)
        _settle(backups, layout, folders)
        after = journal.Journal(history, [file.path for file in wanted.outside], _present(layout, folders), True)
        journal.write(layout, after)
        apply_services(layout, wanted, {*findings, *removed}, known.pending, run)
        journal.write(layout, after._replace(pending=False))


def _tidy(layout: Layout, paths: Iterable[str]) -> None:
    """Remove what a killed run left beside host files."""
    for path in paths:
        for kind in ("new", "old"):
            host.forget(host.beside(layout.on_host(path), kind))


def _prepare(layout: Layout, file: manifest.File, release: str, undo: ExitStack) -> None:
    """Write a host file beside its place, so that what follows are renames only."""
    target = layout.on_host(file.path)
    if os.path.isdir(target) and not os.path.islink(target):
        raise DeployError(f"{file.path} (role {file.part}) is a directory on this host; nothing was changed")
    host.make_folders(os.path.dirname(target))
    temporary = host.beside(target, "new")
    host.forget(temporary)
    undo.callback(host.forget, temporary)
    with open(layout.stored(release, file.path), "rb") as stored:
        host.write(temporary, stored.read(), file.mode, host.identify(file.owner, file.group))


def _flip(layout: Layout, generation: str, undo: ExitStack) -> None:
    for name in TREE:
        path = f"{layout.mf}/{name}"
        if os.path.islink(path) and os.readlink(path) == f"current/{name}":
            continue
        if os.path.lexists(path) and not os.path.islink(path):
            raise DeployError(f"/mf/{name} is there and is not ours; move it away. Nothing was changed.")
        _link(f"current/{name}", path, undo)
    if layout.generation() != generation:
        _link(f"releases/{generation}", layout.current, undo)


def _link(target: str, path: str, undo: ExitStack) -> None:
    before = os.readlink(path) if os.path.islink(path) else None
    if before is None:
        undo.callback(host.forget, path)
    else:
        undo.callback(host.link, before, path)
    host.link(target, path)


def _replace(layout: Layout, path: str, undo: ExitStack) -> str:
    """Put a prepared host file in its place; where the former one is kept until all are done."""
    target = layout.on_host(path)
    backup = host.beside(target, "old")
    host.forget(backup)
    if os.path.lexists(target):
        os.link(target, backup, follow_symlinks=False)
        undo.callback(_restore, backup, target)
    else:
        undo.callback(host.forget, target)
    os.replace(host.beside(target, "new"), target)
    return backup


def _remove(layout: Layout, path: str, undo: ExitStack) -> str:
    target = layout.on_host(path)
    backup = host.beside(target, "old")
    os.rename(target, backup)
    undo.callback(_restore, backup, target)
    return backup


def _restore(backup: str, target: str) -> None:
    os.replace(backup, target)
    # rename(2) does nothing when both are the same file
    host.forget(backup)


def _settle(backups: Iterable[str], layout: Layout, folders: Iterable[str]) -> None:
    changed = set()
    for backup in backups:
        host.forget(backup)
        changed.add(os.path.dirname(backup))
    host.remove_empty(map(layout.on_host, folders))
    for folder in changed:
        if os.path.isdir(folder):
            host.sync(folder)


def _present(layout: Layout, folders: Iterable[str]) -> list[str]:
    return sorted({folder for folder in folders if os.path.isdir(layout.on_host(folder))})


def _retire(names: Iterable[str], run: host.Run, undo: ExitStack) -> None:
    """Stop and disable units that no role of the new release has any more."""
    for name, unit in units.read(names, run).items():
        if not unit.exists:
            continue
        if unit.enabled:
            undo.callback(run, ["systemctl", "enable", "--", name])
        if unit.active:
            undo.callback(run, ["systemctl", "start", "--", name])
        retire(name, run)


def retire(name: str, run: host.Run) -> None:
    """Stop and disable a unit. Raises DeployError."""
    code, output = run(["systemctl", "disable", "--now", "--", name])
    if code != 0:
        raise DeployError(f"systemctl disable --now {name}: exit code {code}: {output[-500:]}. Nothing was changed.")


def apply_services(
    layout: Layout, wanted: manifest.Manifest, changed: Iterable[str], everything: bool, run: host.Run
) -> None:
    """Tell systemd what changed. ``everything``: an earlier run may not have come so far."""
    paths = set(changed)
    commands = []
    if everything or any(units.is_unit_file(path) for path in paths):
        commands.append(["systemctl", "daemon-reload"])
    if any(path.startswith(SSHD) for path in (*paths, *(file.path for file in wanted.outside if everything))):
        commands.append(RELOAD_SSHD)
    texts = drift.texts_below(layout, wanted, drift.TMPFILES)
    if texts and (everything or paths & set(texts) or drift.folders(layout, texts)):
        commands.append(["systemd-tmpfiles", "--create", *sorted(texts)])
    for command in commands:
        code, output = run(command)
        if code != 0:
            raise DeployError(
                f"release {wanted.generation} is current, but `{' '.join(command)}` failed with exit code {code}: "
                f"{output[-500:]}. The next run does it again."
            )


def stamps(layout: Layout) -> dict[str, float]:
    """Return the last change of each role's files, in seconds on CLOCK_MONOTONIC; empty after each boot."""
    try:
        with open(layout.stamps, encoding="utf-8") as file:
            data = json.load(file)
        return {str(part): float(at) for part, at in data.items()}
    except (OSError, ValueError, AttributeError, TypeError):
        return {}


def _stamp(layout: Layout, parts: Iterable[str], undo: ExitStack) -> None:
    """Written before anything changes: a run that is killed right after must still lead to a restart."""
    before = stamps(layout)
    changed = dict.fromkeys(parts, time.monotonic())
    if not changed:
        return
    host.make_folders(layout.run)
    undo.callback(_write_stamps, layout, before)
    _write_stamps(layout, {**before, **changed})


def _write_stamps(layout: Layout, data: dict[str, float]) -> None:
    host.replace(layout.stamps, json.dumps(data).encode(), 0o644, (-1, -1))
