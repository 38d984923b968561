# SPDX-License-Identifier: GPL-3.0-or-later
"""Controller's half of mf_deploy: gathers and renders the files, settings, packages and units of a play's roles.

Documented in library/mf_deploy.py; roles/mf_tree/README.md has the names by which roles contribute. All is checked
here, before the first remote execution: a missing variable or two roles with the same path change nothing.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail, AnsibleError, AnsibleTemplateError
from ansible.plugins.action import ActionBase
from ansible.template import generate_ansible_template_vars, trust_as_template

# outside of a collection Ansible finds no plugin_utils
sys.path.append(str(Path(__file__).resolve().parents[1] / "plugin_utils"))

from mf_plugins.actions import run_action
from mf_plugins.content import (
    Entry,
    Release,
    Role,
    Source,
    assemble,
    diff,
    pack,
    pack_content,
    refuse_absent_modules,
    settings_text,
    shown,
    sources,
)

SETTINGS = "etc/mf.json"
EXCEPTIONS = frozenset({"mode", "owner", "group", "validate", "present", "secret"})
VALIDATORS = {"/etc/ssh/sshd_config.d/": "/usr/sbin/sshd -t -f %s"}
"""Directory -> the command that validates its files, unless the role has its own."""


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
            return self._ask({"state": arguments["state"]}, variables)
        return self._present(arguments, variables)

    def _present(self, arguments: dict[str, Any], variables: dict[str, Any]) -> dict[str, Any]:
        try:
            release = self.gather(str(arguments["host"]), str(arguments["type"]), variables)
        except AnsibleError:
            # a role's preflight has the better message for a wrong value
            refused = self._preflight(None, variables)
            if refused:
                return refused
            raise
        request = {
            "state": "present",
            "manifest": pack(release.manifest),
            "roles": [role.name for role in self.roles()],
            "remove_roles": arguments["remove_roles"],
        }
        result = self._ask({**request, "packages": self.packages(variables)}, variables)
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
        result = {**result, "changed": bool(result["changed"] or missing), "packages": missing}
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

    def packages(self, variables: dict[str, Any]) -> list[str]:
        """Return the Debian packages that the roles of the play need."""
        return sorted(
            {str(name) for role in self.roles() for name in self._contribution(role, "packages", list, variables)}
        )

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

    def gather(self, host: str, kind: str, variables: dict[str, Any]) -> Release:
        """Return the release of the play's roles for this host. Raises AnsibleActionFail."""
        entries: list[Entry] = []
        parts: dict[str, Mapping[str, Any]] = {}
        units: dict[str, list[str]] = {}
        checks: dict[str, dict[str, Any]] = {}
        for role in self.roles():
            exceptions = self._contribution(role, "files", dict, variables)
            entries += self._entries(role, exceptions, variables)
            settings = self._contribution(role, "settings", dict, variables)
            if settings:
                parts[role.name] = settings
            checks[role.name] = self._contribution(role, "checks", dict, variables)
            for unit in self._contribution(role, "units", list, variables):
                units.setdefault(str(unit), []).append(role.name)
        for unit, owners in units.items():
            units[unit] = sorted(owners)
        refuse_absent_modules(entries, checks)
        text = settings_text(parts, host, kind)
        entries.append(Entry(SETTINGS, "settings", text, 0o644, "root", "root", ""))
        return assemble(entries, parts, units)

    def _contribution(self, role: Role, what: str, kind: type, variables: dict[str, Any]) -> Any:
        """Return the value of ``__<role>_<what>`` as plain JSON; empty when the role has none."""
        name = f"__{role.name}_{what}"
        if name not in variables:
            return kind()
        where = f"roles/{role.name}/vars/main.yml: {name}"
        try:
            value = json.loads(json.dumps(self._evaluate(variables[name]), allow_nan=False))
        except AnsibleError as error:
            raise AnsibleActionFail(f"{where}: {_reason(error)}. Nothing was changed.") from None
        except (TypeError, ValueError) as error:
            raise AnsibleActionFail(f"{where} can't be written as JSON: {error}. Nothing was changed.") from None
        if not isinstance(value, kind):
            raise AnsibleActionFail(f"{where} must be a {kind.__name__}, not {value!r}. Nothing was changed.")
        return value

    def _evaluate(self, value: Any) -> Any:
        """Return a variable's value; what YAML's aliases share in a mapping is worked out once, not for each file."""
        if not isinstance(value, dict):
            return self._templar.template(value)
        shared: dict[int, Any] = {}
        for item in value.values():
            if id(item) not in shared:
                shared[id(item)] = self._templar.template(item)
        return {key: shared[id(item)] for key, item in value.items()}

    def _entries(self, role: Role, exceptions: dict[str, Any], variables: dict[str, Any]) -> Iterator[Entry]:
        unused = set(exceptions)
        where = f"roles/{role.name}/vars/main.yml: __{role.name}_files"
        for source in sources(role):
            unused.discard(source.path)
            options = exceptions.get(source.path) or {}
            if not isinstance(options, dict) or set(options) - EXCEPTIONS:
                raise AnsibleActionFail(
                    f"{where}[{source.path!r}] takes {', '.join(sorted(EXCEPTIONS))}, not {options!r}"
                )
            if not options.get("present", True):
                continue
            validate = str(options.get("validate") or _validator(source.path))
            if validate and "%s" not in validate:
                raise AnsibleActionFail(f"{where}[{source.path!r}]: validate must have %s where the file's path goes")
            default = "0755" if source.path.startswith("bin/") else "0644"
            yield Entry(
                path=source.path,
                part=role.name,
                content=self._content(source, role, variables),
                mode=_mode(options.get("mode", default), f"{where}[{source.path!r}]"),
                owner=str(options.get("owner", "root")),
                group=str(options.get("group", "root")),
                validate=validate,
                secret=bool(options.get("secret", False)),
            )
        if unused:
            raise AnsibleActionFail(f"{where} names what the role doesn't bring: {', '.join(sorted(unused))}")

    def _content(self, source: Source, role: Role, variables: dict[str, Any]) -> bytes:
        """Return a file's content; a template is rendered as by ansible.builtin.template."""
        if not source.template:
            with open(source.origin, "rb") as file:
                return file.read()
        try:
            text = self._loader.get_text_file_contents(source.origin)
            known = {
                **variables,
                **generate_ansible_template_vars(os.path.basename(source.origin), source.origin, source.path),
                "role_name": role.name,
                "role_path": role.path,
            }
            templar = self._templar.copy_with_new_env(
                searchpath=[os.path.dirname(source.origin), f"{role.path}/templates"], available_variables=known
            )
            rendered = templar.template(
                trust_as_template(text), escape_backslashes=False, overrides={"trim_blocks": True}
            )
        except AnsibleError as error:
            raise AnsibleActionFail(f"{shown(source.origin, role)}: {_reason(error)}. Nothing was changed.") from None
        return ("" if rendered is None else str(rendered)).encode()


def _validator(path: str) -> str:
    """Return the command that validates a file of this path, unless the role has its own."""
    return next((command for folder, command in VALIDATORS.items() if path.startswith(folder)), "")


def _mode(value: Any, where: str) -> int:
    try:
        mode = int(value, 8) if isinstance(value, str) else -1
    except ValueError:
        mode = -1
    if not 0 <= mode <= 0o7777:
        raise AnsibleActionFail(f"{where}: mode must be an octal text such as '0640', not {value!r}")
    return mode


def _reason(error: AnsibleError) -> str:
    """Return the innermost message, without Ansible's frames around it."""
    cause: BaseException = error
    while isinstance(cause.__cause__, AnsibleTemplateError):
        cause = cause.__cause__
    message = getattr(cause, "message", None) or str(cause)
    return str(message).strip().rstrip(".")
