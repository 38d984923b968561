"""One message with a copy for each of several domains: its bytes are fetched and kept once, each copy is its own."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from mf_quarantine import envelope, expire, importer, layout, release, repair, store

from tests.quarantine.conftest import NOON, Died, Room, ident, kept, put, shared

DOMAINS = ["a.example", "short.example", "z.example"]
BODY = b"Subject: many\n\n" + b"x" * 100000
NAME = ident()


def copy(number: int, name: str = NAME) -> str:
    return layout.copy(layout.message(name), number)


@pytest.fixture
def room(room: Room) -> Room:
    """The MX has a message with a copy for each domain."""
    put(str(room.mx.root), NAME, shared(NAME, DOMAINS, BODY), layout.SHARED)
    return room


def stored(room: Room) -> dict[str, int]:
    """``domain/id`` -> inode."""
    files = [path for path in Path(room.layout.mail).rglob("*") if path.is_file()]
    return {f"{path.parent.name}/{path.name}": path.stat().st_ino for path in files}


def everywhere(name: str = NAME) -> set[str]:
    return {f"{domain}/{copy(number, name)}" for number, domain in enumerate(DOMAINS)}


def mend(room: Room, *, dry_run: bool = False) -> repair.Outcome:
    work = room.repair(dry_run=dry_run)
    assert work.fetch([("mx1", room.mx)]) == []
    return work.outcome


# --- import


def test_each_domain_has_its_copy_and_the_bytes_are_there_once(room: Room) -> None:
    source = room.pull()
    assert set(room.index.message) == {(domain, copy(number)) for number, domain in enumerate(DOMAINS)}
    assert {message.recipients for message in room.index.message.values()} == {f"user@{domain}" for domain in DOMAINS}
    assert set(stored(room)) == everywhere()
    assert len(set(stored(room).values())) == 1
    assert (source.imported, source.unpulled, source.oldest) == (3, 0, None)
    assert list(layout.waiting(room.layout.incoming("mx1"))) == []
    room.now += 60
    room.pull()
    assert (room.counts.imported, room.counts.known) == (0, 0)


@pytest.mark.parametrize("moment", ["before the commit", "after the commit"])
def test_a_death_loses_and_doubles_no_copy(room: Room, moment: str) -> None:
    room.index.die = moment
    with pytest.raises(Died):
        room.pull()
    room.index.die = ""
    room.pull()
    assert len(room.index.message) == len(DOMAINS)
    assert set(stored(room)) == everywhere()
    assert list(layout.waiting(room.layout.incoming("mx1"))) == []


def test_a_death_between_two_links_is_finished_by_the_next_run(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    original = store.keep

    def keep(source: str, target: str) -> None:
        if DOMAINS[1] in target:
            raise Died
        original(source, target)

    monkeypatch.setattr(store, "keep", keep)
    with pytest.raises(Died):
        room.pull()
    assert len(stored(room)) == 1
    monkeypatch.setattr(store, "keep", original)
    # a repair meanwhile leaves it to the import
    assert mend(room).indexed == 0
    room.pull()
    assert set(stored(room)) == everywhere()
    assert len(set(stored(room).values())) == 1


def test_retention_is_each_domains_own(room: Room) -> None:
    name = ident(7, NOON - 3 * 86400)
    put(room.layout.incoming("mx1"), name, shared(name, DOMAINS), layout.SHARED)
    room.pull()
    assert room.index.ledger[copy(1, name)] == ("short.example", "expired")
    assert [room.index.ledger[copy(number, name)][1] for number in (0, 2)] == ["kept", "kept"]
    assert f"short.example/{copy(1, name)}" not in stored(room)


def test_the_end_of_one_copy_harms_no_other(room: Room) -> None:
    room.pull()
    room.now += 2.5 * 86400
    expire.run(room.index, room.layout, room.settings, clock=lambda: room.now)
    assert sorted(domain for domain, _ in room.index.message) == ["a.example", "z.example"]
    for number in (0, 2):
        domain = DOMAINS[number]
        message = envelope.read(room.layout.path(domain, copy(number)), domain, copy(number))
        assert message.kept == len(BODY)
    # nor does it come back, while its MX has it
    room.pull()
    assert len(room.index.message) == 2


def test_very_many_copies_are_several_transactions(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importer, "BATCH", 4)
    names = [ident(number) for number in range(1, 5)]
    for name in names:
        put(str(room.mx.root), name, shared(name, DOMAINS), layout.SHARED)
    sizes = []
    original = room.index.add

    def add(kept: list[envelope.Message], others: list[tuple[str, str, str]]) -> None:
        sizes.append(len(kept))
        original(kept, others)

    monkeypatch.setattr(room.index, "add", add)
    source = room.pull()
    assert len(room.index.message) == 15
    assert max(sizes) <= 4 + len(DOMAINS)
    assert (source.imported, source.unpulled) == (15, 0)


def test_an_import_is_counted_in_files_and_in_messages(room: Room) -> None:
    names = [ident(number) for number in range(1, 4)]
    for name in names:
        put(room.layout.incoming("mx1"), name, shared(name, DOMAINS), layout.SHARED)
    counts = room.run()
    assert (counts.files, counts.imported) == (3, 9)


# --- hostile files


@pytest.mark.parametrize(
    "changes",
    [
        {"copies": []},
        {"copies": {}},
        {"copies": [1]},
        {"copies": [{"domain": "a.example"}]},
        {"copies": [{"domain": "../etc", "recipients": []}]},
        {"copies": [{"domain": layout.SHARED, "recipients": []}]},
        {"copies": [{"domain": "a.example", "recipients": []}] * 2},
        {"copies": [{"domain": "a.example", "recipients": [1]}]},
        {"copies": [{"domain": ["a.example"], "recipients": []}]},
        {"copies": None},
        {"copies": [{"domain": "a.example", "recipients": [], "reason": 550}]},
        {"copies": [{"domain": "a.example", "recipients": [], "reason": None}]},
        {"host": "../x"},
    ],
)
def test_a_malformed_shared_envelope_is_put_aside(room: Room, changes: dict[str, Any]) -> None:
    name = ident(1)
    put(room.layout.incoming("mx1"), name, shared(name, DOMAINS, **changes), layout.SHARED)
    room.pull()
    assert os.listdir(f"{room.layout.bad}/mx1") == [name]
    assert len(room.index.message) == len(DOMAINS)  # the good one


def test_no_file_can_pass_for_another_message(room: Room) -> None:
    name, other = ident(1), ident(2)
    put(
        room.layout.incoming("mx1"), name, shared(name, DOMAINS, id=other, message=layout.message(other)), layout.SHARED
    )
    put(str(room.mx.root), other, kept(other), layout.SHARED)  # a single one has no business there
    room.pull()
    assert {layout.message(message_id) for _, message_id in room.index.message} == {
        layout.message(NAME),
        layout.message(name),
    }
    assert room.index.ledger[other] == (layout.SHARED, "bad")
    assert layout.kept_file(f"2026-11-25/{layout.SHARED}/new/{copy(1)}") is None


def test_a_shared_file_is_read_as_its_own_domains(tmp_path: Path) -> None:
    path = tmp_path / copy(2)
    path.write_bytes(shared(NAME, DOMAINS))
    assert envelope.read(str(path), "z.example", copy(2)).recipients == "user@z.example"
    for domain, name in (("a.example", copy(2)), ("z.example", copy(3)), ("z.example", ident(9))):
        with pytest.raises(envelope.DamagedError):
            envelope.read(str(path), domain, name)


def test_a_domain_in_a_single_envelope_means_nothing(tmp_path: Path) -> None:
    path = tmp_path / NAME
    path.write_bytes(kept(NAME, domain=["x"]))
    assert envelope.read(str(path), "customer.example", NAME).domain == "customer.example"


# --- release and show


def test_a_released_copy_names_no_other_recipient(room: Room, tmp_path: Path) -> None:
    room.pull()
    got = tmp_path / "got"
    script = f"import sys; open({str(got)!r}, 'wb').write(sys.stdin.buffer.read()); print('accepted x')"
    path = room.layout.path("z.example", copy(2))
    assert release.over_ssh([sys.executable, "-c", script], "mx", copy(2), path).word == "accepted"
    line, _, body = got.read_bytes().partition(b"\n")
    record = json.loads(line)
    assert (record["id"], record["recipients"]) == (copy(2), ["user@z.example"])
    assert "copies" not in record
    assert b"a.example" not in line
    assert envelope.parse(line, copy(2)) == record
    assert body == BODY


def test_a_file_with_one_copy_is_released_unchanged(tmp_path: Path) -> None:
    got, path = tmp_path / "got", tmp_path / "kept"
    script = f"import sys; open({str(got)!r}, 'wb').write(sys.stdin.buffer.read()); print('accepted x')"
    for data in (kept(NAME, BODY), b"", b"no envelope\nx", shared(ident(3), [])):
        path.write_bytes(data)
        release.over_ssh([sys.executable, "-c", script], "mx", NAME, str(path))
        assert got.read_bytes() == data


def test_an_unreadable_file_is_not_sent(tmp_path: Path) -> None:
    answer = release.over_ssh([sys.executable, "-c", "print('accepted x')"], "mx", NAME, str(tmp_path / "gone"))
    assert answer.word == "unsent"


def test_one_copy_is_shown_without_the_others() -> None:
    line = shared(NAME, DOMAINS).partition(b"\n")[0]
    shown = envelope.parse(line, copy(1))
    assert (shown["id"], shown["recipients"], shown["helo"]) == (copy(1), ["user@short.example"], "world.example")
    assert "z.example" not in json.dumps(shown)


# --- repair


def test_repair_indexes_copies_whose_rows_are_gone(room: Room) -> None:
    room.pull()
    for number in (0, 2):
        del room.index.message[DOMAINS[number], copy(number)]
        del room.index.ledger[copy(number)]
    assert mend(room, dry_run=True).indexed == 2
    assert mend(room).indexed == 2
    assert len(room.index.message) == len(DOMAINS)
    assert len(set(stored(room).values())) == 1


@pytest.mark.parametrize("dry_run", [True, False])
def test_repair_gets_a_copys_file_from_the_mx(room: Room, dry_run: bool) -> None:
    room.pull()
    Path(room.layout.path("z.example", copy(2))).unlink()
    outcome = mend(room, dry_run=dry_run)
    assert (outcome.fetched, outcome.lost) == (1, 0)
    assert (set(stored(room)) == everywhere()) is not dry_run
    room.pull()
    assert list(layout.waiting(room.layout.incoming("mx1"))) == []
    assert len(room.index.message) == len(DOMAINS)


def test_repair_finds_copies_that_neither_dump_nor_files_of_a_restore_have(room: Room) -> None:
    # the backup read one domain's folder after the links were made, and the others' before
    room.pull()
    for number in (0, 1):
        Path(room.layout.path(DOMAINS[number], copy(number))).unlink()
    room.index.message.clear()
    room.index.ledger.clear()
    assert mend(room, dry_run=True).indexed == len(DOMAINS)
    assert mend(room).indexed == len(DOMAINS)
    assert set(stored(room)) == everywhere()
    room.pull()
    assert len(room.index.message) == len(DOMAINS)


def test_repair_restores_no_expired_copy(room: Room) -> None:
    room.pull()
    room.index.forget("short.example", [(copy(1), "mx1", 1)])
    Path(room.layout.path("short.example", copy(1))).unlink()
    del room.index.message["a.example", copy(0)]
    assert mend(room).indexed == 1
    assert sorted(domain for domain, _ in room.index.message) == ["a.example", "z.example"]
