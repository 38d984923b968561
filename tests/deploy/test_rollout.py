"""Plays that go from host to host, and what the run says of the host at which one ended.

With hosts that are lost in earnest: tests/integration/test_lost_host.py.
"""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar, trust_as_template

from callback_plugins import mf_rollout
from tests.deploy.conftest import ROOT, serial_plays

PLAYS = serial_plays()


def test_the_plays_are_found() -> None:
    assert {name.split(":")[0] for name in PLAYS} == {"site.yml", "rollback_tree.yml", "remove_tree.yml"}


@pytest.mark.parametrize("name", PLAYS)
def test_no_task_of_such_a_play_counts_a_lost_host_twice(name: str) -> None:
    """Ansible ends a play when all hosts of a batch are lost, and with any_errors_fatal it counts an unreachable one as
    unreachable and as failed: two of one, so the play goes on. run_once implies it for its task."""
    text = yaml.safe_dump(PLAYS[name]) + "".join(
        path.read_text()
        for folder in ("playbooks/tasks", "roles/*/tasks", "roles/*/handlers")
        for path in sorted(ROOT.glob(f"{folder}/*.yml"))
    )
    assert "run_once" not in text
    assert text.count("any_errors_fatal") == 1
    assert PLAYS[name]["any_errors_fatal"] is False


@pytest.mark.parametrize("name", [name for name, play in PLAYS.items() if "mf_gate" in yaml.safe_dump(play)])
def test_an_mx_that_fails_its_gate_is_put_on_hold(name: str) -> None:
    """On real hosts: molecule/fleet."""
    (change,) = [task for task in PLAYS[name]["tasks"] if "mf_gate:" in yaml.safe_dump(task)]
    (rescue,) = change["rescue"]
    assert rescue["ansible.builtin.import_tasks"] == "tasks/hold.yml"
    (gate,) = [task for task in change["block"] if "mf_gate" in task]
    assert gate["register"] == "mf_gate"


STALE = {"qpsmtpd.service": {"stale": True}}
RESULTS = [
    pytest.param({}, False, id="nothing begun"),
    pytest.param({"failed": True, "changed": False, "maintenance": False}, False, id="refused"),
    pytest.param({"changed": True, "rehearsed": True, "units": STALE}, False, id="only rehearsed"),
    pytest.param({"changed": True, "maintenance": False, "rehearsed": False}, True, id="an operator's maintenance"),
    pytest.param({"changed": False, "maintenance": True}, True, id="our maintenance"),
    pytest.param({"changed": False, "maintenance": False, "units": STALE}, True, id="an earlier run's change"),
    pytest.param({"failed": True, "module_stdout": "Killed"}, True, id="module killed"),
]


@pytest.mark.parametrize(("result", "changed"), RESULTS)
def test_a_host_counts_as_untouched_only_when_it_is(result: dict[str, Any], changed: bool) -> None:
    """On an MX under an operator's maintenance a changed release was called untouched, and there was no hold."""
    (hold,) = yaml.safe_load((ROOT / "playbooks/tasks/hold.yml").read_text())
    known = {"mf_tree__result": result} if result else {}
    templar = Templar(DataLoader(), known)
    assert templar.template(trust_as_template(hold["vars"]["mf_changed"])) is changed


def lost(**known: Any) -> mf_rollout.Lost:
    whole: dict[str, Any] = {
        "host": "mx1",
        "task": "Start it",
        "begun": True,
        "release": None,
        "one_by_one": True,
        "done": (),
        "untouched": ("mx2", "mx3"),
    }
    return mf_rollout.Lost(**{**whole, **known})


def test_it_reports_what_is_in_force() -> None:
    release = {
        "changed": True,
        "generation": "b" * 12,
        "previous": "a" * 12,
        "changed_paths": ["bin/x", "/etc/ssh/sshd_config.d/mf.conf"],
    }
    report = mf_rollout.report(lost(release=release))
    assert "Release bbbbbbbbbbbb is in force there, before it was aaaaaaaaaaaa." in report
    assert "Files outside of /mf that this changed: /etc/ssh/sshd_config.d/mf.conf." in report
    assert "Changed before it in this run: none." in report
    assert "Untouched: mx2, mx3, and all" in report


def test_it_claims_no_more_than_is_known() -> None:
    assert "Whether the new release took effect there isn't known" in mf_rollout.report(lost())
    assert "is in force there, as before." in mf_rollout.report(
        lost(release={"changed": False, "generation": "c" * 12})
    )
    assert "The untouched:" not in mf_rollout.report(lost(state="rolled_back", untouched=()))
    alone = mf_rollout.report(lost(one_by_one=False))
    assert "The run ended here" not in alone
    assert "has passed no gate" in alone


def test_a_rollback_has_no_new_release() -> None:
    report = mf_rollout.report(lost(state="rolled_back"))
    assert "Whether the previous release took effect there isn't known" in report
    assert "new release" not in report


def test_a_removal_has_no_release() -> None:
    removal = {"changed": True, "generation": None, "previous": "a" * 12, "changed_paths": ["/etc/cron.d/mf"]}
    unknown, gone = mf_rollout.report(lost(state="absent")), mf_rollout.report(lost(state="absent", release=removal))
    assert "How much of our services and files is removed there isn't known: all, a part or nothing." in unknown
    assert "All of our services and files are removed there." in gone
    for report in (unknown, gone):
        assert "elease" not in report
        assert "gate" not in report
        assert "it goes on taking mail while its SMTP service runs" in report
        assert "Then run this again: it finishes what was begun." in report


def test_text_from_a_host_is_made_safe_and_short() -> None:
    release = {
        "changed": True,
        "generation": "\x1b[2J",
        "previous": None,
        "changed_paths": [f"/{n}" for n in range(99)],
    }
    report = mf_rollout.report(lost(release=release, untouched=[f"mx{number}\n\x1b[2J" for number in range(2, 1000)]))
    assert "\x1b" not in report
    assert len(report) < 1500
    assert "and 988 more" in report
