"""What a Borg 1.2 repository says of its own past, read without Borg and without its passphrase.

A repository is a log: numbered segment files below ``data``, each a magic and entries ``crc32, size, tag``
(little-endian, "<IIB"), then for PUT (0) and DELETE (1) a key of 32 bytes; COMMIT (2) ends a transaction (Borg's "Data
structures and file formats", "Repository"). Over an append-only account ``transactions`` gets a line for each commit.
To write its manifest, the list of archives, which has the key 0, Borg deletes the old one; a deletion of anything else,
or a list that becomes shorter, means that an archive was taken away (or a checkpoint, of a first backup that took very
long). So whoever can't decrypt a word can still see history being deleted.

``config`` has the repository's id and its key, encrypted with the passphrase. Borg changes neither by itself, but a
client may, over an append-only account too, and without the key nothing can be read. ``identity`` is what must stay.

What is read here was written by a machine that may be broken into: sizes are checked, symbolic links aren't followed.
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
    manifest: int = 0  # bytes of the last list of archives in it, encrypted; 0 for none
    changed: int = 0  # when the file was, in ns: its ctime, which whoever writes it can't set


@dataclass(frozen=True)
class Transaction:
    """One commit: the number of its last segment, its time (UTC, ISO 8601; what the clock off-site said)."""

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


def identity(repository: str) -> str:
    """The repository's id and encrypted key as one text, "" before there is a repository. Raises LogError."""
    try:
        with open(
            os.open(f"{repository}/config", os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC), encoding="utf-8"
        ) as file:
            return identity_of(file.read(1 << 20))
    except FileNotFoundError:
        return ""
    except (OSError, UnicodeError) as error:
        raise LogError(f"{repository}/config can't be read: {type(error).__name__}") from None


def identity_of(config: str) -> str:
    """The same of a config file's text. Pure; a text that is none has neither."""
    parser = configparser.ConfigParser(interpolation=None)
    try:
        parser.read_string(config)
    except configparser.Error:
        return "damaged"
    section = parser["repository"] if parser.has_section("repository") else {}
    return f"id {section.get('id', '')}\nkey {''.join(section.get('key', '').split())}\n"


def nonce(repository: str) -> int:
    """The cipher's counter, which a client may put up as it likes; NONCE_LIMIT for what is none. Raises LogError."""
    try:
        with _open(f"{repository}/nonce") as file:
            return int.from_bytes(bytes.fromhex(file.read(64).decode("ascii", "replace")))
    except ValueError:
        return NONCE_LIMIT


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


def _open(path: str) -> BinaryIO:
    try:
        return open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC), "rb")
    except OSError as error:
        raise LogError(f"{path} can't be read: {error.strerror}") from None


def entries(file: BinaryIO, length: int) -> Iterator[tuple[int, int, int, bytes]]:
    """Offset, size, tag and key of each entry of a segment: its head is read, its data skipped.

    Where it is torn or no segment, that ends with the tag DAMAGED.
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
    """What a segment holds: entries are counted. Raises LogError."""
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
    """Every list of archives, its segment and bytes, oldest first: that with which history begins, and all since."""
    begun = _begun(repository)

    def is_list(tag: int, key: bytes) -> bool:
        return tag == PUT and key == MANIFEST

    earlier = (
        [place for place in _wanted(path, is_list) if place]
        for number, path in reversed(segments(repository).items())
        if number <= begun
    )
    first = next((found[-1:] for found in earlier if found), [])
    for place in itertools.chain(first, committed(repository, is_list)):
        with _open(place.path) as file:
            file.seek(place.at + ENTRY.size + KEY_SIZE)
            yield int(os.path.basename(place.path)), file.read(place.size - ENTRY.size - KEY_SIZE)


def _begun(repository: str) -> int:
    """The segment with the first transaction: the repository's own, or what the last compaction left."""
    return next((one.segment for one in transactions(repository)), -1)


@dataclass
class Scan:
    """What was seen: segments up to ``scanned``, objects deleted since ``baseline``, the first segment with one.

    ``manifest`` is the size of the newest list of archives. Each name in it has an id of 32 random bytes, which don't
    compress: a list that is shorter by as much has lost one, whatever else it has, and that counts as a deletion.
    Negative: a size that the next list isn't held against, since another program packed it.

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

    ``go_on`` is asked before each file, so a run with a deadline takes up where the last one stopped. What has no
    commit goes again when its transaction is given up, and Borg uses its numbers again; so the newest segment, which
    may still be written, is read again next time, and others are unless they are the same file, unchanged.
    """
    numbers = segments(repository)
    last = max(numbers, default=-1)
    found, before = replace(known, ahead=()), {one.number: one for one in known.ahead}
    if found.scanned > last:
        # rewound or rebuilt: nothing that is remembered is worth anything
        found = Scan(baseline=-1 if known.baseline > last else known.baseline)
        found.scanned = found.baseline
    ahead: list[Segment] = []
    for number, path in numbers.items():
        if number <= max(found.scanned, found.baseline):
            continue
        if not go_on():
            break
        try:
            changed = os.stat(path, follow_symlinks=False).st_ctime_ns
        except FileNotFoundError:
            break  # given up just now
        one = before.get(number)
        if one is None or one.changed != changed:
            one = read(number, path)
        ahead.append(one)
        if one.committed:
            for each in ahead:
                _count(found, each)
            ahead = []
    found.ahead = tuple(one for one in ahead if one.number != last)
    return found


def _count(found: Scan, one: Segment) -> None:
    lost = int(0 < one.manifest <= found.manifest - ARCHIVE_ID)
    found.deleted += one.deleted + lost
    found.manifest = one.manifest or found.manifest
    if (one.deleted or lost) and found.first < 0:
        found.first = one.number
    found.scanned = one.number
