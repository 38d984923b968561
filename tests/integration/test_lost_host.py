"""Plays that go from host to host, by Ansible itself: they stop at the first host that doesn't come back."""

from __future__ import annotations

import os
import socket
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy.conftest import ROOT, serial_plays

PLAYS = serial_plays()
# What a play does with its hosts; all else of it is replaced here.
KEYWORDS = ("serial", "any_errors_fatal", "max_fail_percentage", "ignore_unreachable", "strategy")


@pytest.fixture
def closed() -> int:
    """A port on which nobody listens."""
    with socket.socket() as endpoint:
        endpoint.bind(("127.0.0.1", 0))
        port: int = endpoint.getsockname()[1]
        return port


def run(tmp_path: Path, play: dict[str, Any], tasks: list[dict[str, Any]], closed: int, lost: str) -> tuple[int, str]:
    """Run a play's keywords with other tasks, its host ``lost`` unreachable in earnest; a later play follows."""
    hosts: dict[str, Any] = {name: {"ansible_connection": "local"} for name in ("mx1", "mx2", "mx3")}
    hosts[lost] = {"ansible_host": "127.0.0.1", "ansible_port": closed}
    (tmp_path / "hosts.yml").write_text(yaml.safe_dump({"mx": {"hosts": hosts}}))
    later = {"name": "Later", "hosts": "mx", "gather_facts": False, "tasks": [{"debug": {"msg": "LATER"}}]}
    keywords = {key: play[key] for key in KEYWORDS if key in play}
    first = {"name": "First", "hosts": "mx", "gather_facts": False, **keywords, "tasks": tasks}
    (tmp_path / "play.yml").write_text(yaml.safe_dump([first, later]))
    done = subprocess.run(
        ["ansible-playbook", "-i", str(tmp_path / "hosts.yml"), str(tmp_path / "play.yml")],
        capture_output=True,
        text=True,
        check=False,
        env={
            **os.environ,
            "LC_ALL": "C.UTF-8",
            "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
            "ANSIBLE_NOCOLOR": "1",
            "ANSIBLE_SSH_RETRIES": "0",
            # an operator's own setting must not bring it back
            "ANSIBLE_ANY_ERRORS_FATAL": "true",
        },
    )
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize("name", PLAYS)
def test_a_host_that_does_not_come_back_ends_the_run(name: str, tmp_path: Path, closed: int) -> None:
    tasks = [
        {
            "name": "Change",
            "block": [
                {"debug": {"msg": "BEGUN {{ inventory_hostname }}"}},
                # with a local connection it would change this machine
                {"mf_deploy": {"state": "settled"}, "check_mode": False, "when": "inventory_hostname == 'mx2'"},
            ],
            "rescue": [{"fail": {"msg": "RESCUED {{ inventory_hostname }}"}}],
        }
    ]
    code, output = run(tmp_path, PLAYS[name], tasks, closed, "mx2")
    assert code == 4, output
    assert "BEGUN mx1" in output
    assert "BEGUN mx3" not in output
    assert "LATER" not in output
    assert 'mx2 became unreachable in the middle of its change, at the task "mf_deploy"' in output
    assert "Changed before it in this run: mx1." in output
    assert "Untouched: mx3, and all" in output


def test_a_change_is_announced_before_it_begins(tmp_path: Path, closed: int) -> None:
    code, output = run(tmp_path, PLAYS[next(iter(PLAYS))], [{"ping": None}], closed, "mx1")
    assert code == 4, output
    assert 'mx1 became unreachable at the task "ping", before its change began: nothing was changed there.' in output
    assert "Untouched: mx2, mx3, and all" in output


def test_a_host_that_cannot_go_back_leaves_no_other_half_way(tmp_path: Path, closed: int) -> None:
    """Control is back and its services aren't restarted yet: going on costs nothing, a second run goes back further."""
    (play,) = [
        entry for entry in yaml.safe_load((ROOT / "playbooks/rollback_tree.yml").read_text()) if "serial" not in entry
    ]
    tasks: list[dict[str, Any]] = [
        {"fail": {}, "when": "inventory_hostname == 'mx1'"},
        {"debug": {"msg": "RESTARTED {{ inventory_hostname }}"}},
    ]
    _, output = run(tmp_path, play, tasks, closed, "mx3")
    assert "RESTARTED mx2" in output


def test_a_way_back_is_not_to_be_run_again(tmp_path: Path, closed: int) -> None:
    """Each run goes back one release, also on hosts that have gone back already."""
    task = {"mf_deploy": {"state": "rolled_back"}, "check_mode": False, "when": "inventory_hostname == 'mx2'"}
    code, output = run(tmp_path, PLAYS[next(name for name in PLAYS if "rollback" in name)], [task], closed, "mx2")
    assert code == 4, output
    assert "Then run this again" not in output
    assert "Don't run this again for mx2, mx1: hosts that have gone back would go one release further." in output
    assert "--limit 'mx3'" in output


def test_a_removal_has_no_release(tmp_path: Path, closed: int) -> None:
    task = {"mf_deploy": {"state": "absent"}, "check_mode": False, "when": "inventory_hostname == 'mx2'"}
    code, output = run(tmp_path, PLAYS[next(name for name in PLAYS if "remove" in name)], [task], closed, "mx2")
    assert code == 4, output
    assert "How much of our services and files is removed there isn't known" in output
    assert "Then run this again: it finishes what was begun." in output
    assert "new release" not in output
