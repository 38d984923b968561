"""A temporary MariaDB server: own data directory and socket, no network, nothing of the real server's.

A dump carries DROP DATABASE, so it must never come near a server that is in use.
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import time
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

from mf import Failure

from . import facts

FOLDER = "/mf/var/backup/scratch"
START_LIMIT = 60.0  # seconds
STOP_LIMIT = 60.0
SERVER = "/usr/sbin/mariadbd"


class ScratchError(Failure):
    """The server couldn't be made or started. One line."""


class Scratch:
    """``with Scratch() as server: server.socket``: an empty server, gone afterwards; leftovers of a killed one, too."""

    def __init__(self, folder: str = FOLDER) -> None:
        self.folder = folder
        self.socket = f"{folder}/mariadb.sock"
        self.version = ""
        self._server: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.clear()
        try:
            self._make()
            self._start()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._server is not None:
            self._server.terminate()
            try:
                self._server.wait(STOP_LIMIT)
            except subprocess.TimeoutExpired:
                self._server.kill()
                self._server.wait()
            self._server = None
        shutil.rmtree(self.folder, ignore_errors=True)

    def clear(self) -> None:
        """End a server that a killed run left behind, and remove its files."""
        for pid in self._left_behind():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            give_up = time.monotonic() + 10
            while os.path.exists(f"/proc/{pid}") and time.monotonic() < give_up:
                time.sleep(0.05)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _left_behind(self) -> list[int]:
        """Servers whose command line names our data directory."""
        pids = []
        for name in os.listdir("/proc"):
            if name.isdigit():
                with suppress(OSError), open(f"/proc/{name}/cmdline", "rb") as file:
                    if f"--datadir={self.folder}/data".encode() in file.read().split(b"\0"):
                        pids.append(int(name))
        return pids

    def _make(self) -> None:
        try:
            account = pwd.getpwnam("mysql")
        except KeyError:
            raise ScratchError("there is no MariaDB server on this machine (no account mysql)") from None
        os.makedirs(self.folder, 0o700)
        os.chown(self.folder, account.pw_uid, account.pw_gid)
        made = subprocess.run(
            [
                "/usr/bin/mariadb-install-db",
                "--no-defaults",
                "--user=mysql",
                f"--datadir={self.folder}/data",
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
        log = f"{self.folder}/error.log"
        self._server = subprocess.Popen(
            [
                SERVER,
                "--no-defaults",
                "--user=mysql",
                f"--datadir={self.folder}/data",
                f"--socket={self.socket}",
                f"--pid-file={self.folder}/pid",
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
                connection: Any = facts.connect(self.socket)
            except facts.DatabaseError as error:
                if time.monotonic() > give_up:
                    raise ScratchError(f"the scratch server doesn't answer: {error}") from None
                time.sleep(0.1)
                continue
            self.version = str(facts.ask(connection, "SELECT VERSION()")[0][0])
            connection.close()
            return


def _last(log: str) -> str:
    try:
        with open(log, errors="replace") as file:
            return file.read().strip().splitlines()[-1][:200]
    except (OSError, IndexError):
        return "its log is empty"
