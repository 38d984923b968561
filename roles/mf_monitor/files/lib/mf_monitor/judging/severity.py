"""Problems, and the severity of each, by its kind and by the role of its host. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ..settings import Host, Settings
from .states import EXPIRED, SubjectState

URGENT, NOTICE, PAGE = "urgent", "notice", "page"
DAY = 86400.0


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that is wrong. ``about``: the keys of other problems that are part of it."""

    key: str
    kind: str  # uplink fleet host service throttled warning health check unknown internal
    host: str
    service: str
    severity: str
    title: str
    since: float
    flapping: bool = False
    about: tuple[str, ...] = ()
    # Notified anew when it falls: MXs that accept mail, of the fleet's; a certificate's notices left; of check-refused
    # see ``judging.health``.
    level: int | None = None


def severity_of(kind: str, host: Host, way_in: bool = False) -> str:
    """The severity of a kind of problem: control urgent; an MX's mail service, or any host that is gone, a notice.

    ``way_in``: a service through which the host's own health is read.
    """
    if host.role == "control" and kind in ("host", "tcp", "ssh", "http", "https", "smtp", "relay"):
        return URGENT
    notice = way_in or kind in ("host", "health", "mx") or (host.role == "mx" and kind in ("smtp", "relay"))
    return NOTICE if notice else PAGE


def expiry(current: SubjectState, host: Host, settings: Settings, now: float) -> tuple[str, int | None]:
    """The severity of a certificate's warning, and how many notices are still to come; each is notified once."""
    ended = current.reason == EXPIRED
    left = current.expires - now if current.expires is not None else float("inf")
    to_come = sum(left > days * DAY for days in settings.cert_notice_days)
    if to_come < len(settings.cert_notice_days):
        return NOTICE, -1 if ended else to_come
    return (NOTICE if ended and host.role in ("mx", "control") else PAGE), None


def muted(problem: Problem) -> Problem:
    """The same of a host in maintenance."""
    return replace(problem, severity=PAGE, level=None)
