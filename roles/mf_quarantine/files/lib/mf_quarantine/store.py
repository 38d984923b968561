"""The quarantine's files: add, remove, make durable. By links and unlinks only, so no file is ever half there."""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import stat
from collections.abc import Iterable


def keep(source: str, target: str) -> None:
    """Hard-link a file into the store. Another file there (half of it, from before a power cut) is replaced."""
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
    """Link what can't be imported into ``bad``. A folder can't be linked: it is moved."""
    folder = stat.S_ISDIR(os.lstat(source).st_mode)
    if folder or os.path.isdir(target):
        discard(target)
    if not folder:
        keep(source, target)
        return
    os.makedirs(os.path.dirname(target), 0o750, exist_ok=True)
    os.rename(source, target)


def discard(path: str) -> bool:
    """Remove a file, or a folder with its content, from ``bad``; False when there was none."""
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
    """Remove those of the folders that are empty, and the one above each if that becomes empty."""
    for folder in sorted(folders, reverse=True):
        for path in (folder, os.path.dirname(folder)):
            try:
                os.rmdir(path)
            except OSError:
                break


def sync(folder: str) -> None:
    """Write this file system's changes to disk (man syncfs): one wait for a whole batch."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if _libc.syncfs(descriptor) != 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code), folder)
    finally:
        os.close(descriptor)


_libc = ctypes.CDLL(None, use_errno=True)


def sweep_temporary(folder: str) -> None:
    """Remove the unfinished files of a killed rsync: their names begin with a dot."""
    for path, _, names in os.walk(folder):
        for name in names:
            if name.startswith("."):
                with contextlib.suppress(OSError):
                    os.unlink(os.path.join(path, name))
