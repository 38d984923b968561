"""Derive root causes from the confirmed state of every subject: what is wrong, once each. Pure.

The way down: the monitor's own connectivity, then a host, then its services, then what its own health reports. While
the monitor is offline nothing else is judged; while a host is down its services are not mentioned; while the cause of
a host's own complaint is known, that isn't. The gravest problem is apart: fewer MXs accept mail than must.

What is wrong follows from what is confirmed, and stays wrong until something better was seen. What is shown follows
from what is known: a state that nothing was seen of for too long is unknown, and when probes were in vain for so long
that is a problem by itself.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mf import text

from ..settings import Host, Service, Settings
from . import complaints, states
from .health import CANARY, CHECK, check_subject, door
from .severity import NOTICE, PAGE, URGENT, Problem, expiry, muted, severity_of
from .states import CONNECTIVITY, DOWN, THROTTLED, UNKNOWN, UP, WARNING, SubjectState

MAINTENANCE = "maintenance"
NEVER_PROBED = SubjectState()


@dataclass(frozen=True, slots=True)
class Maintenance:
    """Maintenance that is on, ``until`` then (epoch seconds)."""

    owner: str
    reason: str
    until: float


@dataclass(frozen=True, slots=True)
class HostView:
    """A host's summary for the page: ``state`` is that of its worst service; ``accepts`` is None without SMTP.

    ``accepts`` is what is confirmed, ``known`` whether that was seen lately.
    """

    state: str
    message: str
    accepts: bool | None
    maintenance: Maintenance | None
    known: bool = True


@dataclass(frozen=True, slots=True)
class View:
    """The whole fleet: hosts' views, problems by key, how many MXs are known to accept mail, its state and sentence.

    ``behind``: keys of open incidents that are no problems now because another hides them; nothing better was seen.
    """

    hosts: Mapping[str, HostView]
    problems: Mapping[str, Problem]
    accepting: int
    state: str
    sentence: str
    behind: frozenset[str] = frozenset()


def judge(
    settings: Settings,
    subjects: Mapping[str, SubjectState],
    maintenance: Mapping[str, Maintenance],
    open_keys: Collection[str],
    now: float,
) -> View:
    """All problems. ``maintenance`` by host; ``open_keys``: open incidents."""
    connectivity = subjects.get(CONNECTIVITY, NEVER_PROBED)
    problems: dict[str, Problem] = {}
    hosts: dict[str, HostView] = {}
    checks = _by_host(subjects)
    for host in settings.hosts:
        own, view = _host(
            host, settings, subjects, checks.get(host.name, {}), maintenance.get(host.name), open_keys, now
        )
        hosts[host.name] = view
        problems.update({problem.key: problem for problem in own})
    confirmed = sum(hosts[host.name].accepts is True for host in settings.mxs)
    accepting = sum(hosts[host.name].accepts is True and hosts[host.name].known for host in settings.mxs)
    state, sentence = _sentence(settings, hosts, accepting)
    if confirmed < settings.min_accepting and settings.mxs:
        fleet = _fleet(settings, hosts, problems, confirmed, now)
        problems[fleet.key] = fleet
    elif unseen := _unseen(settings, subjects, hosts, confirmed):
        problems[unseen.key] = unseen
    if connectivity.state == DOWN:
        message = "this monitor is offline; nothing is known of the fleet"
        title, since = f"monitor {settings.host} is offline", connectivity.since
        problem = Problem(CONNECTIVITY, CONNECTIVITY, "", "", NOTICE, title, since)
        # what was open before stays open: its end can't be seen
        kept = {key: problem for key, problem in problems.items() if key in open_keys}
        problems, state, sentence = {**kept, problem.key: problem}, UNKNOWN, message[0].upper() + message[1:] + "."
    behind = {key for key in open_keys if key not in problems and not _over(key, settings, subjects, accepting)}
    return View(hosts, problems, accepting, state, sentence, frozenset(behind))


def _by_host(subjects: Mapping[str, SubjectState]) -> dict[str, dict[str, SubjectState]]:
    """The confirmed states of checks, by host, then check."""
    by_host: dict[str, dict[str, SubjectState]] = {}
    for name, current in subjects.items():
        host, _, rest = name.partition("/")
        if rest.startswith(CHECK):
            by_host.setdefault(host, {})[rest.removeprefix(CHECK)] = current
    return by_host


def _over(key: str, settings: Settings, subjects: Mapping[str, SubjectState], accepting: int) -> bool:
    """Whether something better was seen of an open incident that is no problem any more."""
    kind, _, about = key.partition(":")
    if kind == "fleet":
        return accepting >= settings.min_accepting or not settings.mxs
    if kind == "throttled":
        # what else of its SMTP is down (IPv6, another port) has an incident of its own, and may have for weeks
        front = [service for host in settings.hosts if host.name == about for service in host.front]
        return all(subjects.get(service.subject, NEVER_PROBED).state not in (DOWN, THROTTLED) for service in front)
    if kind == "check":
        host_name, _, check = about.partition("/")
        about = check_subject(host_name, check)
    current = subjects.get(f"{about}/health" if kind == "health" else about)
    if current is None:
        return True
    if kind in ("health", "check", "warning"):
        return current.state == UP and (kind == "warning" or current.flapping is None)
    return kind != "service" or (current.state in (UP, WARNING) and current.flapping is None)


def _host(
    host: Host,
    settings: Settings,
    subjects: Mapping[str, SubjectState],
    checks: Mapping[str, SubjectState],
    maintenance: Maintenance | None,
    open_keys: Collection[str],
    now: float,
) -> tuple[list[Problem], HostView]:
    """The problems of one host, and its summary."""
    services: dict[Service, SubjectState] = {
        service: subjects.get(service.subject, NEVER_PROBED) for service in host.services
    }
    health = subjects.get(f"{host.name}/health", NEVER_PROBED)
    problems: list[Problem] = []
    key = f"host:{host.name}"
    # all services silent, and one of them for long enough; those probed seldom don't count
    evidence = [current for service, current in services.items() if service.is_evidence]
    silent = [current for current in evidence if current.silent and DOWN in (current.state, current.soft)]
    dead = bool(evidence) and len(silent) == len(evidence) and any(current.state == DOWN for current in silent)
    down = dead or (key in open_keys and _returning(evidence, settings, now))
    flapping = [current.flapping for current in evidence if current.flapping is not None and states.wavers(current)]
    # together: all of it goes and comes; goes_on: the other services have calmed down already
    together = dead and all(_flaps(current, settings, now) for current in evidence)
    goes_on = key in open_keys and all(
        _flaps(current, settings, now) or not (current.changes or current.bad or current.state == DOWN)
        for current in evidence
    )
    severity = severity_of("host", host)
    rest = services
    if flapping and (together or goes_on):
        most = max(max(len(current.changes), len(current.turns)) for current in evidence)
        title = f"{host.name} is flapping, {most} changes"
        problems.append(Problem(key, "host", host.name, "", severity, title, min(flapping), True))
        rest = {
            service: current
            for service, current in services.items()
            if not states.wavers(current) and not current.silent
        }
    elif down:
        since = min((current.since if current.state == DOWN else current.first for current in silent), default=now)
        problems.append(Problem(key, "host", host.name, "", severity, f"{host.name} does not answer", since))
    if not down:
        problems.extend(_services(host, settings, rest, open_keys, now))
        problems.extend(_unknown(host, settings, rest, problems))
        near = complaints.Near(settings, services, tuple(problems), open_keys, now)
        problems.extend(complaints.checks(host, settings, checks, near))
        problems.extend(complaints.health(host, settings, health, checks, near))
    if maintenance is not None:
        problems = [muted(problem) for problem in problems]
    return problems, _view(host, settings, services, health, checks, down, maintenance, now)


def _patience(settings: Settings, service: Service) -> float:
    return states.patience(service.interval, settings.timeout)


def _flaps(current: SubjectState, settings: Settings, now: float) -> bool:
    """Whether it flaps, or will as soon as its soft state is confirmed."""
    if current.flapping is not None:
        return states.wavers(current)
    recent = sum(at >= now - settings.flap_window for at in current.changes)
    return recent + (current.soft == DOWN) >= settings.flap_changes


def _returning(subjects: Collection[SubjectState], settings: Settings, now: float) -> bool:
    """Whether a host that was down isn't wholly back yet, and hasn't had long enough for it."""
    if all(current.state not in (DOWN, UNKNOWN) for current in subjects):
        return False
    back = [current.since for current in subjects if current.state in (UP, WARNING, THROTTLED)]
    return not back or now - min(back) < settings.interval


def _services(
    host: Host, settings: Settings, services: Mapping[Service, SubjectState], open_keys: Collection[str], now: float
) -> list[Problem]:
    problems = []
    for service, current in services.items():
        key = f"service:{service.subject}"
        label = f"{host.name} {service.name}"
        severity = severity_of(service.kind, host, door(service, host))
        if current.flapping is not None and states.wavers(current):
            title = label + complaints.flapping(current)
            problems.append(Problem(key, "service", host.name, service.name, severity, title, current.flapping, True))
        elif current.state == DOWN:
            # a first good result after it: no new problem is made of that
            if key not in open_keys and (current.soft or _waits(current, services)):
                continue
            stays = " stays down after flapping" if current.flapping is not None else ""
            title = f"{label}{stays}: {current.message}"
            problems.append(Problem(key, "service", host.name, service.name, severity, title, current.since))
        elif current.state == THROTTLED:
            title = f"{host.name}: {current.message}"
            problems.append(Problem(f"throttled:{host.name}", "throttled", host.name, "", PAGE, title, current.since))
        elif current.state == WARNING:
            severity, level = expiry(current, host, settings, now)
            title = f"{label}: {current.message}"
            key = f"warning:{service.subject}"
            problems.append(
                Problem(key, "warning", host.name, service.name, severity, title, current.since, level=level)
            )
    return problems


def _unknown(
    host: Host, settings: Settings, services: Mapping[Service, SubjectState], others: Sequence[Problem]
) -> list[Problem]:
    """Problems for services probed in vain for too long; none if another problem explains it."""
    if any(problem.kind in ("host", "service", "throttled") for problem in others):
        return []
    problems = []
    for service, current in services.items():
        since = states.blind(current, _patience(settings, service))
        if since is not None and current.state in (UP, UNKNOWN):
            title = f"{host.name} {service.name}: not known: {current.blind}"
            key = f"unknown:{service.subject}"
            problems.append(Problem(key, "unknown", host.name, service.name, PAGE, title, since))
    return problems


def _unseen(
    settings: Settings, subjects: Mapping[str, SubjectState], hosts: Mapping[str, HostView], confirmed: int
) -> Problem | None:
    """The problem that the monitor can't see whether enough MXs accept mail."""
    since: dict[str, float] = {}
    for host in settings.mxs:
        blind_since = [
            states.blind(subjects.get(service.subject, NEVER_PROBED), _patience(settings, service))
            for service in host.front
        ]
        vain = [at for at in blind_since if at is not None]
        if hosts[host.name].accepts and len(vain) == len(blind_since):
            since[host.name] = max(vain)
    if not since or confirmed - len(since) >= settings.min_accepting:
        return None
    title = f"monitor {settings.host} can't see whether enough MX accept mail: not known of {', '.join(since)}"
    return Problem("unknown:fleet", "unknown", "", "", NOTICE, title, max(since.values()))


def _waits(current: SubjectState, services: Mapping[Any, SubjectState]) -> bool:
    """Return whether the host's other services must be probed first: silence may be the host's."""
    evidence = [other for service, other in services.items() if service.is_evidence]
    return current.silent and any(other.checked < current.since for other in evidence)


def _view(
    host: Host,
    settings: Settings,
    services: Mapping[Service, SubjectState],
    health: SubjectState,
    checks: Mapping[str, SubjectState],
    down: bool,
    maintenance: Maintenance | None,
    now: float,
) -> HostView:
    smtp = {service: services[service] for service in host.front}
    # not probed yet is not "doesn't accept": a start of the monitor is no alarm. What flaps isn't relied on
    # until it is calm, otherwise the fleet's alarm would flap with it.
    steady = any(current.state in (UP, WARNING, UNKNOWN) and current.flapping is None for current in smtp.values())
    accepts = steady and not down if smtp else None
    seen = {service: states.shown(current, now, _patience(settings, service)) for service, current in services.items()}
    good = [state in (UP, WARNING) if accepts else state != UNKNOWN for state, _ in (seen[service] for service in smtp)]
    known = not smtp or any(good)
    state, message = _worst(settings, services, seen, [("health", health), *checks.items()], down, known)
    if maintenance is not None:
        reason = f" ({text.clean(maintenance.reason)})" if maintenance.reason else ""
        state = MAINTENANCE
        message = f"maintenance by {text.clean(maintenance.owner, 32)}{reason}; {message}"
    return HostView(state, message, accepts, maintenance, known)


def _worst(
    settings: Settings,
    services: Mapping[Service, SubjectState],
    seen: Mapping[Service, tuple[str, str]],
    rest: Sequence[tuple[str, SubjectState]],
    down: bool,
    known: bool,
) -> tuple[str, str]:
    """State and message of a host. ``seen``: services as they may be shown; ``known``: whether its SMTP is."""
    evidence = {service: shown for service, shown in seen.items() if service.is_evidence} or seen
    gone = [(service, message) for service, (state, message) in evidence.items() if state == UNKNOWN]
    if seen and len(gone) == len(evidence):
        return UNKNOWN, gone[0][1]
    if down:
        return DOWN, "does not answer"
    for bad in (DOWN, THROTTLED):
        for service, (state, message) in seen.items():
            if state == bad:
                return state, message if state == THROTTLED else f"{service.name}: {message}"
    if not known:
        return UNKNOWN, next(f"{service.name}: {message}" for service, message in gone if service.kind == "smtp")
    for service, (state, message) in seen.items():
        vain = state == UNKNOWN and states.blind(services[service], _patience(settings, service)) is not None
        if state == WARNING or services[service].flapping or vain:
            return WARNING, f"{service.name}: {message}"
    for name, current in rest:
        if current.state in (WARNING, DOWN) or current.flapping:
            return WARNING, f"{name}: {current.message}"
    return UP, "all well"


def _fleet(
    settings: Settings, hosts: Mapping[str, HostView], problems: Mapping[str, Problem], accepting: int, now: float
) -> Problem:
    lost = [host.name for host in settings.mxs if not hosts[host.name].accepts]
    smtp = {(host.name, service.name) for host in settings.mxs for service in host.services if service.kind == "smtp"}
    about = tuple(
        key
        for key, problem in problems.items()
        if (
            problem.host in lost
            and (problem.kind in ("host", "throttled", "health", "check") or (problem.host, problem.service) in smtp)
        )
        # no canary goes through while no MX accepts mail
        or (not accepting and problem.kind == "check" and problem.service == CANARY)
    )
    named = ", ".join(f"{name} {_short(hosts[name].state)}" for name in lost)
    since = max((problems[key].since for key in about), default=now)
    title = f"{accepting} of {len(settings.mxs)} MX accept mail, {settings.min_accepting} must: {named}"
    return Problem("fleet", "fleet", "", "", URGENT, title, since, about=about, level=accepting)


def _short(state: str) -> str:
    return {MAINTENANCE: "in maintenance", UP: "not accepting", WARNING: "not accepting"}.get(state, state)


def _sentence(settings: Settings, hosts: Mapping[str, HostView], accepting: int) -> tuple[str, str]:
    """The fleet's state and its sentence."""
    total = len(settings.mxs)
    rest = {host.name: hosts[host.name].state for host in settings.hosts if host.role != "mx"}
    others = [host.name for host in settings.hosts if host.role not in ("mx", "dns") and rest[host.name] == DOWN]
    unknown = [host.name for host in settings.mxs if hosts[host.name].state == UNKNOWN or not hosts[host.name].known]
    if accepting + len(unknown) < settings.min_accepting:
        if total == 1:
            return DOWN, "The only MX doesn't accept mail."
        verb = "accepts" if accepting == 1 else "accept"
        if unknown:
            verb = f"{'is' if accepting == 1 else 'are'} known to accept"
        many = f"Only {accepting}" if accepting else "None"
        return DOWN, f"{many} of {total} MXs {verb} mail; {settings.min_accepting} must."
    if unknown:
        many = "any MX" if len(unknown) == total else ", ".join(unknown)
        return UNKNOWN, f"Nothing is known at the moment of {many}."
    accepted = f"All {total} MXs accept mail" if accepting == total else f"{accepting} of {total} MXs accept mail"
    if accepting == total == 1:
        accepted = "The only MX accepts mail"
    if others:
        return WARNING, f"{accepted}; {', '.join(others)} {'is' if len(others) == 1 else 'are'} down."
    if accepting < total:
        return WARNING, f"{accepted}, enough for the fleet."
    if unseen := [name for name, state in rest.items() if state == UNKNOWN]:
        return WARNING, f"{accepted}; nothing is known of {', '.join(unseen)}."
    worst = [view.state for view in hosts.values() if view.state in (WARNING, THROTTLED, DOWN)]
    return (WARNING, f"{accepted}; something else wants attention.") if worst else (UP, f"{accepted}. All is well.")
