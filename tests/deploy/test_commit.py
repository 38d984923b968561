"""The moment of change: an error, a kill or a program that runs meanwhile never meets half a release."""

from __future__ import annotations

import marshal
import os
import posix
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.deploy.conftest import ONE, THREE, Injected, Machine, files_of, make

pytestmark = pytest.mark.usefixtures("impatient")

CALLS = ("replace", "rename", "link", "symlink", "unlink", "mkdir", "rmdir", "fsync", "chmod", "utime")


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
    return start, start.visible_files(), end.visible_files()


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
        entries = machine.visible_files()
        litter = {key for key in entries if ".mf-new" in key}
        assert not litter, at
        bare = {key: what for key, what in entries.items() if ".mf-old" not in key and what[0] == "file"}
        assert bare in (files_of(old), files_of(new)), f"call {at}: neither old nor new"
        machine.deploy(make(THREE))
        assert files_of(machine.visible_files()) == files_of(new), at
        assert not machine.deploy(make(THREE))["changed"], at
    assert number > 40
    assert "failed" in outcomes


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
        entries = machine.visible_files()
        for files in (_tree(old), _tree(new)):
            if _tree(entries) == files:
                break
        else:
            pytest.fail(f"call {at}: the tree is neither old nor new")
        for path, what in files_of(entries).items():
            # a host file is whole, too
            assert ".mf-" in path or what in (old.get(path), new.get(path)), (at, path)
        machine.deploy(make(THREE))
        assert machine.visible_files() == new, at
        assert not list((machine.root / "mf/releases").glob(".staging*")), at
        assert not machine.deploy(make(THREE))["changed"], at


def _tree(entries: dict[str, tuple[Any, ...]]) -> dict[str, tuple[Any, ...]]:
    return {key: what for key, what in entries.items() if key.startswith("mf/")}


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
