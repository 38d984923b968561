# SPDX-License-Identifier: GPL-3.0-or-later
"""Controller's half of mf_deploy: makes the release of a play's roles, asks the host, sends what it lacks.

Documented in library/mf_deploy.py; roles/mf_tree/README.md has the names by which roles contribute. All is checked
here, before the first remote execution: a missing variable or two roles with the same path change nothing.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail, AnsibleError
from ansible.plugins.action import ActionBase

# outside of a collection Ansible finds no plugin_utils
sys.path.append(str(Path(__file__).resolve().parents[1] / "plugin_utils"))

from mf_plugins.actions import run_action
from mf_plugins.content import Role, diff, pack, pack_content
from mf_plugins.gather import Gatherer


class ActionModule(ActionBase):
    """See library/mf_deploy.py."""

    _supports_check_mode = True
    _supports_diff = True
    _VALID_ARGS = frozenset({"state", "host", "type", "remove_roles"})

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Entry point: gather, ask the host, send what it lacks."""
        variables = task_vars or {}
        super().run(tmp, variables)
        _, arguments = self.validate_argument_spec(
            argument_spec={
                "state": {
                    "type": "str",
                    "choices": ["present", "rolled_back", "settled", "absent"],
                    "default": "present",
                },
                "host": {"type": "str"},
                "type": {"type": "str"},
                "remove_roles": {"type": "list", "elements": "str", "default": []},
            },
            required_if=[("state", "present", ("host", "type"))],
        )
        if arguments["state"] != "present":
            removed = {"remove_roles": arguments["remove_roles"]} if arguments["state"] == "rolled_back" else {}
            return self._ask({"state": arguments["state"], **removed}, variables)
        return self._present(arguments, variables)

    def _present(self, arguments: dict[str, Any], variables: dict[str, Any]) -> dict[str, Any]:
        gatherer = self.gatherer(variables)
        try:
            release = gatherer.release(str(arguments["host"]), str(arguments["type"]))
        except AnsibleError:
            # a role's preflight has the better message for a wrong value
            refused = self._preflight(None, variables)
            if refused:
                return refused
            raise
        request = {
            "state": "present",
            "manifest": pack(release.manifest),
            "roles": [role.name for role in gatherer.roles],
            "remove_roles": arguments["remove_roles"],
        }
        result = self._ask({**request, "packages": gatherer.packages()}, variables)
        if result.get("failed"):
            return result
        facts, before = result.pop("facts"), result.pop("before", None)
        missing, lacking = list(facts["missing"]), result.pop("needed", [])
        # an unchanged host passed its preflight with the same values when it was deployed
        full = bool(result["changed"] or missing)
        refused = self._preflight(facts, variables, full=full)
        if refused:
            return refused
        if full:
            if missing and not self._task.check_mode:
                installed = self._install(missing, variables)
                if installed.get("failed"):
                    return installed
            sent = {sha256: release.contents[sha256] for sha256 in lacking}
            result = self._ask({**request, "content": pack_content(sent)}, variables)
            if result.get("failed"):
                return result
        result = {
            **result,
            "changed": bool(result["changed"] or missing),
            "packages": missing,
            "rehearsed": bool(self._task.check_mode),
        }
        if before is not None:
            result["diff"] = diff(before, result["changed_paths"], release)
        return result

    def _preflight(
        self, facts: dict[str, Any] | None, variables: dict[str, Any], *, full: bool = True
    ) -> dict[str, Any] | None:
        """Return the failure that mf_preflight finds, or None."""
        result = run_action(self, "mf_preflight", {"facts": facts or {}, "roles": full}, variables)
        return result if result.get("failed") else None

    def _install(self, packages: list[str], variables: dict[str, Any]) -> dict[str, Any]:
        arguments = {
            "name": packages,
            "install_recommends": False,
            "lock_timeout": 120,
            # Debian starts a service when it is installed: on port 25, without our configuration. Roles start theirs.
            "policy_rc_d": 101,
        }
        result: dict[str, Any] = self._execute_module(
            module_name="ansible.builtin.apt", module_args=arguments, task_vars=variables
        )
        if result.get("failed"):
            result["msg"] = f"apt could not install {', '.join(packages)}; the tree is as it was. {result.get('msg')}"
        return result

    def _ask(self, arguments: dict[str, Any], variables: dict[str, Any]) -> dict[str, Any]:
        answer: dict[str, Any] = self._execute_module(
            module_name="mf_deploy", module_args=arguments, task_vars=variables
        )
        answer.pop("invocation", None)
        return answer

    def roles(self) -> list[Role]:
        """Return all roles of the play with their dependencies, sorted by name."""
        play = self._task.get_play()
        paths = {
            role.get_name(): role.get_role_path() for top in play.roles for role in (*top.get_all_dependencies(), top)
        }
        mine = self._task._role
        if mine is not None and mine.get_name() not in paths:
            raise AnsibleActionFail(
                "a release is made of all roles of a play, and one that is included while it runs isn't known before: "
                "use roles or import_role. Nothing was changed."
            )
        return [Role(name, path) for name, path in sorted(paths.items())]

    def gatherer(self, variables: dict[str, Any]) -> Gatherer:
        """Return what reads the roles of the play, with this host's variables."""
        return Gatherer(self.roles(), variables, self._templar, self._loader)
