"""What somebody changed on a host: said in check mode, repaired by the next run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.deploy.conftest import ONE, Machine, make


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
        (path,) = root.glob(pattern)
        path.unlink()

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
    prediction = machine.deploy(made, check=True)
    assert machine.everything() == damaged
    done = machine.deploy(made)
    assert prediction["changed_paths"] == done["changed_paths"]
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
