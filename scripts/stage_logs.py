"""What a stage's log or JUnit file says: how many tests passed and failed, and why."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree as ET

TASK = "TASK ["
FAILED_TASK = re.compile(r"(?:fatal|failed): ")
# pytest's, ruff's and mypy's, Perl's lines, and ours at a stage's limit
CAUSE = re.compile(r"(?:FAILED|ERROR) \S+::|\S+:\d+(?::\d+)?: |#\s+Failed test |ended after ")
CAUSES = 3  # shown of a stage
CAUSE_WIDTH = 600  # characters


@dataclass(frozen=True)
class Counts:
    """The numbers of a stage's tests that passed and failed."""

    passed: int
    failed: int

    def __add__(self, other: Counts) -> Counts:
        """Add the counts of two stages."""
        return Counts(self.passed + other.passed, self.failed + other.failed)


def count_junit(path: Path) -> Counts:
    """Return the counts from a JUnit file; a skipped test is neither passed nor failed."""
    passed = failed = 0
    for suite in ET.parse(path).getroot().iter("testsuite"):
        bad = int(suite.get("failures", 0)) + int(suite.get("errors", 0))
        failed += bad
        passed += int(suite.get("tests", 0)) - bad - int(suite.get("skipped", 0))
    return Counts(passed, failed)


def count_molecule(log: str) -> Counts:
    """Return the counts from Molecule's report (each step is one), from `prove` and from the fault suite."""
    steps = re.findall(r"^\S+ > \S+: Executed: (Successful|Failed)", log, re.MULTILINE)
    perl = sum(map(int, re.findall(r"\bFiles=\d+, Tests=(\d+)", log)))
    faults = re.findall(r"\b(\d+) as expected, (\d+) deviations", log)[:1]  # a failure prints it again
    good, bad = map(int, faults[0]) if faults else (0, 0)
    return Counts(steps.count("Successful") + perl + good, steps.count("Failed") + bad)


def causes(log: str) -> list[str]:
    """Return the lines of a failed stage's log that say why: the last task that failed, or the last tests."""
    failed_task = task = ""
    lines = []
    for line in log.splitlines():
        if line.startswith(TASK):
            task = line[len(TASK) :].rstrip(" *").removesuffix("]")
        elif FAILED_TASK.match(line):
            failed_task = f"{task}: {line}"  # those before it were expected to fail
        elif CAUSE.match(line):
            lines.append(line)
    shown = [failed_task] if failed_task else lines[-CAUSES:]
    return [line if len(line) <= CAUSE_WIDTH else f"{line[:CAUSE_WIDTH]}..." for line in shown]
