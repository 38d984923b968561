"""Problems from a host's own health: one for each bad check, and one for what isn't known of it. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from ..settings import Host, Service, Settings
from . import states
from .health import CANARY, door, vital
from .severity import NOTICE, PAGE, URGENT, Problem, severity_of
from .states import DOWN, HELD, PART, UNREAD, WARNING, SubjectState

# Seconds until a host's own check of SMTP, or of the queue because of which SMTP refuses mail, has run again: its
# period, a splay and its deadline.
RUNS_AGAIN = {"smtp": 75.0, "queue": 335.0}
READS = 10.0  # seconds that a reading of health takes at most
NO_QUEUE = "421 at greeting"  # what the probe of SMTP says while a host's queue takes no mail
NOT_KNOWN = 10  # intervals after which what isn't known is notified


@dataclass(frozen=True, slots=True)
class Near:
    """A host as seen from outside: its services, its problems, and the keys of open incidents."""

    settings: Settings
    services: Mapping[Service, SubjectState]
    problems: tuple[Problem, ...]
    open_keys: Collection[str]
    now: float

    def hides(self, host: Host, check: str = "") -> bool:
        """Whether the cause of a complaint is known, likely, or just over; without ``check`` only the host is one.

        A host that is down hides everything of it, its throttle ``load``, its SMTP ``smtp`` and, if it refuses mail
        because of the queue, ``queue``.
        """
        kinds = {problem.kind for problem in self.problems}
        return (
            "host" in kinds
            or (check == "load" and "throttled" in kinds)
            or (check in RUNS_AGAIN and any(self._explains(self.services[service], check) for service in host.front))
        )

    def locked(self, host: Host) -> bool:
        """Whether the ssh through which health is read is down, may be, or has just come back."""
        return any(self._explains(current) for service, current in self.services.items() if door(service, host))

    def _explains(self, current: SubjectState, check: str = "") -> bool:
        """Whether a service's state explains the complaint."""
        if current.soft:
            return True
        if current.state == DOWN:
            return check != "queue" or current.message.startswith(NO_QUEUE)
        # the host's own check of a service that has just come back may report it as down for minutes
        fresh = current.changes[-1:] > (self.now - RUNS_AGAIN.get(check, READS) - self.settings.interval,)
        return fresh or (check != "queue" and states.wavers(current))


def checks(host: Host, settings: Settings, checked: Mapping[str, SubjectState], near: Near) -> list[Problem]:
    """Problems of a host's checks, one each: a check that has been bad for weeks, or flaps, hides no other.

    CRITICAL is notified, whatever the check and the role of the host (see ``judging.health`` for what isn't).
    """
    problems = []
    for name, current in checked.items():
        flaps = states.wavers(current)
        if not (flaps or current.state in (DOWN, WARNING)) or _unread(host, name, current, near):
            continue
        urgent = (
            name in settings.urgent_checks and current.reason != PART and (name != CANARY or host.role == "control")
        )
        severity = PAGE if not flaps and current.state == WARNING else URGENT if urgent else NOTICE
        if severity != URGENT and near.hides(host, name):
            continue
        word = " WARNING" if current.state == WARNING else " CRITICAL"
        if current.flapping is not None:
            word = flapping(current) if flaps else f" stays{word} after flapping"
        elif urgent:
            word = ""
        title = f"{host.name}{'' if urgent or flaps else ':'} {name}{word}: {current.message}"
        since = current.flapping if flaps and current.flapping is not None else current.since
        level = None if flaps or severity == PAGE else current.level
        problems.append(Problem(_key(host, name), "check", host.name, name, severity, title, since, flaps, level=level))
    return problems


def _unread(host: Host, name: str, current: SubjectState, near: Near) -> bool:
    """Whether a vital check isn't known, and has no incident of its own: a check that is CRITICAL and not known by
    turns would be notified at every turn."""
    unread = current.state == DOWN and current.reason == UNREAD and not states.wavers(current)
    return unread and _key(host, name) not in near.open_keys


def _key(host: Host, name: str) -> str:
    return f"check:{host.name}/{name}"


def health(
    host: Host, settings: Settings, own: SubjectState, checked: Mapping[str, SubjectState], near: Near
) -> list[Problem]:
    """One problem for what isn't known of a host, or that it is on hold."""
    key, since = f"health:{host.name}", own.since
    # not to know of the control machine's data is urgent
    unread = {name: current for name, current in checked.items() if _unread(host, name, current, near)}
    if unread:
        first = min(unread, key=lambda name: unread[name].since)
        rest = f" (and {len(unread) - 1} more)" if len(unread) > 1 else ""
        title = f"{host.name} {first}: {unread[first].message}{rest}"
        return [Problem(key, "health", host.name, "", URGENT, title, unread[first].since)]
    flaps = states.wavers(own)
    if own.state not in (DOWN, WARNING) and not flaps:
        return []
    # what was not known for a moment (a boot, a deployment) is no news; nor is what was, before this monitor was away
    lasts = own.seen - own.since >= NOT_KNOWN * settings.interval
    severity = severity_of("health", host) if flaps or own.state == DOWN or lasts else PAGE
    if lasts and own.reason == UNREAD and vital(settings, host):
        severity = URGENT
    # a hold has no end of its own, so it is notified even though the throttle that it is shows already
    if own.reason != HELD and (near.hides(host) or (own.reason == UNREAD and near.locked(host))):
        return []
    title = f"{host.name}: {own.message}"
    if flaps:
        title, since = f"{host.name} health{flapping(own)}: {own.message}", own.flapping or since
    return [Problem(key, "health", host.name, "", severity, title, since, flaps)]


def flapping(current: SubjectState) -> str:
    """The part of a title for a subject that flaps."""
    return (
        f" is flapping, {max(len(current.changes), len(current.turns))} changes" if current.flapping is not None else ""
    )
