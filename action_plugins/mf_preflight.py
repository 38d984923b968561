# SPDX-License-Identifier: GPL-3.0-or-later
"""Check the variables of a host by every role's preflight, in one task. Documented in library/mf_preflight.py.

Roles write plain assert tasks into tasks/preflight.yml. Run one by one, they would cost each host a second in every
run. The ranges of numbers are ``__<role>_ranges`` and ``__<role>_order``.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ansible.errors import AnsibleActionFail, AnsibleError
from ansible.plugins.action import ActionBase
from ansible.template import Templar

PROMISE = "Nothing was changed."
KNOWN = frozenset({"name", "loop", "loop_control", "when", "ansible.builtin.assert"})


SYSTEMS = ("debian 12",)
PYTHON = (3, 11)
FREE_MIB = 64


def host_problems(facts: dict[str, Any], host: str) -> Iterator[str]:
    """Yield what prevents a deployment on a host, from the facts of mf_deploy (module_utils/mf_deploy/facts.py)."""
    if facts["system"] not in SYSTEMS:
        yield (
            f"{host} runs {facts['system']}, and this needs {' or '.join(SYSTEMS)}: "
            "install that, or take the host out of the inventory."
        )
    if tuple(map(int, facts["python"].split(".")[:2])) < PYTHON:
        yield (
            f"{host} has Python {facts['python']}, and this needs {'.'.join(map(str, PYTHON))} or newer: "
            "set ansible_python_interpreter to Debian's own /usr/bin/python3."
        )
    if not facts["root"]:
        yield f"{host} lets us in without root's rights: set ansible_become to true for it."
    if not facts["systemd"]:
        yield f"{host} was not started by systemd, which runs our services: boot it with systemd."
    if facts["free_mib"] < FREE_MIB:
        yield f"{host} has {facts['free_mib']} MiB left for /mf, and {FREE_MIB} are needed: make room there."
    if facts["refused"]:
        missing = facts["missing"]
        yield (
            f"{', '.join(missing)} can't be installed on {host}: {facts['refused'].rstrip('.')}. "
            f"Run there: apt-get update && apt-cache policy {' '.join(missing)}"
        )


def range_problems(
    ranges: Mapping[str, Sequence[float]], order: Mapping[str, str], values: Mapping[str, Any], host: str
) -> Iterator[str]:
    """Yield a problem for each number out of range or out of order.

    ``ranges``: variable -> lowest and highest value; two whole numbers ask for a whole one. ``order``: variable -> the
    one that it must not be above.
    """
    numbers = {}
    for name, (low, high) in ranges.items():
        text = str(values[name])
        whole = isinstance(low, int) and isinstance(high, int)
        if re.fullmatch(r"[0-9]+(\.0+)?" if whole else r"[0-9]+(\.[0-9]+)?", text) and low <= float(text) <= high:
            numbers[name] = float(text)
        else:
            kind = "whole number" if whole else "number"
            yield f"{name} is {json.dumps(text)} on {host}; it takes a {kind} from {low} to {high}."
    for below, above in order.items():
        if below in numbers and above in numbers and numbers[below] > numbers[above]:
            yield f"{below} ({values[below]}) must not be above {above} ({values[above]}) on {host}."


class ActionModule(ActionBase):
    """See library/mf_preflight.py."""

    _supports_check_mode = True
    _requires_connection = False
    _VALID_ARGS = frozenset({"facts", "roles"})

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Entry point: report all problems in one message."""
        variables = task_vars or {}
        super().run(tmp, variables)
        _, arguments = self.validate_argument_spec(
            argument_spec={"facts": {"type": "dict", "default": {}}, "roles": {"type": "bool", "default": True}}
        )
        facts, host = arguments["facts"], str(variables.get("inventory_hostname", "this host"))
        problems = list(host_problems(facts, host)) if facts else []
        for name, path in self._roles().items() if arguments["roles"] else ():
            problems += self._out_of_range(name, host, variables)
            problems += self._problems(f"roles/{name}/tasks/preflight.yml", f"{path}/tasks/preflight.yml", variables)
        # each text has the promise; the message gives it once
        texts = [" ".join(text.replace(PROMISE, "").split()) for text in dict.fromkeys(problems)]
        if texts:
            return {"failed": True, "changed": False, "msg": f"{PROMISE} {' '.join(texts)}"}
        return {"changed": False, "msg": "nothing stands against it"}

    def _roles(self) -> dict[str, str]:
        """Return the roles of the play and their directories, in order, without the role of this task."""
        mine = self._task._role
        roles = {
            role.get_name(): role.get_role_path()
            for top in self._task.get_play().roles
            for role in (*top.get_all_dependencies(), top)
        }
        if mine:
            roles.pop(mine.get_name(), None)
        return roles

    def _out_of_range(self, role: str, host: str, variables: dict[str, Any]) -> list[str]:
        ranges, order = (self._templar.template(variables.get(f"__{role}_{what}", {})) for what in ("ranges", "order"))
        try:
            values = {name: self._templar.template(variables[name]) for name in ranges}
        except AnsibleError as error:
            return [f"roles/{role}: {error.message.rstrip('.')}."]
        return list(range_problems(ranges, order, values, host))

    def _problems(self, name: str, path: str, variables: dict[str, Any]) -> list[str]:
        tasks = self._loader.load_from_file(path, trusted_as_template=True) if os.path.exists(path) else []
        problems = []
        for task in tasks or []:
            title = task.get("name", "a task")
            try:
                problems += list(self._findings(task, variables))
            except AnsibleError as error:
                problems.append(f"{name}, {title!r}: {error.message.rstrip('.')}.")
            except ValueError as error:
                raise AnsibleActionFail(f"{name}, {title!r}: {error}") from None
        return problems

    def _findings(self, task: dict[str, Any], variables: dict[str, Any]) -> Iterator[str]:
        """Yield the messages with which an assert task, maybe with ``when`` and ``loop``, would fail."""
        check = task.get("ansible.builtin.assert")
        if not isinstance(check, dict) or set(task) - KNOWN:
            raise ValueError(f"only ansible.builtin.assert with name, when and loop is run here, not {sorted(task)}")
        items = self._templar.template(task["loop"]) if "loop" in task else [None]
        for item in items:
            templar = self._templar
            if "loop" in task:
                templar = templar.copy_with_new_env(available_variables={**variables, "item": item})
            if _all(templar, task.get("when", True)) and not _all(templar, check["that"]):
                yield str(templar.template(check.get("fail_msg", check["that"])))


def _all(templar: Templar, conditions: Any) -> bool:
    """Return whether a condition holds, or every condition in a list."""
    each = conditions if isinstance(conditions, list) else [conditions]
    return all(templar.evaluate_conditional(condition) for condition in each)
