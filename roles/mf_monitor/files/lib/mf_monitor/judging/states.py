"""The state of one subject, from single probe results: soft and hard states, success threshold, flap damping. Pure.

A result that contradicts the confirmed state makes the state *soft*; so many in a row
(``failure_threshold``, ``success_threshold``) make it *hard*, and only hard states are confirmed, shown and alerted.
A subject that keeps changing is *flapping*: one message reports it, another that it stays down, or has been calm for a
while. What no probe has seen for longer than its ``patience`` is unknown (``shown``), whatever is confirmed.
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
HELD = "held"  # by an operator, until an operator ends it
PART = "part"  # it concerns a part of the fleet only
CONNECTIVITY = "uplink"  # the subject of the connectivity check, in the store as well
MOST_CHANGES = 40  # remembered
GRACE = 30.0  # seconds that a busy monitor may be late
STAYS = 2.0  # intervals without a good result after which what flapped is down
LONGER = 1.5  # times as long as it was down before, or that is the next turn of the flapping


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """One observation of a subject: ``started`` and ``finished`` in epoch seconds, ``latency`` in ms."""

    subject: str
    started: float
    finished: float
    state: str
    message: str
    reason: str = ""
    latency: float | None = None
    expires: float | None = None
    level: int | None = None  # see ``Problem``


@dataclass(frozen=True, slots=True)
class SubjectState:
    """The confirmed state of a subject. ``soft``: an unconfirmed one, seen ``count`` times since ``first``."""

    state: str = UNKNOWN
    since: float = 0.0
    message: str = ""
    reason: str = ""
    soft: str = ""
    count: int = 0
    first: float = 0.0
    silent: bool = False
    bad: bool = False  # by the last result
    turns: tuple[float, ...] = ()  # when single results turned from good to bad or back
    changes: tuple[float, ...] = ()  # when the hard state did
    flapping: float | None = None  # since when
    fell: float = 0.0  # since when it was down when it first stayed down while it flapped
    calm: float = 0.0  # seconds that were watched in which nothing turned
    checked: float = 0.0  # the last probe
    seen: float = 0.0  # the last probe that saw anything
    blind: str = ""  # why the last probe saw nothing
    latency: float | None = None
    expires: float | None = None
    level: int | None = None

    def as_json(self) -> dict[str, Any]:
        """For the store."""
        return stored(self, _KEYS)

    @staticmethod
    def of(row: Mapping[str, Any]) -> SubjectState:
        """From the store."""
        return restored(SubjectState, {"seen": row.get("checked", 0.0), **row}, _KEYS)


_KEYS = {"message": "words", "reason": "why", "soft": "pending", "turns": "looks"}  # in the store, where they differ


def stored(value: Any, keys: Mapping[str, str]) -> dict[str, Any]:
    """A dataclass's object as JSON; ``keys``: field to key where they differ."""
    return {keys.get(name, name): field for name, field in asdict(value).items()}


def restored(kind: type[T], row: Mapping[str, Any], keys: Mapping[str, str]) -> T:
    """An object of a dataclass from its JSON; a field without a key there gets its default."""
    names = {keys.get(item.name, item.name): item.name for item in fields(kind)}  # type: ignore[arg-type]
    return kind(**{names[key]: tuple(v) if isinstance(v, list) else v for key, v in row.items() if key in names})


def needed(confirmed: str, result: ProbeResult, rules: Settings) -> int:
    """Number of results in a row that confirm this state."""
    if result.state == DOWN or result.reason == UNREAD:
        return rules.failure_threshold
    if confirmed == DOWN and result.state in (UP, WARNING):
        return rules.success_threshold
    # a lease or a certificate was read; that is no matter of luck
    return 1


def advance(current: SubjectState, result: ProbeResult, rules: Settings) -> SubjectState:
    """The state after one more result. A result that saw nothing (unknown) changes nothing that is confirmed."""
    if result.state == UNKNOWN:
        never = current.state == UNKNOWN and not current.since
        return replace(
            current, checked=result.finished, blind=result.message, since=result.started if never else current.since
        )
    bad = result.state == DOWN
    turned = current.checked > 0 and current.state != UNKNOWN and bad != current.bad
    turns = (*current.turns[-MOST_CHANGES + 1 :], result.finished) if turned else current.turns
    # a monitor that was offline or away saw nothing: that is no calm
    watched = (
        min(max(0.0, result.finished - current.seen), patience(rules.interval, rules.timeout)) if current.seen else 0.0
    )
    current = replace(
        current,
        checked=result.finished,
        seen=result.finished,
        blind="",
        latency=result.latency,
        silent=result.reason == SILENT,
        bad=bad,
        turns=turns,
        calm=0.0 if turned else current.calm + watched,
        expires=result.expires if result.expires is not None else current.expires,
    )
    if result.state == current.state:
        current = replace(
            current, soft="", count=0, first=0.0, message=result.message, reason=result.reason, level=result.level
        )
    else:
        count, first = (current.count + 1, current.first) if current.soft == result.state else (1, result.started)
        current = replace(current, soft=result.state, count=count, first=first)
        if count >= needed(current.state, result, rules):
            current = _confirm(current, result)
    return _flap(current, result.finished, rules)


def _confirm(current: SubjectState, result: ProbeResult) -> SubjectState:
    was_bad, is_bad = current.state == DOWN, result.state == DOWN
    changed = current.state != UNKNOWN and was_bad != is_bad
    return replace(
        current,
        state=result.state,
        since=current.first,
        message=result.message,
        reason=result.reason,
        level=result.level,
        soft="",
        count=0,
        first=0.0,
        changes=(*current.changes[-MOST_CHANGES + 1 :], result.finished) if changed else current.changes,
        calm=0.0 if changed else current.calm,
    )


def _flap(current: SubjectState, now: float, rules: Settings) -> SubjectState:
    if current.flapping is not None:
        if not current.soft and current.calm >= rules.flap_calm:
            return replace(current, flapping=None, fell=0.0, turns=(), changes=())
        stays = current.state == DOWN and not current.soft and current.calm >= _enough(current, rules)
        # once: a subject that stays down again and again is notified when it is calm
        return replace(current, fell=current.since) if stays and not current.fell else current
    since = now - rules.flap_window
    hard = sum(at >= since for at in current.changes)
    single = sum(at >= since for at in current.turns)
    # half of the results that turn never become hard; twice as many of them count the same
    if hard >= rules.flap_changes or single >= 2 * rules.flap_changes:
        return replace(current, flapping=now, calm=0.0)
    return current


def _enough(current: SubjectState, rules: Settings) -> float:
    """Seconds down after which that is no turn of the flapping any more. The last outage lies between two turns."""
    before = current.turns[-2] - current.turns[-3] if len(current.turns) > 2 else 0.0
    return max(STAYS * rules.interval, LONGER * before)


def wavers(current: SubjectState) -> bool:
    """Whether it flaps, and has not stayed down since."""
    return current.flapping is not None and not (current.state == DOWN and current.fell == current.since)


def patience(interval: float, timeout: float) -> float:
    """Seconds after which a subject that is probed each ``interval`` isn't known any more."""
    return 2.5 * interval + timeout + GRACE


def shown(current: SubjectState, now: float, limit: float) -> tuple[str, str]:
    """State and message to show: what was last seen ``limit`` seconds ago (see ``patience``) isn't known any more."""
    if current.state == UNKNOWN:
        return UNKNOWN, current.blind or "not probed yet"
    if now - current.seen <= limit:
        return current.state, current.message
    return UNKNOWN, f"not known since {texts.clock(current.seen)}" + (f": {current.blind}" if current.blind else "")


def blind(current: SubjectState, limit: float) -> float | None:
    """Since when probes were made in vain, if that is longer than ``limit`` seconds; None otherwise."""
    since = max(current.seen, current.since if current.state == UNKNOWN else 0.0)
    return since if current.blind and current.checked - since > limit else None
