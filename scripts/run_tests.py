#!/usr/bin/env python3
"""Run linters, unit tests, browser tests and Molecule scenarios; show passed, failed and duration of each.

Runs in the project's environment (`make venv`). A failing stage doesn't stop the others. Molecule scenarios, which wait
half of the time, run three at a time, in the labs MF_LAB to MF_LAB + 2. One of the three places is first for all else
that needs one CPU. A stage's output is in build/test/STAGE.log: its end is shown when it fails, its cause again at the
end.

The last line is the sum of all stages: a linter counts as one test, pytest and prove count their own tests, and each
step of a Molecule scenario counts as one.

Exit codes: 0 everything passed, 1 something failed, 2 usage, 130 interrupted.
"""

from __future__ import annotations

import argparse
import os
import queue
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree as ET

from stage_logs import Counts, causes, count_junit, count_molecule

ROOT = Path(__file__).resolve().parent.parent
LOGS = Path("build/test")
LANES = 3  # stages at a time, each scenario in a lab of its own
# The scenarios that take minutes, the longest first: begun last, one of them would run alone at the end.
LONGEST = ("fleet", "mf_checks", "mf_backup", "qpsmtpd", "mf_quarantine", "mf_monitor", "mf_rejected")
# Stages that run only when they are named: the fault suite is too long for each change (make chaos), and `default`
# creates and removes the whole lab, as `fleet` does.
ON_DEMAND = ("chaos", "default")
LABS = 250  # lab numbers begin again at 0 after the highest
TAIL_LINES = 60
CORE = "roles/mf_tree/files/lib/mf"
PYTEST_XML = LOGS / "pytest.xml"
INTEGRATION_XML = LOGS / "integration.xml"
BROWSER_XML = LOGS / "browser.xml"


@dataclass(frozen=True)
class Stage:
    """One command. `count` reads the counts from its log; a bad exit code is a failure in any case."""

    name: str
    group: str
    argv: tuple[str, ...]
    count: Callable[[str], Counts] | None = None
    limit: int = 600  # seconds; a stage that takes longer is ended and has failed
    on_demand: bool = False  # runs only when it is named, not with its group
    first: bool = False  # runs before the scenarios: it takes seconds, or all CPUs


def count_pytest(_log: str) -> Counts:
    """Return the counts from the JUnit file of the unit tests."""
    return count_junit(PYTEST_XML)


def count_integration(_log: str) -> Counts:
    """Return the counts of the tests on real clocks."""
    return count_junit(INTEGRATION_XML)


def count_browser(_log: str) -> Counts:
    """Return the counts of the tests in a browser."""
    return count_junit(BROWSER_XML)


def scenarios() -> list[str]:
    """Return the Molecule scenarios: the longest first, so that all lanes end together."""
    names = [path.parent.name for path in Path("molecule").glob("*/molecule.yml")]
    return sorted(names, key=lambda name: (LONGEST.index(name) if name in LONGEST else len(LONGEST), name))


def stages() -> list[Stage]:
    """Return every stage in the order of running: those before the scenarios, those beside them, the scenarios."""
    python = sys.executable
    workers = str(len(os.sched_getaffinity(0)) + 1)  # one more than CPUs: some tests wait
    listed = [
        Stage("ruff check", "lint", ("ruff", "check"), first=True),
        Stage("ruff format", "lint", ("ruff", "format", "--check"), first=True),
        Stage("yamllint", "lint", ("yamllint", "--strict", "."), first=True),
        Stage(
            "pytest",
            "unit",
            (python, "-m", "pytest", "-q", "-n", workers, "--ignore=tests/integration", f"--junitxml={PYTEST_XML}"),
            count_pytest,
            first=True,
        ),
        Stage("mypy", "lint", ("mypy", *python_roots())),
        Stage("ansible-lint", "lint", (python, "scripts/lint_ansible.py")),
        # a stage of its own: it installs Chromium when it is missing
        Stage(
            "browser",
            "browser",
            (python, "-m", "pytest", "-q", "tests/browser", f"--junitxml={BROWSER_XML}"),
            count_browser,
        ),
    ]
    integration = (python, "-m", "pytest", "-q", "tests/integration", f"--junitxml={INTEGRATION_XML}")
    listed.append(Stage("integration", "integration", integration, count_integration, 900))
    for name in scenarios():
        argv = ("molecule", "test", "--no-command-borders", "--scenario-name", name)
        listed.append(Stage(f"molecule {name}", "molecule", argv, count_molecule, 1500, name in ON_DEMAND))
    return listed


def python_roots() -> list[str]:
    """Return every directory with Python code of ours."""
    packages = map(str, sorted(Path("roles").glob("*/files/lib/mf*")))
    ansible = (
        *packages,
        "module_utils",
        "plugin_utils",
        "library",
        "action_plugins",
        "callback_plugins",
        "lookup_plugins",
        "molecule",
    )
    roots = (*ansible, "lab", "bench", "chaos", "scripts", "tests")
    return [root for root in roots if any(Path(root).rglob("*.py"))]


def link_typing() -> None:
    """Show mypy our packages under the names that Ansible gives them: `ansible.module_utils.mf` and so on."""
    where = Path("build/typing/ansible/module_utils")
    where.mkdir(parents=True, exist_ok=True)
    for old in where.iterdir():
        old.unlink()
    for package in (Path(CORE), *Path("module_utils").glob("*/")):
        (where / package.name).symlink_to(package.resolve())


def lab(lane: int) -> int:
    """Return the number of a lane's lab: MF_LAB or 1, and the next ones. Raises ValueError without a number."""
    number = os.environ.get("MF_LAB") or "1"
    if not number.isdecimal():
        raise ValueError(f"MF_LAB must be a number, not {number!r}")
    return (int(number) + lane) % LABS


def environment(lane: int = 0) -> dict[str, str]:
    """Return every stage's environment: our tools first, plain text, UTF-8 for Ansible, a lab beside the demo's."""
    tools = str(Path(sys.executable).parent)
    return {
        **os.environ,
        "PATH": os.pathsep.join((tools, os.environ.get("PATH", os.defpath))),
        "LC_ALL": "C.UTF-8",
        "NO_COLOR": "1",
        "ANSIBLE_NOCOLOR": "1",
        "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
        "MF_LAB": str(lab(lane)),
    }


class Runner:
    """Runs stages, at most one in each lane; `stop` ends the running ones."""

    def __init__(self) -> None:
        self.running: set[subprocess.Popen[bytes]] = set()
        self.stopped = False
        self.failures: list[str] = []  # a line for each cause, for the end
        self.lanes: queue.SimpleQueue[int] = queue.SimpleQueue()
        for lane in range(LANES):
            self.lanes.put(lane)

    def execute(self, stage: Stage, log: Path, lane: int = 0) -> int:
        """Run the stage into `log`, without a terminal; end it with all its children at its limit."""
        with log.open("wb") as out:
            try:
                process = subprocess.Popen(
                    stage.argv,
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=subprocess.STDOUT,
                    env=environment(lane),
                    start_new_session=True,
                )
            except OSError as error:
                out.write(f"{stage.argv[0]}: {error.strerror}. Run: make venv\n".encode())
                return 127
            self.running.add(process)
            try:
                if self.stopped:
                    return 130
                return process.wait(stage.limit)
            except subprocess.TimeoutExpired:
                out.write(f"\nended after {stage.limit} s\n".encode())
                return 124
            finally:
                end(process)
                self.running.discard(process)

    def stop(self) -> None:
        """End the running stages and those about to start."""
        self.stopped = True
        for process in list(self.running):
            end(process)

    def run(self, stage: Stage) -> Counts:
        """Run one stage and show its line; return its counts. After `stop` nothing is begun."""
        if self.stopped:
            return Counts(0, 1)
        if stage.group != "molecule":
            return self._run(stage, 0)
        lane = self.lanes.get()
        try:
            return self._run(stage, lane)
        finally:
            self.lanes.put(lane)

    def _run(self, stage: Stage, lane: int) -> Counts:
        log = LOGS / f"{stage.name.replace(' ', '-')}.log"
        if sys.stdout.isatty():
            print(f"{stage.name:<24} ...", end="\r", flush=True)
        started = time.monotonic()
        code = self.execute(stage, log, lane)
        if self.stopped:  # ended by us: that says nothing of the stage
            return Counts(0, 1)
        took = time.monotonic() - started
        text = log.read_text(errors="replace")
        counts = Counts(int(code == 0), int(code != 0))
        if stage.count:
            try:
                counts = stage.count(text)
            except (OSError, ET.ParseError):
                counts = Counts(0, 1)
            if code and not counts.failed:
                counts += Counts(0, 1)
            elif not code and not counts.passed:
                counts = Counts(0, 1)
                text += "\nIt ran no test at all.\n"
        verdict = "ok" if not counts.failed else "FAILED"
        if counts.failed:
            self.failures += [f"FAILED {stage.name}: {cause}" for cause in causes(text) or [f"see {log}"]]
        line = f"{stage.name:<24} {verdict:<7} {took:7.1f} s  {counts.passed:5} passed {counts.failed:3} failed"
        print(f"{line}\n{tail(stage, log, text)}" if counts.failed else line, flush=True)
        return counts


def end(process: subprocess.Popen[bytes]) -> None:
    """End a process with all its children, unless it has ended."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def run_all(runner: Runner, chosen: Sequence[Stage]) -> Counts:
    """Run the stages: Molecule's in lanes with labs of their own, and beside them most others, one after the other."""
    scenarios = [stage for stage in chosen if stage.group == "molecule"]
    others = [stage for stage in chosen if stage.group != "molecule" and not stage.first]
    none = Counts(0, 0)
    with ThreadPoolExecutor(LANES) as pool:
        try:
            image = pool.submit(lab_ready, runner) if scenarios else None
            total = sum((runner.run(stage) for stage in chosen if stage.first), none)
            beside = pool.submit(lambda: sum(map(runner.run, others), none))
            problem = image.result() if image else None
            if problem:
                print(f"{'molecule':<24} {'FAILED':<7} {problem}", flush=True)
                return total + beside.result() + Counts(0, 1)
            return total + sum(pool.map(runner.run, scenarios), none) + beside.result()
        except BaseException:
            runner.stop()
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def tail(stage: Stage, log: Path, text: str) -> str:
    """Return the end of a failed stage's log, framed."""
    lines = text.rstrip().splitlines()[-TAIL_LINES:]
    return "\n".join([f"--- the end of {log} ({' '.join(stage.argv)})", *lines, "---"])


def lab_ready(runner: Runner) -> str | None:
    """Build the lab's image unless it exists. Return the problem in one line, or None."""
    started = time.monotonic()
    log = LOGS / "lab.log"
    code = runner.execute(Stage("lab", "molecule", (sys.executable, "lab/lab.py", "image"), limit=900), log)
    if code == 0:
        print(f"{'lab image':<24} {'ok':<7} {time.monotonic() - started:7.1f} s", flush=True)
        return None
    lines = log.read_text(errors="replace").strip().splitlines()
    return lines[-1] if lines else f"lab/lab.py image ended with {code}"


def choose(names: Sequence[str], every: Iterable[Stage]) -> list[Stage]:
    """Return the stages whose name, a word of it or group is in `names`; all if `names` is empty.

    Stages on demand have to be named.

    Raises ValueError for an unknown name.
    """
    every = list(every)
    if not names:
        return [stage for stage in every if not stage.on_demand]
    known = {
        stage: {stage.name, stage.name.split()[-1]}
        if stage.on_demand
        else {stage.name, *stage.name.split(), stage.group}
        for stage in every
    }
    unknown = sorted(set(names) - set().union(*known.values()))
    if unknown:
        raise ValueError(f"no such stage: {', '.join(unknown)}. There are: {', '.join(stage.name for stage in every)}")
    return [stage for stage in every if known[stage] & set(names)]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the chosen stages; return the exit code."""
    parser = argparse.ArgumentParser(description="Run the linters, tests and Molecule scenarios.")
    parser.add_argument(
        "stage",
        nargs="*",
        help="a stage (yamllint, mypy, fleet, …) or group (lint, unit, integration, browser, molecule)",
    )
    parser.add_argument("--list", action="store_true", help="list the stages and run nothing")
    options = parser.parse_args(arguments)
    os.chdir(ROOT)
    try:
        chosen = choose(options.stage, stages())
        lab(0)  # refuse a wrong MF_LAB before anything runs
    except ValueError as error:
        parser.error(str(error))
    if options.list:
        print("\n".join(f"{stage.group:<9} {stage.name}" for stage in chosen))
        return 0
    LOGS.mkdir(parents=True, exist_ok=True)
    for path in (PYTEST_XML, INTEGRATION_XML, BROWSER_XML):
        path.unlink(missing_ok=True)
    link_typing()
    started = time.monotonic()
    runner = Runner()
    try:
        total = run_all(runner, chosen)
    except KeyboardInterrupt:
        labs = " ".join(f"make demo-down MF_LAB={lab(lane)};" for lane in range(LANES))
        print(f"\ninterrupted; what a scenario left behind goes with: {labs.rstrip(';')}", file=sys.stderr)
        return 130
    for line in runner.failures:
        print(line)
    minutes, seconds = divmod(round(time.monotonic() - started), 60)
    print(f"{len(chosen)} stages in {minutes} min {seconds} s; logs in {LOGS}/")
    summary = f"{total.passed} passed, {total.failed} failed"
    (LOGS / "summary").write_text(summary + "\n")
    print(summary)
    return 1 if total.failed else 0


if __name__ == "__main__":
    sys.exit(main())
