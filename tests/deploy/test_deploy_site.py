"""What site.yml makes of the real roles for each type of host of the example inventory."""

from __future__ import annotations

import importlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import make_secrets
import pytest
from ansible import constants
from ansible.module_utils.mf_deploy import guard
from ansible.module_utils.mf_deploy.layout import DeployError
from ansible.module_utils.mf_deploy.manifest import Manifest

from tests.core.test_fast_path import checks_of_an_mx
from tests.deploy.conftest import ROOT, Controller, action
from tests.repository.test_packages import CALLED, imports, named

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


class Site(Controller):
    """site.yml over a copy of the roles."""

    def __init__(self, folder: Path) -> None:
        super().__init__(ROOT / "inventory/example", mf_secrets=secrets(), mf_ssh_host_key="ssh-ed25519 AAAA")
        self.roles = folder / "roles"
        shutil.copytree(ROOT / "roles", self.roles)

    def gather(self) -> dict[str, Any]:
        """Type of host -> the release that its play makes."""
        plays = {play.hosts: play for play in self.plays(SITE)}
        by_kind = {}
        for kind in PACKAGES:
            host = self.inventory.get_hosts(kind)[0].name
            plugin, known = self.plugin(action, "mf_deploy", plays[kind], host)
            by_kind[kind] = plugin.gatherer(known).release(host, kind)
        return by_kind


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with pytest.MonkeyPatch.context() as patch:
        new_site = Site(tmp_path_factory.mktemp("site"))
        patch.setattr(constants, "DEFAULT_ROLES_PATH", [str(new_site.roles)])
        yield new_site


@pytest.fixture(scope="module")
def releases(site: Site) -> dict[str, Any]:
    """What the roles make as they are."""
    return site.gather()


def test_a_changed_file_reaches_only_hosts_that_have_its_role(site: Site, releases: dict[str, Any]) -> None:
    """A byte of the status page's stylesheet took each MX out of service once, for nothing."""
    style = site.roles / "mf_monitor/files/lib/mf_monitor/page/page.css"
    style.write_text(style.read_text() + "\n")
    after = site.gather()
    changed = {kind for kind in PACKAGES if releases[kind].manifest["generation"] != after[kind].manifest["generation"]}
    assert changed == {"monitor"}


def test_one_role_alone_does_not_take_the_others_from_an_mx(
    site: Site, releases: dict[str, Any], tmp_path: Path
) -> None:
    """The accident of every Ansible user: "just run that role"."""
    playbook = tmp_path / "checks.yml"
    playbook.write_text("- hosts: mx\n  roles: [mf_checks]\n")
    (play,) = site.plays(playbook)
    full = next(play for play in site.plays(SITE) if play.hosts == "mx")
    host = site.inventory.get_hosts("mx")[0].name
    alone, whole = (
        {role.name for role in site.plugin(action, "mf_deploy", which, host)[0].roles()} for which in (play, full)
    )
    assert alone == {"mf_tree", "mf_throttle", "mf_checks"}
    present = Manifest(releases["mx"].manifest).roles
    guard.keep_roles(present, whole, ())
    with pytest.raises(DeployError, match=r"this host has .*mf_exim.*qpsmtpd, and this play doesn't"):
        guard.keep_roles(present, alone, ())


def test_a_host_has_what_it_runs_and_nothing_else(releases: dict[str, Any]) -> None:
    for kind, release in releases.items():
        paths = {file["path"] for file in release.manifest["files"]}
        assert {path.split("/")[1] for path in paths if path.startswith("lib/")} == PACKAGES[kind]
        checks = json.loads(release.tokens["etc/mf.json"])["checks"]
        assert {f"bin/check-{name}" for name in checks} == {path for path in paths if path.startswith("bin/check-")}
        for name, options in checks.items():
            # run-checks loads a check by this
            assert f"lib/{options['module'].replace('.', '/')}.py" in paths, (kind, name)
            assert importlib.import_module(options["module"]).CHECK.name == name


def test_the_fast_path_is_tested_with_every_check_of_an_mx(releases: dict[str, Any], tmp_path: Path) -> None:
    checks = json.loads(releases["mx"].tokens["etc/mf.json"])["checks"]
    tested = checks_of_an_mx(tmp_path, 25)
    assert {name: options["module"] for name, options in tested.items()} == {
        name: options["module"] for name, options in checks.items()
    }


def test_every_module_on_a_host_is_used_there(releases: dict[str, Any]) -> None:
    """Loaded by a launcher or by run-checks, perhaps through others. The core lies on every host, whole."""
    idle: dict[str, set[str]] = {}
    for kind, release in releases.items():
        sources = {
            path.removeprefix("lib/").removesuffix(".py").removesuffix("/__init__").replace("/", "."): path
            for path in release.tokens
            if path.startswith("lib/") and path.endswith(".py")
        }
        checks = json.loads(release.tokens["etc/mf.json"])["checks"]
        waiting = {options["module"] for options in checks.values()}
        for path, content in release.tokens.items():
            if path.startswith("bin/"):
                waiting |= {f"{module}.{function}" for module, function in CALLED.findall(content.decode())}
        used: set[str] = set()
        while waiting:
            module = waiting.pop()
            if module and module not in used:
                used.add(module)
                waiting.add(module.rpartition(".")[0])
                if module in sources:
                    (path,) = ROOT.glob(f"roles/*/files/{sources[module]}")
                    waiting |= imports(path) | named(path)
        assert {"mf.run", "mf_checks.due", "mf_checks.load"} <= used
        idle[kind] = {module for module in set(sources) - used if module.partition(".")[0] != "mf"}
    assert not any(idle.values()), idle
