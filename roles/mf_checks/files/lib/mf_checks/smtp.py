"""check-smtp: a full SMTP transaction with qpsmtpd on loopback; busy is not dead.

The fast path is one dialogue. All further evidence, and the actions, are in ``smtp_diagnose``. Where STARTTLS is
offered, one run in fifteen minutes also makes a handshake (``starttls``), and so does the first run after each start of
the service and each run while it is broken: the fast path itself can't, because ``import ssl`` costs more than all of
it.
"""

from __future__ import annotations

import time

from mf import run, smtp, state

from .smtp_report import NAME, TLS_EVERY, TLS_GOOD, TLS_START, accepted, canary, service_start

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .smtp_diagnose import Diagnosis

PURPOSE = "Hold a full SMTP transaction with qpsmtpd on loopback; restart it when it is really broken."
RULES: run.Rules = {
    "address": str,  # IPv4 loopback, numeric
    "address6": str,  # IPv6 loopback, or empty: only its greeting is asked for, the rest is the same process
    "port": (1, 65535),
    "canary": str,  # recipient that qpsmtpd accepts from loopback and discards
    "unit": str,
    "children_max": (1, 10000),
    "dialogue": (1, 300),  # seconds until the greeting
    "patience": (8, 30),  # seconds for a whole dialogue once it was greeted
    "starttls": (0, 1),  # 1: it must be offered
    "certificate_days": (0, 365),  # before its end from which a certificate is warned of
}


def probe(places: state.Places, values: run.Values) -> state.Result | run.Diagnosis:
    """One dialogue over IPv4, one greeting over IPv6."""
    begun = time.monotonic()
    first = smtp.transaction(
        values["address"],
        values["port"],
        values["dialogue"],
        values["canary"],
        canary(values["canary"]),
        patience=values["patience"],
        silence=lambda local: serves(values["unit"], local),
    )
    if first.outcome == smtp.ACCEPTED:
        sixth = smtp.greeting(values["address6"], values["port"], 3.0) if values["address6"] else None
        if sixth is None or sixth.outcome == smtp.ACCEPTED:
            result = accepted(values["dialogue"], first)
            if sixth is not None:
                result.metrics["ipv6_seconds"] = round(sixth.seconds(), 6)
            if not (first.starttls or values["starttls"]):
                return result
            start = service_start(values["unit"])
            good_until = tls_good_until(places, start, state.boottime())
            if first.starttls and good_until:
                result.metrics[TLS_GOOD] = good_until
                result.metrics[TLS_START] = start
                return result
            return lambda dry_run: _diagnose(places, values, dry_run, begun).secured(result, offered=first.starttls)
    return lambda dry_run: _diagnose(places, values, dry_run, begun).result(first)


def _diagnose(places: state.Places, values: run.Values, dry_run: bool, begun: float) -> Diagnosis:
    from .smtp_diagnose import Diagnosis

    return Diagnosis(values, dry_run, places, begun)


def tls_good_until(places: state.Places, start: str, now: float) -> float:
    """Until when the last handshake still counts, in boot-time seconds; 0 when it doesn't.

    Read from the former result. It doesn't count when the service was started anew since, or when the slow path acted
    or reported a problem: then the next run makes a handshake.
    """
    before = run.former(places, NAME)["metrics"]
    until = before.get(TLS_GOOD)
    good = isinstance(until, (int, float)) and now < until < now + TLS_EVERY + 1 and before.get(TLS_START) == start
    return until if good else 0.0


def serves(unit: str, local: str) -> bool | None:
    """Whether a session's process still holds our connection. Asked, and imported, only after a silence."""
    from . import systemd

    return systemd.serves(unit, local)


CHECK = run.Check(NAME, probe, RULES, PURPOSE)
