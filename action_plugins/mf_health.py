# SPDX-License-Identifier: GPL-3.0-or-later
"""The fast way of mf_health: the host's own command, one ssh execution. Documented in library/mf_health.py.

A module that is sent costs its host some 140 ms of CPU, the command 15. The answer is not trusted: anything but the
expected object, complete and of the right types, counts as no answer. Then the module is sent to the host instead.
"""

from __future__ import annotations

import shlex
import sys
import time
from pathlib import Path
from typing import Any

from ansible.plugins.action import ActionBase

# Ansible finds module_utils of ansible.cfg for modules only
sys.path.append(str(Path(__file__).resolve().parents[1] / "roles/mf_tree/files/lib"))

from mf import health_record, state

COMMAND = "/mf/bin/health"
TRIES, PAUSE = 3, 2.0  # times and seconds; a check that cron was running at that moment needs another try

ARGUMENTS: dict[str, dict[str, Any]] = {
    "refresh": {"type": "bool", "default": False},
    "checks": {"type": "list", "elements": "str"},
    "fail_at": {"type": "str", "choices": ["never", "warning", "unknown", "critical"], "default": "never"},
    "details": {"type": "bool", "default": False},
}


class NotUnderstoodError(Exception):
    """The answer is invalid. The text is the reason, in a few words."""


def understand(answer: str, exit_code: int) -> health_record.Health:
    """Return the health in the output of ``health --json``. Raises NotUnderstoodError."""
    if exit_code in {126, 127}:
        raise NotUnderstoodError("can't be run")
    try:
        record = health_record.decode(answer)
    except health_record.HealthRecordError as error:
        raise NotUnderstoodError(f"gave an answer that {error} (exit code {exit_code})") from None
    if state.EXIT_CODES[record.status] != exit_code:
        raise NotUnderstoodError(f"contradicts itself (exit code {exit_code})")
    return record


def is_fresh(record: health_record.Health, seconds: float) -> bool:
    """Return whether every result of a check is from the last ``seconds``."""
    return all(check.age_seconds is None or check.age_seconds <= seconds + 1 for check in record.checks.values())


class ActionModule(ActionBase):
    """Run the host's command; send the module when its answer is invalid."""

    _supports_check_mode = True
    _supports_diff = False
    TRANSFERS_FILES = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return the line and status, with ``details`` everything. Ansible itself handles an unreachable host."""
        super().run(tmp, task_vars)
        _, arguments = self.validate_argument_spec(ARGUMENTS)
        try:
            record = self._ask(arguments["refresh"] and not self._task.check_mode)
        except NotUnderstoodError as why:
            given = {key: value for key, value in arguments.items() if value is not None}
            shipped: dict[str, Any] = self._execute_module(
                "mf_health", module_args={**given, "broken": f"{COMMAND} {why}"}, task_vars=task_vars
            )
            return shipped
        answer, missing = record.as_json(), record.without_check(arguments["checks"])
        line = answer.pop("line")
        result: dict[str, Any] = {
            "changed": False,
            "failed": bool(missing) or record.is_at_least(arguments["fail_at"], arguments["checks"]),
            "msg": missing or line,
        }
        return result | ({**answer, "door": "command"} if arguments["details"] else {"status": record.status})

    def _ask(self, refresh: bool) -> health_record.Health:
        command = shlex.join([COMMAND, "--json", *(["--refresh"] if refresh else [])])
        for attempt in range(1, TRIES + 1):
            began = time.monotonic()
            answer = self._low_level_execute_command(command, sudoable=True)
            record = understand(answer["stdout"], answer["rc"])
            if not refresh or attempt == TRIES or is_fresh(record, time.monotonic() - began):
                return record
            time.sleep(PAUSE)
        raise AssertionError
