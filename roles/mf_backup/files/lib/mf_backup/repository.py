"""Borg on control: its environment, its repository, and a lock left by a crash.

The passphrase is in no command line and no environment: borg itself reads it through BORG_PASSCOMMAND from a file that
only root can read. For stale locks see ``Borg.run``.
"""

from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import IO, Any
from urllib.parse import urlsplit

from mf import decisions, ssh, state
from mf.borg import LOCK_WAIT, Archive, BorgError, Done, epoch, explain, spawn

from .settings import Settings

ETC = "/mf/etc/backup"
BASE = "/mf/var/backup/borg"  # borg's cache, and its keys and records of repositories


def environment(settings: Settings, etc: str = ETC, base: str = BASE) -> dict[str, str]:
    """Borg's environment variables, without secrets (man borg, "Environment Variables")."""
    # a cut is detected after a minute; ssh's messages below ERROR are part of the explanation
    rsh = ssh.command(
        f"{etc}/ssh.key", f"{etc}/known_hosts", ConnectTimeout="20", ServerAliveCountMax="4", LogLevel="INFO"
    )
    return {
        "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
        "LC_ALL": "C.UTF-8",
        "HOME": "/root",
        "TZ": "UTC",
        "BORG_REPO": settings.repository,
        "BORG_RSH": shlex.join(rsh),
        "BORG_PASSCOMMAND": f"cat {etc}/passphrase",
        "BORG_BASE_DIR": base,
        "BORG_DISPLAY_PASSPHRASE": "no",
        "BORG_EXIT_CODES": "legacy",
        # the host key is pinned, and the repository's id goes with its key: another address is no other repository
        "BORG_RELOCATED_REPO_ACCESS_IS_OK": "yes",
    }


@dataclass
class Borg:
    """Runs borg for one repository.

    ``lock`` is the descriptor of the host's repository lock: children inherit it, so it ends with the last of them.
    """

    settings: Settings
    places: state.Places
    lock: int | None = None
    etc: str = ETC
    base: str = BASE
    program: str = "/usr/bin/borg"

    def __post_init__(self) -> None:
        self.env = environment(self.settings, self.etc, self.base)

    def ready(self) -> None:
        """Raise BorgError if a secret or the host key, which deployment brings, is missing or empty."""
        for name, kind in (("passphrase", "passphrase"), ("ssh.key", "key"), ("known_hosts", "host_key")):
            try:
                problem = "" if os.stat(f"{self.etc}/{name}").st_size else "it is empty"
            except OSError as error:
                problem = str(error.strerror)
            if problem:
                raise BorgError(kind, f"{self.etc}/{name}: {problem}; deploy control again with playbooks/site.yml")

    def run(
        self,
        *arguments: str,
        limit: float | None = None,
        sink: Callable[[IO[bytes]], None] | None = None,
    ) -> Done:
        """Run ``borg ARGUMENTS``; a ``sink`` reads its stdout, which is returned otherwise. Raises BorgError.

        If borg can't get its own lock, that is stale: this process holds the host's repository lock, so no other borg
        of this host runs, and off-site flock(1) lets only one borg serve run at a time, for as long as that lives (the
        kernel ends a flock with its holder). So it is broken, once and recorded, and the command runs again.
        """
        self.ready()
        return self._past_a_stale_lock(lambda: self._spawn(self._borg(*arguments), limit, sink))

    def run_other(self, command: Sequence[str], limit: float | None) -> Done:
        """As ``run``, for a program that calls borg by itself (borgmatic). Raises BorgError.

        Its status is 1 for every failure, and 0 when borg only warned.
        """
        self.ready()
        return self._past_a_stale_lock(lambda: self._spawn(command, limit, well=(0,)))

    def _past_a_stale_lock(self, work: Callable[[], Done]) -> Done:
        try:
            return work()
        except BorgError as error:
            if error.kind == "cut":
                raise self._from_ssh(error) from None
            if error.kind != "lock" or self.lock is None:
                raise
            reason = str(error)
        self._spawn(self._borg("break-lock"), 120)
        decisions.record(self.places, "backup", "break-lock", self.settings.repository, reason, "done")
        return work()

    def _from_ssh(self, cut: BorgError) -> BorgError:
        """The reason of a cut connection, from ssh itself: borg may see the end before it reads ssh's message."""
        where = urlsplit(self.settings.repository)
        if where.scheme != "ssh":
            return cut
        command = [*shlex.split(self.env["BORG_RSH"]), f"ssh://{where.netloc}", "true"]
        try:
            asked = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=60, check=False)
        except (OSError, subprocess.TimeoutExpired):
            return cut
        reason = explain(asked.stderr.decode(errors="replace").splitlines(), asked.returncode)
        return reason if reason.kind in ("key", "host_key", "unreachable") else cut

    def archives(self) -> dict[str, Archive]:
        """Our archives in the repository, by name. Raises BorgError."""
        archives = {}
        for entry in self.json("list", "--json").get("archives", []):
            parsed = self.settings.parse(str(entry["name"]))
            if parsed is not None:
                job, sequence = parsed
                archives[entry["name"]] = Archive(
                    entry["name"], str(entry["id"]), job, sequence, epoch(str(entry["time"]))
                )
        return archives

    def json(self, *arguments: str, limit: float | None = 900) -> dict[str, Any]:
        """Run borg and return the object it printed. Raises BorgError."""
        done = self.run(*arguments, limit=limit)
        document = state.decode(done.out.encode())
        if document is None:
            raise BorgError("failed", f"borg {arguments[0]} printed no JSON object")
        return document

    def _borg(self, *arguments: str) -> list[str]:
        return [self.program, "--log-json", f"--lock-wait={LOCK_WAIT}", *arguments]

    def _spawn(
        self,
        command: Sequence[str],
        limit: float | None,
        sink: Callable[[IO[bytes]], None] | None = None,
        well: Sequence[int] = (0, 1),
    ) -> Done:
        inherited = () if self.lock is None else (self.lock,)
        return spawn(command, self.env, limit, sink, well, inherited=inherited)
