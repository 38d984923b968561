"""A host in a directory, releases for it, and a systemd that only keeps books."""

from __future__ import annotations

import functools
import grp
import importlib.util
import os
import pwd
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import MagicMock

import pytest
import yaml
from ansible.inventory.manager import InventoryManager
from ansible.module_utils.mf_deploy import host, release
from ansible.module_utils.mf_deploy.layout import Layout
from ansible.module_utils.mf_deploy.manifest import Manifest
from ansible.parsing.dataloader import DataLoader
from ansible.playbook import Playbook
from ansible.playbook.play import Play
from ansible.playbook.task import Task
from ansible.plugins.loader import init_plugin_loader, lookup_loader, module_loader
from ansible.template import Templar
from ansible.vars.hostvars import HostVars
from ansible.vars.manager import VariableManager
from mf_plugins import content

ROOT = Path(__file__).resolve().parents[2]
LIB = {"lib/pkg/__init__.py": "", "lib/pkg/a.py": "VALUE = 1\n"}
ONE = {"bin/tool": "#!/bin/sh\necho one\n", "etc/x.conf": "x = 1\n", "/etc/cron.d/mf": "# one\n", **LIB}
TWO = {**ONE, "bin/tool": "#!/bin/sh\necho two\n", "/etc/cron.d/mf": "# two\n", "/etc/new/deep/file": "new\n"}
THREE = {path: text for path, text in TWO.items() if path != "/etc/cron.d/mf"} | {"etc/x.conf": "x = 3\n"}

USER, GROUP = pwd.getpwuid(os.getuid()).pw_name, grp.getgrgid(os.getgid()).gr_name


def load_action(name: str) -> ModuleType:
    """A file in action_plugins/, which has the name of a module in library/."""
    spec = importlib.util.spec_from_file_location(f"{name}_action", ROOT / "action_plugins" / f"{name}.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


action = load_action("mf_deploy")


def serial_plays() -> dict[str, dict[str, Any]]:
    """Every play that goes from host to host."""
    plays = {}
    for path in sorted((ROOT / "playbooks").glob("*.yml")):
        for play in yaml.safe_load(path.read_text()):
            if "serial" in play:
                plays[f"{path.name}: {play['name']}"] = play
    return plays


class Controller:
    """What a command of Ansible knows about an inventory and a playbook, in this process."""

    def __init__(self, inventory: Path, **extra: Any) -> None:
        find_plugins()
        self.loader = DataLoader()
        self.inventory = InventoryManager(self.loader, [str(inventory)])
        self.variables = VariableManager(self.loader, self.inventory)
        HostVars(self.inventory, self.variables, self.loader)  # makes itself known to the variables
        self.variables._extra_vars = extra

    def plays(self, playbook: Path) -> list[Play]:
        """The plays of a playbook, with their roles."""
        return list(Playbook.load(str(playbook), self.variables, self.loader).get_plays())

    def plugin(self, plugins: ModuleType, name: str, play: Play, host: str) -> tuple[Any, dict[str, Any]]:
        """The action plugin of the play's first task of that name, and the variables of a host at that task."""
        task = next(task for task in tasks(play.compile()) if task.action == name)
        known = self.variables.get_vars(play=play, host=self.inventory.get_host(host), task=task)
        templar = Templar(self.loader, known)
        plugin = plugins.ActionModule(task, MagicMock(), MagicMock(), self.loader, templar, MagicMock())
        return plugin, known


@functools.cache
def find_plugins() -> None:
    """Find modules and plugins, as each command of Ansible does."""
    init_plugin_loader()
    lookup_loader.add_directory(str(ROOT / "lookup_plugins"))
    module_loader.add_directory(str(ROOT / "library"))


def tasks(blocks: Any) -> Iterator[Task]:
    """All tasks in blocks, at any depth."""
    for entry in blocks:
        if isinstance(entry, Task):
            yield entry
        else:
            yield from tasks(entry.block)


def make(
    files: Mapping[str, str | bytes],
    *,
    parts: Mapping[str, str] | None = None,
    modes: Mapping[str, int] | None = None,
    validate: Mapping[str, str] | None = None,
    units: Mapping[str, list[str]] | None = None,
    settings: Mapping[str, Any] | None = None,
    secret: Collection[str] = (),
) -> Any:
    """A release as the action plugin makes it; ``parts`` says which role a file is from (default: one)."""
    entries = [
        content.Entry(
            path=path,
            part=(parts or {}).get(path, "one"),
            content=text.encode() if isinstance(text, str) else text,
            mode=(modes or {}).get(path, 0o755 if path.startswith("bin/") else 0o644),
            owner=USER,
            group=GROUP,
            validate=(validate or {}).get(path, ""),
            secret=path in secret,
        )
        for path, text in files.items()
    ]
    return content.assemble(entries, settings or {}, units or {})


class Systemd:
    """Stands in for ``host.run``: units are ``{name: {property: value}}``; validators are ``test``-like words."""

    def __init__(self, root: str) -> None:
        self.root = root
        self.calls: list[list[str]] = []
        self.units: dict[str, dict[str, str]] = {}
        self.failing: set[str] = set()
        self.accounts: list[str] = []

    def start(self, name: str, at: float, *, active: bool = True, enabled: bool = True) -> None:
        self.units[name] = {
            "LoadState": "loaded",
            "ActiveState": "active" if active else "inactive",
            "UnitFileState": "enabled" if enabled else "disabled",
            "InactiveExitTimestampMonotonic": str(int(at * 1e6)),
        }

    def __call__(self, command: Sequence[str]) -> host.Outcome:
        self.calls.append(list(command))
        command_line = " ".join(command)
        if any(part in command_line for part in self.failing):
            return host.Outcome(1, "it does not want to")
        if command[:2] == ["systemctl", "show"]:
            names = command[command.index("--") + 1 :]
            missing = {"LoadState": "not-found", "ActiveState": "inactive"}
            blocks = ["\n".join(f"{k}={v}" for k, v in self.units.get(name, missing).items()) for name in names]
            return host.Outcome(0, "\n\n".join(blocks))
        if command[:3] == ["systemctl", "disable", "--now"]:
            self.units[command[-1]] |= {"ActiveState": "inactive", "UnitFileState": "disabled"}
        elif command[:2] == ["systemctl", "enable"]:
            self.units[command[-1]]["UnitFileState"] = "enabled"
        elif command[:2] == ["systemctl", "start"]:
            self.units[command[-1]]["ActiveState"] = "active"
        elif command[0] == "systemd-sysusers":
            self.accounts.append(Path(command[1]).read_text())
        elif command[0] == "systemd-tmpfiles":
            self._tmpfiles(command[2:])
        return host.Outcome(0, "")

    def _tmpfiles(self, paths: Sequence[str]) -> None:
        for path in paths:
            for line in Path(self.root + path).read_text().splitlines():
                kind, folder, mode, *_ = line.split()
                assert kind == "d"
                os.makedirs(self.root + folder, exist_ok=True)
                os.chmod(self.root + folder, int(mode, 8))


class Machine:
    """A host below a directory, with the module's states as methods."""

    def __init__(self, root: Path) -> None:
        self.root = root
        root.mkdir(exist_ok=True)
        self.layout = Layout(str(root))
        self.systemd = Systemd(str(root))

    def deploy(self, made: Any, *, check: bool = False, diff: bool = False) -> dict[str, Any]:
        """Both executions, as the action plugin does them."""
        wanted = Manifest(made.manifest)
        result = release.present(self.layout, wanted, None, self.systemd, check=check, diff=diff)
        if result["changed"]:
            sent = {sha256: made.contents[sha256] for sha256 in result["needed"]}
            before = result.get("before")
            result = release.present(self.layout, wanted, sent, self.systemd, check=check, diff=diff)
            if before is not None:
                result["before"] = before
        return dict(result)

    def back(self, *, check: bool = False) -> dict[str, Any]:
        return dict(release.rolled_back(self.layout, self.systemd, check=check))

    def remove(self, *, check: bool = False) -> dict[str, Any]:
        return dict(release.absent(self.layout, self.systemd, check=check))

    def text(self, path: str) -> str:
        """What a program on the host reads there."""
        return (self.root / path.lstrip("/")).read_text()

    def everything(self, *, below: str = "") -> dict[str, tuple[Any, ...]]:
        """Every path with what it is: kind, mode, content. Locks and the release directories' names aside."""
        entries: dict[str, tuple[Any, ...]] = {}
        for folder, folders, names in os.walk(self.root / below):
            for name in (*folders, *names):
                path = Path(folder, name)
                key = str(path.relative_to(self.root))
                if path.is_symlink():
                    entries[key] = ("link", os.readlink(path))
                elif path.is_dir():
                    entries[key] = ("folder", path.stat().st_mode)
                else:
                    entries[key] = ("file", path.stat().st_mode, path.read_bytes())
        return entries

    def visible_files(self) -> dict[str, tuple[Any, ...]]:
        """What the rest of the system can see of a release: /mf by its links, and host files; no lock, no journal."""
        entries = {key: what for key, what in self.everything().items() if not key.startswith(("mf/", "run"))}
        for name in ("bin", "etc", "lib"):
            start = self.root / "mf" / name
            for path in sorted(start.rglob("*")) if start.exists() else ():
                if path.is_file() and "__pycache__" not in path.parts:
                    entries[str(path.relative_to(self.root))] = ("file", path.stat().st_mode, path.read_bytes())
        return entries


class Injected(OSError):
    """The fault."""


def files_of(entries: dict[str, tuple[Any, ...]]) -> dict[str, tuple[Any, ...]]:
    return {key: what for key, what in entries.items() if what[0] == "file"}


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A test's directory needn't survive a power cut, and a disk may be slow."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


@pytest.fixture
def machine(tmp_path: Path, impatient: None) -> Machine:
    return Machine(tmp_path / "host")
