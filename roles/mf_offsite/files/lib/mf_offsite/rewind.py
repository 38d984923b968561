"""Rewind the repository, where it is kept, to an earlier transaction.

Borg never changes a segment that it has committed, and over the append-only account it never removes one. So the
repository of transaction N is the segments up to N, without index and hints, which Borg makes anew (documentation of
Borg 1.2, "Append-only mode"). They are linked, not moved: the repository that was there is kept beside it, whole.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Generator
from contextlib import contextmanager

from mf import Failure, state

from . import segment_log

COPIED = ("README", "nonce")  # the nonce stays the newest: a counter of the cipher must never go back


class RewindError(Failure):
    """The repository can't be rewound. One line; nothing was changed."""


class BusyError(Failure):
    """A backup, or another offsite command, holds the repository lock."""

    code = 4


@contextmanager
def repository_lock(lock: str, wait: float = 30.0) -> Generator[None]:
    """Hold the repository lock, under which the account's borg serve runs. Raises BusyError, OSError."""
    with state.Lock(lock, wait, create=False) as held:
        if not held:
            raise BusyError("a backup is under way; try again when it has ended")
        yield


def rewind(repository: str, to: int, stamp: str, config: bytes) -> str:
    """Restore the repository as of transaction ``to``; returns where the replaced repository is kept.

    ``config`` is the content of the file of that name, from out of the writer's reach. The caller holds
    ``repository_lock``. Raises RewindError, segment_log.LogError, OSError, with nothing changed.
    """
    if to not in {transaction.segment for transaction in segment_log.transactions(repository)}:
        raise RewindError(f"there is no transaction {to}; /mf/bin/offsite history lists them")
    owner = os.stat(repository)
    part, kept = f"{repository}.rewinding", f"{repository}.before-{stamp}"
    shutil.rmtree(part, ignore_errors=True)
    try:
        os.mkdir(part, 0o700)
        for number, path in segment_log.segments(repository).items():
            if number <= to:
                target = part + path.removeprefix(repository)
                os.makedirs(os.path.dirname(target), 0o700, exist_ok=True)
                os.link(path, target, follow_symlinks=False)
        for name in COPIED:
            if os.path.isfile(f"{repository}/{name}"):
                shutil.copy(f"{repository}/{name}", f"{part}/{name}", follow_symlinks=False)
        if os.path.isfile(f"{part}/nonce") and segment_log.nonce(part) >= segment_log.NONCE_LIMIT:
            with open(f"{part}/nonce", "w", encoding="ascii") as spent:
                spent.write(f"{segment_log.NONCE_LIMIT >> 1:016x}")  # above any that was ever used, and there is room
        with open(f"{part}/config", "wb") as file:
            file.write(config)
        with (
            open(f"{repository}/transactions", encoding="ascii") as log,
            open(f"{part}/transactions", "w", encoding="ascii") as left,
        ):
            left.writelines(line for line in log if int(line.split()[1].rstrip(",")) <= to)
        for folder, folders, files in os.walk(part):
            for name in [".", *folders, *files]:
                os.chown(os.path.join(folder, name), owner.st_uid, owner.st_gid, follow_symlinks=False)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
    os.rename(repository, kept)
    os.rename(part, repository)
    return kept
