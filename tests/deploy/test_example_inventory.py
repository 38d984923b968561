"""The inventory to copy: Ansible reads it, our own rules pass it, and the playbooks work with it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from action_plugins import mf_inventory

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "inventory/example"
PLAYBOOKS = [f"playbooks/{name}_fleet.yml" for name in ("check", "throttle", "release")] + ["playbooks/site.yml"]


def ansible(command: str, *arguments: str) -> str:
    """What an Ansible command prints about the example; it must not even warn."""
    program = Path(sys.executable).with_name(command)
    environment = {
        **os.environ,
        "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
        "ANSIBLE_NOCOLOR": "1",
        "LC_ALL": "C.UTF-8",
    }
    done = subprocess.run(
        [str(program), "-i", str(EXAMPLE), *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def inventory() -> dict[str, Any]:
    listing: dict[str, Any] = json.loads(ansible("ansible-inventory", "--list"))
    return listing


def test_it_would_be_deployed(inventory: dict[str, Any]) -> None:
    machines = {name: inventory["_meta"]["hostvars"][name] for name in inventory["mx"]["hosts"]}
    assert mf_inventory.problems(machines) == []
    # one may be out of service while another is changed
    assert len(machines) > next(iter(machines.values()))["mf_min_accepting"]


def test_it_has_every_kind_of_host(inventory: dict[str, Any]) -> None:
    assert set(inventory["fleet"]["children"]) == {"mx", "control", "offsite", "monitor"}
    for variables in inventory["_meta"]["hostvars"].values():
        assert {"mf_address", "mf_provider", "mf_location"} <= set(variables)


def test_the_lab_uses_the_same_variables(inventory: dict[str, Any]) -> None:
    lab = yaml.safe_load((ROOT / "inventory/lab/group_vars/fleet.yml").read_text())
    variable_names = {
        word for word in lab if word.startswith("mf_") and not word.startswith(("mf_checks_", "mf_exim_"))
    }
    for variables in inventory["_meta"]["hostvars"].values():
        assert variable_names <= set(variables)


def test_it_holds_no_secrets() -> None:
    vault = EXAMPLE / "group_vars/fleet/vault.yml.example"
    assert yaml.safe_load(vault.read_text()) is None
    assert not list(EXAMPLE.rglob("vault.yml"))


def test_playbooks_are_well_formed() -> None:
    printed = ansible("ansible-playbook", "--syntax-check", *PLAYBOOKS)
    assert [line for line in printed.splitlines() if line] == [f"playbook: {name}" for name in PLAYBOOKS]
