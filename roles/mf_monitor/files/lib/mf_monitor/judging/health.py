"""Judge a reading of a host's own health: which of its checks are subjects, and the state of each."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from mf import health_record, state
from mf.health_record import Check, Health

from ..settings import Host, Service, Settings
from .states import DOWN, HELD, PART, UNKNOWN, UNREAD, UP, WARNING, ProbeResult

CANARY = "canary"  # the check that is urgent only when all MXs are concerned
REFUSED = "refused"  # the check that is notified anew when more is refused
MAX_DOMAINS = 20  # after which another domain is no new message: the messages about a host are limited
CHECK = "check-"  # what the name of a check's subject begins with
# not to know changes nothing that is confirmed; it is a problem of the host
_GRAVE = {state.OK: UP, state.WARNING: WARNING, state.CRITICAL: DOWN, state.UNKNOWN: UNKNOWN}


@dataclass(frozen=True, slots=True)
class Reading:
    """One attempt to read a host's health, in epoch seconds: ``record``, or None and ``message`` the reason."""

    host: str
    started: float
    finished: float
    record: Health | None
    message: str


def door(service: Service, host: Host) -> bool:
    """Whether health is read through this service."""
    return service.kind == "ssh" and service.port == 22 and service.address == host.address


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


def known_checks(settings: Settings, stored: Collection[str], health: Mapping[str, Health]) -> set[str]:
    """Of the stored subjects those that hosts' health gave, and gives still; ``health`` by host, where it is known."""
    known = set()
    for host in settings.hosts:
        prefix = check_subject(host.name, "")
        named = health[host.name].checks if host.name in health else {}
        for name in stored:
            check = name.removeprefix(prefix) if name.startswith(prefix) else None
            # a host that reports no checks keeps those that it had
            if name == f"{host.name}/health" or (check is not None and (not named or check in named)):
                known.add(name)
    return known


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
