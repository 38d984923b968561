"""The test runner counts what ran and never calls nothing a success."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import run_tests
import stage_logs
from run_tests import Stage
from stage_logs import Counts

MOLECULE = """\
INFO     [mf_tree > verify] Executed: Successful
Files=3, Tests=14,  1 wallclock secs
DETAILS
mf_tree > destroy: Executed: Successful
mf_tree > prepare: Executed: Missing playbook (Remove from test_sequence to suppress)
mf_tree > converge: Executed: Successful
mf_tree > verify: Executed: Failed (Ansible return code was 2)
"""


@pytest.fixture(autouse=True)
def logs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_tests, "LOGS", tmp_path)
    monkeypatch.setattr(run_tests, "PYTEST_XML", tmp_path / "pytest.xml")


def python(code: str, limit: int = 60) -> Stage:
    return Stage("a stage", "unit", (sys.executable, "-c", code), limit=limit)


def test_molecule_counts_steps_that_ran_and_perl_tests() -> None:
    assert stage_logs.count_molecule(MOLECULE) == Counts(passed=2 + 14, failed=1)


def test_faults_of_the_fault_suite_count_once() -> None:
    summary = "52 as expected, 2 deviations, in 9 min 1 s"
    log = f'"{summary}"\nfatal: {summary}\nchaos > verify: Executed: Failed\n'
    assert stage_logs.count_molecule(log) == Counts(passed=52, failed=2 + 1)


def test_the_cause_is_the_last_task_that_failed_or_the_last_tests() -> None:
    expected = "TASK [mf_tree : Refuse] ***\nfatal: [mx1]: FAILED! => as it should\n"
    log = f"{expected}TASK [Check [all] of it] ***\nfatal: [mx2]: FAILED! => {'x' * 1000}\nPLAY RECAP ***\n"
    assert stage_logs.causes(expected + "TASK [Go on] ***\nok: [mx1]\n") == [
        "mf_tree : Refuse: fatal: [mx1]: FAILED! => as it should"
    ]
    (cause,) = stage_logs.causes(log)
    assert cause.startswith("Check [all] of it: fatal: [mx2]: FAILED! => xxx")
    assert len(cause) <= stage_logs.CAUSE_WIDTH + 3
    tests = [f"FAILED tests/test_a.py::test_{n} - assert 0" for n in range(5)]
    assert stage_logs.causes("\n".join(["...F", *tests, "5 failed"])) == tests[-stage_logs.CAUSES :]
    assert stage_logs.causes("mf/a.py:3:1: E501\nFound 1 error.") == ["mf/a.py:3:1: E501"]
    assert stage_logs.causes("nothing of the kind") == []


def test_pytest_counts_leave_out_what_was_skipped() -> None:
    run_tests.PYTEST_XML.write_text(
        '<testsuites><testsuite tests="9" failures="1" errors="2" skipped="3"/></testsuites>'
    )
    assert run_tests.count_pytest("") == Counts(passed=3, failed=3)


def test_a_linter_is_one_test() -> None:
    assert run_tests.Runner().run(python("")) == Counts(1, 0)
    assert run_tests.Runner().run(python("raise SystemExit(3)")) == Counts(0, 1)


def test_a_bad_exit_is_a_failure_whatever_the_counts_say() -> None:
    stage = python("raise SystemExit(3)")
    counting = Stage(stage.name, stage.group, stage.argv, lambda _log: Counts(5, 0))
    assert run_tests.Runner().run(counting) == Counts(5, 1)


def test_no_test_at_all_is_a_failure(capsys: pytest.CaptureFixture[str]) -> None:
    stage = python("")
    assert run_tests.Runner().run(Stage(stage.name, stage.group, stage.argv, stage_logs.count_molecule)) == Counts(0, 1)
    assert "ran no test" in capsys.readouterr().out


def test_a_crash_before_the_report_is_a_failure() -> None:
    stage = python("raise SystemExit(4)")
    assert run_tests.Runner().run(Stage(stage.name, stage.group, stage.argv, run_tests.count_pytest)) == Counts(0, 1)


def test_a_stage_ends_at_its_limit(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_tests.Runner().run(python("import time; time.sleep(600)", limit=1)) == Counts(0, 1)
    assert "ended after 1 s" in capsys.readouterr().out


def test_a_missing_program_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_tests.Runner().run(Stage("gone", "lint", ("there-is-no-such-linter",))) == Counts(0, 1)
    assert "there-is-no-such-linter: No such file or directory. Run: make venv" in capsys.readouterr().out


def test_stages_are_chosen_by_name_word_or_group() -> None:
    every = [Stage("ruff check", "lint", ()), Stage("ruff format", "lint", ()), Stage("molecule fleet", "molecule", ())]
    assert run_tests.choose([], every) == every
    assert run_tests.choose(["ruff"], every) == every[:2]
    assert run_tests.choose(["lint"], every) == every[:2]
    assert run_tests.choose(["fleet"], every) == every[2:]
    long = Stage("molecule chaos", "molecule", (), on_demand=True)
    assert run_tests.choose([], [*every, long]) == every
    assert run_tests.choose(["molecule"], [*every, long]) == every[2:]
    assert run_tests.choose(["chaos"], [*every, long]) == [long]
    with pytest.raises(ValueError, match="no such stage: fleets"):
        run_tests.choose(["fleets"], every)


def test_scenarios_run_in_lanes_with_a_lab_each(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MF_LAB", "249")
    monkeypatch.setattr(run_tests, "lab_ready", lambda _: None)
    # each waits for the other: one after the other they would never end
    code = """
import os, pathlib, sys, time
here = pathlib.Path(sys.argv[1]); (here / os.environ["MF_LAB"]).touch()
while not all((here / name).exists() for name in ("249", "0")): time.sleep(0.01)
"""
    stages = [Stage(name, "molecule", (sys.executable, "-c", code, str(tmp_path)), limit=20) for name in "ab"]
    assert run_tests.run_all(run_tests.Runner(), stages) == Counts(2, 0)


def test_the_others_run_beside_the_scenarios_one_after_the_other(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(run_tests, "lab_ready", lambda _: None)
    code = """
import os, pathlib, sys, time
here, name, awaited = sys.argv[1:]; here = pathlib.Path(here)
assert name != "unit" or (here / "lint.end").exists()
(here / name).touch()
while awaited and not (here / awaited).exists(): time.sleep(0.01)
(here / f"{name}.end").touch()
"""

    def stage(name: str, group: str, awaited: str) -> Stage:
        return Stage(name, group, (sys.executable, "-c", code, str(tmp_path), name, awaited), limit=20)

    # the scenario waits for the last of the others, the first of them for the scenario
    chosen = [stage("lint", "lint", "fleet"), stage("unit", "unit", ""), stage("fleet", "molecule", "unit")]
    assert run_tests.run_all(run_tests.Runner(), chosen) == Counts(3, 0)


def test_what_takes_all_cpus_ends_before_the_scenarios_begin(monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[object] = []

    class Pool(ThreadPoolExecutor):
        def submit(self, work: Any, /, *arguments: Any, **options: Any) -> Any:
            begun.append(work)
            return super().submit(work, *arguments, **options)

    class Runner(run_tests.Runner):
        def run(self, stage: Stage) -> Counts:
            assert not stage.first or begun == [image]
            return Counts(1, 0)

    def image(_runner: object) -> None:
        return None

    monkeypatch.setattr(run_tests, "ThreadPoolExecutor", Pool)
    monkeypatch.setattr(run_tests, "lab_ready", image)
    chosen = [
        Stage("pytest", "unit", (), first=True),
        Stage("mypy", "lint", ()),
        Stage("molecule fleet", "molecule", ()),
    ]
    assert run_tests.run_all(Runner(), chosen) == Counts(3, 0)
    assert len(begun) == 3


def test_scenarios_begin_in_their_order(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(run_tests, "lab_ready", lambda _: None)
    code = f"import sys; open({str(tmp_path / 'begun')!r}, 'a').write(sys.argv[1])"
    stages = [Stage(name, "molecule", (sys.executable, "-c", code, name)) for name in "abcdefghij"]
    monkeypatch.setattr(run_tests, "LANES", 1)
    assert run_tests.run_all(run_tests.Runner(), [python(""), *stages]) == Counts(11, 0)
    assert (tmp_path / "begun").read_text() == "abcdefghij"


def test_a_missing_image_fails_and_the_others_run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(run_tests, "lab_ready", lambda _: "podman isn't installed")
    chosen = [python(""), Stage("molecule fleet", "molecule", ("false",))]
    assert run_tests.run_all(run_tests.Runner(), chosen) == Counts(1, 1)
    assert "podman isn't installed" in capsys.readouterr().out


def test_what_failed_is_known_at_the_end() -> None:
    runner = run_tests.Runner()
    runner.run(python("print('FAILED tests/test_a.py::test_b - assert 0'); raise SystemExit(1)"))
    runner.run(python("raise SystemExit(1)"))
    assert runner.failures[0] == "FAILED a stage: FAILED tests/test_a.py::test_b - assert 0"
    assert runner.failures[1].startswith("FAILED a stage: see ")


def test_an_interrupt_ends_what_runs(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(run_tests, "lab_ready", lambda _: None)
    runner = run_tests.Runner()

    def ctrl_c() -> None:
        while len(runner.running) < 2:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    sleeper = (sys.executable, "-c", "import time; time.sleep(600)")
    # what runs in the background of a script has SIGINT ignored
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    threading.Thread(target=ctrl_c, daemon=True).start()
    started = time.monotonic()
    try:
        with pytest.raises(KeyboardInterrupt):
            run_tests.run_all(runner, [Stage(name, "molecule", sleeper, limit=20) for name in "abc"])
    finally:
        signal.signal(signal.SIGINT, before)
    assert time.monotonic() - started < 15
    assert not runner.running
    assert "FAILED" not in capsys.readouterr().out
