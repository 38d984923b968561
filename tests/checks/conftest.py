"""Dialogues, views and a scripted diagnosis of the SMTP check; verdicts on real processes, and the killer of them."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from mf import state
from mf.smtp import ACCEPTED, GARBAGE, SILENT, UNREACHABLE, Dialogue
from mf_checks import (
    killer,
    orphans,
    process_evidence,
    processes_diagnose,
    procfs,
    smtp_diagnose,
    starttls,
    systemd,
)
from mf_checks.orphans import ORPHAN
from mf_checks.smtp_evidence import Evidence
from mf_checks.smtp_verdict import View

from tests.core.conftest import talking

LIMIT = 10.0
VALUES: dict[str, Any] = {
    "address": "127.0.0.1",
    "address6": "",
    "port": 25,
    "canary": "canary@mx1.mf.invalid",
    "unit": "qpsmtpd.service",
    "children_max": 15,
    "dialogue": LIMIT,
    "patience": 2 * LIMIT,
    "starttls": 0,
    "certificate_days": 14,
    "period": 60,
    "deadline": 55,
}


def ended(
    outcome: str,
    stage: str = "greeting",
    code: int = 0,
    stall: float = 0.0,
    text: str = "",
    session: bool | None = None,
) -> Dialogue:
    dialogue = Dialogue(stage, outcome, code, text)
    dialogue.timings[stage] = stall
    dialogue.session = session
    return dialogue


GOOD = ended(ACCEPTED, "message", 250)
MUTE = ended(SILENT, "greeting", stall=LIMIT)
REFUSING = ended(UNREACHABLE, "connect")
FULL = View(children=15)
FROZEN = (MUTE, View(ticks=False))
NONSENSE = (ended(GARBAGE), View())
HEALED = (GOOD, View())
GONE = (REFUSING, View("failed", listening=False, ours=False))


def attempt(problem: str = "", days: float | None = 90) -> starttls.Attempt:
    outcome = starttls.Attempt()
    outcome.problem = problem
    outcome.timings = {"greeting": 0.1, "starttls": 0.2, "tls": 0.3}
    outcome.expires = None if days is None else time.time() + days * 86400
    return outcome


PLAIN = talking(EHLO=b"250 here\r\n")


def decided(places: state.Places) -> list[tuple[str, str]]:
    try:
        lines = Path(places.decisions).read_text().splitlines()
    except FileNotFoundError:
        return []
    return [(entry["action"], entry["outcome"]) for entry in map(json.loads, lines)]


class Scene(smtp_diagnose.Diagnosis, Evidence):
    """A diagnosis with scripted evidence for each dialogue, and scripted effects of actions."""

    def __init__(
        self,
        places: state.Places,
        probes: list[tuple[Dialogue, View]],
        *,
        dry_run: bool = False,
        failure: str = "",
        ago: float = 0.0,
    ) -> None:
        super().__init__(VALUES, dry_run, places, time.monotonic() - ago, evidence=self)
        self.probes = probes
        self.failure = failure
        self.done: list[str] = []
        self.allowed: list[float] = []
        self.recorded_before: list[tuple[str, str]] = []
        self.locked: list[bool] = []
        self.limits: list[float] = []
        self._next = iter([dialogue for dialogue, _ in probes[1:]])
        self._views = iter([view for _, view in probes])

    def transaction(self, limit: float = 0.0) -> Dialogue:
        self.limits.append(limit)
        return next(self._next, self.probes[-1][0])

    def view(self) -> View:
        with self.places.lock(state.ACTION) as held:
            self.locked.append(not held)
        return next(self._views, self.probes[-1][1])

    def act(self, action: str, limit: float) -> None:
        self.done.append(action)
        self.allowed.append(limit)
        self.recorded_before = decided(self.places)
        if self.failure:
            raise systemd.ServiceError(self.failure)

    def go(self) -> state.Result:
        return self.result(self.probes[0][0])


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A diagnosis that waits neither for its confirmation nor for the action lock."""
    monkeypatch.setattr(smtp_diagnose, "RETEST", 0.0)
    monkeypatch.setattr(smtp_diagnose, "LOCK_WAIT", 0.1)


def diagnosis(places: state.Places, cap: int = 5, *, dry_run: bool = False) -> processes_diagnose.Diagnosis:
    values = {"unit": "no-such.service", "user": "root", "script": "/none", "session_limit": 60, "kill_cap": cap}
    values["session_cpu"] = 60
    return processes_diagnose.Diagnosis(places, values, dry_run)


def executioner(places: state.Places) -> killer.Killer:
    return killer.Killer(places, "processes", diagnosis(places).unchanged)


def verdict(pid: int) -> orphans.Verdict:
    stat = procfs.read_stat(pid)
    assert stat is not None
    values = {"unit": "no-such.service", "script": "/none"}
    process = process_evidence.evidence(stat, values, systemd.sessions())
    assert process is not None
    return orphans.Verdict(process, ORPHAN, 60.0, kill=True)


def decisions(places: state.Places) -> list[dict[str, Any]]:
    try:
        text = Path(places.decisions).read_bytes()
    except FileNotFoundError:
        return []
    return [entry for line in text.splitlines() if (entry := state.decode(line)) is not None]
