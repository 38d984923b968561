"""Read hosts' own ``/mf/bin/health --json`` through an ssh key that may do only that.

The answer is as hostile as any text from outside: capped, checked, cleaned. Connections are kept (ControlMaster) while
there are few hosts: each saves the handshake at both ends, and holds some 4 MiB on the monitor.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeAlias

from mf import health_record, ssh, state, text
from mf.health_record import Check, Health

from .. import children
from ..clocks import Clocks
from ..judging.states import DOWN, HELD, PART, UNKNOWN, UNREAD, UP, WARNING, ProbeResult
from ..settings import HealthAccess, Host, Service, Settings
from ..store.current import HostHealth

CANARY = "canary"  # the check that is urgent only when all MXs are concerned
REFUSED = "refused"  # the check that is notified anew when more is refused
MAX_DOMAINS = 20  # after which another domain is no new message: the messages about a host are limited
CHECK = "check-"  # what the name of a check's subject begins with
KEEP_UP_TO = 60  # hosts whose connections are kept
AT_ONCE = 16  # reads in turn
ASKED = 64  # reads that a failed probe asks for; they don't wait behind those
# not to know changes nothing that is confirmed; it is a problem of the host
_GRAVE = {state.OK: UP, state.WARNING: WARNING, state.CRITICAL: DOWN, state.UNKNOWN: UNKNOWN}

Ask: TypeAlias = Callable[[list[str]], Awaitable[tuple[bytes, int | None]]]  # ssh's command; its answer and exit code


@dataclass(frozen=True, slots=True)
class Reading:
    """One attempt: ``record`` is the health, or None and ``message`` the reason."""

    host: str
    started: float
    finished: float
    record: Health | None
    message: str


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


def door(service: Service, host: Host) -> bool:
    """Whether health is read through this service."""
    return service.kind == "ssh" and service.port == 22 and service.address == host.address


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


def _canary(check: Check) -> tuple[str, str]:
    """State and reason of check-canary when it is CRITICAL, by its figures."""
    total = check.metric("mx")
    if total and check.metric("overdue") == total:
        return DOWN, ""  # no MX's mail goes the whole way any more
    return (DOWN if check.metric("delivered") else WARNING), PART


def _refused_level(check: Check) -> int:
    """Level of check-refused: lower by one for each domain, and at 1, 10, 100 and 1,000 messages that wait."""
    waiting, domains = check.metric("waiting") or 0.0, check.metric("domains") or 0.0
    return -sum(waiting >= step for step in (1, 10, 100, 1000)) - int(min(max(domains, 0.0), MAX_DOMAINS))


def check_subject(host: str, check: str) -> str:
    """The subject of a host's check; a service can't have such a name."""
    return f"{host}/{CHECK}{check}"


def known_checks(settings: Settings, stored: Collection[str], health: Mapping[str, HostHealth]) -> set[str]:
    """Of the stored subjects those that hosts' health gave, and gives still; ``health`` as it was last read."""
    known = set()
    for host in settings.hosts:
        last, prefix = health.get(host.name), check_subject(host.name, "")
        named = last.record.checks if last is not None and last.ok and last.record else {}
        for name in stored:
            check = name.removeprefix(prefix) if name.startswith(prefix) else None
            # a host that reports no checks keeps those that it had
            if name == f"{host.name}/health" or (check is not None and (not named or check in named)):
                known.add(name)
    return known


def leases(record: Health) -> str:
    """The leases that throttle a host, from its health, as text."""
    parts = []
    for lease in record.leases:
        if lease.refuse:
            left = lease.left_seconds
            reason = f" ({lease.reason})" if lease.reason else ""
            parts.append(f"{lease.owner}{reason}, {'no end' if left is None else text.span(left) + ' left'}")
    return "throttled by " + "; ".join(parts or ["a lease"])


def vital(settings: Settings, host: Host) -> tuple[str, ...]:
    """The checks of a host that are as urgent when UNKNOWN: the urgent checks of the control machine."""
    return settings.urgent_checks if host.role == "control" else ()


def results(reading: Reading, chosen: tuple[str, ...], known: Collection[str]) -> list[ProbeResult]:
    """Results from one reading: of ``HOST/health`` (is it held, what isn't known of it?) and of its checks.

    ``chosen``: see ``vital``. The others are subjects from when they first complain (``known``).
    """
    name, started, at = reading.host, reading.started, reading.finished
    record = reading.record
    if record is None:
        message = f"health can't be read: {reading.message}"
        return [ProbeResult(f"{name}/health", started, at, WARNING, message, UNREAD)]
    result, unsure = [], []
    room = health_record.MAX_CHECKS - len(known)
    for check, last in record.checks.items():
        status, message, reason = last.status, last.summary, ""
        if status == state.UNKNOWN:
            unsure.append(f"{check} UNKNOWN: {message}")
        # a lease has a colour of its own and is no complaint, and a hold comes below
        mild = check == "load" and record.throttled and (record.held or status != state.CRITICAL)
        verdict = UP if mild else _GRAVE[status]
        if status == state.UNKNOWN and check in chosen:
            verdict, reason = DOWN, UNREAD
        elif check == CANARY and verdict == DOWN:
            verdict, reason = _canary(last)
        if check not in known and check not in chosen:
            if verdict in (UP, UNKNOWN) or room <= 0:
                continue
            room -= 1
        level = _refused_level(last) if check == REFUSED else None
        result.append(ProbeResult(check_subject(name, check), started, at, verdict, message, reason, level=level))
    for check in sorted(set(known).difference(record.checks)):
        if not record.checks:
            # a host that can't read its own settings reports no checks, so the check's state is not known
            gone = f"not known: {(record.problems or ['it names no check'])[0]}"
            verdict = DOWN if check in chosen else UNKNOWN
            result.append(
                ProbeResult(check_subject(name, check), started, at, verdict, gone, UNREAD if verdict == DOWN else "")
            )
        else:
            result.append(
                ProbeResult(check_subject(name, check), started, at, WARNING, "not among its checks any more")
            )
    # what neither its checks nor the throttle explain: settings that can't be read, a marker that is lost
    checks = [check.status for check in record.checks.values()]
    explained = state.worst([*checks, state.WARNING if record.throttled else state.OK])
    verdict, message, reason = UP, "health OK", ""
    if unsure:
        verdict, message = WARNING, unsure[0] + (f" (and {len(unsure) - 1} more)" if len(unsure) > 1 else "")
    if state.SEVERITY[record.status] > state.SEVERITY[explained]:
        verdict = DOWN if record.status == state.CRITICAL else WARNING
        message = (record.problems or [record.status])[0]
    if record.held:
        verdict, message, reason = DOWN, "on hold: refuses mail, an operator must end it", HELD
    result.append(ProbeResult(f"{name}/health", started, at, verdict, message, reason))
    return result
