# SPDX-License-Identifier: GPL-3.0-or-later
"""The controller's half of mf_throttle: it alone knows which hosts are throttled together.

Each host looks at its peers before it refuses mail, but hosts of one run act at the same moment, so none of them would
see the others refuse. Therefore a run that would leave too few is refused whole, before any host is touched, and each
host is told which others leave with it, to count them as gone already. Documented in library/mf_throttle.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ansible.module_utils.parsing.convert_bool import boolean
from ansible.plugins.action import ActionBase

if TYPE_CHECKING:
    from collections.abc import Sequence

GROUP = "mx"


def refusal(machines: int, leaving: Sequence[str], minimum: int) -> str | None:
    """Why these MX machines can't all refuse mail at once; None when they can."""
    left = machines - len(leaving)
    if left >= minimum:
        return None
    spare = max(0, machines - minimum)
    few = f"name at most {spare} of them (--limit, or serial: {spare})" if spare else "none can be spared"
    return (
        f"over budget: to throttle {len(leaving)} of {machines} MX machines at once leaves {left} that accept mail; "
        f"{minimum} must. Nothing was changed: {few}, or say refuse=false to throttle without refusing mail, "
        "force=true to refuse it all the same"
    )


class ActionModule(ActionBase):
    """Apply the fleet's budget to the hosts of this run, then let the module do the rest."""

    _supports_check_mode = True
    _supports_diff = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return the module's result, or the refusal."""
        super().run(tmp, task_vars)
        task_vars = task_vars or {}
        arguments = {key: value for key, value in self._task.args.items() if key != "leaving"}
        machines = task_vars.get("groups", {}).get(GROUP, [])
        host = task_vars.get("inventory_hostname")
        if arguments.get("state", "present") == "present" and host in machines and self._refuses(arguments):
            together = set(task_vars.get("ansible_play_batch") or [host])
            leaving = [name for name in machines if name in together]
            minimum = self._templar.template(task_vars.get("mf_min_accepting", 0))
            if isinstance(minimum, int) and (why := refusal(len(machines), leaving, minimum)):
                return {"failed": True, "changed": False, "msg": why}
            arguments["leaving"] = [name for name in leaving if name != host]
        result: dict[str, Any] = self._execute_module(module_args=arguments, task_vars=task_vars)
        return result

    @staticmethod
    def _refuses(arguments: dict[str, Any]) -> bool:
        """Whether the lease counts against the budget. What is no boolean is left for the module to refuse."""
        refuse, force = (boolean(arguments.get(key, key == "refuse"), strict=False) for key in ("refuse", "force"))
        return refuse and not force
