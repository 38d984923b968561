"""What a release does beside its files: units, the marker of its changes, maintenance, accounts, sshd."""

from __future__ import annotations

import json
import os
import time

import pytest
from ansible.module_utils.mf_deploy import host
from ansible.module_utils.mf_deploy.layout import DeployError

from tests.deploy.conftest import ONE, TWO, Injected, Machine, make

UNITS = {"one.service": ["one"], "two.service": ["two"]}
BOTH = {**ONE, "etc/two": "2\n"}
PARTS = {"etc/two": "two"}


def test_a_unit_is_stale_until_it_was_restarted_also_after_an_interruption(machine: Machine) -> None:
    machine.deploy(make(BOTH, parts=PARTS, units=UNITS))
    for name in UNITS:
        machine.systemd.start(name, time.monotonic())
    changed = make({**BOTH, "etc/two": "22\n"}, parts=PARTS, units=UNITS)
    for result in (machine.deploy(changed), machine.deploy(changed)):
        assert [name for name, unit in result["units"].items() if unit["stale"]] == ["two.service"]
        assert result["maintenance"]
    machine.systemd.start("two.service", time.monotonic())
    assert not machine.deploy(changed)["units"]["two.service"]["stale"]


def test_a_unit_that_is_not_there_is_neither_active_nor_stale(machine: Machine) -> None:
    result = machine.deploy(make(ONE, units={"one.service": ["one"]}), check=True)
    assert result["units"] == {"one.service": {"exists": False, "active": False, "enabled": False, "stale": False}}


def test_a_unit_that_no_role_has_any_more_is_stopped_and_disabled(machine: Machine) -> None:
    machine.deploy(make(BOTH, parts=PARTS, units=UNITS))
    for name in UNITS:
        machine.systemd.start(name, time.monotonic())
    machine.deploy(make(ONE, units={"one.service": ["one"]}))
    assert machine.systemd.units["two.service"]["ActiveState"] == "inactive"
    assert machine.systemd.units["one.service"]["ActiveState"] == "active"


def test_a_retired_unit_comes_back_when_the_release_fails(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine.deploy(make(BOTH, parts=PARTS, units=UNITS))
    for name in UNITS:
        machine.systemd.start(name, time.monotonic())
    monkeypatch.setattr(os, "link", lambda *_, **__: (_ for _ in ()).throw(Injected(30, "Read-only file system")))
    with pytest.raises(OSError, match="Read-only"):
        machine.deploy(make(TWO, units={"one.service": ["one"]}))
    assert machine.systemd.units["two.service"]["ActiveState"] == "active"
    assert machine.systemd.units["two.service"]["UnitFileState"] == "enabled"


def test_the_marker_is_what_the_package_reads_and_goes_when_nothing_waits(machine: Machine) -> None:
    from mf import maintenance, state

    places = state.Places(str(machine.root))
    machine.deploy(make(ONE, units={"one.service": ["one"]}))
    window = maintenance.active(places)
    assert window is not None
    assert (window.owner, window.reason[:8]) == ("deploy", "release ")
    assert 880 < window.until - state.boottime() <= 900
    from ansible.module_utils.mf_deploy import release

    assert release.settled(machine.layout, check=True)["changed"]
    assert release.settled(machine.layout)["changed"]
    assert not release.settled(machine.layout)["changed"]
    assert maintenance.active(places) is None
    machine.deploy(make(TWO))
    assert maintenance.active(places) is None


def test_an_operators_maintenance_is_left_alone(machine: Machine) -> None:
    from mf import state

    (machine.root / "run/mf").mkdir(parents=True)
    mine = json.dumps({"owner": "operator", "reason": "disk swap", "since": 1, "until": state.boottime() + 99})
    (machine.root / "run/mf/maintenance").write_text(mine)
    result = machine.deploy(make(ONE, units={"one.service": ["one"]}))
    assert not result["maintenance"]
    assert machine.text("/run/mf/maintenance") == mine


ACCOUNT = "/etc/sysusers.d/mf-someone.conf"
SSHD = "/etc/ssh/sshd_config.d/mf-someone.conf"


def test_accounts_are_made_before_files_that_may_be_theirs(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    known: set[str] = set()
    monkeypatch.setattr(host, "has_account", known.__contains__)
    text = 'u mf-someone - "a comment" /nonexistent /bin/sh\n'
    made = make({**ONE, ACCOUNT: text})
    assert machine.deploy(made, check=True)["changed"]
    assert machine.systemd.accounts == []
    machine.systemd.failing.add("systemd-sysusers")
    with pytest.raises(DeployError, match="Nothing was changed"):
        machine.deploy(made)
    assert machine.layout.generation() is None
    machine.systemd.failing.clear()
    machine.deploy(made)
    assert machine.systemd.accounts[-1] == text
    # somebody removed it: that is drift
    assert machine.deploy(made, check=True)["changed_paths"] == [ACCOUNT]
    known.add("mf-someone")
    assert not machine.deploy(made)["changed"]


def test_sshd_reads_its_new_configuration(machine: Machine) -> None:
    reload = ["systemctl", "reload", "ssh.service"]
    machine.deploy(make(ONE))
    assert reload not in machine.systemd.calls
    machine.deploy(make({**ONE, SSHD: "Match User mf-someone\n"}))
    assert machine.systemd.calls.count(reload) == 1
    machine.deploy(make(ONE))
    assert machine.systemd.calls.count(reload) == 2
    machine.deploy(make({**ONE, SSHD: "Match User mf-someone\n"}))
    machine.remove()
    assert machine.systemd.calls.count(reload) == 4
