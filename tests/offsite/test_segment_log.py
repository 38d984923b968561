"""Deletions in the log of a repository, whatever its segments hold."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import pytest
from mf_offsite import segment_log

from tests.offsite.conftest import GONE, KEY, PUT, entry, made_repository, manifest


def test_a_new_manifest_is_no_deletion_and_a_deletion_is_one(tmp_path: Path) -> None:
    folder = made_repository(tmp_path, PUT, PUT, GONE)
    scan = segment_log.scan(folder, segment_log.Scan())
    assert (scan.scanned, scan.deleted, scan.first) == (2, 1, 2)
    assert segment_log.scan(folder, scan) == scan
    assert segment_log.scan(folder, segment_log.Scan(baseline=2, scanned=2)).deleted == 0
    assert segment_log.size(folder) == sum(os.stat(f"{folder}/data/0/{n}").st_size for n in range(3))


def test_a_list_of_archives_that_becomes_shorter_is_a_deletion(tmp_path: Path) -> None:
    folder = made_repository(tmp_path, manifest(300), manifest(400), manifest(390), PUT)
    assert segment_log.scan(folder, segment_log.Scan()).deleted == 1  # PUT's is of one byte
    shorter = made_repository(tmp_path / "other", manifest(300), manifest(400), manifest(360))
    scan = segment_log.scan(shorter, segment_log.Scan())
    assert (scan.deleted, scan.first, scan.manifest) == (1, 2, 360 + 41)
    grown = made_repository(tmp_path / "third", manifest(300), manifest(400), manifest(399), manifest(460))
    assert segment_log.scan(grown, segment_log.Scan()).deleted == 0


def test_a_scan_goes_on_where_it_stopped(tmp_path: Path) -> None:
    folder = made_repository(tmp_path, PUT, PUT, GONE)
    turns = iter([True, False])
    scan = segment_log.scan(folder, segment_log.Scan(), lambda: next(turns))
    assert scan.scanned == 0
    assert segment_log.scan(folder, scan).deleted == 1


def test_an_open_transaction_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However much it holds: a scan never starts again where an earlier one ran out of time."""
    folder = made_repository(tmp_path, PUT, *[entry(1, KEY)] * 4)
    read: list[int] = []
    real = segment_log.read

    def watched(number: int, path: str) -> segment_log.Segment:
        read.append(number)
        return real(number, path)

    monkeypatch.setattr(segment_log, "read", watched)
    scan = segment_log.scan(folder, segment_log.Scan())
    turns = iter([True, True, False])
    scan = segment_log.scan(folder, scan, lambda: next(turns))
    assert (read, scan.deleted) == ([0, 1, 2, 3, 4], 0)
    Path(folder, "data", "0", "5").write_bytes(segment_log.MAGIC + entry(2))
    scan = segment_log.scan(folder, scan)
    assert (read[5:], scan.deleted, scan.first, scan.scanned, scan.ahead) == ([3, 4, 5], 4, 1, 5, ())


def test_after_a_rewind_earlier_counts_are_dropped(tmp_path: Path) -> None:
    folder = made_repository(tmp_path, PUT)
    assert segment_log.scan(folder, segment_log.Scan(scanned=9, deleted=5, first=3)).deleted == 0


@pytest.mark.parametrize("body", [b"short", struct.pack("<IIB", 0, 0, 0), struct.pack("<IIB", 0, 1 << 31, 2), entry(7)])
def test_a_hostile_segment_ends_the_reading(tmp_path: Path, body: bytes) -> None:
    folder = made_repository(tmp_path, PUT + body)
    segment = segment_log.read(0, f"{folder}/data/0/0")
    assert not segment.whole
    assert segment.written == 1


def test_links_are_not_followed(tmp_path: Path) -> None:
    folder = made_repository(tmp_path, PUT)
    os.symlink("/etc/passwd", f"{folder}/data/0/7")
    assert list(segment_log.segments(folder)) == [0]
    with pytest.raises(segment_log.LogError):
        segment_log.read(7, f"{folder}/data/0/7")
    with pytest.raises(segment_log.LogError, match="no repository"):
        segment_log.segments(str(tmp_path))


def test_lists_of_archives_are_those_since_history_began_and_the_one_before(tmp_path: Path) -> None:
    def listing(*bodies: bytes) -> bytes:
        return b"".join(entry(1, segment_log.MANIFEST) + entry(0, segment_log.MANIFEST, body) for body in bodies)

    end = entry(2)
    where = made_repository(tmp_path, listing(b"old"), listing(b"old", b"left"), end, PUT[:91], listing(b"1", b"2"))
    log = Path(where, "transactions")
    log.write_text("transaction 2, UTC time 2026-11-25T02:00:09.123\n")
    assert list(segment_log.lists(where)) == [(1, b"left")]  # the others have no commit
    Path(where, "data", "0", "5").write_bytes(segment_log.MAGIC + listing(b"3") + end)
    assert list(segment_log.lists(where)) == [(1, b"left"), (4, b"1"), (4, b"2"), (5, b"3")]
    log.unlink()
    assert [data for _, data in segment_log.lists(where)] == [b"old", b"old", b"left", b"1", b"2", b"3"]
