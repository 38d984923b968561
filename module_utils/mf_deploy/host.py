"""Small things done to a host's files and services, in the way that leaves no half-done state."""

from __future__ import annotations

import grp
import hashlib
import os
import pwd
import shutil
import stat
import subprocess
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from .layout import DeployError


class Outcome(NamedTuple):
    """Exit code and output of a command (stdout and stderr together)."""

    code: int
    output: str


PATH = "/usr/sbin:/usr/bin:/sbin:/bin"
Run = Callable[[Sequence[str]], Outcome]


def run(command: Sequence[str]) -> Outcome:
    """Run a command without a shell, at most two minutes, in the C locale."""
    environment = {"PATH": PATH, "LC_ALL": "C", "HOME": "/root"}
    try:
        done = subprocess.run(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            timeout=120, check=False,
        )  # fmt: skip
    except FileNotFoundError:
        return Outcome(127, f"{command[0]} is not installed")
    except subprocess.TimeoutExpired:
        return Outcome(124, "no answer within 120 seconds")
    return Outcome(done.returncode, done.stdout.decode(errors="replace").strip())


def identify(owner: str, group: str) -> tuple[int, int]:
    """Numbers of a user and a group. Raises DeployError when there is no such one."""
    try:
        return pwd.getpwnam(owner).pw_uid, grp.getgrnam(group).gr_gid
    except KeyError as error:
        raise DeployError(
            f"{error.args[0]}; install the package that brings it, or name another in __<role>_files"
        ) from None


def has_account(name: str) -> bool:
    """Return whether there is a user of this name."""
    try:
        pwd.getpwnam(name)
    except KeyError:
        return False
    return True


def digest(path: str) -> str | None:
    """sha256 of a regular file, or None when it is anything else."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        return None
    with open(descriptor, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write(path: str, data: bytes, mode: int, owner: tuple[int, int]) -> None:
    """Write a new file whole and on disk (fsync). It must not exist yet, and starts readable by root only."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with open(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fchown(descriptor, *owner)
        os.fchmod(descriptor, mode)
        os.fsync(descriptor)


def replace(path: str, data: bytes, mode: int, owner: tuple[int, int]) -> None:
    """Put a file in the place of another in one step."""
    temporary = beside(path, "new")
    forget(temporary)
    try:
        write(temporary, data, mode, owner)
        os.replace(temporary, path)
    except BaseException:
        forget(temporary)
        raise


def link(target: str, path: str) -> None:
    """Make or change a symbolic link in one step."""
    temporary = beside(path, "new")
    forget(temporary)
    os.symlink(target, temporary)
    try:
        os.replace(temporary, path)
    except BaseException:
        forget(temporary)
        raise
    sync(os.path.dirname(path))


def beside(path: str, kind: str) -> str:
    """The name of a temporary neighbour. cron, systemd, tmpfiles.d and logrotate all pass over such names."""
    folder, name = os.path.split(path)
    return f"{folder}/.{name}.mf-{kind}"


def forget(path: str) -> bool:
    """Remove a file or link if it is there; whether it was."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        return False
    return True


def discard(path: str) -> bool:
    """Remove whatever is there: a file, a link, a whole directory; whether something was."""
    if os.path.isdir(path) and not os.path.islink(path):
        shutil.rmtree(path)
        return True
    return forget(path)


def sync(folder: str) -> None:
    """Bring a directory's names on disk."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def missing_folders(path: str) -> list[str]:
    """The directories that make_folders would make, outermost first."""
    return [] if os.path.isdir(path) else [*missing_folders(os.path.dirname(path)), path]


def make_folders(path: str, mode: int = 0o755) -> list[str]:
    """Make a directory and what is missing above it, whatever the umask; the ones made, outermost first."""
    missing = missing_folders(path)
    for folder in missing:
        os.mkdir(folder)
        os.chmod(folder, mode)
    return missing


def remove_empty(folders: Iterable[str]) -> None:
    """Remove directories that are empty, deepest first; the others stay."""
    for folder in sorted(set(folders), reverse=True):
        try:
            os.rmdir(folder)
        except OSError:
            continue
