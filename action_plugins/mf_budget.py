# SPDX-License-Identifier: GPL-3.0-or-later
"""Controller's half of mf_budget: takes the fleet from the inventory. Documented in library/mf_budget.py."""

from __future__ import annotations

from typing import Any

from ansible.plugins.action import ActionBase

GROUP = "mx"


class ActionModule(ActionBase):
    """Give the module this MX and its peers."""

    _supports_check_mode = True
    _supports_diff = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return the module's result."""
        super().run(tmp, task_vars)
        task_vars = task_vars or {}
        own = task_vars["hostvars"][task_vars["inventory_hostname"]]
        peers = []
        for name in task_vars["groups"].get(GROUP, []):
            if name != task_vars["inventory_hostname"]:
                other = task_vars["hostvars"][name]
                peers.append({"name": name, "address": other["mf_address"], "port": other.get("mf_smtp_port", 25)})
        arguments = {
            "min_accepting": own.get("mf_min_accepting", 0),
            "address": own.get("mf_address", ""),
            "port": own.get("mf_smtp_port", 25),
            "patience": own.get("mf_greeting_patience", 5),
            "peers": peers,
            **self._task.args,
        }
        result: dict[str, Any] = self._execute_module(module_args=arguments, task_vars=task_vars)
        return result
