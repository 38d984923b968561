"""Read hosts' own ``/mf/bin/health --json`` through an ssh key that may do only that.

The answer is as hostile as any text from outside: capped, checked, cleaned. Connections are kept (ControlMaster) while
there are few hosts: each saves the handshake at both ends, and holds some 4 MiB on the monitor.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TypeAlias

from mf import health_record, ssh, text
from mf.health_record import Health

from .. import children
from ..clocks import Clocks
from ..judging.health import Reading
from ..settings import HealthAccess, Host, Settings

KEEP_UP_TO = 60  # hosts whose connections are kept
AT_ONCE = 16  # reads in turn
ASKED = 64  # reads that a failed probe asks for; they don't wait behind those

Ask: TypeAlias = Callable[[list[str]], Awaitable[tuple[bytes, int | None]]]  # ssh's command; its answer and exit code


def command(access: HealthAccess, host: Host, keep: bool, limit: float) -> list[str]:
    """The ssh command; with ``keep`` a connection stays open for the next."""
    argv = ssh.command(
        access.key,
        access.known_hosts,
        # sntrup761, which OpenSSH 9 would begin with, takes five times the CPU; what is read here is old in a minute
        KexAlgorithms="^curve25519-sha256",
        ConnectTimeout=str(max(1, round(limit))),
        ServerAliveInterval="5",
        ServerAliveCountMax="2",
        ControlMaster="auto" if keep else "no",
        ControlPath=f"{access.folder}/%C" if keep else "none",
        ControlPersist="180" if keep else "no",
    )
    # the command is the key's, whatever is asked for here
    return [*argv, "--", f"{access.user}@{host.address}", "health"]


async def ask(argv: list[str]) -> tuple[bytes, int | None]:
    """Run ssh: its answer and exit code; of an answer that is too long the beginning, and None."""
    process = await asyncio.create_subprocess_exec(
        *argv,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        # the kept connection holds stderr open as long as it lives
        stderr=asyncio.subprocess.DEVNULL,
        start_new_session=True,
        limit=health_record.MAX_BYTES + 1,
    )
    assert process.stdout is not None
    try:
        data = b""
        while len(data) <= health_record.MAX_BYTES and (chunk := await process.stdout.read(65536)):
            data += chunk
        return data, None if len(data) > health_record.MAX_BYTES else await process.wait()
    finally:
        await children.end(process)


class Reader:
    """Reads health, some hosts at a time."""

    def __init__(self, settings: Settings, clocks: Clocks, ask: Ask = ask) -> None:
        assert settings.health is not None
        self._access = settings.health
        # a fresh ssh is slow on a host that struggles, and just then its health is needed
        self._limit = max(settings.timeout, 10.0)
        self._clocks = clocks
        self._ask = ask
        self._keep = len(settings.hosts) <= KEEP_UP_TO
        self._room = asyncio.Semaphore(AT_ONCE)
        self._failed = asyncio.Semaphore(ASKED)

    async def read(self, host: Host, asked: bool = False) -> Reading:
        """One attempt, within the timeout or 10 s; raises only for cancellation. ``asked``: by a failed probe."""
        async with self._failed if asked else self._room:
            started = self._clocks.wall()
            record, message = None, ""
            try:
                async with asyncio.timeout(self._limit):
                    record, message = await self._run(host)
            except TimeoutError:
                message = "ssh: no answer in time"
                self._forget(host)
            except OSError as error:
                message = f"ssh can't be run: {error.strerror}"
            except Exception as error:  # noqa: BLE001  (any answer of a host is a reading)
                message = f"health can't be understood: {type(error).__name__}"
            return Reading(host.name, started, self._clocks.wall(), record, message)

    async def _run(self, host: Host) -> tuple[Health | None, str]:
        data, code = await self._ask(command(self._access, host, self._keep, self._limit))
        if len(data) > health_record.MAX_BYTES:
            return None, "health is too long"
        if code == 255 and not data:
            return None, "ssh doesn't let us in, or doesn't get there"
        record = parse(data)
        return (record, "read") if record is not None else (None, f"health is not whole (exit status {code})")

    def _forget(self, host: Host) -> None:
        """Drop a kept connection that doesn't answer any more."""
        if not self._keep:
            return
        argv = command(self._access, host, self._keep, self._limit)
        at = argv.index("--")

        async def leave() -> None:
            with suppress(OSError, TimeoutError):
                async with asyncio.timeout(5):
                    await ask([*argv[:at], "-O", "exit", *argv[at : at + 2]])

        self._leaving = asyncio.create_task(leave())


def parse(data: bytes) -> Health | None:
    """The health in an answer; None when the answer isn't a health record."""
    try:
        return health_record.decode(data)
    except health_record.HealthRecordError:
        return None


def leases(record: Health) -> str:
    """The leases that throttle a host, from its health, as text."""
    parts = []
    for lease in record.leases:
        if lease.refuse:
            left = lease.left_seconds
            reason = f" ({lease.reason})" if lease.reason else ""
            parts.append(f"{lease.owner}{reason}, {'no end' if left is None else text.span(left) + ' left'}")
    return "throttled by " + "; ".join(parts or ["a lease"])
