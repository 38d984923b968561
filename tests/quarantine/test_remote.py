"""rsync from an MX: its lists, its arguments, and its end."""

from __future__ import annotations

import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mf import ssh
from mf_quarantine import remote

from tests.quarantine.conftest import NOON, ident


def test_hours_around_midnight_are_asked_for_in_both_days() -> None:
    rules = remote.recent(NOON + 12 * 3600 - 60, NOON + 12 * 3600)
    assert "--include=/2026-11-25/*/new/20261125T23*" in rules
    assert "--include=/2026-11-26/*/new/20261126T00*" in rules


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (
            b"-rw-r-----            812 2026/11/25 12:00:00 2026-11-25/a.example/new/x",
            ("2026-11-25/a.example/new/x", 812),
        ),
        (b"-rw-r-----      1,234,567 2026/11/25 12:00:00 a b", ("a b", 1234567)),
        (b"drwxr-x---          4,096 2026/11/25 12:00:00 2026-11-25", None),
        (b"lrwxrwxrwx              9 2026/11/25 12:00:00 x -> /etc/passwd", None),
        (b"Welcome to this host", None),
    ],
)
def test_lines_of_rsync(line: bytes, expected: tuple[str, int] | None) -> None:
    match = remote.LISTED.fullmatch(line)
    assert (None if match is None else (match[2].decode(), int(match[1].replace(b",", b"")))) == expected


def fake_rsync(folder: Path, script: str) -> str:
    """A program in place of rsync, for faults that rsync itself doesn't have on demand."""
    path = folder / "rsync"
    path.write_text(f"#!{sys.executable}\nimport sys, os\n{script}\n")
    path.chmod(0o755)
    return str(path)


def test_an_incomplete_listing_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    line = f"-rw-r----- 812 2026/11/25 12:00:00 2026-11-25/a.example/new/{ident()}"
    monkeypatch.setattr(
        remote,
        "RSYNC",
        fake_rsync(tmp_path, f"print({line!r}); sys.stderr.write('Connection \\x1b[2Jreset\\n'); sys.exit(12)"),
    )
    files = remote.Remote("192.0.2.1", ["ssh"]).listing(remote.EVERYTHING)
    assert next(files) == (f"2026-11-25/a.example/new/{ident()}", 812)
    with pytest.raises(remote.PullError, match=r"rsync ended with 12: Connection \\x1b\[2Jreset"):
        list(files)


@pytest.fixture
def bounded() -> Iterator[None]:
    """A test that would hang fails after 20 seconds."""

    def late(*_: object) -> None:
        raise TimeoutError("it hangs")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(20)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.usefixtures("bounded")
def test_the_errors_of_rsync_fill_no_pipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    line = f"-rw-r----- 812 2026/11/25 12:00:00 2026-11-25/a.example/new/{ident()}"
    loud = "sys.stderr.write('rsync: opendir failed\\n' * 10000); sys.stderr.flush()"
    monkeypatch.setattr(remote, "RSYNC", fake_rsync(tmp_path, f"{loud}; print({line!r}); sys.exit(23)"))
    files = remote.Remote("192.0.2.1", ["ssh"]).listing(remote.EVERYTHING)
    assert next(files) == (f"2026-11-25/a.example/new/{ident()}", 812)
    with pytest.raises(remote.PullError, match=r"rsync ended with 23: rsync: opendir failed$"):
        list(files)


@pytest.mark.usefixtures("bounded")
@pytest.mark.parametrize(
    "script",
    [
        "while True: print('drwxr-x--- 4,096 2026/11/25 12:00:00 2026-11-25')",
        "while True: sys.stderr.write('no\\n')",
        "import time; os.close(1); os.close(2); time.sleep(60)",
    ],
    ids=["endless", "loud", "silent"],
)
def test_an_rsync_without_an_end_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    monkeypatch.setattr(remote, "RSYNC", fake_rsync(tmp_path, script))
    monkeypatch.setattr(remote, "LONGEST", 0.5)
    mx = remote.Remote("192.0.2.1", ["ssh"])
    with pytest.raises(remote.PullError, match="rsync took longer"):
        list(mx.listing(remote.EVERYTHING))
    with pytest.raises(remote.PullError, match="rsync took longer"):
        mx.fetch(["2026-11-25/a.example/new/x"], str(tmp_path / "there"))


def test_ssh_trusts_only_the_given_host_keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        remote, "RSYNC", fake_rsync(tmp_path, f"open({str(tmp_path / 'argv')!r}, 'w').write('\\0'.join(sys.argv))")
    )
    list(remote.Remote("2001:db8::1", ssh.command("/k", "/h")).listing(remote.EVERYTHING))
    argv = (tmp_path / "argv").read_text().split("\0")
    assert argv[-1] == "mf-pull@[2001:db8::1]:/"
    arguments = shlex.split(argv[argv.index("-e") + 1])
    for option in ("StrictHostKeyChecking=yes", "UserKnownHostsFile=/h", "BatchMode=yes", "IdentitiesOnly=yes"):
        assert option in arguments


def test_every_name_of_a_list_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rsync 3.2.7 may refuse a list as a whole when its last name isn't."""
    given: list[bytes] = []

    def run(*_: object, **options: Any) -> subprocess.CompletedProcess[bytes]:
        given.append(options["input"])
        return subprocess.CompletedProcess([], 0, b"", b"")

    monkeypatch.setattr(subprocess, "run", run)
    remote.Remote("192.0.2.1", []).fetch(["a/new/1", "a/new/2"], str(tmp_path))
    assert given == [b"a/new/1\0a/new/2\0"]
