"""A control's settings, archives, and a borg that is a shell script."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mf import borg, state
from mf_backup import jobs, record, repository, settings

NOW = 1_795_000_000.0
HOUR = 3600.0


SECTION: dict[str, Any] = {
    "prefix": "control1",
    "repository": "ssh://mf-offsite@192.0.2.22:22/mf/var/offsite/repository",
    "path": "/mf/var/offsite/repository",
    "databases": ["panel"],
    "socket": "/run/none.sock",
    "newest": {"panel.customer": "seen"},
    "restore_paths": ["/srv/panel"],
    "after_restore": ["true", "false", "true"],
    "throttle_wait": 60,
    "jobs": {
        "dump": {"period": 14400, "offset": 77},
        "full": {"period": 86400, "offset": 5000},
        "verify": {"period": 604800, "offset": 0},
        "drill": {"period": 604800, "offset": 9},
    },
}


SETTINGS = settings.read({"backup": SECTION})


def archive(sequence: int, job: str = "dump", ident: str = "") -> borg.Archive:
    name = SETTINGS.archive(job, sequence, "2026-11-25T02:00:01Z")
    return borg.Archive(name, ident or f"{sequence:064d}", job, sequence, NOW)


def fake(tmp_path: Path, places: state.Places, script: str, lock: int | None = None) -> repository.Borg:
    etc = tmp_path / "etc"
    etc.mkdir()
    for name in ("passphrase", "ssh.key", "known_hosts"):
        (etc / name).write_text("x")
    program = tmp_path / "borg"
    program.write_text(f"#!/bin/sh\ncd {tmp_path}\n{script}\n")
    program.chmod(0o755)
    return repository.Borg(SETTINGS, places, etc=str(etc), base=str(tmp_path / "base"), lock=lock, program=str(program))


def context(tmp_path: Path, places: state.Places, script: str) -> jobs.Context:
    return jobs.Context(SETTINGS, places, record.Record(places), fake(tmp_path, places, script), lambda: NOW)


LIST = """
case "$*" in
  *list*) echo '{"archives": [{"name": "%s", "id": "aa", "time": "2026-11-25T02:00:01.000000"}]}' ;;
  *info*) echo '{"repository": {"id": "r1"}}' ;;
  *) touch wrote ;;
esac
"""
