# SPDX-License-Identifier: GPL-3.0-or-later
"""The gate of a deployment: is mail accepted, and is anything worse than before? Documented in library/mf_gate.py."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible.utils.display import Display

# outside of a collection Ansible finds no plugin_utils; and module_utils for modules only
ROOT = Path(__file__).resolve().parents[1]
sys.path += [str(ROOT / "plugin_utils"), str(ROOT / "roles/mf_tree/files/lib")]

from mf import health_record, state
from mf_plugins.actions import run_action

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

SMTP = "smtp"
CHECKS = (SMTP, "processes", "queue")
DAY = 86400.0
TRIES, PAUSE = 4, 2.0  # times and seconds; a service that has just been started may need a moment
BUSY_WAIT, BUSY_PAUSE = 60.0, 5.0  # seconds; a busy host is waited for

ARGUMENTS: dict[str, dict[str, Any]] = {
    "before": {"type": "dict", "default": {}},
    "checks": {"type": "list", "elements": "str", "choices": list(CHECKS), "default": list(CHECKS)},
}


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer of mf_health: the host's health, its way (``door``), and the checks without a result since the change.

    See library/mf_health.py for the way, and ``stale``.
    """

    health: health_record.Health
    door: str
    stale: Sequence[str] = ()


class Verdict(NamedTuple):
    """The meaning of one health record: ``wrong`` keeps a host from passing, ``remarks`` don't.

    ``full``: the service works and all its slots are taken. ``busy``: it works or starts, and may be OK soon.
    ``stuck``: it had a slot for the canary, and gave no answer. ``as_before``: the only problem is that it accepts no
    mail, in the same way as before the change.
    """

    wrong: Sequence[str]
    remarks: Sequence[str]
    full: bool = False
    busy: bool = False
    stuck: bool = False
    as_before: bool = False


def read(result: Mapping[str, Any]) -> Answer | None:
    """Parse a result of mf_health; None for one without details. Raises HealthRecordError."""
    if "checks" not in result:
        return None
    return Answer(health_record.parse({"line": "", **result}), str(result.get("door", "")))


def judge(now: Answer, before: Answer | None, checks: Sequence[str] = CHECKS) -> Verdict:
    """Compare a host's health with its health ``before`` the change, None when that is unknown. Pure.

    A check that the host didn't have before is worse from UNKNOWN on, not by a warning. A filter that was as slow
    before is a remark: senders wait longer than the canary.
    """
    wrong, remarks = [], []
    as_before = False
    waiting = [name for name in now.stale if name in (SMTP, *checks)]
    if waiting:
        return Verdict([f"{name} has no result since the change" for name in waiting], [], busy=True)
    smtp = now.health.checks.get(SMTP)
    metrics = smtp.metrics if smtp else {}
    kind, full = metrics.get("class"), bool(metrics.get("full"))
    earlier = before.health.checks if before else {}
    slow = kind == "BUSY" and bool(metrics.get("slow") and SMTP in earlier and earlier[SMTP].metrics.get("slow"))
    accepts = full or slow
    if smtp is None:
        wrong.append("it has no check of SMTP")
    elif smtp.status == state.UNKNOWN or not (accepts or kind == "OK"):
        former = earlier[SMTP].metrics.get("class") if SMTP in earlier else None
        as_before = kind is not None and kind == former and kind != "OK"
        wrong.append(f"it accepts no mail{', as before' if as_before else ''}: {_state(SMTP, smtp)}")
    for name in CHECKS:
        check = now.health.checks.get(name)
        if check is None:
            continue
        was = earlier[name].status if name in earlier else "not there"
        tolerated = state.SEVERITY[state.OK if name == SMTP and name in earlier else state.WARNING]
        allowed = max(state.SEVERITY.get(was, 0), tolerated)
        worse = state.SEVERITY[check.status] > allowed
        if worse and state.SEVERITY[_but_for_time(check, earlier.get(name))] <= allowed:
            remarks.append(f"{_state(name, check)} (before the change: {was}; a matter of time)")
        elif worse and name in checks and not (name == SMTP and (accepts or wrong)):
            wrong.append(f"{_state(name, check)} (before the change: {was})")
        elif check.status != state.OK and not (name == SMTP and wrong):
            remarks.append(_state(name, check) + (", as before" if check.status == was else ""))
    if before and before.door == "command" and now.door == "module":
        wrong.append("its own /mf/bin/health is broken, and wasn't before")
    busy = kind == "BUSY" and not accepts
    stuck = busy and not metrics.get("code") and bool(metrics.get("children"))
    return Verdict(wrong, remarks, full, busy, stuck, as_before and len(wrong) == 1)


def _but_for_time(check: health_record.Check, before: health_record.Check | None) -> str:
    """Return a check's status without what time alone brings. An ended certificate counts if it is new."""
    status = str(check.metrics.get(state.BUT_FOR_TIME))
    left = check.metric("certificate_seconds")
    had = before.metric("certificate_seconds") if before else None
    ended = left is not None and left <= 0
    same = left is not None and had is not None and 0 < had - left <= DAY
    return status if status in state.SEVERITY and (same or not ended) else check.status


def stale(checks: Mapping[str, health_record.Check], seconds: float) -> list[str]:
    """Return the checks whose result is older than the refresh that should have renewed it. Pure.

    A run that cron began holds the check's lock, and may take longer than mf_health tries. Until it ends, the result on
    disk is an earlier one, perhaps from before the change.
    """
    ages = {name: checks[name].age_seconds for name in CHECKS if name in checks}
    return [name for name, age in ages.items() if age is not None and age > seconds + 1]


def _state(name: str, check: health_record.Check) -> str:
    return f"{name} {check.status}: {check.summary}"


def watch(
    ask: Callable[[], Answer],
    before: Answer | None,
    checks: Sequence[str] = CHECKS,
    pause: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> Verdict:
    """Ask for the health until the host passes, or its tries are used up."""
    give_up = clock() + BUSY_WAIT
    tries, stuck = 0, False
    while True:
        verdict = judge(ask(), before, checks)
        stuck = stuck or verdict.stuck
        at_work = verdict.full or verdict.busy
        tries += not at_work
        waited = clock() >= give_up
        if not (verdict.wrong or verdict.full) or (waited if at_work else tries >= TRIES):
            break
        pause(BUSY_PAUSE if at_work else PAUSE)
    if verdict.full and stuck:
        # the sessions that hold the slots may be of the kind that left the canary without an answer
        hangs = "sessions don't end: first one had no answer, now they have all slots"
        return verdict._replace(wrong=[*verdict.wrong, hangs], as_before=False)
    return verdict


class ActionModule(ActionBase):
    """Run mf_health until the host passes or fails."""

    _supports_check_mode = True
    _supports_diff = False
    TRANSFERS_FILES = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return the verdict. Ansible itself handles an unreachable host."""
        super().run(tmp, task_vars)
        variables = task_vars or {}
        _, arguments = self.validate_argument_spec(ARGUMENTS)
        try:
            before = read(arguments["before"])
        except health_record.HealthRecordError as error:
            raise AnsibleActionFail(f"before is no result of mf_health: it {error}") from None
        verdict = watch(lambda: self._ask(variables), before, arguments["checks"])
        if verdict.remarks and not verdict.wrong:
            Display().display(f"{variables['inventory_hostname']} passes, with remarks: {'; '.join(verdict.remarks)}")
        return {
            "changed": False,
            "failed": bool(verdict.wrong),
            "worse": bool(verdict.wrong) and not verdict.as_before,
            "msg": "; ".join(verdict.wrong) or "it accepts mail, and nothing is worse than before",
            "wrong": list(verdict.wrong),
            "remarks": list(verdict.remarks),
        }

    def _ask(self, variables: dict[str, Any]) -> Answer:
        """Run the checks and return the host's health."""
        began = time.monotonic()
        result = run_action(self, "mf_health", {"refresh": True, "details": True}, variables)
        try:
            answer = read(result)
        except health_record.HealthRecordError as error:
            raise AnsibleActionFail(f"the result of mf_health {error}") from None
        if answer is None:
            raise AnsibleActionFail(f"mf_health gave no answer: {result.get('msg')}")
        old = [] if self._task.check_mode else stale(answer.health.checks, time.monotonic() - began)
        return replace(answer, stale=old)
