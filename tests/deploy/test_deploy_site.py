"""What site.yml makes of the real roles for each type of host of the example inventory."""

from __future__ import annotations

import importlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import make_secrets
import pytest
from ansible import constants
from ansible.inventory.manager import InventoryManager
from ansible.parsing.dataloader import DataLoader
from ansible.playbook import Playbook
from ansible.playbook.task import Task
from ansible.plugins.loader import init_plugin_loader, lookup_loader, module_loader
from ansible.template import Templar
from ansible.vars.hostvars import HostVars
from ansible.vars.manager import VariableManager
from deploy_support import ROOT, action

SITE = ROOT / "playbooks/site.yml"
PACKAGES = {
    "mx": {"mf", "mf_canary", "mf_checks", "mf_rejected", "qpsmtpd"},
    "control": {"mf", "mf_backup", "mf_canary", "mf_checks", "mf_quarantine"},
    "offsite": {"mf", "mf_checks", "mf_offsite"},
    "monitor": {"mf", "mf_checks", "mf_monitor"},
}
"""Type of host -> what is in its /mf/lib. molecule/fleet asserts the same on hosts."""


def secrets() -> dict[str, Any]:
    """Secrets of the right shape, and nobody's."""
    pair = {"public": "ssh-ed25519 AAAA", "private": "a key\n"}
    return {
        "canary_key": "0" * 64,
        "borg_passphrase": "1" * 64,
        "page": {"user": "mf", "password": "x", "hash": "$6$x$y"},
        "ssh": dict.fromkeys(make_secrets.SSH_KEYS, pair),
    }


def tasks(blocks: Any) -> Iterator[Task]:
    """All tasks in blocks, at any depth."""
    for entry in blocks:
        if isinstance(entry, Task):
            yield entry
        else:
            yield from tasks(entry.block)


class Site:
    """site.yml over a copy of the roles."""

    def __init__(self, folder: Path) -> None:
        self.roles = folder / "roles"
        shutil.copytree(ROOT / "roles", self.roles)
        self.loader = DataLoader()
        self.inventory = InventoryManager(self.loader, [str(ROOT / "inventory/example")])
        self.variables = VariableManager(self.loader, self.inventory)
        HostVars(self.inventory, self.variables, self.loader)  # makes itself known to the variables
        self.variables._extra_vars = {"mf_secrets": secrets(), "mf_ssh_host_key": "ssh-ed25519 AAAA"}

    def gather(self) -> dict[str, Any]:
        """Type of host -> the release that its play makes."""
        plays = {play.hosts: play for play in Playbook.load(str(SITE), self.variables, self.loader).get_plays()}
        found = {}
        for kind in PACKAGES:
            task = next(task for task in tasks(plays[kind].compile()) if task.action == "mf_deploy")
            host = self.inventory.get_hosts(kind)[0]
            known = self.variables.get_vars(play=plays[kind], host=host, task=task)
            templar = Templar(self.loader, known)
            plugin = action.ActionModule(task, MagicMock(), MagicMock(), self.loader, templar, MagicMock())
            found[kind] = plugin.gather(host.name, kind, known)
        return found


@pytest.fixture(scope="module", autouse=True)
def _plugins() -> None:
    """Find modules and plugins, as each command of Ansible does."""
    init_plugin_loader()
    lookup_loader.add_directory(str(ROOT / "lookup_plugins"))
    module_loader.add_directory(str(ROOT / "library"))


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    found = Site(tmp_path)
    monkeypatch.setattr(constants, "DEFAULT_ROLES_PATH", [str(found.roles)])
    return found


def test_a_changed_file_reaches_only_hosts_that_have_its_role(site: Site) -> None:
    """A byte of the status page's stylesheet took each MX out of service once, for nothing."""
    before = site.gather()
    style = site.roles / "mf_monitor/files/lib/mf_monitor/page/page.css"
    style.write_text(style.read_text() + "\n")
    after = site.gather()
    changed = {kind for kind in PACKAGES if before[kind].manifest["generation"] != after[kind].manifest["generation"]}
    assert changed == {"monitor"}


def test_a_host_has_what_it_runs_and_nothing_else(site: Site) -> None:
    releases = site.gather()
    for kind, release in releases.items():
        paths = {file["path"] for file in release.manifest["files"]}
        assert {path.split("/")[1] for path in paths if path.startswith("lib/")} == PACKAGES[kind]
        checks = json.loads(release.tokens["etc/mf.json"])["checks"]
        assert {f"bin/check-{name}" for name in checks} == {path for path in paths if path.startswith("bin/check-")}
        for name, options in checks.items():
            # run-checks loads a check by this
            assert f"lib/{options['module'].replace('.', '/')}.py" in paths, (kind, name)
            assert importlib.import_module(options["module"]).CHECK.name == name
