"""Borg 1.2 as a child process: its environment, its words, its failures in one line each, and a lock left by a crash.

The passphrase never stands in a command line or an environment: borg itself reads it through BORG_PASSCOMMAND from a
file that only root can read. Where a lock is stale, and why that can be known: see ``run``.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import IO, Any
from urllib.parse import urlsplit

from .. import decisions, state, text
from .record import Archive
from .settings import Settings

ETC = "/mf/etc/backup"
BASE = "/mf/var/backup/borg"  # borg's cache, keys of repositories it has seen, and its memory of them
LOCK_WAIT = 20  # seconds for borg's own lock; the turn at the other end is waited for by flock(1) there
CRITICAL_KINDS = ("corrupt", "hidden", "vanished", "rewound", "mismatch")
"""Failures that concern what was saved already, not only the newest run."""

# What borg and ssh say, what that is called here, and what to do. First match wins.
EXPLANATIONS: tuple[tuple[str, str, str], ...] = (
    ("Host key verification failed", "host_key", "offsite's host key isn't the one in /mf/etc/backup/known_hosts"),
    ("REMOTE HOST IDENTIFICATION HAS CHANGED", "host_key", "offsite's host key isn't the one in known_hosts"),
    ("Permission denied (publickey", "key", "offsite refuses the ssh key; deploy offsite and control again"),
    ("passphrase supplied in", "passphrase", "the passphrase is not this repository's (mf_secrets.borg_passphrase)"),
    ("BORG_PASSCOMMAND is invalid", "passphrase", f"{ETC}/passphrase can't be read; deploy control again"),
    ("MAX_REPRESENTABLE_NONCE", "counter", "somebody spent the cipher's counter off-site; see docs/restore.md"),
    ("exit status 75", "busy", "another backup or an attended prune holds the repository"),
    ("StorageQuotaExceeded", "quota", "the quota is used up; prune: playbooks/prune_offsite.yml"),
    ("storage quota", "quota", "the quota is used up; prune: playbooks/prune_offsite.yml"),
    ("quota has been exceeded", "quota", "the quota is used up; prune: playbooks/prune_offsite.yml"),
    ("Insufficient free space", "full", "a disk is full"),
    ("No space left on device", "full", "a disk is full"),
    ("Cache, or information obtained from the security directory is newer", "rewound", "see docs/restore.md"),
    ("RepositoryReplay", "rewound", "the repository is older than what this machine has seen; see docs/restore.md"),
    ("Failed to create/acquire the lock", "lock", "borg's lock is held"),
    ("LockTimeout", "lock", "borg's lock is held"),
    ("does not exist", "absent", "there is no repository (or archive)"),
    ("is not a valid repository", "absent", "there is no repository"),
    ("orphaned objects found", "hidden", "there is data of archives that the list leaves out; see docs/restore.md"),
    ("IntegrityError", "corrupt", "the repository is damaged; see docs/restore.md"),
    ("integrity", "corrupt", "the repository is damaged; see docs/restore.md"),
    ("Data integrity error", "corrupt", "the repository is damaged; see docs/restore.md"),
    ("Finished full repository check, errors found", "corrupt", "the repository is damaged; see docs/restore.md"),
    ("Archive consistency check complete, problems found", "corrupt", "the repository is damaged; see docs/restore.md"),
    ("chunks missing", "corrupt", "the repository is damaged; see docs/restore.md"),
    ("Index object count mismatch", "corrupt", "the repository is damaged; see docs/restore.md"),
    ("Connection refused", "unreachable", "offsite doesn't answer"),
    ("timed out", "unreachable", "offsite doesn't answer"),
    ("No route to host", "unreachable", "offsite doesn't answer"),
    ("Network is unreachable", "unreachable", "offsite doesn't answer"),
    ("Could not resolve hostname", "unreachable", "offsite's name isn't known"),
    ("Connection closed by remote host", "cut", "the connection was cut"),
    ("Connection reset by", "cut", "the connection was cut"),
    ("Broken pipe", "cut", "the connection was cut"),
    ("not responding", "cut", "the connection was cut"),
    ("exited with status", "dump", "the database dump failed"),
    # borgmatic may cut off the rest, with the reason in it
    ("borg/remote.py", "offsite", "borg failed off-site; what check-offsite says there is probably why"),
)


class BorgError(Exception):
    """Borg failed. ``kind`` is a word of EXPLANATIONS, or ``failed``; the text is one line, safe to print."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


@dataclass
class Done:
    """How a run of borg went: status (0, 1 for warnings), stdout, its warnings and errors, what else it logged."""

    status: int
    out: str = ""
    messages: list[str] = field(default_factory=list)
    logged: list[str] = field(default_factory=list)


def environment(settings: Settings, etc: str = ETC, base: str = BASE) -> dict[str, str]:
    """What borg needs to know, secrets left out (man borg, "Environment Variables")."""
    options = {
        "IdentitiesOnly": "yes",
        "BatchMode": "yes",
        "StrictHostKeyChecking": "yes",
        "UserKnownHostsFile": f"{etc}/known_hosts",
        "GlobalKnownHostsFile": "/dev/null",
        "ConnectTimeout": "20",
        "ServerAliveInterval": "15",  # a cut without a word is noticed after a minute
        "ServerAliveCountMax": "4",
    }
    ssh = " ".join(["ssh", "-F", "none", "-i", f"{etc}/ssh.key", *(f"-o {k}={v}" for k, v in options.items())])
    return {
        "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
        "LC_ALL": "C.UTF-8",
        "HOME": "/root",
        "TZ": "UTC",
        "BORG_REPO": settings.repository,
        "BORG_RSH": ssh,
        "BORG_PASSCOMMAND": f"cat {etc}/passphrase",
        "BORG_BASE_DIR": base,
        "BORG_DISPLAY_PASSPHRASE": "no",
        "BORG_EXIT_CODES": "legacy",
        # the host key is pinned, and the repository's id goes with its key: another address is no other repository
        "BORG_RELOCATED_REPO_ACCESS_IS_OK": "yes",
    }


def explain(messages: Sequence[str], status: int) -> BorgError:
    """The failure behind what was logged. Pure."""
    for needle, kind, words in EXPLANATIONS:
        for message in messages:
            if needle in message:
                return BorgError(kind, f"{words} ({text.clean(message.strip(), 160)})")
    told = [message for message in messages if message.strip() and "Need some help?" not in message]  # borgmatic's end
    last = told[-1] if told else "it said nothing"
    how = f"was killed by signal {-status}" if status < 0 else f"ended with {status}"
    return BorgError("failed", f"borg {how}: {text.clean(last.strip(), 200)}")


class Borg:
    """Runs borg for one repository. ``turn`` is the descriptor of the host's turn: children keep it while they live."""

    def __init__(
        self,
        settings: Settings,
        places: state.Places,
        *,
        etc: str = ETC,
        base: str = BASE,
        turn: int | None = None,
        program: Sequence[str] = ("/usr/bin/borg",),
    ) -> None:
        self.settings = settings
        self.places = places
        self.etc = etc
        self.turn = turn
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
        *words: str,
        limit: float | None = None,
        progress: str = "",
        sink: Callable[[IO[bytes]], None] | None = None,
    ) -> Done:
        """Run ``borg WORDS``; ``sink`` reads its stdout instead of it being returned. Raises BorgError for a failure.

        A lock that can't be had is stale: this process holds the host's turn, so no other borg of this host runs, and
        at the other end flock(1) lets only one borg serve run at a time, for as long as that lives (the kernel ends a
        flock with its holder). So it is broken, once, on the record, and the command runs again.
        """
        self.ready()
        return self._past_a_stale_lock(lambda: self._once(words, limit, progress, sink))

    def run_other(self, command: Sequence[str], limit: float | None) -> Done:
        """Run a program that calls borg by itself (borgmatic), with all that ``run`` promises. Raises BorgError.

        Its status is 1 for every failure, and 0 when borg only warned.
        """
        self.ready()
        return self._past_a_stale_lock(lambda: spawn(command, self.env, self.turn, limit, well=(0,)))

    def _past_a_stale_lock(self, work: Callable[[], Done]) -> Done:
        try:
            return work()
        except BorgError as error:
            if error.kind == "cut":
                raise self._as_ssh_says(error) from None
            if error.kind != "lock" or self.turn is None:
                raise
            found = str(error)
        self._once(("break-lock",), 120, "", None)
        decisions.record(self.places, "backup", "break-lock", self.settings.repository, found, "done")
        return work()

    def _as_ssh_says(self, cut: BorgError) -> BorgError:
        """Why there is no connection: borg may see its end before it reads what ssh said of it, so ssh is asked."""
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
        found = {}
        for one in self.json("list", "--json").get("archives", []):
            parsed = self.settings.parse(str(one["name"]))
            if parsed is not None:
                job, sequence = parsed
                found[one["name"]] = Archive(one["name"], str(one["id"]), job, sequence, epoch(str(one["time"])))
        return found

    def json(self, *words: str, limit: float | None = 900) -> dict[str, Any]:
        """Run borg and return the object it printed. Raises BorgError."""
        done = self.run(*words, limit=limit)
        found = state.decode(done.out.encode())
        if found is None:
            raise BorgError("failed", f"borg {words[0]} printed no JSON object")
        return found

    def command(self, words: Sequence[str]) -> list[str]:
        """The command line of a borg command."""
        return [*self.program, "--log-json", f"--lock-wait={LOCK_WAIT}", *words]

    def _once(
        self,
        words: Sequence[str],
        limit: float | None,
        progress: str,
        sink: Callable[[IO[bytes]], None] | None,
    ) -> Done:
        command = self.command([words[0], *(["--progress"] if progress else []), *words[1:]])
        return spawn(command, self.env, self.turn, limit, progress, sink)


def spawn(
    command: Sequence[str],
    env: Mapping[str, str],
    turn: int | None,
    limit: float | None,
    progress: str = "",
    sink: Callable[[IO[bytes]], None] | None = None,
    well: Sequence[int] = (0, 1),
    *,
    inherited: Sequence[int] = (),
    user: str | None = None,
) -> Done:
    """Run a command of borg's family and wait for it; BorgError when its status isn't ``well``. ``limit`` is seconds.

    A ``sink`` that returns before the end has had enough: the command is ended, and that is no failure of its.
    ``inherited``: more descriptors for the child; ``user``: whom it runs as, with that account's group alone.
    """
    try:
        child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=dict(env),
            pass_fds=inherited if turn is None else (turn, *inherited),
            user=user,
            group=user,
            extra_groups=None if user is None else [],
        )
    except OSError as error:
        raise BorgError("failed", f"{command[0]} can't be run: {error.strerror}") from None
    messages: list[str] = []
    logged: list[str] = []
    out: list[bytes] = []
    assert child.stdout is not None
    assert child.stderr is not None
    listener = threading.Thread(target=_listen, args=(child.stderr, messages, logged, progress), daemon=True)
    listener.start()
    killer = threading.Timer(limit, child.terminate) if limit else None
    if killer is not None:
        killer.daemon = True
        killer.start()
    enough = False
    try:
        if sink is None:
            out.append(child.stdout.read())
        else:
            sink(child.stdout)
            # with its pipe full and nobody reading it would never end
            enough = bool(child.stdout.read(1))
            if enough:
                child.terminate()
        status = child.wait()
    except BaseException:
        child.terminate()
        child.wait()
        raise
    finally:
        if killer is not None:
            killer.cancel()
        child.stdout.close()
    # ssh may outlive borg for a moment, and holds the other end of this pipe
    listener.join(10)
    child.stderr.close()
    if status not in well and not enough:
        raise explain(messages, status)
    return Done(status, b"".join(out).decode(errors="replace"), messages, logged)


def epoch(stamp: str) -> float:
    """Epoch seconds of a time as borg prints it in JSON: naive, and UTC because we run it with TZ=UTC."""
    from datetime import UTC, datetime

    return datetime.fromisoformat(stamp).replace(tzinfo=UTC).timestamp()


def _listen(stream: IO[bytes], messages: list[str], logged: list[str], progress: str) -> None:
    """Collect what is logged (JSON lines of ``--log-json``, and plain ones of ssh); show progress on a terminal."""
    for raw in stream:
        line = raw.decode(errors="replace").rstrip()
        entry = _entry(line)
        if entry is None:
            messages.append(line)
        elif entry.get("type") == "log_message":
            if entry.get("levelname") in ("WARNING", "ERROR", "CRITICAL"):
                messages.append(f"{entry.get('message', '')} {entry.get('msgid') or ''}".strip())
            else:
                logged.append(str(entry.get("message", "")))
        elif progress and entry.get("type") == "archive_progress" and "original_size" in entry:
            size = entry["original_size"] / 1e6
            print(f"\r\033[K{progress}: {size:.1f} MB read", end="", file=sys.stderr, flush=True)
        del messages[:-200]
    if progress:
        print("\r\033[K", end="", file=sys.stderr, flush=True)


def _entry(line: str) -> dict[str, Any] | None:
    if not line.startswith("{"):
        return None
    try:
        found = json.loads(line)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None
