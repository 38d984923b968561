"""The quarantine's files: put in, taken out, made durable. Links and unlinks only, so nothing is ever half there."""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import stat
from collections.abc import Iterable


def keep(source: str, target: str) -> None:
    """Give a file its place in the store as well, by a hard link. What else is there (half of it, from before a power
    cut) is replaced.
    """
    for _ in range(3):
        try:
            os.link(source, target)
            return
        except FileExistsError:
            if not os.path.samestat(os.lstat(source), os.lstat(target)):
                beside = f"{target}.new"
                drop(beside)
                os.link(source, beside)
                os.replace(beside, target)
            return
        except FileNotFoundError:
            # the folder is new, or expire has just removed it because it was empty
            os.makedirs(os.path.dirname(target), 0o750, exist_ok=True)
    os.link(source, target)


def put_aside(source: str, target: str) -> None:
    """Give what can't be imported its place in ``bad``. A folder can't be linked: it moves."""
    folder = stat.S_ISDIR(os.lstat(source).st_mode)
    if folder or os.path.isdir(target):
        discard(target)
    if not folder:
        keep(source, target)
        return
    os.makedirs(os.path.dirname(target), 0o750, exist_ok=True)
    os.rename(source, target)


def discard(path: str) -> bool:
    """Remove what lies in ``bad``, a folder with all that is in it; False when nothing does."""
    try:
        return drop(path)
    except IsADirectoryError:
        shutil.rmtree(path)
        return True


def drop(path: str) -> bool:
    """Remove a file; False when there was none."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        return False
    return True


def prune(folders: Iterable[str]) -> None:
    """Remove folders that are empty, and those above them that become so, up to two levels."""
    for folder in sorted(folders, reverse=True):
        for path in (folder, os.path.dirname(folder)):
            try:
                os.rmdir(path)
            except OSError:
                break


def sync(folder: str) -> None:
    """All that was written to this file system is on disk when this returns (man syncfs): one wait for a whole
    batch.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if _libc.syncfs(descriptor) != 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code), folder)
    finally:
        os.close(descriptor)


_libc = ctypes.CDLL(None, use_errno=True)


def free_percent(folder: str) -> float:
    """What is free of the file system's space or inodes, whichever is less, in percent."""
    figures = os.statvfs(folder)
    space = 100.0 * figures.f_bavail / figures.f_blocks if figures.f_blocks else 100.0
    inodes = 100.0 * figures.f_favail / figures.f_files if figures.f_files else 100.0
    return min(space, inodes)


def sweep_temporary(folder: str) -> None:
    """Remove what a killed rsync left behind: its unfinished files begin with a dot."""
    for path, _, names in os.walk(folder):
        for name in names:
            if name.startswith("."):
                with contextlib.suppress(OSError):
                    os.unlink(os.path.join(path, name))
