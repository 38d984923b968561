"""The facts of a host, read before anything is changed: packages that are installed, that can be had, and why not."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import pytest
import yaml
from ansible.errors import AnsibleActionFail
from ansible.module_utils.mf_deploy import facts, host
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar

from tests.deploy.conftest import ROOT, load_action

preflight = load_action("mf_preflight")

STATUS = b"""Package: adduser
Status: install ok installed
Priority: important

Package: nftables
Status: deinstall ok config-files
Priority: optional

Package: python3-psutil-dbg
Status: install ok installed

Package: logrotate
Essential: no
Status: hold ok installed
"""


def test_installed_packages_are_those_of_dpkg() -> None:
    wanted = ["adduser", "nftables", "python3-psutil", "logrotate", "psutil", "a+.*"]
    assert facts.installed(STATUS, wanted) == {"adduser", "logrotate"}
    assert facts.installed(b"", wanted) == set()


def test_the_system_is_that_of_os_release() -> None:
    assert facts.system('# x\nNAME="Debian GNU/Linux"\nVERSION_ID="12"\nID=debian\n') == "debian 12"
    assert facts.system("") == "unknown unknown"


def test_the_reason_is_the_error_of_apt() -> None:
    output = (
        "Reading package lists...\n exim4 : Depends: exim4-base but it is not going to be installed\n"
        "E: Unable to correct problems, you have held broken packages.\n"
    )
    assert facts.reason(output) == (
        "E: Unable to correct problems, you have held broken packages.; "
        "exim4 : Depends: exim4-base but it is not going to be installed"
    )
    assert facts.reason("") == "apt-get failed without a word"


def test_lists_are_stale_when_missing_or_old(tmp_path: Path) -> None:
    assert facts.stale(str(tmp_path / "none"), 1e6)
    (tmp_path / "partial").mkdir()
    assert facts.stale(str(tmp_path), 1e6)
    packages = tmp_path / "deb.debian.org_main_Packages"
    packages.touch()
    for path in (packages, tmp_path / "partial", tmp_path):
        os.utime(path, (1e6, 1e6))
    assert not facts.stale(str(tmp_path), 1e6 + 3600)
    assert facts.stale(str(tmp_path), 1e6 + 90000)
    # lists that didn't change upstream keep their time when they are fetched again
    os.utime(tmp_path, (1e6 + 90000, 1e6 + 90000))
    assert not facts.stale(str(tmp_path), 1e6 + 93600)


class Apt:
    """Knows some packages, and others after an update."""

    def __init__(self, known: set[str], after: set[str] | None = None, *, online: bool = True) -> None:
        self.known, self.after, self.online = known, after or known, online
        self.updates = 0

    def __call__(self, arguments: Sequence[str]) -> host.Outcome:
        if "update" in arguments:
            self.updates += 1
            self.known = self.after if self.online else self.known
            return host.Outcome(0, "") if self.online else host.Outcome(100, "E: Failed to fetch http://deb.example/\n")
        missing = [name for name in arguments[arguments.index("--") + 1 :] if name not in self.known]
        return host.Outcome(100, f"E: Unable to locate package {missing[0]}\n") if missing else host.Outcome(0, "")


@pytest.fixture
def see(monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Any]]:
    def call(apt: Apt, *, stale: bool, check: bool = False) -> dict[str, Any]:
        monkeypatch.setattr(facts, "_content", lambda path: STATUS if "dpkg" in path else b"ID=debian\nVERSION_ID=12\n")
        monkeypatch.setattr(facts, "stale", lambda *_: stale)
        return dict(facts.read(["adduser", "nftables"], apt, check=check))

    return call


HAS = {"nftables", "python3-apt"}
See = Callable[..., dict[str, Any]]


def test_what_can_be_had_is_not_refused(see: See) -> None:
    apt = Apt(HAS)
    report = see(apt, stale=True)
    assert (report["missing"], report["refused"], report["unknown"]) == (["nftables", "python3-apt"], "", False)
    assert (report["system"], apt.updates) == ("debian 12", 0)


def test_stale_lists_are_fetched_once(see: See) -> None:
    apt = Apt(set(), HAS)
    assert see(apt, stale=True)["refused"] == ""
    assert apt.updates == 1


def test_fresh_lists_are_trusted(see: See) -> None:
    apt = Apt(set(), HAS)
    assert see(apt, stale=False)["refused"] == "E: Unable to locate package nftables"
    assert apt.updates == 0


def test_no_network_is_said(see: See) -> None:
    report = see(Apt(set(), HAS, online=False), stale=True)
    assert report["refused"] == (
        "E: Unable to locate package nftables; apt-get update failed: E: Failed to fetch http://deb.example/"
    )


def test_check_mode_fetches_nothing_and_is_not_sure(see: See) -> None:
    apt = Apt(set(), HAS)
    report = see(apt, stale=True, check=True)
    assert (report["refused"], report["unknown"], apt.updates) == ("", True, 0)
    assert see(apt, stale=False, check=True)["refused"] != ""


GOOD = {
    "system": "debian 12",
    "python": "3.11.2",
    "root": True,
    "systemd": True,
    "free_mib": 5000,
    "missing": [],
    "refused": "",
    "unknown": False,
}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"system": "ubuntu 24.04"}, "mx1 runs ubuntu 24.04, and this needs debian 12"),
        ({"python": "3.9.2"}, "Python 3.9.2, and this needs 3.11 or newer: set ansible_python_interpreter"),
        ({"root": False}, "set ansible_become"),
        ({"systemd": False}, "not started by systemd"),
        ({"free_mib": 10}, "10 MiB left for /mf, and 64 are needed"),
        (
            {"missing": ["nftables"], "refused": "E: Unable to locate package nftables"},
            "E: Unable to locate package nftables. Run there: apt-get update && apt-cache policy nftables",
        ),
    ],
)
def test_what_stands_against_a_host_is_said_with_what_to_do(change: dict[str, Any], message: str) -> None:
    assert list(preflight.host_problems(GOOD, "mx1")) == []
    (problem,) = preflight.host_problems({**GOOD, **change}, "mx1")
    assert message in problem


PREFLIGHT = """
- name: Refuse a port
  ansible.builtin.assert:
    that:
      - port | int in range(1, 65536)
    fail_msg: "Port {{ port }}.\n      Say another. Nothing was changed."
  when: port is defined

- name: Refuse numbers
  ansible.builtin.assert:
    that: item.value < 10
    fail_msg: "{{ item.key }} is {{ item.value }}."
  loop: "{{ numbers | dict2items }}"
"""


@pytest.fixture
def refuse(tmp_path: Path) -> Callable[..., list[str]]:
    """What a role's preflight says about some variables."""

    def call(text: str, **variables: Any) -> list[str]:
        path = tmp_path / "preflight.yml"
        path.write_text(text)
        loader = DataLoader()
        plugin = preflight.ActionModule(
            MagicMock(), MagicMock(), MagicMock(), loader, Templar(loader, variables), MagicMock()
        )
        return list(plugin._problems("roles/x/tasks/preflight.yml", str(path), variables))

    return call


def test_a_roles_preflight(refuse: Callable[..., list[str]]) -> None:
    assert refuse(PREFLIGHT, port=25, numbers={"a": 1}) == []
    assert refuse(PREFLIGHT, numbers={}) == []
    problems = refuse(PREFLIGHT, port=99999, numbers={"a": 10, "b": 11})
    assert [" ".join(text.split()) for text in problems] == [
        "Port 99999. Say another. Nothing was changed.",
        "a is 10.",
        "b is 11.",
    ]


def test_a_missing_variable_in_a_preflight_names_file_and_task(refuse: Callable[..., list[str]]) -> None:
    (problem,) = refuse("- {name: Look, ansible.builtin.assert: {that: nobody_sets_this > 1}}")
    assert problem.startswith("roles/x/tasks/preflight.yml, 'Look': ")
    assert "'nobody_sets_this' is undefined" in problem


@pytest.mark.parametrize(
    "task", ["{name: a, ansible.builtin.command: id}", "{ansible.builtin.assert: {that: x}, vars: {x: 1}}"]
)
def test_a_preflight_only_asserts(refuse: Callable[..., list[str]], task: str) -> None:
    with pytest.raises(AnsibleActionFail, match=r"roles/x/tasks/preflight.yml.*only ansible.builtin.assert"):
        refuse(f"- {task}")


def test_numbers_are_held_to_their_ranges_and_order() -> None:
    ranges = {"low": [1, 9], "high": [1, 9], "load": [0.1, 10]}
    order = {"low": "high", "high": "load"}

    def problems_with(**values: Any) -> list[str]:
        return list(preflight.range_problems(ranges, order, {"low": 1, "high": "2", "load": 2.5, **values}, "mx1"))

    assert problems_with() == problems_with(high="2.0") == []
    assert problems_with(low=3) == ["low (3) must not be above high (2) on mx1."]
    for value in (0, 10, 1.5, "1e0", "", "one", None, [1], "1\n"):
        (problem,) = problems_with(low=value)
        assert problem == f"low is {json.dumps(str(value))} on mx1; it takes a whole number from 1 to 9."
    assert problems_with(load="much") == ['load is "much" on mx1; it takes a number from 0.1 to 10.']


def test_ranges_and_order_agree_with_the_defaults_and_types_of_their_role() -> None:
    for path in ROOT.glob("roles/*/vars/main.yml"):
        role = path.parents[1].name
        known = yaml.safe_load(path.read_text()) or {}
        ranges, order = known.get(f"__{role}_ranges", {}), known.get(f"__{role}_order", {})
        assert set(ranges) <= set(yaml.safe_load((path.parents[1] / "defaults/main.yml").read_text()))
        options = yaml.safe_load((path.parents[1] / "meta/argument_specs.yml").read_text())["argument_specs"]["main"]
        for name, bounds in ranges.items():
            whole = all(isinstance(bound, int) for bound in bounds)
            assert options["options"][name]["type"] == ("int" if whole else "float"), name
        assert {*order, *order.values()} <= set(ranges)
