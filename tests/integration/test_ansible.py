"""Ansible and ansible-lint as operators run them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def site(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["ansible-playbook", "-i", "inventory/example", "playbooks/site.yml", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "LC_ALL": "C.UTF-8", "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ANSIBLE_TIMEOUT": "1"},
    )


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("mf_services", [{"kind": "ssh", "colour": 1}]),
        ("mf_monitor_channels", [{"name": "a", "url": "x", "colour": 1}]),
    ],
)
def test_an_unknown_option_is_refused_before_any_host_is_touched(variable: str, value: object) -> None:
    done = site("-e", json.dumps({variable: value}))
    assert done.returncode == 2, done.stdout
    assert f"{variable}.colour. Supported parameters include" in done.stdout
    assert "PLAY [Rehearse" not in done.stdout


def test_a_run_without_the_monitor_does_not_read_its_variables() -> None:
    done = site("--limit", "mx[0]", "-e", '{"mf_monitor_channels": "{{ unknown }}"}')
    assert "mf_monitor_channels" not in done.stdout
    assert "PLAY [Rehearse" in done.stdout


def test_ansible_lint_accepts_our_modules(tmp_path: Path) -> None:
    """Its args rule imports a module to check parameters, and is silent when it can't."""
    playbook = tmp_path / "wrong.yml"
    playbook.write_text(
        "---\n- name: Wrong\n  hosts: all\n  gather_facts: false\n  tasks:\n"
        "    - name: Use a parameter that doesn't exist\n      mf_throttle:\n        state: present\n        bogus: 1\n"
    )
    command = [sys.executable, str(ROOT / "scripts/lint_ansible.py"), "--format=pep8", "--nocolor", str(playbook)]
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, env=environment)
    assert "args[module]" in done.stdout
    assert "bogus" in done.stdout
    assert done.returncode != 0
