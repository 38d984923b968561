"""Archives, and repositories written segment by segment."""

from __future__ import annotations

import struct
from pathlib import Path

from mf import borg
from mf_offsite import segment_log

NOW = 1_795_000_000.0
HOUR = 3600.0


def archive(sequence: int, job: str = "dump", ident: str = "") -> borg.Archive:
    name = f"control1-{job}-{sequence:08d}-2026-11-25T02:00:01Z"
    return borg.Archive(name, ident or f"{sequence:064d}", job, sequence, NOW)


def entry(tag: int, key: bytes = b"", data: bytes = b"") -> bytes:
    body = struct.pack("<B", tag) + key + data
    return struct.pack("<II", 0, 8 + len(body)) + body


KEY = b"k" * 32
CONFIG = "[repository]\nversion = 1\nappend_only = 0\nid = 0123\nkey = abc\n\tdef\n"
PUT = entry(0, KEY, b"x" * 50) + entry(1, segment_log.MANIFEST) + entry(0, segment_log.MANIFEST, b"m") + entry(2)
GONE = entry(1, KEY) + entry(1, segment_log.MANIFEST) + entry(0, segment_log.MANIFEST, b"m") + entry(2)


def made_repository(root: Path, *segments: bytes) -> str:
    folder = root / "repository"
    (folder / "data" / "0").mkdir(parents=True)
    for number, body in enumerate(segments):
        (folder / "data" / "0" / str(number)).write_bytes(segment_log.MAGIC + body)
    lines = [f"transaction {number}, UTC time 2026-11-25T02:00:0{number}.123\n" for number in range(len(segments))]
    (folder / "transactions").write_text("".join(lines))
    (folder / "config").write_text(CONFIG)
    (folder / "index.2").write_text("index")
    return str(folder)


def manifest(size: int) -> bytes:
    return entry(1, segment_log.MANIFEST) + entry(0, segment_log.MANIFEST, b"m" * size) + entry(2)
