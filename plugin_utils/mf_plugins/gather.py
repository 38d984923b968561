# SPDX-License-Identifier: GPL-3.0-or-later
"""Reads what roles contribute to a release: files, settings, packages, units, checks. See roles/mf_tree/README.md."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ansible.errors import AnsibleActionFail, AnsibleError, AnsibleTemplateError
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar, generate_ansible_template_vars, trust_as_template

from .content import Entry, Release, Role, Source, assemble, refuse_absent_modules, settings_text, shown, sources

SETTINGS = "etc/mf.json"
EXCEPTIONS = frozenset({"mode", "owner", "group", "validate", "present", "secret"})
VALIDATORS = {"/etc/ssh/sshd_config.d/": "/usr/sbin/sshd -t -f %s"}
"""Directory -> the command that validates its files, unless the role has its own."""


class Gatherer:
    """The contributions of a play's roles, rendered with one host's variables.

    ``roles``: with their dependencies, sorted by name.
    """

    def __init__(
        self, roles: Sequence[Role], variables: Mapping[str, Any], templar: Templar, loader: DataLoader
    ) -> None:
        self.roles = roles
        self.variables = variables
        self.templar = templar
        self.loader = loader

    def packages(self) -> list[str]:
        """The Debian packages that the roles need, sorted. Raises AnsibleActionFail."""
        return sorted({str(name) for role in self.roles for name in self._contribution(role, "packages", list)})

    def release(self, host: str, kind: str) -> Release:
        """The roles' release for this host. Raises AnsibleActionFail."""
        entries: list[Entry] = []
        parts: dict[str, Mapping[str, Any]] = {}
        units: dict[str, list[str]] = {}
        checks: dict[str, dict[str, Any]] = {}
        for role in self.roles:
            exceptions = self._contribution(role, "files", dict)
            entries += self._entries(role, exceptions)
            settings = self._contribution(role, "settings", dict)
            if settings:
                parts[role.name] = settings
            checks[role.name] = self._contribution(role, "checks", dict)
            for unit in self._contribution(role, "units", list):
                units.setdefault(str(unit), []).append(role.name)
        for unit, owners in units.items():
            units[unit] = sorted(owners)
        refuse_absent_modules(entries, checks)
        text = settings_text(parts, host, kind)
        entries.append(Entry(SETTINGS, "settings", text, 0o644, "root", "root", ""))
        return assemble(entries, parts, units)

    def _contribution(self, role: Role, what: str, kind: type) -> Any:
        """Return the value of ``__<role>_<what>`` as plain JSON; empty when the role has none."""
        name = f"__{role.name}_{what}"
        if name not in self.variables:
            return kind()
        where = f"roles/{role.name}/vars/main.yml: {name}"
        try:
            value = json.loads(json.dumps(self._evaluate(self.variables[name]), allow_nan=False))
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
            return self.templar.template(value)
        shared: dict[int, Any] = {}
        for item in value.values():
            if id(item) not in shared:
                shared[id(item)] = self.templar.template(item)
        return {key: shared[id(item)] for key, item in value.items()}

    def _entries(self, role: Role, exceptions: dict[str, Any]) -> Iterator[Entry]:
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
                content=self.content(source, role),
                mode=_mode(options.get("mode", default), f"{where}[{source.path!r}]"),
                owner=str(options.get("owner", "root")),
                group=str(options.get("group", "root")),
                validate=validate,
                secret=bool(options.get("secret", False)),
            )
        if unused:
            raise AnsibleActionFail(f"{where} names what the role doesn't bring: {', '.join(sorted(unused))}")

    def content(self, source: Source, role: Role) -> bytes:
        """Return a file's content; a template is rendered as by ansible.builtin.template."""
        if not source.template:
            with open(source.origin, "rb") as file:
                return file.read()
        try:
            text = self.loader.get_text_file_contents(source.origin)
            known = {
                **self.variables,
                **generate_ansible_template_vars(os.path.basename(source.origin), source.origin, source.path),
                "role_name": role.name,
                "role_path": role.path,
            }
            templar = self.templar.copy_with_new_env(
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
