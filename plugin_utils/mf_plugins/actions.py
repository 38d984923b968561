# SPDX-License-Identifier: GPL-3.0-or-later
"""One action that runs another."""

from __future__ import annotations

from typing import Any

from ansible.plugins.action import ActionBase


def run_action(caller: ActionBase, name: str, arguments: dict[str, Any], variables: dict[str, Any]) -> dict[str, Any]:
    """The result of another action on the caller's host, over its connection."""
    task = caller._task.copy()
    task.args = arguments
    plugin = caller._shared_loader_obj.action_loader.get(
        name,
        task=task,
        connection=caller._connection,
        play_context=caller._play_context,
        loader=caller._loader,
        templar=caller._templar,
        shared_loader_obj=caller._shared_loader_obj,
    )
    result: dict[str, Any] = plugin.run(task_vars=variables)
    return result
