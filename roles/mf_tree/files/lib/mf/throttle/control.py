"""The throttle: leases on this host, shown by the marker and enforced by the firewall.

The source of truth is the set of valid leases. It is kept in the marker (/run/mf/throttled, with a flag for a refusal
that is really in force), operators' leases also on disk (/mf/var/state/leases.json). Firewall and files are brought
into line with it, in an order that leaves a sound state wherever the program is killed:

1. the marker, so that local IO work backs off even if nft fails;
2. the firewall, one atomic batch, the kernel's own timeout in it;
3. the marker again, with the firewall's real state;
4. the file on disk; and when no lease and no refusal is left, the marker is removed.

An ``off`` that died half way is finished, not undone, by the next ``reconcile``, which check-load does whenever it sees
a marker.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from .. import Failure, claims, decisions, state, text
from . import firewall, lease, marker, peers
from .budget import Budget
from .lease import Lease
from .storage import Kept, Storage

Edit: TypeAlias = Callable[[tuple[Lease, ...], float], tuple[Lease, ...]]

LOCK = "throttle"
LOCK_WAIT = 30.0  # seconds; fifty commands at once need about five


class ThrottleError(Failure):
    """The command can't be carried out."""


class OverBudgetError(ThrottleError):
    """Too few MXs would be left that accept mail."""

    code = 5


@dataclass
class Outcome:
    """The effect of a command, or with ``dry_run`` its plan.

    ``actions`` are sentences in order; ``warnings`` are failures; ``changed`` is false for a mere renewal;
    ``over_budget``: why a lease only marks that was to refuse; ``unmarked``: the marker couldn't be written, so local
    jobs don't wait.
    """

    before: marker.Status
    after: marker.Status
    actions: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    changed: bool = False
    over_budget: str = ""
    unmarked: bool = False

    def warn(self, warning: str) -> bool:
        """Add a failure, once; returns whether there was one."""
        if warning and warning not in self.warnings:
            self.warnings.append(warning)
        return bool(warning)


class Control:
    """Commands on the throttle of one host. ``settings`` is mf.json, already verified.

    ``patience``: seconds it waits for other commands. Everything it touches is a parameter, for tests: ``survey`` of
    the peers, ``sleep``, ``epoch`` (time.time).
    """

    def __init__(
        self,
        places: state.Places,
        settings: Mapping[str, Any],
        *,
        check: str = "throttle",
        dry_run: bool = False,
        patience: float = LOCK_WAIT,
        survey: Callable[..., peers.Survey] = peers.survey,
        sleep: Callable[[float], None] = time.sleep,
        epoch: Callable[[], float] = time.time,
    ) -> None:
        self._places = places
        self._ports: list[int] = list(settings.get("throttle", {}).get("ports", []))
        self._budget = Budget(str(settings.get("host", "")), settings.get("fleet", {}), survey, sleep)
        self._storage = Storage(places, dry_run=dry_run)
        self._check = check
        self._dry_run = dry_run
        self._patience = patience
        self._epoch = epoch

    @property
    def can_refuse(self) -> bool:
        """Whether this host has SMTP ports to refuse on."""
        return bool(self._ports)

    def on(
        self,
        owner: str,
        reason: str,
        ttl: float | None,
        *,
        refuse: bool = True,
        force: bool = False,
        mark_instead: bool = False,
        leases: Sequence[Lease] | None = None,
    ) -> Outcome:
        """Take or renew the owner's lease; ``ttl`` None is a hold.

        A lease that is to refuse obeys the fleet budget (see ``budget``) unless it is a hold or ``force``: over budget
        it raises OverBudgetError and nothing has changed, or with ``mark_instead`` only marks. Also raises
        LeaseError and ThrottleError. ``leases``: those in force, when the caller has read the marker already.
        """
        lease.make(owner, reason, 0.0, ttl, refuse)  # validate before any wait
        refuse = refuse and self.can_refuse
        if not refuse or force or ttl is None or not self._budget.applies:
            return self._take(owner, reason, ttl, refuse)
        own = lease.find(marker.current(self._places).leases if leases is None else leases, owner)
        renewal = own is not None and own.refuse
        if renewal and owner != claims.LOAD:
            return self._take(owner, reason, ttl, refuse)
        survey = self._budget.survey(delayed=owner == claims.LOAD and not renewal and not self._dry_run)
        if self._budget.allows(survey):
            outcome = self._take(owner, reason, ttl, refuse)
            second = None if renewal or self._dry_run else self._budget.contest(survey)
            if second is None:
                return outcome
            survey = second
            if not mark_instead:
                self._give_way(owner, own)
        over = self._budget.describe(survey)
        if not mark_instead:
            raise OverBudgetError(
                f"{over}. Nothing is refused; mark only (--mark-only), or refuse all the same (--force)"
            )
        outcome = self._take(owner, reason, ttl, False)
        outcome.over_budget = over
        return outcome

    def off(self, owner: str) -> Outcome:
        """Give the owner's lease back. Fine when there is none. Raises LeaseError, ThrottleError."""
        claims.check_owner(owner, reserved=True)
        return self._change(lambda held, now: lease.without(held, owner, now), "release", owner, "given back")

    def reconcile(self, *, ensure_table: bool = False) -> Outcome:
        """Bring marker, disk and firewall into line with the leases that are valid. Raises ThrottleError."""
        return self._change(lambda held, now: held, "repair", "throttle", "reconcile", ensure_table=ensure_table)

    def remove(self) -> Outcome:
        """Take everything away: all leases, marker, table (the role is being removed). Raises ThrottleError."""
        outcome = self._change(lambda held, now: (), "release", "throttle", "removed")
        if not self._dry_run:
            try:
                firewall.remove()
            except firewall.FirewallError as error:
                outcome.warn(str(error))
        return outcome

    def _take(self, owner: str, reason: str, ttl: float | None, refuse: bool) -> Outcome:
        return self._change(
            lambda held, now: lease.put(held, lease.make(owner, reason, now, ttl, refuse), now),
            "throttle" if refuse else "mark",
            owner,
            reason,
        )

    def _give_way(self, owner: str, before: Lease | None) -> None:
        """Undo a lease that was taken a moment ago: back to the owner's lease of before, or to none."""
        if before is None:
            self.off(owner)
        else:
            self._change(lambda held, now: lease.put(held, before, now), "release", owner, "over budget after all")

    def _change(self, edit: Edit, action: str, target: str, reason: str, *, ensure_table: bool = False) -> Outcome:
        """One transaction under the host's lock; without it in a dry run."""
        if self._dry_run:
            return self._settle(edit, ensure_table)
        try:
            with self._places.lock(LOCK, self._patience) as held:
                if not held:
                    raise ThrottleError(
                        f"other throttle commands have been at work for {self._patience:g} s; try again"
                    )
                outcome = self._settle(edit, ensure_table)
                if outcome.changed:
                    result = "failed" if outcome.after.wrong else "done"
                    why = text.clean(reason, claims.MAX_REASON)
                    decisions.record(self._places, self._check, action, target, why, result, _evidence(outcome))
                return outcome
        except OSError as error:
            advice = "; run this as root" if isinstance(error, PermissionError) else ""
            raise ThrottleError(f"{error.filename or self._places.locks}: {error.strerror}{advice}") from None

    def _settle(self, edit: Edit, ensure_table: bool) -> Outcome:
        kept = self._storage.load(state.boottime(), self._epoch())
        now, reading = kept.now, kept.reading
        before = reading.status(now)
        outcome = Outcome(before, before, _repairs(kept), list(kept.dropped))
        wanted = edit(kept.leases, now)
        outcome.actions.extend(lease.differences(kept.leases, wanted))

        known_refusing = reading.lost == marker.REFUSING if reading.marker is None else reading.marker.refusing
        present = reading.marker is not None or bool(reading.damage)
        if wanted or present:
            self._mark(marker.Marker(wanted, known_refusing), now, outcome)
        refusing = self._enforce(wanted, now, known_refusing, ensure_table, outcome)
        if wanted or refusing or present:
            self._mark(marker.Marker(wanted, refusing), now, outcome)
        disk_right = self._storage.is_kept(wanted, kept)
        if not disk_right:
            if kept.disk_damage or (kept.disk is not None and state.decode(kept.disk) is None):
                outcome.actions.append(f"replace {self._storage.disk}, which was {kept.disk_damage or 'not whole'}")
            disk_right = not outcome.warn(self._storage.keep(wanted, kept))
        in_force = marker.REFUSING if refusing else marker.THROTTLED if wanted else marker.NOTHING
        outcome.warn(self._storage.stamp(in_force, now))
        if not wanted and not refusing and disk_right:
            outcome.warn(self._storage.remove_marker())
        if reading.lost and not reading.damage:
            effect = "; ".join(outcome.actions) or "nothing is in force any more"
            outcome.warnings.insert(0, f"the marker {self._places.marker} was lost: {effect}")

        outcome.after = marker.Status(wanted, refusing, now)
        outcome.changed = bool(outcome.actions)
        return outcome

    def _mark(self, content: marker.Marker, now: float, outcome: Outcome) -> None:
        outcome.unmarked |= outcome.warn(self._storage.write_marker(content, now))

    def _enforce(
        self, wanted: Sequence[Lease], now: float, refusing: bool, ensure_table: bool, outcome: Outcome
    ) -> bool:
        """Bring the firewall into line; returns whether it refuses afterwards."""
        if not self._ports:
            return False
        seconds = lease.refusal(wanted, now)
        refused: dict[int, float | None] = {} if seconds == 0 else dict.fromkeys(self._ports, seconds)
        ports = ", ".join(str(port) for port in self._ports)
        try:
            table = firewall.read()
        except firewall.FirewallError as error:
            if refused or refusing:
                outcome.warn(str(error))
            return refusing and not refused
        if refused and not table.refuses(refused):
            end = "until it is given back" if seconds is None else f"for {text.span(seconds or 0)}"
            outcome.actions.append(f"refuse new connections to port {ports} {end}")
        elif table.ports and not refused:
            outcome.actions.append("accept new connections again")
        elif refused and set(table.ports) != set(refused):
            outcome.actions.append(f"refuse new connections to port {ports} only")
        if self._dry_run or (table.agrees(refused) and (table.whole or not ensure_table)):
            return bool(refused)
        try:
            firewall.apply(refused)
        except firewall.FirewallError as error:
            outcome.warn(str(error))
            return table.refuses(self._ports)
        return bool(refused)


def _evidence(outcome: Outcome) -> dict[str, state.Json]:
    """A transaction's evidence for the decision log."""
    after = outcome.after
    return {
        "actions": [text.clean(action, 300) for action in outcome.actions],
        "warnings": [text.clean(warning, 300) for warning in outcome.warnings],
        "leases": [text.clean(marker.describe_lease(item, after.now), 200) for item in after.leases],
        "refusing": after.refusing,
    }


def _repairs(kept: Kept) -> list[str]:
    """The repairs that a transaction begins with, in sentences."""
    reading, repairs = kept.reading, []
    if reading.damage:
        repairs.append(f"replace the marker, which was {reading.damage}")
    if reading.marker is None and kept.leases:
        repairs.append("put back the leases of " + ", ".join(item.owner for item in kept.leases))
    if reading.marker is not None:
        ended = [item.owner for item in reading.marker.leases if not item.is_valid(kept.now)]
        repairs.extend(f"the lease of {owner} has ended" for owner in ended)
    return repairs
