"""What all unit tests share: the paths of the two doors into the package, and a way to run an Ansible module."""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import ansible.module_utils
import pytest
from ansible.module_utils.testing import patch_module_args
from hypothesis import settings

ROOT = Path(__file__).resolve().parent.parent

# A role's package lies in the role; on a host all lie side by side in /mf/lib.
sys.path[:0] = sorted(map(str, ROOT.glob("roles/*/files/lib")))
# As `module_utils` in ansible.cfg does.
for folder in ("roles/mf_tree/files/lib", "module_utils"):
    ansible.module_utils.__path__.append(str(ROOT / folder))

# The same examples in every run: a red build must be red again for whoever looks at it.
settings.register_profile("repeatable", derandomize=True, deadline=None, database=None)
settings.load_profile("repeatable")

from mf import state
from mf_checks import procfs

# Fixtures of one folder that others use, too.
from tests.throttle.conftest import clock, host

__all__ = ["clock", "host"]

ModuleRunner = Callable[..., dict[str, Any]]


@pytest.fixture
def run_module() -> ModuleRunner:
    """Run an Ansible module in this process.

    `run_module(module, check=False, diff=False, **arguments)` returns what it would have printed, and its exit code
    as "exit_code". `module` is the imported file from library/.
    """

    def run(module: ModuleType, *, check: bool = False, diff: bool = False, **arguments: Any) -> dict[str, Any]:
        options = {**arguments, "_ansible_check_mode": check, "_ansible_diff": diff, "_ansible_remote_tmp": "/tmp"}
        printed = io.StringIO()
        with patch_module_args(options), contextlib.redirect_stdout(printed), pytest.raises(SystemExit) as ended:
            module.main()
        result: dict[str, Any] = json.loads(printed.getvalue())
        return {**result, "exit_code": ended.value.code}

    return run


@pytest.fixture
def places(tmp_path: Path) -> state.Places:
    """A host's directories in the test's own: settings, results, persistent state, locks, decisions."""
    host = state.Places(str(tmp_path))
    for folder in (host.etc, host.results, host.persistent, host.locks, os.path.dirname(host.decisions)):
        os.makedirs(folder)
    return host


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate for ten days, with its key in the same file."""
    path = tmp_path_factory.mktemp("tls") / "both.pem"
    made = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 10 -subj /CN=mx1.example"
    subprocess.run([*made.split(), "-keyout", path, "-out", f"{path}.crt"], check=True, capture_output=True)
    path.write_text(path.read_text() + Path(f"{path}.crt").read_text())
    return path


@pytest.fixture
def victim() -> Iterator[subprocess.Popen[bytes]]:
    """A process that may be killed, once it does nothing any more."""
    with subprocess.Popen(["sleep", "1000"], stdin=subprocess.DEVNULL) as process:
        while (stat := procfs.read_stat(process.pid)) and (stat.comm, stat.state) != (b"sleep", "S"):
            time.sleep(0.01)
        yield process
        process.kill()
