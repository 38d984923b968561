"""Borg 1.2 as a child process, on control and on the off-site machine, and an explanation of its messages in one line.

No secret stands in a command line or an environment: borg reads the passphrase through BORG_PASSCOMMAND.
"""

from __future__ import annotations

import re
import subprocess
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import IO

from . import Failure, state, text

LOCK_WAIT = 20  # seconds for borg's own lock; flock(1) waits for the repository lock off-site

# A part of a message of borg or ssh, the kind of failure, and what to do. First match wins.
EXPLANATIONS: tuple[tuple[str, str, str], ...] = (
    ("Host key verification failed", "host_key", "offsite's host key isn't the one in /mf/etc/backup/known_hosts"),
    ("REMOTE HOST IDENTIFICATION HAS CHANGED", "host_key", "offsite's host key isn't the one in known_hosts"),
    ("Permission denied (publickey", "key", "offsite refuses the ssh key; deploy offsite and control again"),
    ("passphrase supplied in", "passphrase", "the passphrase is not this repository's (mf_secrets.borg_passphrase)"),
    ("BORG_PASSCOMMAND is invalid", "passphrase", "/mf/etc/backup/passphrase can't be read; deploy control again"),
    ("MAX_REPRESENTABLE_NONCE", "counter", "the cipher's counter is used up off-site; see docs/restore.md"),
    ("exit status 75", "busy", "another backup or an attended prune holds the repository lock"),
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
    ("borg/remote.py", "offsite", "borg failed off-site; check-offsite there probably gives the reason"),
)


class BorgError(Failure):
    """Borg failed. ``kind`` is one of EXPLANATIONS, or ``failed``; the text is one line, safe to print."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


@dataclass
class Done:
    """A finished run of borg: status (0, 1 for warnings), stdout, its warnings and errors, its other log lines."""

    status: int
    out: str = ""
    messages: list[str] = field(default_factory=list)
    logged: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Archive:
    """An archive: name and id as borg has them, epoch seconds, bytes before and after deduplication."""

    name: str
    id: str
    job: str
    sequence: int
    time: float
    original: int = 0
    stored: int = 0


def explain(messages: Sequence[str], status: int) -> BorgError:
    """The failure behind the messages of a run. Pure."""
    for needle, kind, advice in EXPLANATIONS:
        for message in messages:
            if needle in message:
                return BorgError(kind, f"{advice} ({text.clean(message.strip(), 160)})")
    lines = [line for line in messages if line.strip() and "Need some help?" not in line]  # borgmatic's end
    last = lines[-1] if lines else "without a message"
    how = f"was killed by signal {-status}" if status < 0 else f"ended with {status}"
    return BorgError("failed", f"borg {how}: {text.clean(last.strip(), 200)}")


def spawn(
    command: Sequence[str],
    env: Mapping[str, str],
    limit: float | None,
    sink: Callable[[IO[bytes]], None] | None = None,
    well: Sequence[int] = (0, 1),
    *,
    inherited: Sequence[int] = (),
    user: str | None = None,
) -> Done:
    """Run a command of borg's family and wait for it; BorgError when its status isn't ``well``. ``limit`` is seconds.

    A ``sink`` that returns before the end of the output needs no more of it: the command is ended, without a failure.
    ``inherited``: descriptors for the child; ``user``: the account it runs as, with that account's group alone.
    """
    try:
        child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=dict(env),
            pass_fds=inherited,
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
    listener = threading.Thread(target=_listen, args=(child.stderr, messages, logged), daemon=True)
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
            # with its pipe full and no reader it would never end
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
    """Epoch seconds of a time as borg prints it in JSON: naive, and UTC because borg runs with TZ=UTC."""
    from datetime import UTC, datetime

    return datetime.fromisoformat(stamp).replace(tzinfo=UTC).timestamp()


def _listen(stream: IO[bytes], messages: list[str], logged: list[str]) -> None:
    """Collect log lines: JSON of ``--log-json``, plain text of ssh."""
    for raw in stream:
        line = raw.decode(errors="replace").rstrip()
        entry = state.decode(line.encode()) if line.startswith("{") else None
        if entry is None:
            messages.append(line)
        elif entry.get("type") == "log_message":
            if entry.get("levelname") in ("WARNING", "ERROR", "CRITICAL"):
                messages.append(f"{entry.get('message', '')} {entry.get('msgid') or ''}".strip())
            else:
                logged.append(str(entry.get("message", "")))
        del messages[:-200]


@dataclass(frozen=True)
class Comparison:
    """The repository's list compared with the record: names in only one of them, and names whose ids differ."""

    missing: tuple[str, ...]
    unknown: tuple[str, ...]
    changed: tuple[str, ...]

    @property
    def same(self) -> bool:
        """Whether every recorded archive is there, with its id. An unknown archive may come from a crashed run."""
        return not self.missing and not self.changed


def compare(recorded: Mapping[str, Archive], listed: Mapping[str, Archive]) -> Comparison:
    """Compare by name and id. Pure."""
    return Comparison(
        missing=tuple(sorted(set(recorded) - set(listed))),
        unknown=tuple(sorted(set(listed) - set(recorded))),
        changed=tuple(sorted(name for name in recorded if name in listed and listed[name].id != recorded[name].id)),
    )


def parse(prefix: str, name: str) -> tuple[str, int] | None:
    """Job and sequence number from an archive's name; None for a checkpoint, or an archive with another prefix."""
    head, _, rest = name.partition(f"{prefix}-")
    parts = rest.split("-", 2)
    if head or len(parts) != 3 or parts[0] not in ("dump", "full") or not re.fullmatch("[0-9]+", parts[1]):
        return None
    return (parts[0], int(parts[1])) if re.fullmatch("[0-9TZ:-]+", parts[2]) else None
