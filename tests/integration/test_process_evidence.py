"""What is known of a process, read from real ones."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from mf_checks import process_evidence, procfs, systemd
from mf_checks.orphans import Process

from tests.checks.conftest import verdict

SCRIPT = "/usr/bin/qpsmtpd-forkserver"


def evidence(pid: int, script: str = SCRIPT) -> Process | None:
    stat = procfs.read_stat(pid)
    assert stat is not None
    values = {"unit": "qpsmtpd.service", "script": script}
    return process_evidence.evidence(stat, values, systemd.sessions())


@pytest.fixture
def perl(tmp_path: Path) -> Iterator[tuple[int, Path]]:
    """A perl that has named itself anew and runs a script which it keeps open: its number and the script."""
    script = tmp_path / "server"
    script.write_text('$| = 1; $0 = "renamed\\n\\e[31m"; print "ready\\n"; sleep 100;\n__END__\n')
    with subprocess.Popen(["/usr/bin/perl", script], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield process.pid, script
        process.kill()


def test_a_decoy_is_not_ours() -> None:
    code = "import time; print(flush=True); time.sleep(100)"
    with subprocess.Popen([sys.executable, "-ISc", code, SCRIPT, "qpsmtpd"], stdout=subprocess.PIPE) as decoy:
        assert decoy.stdout is not None
        decoy.stdout.readline()
        process = evidence(decoy.pid)
        decoy.kill()
    assert process is not None
    assert process.ours is False


def test_a_perl_that_has_the_script_open_is_ours(perl: tuple[int, Path]) -> None:
    pid, script = perl
    process = evidence(pid, str(script))
    assert process is not None
    assert process.ours is True
    assert process.listens is False
    assert process.title == "renamed\\n\\x1b[31m"


def test_a_session_from_before_an_upgrade_is_ours(perl: tuple[int, Path]) -> None:
    """It has the former script open, which is deleted."""
    pid, script = perl
    (script.parent / "new").write_text("")
    (script.parent / "new").rename(script)
    process = evidence(pid, str(script))
    assert process is not None
    assert process.ours is True


def test_unreadable_evidence_is_unknown(perl: tuple[int, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a container without CAP_SYS_PTRACE: then arguments and cgroup decide, and sleeps are counted."""
    pid, script = perl
    monkeypatch.setattr(process_evidence, "open_files", lambda _: None)

    def secret(self: psutil.Process) -> None:
        raise psutil.AccessDenied(self.pid)

    monkeypatch.setattr(psutil.Process, "io_counters", secret)
    monkeypatch.setattr(psutil.Process, "cmdline", lambda _: ["/usr/bin/perl", str(script)])
    process = evidence(pid, str(script))
    assert process is not None
    assert (process.ours, process.listens, process.peer) == (None, None, "unknown")
    assert process.moved == (psutil.Process(pid).num_ctx_switches().voluntary, 0)
    named = evidence(pid)
    assert named is not None
    assert named.ours is False


def test_a_kernel_without_io_accounting(perl: tuple[int, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(psutil.Process, "io_counters")
    process = evidence(perl[0])
    assert process is not None
    assert process.moved == (psutil.Process(perl[0]).num_ctx_switches().voluntary, 0)


def test_a_zombie_is_recognised_and_an_ended_process_is_none(victim: subprocess.Popen[bytes]) -> None:
    before = procfs.read_stat(victim.pid)
    victim.kill()
    while (stat := procfs.read_stat(victim.pid)) and stat.state != "Z":
        time.sleep(0.01)
    zombie = evidence(victim.pid)
    assert zombie is not None
    assert (zombie.stat.state, zombie.ours) == ("Z", False)
    assert process_evidence.of_user(victim.pid, os.getuid())
    victim.wait()
    assert before is not None
    assert process_evidence.evidence(before, {"unit": "", "script": ""}, {}) is None
    assert not process_evidence.of_user(victim.pid, os.getuid())


def test_evidence_names_the_peer_and_where_it_waits() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        program = f"import socket; socket.create_connection(('127.0.0.1', {port})).recv(1)"
        with subprocess.Popen([sys.executable, "-c", program]) as client:
            accepted, _ = listener.accept()
            record: dict[str, Any] = {}
            give_up = time.monotonic() + 10
            while not str(record.get("syscall", "")).isdigit() and time.monotonic() < give_up:
                record = verdict(client.pid).process.evidence()
            client.kill()
            accepted.close()
    assert record["peer"] == "established"
    assert record["address"] == f"127.0.0.1:{port}"
    # what the kernel tells of it differs; here it tells at least one
    assert record["waits"] or record["syscall"].isdigit()
    assert all(frame and frame.isascii() for frame in record["stack"])


def test_a_message_in_the_spool_has_its_age() -> None:
    name = "/var/spool/qpsmtpd/1000:11:3"
    assert process_evidence.spooled(["/dev/null", name], 11, 1060.0) == 60
    assert process_evidence.spooled([f"{name} (deleted)"], 11, 900.0) == 0
    assert process_evidence.spooled(["/dev/null", name], 1, 1060.0) is None
