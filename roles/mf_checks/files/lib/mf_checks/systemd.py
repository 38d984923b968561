"""One systemd unit: its state, its master process, its sockets, start and restart. Slow path.

systemctl is called by absolute path (cron's PATH is short), with a limit in seconds, never through a shell.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from mf import state
from mf.text import clean

from . import procfs

SYSTEMCTL = "/usr/bin/systemctl"

# values of ActiveState during a change (systemd.unit(5))
MOVING = ("activating", "deactivating", "reloading", "refreshing", "maintenance")


class ServiceError(Exception):
    """systemctl failed or took too long. One line."""


@dataclass
class Unit:
    """``active``: ActiveState; ``sub``: SubState; ``pid``: MainPID, 0 for none; ``known``: whether the unit exists.

    ``started``: seconds on CLOCK_MONOTONIC when it last began to start, 0 for never.
    """

    active: str
    sub: str = ""
    pid: int = 0
    known: bool = True
    result: str = ""
    started: float = 0.0


def show(unit: str, limit: float = 5.0, systemctl: str = SYSTEMCTL) -> Unit:
    """The state of a unit. Raises ServiceError."""
    names = "ActiveState,SubState,MainPID,LoadState,Result,InactiveExitTimestampMonotonic"
    return parse(_call([systemctl, "show", f"--property={names}", "--", unit], limit))


def parse(output: str) -> Unit:
    """The output of ``systemctl show``, lines of ``Name=value``."""
    values = dict(line.partition("=")[::2] for line in output.splitlines())
    pid, started = values.get("MainPID", "0"), values.get("InactiveExitTimestampMonotonic", "0")
    return Unit(
        values.get("ActiveState", "unknown"),
        values.get("SubState", ""),
        int(pid) if pid.isascii() and pid.isdigit() else 0,
        values.get("LoadState", "") == "loaded",
        values.get("Result", ""),
        int(started) / 1e6 if started.isascii() and started.isdigit() else 0.0,
    )


def try_restart(unit: str, limit: float, systemctl: str = SYSTEMCTL) -> None:
    """Restart a unit that runs, and wait for it; a stopped unit stays stopped. Raises ServiceError."""
    _call([systemctl, "try-restart", "--", unit], limit)


def start(unit: str, limit: float, systemctl: str = SYSTEMCTL) -> None:
    """Start a failed unit, forgetting its failures first (they count against its start limit). Raises ServiceError."""
    give_up = time.monotonic() + limit
    _call([systemctl, "reset-failed", "--", unit], min(5.0, limit))
    _call([systemctl, "start", "--", unit], give_up - time.monotonic())


def _call(command: Sequence[str], limit: float) -> str:
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=max(0.1, limit),
            check=False,
            errors="replace",
        )
    except subprocess.TimeoutExpired:
        raise ServiceError(f"systemctl {command[1]} took longer than {limit:.0f} s") from None
    except OSError as error:
        raise ServiceError(f"{command[0]}: {error.strerror}") from None
    if done.returncode != 0:
        reason = clean(" ".join(done.stderr.split()) or f"exit code {done.returncode}", 160)
        raise ServiceError(f"systemctl {command[1]} failed: {reason}")
    return done.stdout


@dataclass
class Listener:
    """A listening TCP socket: its inode, its user, and how many connections wait in its queue to be accepted."""

    inode: int
    uid: int
    waiting: int


def listeners(address: str, port: int, proc: str = "/proc") -> list[Listener]:
    """The sockets that take connections to an address and port of this host (/proc/net/tcp and tcp6, proc_net_tcp.rst).

    They listen on the address itself or on all; an IPv6 socket may take IPv4 as well. For a listening socket
    (state 0A) the kernel shows the length of its accept queue as rx_queue.
    """
    number = socket.inet_pton(socket.AF_INET6 if ":" in address else socket.AF_INET, address)
    wanted = {number, bytes(len(number)), bytes(16), MAPPED + number}
    sockets = []
    for fields in _rows(proc):
        if len(fields) < 10 or fields[3] != b"0A":
            continue
        try:
            local, _, local_port = fields[1].partition(b":")
            if int(local_port, 16) == port and packed(local) in wanted:
                sockets.append(Listener(int(fields[9]), int(fields[7]), int(fields[4].partition(b":")[2], 16)))
        except ValueError:
            continue
    return sockets


def _rows(proc: str) -> Iterator[list[bytes]]:
    """The fields of each socket's row. A host without IPv6 has no second table. Raises OSError."""
    for family in ("tcp", "tcp6"):
        try:
            with open(f"{proc}/net/{family}", "rb") as table:
                next(table, b"")  # the heading
                yield from map(bytes.split, table)
        except FileNotFoundError:
            continue


MAPPED = b"\0" * 10 + b"\xff\xff"  # and four bytes: an IPv4 address in an IPv6 socket


def packed(address: bytes) -> bytes:
    """An address of /proc/net/tcp, in 32-bit words of the host's byte order, in the network's. Raises ValueError."""
    raw = bytes.fromhex(address.decode("ascii"))
    if sys.byteorder == "little":
        raw = b"".join(raw[at : at + 4][::-1] for at in range(0, len(raw), 4))
    return raw


def owns(pid: int, listener: Listener, proc: str = "/proc") -> bool | None:
    """Whether a process holds a listening socket; by its open files, or where those can't be read by its user.

    None when unknown. Reading another user's open files takes CAP_SYS_PTRACE, which a container may lack.
    """
    folder = f"{proc}/{pid}/fd"
    try:
        for name in os.listdir(folder):
            try:
                if os.readlink(f"{folder}/{name}") == f"socket:[{listener.inode}]":
                    return True
            except FileNotFoundError:
                continue
        return False
    except PermissionError:
        pass
    except OSError:
        return None
    try:
        return os.stat(f"{proc}/{pid}").st_uid == listener.uid
    except OSError:
        return None


def switches(pid: int, proc: str = "/proc") -> int | None:
    """Voluntary context switches of a process (it went to sleep and woke); None when it is gone."""
    try:
        status = state.content(f"{proc}/{pid}/status")
        return int(status.partition(b"\nvoluntary_ctxt_switches:")[2].split(None, 1)[0])
    except (ValueError, IndexError):
        return None


# states of a master; the last two are caused by the host, and no restart helps against them
TICKS, FROZEN, BLOCKED, STARVED = "ticks", "is frozen", "waits for a disk", "gets no CPU"
SPINNING = 0.1  # share of the time on a CPU from which a process that never sleeps is in an endless loop, not starved


def pulse(pid: int, proc: str = "/proc", watch: float = 2.5) -> str:
    """Whether a master lives: its voluntary context switches grow within ``watch`` seconds. If not, why not.

    qpsmtpd-forkserver wakes every second even when it has nothing to do, and also while it is at its child limit. A
    master that is busy without ever sleeping switches too: each accept and fork waits for something.
    """
    first, before = procfs.read_stat(pid, proc), switches(pid, proc)
    if first is None or before is None:
        return FROZEN
    states, used = first.state, 0.0
    begun = time.monotonic()
    while time.monotonic() - begun < watch:
        time.sleep(0.1)
        last, after = procfs.read_stat(pid, proc), switches(pid, proc)
        if last is None or after is None:
            return FROZEN
        if after > before:
            return TICKS
        states += last.state
        used = (last.cpu - first.cpu) / procfs.TICK
    return still(states, used / max(watch, time.monotonic() - begun))


def still(states: str, share: float) -> str:
    """Reason that a process didn't wake, from its states (man 5 proc), newest last, and its share of a CPU. Pure."""
    if states[-1] in "TtZX":
        return FROZEN
    if "D" in states:
        return BLOCKED
    return STARVED if "R" in states and share < SPINNING else FROZEN


@dataclass
class Session:
    """A TCP socket: its state, bytes to send, the remote end as the kernel writes it."""

    state: str
    sending: int = 0
    far: bytes = b""

    def remote(self) -> str:
        """The remote end, ``192.0.2.1:25000`` or ``[2001:db8::1]:25000``; empty when unknown."""
        address, _, port = self.far.partition(b":")
        try:
            raw = packed(address)
            number = int(port, 16)
        except ValueError:
            return ""
        if raw[:12] == MAPPED and len(raw) == 16:
            raw = raw[12:]  # an IPv4 client of a socket that takes both
        if len(raw) == 4:
            return f"{socket.inet_ntop(socket.AF_INET, raw)}:{number}"
        return f"[{socket.inet_ntop(socket.AF_INET6, raw)}]:{number}" if len(raw) == 16 else ""


def sessions(proc: str = "/proc") -> dict[int, Session]:
    """All TCP sockets of this host by inode, as far as they can be read."""
    found = {}
    with contextlib.suppress(OSError):
        for fields in _rows(proc):
            try:
                sending = fields[4].partition(b":")[0]
                name = TCP_STATES.get(fields[3], "unknown")
                found[int(fields[9])] = Session(name, int(sending, 16), fields[2])
            except (ValueError, IndexError):
                continue
    return found


def serves(unit: str, far: str) -> bool | None:
    """Whether a session of this unit holds the connection with this remote end; None when unknown."""
    try:
        master = show(unit).pid
    except ServiceError:
        return None
    inodes = [inode for inode, session in sessions().items() if inode and session.remote() == far]
    if not master or not inodes:
        return None
    try:
        children = [stat for stat in procfs.scan() if stat.parent == master and stat.state not in "ZX"]
    except OSError:
        return None
    held: list[bool | None] = []
    for child in children:
        try:
            uid = os.stat(f"/proc/{child.pid}").st_uid  # where files can't be read, any session counts
        except OSError:
            continue
        held += [owns(child.pid, Listener(inode, uid, 0)) for inode in inodes]
    return True if True in held else None if None in held else False


# include/net/tcp_states.h
TCP_STATES = {
    b"01": "established",
    b"02": "syn-sent",
    b"03": "syn-recv",
    b"04": "fin-wait-1",
    b"05": "fin-wait-2",
    b"06": "time-wait",
    b"07": "close",
    b"08": "close-wait",
    b"09": "last-ack",
    b"0A": "listen",
    b"0B": "closing",
}
