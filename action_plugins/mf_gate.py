# SPDX-License-Identifier: GPL-3.0-or-later
"""The gate of a deployment: is mail accepted, and is anything worse than before? Documented in library/mf_gate.py."""

from __future__ import annotations

import sys
import time
import unicodedata
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible.utils.display import Display

# outside of a collection Ansible finds no plugin_utils
sys.path.append(str(Path(__file__).resolve().parents[1] / "plugin_utils"))

from mf_plugins.actions import run_action

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

SEVERITY = {"OK": 0, "WARNING": 1, "UNKNOWN": 2, "CRITICAL": 3}
SMTP = "smtp"
CHECKS = (SMTP, "processes", "queue")
TRIES, PAUSE = 4, 2.0  # times and seconds; a service that has just been started may need a moment
BUSY_WAIT, BUSY_PAUSE = 60.0, 5.0  # seconds; a busy host is waited for

ARGUMENTS: dict[str, dict[str, Any]] = {
    "before": {"type": "dict", "default": {}},
    "checks": {"type": "list", "elements": "str", "choices": list(CHECKS), "default": list(CHECKS)},
}


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


def judge(now: Mapping[str, Any], before: Mapping[str, Any], checks: Sequence[str] = CHECKS) -> Verdict:
    """Compare a host's health with its health ``before`` the change. Pure.

    A check that the host didn't have before is worse from UNKNOWN on, not by a warning. A check whose result is
    ``stale`` has no result since the change yet.
    """
    wrong, remarks = [], []
    as_before = False
    waiting = [name for name in now.get("stale", ()) if name in (SMTP, *checks)]
    if waiting:
        return Verdict([f"{name} has no result since the change" for name in waiting], [], busy=True)
    smtp = now["checks"].get(SMTP)
    metrics = smtp["metrics"] if smtp else {}
    kind, full = metrics.get("class"), bool(metrics.get("full"))
    earlier = before.get("checks") or {}
    if smtp is None:
        wrong.append("it has no check of SMTP")
    elif smtp["status"] == "UNKNOWN" or not (full or kind == "OK"):
        was = earlier.get(SMTP, {})
        as_before = kind is not None and kind == was.get("metrics", {}).get("class") and kind != "OK"
        wrong.append(f"it accepts no mail{', as before' if as_before else ''}: {_state(SMTP, smtp)}")
    for name in CHECKS:
        check = now["checks"].get(name)
        if check is None:
            continue
        was = str(earlier.get(name, {}).get("status", "not there"))
        tolerated = SEVERITY["OK" if name == SMTP and name in earlier else "WARNING"]
        worse = SEVERITY[check["status"]] > max(SEVERITY.get(was, 0), tolerated)
        if worse and name in checks and not (name == SMTP and (full or wrong)):
            wrong.append(f"{_state(name, check)} (before the change: {was})")
        elif check["status"] != "OK" and not (name == SMTP and wrong):
            remarks.append(_state(name, check) + (", as before" if check["status"] == was else ""))
    if before.get("door") == "command" and now.get("door") == "module":
        wrong.append("its own /mf/bin/health is broken, and wasn't before")
    busy = kind == "BUSY" and not full
    stuck = busy and not metrics.get("code") and bool(metrics.get("children"))
    return Verdict(wrong, remarks, full, busy, stuck, as_before and len(wrong) == 1)


def stale(checks: Mapping[str, Any], seconds: float) -> list[str]:
    """Return the checks whose result is older than the refresh that should have renewed it. Pure.

    A run that cron began holds the check's lock, and may take longer than mf_health tries. Until it ends, the result on
    disk is an earlier one, perhaps from before the change.
    """
    ages = {name: checks[name].get("age_seconds") for name in CHECKS if name in checks}
    return [name for name, age in ages.items() if age is not None and age > seconds + 1]


def _state(name: str, check: Mapping[str, Any]) -> str:
    """Return a check's state on one line, without characters that move the cursor or hide text."""
    text = " ".join(f"{name} {check['status']}: {check['summary']}".split())[:400]
    return "".join(letter if unicodedata.category(letter)[0] != "C" else "?" for letter in text)


def watch(
    read: Callable[[], Mapping[str, Any]],
    before: Mapping[str, Any],
    checks: Sequence[str] = CHECKS,
    pause: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> Verdict:
    """Read the health until the host passes, or its tries are used up."""
    give_up = clock() + BUSY_WAIT
    tries, stuck = 0, False
    while True:
        verdict = judge(read(), before, checks)
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
        verdict = watch(lambda: self._health(variables), arguments["before"], arguments["checks"])
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

    def _health(self, variables: dict[str, Any]) -> dict[str, Any]:
        """Run the checks and return the details of mf_health."""
        began = time.monotonic()
        health = run_action(self, "mf_health", {"refresh": True, "details": True}, variables)
        if "checks" not in health:
            raise AnsibleActionFail(f"mf_health gave no answer: {health.get('msg')}")
        old = [] if self._task.check_mode else stale(health["checks"], time.monotonic() - began)
        return {**health, "stale": old}
