"""Borg on control: its environment, its repository, and a lock left by a crash.

The passphrase never stands in a command line or an environment: borg itself reads it through BORG_PASSCOMMAND from a
file that only root can read. When a lock is stale: see ``run``.
"""

from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Callable, Sequence
from typing import IO, Any
from urllib.parse import urlsplit

from mf import decisions, ssh, state
from mf.borg import LOCK_WAIT, Archive, BorgError, Done, epoch, explain, spawn

from .settings import Settings

ETC = "/mf/etc/backup"
BASE = "/mf/var/backup/borg"  # borg's cache, keys of repositories it has seen, and its memory of them


def environment(settings: Settings, etc: str = ETC, base: str = BASE) -> dict[str, str]:
    """What borg needs to know, secrets left out (man borg, "Environment Variables")."""
    # a cut is noticed after a minute; what ssh says of it below ERROR is part of the explanation
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


class Borg:
    """Runs borg for one repository.

    ``lock`` is the descriptor of the host's repository lock: children inherit it, so it ends with the last of them.
    """

    def __init__(
        self,
        settings: Settings,
        places: state.Places,
        *,
        etc: str = ETC,
        base: str = BASE,
        lock: int | None = None,
        program: Sequence[str] = ("/usr/bin/borg",),
    ) -> None:
        self.settings = settings
        self.places = places
        self.etc = etc
        self.lock = lock
        self.env = environment(settings, etc, base)
        self.program = list(program)

    def ready(self) -> None:
        """Raise BorgError when what only deployment brings is missing."""
        for name in ("passphrase", "ssh.key", "known_hosts"):
            try:
                empty = os.stat(f"{self.etc}/{name}").st_size == 0
            except OSError as error:
                empty, why = True, error.strerror
            else:
                why = "it is empty"
            if empty:
                kind = {"passphrase": "passphrase", "ssh.key": "key"}.get(name, "host_key")
                raise BorgError(kind, f"{self.etc}/{name}: {why}; deploy control again with playbooks/site.yml")

    def run(
        self,
        *arguments: str,
        limit: float | None = None,
        progress: str = "",
        sink: Callable[[IO[bytes]], None] | None = None,
    ) -> Done:
        """Run ``borg ARGUMENTS``; ``sink`` reads its stdout instead of it being returned. Raises BorgError.

        A lock of borg's that can't be had is stale: this process holds the host's repository lock, so no other borg of
        this host runs, and off-site flock(1) lets only one borg serve run at a time, for as long as that lives (the
        kernel ends a flock with its holder). So it is broken, once, on the record, and the command runs again.
        """
        self.ready()
        return self._past_a_stale_lock(lambda: self._once(arguments, limit, progress, sink))

    def run_other(self, command: Sequence[str], limit: float | None) -> Done:
        """Run a program that calls borg by itself (borgmatic), with all that ``run`` promises. Raises BorgError.

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
        self._once(("break-lock",), 120, "", None)
        decisions.record(self.places, "backup", "break-lock", self.settings.repository, reason, "done")
        return work()

    def _from_ssh(self, cut: BorgError) -> BorgError:
        """Why there is no connection, from ssh itself: borg may see its end before it reads ssh's message."""
        where = urlsplit(self.settings.repository)
        if where.scheme != "ssh":
            return cut
        command = [*shlex.split(self.env["BORG_RSH"]), f"ssh://{where.netloc}", "true"]
        try:
            asked = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=60, check=False)
        except (OSError, subprocess.TimeoutExpired):
            return cut
        why = explain(asked.stderr.decode(errors="replace").splitlines(), asked.returncode)
        return why if why.kind in ("key", "host_key", "unreachable") else cut

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

    def command(self, arguments: Sequence[str]) -> list[str]:
        """The command line of a borg command."""
        return [*self.program, "--log-json", f"--lock-wait={LOCK_WAIT}", *arguments]

    def _once(
        self,
        arguments: Sequence[str],
        limit: float | None,
        progress: str,
        sink: Callable[[IO[bytes]], None] | None,
    ) -> Done:
        command = self.command([arguments[0], *(["--progress"] if progress else []), *arguments[1:]])
        return self._spawn(command, limit, progress, sink)

    def _spawn(
        self,
        command: Sequence[str],
        limit: float | None,
        progress: str = "",
        sink: Callable[[IO[bytes]], None] | None = None,
        well: Sequence[int] = (0, 1),
    ) -> Done:
        inherited = () if self.lock is None else (self.lock,)
        return spawn(command, self.env, limit, progress, sink, well, inherited=inherited)
