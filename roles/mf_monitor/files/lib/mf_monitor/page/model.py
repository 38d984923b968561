"""A snapshot of everything that the page shows, as dataclasses; ``as_json`` gives its JSON.

Times are epoch seconds, latencies ms; texts are cleaned but not HTML-escaped. Oldest first in ``days``, ``latency`` and
``timeline``; hosts in the inventory's order. A host of role ``dns`` is none: it holds what is asked of the DNS (``mx``
services) and counts nowhere. Field names are the keys of ``monitor status --json`` and of the operators' status.json,
except where a field's metadata name another ``key``.

A state is up, warning, throttled, maintenance, down or unknown. What wasn't seen for too long (``states.patience``) is
unknown, whatever it was; so is everything while the monitor is offline or makes no probes.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any

from mf.health_record import Lease

from ..judging.problems import Maintenance
from ..store import Silence


@dataclass(slots=True)
class Day:
    """A UTC day of a subject. ``up``: share 0..1 of the known time, in which up, warning and throttled count."""

    day: str  # 2026-11-25
    state: str  # the gravest of it
    up: float | None
    up_seconds: float
    down_seconds: float
    throttled_seconds: float
    warning_seconds: float
    maintenance_seconds: float
    unknown_seconds: float  # probed in vain
    unmeasured_seconds: float  # those, and what was not probed of the day so far
    mean_ms: float | None


@dataclass(slots=True)
class Service:
    """A service; ``expires`` is when its certificate does."""

    name: str
    kind: str
    port: int
    state: str
    since: float
    checked: float | None
    latency_ms: float | None
    message: str = field(metadata={"key": "words"})
    soft: bool = False
    flapping: bool = False
    expires: float | None = None
    days: list[Day | None] = field(default_factory=list)  # 90; None: nothing known
    # [start, mean ms or None, max ms or None, probes, bad probes], 5 minutes each, last 24 hours
    latency: list[list[float | None]] = field(default_factory=list)


@dataclass(slots=True)
class Check:
    """A check's last result, as its host reports it."""

    name: str
    status: str
    summary: str
    age_seconds: float | None
    since: float | None
    metrics: dict[str, float | str] = field(default_factory=dict)


@dataclass(slots=True)
class Health:
    """A host's own health; ``fresh``: read lately, else status is UNKNOWN. ``ok``, ``message``: the last reading."""

    read: float
    age_seconds: float
    fresh: bool
    ok: bool
    message: str = field(metadata={"key": "words"})
    status: str
    load1: float | None = None
    throttled: bool = False
    refusing: bool = False
    held: bool = False
    leases: Sequence[Lease] = ()
    queue: float | None = None
    accepting: bool | None = None
    uptime_seconds: float | None = None
    problems: Sequence[str] = ()
    checks: list[Check] = field(default_factory=list)


@dataclass(slots=True)
class Canary:
    """An MX's canaries, as the control machine reports them; ``seconds`` of the slower of spam and ham."""

    seconds: float | None
    age_seconds: float | None
    status: str
    summary: str


@dataclass(slots=True)
class Backups:
    """A host's backups, by its check ``backup``; the age is that of the newest dump, what would be lost at most."""

    age_seconds: float | None
    status: str
    summary: str


@dataclass(slots=True)
class Host:
    """A machine."""

    name: str
    role: str
    provider: str
    location: str
    address: str
    state: str
    since: float
    message: str = field(metadata={"key": "words"})
    flapping: bool
    maintenance: Maintenance | None
    services: list[Service]
    health: Health | None
    canary: Canary | None
    backups: Backups | None
    days: list[Day | None]


@dataclass(slots=True)
class Fleet:
    """The fleet; ``accepting`` is None while not known."""

    state: str = "unknown"
    since: float | None = None
    sentence: str = ""
    accepting: int | None = None
    mxs: int = 0
    min_accepting: int = 0
    hosts: int = 0
    hosts_up: int = 0
    days: list[Day | None] = field(default_factory=list)


@dataclass(slots=True)
class Connectivity:
    """The monitor's own connection."""

    state: str = "unknown"
    since: float | None = None
    message: str = field(default="", metadata={"key": "words"})


@dataclass(slots=True)
class Event:
    """A line of an incident's timeline."""

    at: float
    what: str
    text: str = field(metadata={"key": "words"})


@dataclass(slots=True)
class Incident:
    """An incident; ``severity`` is urgent, notice or page."""

    id: int
    key: str
    kind: str
    host: str
    service: str
    severity: str
    title: str
    opened: float
    closed: float | None
    acked_by: str | None = None
    ack_until: float | None = None
    acked: bool = False
    silenced: bool = False
    timeline: list[Event] = field(default_factory=list)


@dataclass(slots=True)
class Incidents:
    """Open incidents, and those closed within 14 days; newest first."""

    open: list[Incident] = field(default_factory=list)
    recent: list[Incident] = field(default_factory=list)


@dataclass(slots=True)
class Sent:
    """The last heartbeat or test message."""

    at: float
    ok: bool


@dataclass(slots=True)
class Channel:
    """A channel, by its newest message that was tried; ``ok`` is None when it was never used."""

    name: str
    ok: bool | None
    last: float | None
    waiting: int


@dataclass(slots=True)
class Message:
    """A message to a channel."""

    at: float
    channel: str
    kind: str
    severity: str
    text: str
    status: str
    attempts: int
    finished: float | None
    error: str
    incidents: tuple[int, ...]
    repeat: bool


@dataclass(slots=True)
class Messages:
    """Number of messages waiting to be sent and of those that failed before; channels; the newest 20."""

    waiting: int = 0
    failing: int = 0
    channels: list[Channel] = field(default_factory=list)
    recent: list[Message] = field(default_factory=list)


@dataclass(slots=True)
class Snapshot:
    """All of it; ``stale_after`` seconds a page is stale."""

    version: int
    generated: float
    interval: float
    stale_after: float
    name: str
    monitor: str
    fleet: Fleet = field(default_factory=Fleet)
    connectivity: Connectivity = field(default_factory=Connectivity, metadata={"key": "uplink"})
    hosts: list[Host] = field(default_factory=list)
    incidents: Incidents = field(default_factory=Incidents)
    silences: list[Silence] = field(default_factory=list)
    heartbeat: Sent | None = None
    test_message: Sent | None = None
    messages: Messages = field(default_factory=Messages)


def as_json(value: object, left_out: Collection[str] = ()) -> Any:
    """A snapshot, or a part of it, for ``json``; keys ``left_out`` are not in it."""
    if is_dataclass(value):
        own = ((item.metadata.get("key", item.name), getattr(value, item.name)) for item in fields(value))
        return {name: as_json(inner, left_out) for name, inner in own if name not in left_out}
    if isinstance(value, dict):
        return {name: as_json(inner, left_out) for name, inner in value.items() if name not in left_out}
    return [as_json(inner, left_out) for inner in value] if isinstance(value, (list, tuple)) else value
