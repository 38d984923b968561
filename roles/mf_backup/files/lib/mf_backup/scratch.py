"""A temporary MariaDB server with its own data directory and socket, without network, apart from the real server.

A dump contains DROP DATABASE, so a drill must never load it into a server that is in use.
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import time
from contextlib import suppress
from typing import Self

from mf import Failure

from . import facts

FOLDER = "/mf/var/backup/scratch"
DATA = f"--datadir={FOLDER}/data"
START_LIMIT = 60.0  # seconds
STOP_LIMIT = 60.0
SERVER = "/usr/sbin/mariadbd"


class ScratchError(Failure):
    """The server couldn't be created or started. One line."""


class Scratch:
    """``with Scratch() as server: server.socket``: an empty server, removed at the end, as is one of a killed run."""

    socket = f"{FOLDER}/mariadb.sock"

    def __init__(self) -> None:
        self._server: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.clear()
        try:
            self._make()
            self._start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if self._server is not None:
            self._server.terminate()
            try:
                self._server.wait(STOP_LIMIT)
            except subprocess.TimeoutExpired:
                self._server.kill()
                self._server.wait()
            self._server = None
        shutil.rmtree(FOLDER, ignore_errors=True)

    def clear(self) -> None:
        """Kill the server of a killed run, and remove its files."""
        for pid in self._left_behind():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            give_up = time.monotonic() + 10
            while os.path.exists(f"/proc/{pid}") and time.monotonic() < give_up:
                time.sleep(0.05)
        shutil.rmtree(FOLDER, ignore_errors=True)

    def _left_behind(self) -> list[int]:
        """Process ids of servers with our data directory in their command line."""
        pids = []
        for name in os.listdir("/proc"):
            if name.isdigit():
                with suppress(OSError), open(f"/proc/{name}/cmdline", "rb") as file:
                    if DATA.encode() in file.read().split(b"\0"):
                        pids.append(int(name))
        return pids

    def _make(self) -> None:
        try:
            account = pwd.getpwnam("mysql")
        except KeyError:
            raise ScratchError("there is no MariaDB server on this machine (no account mysql)") from None
        os.makedirs(FOLDER, 0o700)
        os.chown(FOLDER, account.pw_uid, account.pw_gid)
        made = subprocess.run(
            [
                "/usr/bin/mariadb-install-db",
                "--no-defaults",
                "--user=mysql",
                DATA,
                "--auth-root-authentication-method=socket",
                "--skip-test-db",
            ],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        if made.returncode:
            complaint = (made.stderr.strip() or made.stdout.strip()).splitlines()
            raise ScratchError(f"mariadb-install-db: {complaint[-1][:200] if complaint else made.returncode}")

    def _start(self) -> None:
        log = f"{FOLDER}/error.log"
        self._server = subprocess.Popen(
            [
                SERVER,
                "--no-defaults",
                "--user=mysql",
                DATA,
                f"--socket={self.socket}",
                f"--pid-file={FOLDER}/pid",
                f"--log-error={log}",
                "--skip-networking",
                "--skip-log-bin",
                "--innodb-flush-log-at-trx-commit=0",
                "--innodb-doublewrite=0",
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        give_up = time.monotonic() + START_LIMIT
        while True:
            if self._server.poll() is not None:
                raise ScratchError(f"the scratch server ended with {self._server.returncode}: {_last(log)}")
            try:
                facts.connect(self.socket).close()
                return
            except facts.DatabaseError as error:
                if time.monotonic() > give_up:
                    raise ScratchError(f"the scratch server doesn't answer: {error}") from None
                time.sleep(0.1)


def _last(log: str) -> str:
    try:
        with open(log, errors="replace") as file:
            return file.read().strip().splitlines()[-1][:200]
    except (OSError, IndexError):
        return "its log is empty"
