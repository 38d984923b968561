"""systemd units and sockets as they are seen, with a stand-in for systemctl."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mf_checks import systemd

SHOWN = """MainPID=1741
Result=success
LoadState=loaded
ActiveState=active
SubState=running
"""


def test_the_output_of_systemctl_show() -> None:
    unit = systemd.parse(SHOWN)
    assert (unit.active, unit.sub, unit.pid, unit.known) == ("active", "running", 1741, True)


def test_an_unknown_unit() -> None:
    unit = systemd.parse("MainPID=0\nLoadState=not-found\nActiveState=inactive\nSubState=dead\n")
    assert (unit.active, unit.pid, unit.known) == ("inactive", 0, False)


@given(st.text())
def test_any_output_is_a_unit(output: str) -> None:
    unit = systemd.parse(output)
    assert unit.pid >= 0
    assert unit.active


def systemctl(folder: Path, script: str) -> str:
    path = folder / "systemctl"
    path.write_text(f'#!/bin/sh\necho "$@" >>{folder}/calls\n{script}\n')
    path.chmod(0o755)
    return str(path)


def test_calls(tmp_path: Path) -> None:
    command = systemctl(tmp_path, f"cat <<'EOF'\n{SHOWN}EOF")
    assert systemd.show("q.service", systemctl=command).pid == 1741
    systemd.try_restart("q.service", 5, systemctl=command)
    systemd.start("q.service", 5, systemctl=command)
    assert (tmp_path / "calls").read_text().splitlines()[1:] == [
        "try-restart -- q.service",
        "reset-failed -- q.service",
        "start -- q.service",
    ]


def test_a_failure_has_its_reason(tmp_path: Path) -> None:
    command = systemctl(tmp_path, 'echo "Job for q.service\nfailed \033[31mred" >&2; exit 1')
    with pytest.raises(
        systemd.ServiceError, match=r"systemctl try-restart failed: Job for q.service failed \\x1b\[31mred$"
    ):
        systemd.try_restart("q.service", 5, systemctl=command)


def test_a_hang_ends(tmp_path: Path) -> None:
    begun = time.monotonic()
    with pytest.raises(systemd.ServiceError, match="took longer than 0 s"):
        systemd.show("q.service", 0.3, systemctl=systemctl(tmp_path, "exec sleep 100"))
    assert time.monotonic() - begun < 20


def test_a_start_of_two_calls_keeps_to_one_limit(tmp_path: Path) -> None:
    command = systemctl(tmp_path, 'test "$1" = start || exec sleep 1.5; exec sleep 100')
    begun = time.monotonic()
    with pytest.raises(systemd.ServiceError, match="start took longer"):
        systemd.start("q.service", 2, systemctl=command)
    assert 1.9 < time.monotonic() - begun < 3.4


def test_no_systemctl() -> None:
    with pytest.raises(systemd.ServiceError, match="/none/systemctl: No such file"):
        systemd.show("q.service", systemctl="/none/systemctl")


def test_listeners_and_their_backlog() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(8)
        port = listener.getsockname()[1]
        clients = [socket.create_connection(("127.0.0.1", port)) for _ in range(3)]
        (entry,) = systemd.listeners("127.0.0.1", port)
        assert entry.waiting == 3
        assert entry.inode == os.fstat(listener.fileno()).st_ino
        assert entry.uid == os.geteuid()
        assert systemd.owns(os.getpid(), entry) is True
        accepted, _ = listener.accept()
        assert systemd.listeners("127.0.0.1", port)[0].waiting == 2
        states = systemd.sessions()
        assert states[os.fstat(listener.fileno()).st_ino].state == "listen"
        far = "{}:{}".format(*clients[0].getsockname())
        clients[0].sendall(b"x" * 10)
        clients[0].close()
        time.sleep(0.05)
        states = systemd.sessions()
        session = states[os.fstat(accepted.fileno()).st_ino]
        assert (session.state, session.sending) == ("close-wait", 0)
        assert session.remote() == far
        accepted.close()
        for client in clients:
            client.close()
    assert systemd.listeners("127.0.0.1", port) == []


@pytest.mark.parametrize(
    ("bound", "asked", "taken"),
    [
        ("127.0.0.1", "127.0.0.1", True),
        ("0.0.0.0", "127.0.0.1", True),
        ("::", "127.0.0.1", True),
        ("::ffff:127.0.0.1", "127.0.0.1", True),
        ("127.0.0.2", "127.0.0.1", False),
        ("::1", "127.0.0.1", False),
        ("::1", "::1", True),
        ("::", "::1", True),
        ("127.0.0.1", "::1", False),
    ],
)
def test_the_listener_that_takes_a_connection(bound: str, asked: str, taken: bool) -> None:
    with socket.socket(socket.AF_INET6 if ":" in bound else socket.AF_INET) as listener:
        if ":" in bound:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        listener.bind((bound, 0))
        listener.listen()
        inode, port = os.fstat(listener.fileno()).st_ino, listener.getsockname()[1]
        assert [entry.inode for entry in systemd.listeners(asked, port)] == [inode] * taken


def test_another_process_does_not_own_it() -> None:
    with socket.socket() as listener, subprocess.Popen(["sleep", "100"]) as other:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        (entry,) = systemd.listeners("127.0.0.1", listener.getsockname()[1])
        assert systemd.owns(other.pid, entry) is False
        other.kill()
    assert systemd.owns(2**22 + 1, entry) is None


@pytest.mark.skipif(sys.byteorder != "little", reason="the examples are a little-endian host's")
@pytest.mark.parametrize(
    ("far", "address"),
    [
        (b"0100007F:0019", "127.0.0.1:25"),
        (b"000080FE00000000FF5707FE00001D2F:EA60", "[fe80::fe07:57ff:2f1d:0]:60000"),
        (b"0000000000000000FFFF00000B146F0A:1F90", "10.111.20.11:8080"),
        (b"", ""),
        (b"01007F:0019", ""),
        (b"0100007F:", ""),
        (b"\xff\xff:zz", ""),
    ],
)
def test_the_remote_end_of_a_session(far: bytes, address: str) -> None:
    assert systemd.Session("established", far=far).remote() == address


@given(st.binary(max_size=300))
def test_a_strange_table_is_read_without_harm(tmp_path_factory: pytest.TempPathFactory, table: bytes) -> None:
    proc = tmp_path_factory.mktemp("proc")
    (proc / "net").mkdir()
    (proc / "net/tcp").write_bytes(b"header\n" + table)
    systemd.listeners("127.0.0.1", 25, str(proc))
    for session in systemd.sessions(str(proc)).values():
        session.remote()


LIVELY = "import time\nwhile True: time.sleep(0.2)"


def test_pulse() -> None:
    with subprocess.Popen([sys.executable, "-ISc", LIVELY]) as process:
        try:
            time.sleep(0.2)
            assert systemd.pulse(process.pid, watch=5) == systemd.TICKS
            process.send_signal(signal.SIGSTOP)
            time.sleep(0.1)
            assert systemd.pulse(process.pid, watch=0.6) == systemd.FROZEN
            process.send_signal(signal.SIGCONT)
            assert systemd.pulse(process.pid, watch=5) == systemd.TICKS
        finally:
            process.kill()
    assert systemd.pulse(process.pid, watch=0.2) == systemd.FROZEN


def test_a_process_that_the_kernel_holds_is_not_frozen() -> None:
    # the parent of a vfork sleeps in state D until its child has gone
    held = "import ctypes\nlibc = ctypes.CDLL(None)\nlibc.vfork() or libc.sleep(100)"
    with subprocess.Popen([sys.executable, "-ISc", held], start_new_session=True) as process:
        try:
            give_up = time.monotonic() + 10
            # Python's own start waits for a disk now and then, too, and goes on
            while (pulse := systemd.pulse(process.pid, watch=0.5)) != systemd.BLOCKED and time.monotonic() < give_up:
                pass
            assert pulse == systemd.BLOCKED
        finally:
            os.killpg(process.pid, signal.SIGKILL)


@pytest.mark.parametrize(
    ("states", "share", "why"),
    [
        ("SSSS", 0.0, systemd.FROZEN),  # asleep for longer than its second
        ("RRRT", 0.0, systemd.FROZEN),
        ("DDDD", 0.0, systemd.BLOCKED),
        ("DDRR", 0.0, systemd.BLOCKED),
        ("DDDT", 0.0, systemd.FROZEN),
        ("RRRR", 0.04, systemd.STARVED),
        ("SRRR", 0.0, systemd.STARVED),
        ("RRRR", 0.9, systemd.FROZEN),  # an endless loop
    ],
)
def test_why_a_process_does_not_wake(states: str, share: float, why: str) -> None:
    assert systemd.still(states, share) == why


def test_a_process_that_waits_for_a_cpu_is_not_frozen(tmp_path: Path) -> None:
    (tmp_path / "7").mkdir()
    (tmp_path / "7/stat").write_text("7 (perl) R 1 7 7 0 -1 4194560 9 9 9 9 7 3 0 0 20 0 1 0 4711 9 9 9 9 9 9 9\n")
    (tmp_path / "7/status").write_text("Name:\tperl\nvoluntary_ctxt_switches:\t5\n")
    assert systemd.pulse(7, str(tmp_path), watch=0.3) == systemd.STARVED
