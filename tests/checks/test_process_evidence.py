"""What is known of a process, read from real ones."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from mf_checks import orphans, procfs, systemd
from process_support import verdict


def test_evidence_names_no_decoy_ours() -> None:
    script = "/usr/bin/qpsmtpd-forkserver"
    decoy = subprocess.Popen([sys.executable, "-ISc", "import time; time.sleep(100)", script, "qpsmtpd"])
    try:
        time.sleep(0.1)
        stat = procfs.read_stat(decoy.pid)
        assert stat is not None
        values = {"unit": "qpsmtpd.service", "script": script}
        status = orphans.text_of(f"/proc/{decoy.pid}/status")
        assert orphans.evidence(stat, status, values, {}, "/proc").ours is False
    finally:
        decoy.kill()
        decoy.wait()


def test_evidence_knows_a_perl_that_has_the_script_open(tmp_path: Path) -> None:
    script = tmp_path / "server"
    script.write_text('$0 = "renamed\\n\\e[31m"; sleep 100;\n__END__\n')
    with subprocess.Popen(["/usr/bin/perl", str(script)]) as process:
        try:
            time.sleep(0.3)
            stat = procfs.read_stat(process.pid)
            assert stat is not None
            values = {"unit": "qpsmtpd.service", "script": str(script)}
            status = orphans.text_of(f"/proc/{process.pid}/status")
            found = orphans.evidence(stat, status, values, systemd.sessions(), "/proc")
            assert found.ours is True
            assert found.listens is False
            assert found.title == "renamed\\n\\x1b[31m"
        finally:
            process.kill()


def test_evidence_names_the_peer_and_where_it_waits() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        program = f"import socket; socket.create_connection(('127.0.0.1', {port})).recv(1)"
        with subprocess.Popen([sys.executable, "-c", program]) as client:
            accepted, _ = listener.accept()
            found: dict[str, Any] = {}
            give_up = time.monotonic() + 10
            while not str(found.get("syscall", "")).isdigit() and time.monotonic() < give_up:
                found = verdict(client.pid).process.evidence()
            client.kill()
            accepted.close()
    assert found["peer"] == "established"
    assert found["address"] == f"127.0.0.1:{port}"
    # what the kernel tells of it differs; here it tells at least one
    assert found["waits"] or found["syscall"].isdigit()
    assert all(one and one.isascii() for one in found["stack"])
