"""What check-smtp can see behind the port, of real processes and files."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from mf import smtp, state
from mf_checks import procfs, systemd
from mf_checks import smtp as smtp_check
from mf_checks.smtp_evidence import Evidence
from mf_checks.smtp_verdict import BUSY, classify

from tests.checks.conftest import (
    REFUSING,
    VALUES,
)
from tests.core.conftest import server, talking


def test_evidence_on_a_process(places: state.Places, monkeypatch: pytest.MonkeyPatch) -> None:
    # a master with a child that it doesn't reap, asleep
    zombie = "import os, time\nif os.fork() == 0: os._exit(0)\nprint(flush=True)\ntime.sleep(100)"
    with subprocess.Popen([sys.executable, "-ISc", zombie], stdout=subprocess.PIPE) as master:
        try:
            assert master.stdout is not None
            master.stdout.readline()
            while (stat := procfs.read_stat(master.pid)) and stat.state != "S":
                time.sleep(0.01)
            monkeypatch.setattr(systemd, "show", lambda _: systemd.Unit("active", pid=master.pid))
            view = Evidence({**VALUES, "port": 1}, places, 0.0).view()
        finally:
            master.kill()
    assert view.pid == master.pid
    assert not view.listening
    assert not view.ticks
    assert 2.0 < view.age < 30.0  # as long as was waited for it to tick
    assert view.children == 1  # a slot is taken until its child has been reaped
    assert classify(REFUSING, view, 15).kind == BUSY


def test_evidence_on_configuration_and_release(places: state.Places, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(systemd, "show", lambda _: systemd.Unit("active", started=100.0))
    os.makedirs(places.etc + "/qpsmtpd")
    scene = Evidence({**VALUES, "port": 1}, places, 0.0)

    def configuration_evidence() -> tuple[bool, bool]:
        view = scene.view()
        return view.outdated, view.configured

    assert configuration_evidence() == (False, False)
    Path(places.etc, "qpsmtpd/plugins").write_text("# not mf_canary_too\nmf_canary\n")
    for stamp, outdated in (("99.5", False), ("100.5", True), ('"x"', False)):
        Path(places.parts).write_text(f'{{"mf_exim": 900.0, "qpsmtpd": {stamp}}}')
        assert configuration_evidence() == (outdated, True)


def test_a_session_held_by_no_child_of_the_master_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    answers: list[bool | None] = []

    def ask(local: str) -> bool | None:
        for pid in (os.getppid(), os.getpid(), 0):
            monkeypatch.setattr(systemd, "show", lambda _, pid=pid: systemd.Unit("active", pid=pid))
            answers.append(smtp_check.serves(VALUES["unit"], local))
        answers.append(smtp_check.serves(VALUES["unit"], "127.0.0.1:1"))
        return None

    with server(talking(late=("RCPT", 60))) as port:
        smtp.transaction("127.0.0.1", port, 0.3, "a@b.invalid", b".\r\n", patience=0.5, silence=ask)
    # this process is its parent's child, and has itself none that holds the connection
    assert answers == [True, False, None, None]
