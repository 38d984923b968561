"""check-smtp's slow path: collect evidence, decide (``mf_checks.smtp_verdict``), act, test again.

A broken STARTTLS is CRITICAL and gets no action: a restart mends no certificate. Mail still gets in from senders that
go on without TLS. A dialogue that ends before STARTTLS is judged like any other.

An action needs the same class in a second dialogue of the same run, under the host's action lock; a circuit breaker
that allows it; no maintenance; enough time (``mf_checks.healer``). It is logged before it begins. After it the check
tests again before it reports a success, and time for that is reserved. A restart that did not cure a symptom is not
tried again for the same symptom before something has changed: it worked in between, another program started the
service, or there is another release.
"""

from __future__ import annotations

import os
import time

from mf import maintenance, run, smtp, state

from . import breaker, systemd
from .healer import Healer
from .smtp_evidence import Evidence
from .smtp_report import NAME, OK, TLS_EVERY, TLS_GOOD, TLS_START, accepted, report, service_start
from .smtp_verdict import (
    BUSY,
    RESTART,
    UNKNOWN,
    Finding,
    View,
    classify,
    confirmed,
    is_full,
    is_slow,
    status_of,
    symptom,
    tls_verdict,
)

# metrics that are carried from result to result
BUSY_SINCE = "busy_since_boottime"
UNCURED = "uncured"  # a symptom that a restart left as it was, with the start and the release it belongs to
LOCK_WAIT = 3.0
CONFIRM = 4.0  # seconds for the second dialogue with a frozen master, or a session whose process is gone
SPARE = 1.0  # seconds reserved for storing the result
RETEST = 10.0  # seconds after an action in which the service has to work


class Diagnosis:
    """Collects evidence twice, decides, acts, tests again.

    ``begun``: when the run began, on the monotonic clock: its deadline counts from there.
    """

    def __init__(
        self,
        values: run.Values,
        dry_run: bool,
        places: state.Places,
        begun: float,
        evidence: Evidence | None = None,
    ) -> None:
        self.values = values
        self.dry_run = dry_run
        self.places = places
        self.give_up = begun + values["deadline"] - SPARE
        self.evidence = evidence or Evidence(values, places, self.give_up)

    def result(self, first: smtp.Dialogue) -> state.Result:
        """The check's result, with all actions."""
        if first.outcome != smtp.ACCEPTED:
            return self.diagnosed(first)
        if self.evidence.greets6():
            result = accepted(self.values["dialogue"], first, "; IPv6 slow or absent")
        else:
            why = f"works over IPv4, but {self.values['address6']} doesn't greet"
            result = report(state.WARNING, OK, why, first)
        wanted = first.starttls or self.values["starttls"]
        return self.secured(result, offered=first.starttls) if wanted else result

    def secured(self, result: state.Result, *, offered: bool) -> state.Result:
        """A good result, completed by the verdict on STARTTLS."""
        start = service_start(self.values["unit"])
        attempt = self.evidence.handshake() if offered else None
        if attempt is not None and attempt.before is not None:
            return self.diagnosed(attempt.before)
        status, why = tls_verdict(offered, attempt, time.time(), self.values["certificate_days"])
        if attempt is not None:
            for stage in attempt.timings:
                if stage in ("starttls", "tls"):
                    result.metrics[f"{stage}_seconds"] = round(attempt.timings[stage], 6)
            if attempt.expires is not None:
                result.metrics["certificate_seconds"] = round(attempt.expires - time.time())
            if status != state.OK and not attempt.problem:
                result.metrics[state.BUT_FOR_TIME] = result.status
        if status == state.OK:
            result.metrics[TLS_GOOD] = round(state.boottime() + TLS_EVERY, 1)
            result.metrics[TLS_START] = start
        result.status = state.worst([result.status, status])
        result.summary += f"; {why}"
        return result

    def diagnosed(self, first: smtp.Dialogue) -> state.Result:
        """The result of ``judged``; UNKNOWN when the evidence can't be collected."""
        try:
            return self.judged(first)
        except systemd.ServiceError as error:
            why = f"{first.describe()}; what stands behind can't be seen: {error}"
        except run.DeadlinePassed:
            why = f"did not finish within {self.values['deadline']:g} s; {first.describe()}"
        result = report(state.UNKNOWN, UNKNOWN, why, first)
        result.metrics.update(self.carried(BUSY_SINCE, UNCURED))
        return result

    def judged(self, first: smtp.Dialogue) -> state.Result:
        """Classify; for a class with an action, confirm it under the action lock. Raises ServiceError."""
        view = self.evidence.view()
        finding = classify(first, view, self.values["children_max"])
        if not finding.action:
            return self.reported(finding, first, view)
        # a frozen master, or a session that is gone, needs no full dialogue to be confirmed
        frozen = view.listening and not view.ticks
        limit = CONFIRM if frozen or (first.outcome == smtp.SILENT and first.session is False) else 0.0
        with self.places.lock(state.ACTION, LOCK_WAIT) as locked:
            if not self.dry_run:
                return self.confirm(finding, limit, locked)
        # a dry run keeps no other from acting
        return self.confirm(finding, limit, locked)

    def confirm(self, first: Finding, limit: float, locked: bool) -> state.Result:
        """The second dialogue, and the action if it confirms the first. Raises ServiceError."""
        second = self.evidence.transaction(limit)
        view = self.evidence.view()
        finding = confirmed(first, classify(second, view, self.values["children_max"]))
        if not finding.action:
            return self.reported(finding, second, view)
        return self.heal(finding, second, view, locked)

    def reported(self, finding: Finding, dialogue: smtp.Dialogue, view: View) -> state.Result:
        """The result of a finding that gets no action."""
        now = state.boottime()
        kind = finding.kind
        since = self.carried(BUSY_SINCE) if kind in (BUSY, UNKNOWN) else {}
        if kind == BUSY:
            since = since or {BUSY_SINCE: round(now, 1)}
        began = since.get(BUSY_SINCE, now)
        busy_for = max(0.0, now - began) if isinstance(began, (int, float)) else 0.0
        summary = f"{kind}: {finding.why}" if kind != OK else f"{finding.why}, at the confirmation probe"
        if kind == BUSY and busy_for >= 60:
            summary += f" (for {busy_for / 60:.0f} min)"
        result = report(status_of(kind, busy_for), kind, summary, dialogue)
        result.metrics.update(since)
        if kind != OK:
            result.metrics.update(self.carried(UNCURED))
        result.metrics["children"] = view.children
        result.metrics["waiting"] = view.waiting
        result.metrics["full"] = int(is_full(dialogue, view, self.values["children_max"]))
        result.metrics["slow"] = int(is_slow(finding, dialogue, view))
        return result

    def carried(self, *names: str) -> dict[str, float | str]:
        """Metrics carried over from the former result: since when, on the boot-time clock, it has been BUSY, and the
        symptom that a restart didn't cure. Each lasts as long as results that aren't OK follow each other (BUSY: no
        other than BUSY and UNKNOWN, which is no evidence).
        """
        now = state.boottime()
        before = run.former(self.places, NAME)
        metrics, due = before["metrics"], before.get("next_due_boottime")
        # a result that is long past its time is no evidence on the minutes between
        if not isinstance(due, (int, float)) or now >= due + 600:
            return {}
        kept: dict[str, float | str] = {}
        since, uncured = metrics.get(BUSY_SINCE), metrics.get(UNCURED)
        if BUSY_SINCE in names and isinstance(since, (int, float)) and 0 < since <= now:
            kept[BUSY_SINCE] = since
        if UNCURED in names and isinstance(uncured, str):
            kept[UNCURED] = uncured
        return kept

    def case(self, finding: Finding, dialogue: smtp.Dialogue, view: View) -> str:
        """A symptom at this start of the service and this release: the same again is the same case."""
        try:
            release = os.path.basename(os.readlink(self.places.current))
        except OSError:
            release = ""
        return f"{symptom(finding, dialogue, view)}; {service_start(self.values['unit'])}; {release}"

    def heal(self, finding: Finding, dialogue: smtp.Dialogue, view: View, locked: bool) -> state.Result:
        """Act, or report the obstacle."""
        unit, kind, why, action = self.values["unit"], finding.kind, finding.why, finding.action
        result = self.reported(finding, dialogue, view)
        evidence = {
            "class": kind,
            "dialogue": dialogue.describe(),
            "seconds": round(dialogue.seconds(), 2),
            "session": dialogue.session,
            **view.evidence(),
        }
        stored, marker = breaker.load(self.places, unit), maintenance.active(self.places)
        healer = Healer(self.places, NAME, unit, action, stored, marker, locked, evidence)
        result.metrics["breaker"] = healer.breaker.phase(healer.now)
        uncured = self.carried(UNCURED).get(UNCURED) == self.case(finding, dialogue, view)
        obstacle = healer.obstacle(uncured=uncured, left=self.left())
        if self.dry_run:
            result.actions.append(
                f"would {action} {unit}" if not obstacle else f"would not {action} {unit}: {obstacle}"
            )
            return result
        if obstacle := healer.count(obstacle):
            healer.log("refused", obstacle)
            result.summary += f"; no {action}: {obstacle}"
            result.actions.append(f"refused to {action} {unit}: {obstacle}")
            return result
        healer.log("begun", why)
        try:
            self.act(action, max(1.0, self.left()))
        except systemd.ServiceError as error:
            problem = str(error)
        else:
            again = self.retest()
            if again.outcome == smtp.ACCEPTED:
                healer.healed()
                healer.log("done", why)
                done = report(state.WARNING, kind, f"{action}ed, works again; it was {kind}: {why}", again)
                done.metrics["breaker"] = breaker.CLOSED
                done.actions.append(f"{action}ed {unit}: {why}")
                return done
            problem = f"still not working after it: {again.describe()}"
            if action == RESTART:
                result.metrics[UNCURED] = self.case(finding, dialogue, view)
        healer.log("failed", f"{why}; {problem}")
        result.status = state.CRITICAL
        result.summary += f"; {action}: {problem}"
        result.actions.append(f"{action} of {unit} failed: {problem}")
        return result

    def left(self) -> float:
        """Seconds that an action may take, when there is to be time for a dialogue after it."""
        left: float = self.give_up - self.values["dialogue"] - time.monotonic()
        return left

    def act(self, action: str, limit: float) -> None:
        """Do it, and wait for it ``limit`` seconds at most. Raises ServiceError."""
        (systemd.try_restart if action == RESTART else systemd.start)(self.values["unit"], limit)

    def retest(self) -> smtp.Dialogue:
        """Dialogues until one is accepted: a unit of Type=exec counts as started before it listens."""
        give_up = min(time.monotonic() + RETEST, self.give_up)
        while True:
            dialogue = self.evidence.transaction()
            if dialogue.outcome == smtp.ACCEPTED or time.monotonic() >= give_up:
                return dialogue
            time.sleep(0.3)
