"""The look at a host before anything is changed on it: what is installed, what can be had, why not."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.basic import AnsibleModule

from library import mf_look

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


def test_installed_is_what_dpkg_says() -> None:
    wanted = ["adduser", "nftables", "python3-psutil", "logrotate", "psutil", "a+.*"]
    assert mf_look.installed(STATUS, wanted) == {"adduser", "logrotate"}
    assert mf_look.installed(b"", wanted) == set()


def test_the_system_is_what_os_release_says() -> None:
    assert mf_look.system('# x\nNAME="Debian GNU/Linux"\nVERSION_ID="12"\nID=debian\n') == "debian 12"
    assert mf_look.system("") == "unknown unknown"


def test_the_reason_is_what_apt_says_went_wrong() -> None:
    output = (
        "Reading package lists...\n exim4 : Depends: exim4-base but it is not going to be installed\n"
        "E: Unable to correct problems, you have held broken packages.\n"
    )
    assert mf_look.reason(output) == (
        "E: Unable to correct problems, you have held broken packages.; "
        "exim4 : Depends: exim4-base but it is not going to be installed"
    )
    assert mf_look.reason("") == "apt-get failed without a word"


def test_lists_are_stale_when_missing_or_old(tmp_path: Path) -> None:
    assert mf_look.stale(str(tmp_path / "none"), 1e6)
    (tmp_path / "partial").mkdir()
    assert mf_look.stale(str(tmp_path), 1e6)
    packages = tmp_path / "deb.debian.org_main_Packages"
    packages.touch()
    for path in (packages, tmp_path / "partial", tmp_path):
        os.utime(path, (1e6, 1e6))
    assert not mf_look.stale(str(tmp_path), 1e6 + 3600)
    assert mf_look.stale(str(tmp_path), 1e6 + 90000)
    # lists that didn't change upstream keep their time when they are fetched again
    os.utime(tmp_path, (1e6 + 90000, 1e6 + 90000))
    assert not mf_look.stale(str(tmp_path), 1e6 + 93600)


class Apt:
    """Knows some packages, and more of them after an update."""

    def __init__(self, known: set[str], after: set[str] | None = None, *, online: bool = True) -> None:
        self.known, self.after, self.online = known, after or known, online
        self.updates = 0

    def run(self, arguments: list[str]) -> tuple[int, str, str]:
        if "update" in arguments:
            self.updates += 1
            self.known = self.after if self.online else self.known
            return (0, "", "") if self.online else (100, "", "E: Failed to fetch http://deb.example/\n")
        missing = [name for name in arguments[arguments.index("--") + 1 :] if name not in self.known]
        return (100, "", f"E: Unable to locate package {missing[0]}\n") if missing else (0, "", "")


Look = Callable[..., dict[str, Any]]


@pytest.fixture
def look(monkeypatch: pytest.MonkeyPatch, run_module: Callable[..., dict[str, Any]]) -> Look:
    def call(apt: Apt, *, stale: bool, check: bool = False) -> dict[str, Any]:
        monkeypatch.setattr(mf_look, "read", lambda path: STATUS if "dpkg" in path else b"ID=debian\nVERSION_ID=12\n")
        monkeypatch.setattr(mf_look, "stale", lambda *_: stale)
        monkeypatch.setattr(AnsibleModule, "run_command", lambda _, arguments, **__: apt.run(arguments))
        monkeypatch.setattr(AnsibleModule, "get_bin_path", lambda *_: "/usr/bin/apt-get")
        return run_module(mf_look, check=check, packages=["adduser", "nftables"])

    return call


HAS = {"nftables", "python3-apt"}


def test_what_can_be_had_is_not_refused(look: Look) -> None:
    apt = Apt(HAS)
    found = look(apt, stale=True)
    assert (found["missing"], found["refused"], found["unknown"]) == (["nftables", "python3-apt"], "", False)
    assert (found["changed"], found["system"], apt.updates) == (False, "debian 12", 0)


def test_stale_lists_are_fetched_once(look: Look) -> None:
    apt = Apt(set(), HAS)
    assert look(apt, stale=True)["refused"] == ""
    assert apt.updates == 1


def test_fresh_lists_are_believed(look: Look) -> None:
    apt = Apt(set(), HAS)
    assert look(apt, stale=False)["refused"] == "E: Unable to locate package nftables"
    assert apt.updates == 0


def test_no_network_is_said(look: Look) -> None:
    found = look(Apt(set(), HAS, online=False), stale=True)
    assert found["refused"] == (
        "E: Unable to locate package nftables; apt-get update failed: E: Failed to fetch http://deb.example/"
    )


def test_check_mode_fetches_nothing_and_is_not_sure(look: Look) -> None:
    apt = Apt(set(), HAS)
    found = look(apt, stale=True, check=True)
    assert (found["refused"], found["unknown"], apt.updates) == ("", True, 0)
    assert look(apt, stale=False, check=True)["refused"] != ""
