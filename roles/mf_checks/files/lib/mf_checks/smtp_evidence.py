"""check-smtp's evidence beyond its first dialogue: the unit behind the port, IPv6, TLS. Slow path."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from mf import run, smtp, state

from . import procfs, smtp_report, systemd
from .smtp_verdict import View

if TYPE_CHECKING:
    from . import starttls

OUR_PART = "qpsmtpd"  # the role whose files the service reads when it starts


class Evidence:
    """Evidence on the service, until ``give_up`` on the monotonic clock at the latest."""

    def __init__(self, values: run.Values, places: state.Places, give_up: float) -> None:
        self.values = values
        self.places = places
        self.give_up = give_up

    def transaction(self, limit: float = 0.0) -> smtp.Dialogue:
        """A dialogue, in the seconds of the settings, or fewer."""
        values = self.values
        left = max(1.0, self.give_up - time.monotonic())
        return smtp.transaction(
            values["address"],
            values["port"],
            min(limit or values["dialogue"], left),
            values["canary"],
            smtp_report.canary(values["canary"]),
            patience=min(limit or values["patience"], left),
            silence=lambda local: systemd.serves(values["unit"], local),
        )

    def greets6(self) -> bool:
        """Whether IPv6 loopback greets; a host without IPv6 needs no greeting."""
        values = self.values
        if not state.content(self.places.proc + "/net/if_inet6"):
            return True
        greeting = smtp.greeting(values["address6"], values["port"], values["dialogue"])
        return greeting.outcome == smtp.ACCEPTED

    def handshake(self) -> starttls.Attempt:
        """A TLS handshake. Imports ssl, which is slow, only now."""
        from . import starttls

        return starttls.attempt(self.values["address"], self.values["port"], self.values["dialogue"])

    def view(self) -> View:
        """Unit, master, children and listening socket as they are now. Raises ServiceError."""
        proc = self.places.proc
        unit = systemd.show(self.values["unit"])
        sockets = systemd.listeners(self.values["address"], self.values["port"], proc)
        owned = [systemd.owns(unit.pid, listener, proc) for listener in sockets] if unit.pid else [False]
        master = procfs.read_stat(unit.pid, proc) if unit.pid else None
        pulse = systemd.pulse(unit.pid, proc) if unit.pid else systemd.FROZEN
        plugins = state.content(f"{self.places.etc}/qpsmtpd/plugins").splitlines()
        return View(
            unit.active,
            pid=unit.pid,
            ticks=pulse == systemd.TICKS,
            hindrance=pulse if pulse in (systemd.BLOCKED, systemd.STARVED) else "",
            children=sum(stat.parent == unit.pid for stat in procfs.scan(proc)) if unit.pid else 0,
            listening=bool(sockets),
            ours=None if None in owned else any(owned),
            waiting=sum(listener.waiting for listener in sockets),
            age=round(master.age(state.boottime()), 1) if master is not None else 0.0,
            outdated=0 < unit.started < self.released(),
            configured=any(line.split()[:1] == [b"mf_canary"] for line in plugins),
        )

    def released(self) -> float:
        """Last change of a file of the service's role, on CLOCK_MONOTONIC; 0 when unknown."""
        changed = state.load(self.places.parts).get(OUR_PART)
        return float(changed) if isinstance(changed, (int, float)) else 0.0
