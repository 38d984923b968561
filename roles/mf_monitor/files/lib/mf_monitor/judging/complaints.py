"""What a host says of itself, as causes: each check that is bad, and, in one, what isn't known of it. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from ..probing.hosthealth import CANARY, vital
from ..settings import Host, Service, Settings
from . import states
from .severity import NOTICE, PAGE, URGENT, Cause, loudness
from .states import DOWN, HELD, PART, UNREAD, WARNING, Memory

# Seconds until a host's own check of SMTP, or of the queue for which SMTP greets nobody, has looked again: its period,
# a splay and its deadline.
LOOKS_AGAIN = {"smtp": 75.0, "queue": 335.0}
NOT_KNOWN = 10  # intervals after which it is told that something isn't known


@dataclass(frozen=True, slots=True)
class Near:
    """What is known from outside of a host that speaks for itself, and what is open."""

    settings: Settings
    services: Mapping[Service, Memory]
    causes: tuple[Cause, ...]
    open_keys: Collection[str]
    now: float

    def hides(self, severity: str, check: str = "") -> bool:
        """Whether something nearer to the cause is known, about to be, or over just now."""
        # what is for the page only hides nothing that is told (ssh over IPv6 may be down for weeks, and a disk fill up)
        nearer = any(
            cause.kind in ("host", "throttled")
            or (cause.kind == "service" and PAGE not in {cause.severity} - {severity})
            for cause in self.causes
        )
        # its own check of a service that has just come back may say for minutes that it hasn't
        fresh = self.now - LOOKS_AGAIN.get(check, 0.0) - self.settings.interval
        return nearer or any(
            memory.pending or (service.kind == "smtp" and check in LOOKS_AGAIN and memory.changes[-1:] > (fresh,))
            for service, memory in self.services.items()
        )


def checks(host: Host, settings: Settings, found: Mapping[str, Memory], near: Near) -> list[Cause]:
    """What a host's checks say, each by itself: one that has been bad for weeks, or flaps, hides no other.

    CRITICAL is told, whatever the check and the role of the host (see ``hosthealth`` for what isn't).
    """
    causes = []
    for name, memory in found.items():
        flaps = states.wavers(memory)
        if not (flaps or memory.state in (DOWN, WARNING)) or _unread(host, name, memory, near):
            continue
        urgent = name in settings.urgent_checks and memory.why != PART and (name != CANARY or host.role == "control")
        severity = PAGE if not flaps and memory.state == WARNING else URGENT if urgent else NOTICE
        if severity != URGENT and near.hides(severity, name):
            continue
        said = " WARNING" if memory.state == WARNING else " CRITICAL"
        if memory.flapping is not None:
            said = flapping(memory) if flaps else f" stays{said} after flapping"
        elif urgent:
            said = ""
        title = f"{host.name} {'' if urgent or flaps else 'says: '}{name}{said}: {memory.words}"
        since = memory.flapping if flaps and memory.flapping is not None else memory.since
        causes.append(Cause(_key(host, name), "check", host.name, name, severity, title, since, flaps))
    return causes


def _unread(host: Host, name: str, memory: Memory, near: Near) -> bool:
    """Whether a vital check isn't known, and has no incident of its own: one that is CRITICAL and not known by turns
    would be told at every turn."""
    unread = memory.state == DOWN and memory.why == UNREAD and not states.wavers(memory)
    return unread and _key(host, name) not in near.open_keys


def _key(host: Host, name: str) -> str:
    return f"check:{host.name}/{name}"


def health(host: Host, settings: Settings, said: Memory, found: Mapping[str, Memory], near: Near) -> list[Cause]:
    """What isn't known of a host, in one cause, and that it is held."""
    key, since = f"health:{host.name}", said.since
    # whoever watches the control machine's data can't wait
    unread = {name: memory for name, memory in found.items() if _unread(host, name, memory, near)}
    if unread:
        first = min(unread, key=lambda name: unread[name].since)
        rest = f" (and {len(unread) - 1} more)" if len(unread) > 1 else ""
        title = f"{host.name} {first}: {unread[first].words}{rest}"
        return [Cause(key, "health", host.name, "", URGENT, title, unread[first].since)]
    flaps = states.wavers(said)
    if said.state not in (DOWN, WARNING) and not flaps:
        return []
    # what was not known for a moment (a boot, a deployment) is no news; nor is what was, before this monitor was away
    lasts = said.seen - said.since >= NOT_KNOWN * settings.interval
    severity = loudness("health", host) if flaps or said.state == DOWN or lasts else PAGE
    if lasts and said.why == UNREAD and vital(settings, host):
        severity = URGENT
    # a hold has no end of its own, so it is told even though the throttle that it is shows already
    if said.why != HELD and near.hides(severity):
        return []
    title = f"{host.name}: {said.words}" if said.why == UNREAD else f"{host.name} says: {said.words}"
    if flaps:
        title, since = f"{host.name} health{flapping(said)}: {said.words}", said.flapping or since
    return [Cause(key, "health", host.name, "", severity, title, since, flaps)]


def flapping(memory: Memory) -> str:
    """Words for what flaps."""
    return f" is flapping, {max(len(memory.changes), len(memory.looks))} changes" if memory.flapping is not None else ""
