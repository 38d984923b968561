"""Repair: files, index and MXs compared with each other."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from mf_quarantine import envelope, remote, store

from tests.quarantine.conftest import Mx, Room, ident, kept, put


def restored(room: Room) -> Any:
    """A repair of a quarantine with 4 messages of which the index forgot the newest and the store the oldest."""
    names = room.fill(4)
    room.pull()
    del room.index.message["customer.example", names[3]]
    del room.index.ledger[names[3]]
    Path(room.layout.path("customer.example", names[0])).unlink()
    return names


def test_repair_mends_files_and_rows(room: Room) -> None:
    names = restored(room)
    work = room.repair()
    assert work.fetch([("mx1", room.mx)]) == []
    assert (work.outcome.indexed, work.outcome.fetched, work.outcome.lost) == (1, 1, 0)
    assert sorted(name for _, name in room.index.message) == names
    assert Path(room.layout.path("customer.example", names[0])).read_bytes() == kept(names[0])
    # what was fetched for it is still in incoming and known: the next pull only clears it away
    room.pull()
    assert room.counts.known == 1


def test_repair_leaves_the_files_of_a_running_import(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [ident(number) for number in range(3)]
    waiting = [put(room.layout.incoming("mx1"), name, kept(name)) for name in names]
    paths = [room.layout.path("customer.example", name) for name in names]
    for path, target in zip(waiting, paths, strict=True):
        store.keep(str(path), target)
    waiting[1].unlink()  # a stray indeed
    waiting[2].unlink()  # committed between two looks
    original = room.index.over

    def over(idents: Sequence[str]) -> Any:
        assert idents == names[1:]
        room.index.add([envelope.read(paths[2], "customer.example", names[2])])
        return original(idents)

    monkeypatch.setattr(room.index, "over", over)
    work = room.repair()
    assert work.outcome.indexed == 1
    assert sorted(name for _, name in room.index.message) == names[1:]


def test_repair_goes_on_without_an_mx_that_is_busy(room: Room) -> None:
    names = restored(room)
    work = room.repair()
    assert work.fetch([("mx0", None), ("mx1", room.mx)]) == [
        "mx0: is being pulled for longer than a minute; run this again"
    ]
    assert work.outcome.fetched == 1
    assert sorted(name for _, name in room.index.message) == names


def test_repair_counts_earlier_losses_apart_from_new_ones(room: Room) -> None:
    names = restored(room)
    for name in names[:2]:
        (room.mx.root / f"2026-11-25/customer.example/new/{name}").unlink()
    for count in ((1, 0), (1, 1), (0, 2)):
        work = room.repair()
        work.fetch([("mx1", room.mx)])
        assert (work.outcome.lost, work.outcome.lost_before) == count
        Path(room.layout.path("customer.example", names[1])).unlink(missing_ok=True)


def test_repair_marks_files_as_lost_only_after_asking_every_mx(room: Room) -> None:
    names = restored(room)
    (room.mx.root / f"2026-11-25/customer.example/new/{names[0]}").unlink()
    room.mx.fail = remote.PullError("no route")
    work = room.repair()
    assert work.fetch([("mx1", room.mx)]) == ["mx1: no route"]
    assert not room.index.lost
    room.mx.fail = None
    work = room.repair()
    assert work.fetch([("mx1", room.mx)]) == []
    assert room.index.lost == {names[0]}


def test_repair_does_not_restore_expired_messages(room: Room) -> None:
    names = room.fill(1)
    room.pull()
    room.index.forget("customer.example", [(names[0], "mx1", 1)])
    work = room.repair()
    assert (work.outcome.indexed, work.outcome.removed) == (0, 1)
    assert not list(Path(room.layout.mail).rglob(names[0]))


def test_a_dry_run_of_repair_changes_nothing(room: Room) -> None:
    names = restored(room)
    work = room.repair(dry_run=True)
    work.fetch([("mx1", room.mx)])
    assert (work.outcome.indexed, work.outcome.fetched) == (1, 1)
    assert len(room.index.message) == 3
    assert not Path(room.layout.path("customer.example", names[0])).exists()


def test_repair_asks_each_mx_for_files_that_are_still_missing(room: Room, tmp_path: Path) -> None:
    names = room.fill(4)
    room.pull()
    second: Any = Mx(tmp_path / "mx2")
    for name in names[:2]:
        Path(room.layout.path("customer.example", name)).unlink()
    put(str(second.root), names[1], kept(names[1]))
    (room.mx.root / f"2026-11-25/customer.example/new/{names[1]}").unlink()
    work = room.repair()
    assert work.fetch([("mx1", room.mx), ("mx2", second)]) == []
    assert (work.outcome.fetched, work.outcome.lost) == (2, 0)
    assert all(Path(room.layout.path("customer.example", name)).exists() for name in names)
