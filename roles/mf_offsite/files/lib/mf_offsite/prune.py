"""Prune old archives, attended, where they are kept: compare them with control's record, show the plan, delete.

The passphrase comes with the order, on stdin; Borg reads it from a pipe. It is in no file here, no argument, no
environment. An attacker on control can't prune: deletions from there only hide archives (see ``segment_log``), and this
refuses while any is hidden. Archives with wrong times don't cause a prune either, nor does a list that leaves some out:
see ``doubts``, ``hidden``.
"""

from __future__ import annotations

import json
import os
import pwd
import re
import shutil
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

from mf import Failure, borg, state, text
from mf.borg import Archive, Comparison, compare, parse

from . import segment_log

ACCOUNT = "mf-offsite"
JOBS = ("dump", "full")
OPTIONS = ("within", "daily", "weekly", "monthly", "yearly")
CHECKPOINT = re.compile(r"\.checkpoint(\.[0-9]+)?$")  # borg's suffix for a backup that isn't finished
LIBRARY = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
LISTS = "import sys; sys.path.insert(0, sys.argv[1]); from mf_offsite import lists; lists.main(sys.argv[2])"
SKEW = 3600.0  # seconds by which an archive's time may be beside the clock, or its neighbour's


class PruneError(Failure):
    """The prune is refused. One line; nothing was changed."""

    code = 5


@dataclass(frozen=True)
class Order:
    """The operator's order. ``approved``: the archives that a dry run showed and that may go; None in a dry run."""

    passphrase: str = field(repr=False)
    prefix: str
    keep: Mapping[str, Mapping[str, str]]
    recorded: Mapping[str, Archive]
    approved: frozenset[str] | None


@dataclass(frozen=True)
class Plan:
    """The repository's archives, their comparison with control's record, doubts about them, and those to delete."""

    archives: Mapping[str, Archive]
    difference: Comparison
    doubtful: Sequence[str]
    going: Sequence[str]

    def lines(self) -> list[str]:
        """For the operator: each archive, oldest first, and whether it goes."""
        marks = dict.fromkeys(self.going, "goes")
        marks |= dict.fromkeys(self.difference.unknown, "NOT on control's record")
        marks |= dict.fromkeys(self.difference.changed, "ANOTHER one than control recorded")
        marks |= dict.fromkeys(self.difference.missing, "MISSING here, and on control's record")
        names = sorted({*self.archives, *self.difference.missing})
        lines = [f"{text.clean(name, 120)}  {marks.get(name, 'stays')}" for name in names]
        return [*lines, *self.doubtful, f"{len(self.going)} of {len(self.archives)} archives go"]


def read(data: bytes) -> Order:
    """The order from stdin. Raises PruneError, whose text has nothing of the input: it holds the passphrase."""
    try:
        given: dict[str, Any] = json.loads(data)
        archives = [Archive(**json.loads(line)) for line in str(given["record"]).splitlines()]
        approved = given.get("approved")
        order = Order(
            passphrase=str(given["passphrase"]),
            prefix=str(given["prefix"]),
            keep={job: {str(k): str(v) for k, v in given["keep"][job].items()} for job in JOBS},
            recorded={archive.name: archive for archive in archives},
            approved=None if approved is None else frozenset(str(name) for name in approved),
        )
    except (ValueError, TypeError, KeyError, AttributeError):
        raise PruneError("stdin is no order; this is for playbooks/prune_offsite.yml") from None
    for rules in order.keep.values():
        arguments(rules)
    return order


def arguments(rules: Mapping[str, str]) -> list[str]:
    """borg prune's options for one job's retention. Pure. Raises PruneError for another option, or for none."""
    if not rules or set(rules) - set(OPTIONS):
        raise PruneError(f"mf_backup_keep sets how many archives of each kind to keep: {', '.join(OPTIONS)}")
    return [f"--keep-{name}={rules[name]}" for name in OPTIONS if name in rules]


@dataclass(frozen=True)
class Left:
    """The archives after the last prune: highest number, and all ids. Kept here, out of control's reach."""

    highest: int = 0
    ids: frozenset[str] = frozenset()

    @classmethod
    def of(cls, archives: Iterable[Archive]) -> Left:
        """Of a list of archives."""
        remaining = list(archives)
        idents = frozenset(archive.id for archive in remaining)
        return cls(max((archive.sequence for archive in remaining), default=0), idents)

    @classmethod
    def load(cls, path: str) -> Left:
        """From its file; empty before the first prune. Raises PruneError if it is damaged."""
        data = state.read_bytes(path, 1 << 26)
        if data is None:
            return cls()
        try:
            document = json.loads(data)
            return cls(int(document["highest"]), frozenset(str(ident) for ident in document["ids"]))
        except (ValueError, TypeError, KeyError):
            raise PruneError(f"{path} is not whole; when the list is as it should be: /mf/bin/offsite accept") from None

    def save(self, path: str) -> None:
        """Write it. Raises OSError."""
        document = {"highest": self.highest, "ids": sorted(self.ids)}
        state.write_atomic(path, (json.dumps(document) + "\n").encode(), 0o600, durable=True)


def foreign(prefix: str, names: Iterable[str]) -> list[str]:
    """Names that borg's prune would count among a job's archives, and that aren't ours. Pure."""
    heads = tuple(f"{prefix}-{job}-" for job in JOBS)
    wrong = [name for name in names if name.startswith(heads) and not parse(prefix, CHECKPOINT.sub("", name))]
    return [f"{text.clean(name, 120)} is a name that no backup of control's has" for name in wrong]


def doubts(archives: Mapping[str, Archive], now: float, left: Left) -> list[str]:
    """Archives whose times or numbers are impossible, a sentence each. Pure.

    Times decide which archives go, and control sets those: archives with made-up times could push out every true one.
    But numbers only grow. So an archive with a higher number is newer, none is of the future, each number is unique,
    and none came since the last prune with a number from before it.
    """
    sentences, latest = [], now
    ordered = sorted(archives.values(), key=lambda each: (each.sequence, each.time), reverse=True)
    for newer, archive in zip([None, *ordered], ordered, strict=False):
        why = ""
        if archive.time > latest + SKEW:
            why = "is of the future" if latest == now else "is of after one with a higher number"
        elif newer and newer.sequence == archive.sequence:
            why = "has a number that is there twice"
        elif archive.sequence <= left.highest and archive.id not in left.ids:
            why = "wasn't there at the last prune, and has a number from before it"
        if why:
            sentences.append(f"{text.clean(archive.name, 120)} {why}: a wrong clock, or a forged archive")
        latest = min(latest, archive.time)
    return sentences


def hidden(gone: Iterable[tuple[str, str, int]], path: str) -> list[str]:
    """Archives that were listed once and aren't any more (see ``lists``), a sentence each. Raises segment_log.LogError.

    Without deleted archives, which are in the log and an alarm, and without unfinished backups.
    """
    ours = [(name, bytes.fromhex(ident), segment) for name, ident, segment in gone if not CHECKPOINT.search(name)]
    idents = {ident for _, ident, _ in ours}
    places = segment_log.committed(path, lambda tag, key: tag == segment_log.DELETE and key in idents) if ours else ()
    deleted = {place.key for place in places}
    commits = [transaction.segment for transaction in segment_log.transactions(path)]
    sentences = []
    for name, ident, segment in ours:
        if ident not in deleted:
            until = next((commit for commit in commits if commit >= segment), segment)
            sentences.append(f"{text.clean(name, 120)} isn't listed any more as it was up to transaction {until}")
    return sentences


class Repository:
    """Borg on the repository, as its own account. ``with Repository(…)``: no files of the run are left behind."""

    def __init__(self, path: str, order: Order) -> None:
        self.path = path
        self.order = order
        self.base = f"{os.path.dirname(path)}/pruning"
        try:
            self._account = pwd.getpwnam(ACCOUNT)
        except KeyError:
            raise Failure(f"there is no account {ACCOUNT} here; deploy with playbooks/site.yml") from None

    def __enter__(self) -> Self:
        shutil.rmtree(self.base, ignore_errors=True)
        os.mkdir(self.base, 0o700)
        os.chown(self.base, self._account.pw_uid, self._account.pw_gid)
        return self

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self.base, ignore_errors=True)

    def run(self, *arguments: str) -> borg.Done:
        """``borg ARGUMENTS`` on this repository. Raises borg.BorgError."""
        return self._spawn("/usr/bin/borg", "--log-json", f"--lock-wait={borg.LOCK_WAIT}", "--umask=0077", *arguments)

    def _spawn(self, *command: str, well: tuple[int, ...] = (0, 1)) -> borg.Done:
        reading, writing = os.pipe()
        try:
            with os.fdopen(writing, "w", encoding="utf-8") as into:
                into.write(self.order.passphrase)  # below a pipe's 64 KiB, so it doesn't wait for a reader
            env = {
                "PATH": "/usr/bin:/bin",
                "LC_ALL": "C.UTF-8",
                "TZ": "UTC",
                "BORG_REPO": self.path,
                "BORG_BASE_DIR": self.base,
                "BORG_PASSPHRASE_FD": str(reading),
                "BORG_EXIT_CODES": "legacy",
                "BORG_RELOCATED_REPO_ACCESS_IS_OK": "yes",
            }
            return borg.spawn(command, env, None, inherited=(reading,), user=ACCOUNT, well=well)
        finally:
            os.close(reading)

    def plan(self, now: float, left: Left) -> Plan:
        """The plan: archives to delete, and doubts. Raises borg.BorgError, segment_log.LogError."""
        gone = json.loads(self._spawn("/usr/bin/python3", "-I", "-c", LISTS, LIBRARY, self.path, well=(0,)).out)
        listed = state.decode(self.run("list", "--json", "--consider-checkpoints", "::").out.encode()) or {}
        entries = listed.get("archives")
        archives: dict[str, Archive] = {}
        names: list[str] = []
        for entry in entries if isinstance(entries, list) else []:
            try:
                name, ident, stamp = (str(entry[key]) for key in ("name", "id", "time"))
            except (KeyError, TypeError):
                raise borg.BorgError("failed", "borg listed an archive without name, id or time") from None
            names.append(name)
            if parsed := parse(self.order.prefix, name):
                archives[name] = Archive(name, ident, *parsed, borg.epoch(stamp))
        going = [name for job in JOBS for name in self._going(job, archives)]
        doubtful = [*hidden(gone, self.path), *foreign(self.order.prefix, names), *doubts(archives, now, left)]
        return Plan(archives, compare(self.order.recorded, archives), doubtful, going)

    def _going(self, job: str, archives: Mapping[str, Archive]) -> list[str]:
        """The archives of a job that its retention doesn't keep; never its newest."""
        ours = {archive.id: archive for archive in archives.values() if archive.job == job}
        if not ours:
            return []
        pattern = f"--glob-archives={self.order.prefix}-{job}-*"
        done = self.run("prune", "--dry-run", "--list", pattern, *arguments(self.order.keep[job]), "::")
        newest = max(ours, key=lambda ident: ours[ident].sequence)
        return [ours[ident].name for ident in pruned(done.logged) if ident in ours and ident != newest]

    def prune(self, going: Sequence[str]) -> None:
        """Delete these archives, and make all deletions final. Raises borg.BorgError."""
        if going:
            self.run("delete", "::", *going)
        self.run("compact", "::")


def pruned(logged: Sequence[str]) -> list[str]:
    """Ids of the archives that ``borg prune --dry-run --list`` would delete: from each line's end, as a name may hold
    anything.
    """
    ends = (re.search(r"\[([0-9a-f]{64})\]$", line.rstrip()) for line in logged if line.startswith("Would prune:"))
    return [end[1] for end in ends if end]


def refuse(plan: Plan, order: Order) -> None:
    """Raise PruneError if the plan must not be carried out. Pure."""
    wrong = [*plan.difference.missing, *plan.difference.changed]
    if wrong:
        raise PruneError(
            f"{len(wrong)} archives are missing or others than control recorded, {text.clean(wrong[0], 120)} first;"
            ' see docs/restore.md, "Backups were deleted"'
        )
    if plan.doubtful:
        raise PruneError(f'{plan.doubtful[0]}; see docs/restore.md, "Room and retention"')
    more = sorted(set(plan.going) - order.approved) if order.approved is not None else []
    if more:
        raise PruneError(
            f"{len(more)} more archives would be deleted than were approved, {text.clean(more[0], 120)} first; "
            "list them again"
        )


def untouched(repository: str, known: segment_log.Scan, *, same_key: bool) -> None:
    """Raise PruneError if anything was deleted since the last prune, or the key changed; all is scanned again."""
    deleted = segment_log.scan(repository, segment_log.Scan(known.baseline, known.baseline)).deleted
    if deleted or not same_key:
        what = f"{deleted} objects were deleted, no prune recorded" if deleted else "the key is another one"
        raise PruneError(
            f'{what}. A prune would make this final: docs/restore.md, "Backups were deleted".'
            " If it was a prune of yours that didn't come to its end: /mf/bin/offsite history, then offsite accept"
        )


def begin_anew(repository: str) -> int:
    """Begin history here, as earlier transactions are compacted away. Returns the last segment's number."""
    last = max(segment_log.segments(repository), default=-1)
    stamp = time.strftime("%Y-%m-%dT%H:%M:%S.000000", time.gmtime())
    owner = os.stat(repository)
    part = f"{repository}/transactions.part"
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with open(descriptor, "w", encoding="ascii") as file:
        file.write(f"transaction {last}, UTC time {stamp}\n")
        os.fchown(file.fileno(), owner.st_uid, owner.st_gid)
    os.replace(part, f"{repository}/transactions")
    return last
