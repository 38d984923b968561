"""check-smtp's cold path: look behind the port, decide, act, test again.

What is seen gets one of these classes, and only two of them an action:

=======  =================================================================  =====================
OK       the canary was accepted                                            none
BUSY     a 4xx; child limit reached while the master ticks; slow; the unit  none, ever; CRITICAL
         is just being started or stopped, or has been for less than 30 s;  after 10 minutes
         the master waits for a disk or gets no CPU: the host is overloaded
WEDGED   master frozen; connections stand unaccepted below the child        try-restart
         limit; wrong answers; silence after the final dot
DOWN     nothing listens and the unit has failed                            reset-failed, start
STOPPED  nothing listens and somebody has stopped the unit                  none, CRITICAL
FOREIGN  another program holds the port                                     none, CRITICAL
UNKNOWN  this host couldn't even ask (no descriptors, no memory, no route)  none, UNKNOWN
=======  =================================================================  =====================

A broken STARTTLS is CRITICAL and gets no action either: a restart mends no certificate. Mail still gets in from senders
that go on without. What ends before STARTTLS is said is a dialogue like any other, and judged as one.

An action needs the same class in a second look of the same run, taken under the host's action lock; the circuit
breaker's consent; no maintenance; time enough. It is logged before it begins. After it the check tests again before it
says that it works, and time for that is kept.
"""

from __future__ import annotations

import time

from .. import breaker, decisions, maintenance, processes, run, service, smtp, state
from ..text import clean
from .smtp import NAME, OK, TLS_EVERY, TLS_GOOD, TLS_START, report, service_start

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from .. import starttls

BUSY, WEDGED, DOWN, STOPPED, FOREIGN, UNKNOWN = "BUSY", "WEDGED", "DOWN", "STOPPED", "FOREIGN", state.UNKNOWN
ACTIONS = {WEDGED: "restart", DOWN: "start"}
BUSY_SINCE = "busy_since_boottime"
BUSY_LIMIT = 600.0  # seconds until BUSY becomes CRITICAL
LOCK_WAIT = 3.0
CONFIRM = 4.0  # seconds for the second dialogue with a frozen master
STARTING = 30.0  # seconds a master may take until it listens: with Type=exec the unit counts as active at once
LEAST = 5.0  # seconds: an action that could be waited for no longer than that isn't begun
SPARE = 1.0  # seconds kept for writing down what came of it all
RETEST = 10.0  # seconds after an action in which the service has to work
CERTIFICATE_WARNING = 14 * 86400.0  # seconds before its end from which a certificate is warned of


class View:
    """What stands behind the port at one moment.

    ``ours``: does the master hold it; None when that can't be known. ``age``: seconds since the master was created.
    ``hindrance``: why it doesn't tick, when that is the host's doing. ``children``: zombies too, for a child takes its
    slot until the master has reaped it.
    """

    __slots__ = ("active", "age", "children", "hindrance", "listening", "ours", "pid", "ticks", "waiting")

    def __init__(
        self,
        active: str = "active",
        *,
        pid: int = 0,
        ticks: bool = True,
        children: int = 0,
        listening: bool = True,
        ours: bool | None = True,
        waiting: int = 0,
        age: float = 3600.0,
        hindrance: str = "",
    ) -> None:
        self.active = active
        self.pid = pid
        self.ticks = ticks
        self.children = children
        self.listening = listening
        self.ours = ours
        self.waiting = waiting
        self.age = age
        self.hindrance = hindrance

    def evidence(self) -> dict[str, state.Json]:
        """For the decision log."""
        return {name: getattr(self, name) for name in self.__slots__}


def classify(dialogue: smtp.Dialogue, view: View, children_max: int, limit: float) -> tuple[str, str]:
    """``(class, why)`` of one look. ``limit`` is the seconds the dialogue had. Pure."""
    if dialogue.outcome == smtp.ACCEPTED:
        return OK, dialogue.words()
    if dialogue.outcome == smtp.UNTRIED:
        return UNKNOWN, dialogue.words()
    if view.active not in ("active", "failed", "inactive"):
        return BUSY, f"the unit is {view.active}"
    if not view.listening:
        if view.active == "active" and view.age < STARTING:
            return BUSY, f"nothing listens yet: the master was started {view.age:.0f} s ago"
        if view.active == "active":
            return WEDGED, "the unit runs but nothing listens"
        if view.active == "failed":
            return DOWN, "nothing listens and the unit has failed"
        return STOPPED, "nothing listens; the unit was stopped by somebody, or never started"
    if view.active != "active" or view.ours is False:
        return FOREIGN, f"another program holds the port; the unit is {view.active}"
    if view.hindrance and not view.ticks:
        return BUSY, f"the master {view.hindrance}: this host is overloaded; {dialogue.words()}"
    if not view.ticks:
        return WEDGED, f"the master is frozen; {dialogue.words()}"
    if dialogue.outcome == smtp.TEMPORARY:
        return BUSY, dialogue.words()
    if dialogue.outcome != smtp.SILENT:
        return WEDGED, dialogue.words()
    if dialogue.stage in ("connect", "greeting"):
        if view.children >= children_max:
            return BUSY, f"no greeting: all {children_max} child slots are taken, the master ticks"
        if view.waiting > 0:
            return (
                WEDGED,
                f"{view.waiting} connections stand unaccepted with {view.children} of {children_max} children",
            )
        return BUSY, "a child accepted the connection but is slow to greet"
    if dialogue.stage == "message" and dialogue.stall() >= limit / 2:
        return WEDGED, "silence after the final dot"
    return BUSY, f"slow: {dialogue.words()}"


def confirmed(first: str, second: str) -> str:
    """The class two looks agree on: an action needs the same one twice, else the second look counts as BUSY. Pure."""
    if second in ACTIONS and first != second:
        return BUSY
    return second


def status_of(kind: str, busy_for: float) -> str:
    """The status word of a class that got no action. Pure."""
    if kind == OK:
        return state.OK
    if kind == UNKNOWN:
        return state.UNKNOWN
    if kind == BUSY:
        return state.CRITICAL if busy_for >= BUSY_LIMIT else state.WARNING
    return state.CRITICAL


def tls_verdict(offered: bool, attempt: starttls.Attempt | None, epoch: float) -> tuple[str, str]:
    """``(status, words)`` of STARTTLS as a sender would meet it. Pure."""
    if not offered or attempt is None:
        return state.CRITICAL, "STARTTLS isn't offered though it is configured: can its certificate be read?"
    if attempt.problem:
        return state.CRITICAL, f"STARTTLS is offered and broken: {attempt.problem}"
    if attempt.expires is not None and attempt.expires - epoch < CERTIFICATE_WARNING:
        days = (attempt.expires - epoch) / 86400
        if days <= 0:
            return state.CRITICAL, f"the certificate ended {-days:.0f} days ago"
        return state.WARNING, f"the certificate ends in {days:.0f} days"
    return state.OK, "TLS works"


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
        return smtp.transaction(values["address"], values["port"], limit or values["dialogue"], values["canary"])

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
        from .. import starttls

        values = self.values
        return starttls.attempt(values["address"], values["port"], values["dialogue"])

    def view(self) -> View:
        """Unit, master, children and listening socket as they are now. Raises ServiceError."""
        proc = self.places.proc
        unit = service.show(self.values["unit"])
        held = service.listeners(self.values["address"], self.values["port"], proc)
        owned = [service.owns(unit.pid, one, proc) for one in held] if unit.pid else [False]
        master = processes.read_stat(unit.pid, proc) if unit.pid else None
        pulse = service.pulse(unit.pid, proc) if unit.pid else service.FROZEN
        return View(
            unit.active,
            pid=unit.pid,
            ticks=pulse == service.TICKS,
            hindrance=pulse if pulse in (service.BLOCKED, service.STARVED) else "",
            children=sum(1 for one in processes.scan(proc) if one.parent == unit.pid) if unit.pid else 0,
            listening=bool(held),
            ours=None if None in owned else any(owned),
            waiting=sum(one.waiting for one in held),
            age=round(master.age(state.boottime()), 1) if master is not None else 0.0,
        )

    def act(self, action: str, limit: float) -> None:
        """Do it, and wait for it ``limit`` seconds at most. Raises ServiceError."""
        (service.try_restart if action == "restart" else service.start)(self.values["unit"], limit)

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
        status, why = tls_verdict(offered, attempt, time.time())
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
                result = report(state.OK, OK, f"canary accepted in {first.seconds():.3f} s; IPv6 slow or absent", first)
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
        except service.ServiceError as error:
            why = f"{first.words()}; what stands behind can't be seen: {error}"
        except run.DeadlinePassed:
            why = f"did not finish within {self.values['deadline']:g} s; {first.words()}"
        result = report(state.UNKNOWN, UNKNOWN, why, first)
        result.metrics.update(self.busy_since())
        return result

    def judged(self, first: smtp.Dialogue) -> state.Result:
        """Look behind the port; if that calls for an action, look again under the action lock. Raises ServiceError."""
        view = self.view()
        kind, why = self.classify(first, view)
        if kind not in ACTIONS:
            return self.said(kind, why, first, view)
        with state.Lock(self.places, state.ACTION, LOCK_WAIT) as held:
            if not self.dry_run:
                return self.confirm(kind, view, held)
        # who only looks keeps nobody from acting
        return self.confirm(kind, view, held)

    def confirm(self, kind: str, view: View, held: bool) -> state.Result:
        """The second look, and what follows from it. Raises ServiceError."""
        # who is frozen is so whatever it says or doesn't: the second look at that needs no full dialogue
        second = self.transaction(0.0 if view.ticks or not view.listening else CONFIRM)
        view = self.view()
        kind2, why = self.classify(second, view)
        kind = confirmed(kind, kind2)
        if kind not in ACTIONS:
            return self.said(kind, why, second, view)
        return self.heal(kind, why, second, view, held)

    def classify(self, dialogue: smtp.Dialogue, view: View) -> tuple[str, str]:
        """classify() with this host's limits."""
        return classify(dialogue, view, self.values["children_max"], self.values["dialogue"])

    def said(self, kind: str, why: str, dialogue: smtp.Dialogue, view: View) -> state.Result:
        """The result of a class that gets no action."""
        now = state.boottime()
        since = self.busy_since() if kind in (BUSY, UNKNOWN) else {}
        if kind == BUSY:
            since = since or {BUSY_SINCE: round(now, 1)}
        busy_for = now - since.get(BUSY_SINCE, now)
        summary = f"{kind}: {why}" if kind != OK else f"{why}, at the second look"
        if kind == BUSY and busy_for >= 60:
            summary += f" (for {busy_for / 60:.0f} min)"
        result = report(status_of(kind, busy_for), kind, summary, dialogue)
        result.metrics.update(since)
        result.metrics["children"] = view.children
        result.metrics["waiting"] = view.waiting
        return result

    def busy_since(self) -> dict[str, float]:
        """The metric that says since when, on the boot-time clock, it has been BUSY; nothing when it wasn't.

        Carried from result to result while all are BUSY or UNKNOWN, which says nothing about how it was.
        """
        now = state.boottime()
        try:
            before = state.decode(state.read_bytes(f"{self.places.results}/{NAME}.json", 65536)) or {}
        except OSError:
            before = {}
        metrics = before.get("metrics")
        due = before.get("next_due_boottime")
        since = metrics.get(BUSY_SINCE) if isinstance(metrics, dict) else None
        # a result that is long past its time says nothing about the minutes between
        fresh = isinstance(due, (int, float)) and now < due + 600
        if fresh and isinstance(since, (int, float)) and 0 < since <= now:
            return {BUSY_SINCE: since}
        return {}

    def heal(self, kind: str, why: str, dialogue: smtp.Dialogue, view: View, held: bool) -> state.Result:
        """Act, or say what forbids it."""
        unit = self.values["unit"]
        action = ACTIONS[kind]
        result = self.said(kind, why, dialogue, view)
        evidence = {
            "class": kind,
            "dialogue": dialogue.words(),
            "seconds": round(dialogue.seconds(), 2),
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
        result.status = state.CRITICAL
        result.summary += f"; {action}: {problem}"
        result.actions.append(f"{action} of {unit} failed: {problem}")
        return result

    def acted(self, action: str) -> str:
        """Do it; what went wrong, or nothing."""
        try:
            self.act(action, max(1.0, self.left()))
        except service.ServiceError as error:
            return str(error)
        return ""

    def retest(self) -> smtp.Dialogue:
        """Dialogues until one is accepted: a unit of Type=exec counts as started before it listens."""
        give_up = min(time.monotonic() + RETEST, self.give_up)
        while True:
            dialogue = self.transaction(max(1.0, min(self.values["dialogue"], self.give_up - time.monotonic())))
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
