"""Older secrets: none is left in a release on disk, and no way back brings one."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible.module_utils.mf_deploy import secret
from ansible.module_utils.mf_deploy.layout import DeployError

from tests.deploy.conftest import ROOT, Machine, make

KEY, ACCESS, OUTSIDE = "etc/backup/key", "etc/ssh/mf-x.keys", "/etc/x/token"
SECRETS = (KEY, ACCESS, OUTSIDE)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path / "host")


def release(word: str, key: str = "old", secrets: tuple[str, ...] = SECRETS, **options: Any) -> Any:
    """A release whose program says ``word`` and whose secrets are those of ``key``."""
    files = {path: f"{key} secret of {path}\n" for path in secrets}
    modes = dict.fromkeys(secrets, 0o600)
    return make({"bin/say": f"#!/bin/sh\necho {word}\n", **files}, modes=modes, secret=secrets, **options)


def leaks(machine: Machine, word: str) -> list[str]:
    """Files anywhere on the host that have the word."""
    return sorted(
        str(path.relative_to(machine.root))
        for path in machine.root.rglob("*")
        if path.is_file() and not path.is_symlink() and word.encode() in path.read_bytes()
    )


def test_the_way_back_has_the_programs_of_then_and_the_secrets_of_now(machine: Machine) -> None:
    machine.deploy(release("one"))
    machine.deploy(release("two", "new"))
    machine.back()
    assert "one" in machine.text("mf/bin/say")
    for path in ("mf/" + KEY, "mf/" + ACCESS, OUTSIDE):
        assert "new secret" in machine.text(path)
    assert (machine.root / "mf" / KEY).stat().st_mode & 0o777 == 0o600


def test_no_older_secret_is_left_anywhere(machine: Machine) -> None:
    machine.deploy(release("one"))
    machine.deploy(release("two"))
    machine.deploy(release("three", "new"))
    assert leaks(machine, "old secret") == []
    assert len(machine.layout.generations()) == 3


def test_after_a_way_back_they_are_replaced_as_well(machine: Machine) -> None:
    """The release that was left, with what has become the older secret, is still on disk."""
    machine.deploy(release("one"))
    machine.deploy(release("two"))
    machine.back()
    machine.deploy(release("three", "new"))
    assert leaks(machine, "old secret") == []
    machine.back()
    assert "one" in machine.text("mf/bin/say")
    assert "new secret" in machine.text("mf/" + KEY)


def test_a_second_time_nothing_changes(machine: Machine) -> None:
    machine.deploy(release("one"))
    machine.deploy(release("two", "new"))
    assert not machine.deploy(release("two", "new"))["changed"]
    machine.back()
    # the same secrets with the older programs aren't what that release was made of; that is said, and mended
    assert machine.deploy(release("one"))["changed"]
    assert "old secret" in machine.text("mf/" + KEY)
    assert not machine.deploy(release("one"))["changed"]


def test_a_run_that_was_cut_short_is_finished_by_the_next(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine.deploy(release("one"))

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(secret, "replace", full)
        with pytest.raises(DeployError, match="is current, but older secrets are left in /mf/releases: No space left"):
            machine.deploy(release("two", "new"))
    assert "two" in machine.text("mf/bin/say")
    assert leaks(machine, "old secret")
    assert machine.deploy(release("two", "new"), check=True)["changed"]
    assert leaks(machine, "old secret")
    assert machine.deploy(release("two", "new"))["changed"]
    assert leaks(machine, "old secret") == []
    assert not machine.deploy(release("two", "new"))["changed"]


def test_after_a_run_that_was_cut_short_the_way_back_brings_none_either(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine.deploy(release("one"))
    with monkeypatch.context() as patch:
        patch.setattr(secret, "replace", lambda *_: None)  # killed before
        machine.deploy(release("two", "new"))
    assert leaks(machine, "old secret")
    before = machine.visible_files()
    machine.back(check=True)
    assert machine.visible_files() == before
    machine.back()
    assert "one" in machine.text("mf/bin/say")
    assert leaks(machine, "old secret") == []


def test_a_present_secret_with_changed_content_takes_no_place(machine: Machine) -> None:
    machine.deploy(release("one"))
    machine.deploy(release("two", "new"))
    (machine.root / "mf" / KEY).write_text("somebody's")
    machine.back()
    assert "new secret" in machine.text("mf/" + KEY)
    assert leaks(machine, "old secret") == []


def test_killed_between_file_and_manifest_it_is_finished_by_the_next(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine.deploy(release("one"))
    with monkeypatch.context() as patch:
        patch.setattr(secret, "_note", lambda *_: None)
        machine.deploy(release("two", "new"))
    assert machine.deploy(release("two", "new"))["changed"]
    machine.back()
    assert "new secret" in machine.text("mf/" + KEY)


def test_a_secret_that_is_no_more_goes_and_with_it_the_way_back(machine: Machine) -> None:
    first = release("one")
    machine.deploy(first)
    machine.deploy(release("two", secrets=(ACCESS, OUTSIDE)))
    assert [path for path in leaks(machine, f"old secret of {KEY}") if KEY in path] == []
    before = machine.visible_files()
    with pytest.raises(DeployError, match=f"needs {KEY}, which .* doesn't have: an older secret never comes back"):
        machine.back()
    assert machine.visible_files() == before


def test_releases_from_before_there_was_a_word_for_it(machine: Machine) -> None:
    """Their manifests don't say what is secret; that of the present one does."""
    old = make({"bin/say": "#!/bin/sh\necho one\n", KEY: "old secret\n"}, modes={KEY: 0o600})
    for entry in old.manifest["files"]:
        del entry["secret"]
    machine.deploy(old)
    machine.deploy(release("two", "new"))
    assert leaks(machine, "old secret") == []
    machine.back()
    assert "new secret" in machine.text("mf/" + KEY)


def test_one_whose_manifest_is_lost_keeps_no_secret_either(machine: Machine) -> None:
    machine.deploy(release("one"))
    generation = machine.layout.generation() or ""
    Path(machine.layout.release(generation), "manifest.json").write_text("{")
    machine.deploy(release("two", "new"))
    assert leaks(machine, "old secret") == []
    with pytest.raises(DeployError, match="no readable manifest"):
        machine.back()


def test_a_secret_that_names_its_release_names_the_one_it_lies_in(machine: Machine) -> None:
    def settings(word: str, key: str) -> Any:
        files = {"bin/say": f"#!/bin/sh\necho {word}\n", KEY: json.dumps({"generation": "@generation@", "key": key})}
        return make(files, secret=(KEY,))

    machine.deploy(settings("one", "old"))
    first_generation = machine.layout.generation()
    machine.deploy(settings("two", "new"))
    assert not machine.deploy(settings("two", "new"))["changed"]
    machine.back()
    assert json.loads(machine.text("mf/" + KEY)) == {"generation": first_generation, "key": "new"}
    assert machine.layout.generation() == first_generation


def test_the_programs_of_then_must_take_the_secrets_of_now(machine: Machine) -> None:
    """Where a file is settings as well: its own program says so before anything changes."""
    validate = {KEY: "/usr/bin/check --settings %s"}
    machine.deploy(release("one", validate=validate))
    machine.deploy(release("two", "new", validate=validate))
    before = machine.visible_files()
    machine.systemd.failing = {"check --settings"}
    with pytest.raises(DeployError, match=f"{KEY} .* was refused by"):
        machine.back()
    assert machine.visible_files() == before


def test_everything_that_is_made_of_secrets_is_called_one() -> None:
    """What names mf_secrets or a host key, keys that let somebody in, and files that not everybody may read."""
    for role in sorted(ROOT.glob("roles/*")):
        variables = role / "vars/main.yml"
        known = yaml.safe_load(variables.read_text()) if variables.exists() else {}
        options = known.get(f"__{role.name}_files", {})
        secrets = {path for path, what in options.items() if (what or {}).get("secret")}
        confidential_paths = {
            path for path, what in options.items() if int((what or {}).get("mode", "0644"), 8) & 0o004 == 0
        }
        for kind in ("templates", "files"):
            for top in ("etc", "root"):
                for folder, _, names in os.walk(role / kind / top):
                    for name in names:
                        path = Path(folder, name)
                        inner = str(path.relative_to(role / kind)).removesuffix(".j2").removeprefix("root")
                        text = path.read_text(errors="replace")
                        if (
                            "mf_secrets" in text
                            or "mf_host_key" in text
                            or name.endswith((".keys.j2", "known_hosts.j2"))
                        ):
                            confidential_paths.add(inner)
        assert confidential_paths <= secrets, f"{role.name}: {sorted(confidential_paths - secrets)} lack secret: true"
