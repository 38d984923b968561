# SPDX-License-Identifier: GPL-3.0-or-later
"""Controller's half of mf_throttle: adds the names of the hosts that are throttled together.

Each host probes its peers before it refuses mail. Hosts of one run act at the same moment, so none of them would see
the others refuse. Therefore each gets the names of the others and counts them as refusing. All of them come to the same
result: a run that would leave too few is refused whole. Documented in library/mf_throttle.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ansible.plugins.action import ActionBase

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

GROUP = "mx"


def leaving_with(host: str, machines: Sequence[str], batch: Collection[str]) -> list[str]:
    """Return the other MX machines that are throttled at the same moment."""
    return [name for name in machines if name in batch and name != host]


class ActionModule(ActionBase):
    """Give the module the other hosts that are throttled in this run."""

    _supports_check_mode = True
    _supports_diff = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return the module's result."""
        super().run(tmp, task_vars)
        task_vars = task_vars or {}
        machines = task_vars.get("groups", {}).get(GROUP, [])
        leaving = leaving_with(task_vars["inventory_hostname"], machines, task_vars.get("ansible_play_batch") or ())
        result: dict[str, Any] = self._execute_module(
            module_args={**self._task.args, "leaving": leaving}, task_vars=task_vars
        )
        return result
