"""The circuit breaker of automatic restarts: a repair that keeps failing must stop by itself, and try again by itself.

Closed: restarts are allowed, up to each of ``LIMITS``: so many in so many seconds, whether they helped or not. The
second limit catches a service that heals and relapses slowly. One more opens it: no restart for a back-off that
doubles each time it opens again (``BACKOFF`` to ``LONGEST``). Then it is half-open: one restart is allowed; if that
heals, the breaker closes, if not, it opens again at once. After ``CALM`` seconds without a restart the back-off
starts small again. The terms are those of M. Nygard, "Release It!".

Times are CLOCK_BOOTTIME seconds, so a clock step changes nothing; across a reboot they are shifted by the wall clock
(never into the future). boot_id stays the same when a container reboots, so a token on tmpfs identifies the boot.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

from mf import claims, state

LIMITS = ((3, 900.0), (6, 2 * 3600.0))
MOST = max(limit for limit, _ in LIMITS)  # restarts that need to be stored
BACKOFF = 900.0
LONGEST = 4 * 3600.0
CALM = 2 * 3600.0

CLOSED, OPEN, HALF_OPEN = "closed", "open", "half-open"


@dataclass
class Breaker:
    """``restarts``: when (boot-time seconds, oldest first); ``opened``: times in a row; ``until``: open till then."""

    restarts: tuple[float, ...] = ()
    opened: int = 0
    until: float | None = None

    def phase(self, now: float) -> str:
        """closed, open or half-open."""
        if self.until is None:
            return CLOSED
        return OPEN if now < self.until else HALF_OPEN


def ask(breaker: Breaker, now: float) -> tuple[bool, Breaker]:
    """Whether a restart is allowed now, and the breaker afterwards (asking may open it)."""
    phase = breaker.phase(now)
    if phase == OPEN:
        return False, breaker
    if phase == HALF_OPEN:
        return True, breaker
    if all(sum(now - at < window for at in breaker.restarts) < limit for limit, window in LIMITS):
        calm = not breaker.restarts or now - breaker.restarts[-1] >= CALM
        return True, Breaker(breaker.restarts, 0 if calm else breaker.opened)
    return False, _open(breaker, now)


def after_restart(breaker: Breaker, now: float, healed: bool) -> Breaker:
    """The breaker after a restart that healed, or did not."""
    kept = (*breaker.restarts, now)[-MOST:]
    after = Breaker(kept, breaker.opened, breaker.until)
    if breaker.until is None:
        return after
    if healed:
        return Breaker((now,), breaker.opened)
    return _open(after, now)


def _open(breaker: Breaker, now: float) -> Breaker:
    length = min(LONGEST, BACKOFF * 2.0 ** min(breaker.opened, 16))
    return Breaker(breaker.restarts, breaker.opened + 1, now + length)


def load(places: state.Places, unit: str) -> Breaker:
    """The stored breaker of a unit; a new one when there is none or it is damaged."""
    newest: dict[str, object] = {}
    token, now = state.boot_token(places) or "unknown", state.boottime()
    for path in _paths(places):
        record = state.load(path).get(unit)
        if isinstance(record, dict) and _written(record, token, now) > _written(newest, token, now):
            newest = record
    return parse(newest, token, now, time.time())


def save(places: state.Places, unit: str, breaker: Breaker) -> None:
    """Store a unit's breaker so that it survives a reboot and a power cut. Raises OSError.

    Where /mf/var can't be written (full, read-only) it is kept on tmpfs: restarts are still counted, until a reboot.
    """
    record = form(breaker, state.boot_token(places) or "unknown", state.boottime(), time.time())
    durable = True
    for path in _paths(places):
        try:
            stored = dict(state.decode(state.read_bytes(path, 65536)) or {})
            stored[unit] = record
            data = (state.encode(stored) + "\n").encode()
            state.put(path, data, durable=durable)
        except OSError:
            if not durable:
                raise
            durable = False
        else:
            return


def _paths(places: state.Places) -> tuple[str, str]:
    return f"{places.persistent}/breaker.json", f"{places.results}/breaker.fallback"


def _written(record: Mapping[str, object], token: str, now: float) -> tuple[bool, float]:
    """Time of writing a record, to compare: by this boot's clock, which can't be set, else by the wall clock."""

    def number(key: str) -> float:
        value = record.get(key)
        return value if isinstance(value, (int, float)) else -1.0

    if record.get("boot") == token and number("boottime") <= now + 1:
        return True, number("boottime")
    return False, number("epoch")


def form(breaker: Breaker, token: str, boottime: float, epoch: float) -> dict[str, state.Json]:
    """The breaker as it is stored."""
    return {
        "restarts": [round(at, 1) for at in breaker.restarts],
        "opened": breaker.opened,
        "until": None if breaker.until is None else round(breaker.until, 1),
        "boot": token,
        "boottime": round(boottime, 1),
        "epoch": round(epoch, 1),
    }


def parse(record: Mapping[str, object], token: str, boottime: float, epoch: float) -> Breaker:
    """A stored breaker in terms of this boot's clock. Garbage gives a new one: the limit then starts anew."""

    def number(value: object) -> float:
        if not claims.is_time(value):
            raise ValueError
        return float(value)

    try:
        restarts, until = record["restarts"], record["until"]
        if not isinstance(restarts, list):
            raise ValueError
        shift = 0.0
        if record["boot"] != token:
            away = max(0.0, epoch - number(record["epoch"]))
            shift = boottime - away - number(record["boottime"])
        times = sorted(min(boottime, number(at) + shift) for at in restarts[-MOST:])
        end = None if until is None else min(number(until) + shift, boottime + LONGEST)
        return Breaker(tuple(times), int(min(64, max(0, number(record["opened"])))), end)
    except (KeyError, ValueError):
        return Breaker()
