"""check-smtp's verdict: one class for its evidence, and whether a restart can cure it. Pure. Slow path.

=======  =================================================================  =====================
OK       the canary was accepted                                            none
BUSY     a 4xx; child limit reached while the master ticks; slow, as with   none, ever; CRITICAL
         a filter that needs its time: silence while the session's process  after 10 minutes
         lives; the unit is just being started or stopped, or has been for
         less than 30 s; the master waits for a disk or gets no CPU: the
         host is overloaded
REFUSED  a 5xx to the canary: the verdict of a policy or a filter           none, CRITICAL
         the same, and the canary's plugin isn't loaded, or the service     try-restart
         runs older files than the release
WEDGED   master frozen; connections stand unaccepted below the child        try-restart
         limit; wrong answers; the session's process gone without any
DOWN     nothing listens and the unit has failed                            reset-failed, start
STOPPED  nothing listens and the unit was stopped on purpose                none, CRITICAL
FOREIGN  another program holds the port                                     none, CRITICAL
UNKNOWN  this host couldn't even ask (no descriptors, no memory, no route)  none, UNKNOWN
=======  =================================================================  =====================

Degraded is not broken: a restart is for what a restart can cure.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from mf import smtp, state

if TYPE_CHECKING:
    from . import starttls

OK, UNKNOWN = state.OK, state.UNKNOWN
BUSY, REFUSED, WEDGED, DOWN, STOPPED, FOREIGN = "BUSY", "REFUSED", "WEDGED", "DOWN", "STOPPED", "FOREIGN"
RESTART, START = "restart", "start"
BUSY_LIMIT = 600.0  # seconds until BUSY becomes CRITICAL
STARTING = 30.0  # seconds a master may take until it listens: with Type=exec the unit counts as active at once
# mf_domains' answer to a recipient of no known domain: mf_canary, which comes before it, didn't accept the canary
NO_DOMAIN = "5.7.1 relaying denied"


@dataclass
class View:
    """The service behind the port at one moment.

    ``ours``: whether the master holds the port; None when unknown. ``age``: seconds since the master was created.
    ``hindrance``: why it doesn't tick, when that is the host's doing. ``children``: zombies too, for a child takes its
    slot until the master has reaped it. ``outdated``: it was started before its files of this release came.
    ``configured``: its configuration has the canary's plugin.
    """

    active: str = "active"
    pid: int = 0
    ticks: bool = True
    children: int = 0
    listening: bool = True
    ours: bool | None = True
    waiting: int = 0
    age: float = 3600.0
    hindrance: str = ""
    outdated: bool = False
    configured: bool = True

    def evidence(self) -> dict[str, state.Json]:
        """For the decision log."""
        return asdict(self)


@dataclass
class Finding:
    """The class of one dialogue and view, the reason, and the ``action`` that can cure it, if there is one."""

    kind: str
    why: str
    action: str = ""


def classify(dialogue: smtp.Dialogue, view: View, children_max: int) -> Finding:
    """Classify one dialogue and the view behind the port."""
    outcome = dialogue.describe()
    if dialogue.outcome == smtp.ACCEPTED:
        return Finding(OK, outcome)
    if dialogue.outcome == smtp.UNTRIED:
        return Finding(UNKNOWN, outcome)
    if view.active not in ("active", "failed", "inactive"):
        return Finding(BUSY, f"the unit is {view.active}")
    if not view.listening:
        return _no_listener(view)
    if view.active != "active" or view.ours is False:
        return Finding(FOREIGN, f"another program holds the port; the unit is {view.active}")
    if view.hindrance and not view.ticks:
        return Finding(BUSY, f"the master {view.hindrance}: this host is overloaded; {outcome}")
    if not view.ticks:
        return Finding(WEDGED, f"the master is frozen; {outcome}", RESTART)
    if dialogue.outcome == smtp.TEMPORARY:
        return Finding(BUSY, outcome)
    if dialogue.outcome == smtp.REFUSED and dialogue.code >= 500:
        return _refused(dialogue, view)
    if dialogue.outcome == smtp.SILENT:
        return _silent(dialogue, view, children_max)
    return Finding(WEDGED, outcome, RESTART)


def _no_listener(view: View) -> Finding:
    if view.active == "active" and view.age < STARTING:
        return Finding(BUSY, f"nothing listens yet: the master was started {view.age:.0f} s ago")
    if view.active == "active":
        return Finding(WEDGED, "the unit runs but nothing listens", RESTART)
    if view.active == "failed":
        return Finding(DOWN, "nothing listens and the unit has failed", START)
    return Finding(STOPPED, "nothing listens; the unit was stopped, or never started")


def _refused(dialogue: smtp.Dialogue, view: View) -> Finding:
    """A policy's verdict, unless the service runs older files than this release: then a restart helps."""
    outcome = dialogue.describe()
    if view.outdated:
        return Finding(REFUSED, f"{outcome}; the service runs older files than the release", RESTART)
    if dialogue.stage == "rcpt" and NO_DOMAIN in dialogue.text:
        if view.configured:
            return Finding(REFUSED, f"{outcome}; the canary's plugin isn't loaded", RESTART)
        return Finding(REFUSED, f"{outcome}; mf_canary isn't in /mf/etc/qpsmtpd/plugins: deploy again")
    return Finding(REFUSED, f"{outcome}; a policy or filter refuses the canary, and perhaps mail: no restart helps")


def _silent(dialogue: smtp.Dialogue, view: View, children_max: int) -> Finding:
    """Silence is no proof as long as a process may still answer."""
    if dialogue.stage not in ("connect", "greeting"):
        stage = "after the final dot" if dialogue.stage == "message" else f"at {dialogue.stage}"
        if dialogue.session is False:
            return Finding(WEDGED, f"silence {stage}: the session's process is gone without an answer", RESTART)
        return Finding(BUSY, f"a filter is slow: silence {stage} for {dialogue.stall():.0f} s, the master ticks")
    if view.children >= children_max:
        return Finding(BUSY, f"no greeting: all {children_max} child slots are taken, the master ticks")
    if view.waiting > 0:
        backlog = f"{view.waiting} connections stand unaccepted with {view.children} of {children_max} children"
        return Finding(WEDGED, backlog, RESTART)
    return Finding(BUSY, "a child accepted the connection but is slow to greet")


def is_full(dialogue: smtp.Dialogue, view: View, children_max: int) -> bool:
    """Whether the service is at its limit, and works: then it accepts mail from the clients that have its slots."""
    no_greeting = dialogue.outcome == smtp.SILENT and dialogue.stage in ("connect", "greeting")
    serving = view.active == "active" and view.listening and view.ours is not False and view.ticks
    return no_greeting and serving and view.children >= children_max


def is_slow(finding: Finding, dialogue: smtp.Dialogue, view: View) -> bool:
    """Whether a session gave no answer after its greeting, and lives. Senders wait for minutes, and may get a 250."""
    in_session = dialogue.outcome == smtp.SILENT and dialogue.stage not in ("connect", "greeting")
    return finding.kind == BUSY and in_session and view.ticks


def confirmed(first: Finding, second: Finding) -> Finding:
    """The finding that two dialogues agree on: an action needs the same class twice, else the second is BUSY."""
    if second.action and (first.kind, first.action) != (second.kind, second.action):
        return Finding(REFUSED if second.kind == REFUSED else BUSY, second.why)
    return second


def symptom(finding: Finding, dialogue: smtp.Dialogue, view: View) -> str:
    """The symptom that a restart is to cure, as a text that stays the same from run to run."""
    frozen = "" if view.ticks or not view.listening else " frozen"
    return f"{finding.kind}{frozen} {dialogue.outcome} {dialogue.stage} {dialogue.code}"


def status_of(kind: str, busy_for: float) -> str:
    """The status word of a class that got no action. Pure."""
    if kind == OK:
        return state.OK
    if kind == UNKNOWN:
        return state.UNKNOWN
    if kind == BUSY:
        return state.CRITICAL if busy_for >= BUSY_LIMIT else state.WARNING
    return state.CRITICAL


def tls_verdict(offered: bool, attempt: starttls.Attempt | None, epoch: float, days_before: float) -> tuple[str, str]:
    """``(status, text)`` of STARTTLS as a sender meets it; a warning ``days_before`` the certificate ends. Pure."""
    if not offered or attempt is None:
        return state.CRITICAL, "STARTTLS isn't offered though it is configured: can its certificate be read?"
    if attempt.problem:
        return state.CRITICAL, f"STARTTLS is offered and broken: {attempt.problem}"
    if attempt.expires is not None and attempt.expires - epoch < days_before * 86400:
        days = (attempt.expires - epoch) / 86400
        if days <= 0:
            return state.CRITICAL, f"the certificate ended {-days:.0f} days ago"
        return state.WARNING, f"the certificate ends in {days:.0f} days"
    return state.OK, "TLS works"
