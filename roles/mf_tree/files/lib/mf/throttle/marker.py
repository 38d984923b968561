"""The marker /run/mf/throttled: the throttle's state for readers. Light enough for every job and for health.

``{"leases": [...], "refusing": true|false, "written": boottime}``; it lies in a directory of root's on tmpfs. A marker
whose leases have all expired counts as absent, and so does one that isn't whole: see ``lease`` for why that is safe.
"""

from __future__ import annotations

from .. import claims, state, text
from . import lease

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from .lease import Lease

REFUSING, THROTTLED, NOTHING = "refusing", "throttled", "nothing"  # the states in the stamp


class Marker(claims.Record):
    """The marker's content: the leases, and whether the firewall was really refusing when it was written."""

    __slots__ = ("leases", "refusing")

    def __init__(self, leases: tuple[Lease, ...] = (), refusing: bool = False) -> None:
        self.leases = leases
        self.refusing = refusing

    def encode(self, now: float) -> bytes:
        """The bytes of /run/mf/throttled; ``now`` is CLOCK_BOOTTIME."""
        record: dict[str, state.Json] = {
            "leases": [item.as_json() for item in self.leases],
            "refusing": self.refusing,
            "written": round(now, 3),
        }
        return (state.encode(record) + "\n").encode()


class Status:
    """The throttle as the marker shows it: valid ``leases``, and whether new connections are really refused.

    ``refusing`` without any lease that asks for it: the firewall's refusal couldn't be ended.
    """

    def __init__(self, leases: Sequence[Lease], refusing: bool, now: float) -> None:
        self.leases = lease.valid(leases, now)
        self.now = now
        # an expired lease's refusal was ended by the kernel; one without a lease in the marker wasn't yet
        self.refusing = refusing and (self.should_refuse or not any(item.refuse for item in leases))

    @property
    def throttled(self) -> bool:
        """Whether any lease is valid: IO-heavy work should wait."""
        return bool(self.leases)

    @property
    def should_refuse(self) -> bool:
        """Whether any valid lease asks for refusal."""
        return lease.refusal(self.leases, self.now) != 0

    @property
    def wrong(self) -> bool:
        """Whether the firewall doesn't do what the leases ask for."""
        return self.should_refuse != self.refusing

    @property
    def held(self) -> bool:
        """Whether one of the leases has no end."""
        return any(item.until is None for item in self.leases)

    def as_json(self) -> dict[str, state.Json]:
        """``{throttled, refusing, held, leases: [{owner, reason, refuse, held_seconds, left_seconds}]}``."""
        return {
            "throttled": self.throttled,
            "refusing": self.refusing,
            "held": self.held,
            "leases": [
                {
                    "owner": item.owner,
                    "reason": item.reason,
                    "refuse": item.refuse,
                    "held_seconds": round(self.now - item.since, 1),
                    "left_seconds": None if item.until is None else round(item.until - self.now, 1),
                }
                for item in self.leases
            ],
        }

    def describe(self) -> str:
        """One line for the operator."""
        if not self.leases:
            return "not throttled, but STILL refusing new mail" if self.refusing else "not throttled"
        if self.refusing:
            mode = "throttled, refusing new mail" if self.should_refuse else "throttled, STILL refusing new mail"
        elif self.should_refuse:
            mode = "throttled, but NOT refusing new mail as it should"
        else:
            mode = "throttled, accepting mail"
        return f"{mode}: " + "; ".join(describe_lease(item, self.now) for item in self.leases)


def describe_lease(item: Lease, now: float) -> str:
    """Owner, reason and time left of a lease."""
    until = "on hold" if item.until is None else f"{text.span(max(0.0, item.until - now))} left"
    return f"{item.owner} ({text.clean(item.reason, 80)}, {until})" if item.reason else f"{item.owner} ({until})"


def parse(data: bytes | None, now: float) -> Marker | None:
    """The marker in some bytes, or None when it isn't whole and plausible: then it counts as absent."""
    if data is None or len(data) > lease.MAX_BYTES:
        return None
    record = state.decode(data)
    if record is None or not isinstance(record.get("refusing"), bool):
        return None
    leases = lease.parse_leases(record.get("leases"), now)
    return None if leases is None else Marker(leases, record["refusing"] is True)


class Reading(claims.Record):
    """The marker as it was read: None when it isn't whole. ``damage`` is what is wrong with it, "" when there is none.

    ``lost``: what was in force, REFUSING or THROTTLED, when the marker went missing or was spoilt; "" otherwise.
    """

    __slots__ = ("damage", "lost", "marker")

    def __init__(self, marker: Marker | None, damage: str = "", lost: str = "") -> None:
        self.marker = marker
        self.damage = damage
        self.lost = lost

    def status(self, now: float) -> Status:
        """The throttle as the marker shows it."""
        marker = self.marker or Marker()
        return Status(marker.leases, marker.refusing, now)


def read(places: state.Places, now: float) -> Reading:
    """Read the marker and, when it isn't whole, the stamp. Needs no privilege, never raises."""
    reading = _read(places, now)
    # the stamp is written after the marker and removed before it: a lease taken just now has a marker by then
    return _read(places, now) if reading.lost else reading


def _read(places: state.Places, now: float) -> Reading:
    data, damage = state.read_plain(places.marker)
    marker = parse(data, now)
    if marker is not None:
        return Reading(marker)
    stamped = (state.read_plain(stamp(places))[0] or b"").decode("ascii", "replace").partition(" ")[0]
    return Reading(None, damage if data is None else "not whole", stamped if stamped in (REFUSING, THROTTLED) else "")


def current(places: state.Places) -> Status:
    """The throttle as it stands: one lstat(2) while there is no marker. Needs no privilege, never raises."""
    now = state.boottime()
    return Reading(parse(state.read_plain(places.marker)[0], now)).status(now)


def stamp(places: state.Places) -> str:
    """The file with the state that was in force when marker and firewall were last compared, and the time of it.

    One line, ``nothing 5123.250``: REFUSING, THROTTLED or NOTHING, and seconds of CLOCK_BOOTTIME.
    """
    return places.marker.rpartition("/")[0] + "/reconciled"
