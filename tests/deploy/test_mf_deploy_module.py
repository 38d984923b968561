"""The module mf_deploy: its messages, and what it refuses."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml
from ansible.module_utils.mf_deploy import guard, host

from tests.deploy.conftest import ONE, ROOT, TWO, Machine, action, make


@pytest.fixture
def module(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """mf_deploy on the machine of the test."""
    deploy_module = importlib.import_module("library.mf_deploy")
    monkeypatch.setattr(deploy_module, "Layout", lambda: machine.layout)
    monkeypatch.setattr(deploy_module.signal, "signal", lambda *_: None)
    monkeypatch.setattr(host, "run", machine.systemd)
    return deploy_module


def test_the_module_and_its_messages(
    machine: Machine, module: ModuleType, monkeypatch: pytest.MonkeyPatch, run_module: Callable[..., dict[str, Any]]
) -> None:
    made = make(ONE)
    packed = action.pack(made.manifest)
    facts = {"root": True, "missing": ["nftables"]}
    monkeypatch.setattr(module.facts, "read", lambda packages, _, *, check: {**facts, "asked": [packages, check]})
    asked = run_module(module, manifest=packed, packages=["nftables"])
    assert asked["facts"] == {**facts, "asked": [["nftables"], False]}
    assert machine.layout.generation() is None
    assert sorted(asked["needed"]) == sorted(made.contents)
    done = run_module(module, manifest=packed, content=action.pack_content(made.contents))
    assert done["changed"]
    assert not run_module(module, manifest=packed, roles=["one"])["changed"]
    monkeypatch.setitem(facts, "root", False)
    assert "units" not in run_module(module, manifest=packed)
    monkeypatch.setitem(facts, "root", True)
    assert "through its action plugin" in run_module(module)["msg"]
    assert "can't be read" in run_module(module, manifest="AAAA", roles=["one"])["msg"]
    assert "no release before" in run_module(module, state="rolled_back")["msg"]
    assert run_module(module, state="absent")["changed"]


def test_a_failure_after_activation_reports_the_owed_restart(
    machine: Machine, module: ModuleType, monkeypatch: pytest.MonkeyPatch, run_module: Callable[..., dict[str, Any]]
) -> None:
    machine.deploy(make(ONE))
    made = make(TWO)
    sent = {"manifest": action.pack(made.manifest), "content": action.pack_content(made.contents), "roles": ["one"]}
    refused = run_module(module, **{**sent, "manifest": "AAAA"})
    assert not refused["changed"]
    assert not refused["maintenance"]

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("ansible.module_utils.mf_deploy.secret.replace", full)
    failed = run_module(module, **sent)
    assert failed["failed"]
    assert failed["changed"]
    assert failed["maintenance"]
    assert machine.layout.generation() == made.manifest["generation"]


def test_a_play_without_a_role_of_the_host_is_refused(
    machine: Machine, module: ModuleType, run_module: Callable[..., dict[str, Any]]
) -> None:
    parts = {"etc/x.conf": "smtp", "/etc/cron.d/mf": "checks"}
    machine.deploy(make(ONE, parts=parts, units={"queue.service": ["queue"]}, settings={"tuned": {"a": 1}}))
    before = machine.everything()
    alone = make({"/etc/cron.d/mf": "# one\n"}, parts=parts)
    sent = {"manifest": action.pack(alone.manifest), "content": action.pack_content(alone.contents)}
    for check in (False, True):
        refused = run_module(module, **sent, roles=["checks", "one"], _ansible_check_mode=check)
        assert refused["failed"]
        assert "this host has queue, smtp, tuned, and this play doesn't" in refused["msg"]
        assert '-e \'{"mf_tree_remove_roles": ["queue", "smtp", "tuned"]}\'' in refused["msg"]
    both = run_module(module, **sent, roles=["checks", "one"], remove_roles=["checks", "queue", "smtp", "tuned"])
    assert "mf_tree_remove_roles names checks, and this play brings it" in both["msg"]
    assert machine.everything() == before
    # a role that stays and brings nothing any more was not dropped, and what was named may go
    done = run_module(module, **sent, roles=["checks", "one", "queue"], remove_roles=["smtp", "tuned"])
    assert done["changed"]
    assert not (machine.root / "mf/etc/x.conf").exists()


def test_a_rollback_that_would_drop_a_role_is_refused(
    machine: Machine, module: ModuleType, run_module: Callable[..., dict[str, Any]]
) -> None:
    """An MX that got its SMTP service with the second release would have lost it."""
    machine.deploy(make({"bin/tool": "#!/bin/sh\n"}))
    machine.deploy(make(ONE, parts={"etc/x.conf": "smtp"}, units={"queue.service": ["queue"]}))
    before = machine.everything()
    for check in (False, True):
        refused = run_module(module, state="rolled_back", _ansible_check_mode=check)
        assert "was made without queue, smtp, which this host has now" in refused["msg"]
        assert '-e \'{"mf_tree_remove_roles": ["queue", "smtp"]}\'' in refused["msg"]
    assert run_module(module, state="rolled_back", remove_roles=["smtp"])["failed"]
    assert machine.everything() == before
    assert run_module(module, state="rolled_back", remove_roles=["queue", "smtp"])["changed"]
    assert not (machine.root / "mf/etc/x.conf").exists()


@pytest.mark.parametrize("damage", ["torn", "missing", "no current"])
def test_a_damaged_release_still_keeps_the_roles(
    machine: Machine, module: ModuleType, run_module: Callable[..., dict[str, Any]], damage: str
) -> None:
    def break_release(generation: str) -> None:
        manifest = Path(machine.layout.release(generation), "manifest.json")
        if damage == "torn":
            manifest.write_text("{")
        elif damage == "missing":
            manifest.unlink()
        else:
            os.unlink(machine.layout.current)

    parts = dict.fromkeys(TWO, "smtp") | {"/etc/cron.d/mf": "checks"}
    first, second = (make(files, parts=parts) for files in (ONE, TWO))
    for made in (first, second):
        machine.deploy(made)
    break_release(second.manifest["generation"])
    before = machine.everything()
    alone = make({"/etc/cron.d/mf": "# one\n"}, parts=parts)
    sent = {"manifest": action.pack(alone.manifest), "content": action.pack_content(alone.contents)}
    for unknown in ([], ["unknown"]):
        refused = run_module(module, **sent, roles=["checks"], remove_roles=unknown)
        assert "this host has smtp, and this play doesn't" in refused["msg"]
    assert machine.everything() == before
    # a play with all roles repairs the host
    full = {"manifest": action.pack(second.manifest), "content": action.pack_content(second.contents)}
    assert run_module(module, **full, roles=["checks", "smtp"])["generation"] == second.manifest["generation"]
    assert "this host has smtp" in run_module(module, **sent, roles=["checks"])["msg"]


@pytest.mark.parametrize("lost", [False, True])
def test_a_host_without_any_readable_release_is_repaired_on_purpose(
    machine: Machine, module: ModuleType, run_module: Callable[..., dict[str, Any]], lost: bool
) -> None:
    made = make(ONE)
    sent = {"manifest": action.pack(made.manifest), "content": action.pack_content(made.contents), "roles": ["one"]}
    machine.deploy(made)
    Path(machine.layout.release(made.manifest["generation"]), "manifest.json").write_text("{")
    if lost:
        os.unlink(machine.layout.current)
    before = machine.everything()
    for named in ([], ["two"]):
        refused = run_module(module, **sent, remove_roles=named)
        assert "no manifest in /mf/releases can be read" in refused["msg"]
        assert '-e \'{"mf_tree_remove_roles": ["unknown"]}\'' in refused["msg"]
    assert machine.everything() == before
    assert run_module(module, **sent, remove_roles=["unknown"])["changed"]
    assert run_module(module, **sent)["changed"] is False


def test_a_renamed_role_is_the_same_role(
    machine: Machine, module: ModuleType, run_module: Callable[..., dict[str, Any]]
) -> None:
    """A host that an earlier version deployed has it by its former name, in its files or in its settings."""
    machine.deploy(make(ONE, parts=dict.fromkeys(ONE, "mf_watched"), settings={"mf_watched": {"a": 1}}))
    before = machine.everything()
    made = make(ONE, parts=dict.fromkeys(ONE, "mf_health_access"), settings={"mf_health_access": {"a": 1}})
    sent = {"manifest": action.pack(made.manifest), "content": action.pack_content(made.contents)}
    refused = run_module(module, **sent, roles=["mf_checks"])
    assert "this host has mf_health_access, and this play doesn't" in refused["msg"]
    both = run_module(module, **sent, roles=["mf_health_access"], remove_roles=["mf_watched"])
    assert "mf_tree_remove_roles names mf_health_access, and this play brings it" in both["msg"]
    assert machine.everything() == before
    done = run_module(module, **sent, roles=["mf_health_access"])
    assert (done["changed"], done["generation"]) == (True, made.manifest["generation"])
    assert run_module(module, **sent, roles=[], remove_roles=["mf_watched"])["changed"] is False


def test_a_play_with_a_former_name_is_refused_with_the_new_one(
    machine: Machine, module: ModuleType, run_module: Callable[..., dict[str, Any]]
) -> None:
    made = make(ONE)
    sent = {"manifest": action.pack(made.manifest), "content": action.pack_content(made.contents)}
    refused = run_module(module, **sent, roles=["one", "mf_watched"])
    assert refused["msg"] == (
        "role mf_watched is now called mf_health_access: change the name in your play. Nothing was changed."
    )
    assert machine.layout.generation() is None
    for former in guard.RENAMED:
        # so that Ansible finds it, and mf_tree is asked
        meta = yaml.safe_load((ROOT / "roles" / former / "meta/main.yml").read_text())
        assert meta["dependencies"] == [{"role": "mf_tree"}]


def test_the_module_of_a_former_name_is_refused_with_the_new_one(run_module: Callable[..., dict[str, Any]]) -> None:
    refused = run_module(importlib.import_module("library.mf_release"), state="present", host="mx1", type="mx")
    assert refused["failed"]
    assert refused["msg"] == "mf_release is now called mf_deploy: change the name in your play. Nothing was changed."
