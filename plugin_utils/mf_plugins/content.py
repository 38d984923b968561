# SPDX-License-Identifier: GPL-3.0-or-later
"""The content of a release: files of roles, their settings merged, a manifest with its generation."""

from __future__ import annotations

import base64
import fnmatch
import hashlib
import json
import os
import zlib
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from ansible.errors import AnsibleActionFail

TOKEN = "@generation@"
TREE = ("bin", "etc", "lib")
IGNORED = (".*", "__pycache__", "*.pyc", "*~")
"""Names that editors, linters and interpreters leave in a role."""


class Role(NamedTuple):
    """A role of the play: its name and its directory."""

    name: str
    path: str


class Source(NamedTuple):
    """A file that a role brings: its path in the manifest, where it lies in the role, whether it is a template."""

    path: str
    origin: str
    template: bool


class Entry(NamedTuple):
    """A rendered file and how it is to be on the host. ``content`` still has the token."""

    path: str
    part: str
    content: bytes
    mode: int
    owner: str
    group: str
    validate: str
    secret: bool = False


class Release(NamedTuple):
    """A release for a host: the manifest, and the contents by sha256 (``tokens``: by path, before the generation)."""

    manifest: dict[str, Any]
    contents: dict[str, bytes]
    tokens: dict[str, bytes]


def sources(role: Role) -> Iterator[Source]:
    """All files of a role, by the house rule: files/ and templates/, below bin, etc, lib or root."""
    for kind in ("files", "templates"):
        for top in (*TREE, "root"):
            start = f"{role.path}/{kind}/{top}"
            for folder, folders, names in os.walk(start):
                folders[:] = sorted(name for name in folders if not _ignored(name))
                for name in sorted(names):
                    if _ignored(name):
                        continue
                    origin = f"{folder}/{name}"
                    inner = os.path.relpath(origin, start)
                    path = f"/{inner}" if top == "root" else f"{top}/{inner}"
                    if kind == "templates":
                        if not path.endswith(".j2"):
                            raise AnsibleActionFail(f"{shown(origin, role)}: the name of a template ends in .j2")
                        path = path.removesuffix(".j2")
                    yield Source(path, origin, kind == "templates")


def _ignored(name: str) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in IGNORED)


def shown(origin: str, role: Role) -> str:
    """A path from the role's directory on, as an operator looks for it."""
    return f"roles/{role.name}/{os.path.relpath(origin, role.path)}"


def merge(into: dict[str, Any], new: Mapping[str, Any], part: str, owners: dict[str, str], above: str = "") -> None:
    """Merge a role's settings deeply. Raises AnsibleActionFail when two roles disagree about a value."""
    for key, value in new.items():
        path = f"{above}{key}"
        if isinstance(value, Mapping) and isinstance(into.get(key, {}), dict):
            merge(into.setdefault(key, {}), value, part, owners, f"{path}.")
        elif key in into and into[key] != value:
            other = owners.get(path) or next((owners[name] for name in owners if name.startswith(f"{path}.")), "?")
            raise AnsibleActionFail(f"setting {path} comes from role {other} and, with another value, from role {part}")
        else:
            into[key] = value
            owners.setdefault(path, part)


def settings_text(parts: Mapping[str, Mapping[str, Any]], host: str, kind: str) -> bytes:
    """The content of etc/mf.json from all roles' settings, as ``to_nice_json`` writes it."""
    settings: dict[str, Any] = {"generation": TOKEN, "host": host, "type": kind}
    owners = dict.fromkeys(settings, "mf_tree")
    for part, value in sorted(parts.items()):
        merge(settings, value, part, owners)
    return (json.dumps(settings, indent=4, sort_keys=True) + "\n").encode()


def assemble(entries: list[Entry], parts: Mapping[str, Any], units: Mapping[str, list[str]]) -> Release:
    """Manifest and contents of a release. Its generation is a hash over all that it means, so the same input always
    gives the same. Raises AnsibleActionFail when two entries want the same path, one lies below another, or two roles
    bring the same Python package."""
    by_path: dict[str, Entry] = {}
    for entry in entries:
        other = by_path.setdefault(entry.path, entry)
        if other is not entry:
            owners = " and ".join(sorted({f"role {entry.part}", f"role {other.part}"}))
            raise AnsibleActionFail(f"{entry.path} is brought twice, by {owners}; rename or remove one")
    for path, entry in by_path.items():
        folder = os.path.dirname(path)
        while folder not in ("", "/"):
            if folder in by_path:
                raise AnsibleActionFail(
                    f"{folder} of role {by_path[folder].part} is a file, and a directory for {path} of role "
                    f"{entry.part}; rename one"
                )
            folder = os.path.dirname(folder)
    packages: dict[str, Entry] = {}
    for path, entry in sorted(by_path.items()):
        if path.startswith("lib/") and path.endswith(".py"):
            package = "/".join(path.split("/")[:2])
            other = packages.setdefault(package, entry)
            if other.part != entry.part:
                raise AnsibleActionFail(
                    f"{package} is a package of role {other.part} ({other.path}) and of role {entry.part} ({path}); "
                    "rename one"
                )
    files: list[dict[str, Any]] = [
        {
            "path": path,
            "part": entry.part,
            "mode": f"{entry.mode:04o}",
            "owner": entry.owner,
            "group": entry.group,
            "validate": entry.validate,
            "source": hashlib.sha256(entry.content).hexdigest(),
            "secret": entry.secret,
        }
        for path, entry in sorted(by_path.items())
    ]
    digests = {part: hashlib.sha256(_canonical(value)).hexdigest()[:16] for part, value in sorted(parts.items())}
    meaning = {"files": files, "settings": digests, "units": dict(sorted(units.items()))}
    generation = hashlib.sha256(_canonical(meaning)).hexdigest()[:12]
    contents = {}
    for file in files:
        content = by_path[str(file["path"])].content.replace(TOKEN.encode(), generation.encode())
        file["sha256"] = hashlib.sha256(content).hexdigest()
        contents[file["sha256"]] = content
    tokens = {path: entry.content for path, entry in by_path.items()}
    return Release({"generation": generation, **meaning}, contents, tokens)


def refuse_absent_modules(entries: list[Entry], checks: Mapping[str, Mapping[str, Any]]) -> None:
    """Raise AnsibleActionFail for a check whose module no role brings. ``checks``: each role's, by name."""
    paths = {entry.path for entry in entries}
    for role, table in checks.items():
        for name, options in table.items():
            module = str(options.get("module", "")) if isinstance(options, dict) else ""
            path = f"lib/{module.replace('.', '/')}.py"
            if path not in paths:
                raise AnsibleActionFail(
                    f"roles/{role}/vars/main.yml: __{role}_checks: the check {name} names the module {module!r}, and "
                    f"no role brings {path}. Nothing was changed."
                )


def _canonical(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def pack(value: Any) -> str:
    """A value as base64(zlib(JSON))."""
    return base64.b64encode(zlib.compress(_canonical(value))).decode()


def pack_content(contents: Mapping[str, bytes]) -> str:
    """Contents as base64(zlib(a line of JSON ``[[sha256, size], ...]`` and the contents))."""
    header = json.dumps([[sha256, len(data)] for sha256, data in contents.items()]).encode()
    return base64.b64encode(zlib.compress(header + b"\n" + b"".join(contents.values()))).decode()


def diff(before: Mapping[str, str], paths: list[str], release: Release) -> list[dict[str, str]]:
    """One difference for each changed path. Files that not every user may read are only named."""
    modes = {file["path"]: int(file["mode"], 8) for file in release.manifest["files"]}
    changes = []
    for path in paths:
        new = release.tokens.get(path)
        label = {"before_header": path, "after_header": path}
        if new is None:
            changes.append({**label, "before": before.get(path, "there\n"), "after": ""})
        elif not modes[path] & 0o004 or b"\0" in new:
            changes.append({**label, "before": "", "after": "(changed; content not shown)\n"})
        elif path.startswith("lib/") and path not in before:
            changes.append({**label, "before": "", "after": f"(new, {len(new)} bytes)\n"})
        else:
            changes.append({**label, "before": before.get(path, ""), "after": new.decode(errors="replace")})
    return changes
