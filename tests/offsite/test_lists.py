"""Archives that were listed once and are not any more."""

from __future__ import annotations

from pathlib import Path

from mf_offsite import lists, prune

from tests.offsite.conftest import entry, made_repository


def test_an_archive_that_was_ever_listed_is_listed_or_was_deleted(tmp_path: Path) -> None:
    def listed(**archives: str) -> dict[bytes, dict[bytes, bytes]]:
        return {k.encode(): {b"id": v[:1].encode() * 32, b"time": v[1:].encode()} for k, v in archives.items()}

    before, now = listed(a="A1", b="B2", c="C3", d="D4"), listed(b="X2", c="C9", d="D4", e="E5")
    gone = lists.unlisted([(0, listed()), (3, before), (5, before), (5, now)])
    # not there, another, of another time
    assert gone == [(b"a", b"A" * 32, 5), (b"b", b"B" * 32, 5), (b"c", b"C" * 32, 5)]
    assert lists.unlisted([(3, before), (5, before)]) == lists.unlisted([]) == []

    names = [("a", b"A"), ("b", b"B"), ("c.checkpoint", b"C"), ("d.checkpoint.evil", b"D")]
    listing = [(name, (ident * 32).hex(), 1) for name, ident in names]
    where = made_repository(tmp_path, entry(2), entry(1, b"A" * 32), entry(2), entry(1, b"B" * 32))
    lines = [f"transaction {number}, UTC time 2026-11-25T02:00:00.1\n" for number in (0, 2)]
    Path(where, "transactions").write_text("".join(lines))
    problems = prune.hidden(listing, where)
    assert [word.split()[0] for word in problems] == ["b", "d.checkpoint.evil"]  # b's has no commit
    assert problems[0].endswith("up to transaction 2")
