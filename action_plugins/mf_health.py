# SPDX-License-Identifier: GPL-3.0-or-later
"""The fast door of mf_health: the host's own command, one ssh execution. Documented in library/mf_health.py.

A shipped module costs its host some 140 ms of CPU, the command 15. What comes back is hostile until proved otherwise:
anything but the object that was expected, whole and of the right kinds, is as good as no answer. Then the module goes
to the host and looks for itself.
"""

from __future__ import annotations

import json
import shlex
import time
from typing import TYPE_CHECKING, Any, NoReturn

from ansible.plugins.action import ActionBase

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

COMMAND = "/mf/bin/health"
LONGEST = 256 * 1024  # characters of an answer
EXIT_CODES = {"OK": 0, "WARNING": 1, "CRITICAL": 2, "UNKNOWN": 3}
SEVERITY = {"OK": 0, "WARNING": 1, "UNKNOWN": 2, "CRITICAL": 3}
TRIES, PAUSE = 3, 2.0  # times and seconds; a check that cron was running at that moment needs another try

ARGUMENTS: dict[str, dict[str, Any]] = {
    "refresh": {"type": "bool", "default": False},
    "checks": {"type": "list", "elements": "str", "choices": ["load", "processes", "queue", "smtp"]},
    "fail_at": {"type": "str", "choices": ["never", "warning", "unknown", "critical"], "default": "never"},
    "details": {"type": "bool", "default": False},
}

_NUMBER, _TEXT = (int, float), (str,)
_NOTHING = type(None)
_SHAPE: dict[str, tuple[type, ...]] = {
    "host": _TEXT,
    "type": _TEXT,
    "status": _TEXT,
    "line": _TEXT,
    "load1": (*_NUMBER, _NOTHING),
    "uptime_seconds": (*_NUMBER, _NOTHING),
    "throttled": (bool,),
    "refusing": (bool,),
    "held": (bool,),
    "leases": (list,),
    "maintenance": (dict, _NOTHING),
    "oldest_result_seconds": (*_NUMBER, _NOTHING),
    "queue": (*_NUMBER, _NOTHING),
    "accepting": (bool, _NOTHING),
    "problems": (list,),
    "checks": (dict,),
    "generation": _TEXT,
    "version": _TEXT,
}
_CHECK: dict[str, tuple[type, ...]] = {
    "status": _TEXT,
    "summary": _TEXT,
    "age_seconds": (*_NUMBER, _NOTHING),
    "since": (*_NUMBER, _NOTHING),
    "overdue_seconds": (*_NUMBER, _NOTHING),
    "metrics": (dict,),
}
_LEASE: dict[str, tuple[type, ...]] = {
    "owner": _TEXT,
    "reason": _TEXT,
    "refuse": (bool,),
    "held_seconds": _NUMBER,
    "left_seconds": (*_NUMBER, _NOTHING),
}
_MAINTENANCE: dict[str, tuple[type, ...]] = {"owner": _TEXT, "reason": _TEXT, "left_seconds": _NUMBER}


class NotUnderstoodError(Exception):
    """An answer that isn't one. Its text says why, in a few words."""


def understand(answer: str, exit_code: int) -> dict[str, Any]:
    """The health in the output of ``health --json``: exactly the keys that are known, each of its kind.

    Raises NotUnderstoodError for everything else.
    """
    if exit_code in {126, 127}:
        raise NotUnderstoodError("can't be run")
    if len(answer) > LONGEST:
        raise NotUnderstoodError("gave an endless answer")
    try:
        found = json.loads(answer, parse_constant=_no_number)
    except (ValueError, RecursionError):
        raise NotUnderstoodError(f"gave no JSON (exit code {exit_code})") from None
    health = _pick(found, _SHAPE)
    health["checks"] = {_word(name): _status(_pick(check, _CHECK)) for name, check in health["checks"].items()}
    for check in health["checks"].values():
        if any(not isinstance(value, (int, float, str)) for value in check["metrics"].values()):
            raise NotUnderstoodError("gave an answer of another shape")
    health["leases"] = [_pick(lease, _LEASE) for lease in health["leases"]]
    if health["maintenance"] is not None:
        health["maintenance"] = _pick(health["maintenance"], _MAINTENANCE)
    if not all(isinstance(problem, str) for problem in health["problems"]):
        raise NotUnderstoodError("gave an answer of another shape")
    if EXIT_CODES[_status(health)["status"]] != exit_code:
        raise NotUnderstoodError(f"contradicts itself (exit code {exit_code})")
    if not health["line"].isprintable():
        raise NotUnderstoodError("gave an answer that can't be shown")
    return health


def _pick(found: object, shape: Mapping[str, tuple[type, ...]]) -> dict[str, Any]:
    """The known keys of an object; bool passes for a number in Python, but not here."""
    if not isinstance(found, dict):
        raise NotUnderstoodError("gave an answer of another shape")
    for key, kinds in shape.items():
        value = found.get(key, ...)
        if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
            raise NotUnderstoodError(f"gave an answer without a proper {key}")
    return {key: found[key] for key in shape}


def _status(found: dict[str, Any]) -> dict[str, Any]:
    if found["status"] not in SEVERITY:
        raise NotUnderstoodError("gave an unknown status")
    return found


def _word(name: str) -> str:
    if not (name.isidentifier() and name.isascii() and len(name) <= 32):
        raise NotUnderstoodError("gave an unknown check")
    return name


def _no_number(name: str) -> NoReturn:
    raise ValueError(name)


def is_too_bad(health: Mapping[str, Any], checks: Sequence[str] | None, fail_at: str) -> bool:
    """As in library/mf_health.py, of which this is the other door; a test compares them."""
    if fail_at == "never":
        return False
    if checks:
        statuses = [health["checks"][name]["status"] if name in health["checks"] else "UNKNOWN" for name in checks]
    else:
        statuses = [health["status"]]
    return max(SEVERITY[status] for status in statuses) >= SEVERITY[fail_at.upper()]


def is_fresh(health: Mapping[str, Any], seconds: float) -> bool:
    """Whether every check that left a result did so within the last ``seconds``."""
    ages = [check["age_seconds"] for check in health["checks"].values()]
    return all(age is None or age <= seconds + 1 for age in ages)


class ActionModule(ActionBase):
    """Ask the host's command; ship the module when that gives no proper answer."""

    _supports_check_mode = True
    _supports_diff = False
    TRANSFERS_FILES = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return the line and status, with ``details`` everything. An unreachable host is Ansible's business."""
        super().run(tmp, task_vars)
        _, arguments = self.validate_argument_spec(ARGUMENTS)
        try:
            health = self._ask(arguments["refresh"] and not self._task.check_mode)
        except NotUnderstoodError as why:
            given = {key: value for key, value in arguments.items() if value is not None}
            shipped: dict[str, Any] = self._execute_module(
                "mf_health", module_args={**given, "broken": f"{COMMAND} {why}"}, task_vars=task_vars
            )
            return shipped
        result: dict[str, Any] = {
            "changed": False,
            "failed": is_too_bad(health, arguments["checks"], arguments["fail_at"]),
            "msg": health.pop("line"),
        }
        return result | ({**health, "door": "command"} if arguments["details"] else {"status": health["status"]})

    def _ask(self, refresh: bool) -> dict[str, Any]:
        command = shlex.join([COMMAND, "--json", *(["--refresh"] if refresh else [])])
        for attempt in range(1, TRIES + 1):
            began = time.monotonic()
            answer = self._low_level_execute_command(command, sudoable=True)
            health = understand(answer["stdout"], answer["rc"])
            if not refresh or attempt == TRIES or is_fresh(health, time.monotonic() - began):
                return health
            time.sleep(PAUSE)
        raise AssertionError
