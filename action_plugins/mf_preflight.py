# SPDX-License-Identifier: GPL-3.0-or-later
"""Controller's work of mf_preflight: hold every role's preflight against the variables of a host, in one task.

The module of the same name in library/ carries the documentation. Roles write plain assert tasks into
tasks/preflight.yml; run one by one, those would cost each host a second in every run.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

from ansible.errors import AnsibleActionFail, AnsibleError
from ansible.plugins.action import ActionBase
from ansible.template import Templar

PROMISE = "Nothing was changed."
KNOWN = frozenset({"name", "loop", "loop_control", "when", "ansible.builtin.assert"})


class ActionModule(ActionBase):
    """See library/mf_preflight.py."""

    _supports_check_mode = True
    _requires_connection = False
    _VALID_ARGS = frozenset({"problems"})

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Entry point: all that is wrong, in one message."""
        variables = task_vars or {}
        super().run(tmp, variables)
        _, arguments = self.validate_argument_spec(
            argument_spec={"problems": {"type": "list", "elements": "str", "default": []}}
        )
        found = [str(problem) for problem in arguments["problems"]]
        for name, path in self._files():
            found += self._problems(name, path, variables)
        # each says so, and once is enough
        texts = [" ".join(text.replace(PROMISE, "").split()) for text in dict.fromkeys(found)]
        if texts:
            return {"failed": True, "changed": False, "msg": f"{PROMISE} {' '.join(texts)}"}
        return {"changed": False, "msg": "nothing stands against it"}

    def _files(self) -> Iterator[tuple[str, str]]:
        """The preflights of the other roles of the play: how to call them, and where they are."""
        mine = self._task._role
        seen = set()
        for role in self._task.get_play().roles:
            for one in (*role.get_all_dependencies(), role):
                path = os.path.join(one.get_role_path(), "tasks", "preflight.yml")
                if path in seen or (mine and one.get_role_path() == mine.get_role_path()) or not os.path.exists(path):
                    continue
                seen.add(path)
                yield f"roles/{one.get_name()}/tasks/preflight.yml", path

    def _problems(self, name: str, path: str, variables: dict[str, Any]) -> list[str]:
        tasks = self._loader.load_from_file(path, trusted_as_template=True)
        found = []
        for task in tasks or []:
            title = task.get("name", "a task")
            try:
                found += list(self._findings(task, variables))
            except AnsibleError as error:
                found.append(f"{name}, {title!r}: {error.message.rstrip('.')}.")
            except ValueError as error:
                raise AnsibleActionFail(f"{name}, {title!r}: {error}") from None
        return found

    def _findings(self, task: dict[str, Any], variables: dict[str, Any]) -> Iterator[str]:
        """What an assert task, maybe with ``when`` and ``loop``, would fail with."""
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
    """Whether a condition holds, or every one in a list."""
    each = conditions if isinstance(conditions, list) else [conditions]
    return all(templar.evaluate_conditional(condition) for condition in each)
