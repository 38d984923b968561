"""From what is believed of all subjects to *causes*: what is wrong, once each, the deepest reason only. Pure.

The way down: the monitor's own uplink, then a host, then its services, then what the host says of itself. While the
uplink is down nothing else is judged; while a host is down its services are not mentioned; while a service is down,
the host's own complaints aren't. Beside them stands the one that matters most: fewer MXs accept mail than must.

What is wrong follows from what is believed, and stays wrong until something better was seen. What is shown follows from
what is known: a state that nothing was seen of for too long is unknown, and when looks were in vain for so long that is
a cause by itself.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mf import text

from ..probing.hosthealth import CANARY, CHECK, door, subject
from ..settings import Host, Service, Settings
from . import complaints, states
from .severity import NOTICE, PAGE, URGENT, Cause, expiry, loudness, muted
from .states import DOWN, THROTTLED, UNKNOWN, UP, WARNING, Memory

MAINTENANCE = "maintenance"
NOBODY = Memory()


@dataclass(frozen=True, slots=True)
class HostView:
    """A host in one word, for the page: ``state`` is that of its worst service; ``accepts`` is None without SMTP.

    ``accepts`` is what is believed, ``known`` says whether that was seen lately.
    """

    state: str
    words: str
    accepts: bool | None
    maintenance: Mapping[str, Any] | None
    known: bool = True


@dataclass(frozen=True, slots=True)
class View:
    """The whole fleet: hosts' views, causes by key, how many MXs are known to accept mail, its state and sentence.

    ``behind``: keys of open incidents that are no causes now, though nothing better was seen: another cause hides them.
    """

    hosts: Mapping[str, HostView]
    causes: Mapping[str, Cause]
    accepting: int
    state: str
    sentence: str
    behind: frozenset[str] = frozenset()


def judge(
    settings: Settings,
    memories: Mapping[str, Memory],
    maintenance: Mapping[str, Mapping[str, Any]],
    open_keys: Collection[str],
    now: float,
) -> View:
    """All causes. ``maintenance``: host to ``{"owner", "reason", "until"}``, in force; ``open_keys``: what is open."""
    uplink = memories.get("uplink", NOBODY)
    causes: dict[str, Cause] = {}
    hosts: dict[str, HostView] = {}
    checks = _by_host(memories)
    for host in settings.hosts:
        found, view = _host(
            host, settings, memories, checks.get(host.name, {}), maintenance.get(host.name), open_keys, now
        )
        hosts[host.name] = view
        causes.update({cause.key: cause for cause in found})
    believed = sum(hosts[host.name].accepts is True for host in settings.mxs)
    accepting = sum(hosts[host.name].accepts is True and hosts[host.name].known for host in settings.mxs)
    state, sentence = _sentence(settings, hosts, accepting)
    if believed < settings.min_accepting and settings.mxs:
        fleet = _fleet(settings, hosts, causes, believed, now)
        causes[fleet.key] = fleet
    elif unseen := _unseen(settings, memories, hosts, believed):
        causes[unseen.key] = unseen
    if uplink.state == DOWN:
        words = "this monitor is offline; nothing is known of the fleet"
        cause = Cause("uplink", "uplink", "", "", NOTICE, f"monitor {settings.host} is offline", uplink.since)
        # what was open before stays open: nobody can say that it is over
        kept = {key: one for key, one in causes.items() if key in open_keys}
        causes, state, sentence = {**kept, cause.key: cause}, UNKNOWN, words[0].upper() + words[1:] + "."
    behind = {key for key in open_keys if key not in causes and not _over(key, settings, memories, accepting)}
    return View(hosts, causes, accepting, state, sentence, frozenset(behind))


def _by_host(memories: Mapping[str, Memory]) -> dict[str, dict[str, Memory]]:
    """What is believed of hosts' checks: host, then check."""
    found: dict[str, dict[str, Memory]] = {}
    for name, memory in memories.items():
        host, _, rest = name.partition("/")
        if rest.startswith(CHECK):
            found.setdefault(host, {})[rest.removeprefix(CHECK)] = memory
    return found


def _over(key: str, settings: Settings, memories: Mapping[str, Memory], accepting: int) -> bool:
    """Whether something better was seen of an open incident that is no cause any more."""
    kind, _, about = key.partition(":")
    if kind == "fleet":
        return accepting >= settings.min_accepting or not settings.mxs
    if kind == "throttled":
        # what else of its SMTP is down (IPv6, another port) has an incident of its own, and may have for weeks
        front = [service for host in settings.hosts if host.name == about for service in host.front]
        return all(memories.get(one.subject, NOBODY).state not in (DOWN, THROTTLED) for one in front)
    if kind == "check":
        host_name, _, check = about.partition("/")
        about = subject(host_name, check)
    memory = memories.get(f"{about}/health" if kind == "health" else about)
    if memory is None:
        return True
    if kind in ("health", "check", "warning"):
        return memory.state == UP and (kind == "warning" or memory.flapping is None)
    return kind != "service" or (memory.state in (UP, WARNING) and memory.flapping is None)


def _host(
    host: Host,
    settings: Settings,
    memories: Mapping[str, Memory],
    checks: Mapping[str, Memory],
    maintenance: Mapping[str, Any] | None,
    open_keys: Collection[str],
    now: float,
) -> tuple[list[Cause], HostView]:
    """The causes on one host, and the host in one word."""
    services: dict[Service, Memory] = {service: memories.get(service.subject, NOBODY) for service in host.services}
    health = memories.get(f"{host.name}/health", NOBODY)
    causes: list[Cause] = []
    key = f"host:{host.name}"
    # every one of them silent, and one of them for long enough; what is asked seldom has no say in it
    telling = [memory for service, memory in services.items() if service.tells]
    silent = [one for one in telling if one.silent and DOWN in (one.state, one.pending)]
    dead = bool(telling) and len(silent) == len(telling) and any(one.state == DOWN for one in silent)
    down = dead or (key in open_keys and _returning(telling, settings, now))
    began = [one.flapping for one in telling if one.flapping is not None and states.wavers(one)]
    # begun: all of it goes and comes together; gone on with: the others have calmed down already
    together = dead and all(_flaps(one, settings, now) for one in telling)
    goes_on = key in open_keys and all(
        _flaps(one, settings, now) or not (one.changes or one.bad or one.state == DOWN) for one in telling
    )
    severity = loudness("host", host)
    rest = services
    if began and (together or goes_on):
        title = f"{host.name} is flapping, {max(max(len(one.changes), len(one.looks)) for one in telling)} changes"
        causes.append(Cause(key, "host", host.name, "", severity, title, min(began), True))
        rest = {one: memory for one, memory in services.items() if not states.wavers(memory) and not memory.silent}
    elif down:
        since = min((one.since if one.state == DOWN else one.first for one in silent), default=now)
        causes.append(Cause(key, "host", host.name, "", severity, f"{host.name} does not answer", since))
    if not down:
        causes.extend(_services(host, settings, rest, open_keys, now))
        causes.extend(_unknown(host, settings, rest, causes))
        near = complaints.Near(settings, services, tuple(causes), open_keys, now)
        causes.extend(complaints.checks(host, settings, checks, near))
        causes.extend(complaints.health(host, settings, health, checks, near))
    if maintenance is not None:
        causes = [muted(cause) for cause in causes]
    return causes, _view(host, settings, services, health, checks, down, maintenance, now)


def _patience(settings: Settings, service: Service) -> float:
    return states.patience(service.interval, settings.timeout)


def _flaps(memory: Memory, settings: Settings, now: float) -> bool:
    """Whether it flaps, or will as soon as what is seen of it now is believed."""
    if memory.flapping is not None:
        return states.wavers(memory)
    recent = sum(at >= now - settings.flap_window for at in memory.changes)
    return recent + (memory.pending == DOWN) >= settings.flap_changes


def _returning(memories: Collection[Memory], settings: Settings, now: float) -> bool:
    """Whether a host that was down isn't wholly back yet, and hasn't had long enough for it."""
    if all(one.state not in (DOWN, UNKNOWN) for one in memories):
        return False
    back = [one.since for one in memories if one.state in (UP, WARNING, THROTTLED)]
    return not back or now - min(back) < settings.interval


def _services(
    host: Host, settings: Settings, services: Mapping[Service, Memory], open_keys: Collection[str], now: float
) -> list[Cause]:
    causes = []
    for service, memory in services.items():
        key = f"service:{service.subject}"
        label = f"{host.name} {service.name}"
        severity = loudness(service.kind, host, door(service, host))
        if memory.flapping is not None and states.wavers(memory):
            title = label + complaints.flapping(memory)
            causes.append(Cause(key, "service", host.name, service.name, severity, title, memory.flapping, True))
        elif memory.state == DOWN:
            # a first good look after it: no new cause is made of that
            if key not in open_keys and (memory.pending or _waits(memory, services)):
                continue
            stays = " stays down after flapping" if memory.flapping is not None else ""
            title = f"{label}{stays}: {memory.words}"
            causes.append(Cause(key, "service", host.name, service.name, severity, title, memory.since))
        elif memory.state == THROTTLED:
            title = f"{host.name}: {memory.words}"
            causes.append(Cause(f"throttled:{host.name}", "throttled", host.name, "", PAGE, title, memory.since))
        elif memory.state == WARNING:
            loud, level = expiry(memory, host, settings, now)
            title = f"{label}: {memory.words}"
            key = f"warning:{service.subject}"
            causes.append(Cause(key, "warning", host.name, service.name, loud, title, memory.since, level=level))
    return causes


def _unknown(
    host: Host, settings: Settings, services: Mapping[Service, Memory], others: Sequence[Cause]
) -> list[Cause]:
    """What was looked at in vain for too long, unless it is clear why."""
    if any(cause.kind in ("host", "service", "throttled") for cause in others):
        return []
    causes = []
    for service, memory in services.items():
        since = states.blind(memory, _patience(settings, service))
        if since is not None and memory.state in (UP, UNKNOWN):
            title = f"{host.name} {service.name}: not known: {memory.blind}"
            key = f"unknown:{service.subject}"
            causes.append(Cause(key, "unknown", host.name, service.name, PAGE, title, since))
    return causes


def _unseen(
    settings: Settings, memories: Mapping[str, Memory], hosts: Mapping[str, HostView], believed: int
) -> Cause | None:
    """A monitor that can't see whether enough MXs accept mail has to say so."""
    since: dict[str, float] = {}
    for host in settings.mxs:
        found = [states.blind(memories.get(one.subject, NOBODY), _patience(settings, one)) for one in host.front]
        vain = [at for at in found if at is not None]
        if hosts[host.name].accepts and len(vain) == len(found):
            since[host.name] = max(vain)
    if not since or believed - len(since) >= settings.min_accepting:
        return None
    title = f"monitor {settings.host} can't see whether enough MX accept mail: not known of {', '.join(since)}"
    return Cause("unknown:fleet", "unknown", "", "", NOTICE, title, max(since.values()))


def _waits(memory: Memory, services: Mapping[Any, Memory]) -> bool:
    """Whether the host's other services must be looked at first: silence may be the host's."""
    return memory.silent and any(one.checked < memory.since for service, one in services.items() if service.tells)


def _view(
    host: Host,
    settings: Settings,
    services: Mapping[Service, Memory],
    health: Memory,
    checks: Mapping[str, Memory],
    down: bool,
    maintenance: Mapping[str, Any] | None,
    now: float,
) -> HostView:
    smtp = {service: services[service] for service in host.front}
    # not looked at yet is not "doesn't accept": nobody is woken by a start of the monitor. What flaps isn't relied on
    # until it is calm, otherwise the fleet's alarm would flap with it.
    steady = any(one.state in (UP, WARNING, UNKNOWN) and one.flapping is None for one in smtp.values())
    accepts = steady and not down if smtp else None
    seen = {service: states.shown(one, now, _patience(settings, service)) for service, one in services.items()}
    good = [state in (UP, WARNING) if accepts else state != UNKNOWN for state, _ in (seen[service] for service in smtp)]
    known = not smtp or any(good)
    state, words = _worst(settings, services, seen, [("health", health), *checks.items()], down, known)
    if maintenance is not None:
        reason = f" ({text.clean(str(maintenance['reason']))})" if maintenance.get("reason") else ""
        state = MAINTENANCE
        words = f"maintenance by {text.clean(str(maintenance['owner']), 32)}{reason}; {words}"
    return HostView(state, words, accepts, maintenance, known)


def _worst(
    settings: Settings,
    services: Mapping[Service, Memory],
    seen: Mapping[Service, tuple[str, str]],
    rest: Sequence[tuple[str, Memory]],
    down: bool,
    known: bool,
) -> tuple[str, str]:
    """State and words of a host. ``seen``: services as they may be shown; ``known``: whether its SMTP is."""
    telling = {service: one for service, one in seen.items() if service.tells} or seen
    gone = [(service, words) for service, (state, words) in telling.items() if state == UNKNOWN]
    if seen and len(gone) == len(telling):
        return UNKNOWN, gone[0][1]
    if down:
        return DOWN, "does not answer"
    for bad in (DOWN, THROTTLED):
        for service, (state, words) in seen.items():
            if state == bad:
                return state, words if state == THROTTLED else f"{service.name}: {words}"
    if not known:
        return UNKNOWN, next(f"{one.name}: {words}" for one, words in gone if one.kind == "smtp")
    for service, (state, words) in seen.items():
        vain = state == UNKNOWN and states.blind(services[service], _patience(settings, service)) is not None
        if state == WARNING or services[service].flapping or vain:
            return WARNING, f"{service.name}: {words}"
    for name, one in rest:
        if one.state in (WARNING, DOWN) or one.flapping:
            return WARNING, f"{name}: {one.words}"
    return UP, "all well"


def _fleet(
    settings: Settings, hosts: Mapping[str, HostView], causes: Mapping[str, Cause], accepting: int, now: float
) -> Cause:
    lost = [host.name for host in settings.mxs if not hosts[host.name].accepts]
    smtp = {(host.name, one.name) for host in settings.mxs for one in host.services if one.kind == "smtp"}
    about = tuple(
        key
        for key, one in causes.items()
        if (
            one.host in lost
            and (one.kind in ("host", "throttled", "health", "check") or (one.host, one.service) in smtp)
        )
        # no canary goes through while nobody takes mail
        or (not accepting and one.kind == "check" and one.service == CANARY)
    )
    said = ", ".join(f"{name} {_short(hosts[name].state)}" for name in lost)
    since = max((causes[key].since for key in about), default=now)
    title = f"{accepting} of {len(settings.mxs)} MX accept mail, {settings.min_accepting} must: {said}"
    return Cause("fleet", "fleet", "", "", URGENT, title, since, about=about, level=accepting)


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
    said = f"All {total} MXs accept mail" if accepting == total else f"{accepting} of {total} MXs accept mail"
    if accepting == total == 1:
        said = "The only MX accepts mail"
    if others:
        return WARNING, f"{said}; {', '.join(others)} {'is' if len(others) == 1 else 'are'} down."
    if accepting < total:
        return WARNING, f"{said}, enough for the fleet."
    if unseen := [name for name, state in rest.items() if state == UNKNOWN]:
        return WARNING, f"{said}; nothing is known of {', '.join(unseen)}."
    worst = [view.state for view in hosts.values() if view.state in (WARNING, THROTTLED, DOWN)]
    return (WARNING, f"{said}; something else wants attention.") if worst else (UP, f"{said}. All is well.")
