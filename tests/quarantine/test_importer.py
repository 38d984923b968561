"""The quarantine's import: each message once, wherever the process dies; the throttle's pace; canaries."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from mf import canary, message_id, state
from mf_canary import send
from mf_quarantine import canaries, envelope, store

from tests.quarantine.conftest import NOON, Died, Index, Room, ident, kept, put, total


def test_a_message_is_imported_once(room: Room) -> None:
    for number in range(3):
        put(room.incoming, ident(number), kept(ident(number)))
    assert room.run().imported == 3
    assert room.stored() == [ident(number) for number in range(3)]
    assert room.waiting() == []
    assert not list(Path(room.incoming).rglob("new"))
    # the MX still has it, and another pull has fetched it again
    put(room.incoming, ident(1), kept(ident(1)))
    assert room.run().known == 1
    assert len(room.index.message) == 3
    assert room.waiting() == []


def test_two_equal_messages_are_two(room: Room) -> None:
    put(room.incoming, ident(1), kept(ident(1)))
    put(room.incoming, ident(2), kept(ident(2)))
    assert room.run().imported == 2
    assert len(room.stored()) == 2


def test_an_expired_message_does_not_come_back(room: Room) -> None:
    room.index.ledger[ident()] = ("customer.example", "expired")
    put(room.incoming, ident(), kept(ident()))
    assert room.run().known == 1
    assert room.stored() == []


def test_a_message_older_than_its_retention_is_recorded_and_not_kept(room: Room) -> None:
    old = ident(1, NOON - 3 * 86400)
    put(room.incoming, old, kept(old), "short.example")
    put(room.incoming, old[:-1] + "1", kept(old[:-1] + "1"), "customer.example")
    counts = room.run()
    assert (counts.expired, counts.imported) == (1, 1)
    assert room.index.ledger[old] == ("short.example", "expired")
    assert room.stored() == [old[:-1] + "1"]


@pytest.mark.parametrize("moment", ["before the commit", "after the commit"])
def test_a_death_in_the_database_loses_and_doubles_nothing(room: Room, moment: str) -> None:
    put(room.incoming, ident(), kept(ident()))
    room.index.die = moment
    with pytest.raises(Died):
        room.run()
    room.index.die = ""
    room.run(fresh=False)
    assert room.stored() == [ident()]
    assert [name for _, name in room.index.message] == [ident()]
    assert room.waiting() == []


@pytest.mark.parametrize("step", ["keep", "sync", "drop", "prune"])
def test_a_death_at_any_step_loses_and_doubles_nothing(room: Room, step: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(3):
        put(room.incoming, ident(number), kept(ident(number)))
    original = getattr(store, step)
    calls = []

    def dies(*arguments: Any) -> Any:
        calls.append(arguments)
        if len(calls) == 2 or step in {"sync", "prune"}:
            raise Died
        return original(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(store, step, dies)
        with pytest.raises(Died):
            room.run()
    room.run(fresh=False)
    assert room.stored() == [ident(number) for number in range(3)]
    assert len(room.index.message) == 3
    assert room.waiting() == []


def test_half_a_file_in_the_store_is_replaced(room: Room) -> None:
    target = Path(room.layout.path("customer.example", ident()))
    target.parent.mkdir(parents=True)
    target.write_bytes(b"")
    put(room.incoming, ident(), kept(ident()))
    room.run()
    assert target.read_bytes() == kept(ident())


def test_a_damaged_file_of_before_a_crash_is_fetched_again(room: Room) -> None:
    put(room.incoming, ident(), kept(ident())[:-1])
    assert room.run(fresh=False).damaged == 1
    assert room.waiting() == []
    assert ident() not in room.index.ledger
    # the MX may be gone: until it gives the message again, this is all that is left of it
    aside = Path(room.layout.bad, "mx1", ident())
    assert aside.read_bytes() == kept(ident())[:-1]
    put(room.incoming, ident(), kept(ident()))
    assert room.run(fresh=True).imported == 1
    assert not aside.exists()


def test_a_message_indexed_by_a_repair_meanwhile_stops_no_import(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(3):
        put(room.incoming, ident(number), kept(ident(number)))
    original = store.sync

    def sync(folder: str) -> None:
        original(folder)
        name = ident(1)
        room.index.index_again([envelope.read(room.layout.path("customer.example", name), "customer.example", name)])

    monkeypatch.setattr(store, "sync", sync)
    counts = room.run()
    assert (counts.imported, counts.known) == (2, 1)
    assert len(room.index.message) == 3
    assert room.waiting() == []


def test_a_file_that_is_damaged_on_the_mx_is_put_aside_once(room: Room) -> None:
    put(room.incoming, ident(), b"")
    put(room.incoming, ident(1), kept(ident(1)))
    counts = room.run(fresh=True)
    assert (counts.bad, counts.imported) == (1, 1)
    assert os.listdir(f"{room.layout.bad}/mx1") == [ident()]
    assert room.index.ledger[ident()] == ("customer.example", "bad")
    put(room.incoming, ident(), b"")
    assert room.run(fresh=True).known == 1


@pytest.mark.parametrize("fresh", [True, False])
def test_a_folder_in_a_messages_place_is_put_aside_and_stops_no_import(room: Room, fresh: bool) -> None:
    folder = Path(room.incoming, message_id.day(ident()), "customer.example", "new", ident())
    folder.mkdir(parents=True)
    (folder / "0").write_bytes(b"x")
    put(room.incoming, ident(1), kept(ident(1)))
    counts = room.run(fresh=fresh)
    assert (counts.bad, counts.damaged, counts.imported) == (int(fresh), int(not fresh), 1)
    assert room.waiting() == []
    aside = Path(room.layout.bad, "mx1", ident())
    assert (aside / "0").read_bytes() == b"x"
    # another one in its place, then the message itself
    folder.mkdir(parents=True)
    room.index.ledger.pop(ident(), None)
    room.run(fresh=fresh)
    assert list(aside.iterdir()) == []
    room.index.ledger.pop(ident(), None)
    put(room.incoming, ident(), kept(ident()))
    assert room.run().imported == 1
    assert not aside.exists()


def test_unfinished_files_of_rsync_are_passed_over_and_swept(room: Room) -> None:
    path = put(room.incoming, ident(), kept(ident()))
    path.rename(path.with_name(f".{ident()}.aB3dEf"))
    assert room.run().imported == 0
    store.sweep_temporary(room.incoming)
    assert not list(Path(room.incoming).rglob(".*"))


def throttle(room: Room) -> None:
    marker = {
        "leases": [{"owner": "load", "reason": "", "since": 0.0, "until": state.boottime() + 3600, "refuse": False}],
        "refusing": False,
        "written": 0.0,
    }
    Path(room.places.marker).write_text(json.dumps(marker))


def test_while_throttled_messages_go_one_by_one(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(3):
        put(room.incoming, ident(number), kept(ident(number)))
    throttle(room)
    work = room.importer()
    sizes = []
    original = work.batches

    def batches(files: Any, *, fresh: bool) -> Any:
        sizes.append(len(files))
        return original(files, fresh=fresh)

    now = [0.0]
    monkeypatch.setattr(work, "batches", batches)
    monkeypatch.setattr(work, "sleep", lambda seconds: now.__setitem__(0, now[0] + seconds))
    real = state.boottime
    monkeypatch.setattr(state, "boottime", lambda: real() + now[0])
    total(work.run(fresh=True))
    assert sizes == [1, 1, 1]
    # three pauses of three seconds
    assert 8.0 <= now[0] <= 9.0


def test_the_pause_ends_with_the_throttle(room: Room) -> None:
    put(room.incoming, ident(), kept(ident()))
    throttle(room)
    work = room.importer()
    work.sleep = lambda _: Path(room.places.marker).unlink()
    before = state.boottime()
    assert total(work.run(fresh=True)).imported == 1
    assert state.boottime() - before < 2


def test_without_the_paces_lock_nothing_is_imported(room: Room) -> None:
    put(room.incoming, ident(), kept(ident()))
    throttle(room)
    with room.layout.lock("pace") as held:
        assert held
        assert list(room.importer().run(fresh=True, patience=lambda: 0.0)) == []
    assert room.waiting() == [ident()]


KEY = bytes(range(32))


def canary_file(
    name: str, kind: str = canary.SPAM, key: bytes = KEY, host: str = "mx1", nonce: str = "0" * 16
) -> bytes:
    tag = canary.make(key, host, kind, NOON - 5, nonce)
    return kept(name, send.message(tag, kind).replace(b"\r\n", b"\n"))


def test_a_canary_is_seen_removed_and_not_counted(room: Room) -> None:
    room.canaries = canaries.Canaries(KEY, room.layout.state)
    put(room.incoming, ident(), canary_file(ident()), canary.DOMAIN)
    assert room.run().canaries == 1
    assert room.stored() == []
    assert not room.index.message
    assert room.index.ledger[ident()] == (canary.DOMAIN, "canary")
    record = json.loads(Path(room.layout.state, "canary-mx1.json").read_text())
    assert (record["sent"], record["received"], record["id"]) == (NOON - 5, NOON, ident())


@pytest.mark.parametrize(
    ("domain", "data"),
    [
        ("customer.example", canary_file(ident())),
        (canary.DOMAIN, canary_file(ident(), kind=canary.HAM)),
        (canary.DOMAIN, canary_file(ident(), key=bytes(32))),
        (canary.DOMAIN, canary_file(ident(), host="mx2")),
    ],
    ids=["another domain", "ham", "forged", "another host"],
)
def test_mail_that_resembles_a_canary_is_ordinary_mail(room: Room, domain: str, data: bytes) -> None:
    room.canaries = canaries.Canaries(KEY, room.layout.state)
    put(room.incoming, ident(), data, domain)
    counts = room.run()
    assert (counts.imported, counts.canaries) == (1, 0)


def test_a_canary_counts_once_across_runs(room: Room) -> None:
    for number in range(2):
        room.canaries = canaries.Canaries(KEY, room.layout.state)
        put(room.incoming, ident(number), canary_file(ident(number)), canary.DOMAIN)
        counts = room.run()
        assert counts.canaries == (1 if number == 0 else 0)


def test_after_an_older_dump_a_canary_is_one_again_and_its_replay_is_not(room: Room) -> None:
    for _ in range(2):
        room.canaries = canaries.Canaries(KEY, room.layout.state)
        put(room.incoming, ident(), canary_file(ident()), canary.DOMAIN)
        assert room.run().canaries == 1
        state_of = Path(room.layout.state, "canary-mx1.json").read_text()
        room.index = Index()  # as before the canary
    assert not room.stored()
    put(room.incoming, ident(1), canary_file(ident(1)), canary.DOMAIN)
    assert room.run().canaries == 0
    assert Path(room.layout.state, "canary-mx1.json").read_text() == state_of
