"""Verdicts on real processes, and the diagnosis and the killer of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mf import state
from mf_checks import killer, orphans, process_evidence, processes_diagnose, procfs, systemd
from mf_checks.orphans import ORPHAN


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
    return [one for line in text.splitlines() if (one := state.decode(line)) is not None]
