"""A release on a host: complete before it is seen, checked before it is there, undone, removed."""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.mf_deploy import guard, journal, manifest
from ansible.module_utils.mf_deploy.layout import DeployError, Layout

from tests.deploy.conftest import ONE, THREE, TWO, Machine, files_of, make


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


@pytest.mark.parametrize(("before", "after"), [(None, ONE), (ONE, ONE), (ONE, TWO), (TWO, THREE), (THREE, ONE)])
def test_check_mode_predicts_the_run(machine: Machine, before: dict[str, str] | None, after: dict[str, str]) -> None:
    if before is not None:
        machine.deploy(make(before, units={"one.service": ["one"]}))
        machine.systemd.start("one.service", time.monotonic())
    untouched = machine.everything()
    made = make(after, units={"one.service": ["one"]})
    prediction = machine.deploy(made, check=True)
    assert machine.everything() == untouched
    done = machine.deploy(made)
    for key in ("changed", "generation", "previous", "changed_paths", "changed_parts", "units"):
        assert prediction[key] == done[key], key


def test_diff_shows_what_everybody_may_read(machine: Machine) -> None:
    machine.deploy(make({**ONE, "/etc/secret": "s3cret\n"}, modes={"/etc/secret": 0o640}))
    result = machine.deploy(
        make({**TWO, "/etc/secret": "other\n"}, modes={"/etc/secret": 0o640}), check=True, diff=True
    )
    assert result["before"] == {"bin/tool": ONE["bin/tool"], "/etc/cron.d/mf": "# one\n"}
    assert "/etc/secret" in result["changed_paths"]


def _refused(machine: Machine, made: Any, *phrases: str) -> None:
    before = machine.everything(below="mf"), machine.visible_files()
    with pytest.raises(DeployError) as error:
        machine.deploy(made)
    for word in phrases:
        assert word in str(error.value)
    assert (machine.everything(below="mf"), machine.visible_files()) == before
    assert not (machine.root / "run/mf/maintenance").exists()


def test_a_validator_that_refuses_stops_it_with_nothing_changed(machine: Machine) -> None:
    machine.deploy(make(ONE))
    machine.systemd.failing.add("nft -c")
    made = make(TWO, validate={"/etc/new/deep/file": "nft -c -f %s"}, parts={"/etc/new/deep/file": "mf_throttle"})
    _refused(machine, made, "/etc/new/deep/file", "mf_throttle", "nft -c -f", "it does not want to", "exit code 1")


def test_a_validator_gets_the_file_and_the_release(machine: Machine) -> None:
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
    with pytest.raises(DeployError, match=r"/etc/new/deep/file .role one. was refused by `true -c -f"):
        machine.deploy(made, check=True)
    broken = make({**TWO, "lib/pkg/a.py": "def f(:\n"})
    with pytest.raises(DeployError, match=r"lib/pkg/a\.py line 1 is not valid Python"):
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


def test_a_directory_of_another_owner_is_not_taken(machine: Machine) -> None:
    (machine.root / "mf/bin").mkdir(parents=True)
    with pytest.raises(DeployError, match="/mf/bin is there and is not ours"):
        machine.deploy(make(ONE))
    assert machine.layout.generation() is None
    assert not (machine.root / "etc/cron.d/mf").exists()


def test_a_held_action_lock_stops_it(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine.deploy(make(ONE))
    monkeypatch.setattr(guard, "WAIT", 0.1)
    with guard.lock(machine.layout, "action", "me"):
        before = machine.visible_files()
        with pytest.raises(DeployError, match=r"action\.lock for 0 s.*fuser"):
            machine.deploy(make(TWO))
        assert machine.visible_files() == before
    assert machine.deploy(make(TWO))["changed"]


def test_a_failing_reload_is_said_and_done_by_the_next_run(machine: Machine) -> None:
    made = make({"/etc/systemd/system/one.service": "[Service]\n"})
    machine.systemd.failing.add("daemon-reload")
    with pytest.raises(DeployError, match=r"is current, but `systemctl daemon-reload` failed.*next run"):
        machine.deploy(made)
    machine.systemd.failing.clear()
    machine.systemd.calls.clear()
    assert machine.deploy(made)["changed"]
    assert ["systemctl", "daemon-reload"] in machine.systemd.calls
    assert not machine.deploy(made)["changed"]


def test_twice_back_and_a_new_release_then(machine: Machine) -> None:
    snapshots = []
    for files in (ONE, TWO, THREE):
        machine.deploy(make(files))
        snapshots.append(machine.visible_files())
    prediction = machine.back(check=True)
    assert machine.visible_files() == snapshots[2]
    done = machine.back()
    assert prediction["changed_paths"] == done["changed_paths"] == ["/etc/cron.d/mf", "etc/x.conf"]
    assert machine.visible_files() == snapshots[1]
    machine.back()
    assert machine.visible_files() == snapshots[0]
    with pytest.raises(DeployError, match="no release before"):
        machine.back()
    four = make({**ONE, "etc/x.conf": "x = 4\n"})
    machine.deploy(four)
    assert machine.text("/mf/etc/x.conf") == "x = 4\n"
    machine.back()
    assert machine.visible_files() == snapshots[0]


def test_back_after_the_same_release_came_again(machine: Machine) -> None:
    for files in (ONE, TWO, ONE):
        machine.deploy(make(files))
    machine.back()
    assert machine.text("/mf/bin/tool") == TWO["bin/tool"]


def test_no_way_back_to_a_damaged_release(machine: Machine) -> None:
    first = machine.deploy(make(ONE))["generation"]
    machine.deploy(make(TWO))
    (machine.root / f"mf/releases/{first}/etc/x.conf").write_text("edited\n")
    before = machine.visible_files()
    with pytest.raises(DeployError, match=r"damaged: etc/x\.conf \(content\)"):
        machine.back()
    assert machine.visible_files() == before


def test_nothing_to_go_back_to(machine: Machine) -> None:
    with pytest.raises(DeployError, match="no release on this host"):
        machine.back()
    assert machine.everything() == {}


def test_the_last_three_are_kept_and_a_running_job_keeps_its_own(machine: Machine) -> None:
    made = [make({**ONE, "etc/x.conf": f"x = {number}\n"}) for number in range(6)]
    for candidate in made:
        machine.deploy(candidate)
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
    prediction = machine.remove(check=True)
    assert machine.everything() == full
    done = machine.remove()
    assert prediction["changed_paths"] == done["changed_paths"]
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
    assert sorted(files_of(machine.everything())) == ["etc/new/deep/theirs", "mf/theirs"]


def test_a_generation_never_becomes_another_path() -> None:
    with pytest.raises(DeployError):
        Layout().release("../../etc")
    for path in ("../x", "/etc/../x", "bin//x", "", "/", "//etc/x"):
        file = {"path": path, "part": "a", "mode": "0644", "owner": "", "group": "", "sha256": "", "source": "",
                "validate": ""}  # fmt: skip
        with pytest.raises(DeployError, match="not a manifest"):
            manifest.Manifest({"generation": "0" * 12, "files": [file], "settings": {}, "units": {}})
