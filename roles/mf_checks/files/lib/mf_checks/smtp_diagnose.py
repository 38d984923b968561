"""check-smtp's cold path: look behind the port, decide (``mf_checks.smtp_verdict``), act, test again.

A broken STARTTLS is CRITICAL and gets no action either: a restart mends no certificate. Mail still gets in from senders
that go on without. What ends before STARTTLS is said is a dialogue like any other, and judged as one.

An action needs the same class in a second look of the same run, taken under the host's action lock; the circuit
breaker's consent; no maintenance; time enough. It is logged before it begins. After it the check tests again before it
says that it works, and time for that is kept. A restart that did not cure a symptom is not tried again for the same one
before something has changed: it worked in between, or the service was started by somebody else, or another release.
"""

from __future__ import annotations

import posix
import time

from mf import decisions, maintenance, run, smtp, state
from mf.text import clean

from . import breaker, procfs, systemd
from .smtp import NAME, OK, TLS_EVERY, TLS_GOOD, TLS_START, accepted, report, service_start, session_of
from .smtp_verdict import (
    BUSY,
    RESTART,
    UNKNOWN,
    Finding,
    View,
    classify,
    confirmed,
    is_full,
    status_of,
    symptom,
    tls_verdict,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from . import starttls

# metrics that are carried from result to result
BUSY_SINCE = "busy_since_boottime"
UNCURED = "uncured"  # a symptom that a restart left as it was, with what has to change before the next one
LOCK_WAIT = 3.0
CONFIRM = 4.0  # seconds for the second dialogue with a frozen master, or a session whose process is gone
LEAST = 5.0  # seconds: an action that could be waited for no longer than that isn't begun
SPARE = 1.0  # seconds kept for writing down what came of it all
RETEST = 10.0  # seconds after an action in which the service has to work
OUR_PART = "qpsmtpd"  # the role whose files the service reads when it starts


class Examination:
    """The cold path: looks behind the port, looks again, decides, acts, tests again. A test replaces its hands."""

    def __init__(
        self, values: run.Values, dry_run: bool, places: state.Places | None = None, begun: float | None = None
    ) -> None:
        """``begun``: when the run did, on the monotonic clock, for its deadline counts from there."""
        self.values = values
        self.dry_run = dry_run
        self.places = places or state.Places()
        self.give_up = (time.monotonic() if begun is None else begun) + values["deadline"] - SPARE

    # hands

    def transaction(self, limit: float = 0.0) -> smtp.Dialogue:
        """A dialogue, in the seconds that the settings allow, or fewer."""
        values = self.values
        left = max(1.0, self.give_up - time.monotonic())
        return smtp.transaction(
            values["address"],
            values["port"],
            min(limit or values["dialogue"], left),
            values["canary"],
            patience=min(limit or values["patience"], left),
            silence=session_of(values),
        )

    def greets6(self) -> bool:
        """Whether IPv6 loopback greets; a host without IPv6 has nothing to answer for."""
        try:
            has_ipv6 = bool(state.read_bytes(self.places.proc + "/net/if_inet6", 1))
        except OSError:
            has_ipv6 = False
        values = self.values
        return (
            not has_ipv6
            or smtp.greeting(values["address6"], values["port"], values["dialogue"]).outcome == smtp.ACCEPTED
        )

    def handshake(self) -> starttls.Attempt:
        """STARTTLS, in earnest."""
        from . import starttls

        values = self.values
        return starttls.attempt(values["address"], values["port"], values["dialogue"])

    def view(self) -> View:
        """Unit, master, children and listening socket as they are now. Raises ServiceError."""
        proc = self.places.proc
        unit = systemd.show(self.values["unit"])
        held = systemd.listeners(self.values["address"], self.values["port"], proc)
        owned = [systemd.owns(unit.pid, one, proc) for one in held] if unit.pid else [False]
        master = procfs.read_stat(unit.pid, proc) if unit.pid else None
        pulse = systemd.pulse(unit.pid, proc) if unit.pid else systemd.FROZEN
        return View(
            unit.active,
            pid=unit.pid,
            ticks=pulse == systemd.TICKS,
            hindrance=pulse if pulse in (systemd.BLOCKED, systemd.STARVED) else "",
            children=sum(1 for one in procfs.scan(proc) if one.parent == unit.pid) if unit.pid else 0,
            listening=bool(held),
            ours=None if None in owned else any(owned),
            waiting=sum(one.waiting for one in held),
            age=round(master.age(state.boottime()), 1) if master is not None else 0.0,
            outdated=0 < unit.started < self.released(),
            configured=any(
                line.split()[:1] == [b"mf_canary"]
                for line in self.read(f"{self.places.etc}/qpsmtpd/plugins").splitlines()
            ),
        )

    def released(self) -> float:
        """When a file of the service's role last changed, on CLOCK_MONOTONIC; 0 when that isn't known."""
        at = (state.decode(self.read(self.places.parts)) or {}).get(OUR_PART)
        return float(at) if isinstance(at, (int, float)) else 0.0

    @staticmethod
    def read(path: str) -> bytes:
        """A small file; empty when it can't be read."""
        try:
            return state.read_bytes(path, 65536) or b""
        except OSError:
            return b""

    def act(self, action: str, limit: float) -> None:
        """Do it, and wait for it ``limit`` seconds at most. Raises ServiceError."""
        (systemd.try_restart if action == "restart" else systemd.start)(self.values["unit"], limit)

    def left(self) -> float:
        """Seconds that an action may take, when there is to be time for a dialogue after it."""
        left: float = self.give_up - self.values["dialogue"] - time.monotonic()
        return left

    def maintenance(self) -> Mapping[str, object] | None:
        """The maintenance marker, when there is a valid one."""
        return maintenance.active(self.places)

    # order of events

    def secured(self, result: state.Result, *, offered: bool) -> state.Result:
        """A good result with what STARTTLS adds to it."""
        start = service_start(self.values["unit"])
        attempt = self.handshake() if offered else None
        if attempt is not None and attempt.before is not None:
            return self.examined(attempt.before)
        status, why = tls_verdict(offered, attempt, time.time(), self.values["certificate_days"])
        if attempt is not None:
            for stage in attempt.timings:
                if stage in ("starttls", "tls"):
                    result.metrics[f"{stage}_seconds"] = round(attempt.timings[stage], 6)
            if attempt.expires is not None:
                result.metrics["certificate_seconds"] = round(attempt.expires - time.time())
        if status == state.OK:
            result.metrics[TLS_GOOD] = round(state.boottime() + TLS_EVERY, 1)
            result.metrics[TLS_START] = start
        result.status = state.worst([result.status, status])
        result.summary += f"; {why}"
        return result

    def result(self, first: smtp.Dialogue) -> state.Result:
        """The check's result, with everything that was done."""
        if first.outcome == smtp.ACCEPTED:
            if self.greets6():
                result = accepted(self.values, first, "; IPv6 slow or absent")
            else:
                why = f"works over IPv4, but {self.values['address6']} doesn't greet"
                result = report(state.WARNING, OK, why, first)
            wanted = first.starttls or self.values["starttls"]
            return self.secured(result, offered=first.starttls) if wanted else result
        return self.examined(first)

    def examined(self, first: smtp.Dialogue) -> state.Result:
        """judged(), and where it can't be, UNKNOWN."""
        try:
            return self.judged(first)
        except systemd.ServiceError as error:
            why = f"{first.words()}; what stands behind can't be seen: {error}"
        except run.DeadlinePassed:
            why = f"did not finish within {self.values['deadline']:g} s; {first.words()}"
        result = report(state.UNKNOWN, UNKNOWN, why, first)
        result.metrics.update(self.remembered(BUSY_SINCE, UNCURED))
        return result

    def judged(self, first: smtp.Dialogue) -> state.Result:
        """Look behind the port; if that calls for an action, look again under the action lock. Raises ServiceError."""
        view = self.view()
        found = classify(first, view, self.values["children_max"])
        if not found.action:
            return self.said(found, first, view)
        # who is frozen, or gone, is so whatever else is said: the second look at that needs no full dialogue
        frozen = view.listening and not view.ticks
        limit = CONFIRM if frozen or (first.outcome == smtp.SILENT and first.session is False) else 0.0
        with state.Lock(self.places, state.ACTION, LOCK_WAIT) as held:
            if not self.dry_run:
                return self.confirm(found, limit, held)
        # who only looks keeps nobody from acting
        return self.confirm(found, limit, held)

    def confirm(self, first: Finding, limit: float, held: bool) -> state.Result:
        """The second look, and what follows from it. Raises ServiceError."""
        second = self.transaction(limit)
        view = self.view()
        found = confirmed(first, classify(second, view, self.values["children_max"]))
        if not found.action:
            return self.said(found, second, view)
        return self.heal(found, second, view, held)

    def said(self, found: Finding, dialogue: smtp.Dialogue, view: View) -> state.Result:
        """The result of a finding that gets no action."""
        now = state.boottime()
        kind = found.kind
        since = self.remembered(BUSY_SINCE) if kind in (BUSY, UNKNOWN) else {}
        if kind == BUSY:
            since = since or {BUSY_SINCE: round(now, 1)}
        began = since.get(BUSY_SINCE, now)
        busy_for = max(0.0, now - began) if isinstance(began, (int, float)) else 0.0
        summary = f"{kind}: {found.why}" if kind != OK else f"{found.why}, at the second look"
        if kind == BUSY and busy_for >= 60:
            summary += f" (for {busy_for / 60:.0f} min)"
        result = report(status_of(kind, busy_for), kind, summary, dialogue)
        result.metrics.update(since)
        if kind != OK:
            result.metrics.update(self.remembered(UNCURED))
        result.metrics["children"] = view.children
        result.metrics["waiting"] = view.waiting
        result.metrics["full"] = int(is_full(dialogue, view, self.values["children_max"]))
        return result

    def remembered(self, *names: str) -> dict[str, float | str]:
        """Metrics of the former result that are carried on: since when, on the boot-time clock, it has been BUSY, and
        what a restart didn't cure. Each lasts as long as results that aren't OK follow each other (BUSY: no other than
        BUSY and UNKNOWN, which says nothing about how it was).
        """
        now = state.boottime()
        before = state.decode(self.read(f"{self.places.results}/{NAME}.json")) or {}
        metrics, due = before.get("metrics"), before.get("next_due_boottime")
        # a result that is long past its time says nothing about the minutes between
        if not isinstance(metrics, dict) or not isinstance(due, (int, float)) or now >= due + 600:
            return {}
        found: dict[str, float | str] = {}
        since, uncured = metrics.get(BUSY_SINCE), metrics.get(UNCURED)
        if BUSY_SINCE in names and isinstance(since, (int, float)) and 0 < since <= now:
            found[BUSY_SINCE] = since
        if UNCURED in names and isinstance(uncured, str):
            found[UNCURED] = uncured
        return found

    def case(self, found: Finding, dialogue: smtp.Dialogue, view: View) -> str:
        """A symptom at this start of the service and this release: the same again is the same case."""
        try:
            release = posix.readlink(self.places.current).rpartition("/")[2]
        except OSError:
            release = ""
        return f"{symptom(found, dialogue, view)}; {service_start(self.values['unit'])}; {release}"

    def heal(self, found: Finding, dialogue: smtp.Dialogue, view: View, held: bool) -> state.Result:
        """Act, or say what forbids it."""
        unit = self.values["unit"]
        kind, why, action = found.kind, found.why, found.action
        result = self.said(found, dialogue, view)
        evidence = {
            "class": kind,
            "dialogue": dialogue.words(),
            "seconds": round(dialogue.seconds(), 2),
            "session": dialogue.session,
            **view.evidence(),
        }

        def log(outcome: str, reason: str) -> None:
            decisions.record(self.places, NAME, action, unit, reason, outcome, evidence)

        marker = self.maintenance()
        now = state.boottime()
        before = breaker.load(self.places, unit)
        allowed, after = breaker.ask(before, now)
        result.metrics["breaker"] = after.phase(now)
        obstacle = ""
        if marker is not None:
            obstacle = f"maintenance ({clean(str(marker.get('reason', '')), 60)})"
        elif not held:
            obstacle = "another action is under way on this host"
        elif self.remembered(UNCURED).get(UNCURED) == self.case(found, dialogue, view):
            obstacle = "a restart did not cure it; not tried again before something changes: see journalctl -u " + unit
        elif not allowed:
            minutes = max(1, round(((after.until or now) - now) / 60))
            obstacle = f"the circuit breaker is open for {minutes} more min: restarts don't help, or not for long"
        elif self.left() < LEAST:
            obstacle = "too little of this run's time is left"
        if self.dry_run:
            result.actions.append(
                f"would {action} {unit}" if not obstacle else f"would not {action} {unit}: {obstacle}"
            )
            return result
        if marker is None and held:
            unkept = self.keep(breaker.told(after, now, healed=False) if not obstacle else after)
            obstacle = obstacle or unkept
        if obstacle:
            log("refused", obstacle)
            result.summary += f"; no {action}: {obstacle}"
            result.actions.append(f"refused to {action} {unit}: {obstacle}")
            return result
        log("begun", why)
        failure = self.acted(action)
        again = self.retest() if not failure else dialogue
        if not failure and again.outcome == smtp.ACCEPTED:
            self.keep(breaker.told(after, now, healed=True))
            log("done", why)
            done = report(state.WARNING, kind, f"{action}ed, works again; it was {kind}: {why}", again)
            done.metrics["breaker"] = breaker.CLOSED
            done.actions.append(f"{action}ed {unit}: {why}")
            return done
        problem = failure or f"still not working after it: {again.words()}"
        log("failed", f"{why}; {problem}")
        if action == RESTART and not failure:
            result.metrics[UNCURED] = self.case(found, dialogue, view)
        result.status = state.CRITICAL
        result.summary += f"; {action}: {problem}"
        result.actions.append(f"{action} of {unit} failed: {problem}")
        return result

    def acted(self, action: str) -> str:
        """Do it; what went wrong, or nothing."""
        try:
            self.act(action, max(1.0, self.left()))
        except systemd.ServiceError as error:
            return str(error)
        return ""

    def retest(self) -> smtp.Dialogue:
        """Dialogues until one is accepted: a unit of Type=exec counts as started before it listens."""
        give_up = min(time.monotonic() + RETEST, self.give_up)
        while True:
            dialogue = self.transaction()
            if dialogue.outcome == smtp.ACCEPTED or time.monotonic() >= give_up:
                return dialogue
            time.sleep(0.3)

    def keep(self, after: breaker.Breaker) -> str:
        """Store the breaker; what went wrong, or nothing. One that can't remember would let restarts go on for ever."""
        try:
            breaker.save(self.places, self.values["unit"], after)
        except OSError as error:
            return f"the circuit breaker can't be stored, neither on disk nor in /run: {error.strerror}"
        return ""
