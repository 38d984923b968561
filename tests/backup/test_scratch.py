"""The scratch server of a drill: never the real one, and nothing of it stays. Its programs are stand-ins here."""

from __future__ import annotations

import os
import pwd
import signal
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from mf_backup import facts, scratch

NO_PROCESS = 1 << 22  # the kernel's pids are less


class Host:
    """What a Scratch meets: the programs' results, the server's answers and a clock; ``argv`` is what it started."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.installed = SimpleNamespace(returncode=0, stdout="", stderr="")
        self.ended: int | None = None  # the server's exit code, before it answers
        self.answers_at = 1.0
        self.ignores_term = False
        self.log = ""
        self.now = 0.0
        self.argv: list[list[str]] = []
        self.signals: list[str] = []
        self.killed: list[tuple[int, int]] = []

    def run(self, argv: list[str], **_: Any) -> SimpleNamespace:
        self.argv.append(argv)
        return self.installed

    def start(self, argv: list[str], **_: Any) -> Host:
        self.argv.append(argv)
        if self.log:
            (self.folder / "error.log").write_text(self.log)
        return self

    @property
    def returncode(self) -> int | None:
        return self.ended

    def poll(self) -> int | None:
        return self.ended

    def terminate(self) -> None:
        self.signals.append("TERM")

    def kill(self) -> None:
        self.signals.append("KILL")

    def wait(self, limit: float | None = None) -> None:
        if self.ignores_term and "KILL" not in self.signals:
            raise TimeoutError(limit)

    def connect(self, socket: str) -> SimpleNamespace:
        assert socket == f"{self.folder}/mariadb.sock"
        if self.now < self.answers_at:
            raise facts.DatabaseError("not yet")
        return SimpleNamespace(close=lambda: None)

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    host = Host(tmp_path / "scratch")
    own = pwd.getpwuid(os.getuid())
    programs = SimpleNamespace(run=host.run, Popen=host.start, DEVNULL=None, TimeoutExpired=TimeoutError)
    monkeypatch.setattr(scratch, "FOLDER", str(host.folder))
    monkeypatch.setattr(scratch, "DATA", f"--datadir={host.folder}/data")
    monkeypatch.setattr(scratch.Scratch, "socket", f"{host.folder}/mariadb.sock")
    monkeypatch.setattr(scratch, "subprocess", programs)
    monkeypatch.setattr(scratch, "time", SimpleNamespace(monotonic=lambda: host.now, sleep=host.sleep))
    monkeypatch.setattr(scratch, "pwd", SimpleNamespace(getpwnam=lambda _: own))
    monkeypatch.setattr(facts, "connect", host.connect)
    monkeypatch.setattr(os, "kill", lambda *what: host.killed.append(what))
    return host


def test_the_server_shares_nothing_with_the_real_one(host: Host) -> None:
    with scratch.Scratch():
        assert host.folder.stat().st_mode & 0o777 == 0o700
    for program, first, *options in host.argv:
        assert first == "--no-defaults", program
        assert f"--datadir={host.folder}/data" in options
    _, server = host.argv
    assert {"--skip-networking", f"--socket={host.folder}/mariadb.sock", f"--pid-file={host.folder}/pid"} <= set(server)


def test_it_is_there_once_it_answers_and_gone_afterwards(host: Host) -> None:
    with scratch.Scratch() as server:
        assert server.socket == f"{host.folder}/mariadb.sock"
        assert host.answers_at <= host.now < host.answers_at + 1
        assert host.signals == []
    assert host.signals == ["TERM"]
    assert not host.folder.exists()


def test_it_is_gone_after_a_drill_that_failed(host: Host) -> None:
    with pytest.raises(ZeroDivisionError), scratch.Scratch():
        raise ZeroDivisionError
    assert host.signals == ["TERM"]
    assert not host.folder.exists()


def test_a_server_that_does_not_stop_is_killed(host: Host) -> None:
    host.ignores_term = True
    with scratch.Scratch():
        pass
    assert host.signals == ["TERM", "KILL"]


def test_without_mariadb_there_is_no_scratch_server(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scratch, "pwd", SimpleNamespace(getpwnam={}.__getitem__))
    with pytest.raises(scratch.ScratchError, match="no MariaDB server on this machine"), scratch.Scratch():
        pass
    assert not host.argv


def not_installed(stdout: str = "", stderr: str = "") -> Callable[[Host], None]:
    return lambda host: setattr(host, "installed", SimpleNamespace(returncode=3, stdout=stdout, stderr=stderr))


def ends(log: str = "") -> Callable[[Host], None]:
    return lambda host: vars(host).update(ended=1, log=log)


@pytest.mark.parametrize(
    ("arrange", "message"),
    [
        (not_installed("Installing\n", "a warning\nFATAL: no room\n\n"), "mariadb-install-db: FATAL: no room"),
        (not_installed("Installing\nno room\n", "\n"), "mariadb-install-db: no room"),
        (not_installed(), "mariadb-install-db: 3"),
        (ends("[Note] begun\n[ERROR] aborting\n"), "the scratch server ended with 1: [ERROR] aborting"),
        (ends("\n"), "the scratch server ended with 1: its log is empty"),
        (ends(), "the scratch server ended with 1: its log is empty"),
        (lambda host: setattr(host, "answers_at", 1e9), "the scratch server doesn't answer: not yet"),
    ],
)
def test_a_server_that_can_not_be_had_leaves_nothing(host: Host, arrange: Callable[[Host], None], message: str) -> None:
    arrange(host)
    with pytest.raises(scratch.ScratchError) as caught, scratch.Scratch():
        pass
    assert str(caught.value) == message
    assert not host.folder.exists()
    assert host.signals == ["TERM"] * (len(host.argv) == 2)
    assert host.now < scratch.START_LIMIT + 1


def test_the_server_of_a_killed_run_is_killed_first(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    host.folder.mkdir()
    (host.folder / "data").touch()
    monkeypatch.setattr(scratch.Scratch, "_left_behind", lambda _: [NO_PROCESS])
    with scratch.Scratch():
        assert host.killed == [(NO_PROCESS, signal.SIGKILL)]
        assert os.listdir(host.folder) == []


def test_a_server_is_known_by_its_whole_data_directory(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    ours = max(Path("/proc/self/cmdline").read_text().split("\0"), key=len)
    assert scratch.Scratch()._left_behind() == []
    for data, there in ((ours, True), (ours[:-1], False)):
        monkeypatch.setattr(scratch, "DATA", data)
        assert (os.getpid() in scratch.Scratch()._left_behind()) is there
    assert not host.killed
