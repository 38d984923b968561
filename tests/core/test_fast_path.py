"""The fast path, a healthy minute on an MX and /mf/bin/health: what they load, and what such a module may cost."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from mf import state

from tests.core.conftest import server, talking

ROOT = Path(__file__).resolve().parents[2]
LIBRARIES = sorted(map(str, ROOT.glob("roles/*/files/lib")))
# Only these write `TYPE_CHECKING = False`, `__slots__`, and `posix` instead of `os`; all others are plain Python.
CHECKS = {
    "mf/__init__.py",
    "mf/message_id.py",
    "mf/run.py",
    "mf/smtp.py",
    "mf/state.py",
    "mf_checks/__init__.py",
    "mf_checks/due.py",
    "mf_checks/load.py",
    "mf_checks/processes.py",
    "mf_checks/procfs.py",
    "mf_checks/queue.py",
    "mf_checks/smtp.py",
    "mf_checks/smtp_report.py",
    "mf_rejected/__init__.py",
    "mf_rejected/check.py",
    "mf_rejected/check_refused.py",
    "mf_rejected/purge_record.py",
    "mf_rejected/refused.py",
}
HEALTH = {
    "mf/__init__.py",
    "mf/claims.py",
    "mf/command/__init__.py",
    "mf/command/health.py",
    "mf/config.py",
    "mf/health.py",
    "mf/maintenance.py",
    "mf/state.py",
    "mf/text.py",
    "mf/throttle/__init__.py",
    "mf/throttle/lease.py",
    "mf/throttle/marker.py",
}
# Each of these costs more than a whole check.
DEAR = {
    "argparse",
    "collections",
    "dataclasses",
    "enum",
    "json",
    "logging",
    "os",
    "pathlib",
    "re",
    "signal",
    "socket",
    "subprocess",
    "traceback",
    "typing",
}

MINUTE = """
from mf import run, state
from mf_checks import due
run.Run.diagnose = lambda self, function: self.unknown("slow path")
due.round_of({checks!r}, "abc", state.Places({root!r}), everything=True)
"""
LAUNCH_HEALTH = """
from mf import state
from mf.command import health
health.main(["--json"], state.Places({root!r}))
"""


def loaded(code: str) -> tuple[list[str], dict[str, str]]:
    """The lines that some code prints in an interpreter like a launcher's, and the names and files of its modules."""
    code = f"""import sys
sys.path[:0] = {LIBRARIES!r}
{code}
loaded = dict(sys.modules)
import json
print(json.dumps({{name: getattr(module, "__file__", None) or "" for name, module in loaded.items()}}))"""
    done = subprocess.run([sys.executable, "-IS", "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert not done.stderr
    *lines, modules = done.stdout.splitlines()
    return lines, dict(json.loads(modules))


def own(modules: dict[str, str]) -> set[str]:
    """The files of ours among some modules."""
    return {file.rpartition("/files/lib/")[2] for file in modules.values() if "/files/lib/" in file}


def checks_of_an_mx(root: Path, port: int) -> dict[str, dict[str, Any]]:
    """The settings of every check of an MX, as its launcher run-checks has them."""
    every = {"period": 300, "deadline": 20}
    smtp = {"address": "127.0.0.1", "port": port, "unit": "no-such.service"}
    return {
        "load": {**every, "module": "mf_checks.load", "high": 10000, "low": 9999},
        "processes": {
            **every,
            "module": "mf_checks.processes",
            "unit": "no-such.service",
            "user": "nobody",
            "script": "/usr/bin/qpsmtpd-forkserver",
            "session_limit": 1800,
            "session_cpu": 60,
            "kill_cap": 5,
        },
        "queue": {
            **every,
            "module": "mf_checks.queue",
            "unit": "no-such.service",
            "spool": str(root / "spool"),
            "address": "127.0.0.1",
            "port": port,
            "age_warning": 14400,
            "age_critical": 86400,
            "frozen_critical": 1,
            "free_warning": 1,
            "free_critical": 1,
        },
        "smtp": {
            **every,
            **smtp,
            "module": "mf_checks.smtp",
            "address6": "",
            "canary": "canary@mx1.mf.invalid",
            "children_max": 15,
            "dialogue": 10,
            "patience": 20,
            "starttls": 0,
            "certificate_days": 14,
        },
        "rejected": {
            **every,
            "module": "mf_rejected.check",
            "root": str(root / "rejected"),
            "refused": str(root / "refused"),
            "keep_days": 14,
            "free_percent": 1,
        },
        "refused": {
            **every,
            "module": "mf_rejected.check_refused",
            "root": str(root / "rejected"),
            "folder": str(root / "refused"),
            "releases": str(root / "release"),
        },
    }


def minute(root: Path, port: int) -> dict[str, str]:
    """Every check of an MX in one interpreter, as run-checks does; returns its modules' names and files."""
    for folder in (
        "mf/etc",
        "run/mf",
        "rejected",
        "refused",
        "release",
        "mf/var/state",
        "spool/input",
    ):
        (root / folder).mkdir(parents=True)
    (root / "mf/etc/mf.json").write_text('{"generation": "abc"}\n')
    (root / "run/mf/reconciled").write_text(f"nothing {state.boottime():.3f}\n")
    (root / "mf/var/state/rejected").write_text(f"ran {time.time():.0f}\n")
    checks = checks_of_an_mx(root, port)
    lines, modules = loaded(MINUTE.format(checks=checks, root=str(root)))
    # there is no qpsmtpd here, so that check alone goes on to diagnose
    assert [line for line in lines if " OK - " not in line] == ["PROCESSES UNKNOWN - slow path"], lines
    assert len(lines) == len(checks)
    return modules


def test_a_healthy_minute_loads_the_listed_modules(tmp_path: Path) -> None:
    with server(talking(EHLO=b"250-here\r\n250 PIPELINING\r\n")) as port:
        modules = minute(tmp_path, port)
    assert own(modules) == CHECKS
    assert not DEAR & set(modules)


def test_health_loads_the_listed_modules(tmp_path: Path) -> None:
    """With a lease and maintenance in force too: a host in trouble is asked as often."""
    now = state.boottime()
    claim = {"owner": "operator", "reason": "disk", "since": now - 1, "until": now + 900}
    for name, content in {
        "mf/etc/mf.json": {"generation": "abc", "host": "mx1", "checks": {"smtp": {"period": 60, "offset": 0}}},
        "run/mf/throttled": {"leases": [{**claim, "refuse": True}], "refusing": True},
        "run/mf/maintenance": claim,
        "run/mf/state/smtp.json": {"status": "CRITICAL"},
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(json.dumps(content))
    (line,), modules = loaded(LAUNCH_HEALTH.format(root=str(tmp_path)))
    assert "throttled by operator and refusing mail, maintenance by operator" in json.loads(line)["line"]
    assert own(modules) == HEALTH
    assert not DEAR & set(modules)


def test_invalid_json_is_refused_without_the_module_json() -> None:
    """The scanner raises a JSONDecodeError where json is loaded, as in all other tests, and a SystemError elsewhere."""
    torn = [
        b'{"a" 1}',
        b'{"a": ',
        b'{"a": "',
        b"{} x",
        b"",
        b"[1]",
        b'{"a": "\\u12',
        b"\xff",
        b"[" * 100_000,
        b'{"a": 1,}',
    ]
    code = f"import sys; sys.path[:0] = {LIBRARIES!r}\nfrom mf import state\n"
    code += f"print([state.decode(data) for data in {torn!r}], 'json' in sys.modules)"
    done = subprocess.run([sys.executable, "-IS", "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == f"{[None] * len(torn)} False\n"


def test_all_others_are_plain_python() -> None:
    files = {str(path).rpartition("/files/lib/")[2]: path for path in ROOT.glob("roles/*/files/lib/**/*.py")}
    frugal = re.compile(r"^\s*TYPE_CHECKING = False|^\s*import posix$|^\s*__slots__ =", re.MULTILINE)
    assert [name for name in sorted(set(files) - CHECKS - HEALTH) if frugal.search(files[name].read_text())] == []
