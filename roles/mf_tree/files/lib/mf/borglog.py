"""What a Borg 1.2 repository says of its own past, read without Borg and without its passphrase. Cold path.

A repository is a log: numbered segment files below ``data``, each a magic and entries ``crc32, size, tag``
(little-endian, "<IIB"), then for PUT (0) and DELETE (1) a key of 32 bytes; COMMIT (2) ends a transaction (Borg's "Data
structures and file formats", "Repository"). Over an append-only account ``transactions`` gets a line for each commit.
To write its manifest, which has the key 0, Borg deletes the old one; a deletion of anything else means that an archive
was taken away (or a checkpoint, of a first backup that took very long). So whoever can't decrypt a word can still see
history being deleted.

What is read here was written by a machine that may be broken into: sizes are checked, symbolic links aren't followed.
"""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Callable
from dataclasses import dataclass

MAGIC = b"BORG_SEG"
ENTRY = struct.Struct("<IIB")
KEY_SIZE = 32
PUT, DELETE, COMMIT = 0, 1, 2
MANIFEST = bytes(KEY_SIZE)
LARGEST = 1 << 30  # bytes of one entry; Borg's own limit is below
_LINE = re.compile(r"^transaction (\d+), UTC time (\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)")


class LogError(Exception):
    """This isn't a repository, or not one that can be read. One line."""


@dataclass(frozen=True)
class Segment:
    """A segment file: number, bytes, objects written and deleted, whether a commit is in it, whether it is whole."""

    number: int
    size: int
    written: int = 0
    deleted: int = 0
    committed: bool = False
    whole: bool = True


@dataclass(frozen=True)
class Transaction:
    """One commit: the number of its last segment, its time (UTC, ISO 8601; what the clock off-site said)."""

    segment: int
    time: str


def segments(repository: str) -> dict[int, str]:
    """Numbers and paths of the segment files. Raises LogError."""
    found = {}
    try:
        for folder in os.scandir(f"{repository}/data"):
            if folder.is_dir(follow_symlinks=False):
                for one in os.scandir(folder.path):
                    if one.name.isdigit() and one.is_file(follow_symlinks=False):
                        found[int(one.name)] = one.path
    except FileNotFoundError:
        raise LogError(f"there is no repository in {repository}") from None
    except OSError as error:
        raise LogError(f"{repository} can't be read: {error.strerror}") from None
    return dict(sorted(found.items()))


def size(repository: str) -> int:
    """Bytes of all segment files. Raises LogError."""
    total = 0
    for path in segments(repository).values():
        try:
            total += os.stat(path, follow_symlinks=False).st_size
        except OSError:
            continue  # compacted away meanwhile
    return total


def transactions(repository: str) -> list[Transaction]:
    """The commits that the append-only log has. Raises LogError."""
    try:
        descriptor = os.open(f"{repository}/transactions", os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise LogError(f"{repository}/transactions can't be read: {error.strerror}") from None
    with open(descriptor, encoding="ascii", errors="replace") as file:
        matches = [_LINE.match(line) for line in file]
    return [Transaction(int(one[1]), one[2]) for one in matches if one]


def read(number: int, path: str) -> Segment:
    """What a segment holds: entries are counted by their heads, data is skipped. Raises LogError."""
    written = deleted = 0
    committed = False
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        raise LogError(f"{path} can't be read: {error.strerror}") from None
    with open(descriptor, "rb") as file:
        length = os.fstat(file.fileno()).st_size
        at = len(MAGIC)
        if file.read(at) != MAGIC:
            return Segment(number, length, whole=False)
        while at < length:
            file.seek(at)
            head = file.read(ENTRY.size + KEY_SIZE)
            if len(head) < ENTRY.size:
                return Segment(number, length, written, deleted, committed, whole=False)
            _, extent, tag = ENTRY.unpack_from(head)
            least = ENTRY.size + (KEY_SIZE if tag in (PUT, DELETE) else 0)
            if not least <= extent <= LARGEST or tag > 3 or at + extent > length:
                return Segment(number, length, written, deleted, committed, whole=False)
            key = head[ENTRY.size :]
            written += tag == PUT and key != MANIFEST
            deleted += tag == DELETE and key != MANIFEST
            committed = committed or tag == COMMIT
            at += extent
    return Segment(number, length, written, deleted, committed)


@dataclass
class Scan:
    """What was seen: segments up to ``scanned``, objects deleted since ``baseline``, the first segment with one."""

    baseline: int = -1
    scanned: int = -1
    deleted: int = 0
    first: int = -1


def scan(repository: str, known: Scan, go_on: Callable[[], bool] = lambda: True) -> Scan:
    """Count deletions in segments that are new since ``known``. Raises LogError.

    ``go_on`` is asked before each file, so a run with a deadline takes up where the last one stopped. The newest
    segment may still be written: it is looked at again next time.
    """
    found = Scan(known.baseline, known.scanned, known.deleted, known.first)
    numbers = segments(repository)
    last = max(numbers, default=-1)
    if found.scanned > last:
        # rewound or rebuilt: nothing that is remembered is worth anything
        found = Scan(baseline=-1 if known.baseline > last else known.baseline)
        found.scanned = found.baseline
    for number, path in numbers.items():
        if number <= max(found.scanned, found.baseline):
            continue
        if not go_on():
            break
        one = read(number, path)
        if not one.committed and number == last:
            break
        found.deleted += one.deleted
        if one.deleted and found.first < 0:
            found.first = number
        found.scanned = number
    return found
