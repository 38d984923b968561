"""What is believed of one subject, from single looks: soft and hard states, success threshold, flap damping. Pure.

A *look* is one observation. A look that contradicts what is believed makes the state *soft* (``pending``); so many in
a row (``failures``, ``successes``) make it *hard*, and only hard states are believed, shown and alerted. A subject that
keeps changing is *flapping*: it is told once, and again when it stays down, or has been calm for a while. What nothing
was seen of for longer than its ``patience`` isn't known any more (``shown``), whatever is believed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, TypeVar

from .. import texts
from ..settings import Settings

T = TypeVar("T")

UP, WARNING, THROTTLED, DOWN, UNKNOWN = "up", "warning", "throttled", "down", "unknown"
# Why something is down. SILENT means that nothing at all came back: it may be the host, or the way to it.
SILENT, REFUSED, WRONG, EXPIRED, UNREAD = "silent", "refused", "wrong", "expired", "unread"
HELD = "held"  # by a person, until a person ends it
PART = "part"  # it concerns a part of the fleet only
MOST_CHANGES = 40  # remembered
GRACE = 30.0  # seconds that a busy monitor may be late
STAYS = 2.0  # intervals without a good look after which what flapped is down
LONGER = 1.5  # times as long as it was down before, or that is the next turn of the flapping


@dataclass(frozen=True, slots=True)
class Look:
    """One observation of a subject: ``began`` and ``at`` (its end) in epoch seconds, ``latency`` in ms."""

    subject: str
    began: float
    at: float
    state: str
    words: str
    why: str = ""
    latency: float | None = None
    expires: float | None = None


@dataclass(frozen=True, slots=True)
class Memory:
    """What is remembered of a subject. ``pending``: the soft state, seen ``count`` times since ``first``."""

    state: str = UNKNOWN
    since: float = 0.0
    words: str = ""
    why: str = ""
    pending: str = ""
    count: int = 0
    first: float = 0.0
    silent: bool = False
    bad: bool = False  # as of the last look
    looks: tuple[float, ...] = ()  # when single looks turned from good to bad or back
    changes: tuple[float, ...] = ()  # when the hard state did
    flapping: float | None = None  # since when
    fell: float = 0.0  # since when it was down when it first stayed down while it flapped
    calm: float = 0.0  # seconds that looks were made in which nothing turned
    checked: float = 0.0  # the last look
    seen: float = 0.0  # the last look that saw anything
    blind: str = ""  # why the last look saw nothing
    latency: float | None = None
    expires: float | None = None

    def as_json(self) -> dict[str, Any]:
        """For the store."""
        return asdict(self)

    @staticmethod
    def of(found: Mapping[str, Any]) -> Memory:
        """From the store."""
        return restored(Memory, {"seen": found.get("checked", 0.0), **found})


def restored(kind: type[T], found: Mapping[str, Any]) -> T:
    """An object of a dataclass from its JSON; what isn't known there gets its default."""
    names = {one.name for one in fields(kind)}  # type: ignore[arg-type]
    values = {key: tuple(value) if isinstance(value, list) else value for key, value in found.items() if key in names}
    return kind(**values)


def needed(believed: str, look: Look, rules: Settings) -> int:
    """How many looks in a row it takes to believe what is seen."""
    if look.state == DOWN or look.why == UNREAD:
        return rules.failures
    if believed == DOWN and look.state in (UP, WARNING):
        return rules.successes
    # a lease or a certificate was read; that is no matter of luck
    return 1


def advance(memory: Memory, look: Look, rules: Settings) -> Memory:
    """The memory after one more look. One that couldn't see anything (unknown) changes nothing that is believed."""
    if look.state == UNKNOWN:
        never = memory.state == UNKNOWN and not memory.since
        return replace(memory, checked=look.at, blind=look.words, since=look.began if never else memory.since)
    bad = look.state == DOWN
    turned = memory.checked > 0 and memory.state != UNKNOWN and bad != memory.bad
    looks = (*memory.looks[-MOST_CHANGES + 1 :], look.at) if turned else memory.looks
    # a monitor that was offline or away saw nothing: that is no calm
    watched = min(max(0.0, look.at - memory.seen), patience(rules.interval, rules.timeout)) if memory.seen else 0.0
    memory = replace(
        memory,
        checked=look.at,
        seen=look.at,
        blind="",
        latency=look.latency,
        silent=look.why == SILENT,
        bad=bad,
        looks=looks,
        calm=0.0 if turned else memory.calm + watched,
        expires=look.expires if look.expires is not None else memory.expires,
    )
    if look.state == memory.state:
        memory = replace(memory, pending="", count=0, first=0.0, words=look.words, why=look.why)
    else:
        count, first = (memory.count + 1, memory.first) if memory.pending == look.state else (1, look.began)
        memory = replace(memory, pending=look.state, count=count, first=first)
        if count >= needed(memory.state, look, rules):
            memory = _believe(memory, look)
    return _flap(memory, look.at, rules)


def _believe(memory: Memory, look: Look) -> Memory:
    was_bad, is_bad = memory.state == DOWN, look.state == DOWN
    changed = memory.state != UNKNOWN and was_bad != is_bad
    return replace(
        memory,
        state=look.state,
        since=memory.first,
        words=look.words,
        why=look.why,
        pending="",
        count=0,
        first=0.0,
        changes=(*memory.changes[-MOST_CHANGES + 1 :], look.at) if changed else memory.changes,
        calm=0.0 if changed else memory.calm,
    )


def _flap(memory: Memory, now: float, rules: Settings) -> Memory:
    if memory.flapping is not None:
        if not memory.pending and memory.calm >= rules.flap_calm:
            return replace(memory, flapping=None, fell=0.0, looks=(), changes=())
        stays = memory.state == DOWN and not memory.pending and memory.calm >= _enough(memory, rules)
        # once: one that stays down again and again is told when it is calm
        return replace(memory, fell=memory.since) if stays and not memory.fell else memory
    since = now - rules.flap_window
    hard = sum(at >= since for at in memory.changes)
    single = sum(at >= since for at in memory.looks)
    # half of the looks that turn never become hard; twice as many of them say the same
    if hard >= rules.flap_changes or single >= 2 * rules.flap_changes:
        return replace(memory, flapping=now, calm=0.0)
    return memory


def _enough(memory: Memory, rules: Settings) -> float:
    """Seconds down after which that is no turn of the flapping any more. The last outage lies between two turns."""
    before = memory.looks[-2] - memory.looks[-3] if len(memory.looks) > 2 else 0.0
    return max(STAYS * rules.interval, LONGER * before)


def wavers(memory: Memory) -> bool:
    """Whether it flaps, and nothing better can be said of it: not that it has stayed down since."""
    return memory.flapping is not None and not (memory.state == DOWN and memory.fell == memory.since)


def patience(interval: float, timeout: float) -> float:
    """Seconds after which a subject that is looked at each ``interval`` isn't known any more."""
    return 2.5 * interval + timeout + GRACE


def shown(memory: Memory, now: float, limit: float) -> tuple[str, str]:
    """State and words as they may be shown: what was seen ``limit`` seconds ago (see ``patience``) isn't known now."""
    if memory.state == UNKNOWN:
        return UNKNOWN, memory.blind or "not looked at yet"
    if now - memory.seen <= limit:
        return memory.state, memory.words
    return UNKNOWN, f"not known since {texts.clock(memory.seen)}" + (f": {memory.blind}" if memory.blind else "")


def blind(memory: Memory, limit: float) -> float | None:
    """Since when looks were made in vain, if that is longer than ``limit`` seconds; None otherwise."""
    since = max(memory.seen, memory.since if memory.state == UNKNOWN else 0.0)
    return since if memory.blind and memory.checked - since > limit else None


def wants_recheck(memory: Memory) -> bool:
    """Whether the next look should come soon: the state is soft."""
    return bool(memory.pending)
