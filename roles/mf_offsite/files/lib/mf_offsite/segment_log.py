"""The history of a Borg 1.2 repository from its own log, read without Borg and without its passphrase.

A repository is a log: numbered segment files below ``data``, each a magic and entries ``crc32, size, tag``
(little-endian, "<IIB"), then for PUT (0) and DELETE (1) a key of 32 bytes; COMMIT (2) ends a transaction (Borg's "Data
structures and file formats", "Repository"). Over an append-only account ``transactions`` gets a line for each commit.
To write its manifest, the list of archives, which has the key 0, Borg deletes the old one; a deletion of anything else,
or a list that becomes shorter, means that an archive was removed (or a checkpoint, of a first backup that took very
long). So deletions can be detected without decrypting anything.

``config`` has the repository's id and its key, encrypted with the passphrase. Borg changes neither by itself, but a
client may, over an append-only account too, and without the key nothing can be read. So ``identity`` must not change.

An attacker on control may have written these files: sizes are checked, symbolic links aren't followed.

This module is frozen: Borg 1.2's format doesn't change, so the reader grows no further.
"""

from __future__ import annotations

import configparser
import itertools
import os
import re
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import BinaryIO

from mf import Failure

MAGIC = b"BORG_SEG"
ENTRY = struct.Struct("<IIB")
KEY_SIZE = 32
PUT, DELETE, COMMIT, DAMAGED = 0, 1, 2, -1
MANIFEST = bytes(KEY_SIZE)
ARCHIVE_ID = 32  # bytes
LARGEST = 1 << 30  # bytes of one entry; Borg's own limit is below
NONCE_LIMIT = 1 << 56  # of the cipher's counter of 16 bytes each: no repository ever wrote an exabyte
_LINE = re.compile(r"^transaction (\d+), UTC time (\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)")


class LogError(Failure):
    """This isn't a repository, or it can't be read. One line."""


@dataclass(frozen=True)
class Segment:
    """A segment file: number, bytes, objects written and deleted, whether a commit is in it, whether it is whole."""

    number: int
    size: int
    written: int = 0
    deleted: int = 0
    committed: bool = False
    whole: bool = True
    manifest: int = 0  # bytes of the last list of archives in it, encrypted; 0 for none
    changed: int = 0  # when the file was, in ns: its ctime, which its writer can't set


@dataclass(frozen=True)
class Transaction:
    """One commit: the number of its last segment, its time (UTC, ISO 8601; by the clock off-site)."""

    segment: int
    time: str


@dataclass(frozen=True)
class Place:
    """An entry: its segment file, where in it, how many bytes with its head, its key."""

    path: str
    at: int
    size: int
    key: bytes


def segments(repository: str) -> dict[int, str]:
    """Numbers and paths of the segment files. Raises LogError."""
    paths = {}
    try:
        for folder in os.scandir(f"{repository}/data"):
            if folder.is_dir(follow_symlinks=False):
                for file in os.scandir(folder.path):
                    if file.name.isdigit() and file.is_file(follow_symlinks=False):
                        paths[int(file.name)] = file.path
    except FileNotFoundError:
        raise LogError(f"there is no repository in {repository}") from None
    except OSError as error:
        raise LogError(f"{repository} can't be read: {error.strerror}") from None
    return dict(sorted(paths.items()))


def size(repository: str) -> int:
    """Bytes of all segment files. Raises LogError."""
    total = 0
    for path in segments(repository).values():
        try:
            total += os.stat(path, follow_symlinks=False).st_size
        except OSError:
            continue  # compacted away meanwhile
    return total


def identity(repository: str) -> str:
    """The repository's id and encrypted key as one text, "" before there is a repository. Raises LogError."""
    if not os.path.lexists(f"{repository}/config"):
        return ""
    with _open(f"{repository}/config") as file:
        return identity_of(file.read(1 << 20).decode(errors="replace"))


def identity_of(config: str) -> str:
    """The same from a config file's text. Pure; "damaged" for any other text."""
    parser = configparser.ConfigParser(interpolation=None)
    try:
        parser.read_string(config)
    except configparser.Error:
        return "damaged"
    section = parser["repository"] if parser.has_section("repository") else {}
    return f"id {section.get('id', '')}\nkey {''.join(section.get('key', '').split())}\n"


def nonce(repository: str) -> int:
    """The cipher's counter, which a client may raise as it likes; NONCE_LIMIT if it is no number. Raises LogError."""
    try:
        with _open(f"{repository}/nonce") as file:
            return int.from_bytes(bytes.fromhex(file.read(64).decode("ascii", "replace")))
    except ValueError:
        return NONCE_LIMIT


def transactions(repository: str) -> list[Transaction]:
    """The commits in the append-only log. Raises LogError."""
    if not os.path.lexists(f"{repository}/transactions"):
        return []
    with _open(f"{repository}/transactions") as file:
        matches = [_LINE.match(line.decode("ascii", "replace")) for line in file]
    return [Transaction(int(match[1]), match[2]) for match in matches if match]


def _open(path: str) -> BinaryIO:
    try:
        return open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC), "rb")
    except OSError as error:
        raise LogError(f"{path} can't be read: {error.strerror}") from None


def entries(file: BinaryIO, length: int) -> Iterator[tuple[int, int, int, bytes]]:
    """Offset, size, tag and key of each entry of a segment: its head is read, its data skipped.

    A damaged segment, or another file, ends with the tag DAMAGED.
    """
    at = len(MAGIC)
    if file.read(at) != MAGIC:
        at, length = 0, 1
    while at < length:
        file.seek(at)
        head = file.read(ENTRY.size + KEY_SIZE)
        extent, tag = ENTRY.unpack_from(head)[1:] if at and len(head) >= ENTRY.size else (0, DAMAGED)
        least = ENTRY.size + (KEY_SIZE if tag in (PUT, DELETE) else 0)
        if not least <= extent <= LARGEST or tag > 3 or at + extent > length:
            yield at, 0, DAMAGED, b""
            return
        yield at, extent, tag, head[ENTRY.size :]
        at += extent


def read(number: int, path: str) -> Segment:
    """A segment with its entries counted. Raises LogError."""
    written = deleted = manifest = 0
    committed, whole = False, True
    with _open(path) as file:
        figures = os.fstat(file.fileno())
        for _, extent, tag, key in entries(file, figures.st_size):
            written += tag == PUT and key != MANIFEST
            deleted += tag == DELETE and key != MANIFEST
            manifest = extent if tag == PUT and key == MANIFEST else manifest
            committed = committed or tag == COMMIT
            whole = tag != DAMAGED
    return Segment(number, figures.st_size, written, deleted, committed, whole, manifest, figures.st_ctime_ns)


def _wanted(path: str, wanted: Callable[[int, bytes], bool]) -> Iterator[Place | None]:
    """The entries of a segment whose tag and key are ``wanted``, and None for a commit."""
    with _open(path) as file:
        for at, extent, tag, key in entries(file, os.fstat(file.fileno()).st_size):
            if tag == COMMIT:
                yield None
            elif wanted(tag, key):
                yield Place(path, at, extent, key)


def committed(repository: str, wanted: Callable[[int, bytes], bool]) -> Iterator[Place]:
    """The entries that are ``wanted`` since history began, of transactions with a commit, oldest first."""
    begun = _begun(repository)
    waiting: list[Place] = []
    for number, path in segments(repository).items():
        for place in _wanted(path, wanted) if number > begun else ():
            if place:
                waiting.append(place)
            else:
                yield from waiting
                waiting = []


def lists(repository: str) -> Iterator[tuple[int, bytes]]:
    """Every list of archives, its segment and bytes, oldest first: the list that history begins with, and all since."""
    begun = _begun(repository)

    def is_list(tag: int, key: bytes) -> bool:
        return tag == PUT and key == MANIFEST

    earlier = (
        [place for place in _wanted(path, is_list) if place]
        for number, path in reversed(segments(repository).items())
        if number <= begun
    )
    first = next((places[-1:] for places in earlier if places), [])
    for place in itertools.chain(first, committed(repository, is_list)):
        with _open(place.path) as file:
            file.seek(place.at + ENTRY.size + KEY_SIZE)
            yield int(os.path.basename(place.path)), file.read(place.size - ENTRY.size - KEY_SIZE)


def _begun(repository: str) -> int:
    """The segment with the first transaction: the repository's own, or that of the last compaction."""
    return next((transaction.segment for transaction in transactions(repository)), -1)


@dataclass
class Scan:
    """Result of a scan: segments up to ``scanned``, objects deleted since ``baseline``, the first segment with one.

    ``manifest`` is the size of the newest list of archives. Each name in it has an id of 32 random bytes, which don't
    compress: a list that is shorter by as much has lost an archive, and that counts as a deletion. Negative: a size
    that the next list isn't compared with, since another program packed it.

    ``ahead`` are the segments read after that, of a transaction that has no commit yet: they count when it has one.
    """

    baseline: int = -1
    scanned: int = -1
    deleted: int = 0
    first: int = -1
    manifest: int = 0
    ahead: tuple[Segment, ...] = ()


def scan(repository: str, known: Scan, go_on: Callable[[], bool] = lambda: True) -> Scan:
    """Count deletions in segments that are new since ``known``. Raises LogError.

    ``go_on`` is asked before each file, so a run with a deadline goes on where the last one stopped. Segments without a
    commit are removed when their transaction is given up, and Borg uses their numbers again. So the newest segment,
    which may still be written, is read again next time, and others are unless the same file is unchanged.
    """
    numbers = segments(repository)
    last = max(numbers, default=-1)
    scanned, before = replace(known, ahead=()), {segment.number: segment for segment in known.ahead}
    if scanned.scanned > last:
        # rewound or rebuilt: the known counts are of no use
        scanned = Scan(baseline=-1 if known.baseline > last else known.baseline)
        scanned.scanned = scanned.baseline
    ahead: list[Segment] = []
    for number, path in numbers.items():
        if number <= max(scanned.scanned, scanned.baseline):
            continue
        if not go_on():
            break
        try:
            changed = os.stat(path, follow_symlinks=False).st_ctime_ns
        except FileNotFoundError:
            break  # given up just now
        segment = before.get(number)
        if segment is None or segment.changed != changed:
            segment = read(number, path)
        ahead.append(segment)
        if segment.committed:
            for committed in ahead:
                _count(scanned, committed)
            ahead = []
    scanned.ahead = tuple(segment for segment in ahead if segment.number != last)
    return scanned


def _count(scanned: Scan, segment: Segment) -> None:
    lost = int(0 < segment.manifest <= scanned.manifest - ARCHIVE_ID)
    scanned.deleted += segment.deleted + lost
    scanned.manifest = segment.manifest or scanned.manifest
    if (segment.deleted or lost) and scanned.first < 0:
        scanned.first = segment.number
    scanned.scanned = segment.number
