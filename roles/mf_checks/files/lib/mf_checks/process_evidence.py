"""The evidence on qpsmtpd's processes: from psutil, and from /proc where psutil lacks it. Slow path.

How qpsmtpd 0.94 looks: the master's comm is ``qpsmtpd-forkser``; a child writes ``/usr/bin/qpsmtpd-forkserver [ip :
host : time]`` over its arguments, with the host name from the client's DNS, so names and arguments prove nothing. These
do: the uid, the executable (perl) and the script, which perl keeps open as a file because it ends in ``__END__``,
or, where other users' files can't be read (no CAP_SYS_PTRACE), the unit's cgroup together with the arguments.

Open files are read here, for ``psutil.Process.open_files`` leaves out deleted ones: a session from before an upgrade
of qpsmtpd has such a script open. psutil has no wait channel, kernel stack, system call or unsent bytes.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterable, Mapping

import psutil
from mf import run, state
from mf.text import clean

from . import procfs, systemd
from .orphans import Process

# A process that has ended, or hides, or whose files aren't those of Linux: it isn't judged.
FAILURES = (psutil.Error, OSError, ValueError, LookupError, RuntimeError)


def collect(uid: int, values: run.Values, proc: str) -> tuple[list[Process], int]:
    """Every process of a user, with its evidence; and how many processes the host has."""
    sockets = systemd.sessions(proc)
    stats = procfs.scan(proc)
    own = [evidence(stat, values, sockets, proc) for stat in stats if of_user(stat.pid, uid, proc)]
    return [process for process in own if process is not None], len(stats)


def of_user(pid: int, uid: int, proc: str = "/proc") -> bool:
    """Whether a process runs as this user. The owner of its files may be root, if it changed its user by itself."""
    psutil.PROCFS_PATH = proc
    try:
        return bool(psutil.Process(pid).uids().effective == uid)
    except FAILURES:
        return False


def evidence(
    stat: procfs.Stat, values: run.Values, sockets: Mapping[int, systemd.Session], proc: str = "/proc"
) -> Process | None:
    """All evidence on one process; None when it has ended meanwhile.

    A value that can't be read is None or ``unknown``, never guessed.
    """
    folder = f"{proc}/{stat.pid}"
    in_unit = any(
        values["unit"] in line.split(":", 2)[-1].split("/") for line in text_of(f"{folder}/cgroup").split("\n")
    )
    age = stat.age(state.boottime())
    if stat.state in "ZX":
        return Process(stat, age, ours=False, in_unit=in_unit, listens=None, progress=(stat.cpu, 0, 0))
    psutil.PROCFS_PATH = proc
    try:
        process = psutil.Process(stat.pid)
        with process.oneshot():
            arguments = process.cmdline()
            files = open_files(folder)
            # without an executable psutil takes the first argument; who may read its files may read that, too
            perl = files is not None and os.path.basename(process.exe()).startswith("perl")
            moved = moved_by(process)
    except FAILURES:
        return None
    title = " ".join(arguments).strip()
    listens: bool | None = None
    sessions: list[systemd.Session] = []
    ours: bool | None
    if files is None:
        named = values["script"] in arguments[1:3] or title.startswith(values["script"] + " [")
        ours = (in_unit or None) if named else False
    else:
        ours = perl and values["script"] in {name.removesuffix(" (deleted)") for name in files}
        inodes = {int(name[8:-1]) for name in files if name.startswith("socket:[") and name[8:-1].isdigit()}
        held = [sockets[inode] for inode in inodes if inode in sockets]
        listens = any(socket.state == "listen" for socket in held)
        sessions = [socket for socket in held if socket.state != "listen"]
    # "[<0>] wait_woken+0x63/0x80", one a line (man proc)
    frames = [
        clean(line.rpartition(" ")[2].partition("+")[0], 60) for line in text_of(f"{folder}/stack").split("\n") if line
    ]
    return Process(
        stat,
        age,
        ours,
        in_unit,
        listens,
        progress=(stat.cpu, moved, sum(session.sending for session in sessions)),
        peer=sessions[0].state if sessions else "unknown" if files is None else "none",
        address=sessions[0].remote() if sessions else "",
        title=clean(title),
        waits=clean(frames[0] if frames else text_of(f"{folder}/wchan").removeprefix("0"), 60),
        stack=frames[:12],
        syscall=clean(text_of(f"{folder}/syscall").partition(" ")[0].strip(), 20),
        message=spooled(files or [], stat.pid, time.time()),
    )


def spooled(files: Iterable[str], pid: int, now: float) -> float | None:
    """Seconds since the message began that qpsmtpd's process has open in its spool; None without one. Pure.

    ``files``: names of open files; qpsmtpd calls such a file ``SECONDS:PID:NUMBER``. ``now``: time.time().
    """
    begun = [int(found[1]) for name in files if (found := re.search(rf"/(\d+):{pid}:\d+( \(deleted\))?$", name))]
    return max(0.0, now - max(begun)) if begun else None


def moved_by(process: psutil.Process) -> int:
    """A counter of the bytes that it read and wrote; where that can't be read, of the times that it went to sleep."""
    try:
        counters = process.io_counters()
        return counters.read_chars + counters.write_chars
    except (psutil.AccessDenied, AttributeError):  # AttributeError: a kernel without I/O accounting
        return process.num_ctx_switches().voluntary


def open_files(folder: str) -> list[str] | None:
    """The open files of a process, deleted files and sockets too; None when they can't be read."""
    try:
        names = []
        for name in os.listdir(folder + "/fd"):
            try:
                names.append(os.readlink(f"{folder}/fd/{name}"))
            except FileNotFoundError:
                continue
    except OSError:
        return None
    return names


def text_of(path: str) -> str:
    """A file of /proc as text; empty when there is none."""
    return state.content(path).decode("utf-8", "replace")
