"""A release on a host: complete before it is seen, whole or not at all, repaired, undone, removed."""

from __future__ import annotations

import importlib
import json
import marshal
import os
import posix
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml
from ansible.module_utils.mf_deploy import guard, host, journal, manifest
from ansible.module_utils.mf_deploy.layout import Layout, ReleaseError
from deploy_support import ROOT, Machine, action, make

LIB = {"lib/pkg/__init__.py": "", "lib/pkg/a.py": "VALUE = 1\n"}
ONE = {"bin/tool": "#!/bin/sh\necho one\n", "etc/x.conf": "x = 1\n", "/etc/cron.d/mf": "# one\n", **LIB}
TWO = {**ONE, "bin/tool": "#!/bin/sh\necho two\n", "/etc/cron.d/mf": "# two\n", "/etc/new/deep/file": "new\n"}
THREE = {path: text for path, text in TWO.items() if path != "/etc/cron.d/mf"} | {"etc/x.conf": "x = 3\n"}


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A test's directory needn't survive a power cut, and a disk may be slow."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path / "host")


def test_a_release_is_there_whole(machine: Machine) -> None:
    result = machine.deploy(make(ONE))
    generation = result["generation"]
    assert result["changed"]
    assert os.readlink(machine.root / "mf/current") == f"releases/{generation}"
    assert machine.text("/mf/bin/tool") == ONE["bin/tool"]
    assert machine.text("/etc/cron.d/mf") == "# one\n"
    assert (machine.root / "mf/bin/tool").stat().st_mode & 0o7777 == 0o755
    assert (machine.root / f"mf/releases/{generation}/root").stat().st_mode & 0o7777 == 0o700
    assert result["changed_paths"] == sorted([*ONE, "/mf/bin", "/mf/etc", "/mf/lib"])


def test_a_second_time_nothing_changes(machine: Machine) -> None:
    machine.deploy(make(ONE))
    before = machine.everything()
    times = {key: (machine.root / key).lstat().st_mtime_ns for key in before if not key.startswith("run/")}
    machine.systemd.calls.clear()
    result = machine.deploy(make(ONE))
    assert (result["changed"], result["changed_paths"], result["changed_parts"]) == (False, [], [])
    assert machine.everything() == before
    assert {key: (machine.root / key).lstat().st_mtime_ns for key in times} == times
    assert machine.systemd.calls == []


def test_only_what_the_host_lacks_is_asked_for(machine: Machine) -> None:
    from ansible.module_utils.mf_deploy import release

    machine.deploy(make(ONE))
    made = make(TWO)
    result = release.present(machine.layout, manifest.Manifest(made.manifest), None, machine.systemd)
    lacking = {made.contents[sha256].decode() for sha256 in result["needed"]}
    assert lacking == {TWO["bin/tool"], "# two\n", "new\n"}
    assert machine.text("/mf/bin/tool") == ONE["bin/tool"]


def test_the_generation_is_filled_in_and_alone_counts_for_no_change(machine: Machine) -> None:
    text = "#!/bin/sh\n# @generation@\n"
    parts = {"bin/stamped": "stamped", "bin/tool": "other", "/etc/stamp": "stamped"}
    first = machine.deploy(make({"bin/stamped": text, "bin/tool": "#!/bin/sh\n", "/etc/stamp": text}, parts=parts))
    assert machine.text("/mf/bin/stamped") == f"#!/bin/sh\n# {first['generation']}\n"
    second = machine.deploy(make({"bin/stamped": text, "bin/tool": "#!/bin/sh\n:\n", "/etc/stamp": text}, parts=parts))
    assert machine.text("/etc/stamp") == f"#!/bin/sh\n# {second['generation']}\n"
    assert second["changed_paths"] == ["bin/tool"]
    assert second["changed_parts"] == ["other"]


def test_settings_change_their_part_and_restart_nothing(machine: Machine) -> None:
    units = {"one.service": ["one"]}
    machine.deploy(make(ONE, units=units, settings={"one": {"a": 1}, "two": {"b": 1}}))
    machine.systemd.start("one.service", time.monotonic())
    result = machine.deploy(make(ONE, units=units, settings={"one": {"a": 2}, "two": {"b": 1}}))
    assert result["changed_parts"] == ["one"]
    assert not result["units"]["one.service"]["stale"]


# --- drift ---


def _edit(path: str) -> Callable[[Path], None]:
    def act(root: Path) -> None:
        (root / path).write_text("edited\n")

    return act


def _relink(path: str, target: str) -> Callable[[Path], None]:
    def act(root: Path) -> None:
        (root / path).unlink()
        (root / path).symlink_to(target)

    return act


def _unlink(pattern: str) -> Callable[[Path], None]:
    def act(root: Path) -> None:
        (found,) = root.glob(pattern)
        found.unlink()

    return act


DRIFTS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "launcher edited": (_edit("mf/bin/tool"), "bin/tool"),
    "launcher deleted": (_unlink("mf/bin/tool"), "bin/tool"),
    "launcher not executable": (lambda root: (root / "mf/bin/tool").chmod(0o644), "bin/tool"),
    "byte code deleted": (_unlink("mf/releases/*/lib/pkg/__pycache__/a.*"), "lib/pkg/a.py"),
    "byte code damaged": (lambda root: next(root.glob("mf/releases/*/lib/pkg/__pycache__/a.*")).write_bytes(b"x"),
                          "lib/pkg/a.py"),
    "module edited": (_edit("mf/lib/pkg/a.py"), "lib/pkg/a.py"),
    "something added": (_edit("mf/lib/pkg/b.py"), "lib/pkg/b.py"),
    "folder closed": (lambda root: (root / "mf/lib/pkg").chmod(0o700), "lib/pkg"),
    "host file edited": (_edit("etc/cron.d/mf"), "/etc/cron.d/mf"),
    "host file deleted": (_unlink("etc/cron.d/mf"), "/etc/cron.d/mf"),
    "host file opened": (lambda root: (root / "etc/cron.d/mf").chmod(0o666), "/etc/cron.d/mf"),
    "host file is a link": (_relink("etc/cron.d/mf", "/dev/null"), "/etc/cron.d/mf"),
    "host file's copy edited": (lambda root: next(root.glob("mf/releases/*/root/etc/cron.d/mf")).write_text("x"),
                                "/etc/cron.d/mf"),
    "manifest damaged": (lambda root: next(root.glob("mf/releases/*/manifest.json")).write_text("{"), "manifest.json"),
    "link gone": (_unlink("mf/bin"), "/mf/bin"),
    "link elsewhere": (_relink("mf/etc", "/tmp"), "/mf/etc"),
    "asked folder gone": (lambda root: (root / "mf/var/log").rmdir(), "/mf/var/log"),
    "asked folder opened": (lambda root: (root / "mf/var/log").chmod(0o777), "/mf/var/log"),
}  # fmt: skip


def _lasting(machine: Machine) -> dict[str, tuple[Any, ...]]:
    return {key: what for key, what in machine.everything().items() if not key.startswith("run/")}


@pytest.mark.parametrize("name", DRIFTS)
def test_drift_is_said_in_check_mode_and_repaired(machine: Machine, name: str) -> None:
    made = make({**ONE, "/etc/tmpfiles.d/mf.conf": "d /mf/var/log 0755 - -\n"})
    machine.deploy(made)
    machine.systemd.calls.clear()
    whole = _lasting(machine)
    damage, path = DRIFTS[name]
    damage(machine.root)
    damaged = machine.everything()
    assert _lasting(machine) != whole
    said = machine.deploy(made, check=True)
    assert machine.everything() == damaged
    done = machine.deploy(made)
    assert said["changed_paths"] == done["changed_paths"]
    assert path in done["changed_paths"]
    assert done["changed"]
    assert _lasting(machine) == whole
    assert not machine.deploy(made)["changed"]


def test_an_edited_host_file_is_repaired_by_a_new_release_that_leaves_it_alone(machine: Machine) -> None:
    machine.deploy(make(ONE))
    (machine.root / "etc/cron.d/mf").write_text("edited\n")
    result = machine.deploy(make({**ONE, "etc/x.conf": "x = 2\n"}))
    assert result["changed_paths"] == ["/etc/cron.d/mf", "etc/x.conf"]
    assert machine.text("/etc/cron.d/mf") == "# one\n"


# --- check mode and diff ---


@pytest.mark.parametrize(("before", "after"), [(None, ONE), (ONE, ONE), (ONE, TWO), (TWO, THREE), (THREE, ONE)])
def test_check_mode_says_what_the_run_then_does(
    machine: Machine, before: dict[str, str] | None, after: dict[str, str]
) -> None:
    if before is not None:
        machine.deploy(make(before, units={"one.service": ["one"]}))
        machine.systemd.start("one.service", time.monotonic())
    untouched = machine.everything()
    made = make(after, units={"one.service": ["one"]})
    said = machine.deploy(made, check=True)
    assert machine.everything() == untouched
    done = machine.deploy(made)
    for key in ("changed", "generation", "previous", "changed_paths", "changed_parts", "units"):
        assert said[key] == done[key], key


def test_diff_shows_what_everybody_may_read(machine: Machine) -> None:
    machine.deploy(make({**ONE, "/etc/secret": "s3cret\n"}, modes={"/etc/secret": 0o640}))
    result = machine.deploy(
        make({**TWO, "/etc/secret": "other\n"}, modes={"/etc/secret": 0o640}), check=True, diff=True
    )
    assert result["before"] == {"bin/tool": ONE["bin/tool"], "/etc/cron.d/mf": "# one\n"}
    assert "/etc/secret" in result["changed_paths"]


# --- what goes wrong ---


def _refused(machine: Machine, made: Any, *words: str) -> None:
    before = machine.everything(below="mf"), machine.seen()
    with pytest.raises(ReleaseError) as error:
        machine.deploy(made)
    for word in words:
        assert word in str(error.value)
    assert (machine.everything(below="mf"), machine.seen()) == before
    assert not (machine.root / "run/mf/maintenance").exists()


def test_a_validator_that_refuses_stops_it_with_nothing_changed(machine: Machine) -> None:
    machine.deploy(make(ONE))
    machine.systemd.failing.add("nft -c")
    made = make(TWO, validate={"/etc/new/deep/file": "nft -c -f %s"}, parts={"/etc/new/deep/file": "mf_throttle"})
    _refused(machine, made, "/etc/new/deep/file", "mf_throttle", "nft -c -f", "it does not want to", "exit code 1")


def test_a_validator_is_told_the_file_and_the_release(machine: Machine) -> None:
    machine.deploy(make(TWO, validate={"/etc/new/deep/file": "env LIB=%r/lib check %s"}))
    (call,) = [call for call in machine.systemd.calls if call[0] == "env"]
    release = call[1].removeprefix("LIB=").removesuffix("/lib")
    assert call[3] == f"{release}/root/etc/new/deep/file"


def test_check_mode_validates_what_it_can_and_leaves_no_trace(
    machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    machine.deploy(make(ONE))
    before = machine.everything()
    machine.systemd.failing.add("true")
    made = make(TWO, validate={"/etc/new/deep/file": "true -c -f %s"})
    with pytest.raises(ReleaseError, match=r"/etc/new/deep/file .role one. was refused by `true -c -f"):
        machine.deploy(made, check=True)
    broken = make({**TWO, "lib/pkg/a.py": "def f(:\n"})
    with pytest.raises(ReleaseError, match=r"lib/pkg/a\.py line 1 is not valid Python"):
        machine.deploy(broken, check=True)
    machine.systemd.failing = {"not-installed-yet"}
    bare = make(TWO, validate={"/etc/new/deep/file": "not-installed-yet %s"})
    for file in bare.manifest["files"]:
        file["owner"] = "comes-with-a-package"
    assert machine.deploy(bare, check=True)["changed"]
    assert machine.everything() == before
    assert list((tmp_path / "tmp").iterdir()) == []


def test_a_launcher_that_is_not_python_stops_it(machine: Machine) -> None:
    machine.deploy(make(ONE))
    _refused(machine, make({**ONE, "bin/tool": "#!/usr/bin/python3 -IS\nif:\n"}), "bin/tool", "line 2", "role one")
    _refused(machine, make({**ONE, "bin/tool": "echo\n"}), "bin/tool", "#!")


def test_a_module_that_is_not_python_stops_it(machine: Machine) -> None:
    machine.deploy(make(ONE))
    _refused(machine, make({**ONE, "lib/pkg/a.py": "def f(:\n"}), "lib/pkg/a.py line 1", "nothing was changed")


def test_an_unknown_owner_stops_it(machine: Machine) -> None:
    made = make(ONE)
    for file in made.manifest["files"]:
        file["owner"] = "nobody-of-this-name"
    _refused(machine, made, "nobody-of-this-name", "install the package")


def test_damaged_content_stops_it(machine: Machine) -> None:
    made = make(ONE)
    made.contents.update(dict.fromkeys(made.contents, b"garbled"))
    _refused(machine, made, "damaged on its way")


def test_a_directory_in_the_place_of_a_file_stops_it(machine: Machine) -> None:
    machine.deploy(make(ONE))
    (machine.root / "etc/new/deep/file").mkdir(parents=True)
    _refused(machine, make(TWO), "/etc/new/deep/file", "is a directory")


def test_somebody_elses_directory_is_not_taken(machine: Machine) -> None:
    (machine.root / "mf/bin").mkdir(parents=True)
    with pytest.raises(ReleaseError, match="/mf/bin is there and is not ours"):
        machine.deploy(make(ONE))
    assert machine.layout.generation() is None
    assert not (machine.root / "etc/cron.d/mf").exists()


def test_a_held_action_lock_stops_it(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine.deploy(make(ONE))
    monkeypatch.setattr(guard, "WAIT", 0.1)
    with guard.lock(machine.layout, "action", "me"):
        before = machine.seen()
        with pytest.raises(ReleaseError, match=r"action\.lock for 0 s.*fuser"):
            machine.deploy(make(TWO))
        assert machine.seen() == before
    assert machine.deploy(make(TWO))["changed"]


def test_a_failing_reload_is_said_and_done_by_the_next_run(machine: Machine) -> None:
    made = make({"/etc/systemd/system/one.service": "[Service]\n"})
    machine.systemd.failing.add("daemon-reload")
    with pytest.raises(ReleaseError, match=r"is current, but `systemctl daemon-reload` failed.*next run"):
        machine.deploy(made)
    machine.systemd.failing.clear()
    machine.systemd.calls.clear()
    assert machine.deploy(made)["changed"]
    assert ["systemctl", "daemon-reload"] in machine.systemd.calls
    assert not machine.deploy(made)["changed"]


CALLS = ("replace", "rename", "link", "symlink", "unlink", "mkdir", "rmdir", "fsync", "chmod", "utime")


class Injected(OSError):
    """The fault."""


def _count_calls(monkeypatch: pytest.MonkeyPatch, at: int, act: Callable[[], None]) -> list[int]:
    """Have the ``at``-th call that changes a disk do something else instead; the counter."""
    counter = [0]

    def wrap(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            counter[0] += 1
            if counter[0] == at:
                act()
            return real(*arguments, **options)

        return call

    for module in (os, posix):  # the core writes the maintenance marker, and uses posix
        for name in CALLS:
            monkeypatch.setattr(module, name, wrap(getattr(module, name)))
    return counter


def _points(tmp_path: Path) -> int:
    """How many calls the change from ONE to THREE makes."""
    machine = Machine(tmp_path / "count")
    machine.deploy(make(ONE))
    with pytest.MonkeyPatch.context() as patch:
        counter = _count_calls(patch, -1, lambda: None)
        machine.deploy(make(THREE))
        return counter[0]


def _ends(tmp_path: Path) -> tuple[Machine, dict[str, tuple[Any, ...]], dict[str, tuple[Any, ...]]]:
    """A host with ONE, and what is to be seen before and after the change from ONE to THREE."""
    start, end = Machine(tmp_path / "start"), Machine(tmp_path / "end")
    start.deploy(make(ONE))
    end.deploy(make(THREE))
    return start, start.seen(), end.seen()


def _copy(machine: Machine, root: Path) -> Machine:
    shutil.copytree(machine.root, root, symlinks=True)
    return Machine(root)


def test_a_failing_call_anywhere_leaves_the_old_or_the_new_and_no_litter(tmp_path: Path) -> None:
    def fail() -> None:
        raise Injected(28, "No space left on device")

    number = _points(tmp_path)
    outcomes = set()
    start, old, new = _ends(tmp_path)
    for at in range(1, number + 1):
        machine = _copy(start, tmp_path / f"fail{at}")
        with pytest.MonkeyPatch.context() as patch:
            _count_calls(patch, at, fail)
            try:
                machine.deploy(make(THREE))
                outcomes.add("done in spite of it")
            except OSError:
                outcomes.add("failed")
        seen = machine.seen()
        litter = {key for key in seen if ".mf-new" in key}
        assert not litter, at
        bare = {key: what for key, what in seen.items() if ".mf-old" not in key and what[0] == "file"}
        assert bare in (_files(old), _files(new)), f"call {at}: neither old nor new"
        machine.deploy(make(THREE))
        assert _files(machine.seen()) == _files(new), at
        assert not machine.deploy(make(THREE))["changed"], at
    assert number > 40
    assert "failed" in outcomes


def _files(seen: dict[str, tuple[Any, ...]]) -> dict[str, tuple[Any, ...]]:
    return {key: what for key, what in seen.items() if what[0] == "file"}


def test_a_kill_anywhere_never_shows_half_a_release_and_the_next_run_finishes(tmp_path: Path) -> None:
    number = _points(tmp_path)
    start, old, new = _ends(tmp_path)
    for at in range(1, number + 1):
        machine = _copy(start, tmp_path / f"kill{at}")
        child = os.fork()
        if child == 0:
            with pytest.MonkeyPatch.context() as patch:
                _count_calls(patch, at, lambda: os._exit(9))
                machine.deploy(make(THREE))
            os._exit(0)
        _, status = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(status) == 9, at
        seen = machine.seen()
        for files in (_tree(old), _tree(new)):
            if _tree(seen) == files:
                break
        else:
            pytest.fail(f"call {at}: the tree is neither old nor new")
        for path, what in _files(seen).items():
            # a host file is whole, too
            assert ".mf-" in path or what in (old.get(path), new.get(path)), (at, path)
        machine.deploy(make(THREE))
        assert machine.seen() == new, at
        assert not list((machine.root / "mf/releases").glob(".staging*")), at
        assert not machine.deploy(make(THREE))["changed"], at


def _tree(seen: dict[str, tuple[Any, ...]]) -> dict[str, tuple[Any, ...]]:
    return {key: what for key, what in seen.items() if key.startswith("mf/")}


# --- the way back ---


def test_twice_back_and_a_new_release_then(machine: Machine) -> None:
    seen = []
    for files in (ONE, TWO, THREE):
        machine.deploy(make(files))
        seen.append(machine.seen())
    said = machine.back(check=True)
    assert machine.seen() == seen[2]
    done = machine.back()
    assert said["changed_paths"] == done["changed_paths"] == ["/etc/cron.d/mf", "etc/x.conf"]
    assert machine.seen() == seen[1]
    machine.back()
    assert machine.seen() == seen[0]
    with pytest.raises(ReleaseError, match="no release before"):
        machine.back()
    four = make({**ONE, "etc/x.conf": "x = 4\n"})
    machine.deploy(four)
    assert machine.text("/mf/etc/x.conf") == "x = 4\n"
    machine.back()
    assert machine.seen() == seen[0]


def test_back_after_the_same_release_came_again(machine: Machine) -> None:
    for files in (ONE, TWO, ONE):
        machine.deploy(make(files))
    machine.back()
    assert machine.text("/mf/bin/tool") == TWO["bin/tool"]


def test_no_way_back_to_a_damaged_release(machine: Machine) -> None:
    first = machine.deploy(make(ONE))["generation"]
    machine.deploy(make(TWO))
    (machine.root / f"mf/releases/{first}/etc/x.conf").write_text("edited\n")
    before = machine.seen()
    with pytest.raises(ReleaseError, match=r"damaged: etc/x\.conf \(content\)"):
        machine.back()
    assert machine.seen() == before


def test_nothing_to_go_back_to(machine: Machine) -> None:
    with pytest.raises(ReleaseError, match="no release on this host"):
        machine.back()
    assert machine.everything() == {}


def test_the_last_three_are_kept_and_a_running_job_keeps_its_own(machine: Machine) -> None:
    made = [make({**ONE, "etc/x.conf": f"x = {number}\n"}) for number in range(6)]
    for one in made:
        machine.deploy(one)
    # all six left within the last two minutes: whoever started from one finds it whole
    assert len(machine.layout.generations()) == 6
    for name in machine.layout.generations():
        os.utime(machine.layout.release(name), (0, 0))
    last = make(TWO)
    machine.deploy(last)
    kept = {made[4].manifest["generation"], made[5].manifest["generation"], last.manifest["generation"]}
    assert set(machine.layout.generations()) == kept


def test_a_lost_journal_is_made_again(machine: Machine) -> None:
    machine.deploy(make(ONE))
    (machine.root / "mf/releases/journal.json").write_text("{half")
    known = journal.read(machine.layout)
    assert known.history == [machine.layout.generation()]
    assert known.files == ["/etc/cron.d/mf"]
    machine.deploy(make(THREE))
    assert not (machine.root / "etc/cron.d/mf").exists()


# --- units, maintenance ---


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


def test_a_unit_nobody_has_any_more_is_stopped_and_disabled(machine: Machine) -> None:
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
    found = maintenance.active(places)
    assert found is not None
    assert (found.owner, found.reason[:8]) == ("deploy", "release ")
    assert 880 < found.until - state.boottime() <= 900
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


# --- accounts and sshd ---

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
    with pytest.raises(ReleaseError, match="Nothing was changed"):
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


# --- removal ---


def test_absent_leaves_nothing(machine: Machine) -> None:
    (machine.root / "etc").mkdir()
    (machine.root / "etc/hosts").write_text("theirs\n")
    before = machine.everything()
    units = {"one.service": ["one"]}
    machine.deploy(make({**ONE, "/etc/tmpfiles.d/mf.conf": "d /mf/var/log 0755 - -\nd /run/mf 0755 - -\n"}))
    machine.deploy(make({**TWO, "/etc/systemd/system/one.service": "[Service]\n"}, units=units))
    machine.systemd.start("one.service", 1.0)
    (machine.root / "mf/var/rejected").mkdir(parents=True)
    (machine.root / "mf/var/rejected/mail").write_text("x")
    full = machine.everything()
    said = machine.remove(check=True)
    assert machine.everything() == full
    done = machine.remove()
    assert said["changed_paths"] == done["changed_paths"]
    assert machine.everything() == {**before, **{k: v for k, v in machine.everything().items() if k == "run"}}
    assert machine.systemd.units["one.service"]["ActiveState"] == "inactive"
    assert machine.systemd.calls[-1] == ["systemctl", "daemon-reload"]
    assert not machine.remove()["changed"]


def test_absent_takes_its_masks_along(machine: Machine) -> None:
    machine.deploy(make({**TWO, "/etc/systemd/system/one.service": "[Service]\n"}, units={"theirs.service": ["one"]}))
    system = machine.root / "etc/systemd/system"
    for name in ("theirs.service", "other.service"):
        (system / name).symlink_to("/dev/null")
    machine.remove()
    assert [path.name for path in system.iterdir()] == ["other.service"]


def test_absent_keeps_what_others_put_beside(machine: Machine) -> None:
    machine.deploy(make(TWO))
    (machine.root / "mf/theirs").write_text("x")
    (machine.root / "etc/new/deep/theirs").write_text("x")
    machine.remove()
    assert sorted(_files(machine.everything())) == ["etc/new/deep/theirs", "mf/theirs"]


# --- byte code, and programs that run meanwhile ---


def test_byte_code_is_whole_unchecked_and_names_its_place(machine: Machine) -> None:
    generation = machine.deploy(make({"lib/pkg/__init__.py": "", "lib/pkg/a.py": "def f():\n    pass\n"}))["generation"]
    (compiled,) = (machine.root / "mf/lib/pkg/__pycache__").glob("a.*")
    assert int.from_bytes(compiled.read_bytes()[4:8], "little") == 0b01
    code = marshal.loads(compiled.read_bytes()[16:])
    assert code.co_filename == str(machine.root / f"mf/releases/{generation}/lib/pkg/a.py")
    # an edited source isn't looked at
    (machine.root / "mf/lib/pkg/a.py").write_text("raise SystemExit(9)\n")
    program = f"import sys; sys.path.insert(0, {str(machine.root / 'mf/lib')!r}); import pkg.a as a; print(a.f())"
    done = subprocess.run([sys.executable, "-ISc", program], capture_output=True, text=True, check=True)
    assert done.stdout == "None\n"


def _speaking(machine: Machine, number: int) -> Any:
    """A release in which the launcher, and two modules that it loads one after the other, all say the same number."""
    lib = f"{machine.root}/mf/releases/@generation@/lib"
    launcher = (
        f"#!{sys.executable} -IS\nimport sys\nsys.path.insert(0, {lib!r})\n"
        f"from pkg import a\nfrom pkg import b\nprint({number}, a.N, b.N)\n"
    )
    modules = {f"lib/pkg/{name}.py": f"N = {number}\n" for name in ("a", "b")}
    return make({"bin/say": launcher, "lib/pkg/__init__.py": "", **modules})


def test_a_job_never_sees_half_a_release(machine: Machine) -> None:
    machine.deploy(_speaking(machine, 0))
    script = (
        "i=0; while [ ! -e stop ]; do "
        "set -- $(mf/bin/say 2>&1); "
        '[ "$#" = 3 ] && [ "$1" = "$2" ] && [ "$2" = "$3" ] || { echo "saw: $*" >&2; exit 1; }; '
        "echo run >>runs; done"
    )
    runs = machine.root / "runs"
    running = [
        subprocess.Popen(["/bin/sh", "-c", script], cwd=machine.root, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    try:
        for number in range(1, 200):
            machine.deploy(_speaking(machine, number))
            # on a machine without a moment to spare, until the jobs have looked often enough
            if number >= 20 and runs.exists() and len(runs.read_text().split()) >= 10:
                break
        machine.back()
    finally:
        (machine.root / "stop").touch()
        answers = [(program, program.communicate(timeout=30)[1]) for program in running]
    for program, errors in answers:
        assert program.returncode == 0, errors
    assert len(runs.read_text().split()) >= 10


# --- the module ---


@pytest.fixture
def module(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """mf_deploy on the machine of the test."""
    found = importlib.import_module("library.mf_deploy")
    monkeypatch.setattr(found, "Layout", lambda: machine.layout)
    monkeypatch.setattr(found.signal, "signal", lambda *_: None)
    monkeypatch.setattr(host, "run", machine.systemd)
    return found


def test_the_module_and_its_messages(
    machine: Machine, module: ModuleType, monkeypatch: pytest.MonkeyPatch, run_module: Callable[..., dict[str, Any]]
) -> None:
    made = make(ONE)
    packed = action.pack(made.manifest)
    seen = {"root": True, "missing": ["nftables"]}
    monkeypatch.setattr(module.look, "look", lambda packages, _, *, check: {**seen, "asked": [packages, check]})
    asked = run_module(module, manifest=packed, packages=["nftables"])
    assert asked["look"] == {**seen, "asked": [["nftables"], False]}
    assert machine.layout.generation() is None
    assert sorted(asked["needed"]) == sorted(made.contents)
    done = run_module(module, manifest=packed, content=action.pack_content(made.contents))
    assert done["changed"]
    assert not run_module(module, manifest=packed, roles=["one"])["changed"]
    monkeypatch.setitem(seen, "root", False)
    assert "units" not in run_module(module, manifest=packed)
    monkeypatch.setitem(seen, "root", True)
    assert "through its action plugin" in run_module(module)["msg"]
    assert "can't be read" in run_module(module, manifest="AAAA", roles=["one"])["msg"]
    assert "no release before" in run_module(module, state="rolled_back")["msg"]
    assert run_module(module, state="absent")["changed"]


def test_what_fails_after_the_release_took_effect_says_that_a_restart_is_owed(
    machine: Machine, module: ModuleType, monkeypatch: pytest.MonkeyPatch, run_module: Callable[..., dict[str, Any]]
) -> None:
    machine.deploy(make(ONE))
    made = make(TWO)
    sent = {"manifest": action.pack(made.manifest), "content": action.pack_content(made.contents), "roles": ["one"]}
    assert not run_module(module, **{**sent, "manifest": "AAAA"})["maintenance"]

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("ansible.module_utils.mf_deploy.secret.replace", full)
    failed = run_module(module, **sent)
    assert failed["failed"]
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


def test_a_generation_never_becomes_another_path() -> None:
    with pytest.raises(ReleaseError):
        Layout().release("../../etc")
    for path in ("../x", "/etc/../x", "bin//x", "", "/", "//etc/x"):
        file = {"path": path, "part": "a", "mode": "0644", "owner": "", "group": "", "sha256": "", "source": "",
                "validate": ""}  # fmt: skip
        with pytest.raises(ReleaseError, match="not a manifest"):
            manifest.Manifest({"generation": "0" * 12, "files": [file], "settings": {}, "units": {}})
