"""The quarantine's pull: missing files, retries, records."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from mf import state
from mf_quarantine import importer, layout, pull, remote
from mf_quarantine.remote import EVERYTHING

from tests.quarantine import conftest as support
from tests.quarantine.conftest import NOON, Room, ident, kept, put


def test_messages_of_an_mx_are_fetched_once(room: Room) -> None:
    names = room.fill(5)
    source = room.pull()
    assert sorted(name for _, name in room.index.message) == names
    assert (source.imported, source.unpulled, source.oldest, source.error) == (5, 0, None, "")
    more = room.fill(2, 5)
    assert room.pull().imported == 7
    assert room.counts.imported == len(more)
    assert room.counts.known == 0  # not even fetched again


def test_later_listings_ask_for_the_last_hours_only_and_sweep_now_and_then(room: Room) -> None:
    room.pull()
    assert room.mx.asked == [EVERYTHING]
    room.now += 60
    room.pull()
    assert room.mx.asked[-1] != EVERYTHING
    assert "--include=/2026-11-25/*/new/20261125T10*" in room.mx.asked[-1]
    assert "--include=/2026-11-25/*/new/20261125T12*" in room.mx.asked[-1]
    assert room.mx.asked[-1][-1] == "--exclude=*"
    room.now += pull.SWEEP
    room.pull()
    assert room.mx.asked[-1] == EVERYTHING


def test_a_large_backlog_comes_in_portions_oldest_first(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pull, "FETCH", 2)
    names = room.fill(5)
    source = room.pull(limit=0.0)  # time is up at once: nothing is fetched in this run
    assert source.listed is None
    portions: list[int] = []
    original = room.mx.fetch

    def fetch(paths: Sequence[str], target: str) -> None:
        portions.append(len(paths))
        assert paths[0].endswith(names[sum(portions[:-1])])
        original(paths, target)

    monkeypatch.setattr(room.mx, "fetch", fetch)
    room.pull()
    assert portions == [2, 2, 1]
    assert len(room.index.message) == 5


def test_files_that_are_listed_and_cannot_be_fetched_end_the_run_with_an_error(room: Room) -> None:
    names = room.fill(2)
    room.mx.unreadable = {f"2026-11-25/customer.example/new/{names[0]}"}
    with pytest.raises(remote.PullError, match="1 messages are listed and can't be fetched"):
        room.pull()
    assert len(room.index.message) == 1
    assert room.source().unpulled == 1


def test_a_run_ends_while_the_mx_goes_on_rejecting(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    room.fill(3)
    original = room.mx.fetch

    def fetch(paths: Sequence[str], target: str) -> None:
        original(paths, target)
        room.fill(1, len(room.index.message) + len(paths) + 100)

    monkeypatch.setattr(room.mx, "fetch", fetch)
    monkeypatch.setattr(pull, "FETCH", 2)
    room.pull()
    assert len(room.index.message) == 3
    assert len(room.mx.asked) == 1
    room.pull()
    assert len(room.index.message) == 5


def test_a_file_purged_before_it_is_fetched_is_no_error(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    names = room.fill(2)
    original = room.mx.fetch

    def fetch(paths: Sequence[str], target: str) -> None:
        (room.mx.root / paths[0]).unlink()
        original(paths, target)

    monkeypatch.setattr(room.mx, "fetch", fetch)
    assert room.pull().unpulled == 0
    assert [name for _, name in room.index.message] == names[1:]


def test_files_fetched_and_not_imported_count_as_missing(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    names = room.fill(5)
    monkeypatch.setattr(pull, "FETCH", 3)
    monkeypatch.setattr(importer.Importer, "run", lambda *_, **__: iter([]))
    monkeypatch.setattr(pull.Puller, "_portion", lambda _, names: names[:3])
    original = room.mx.fetch

    def fetch(paths: Sequence[str], target: str) -> None:
        original(paths, target)
        monkeypatch.setattr(room.mx, "fetch", lambda *_: pytest.fail("time was up"))
        monkeypatch.setattr(state, "boottime", lambda: 1e12)

    monkeypatch.setattr(room.mx, "fetch", fetch)
    source = room.pull()
    assert source.unpulled == 5
    assert source.oldest == layout.received(names[0])


def test_a_sweep_of_the_future_does_not_switch_sweeping_off(room: Room) -> None:
    room.pull()
    room.now += 60
    source = room.source()
    source.swept = room.now + 30 * 86400
    source.save(room.layout.state, room.now)
    room.pull()
    assert room.mx.asked[-1] == EVERYTHING


def test_a_message_dated_far_ahead_stays_on_its_mx_until_its_time(room: Room) -> None:
    names = [ident(1), ident(2, NOON + 2 * 86400), ident(3, NOON + 9 * 86400)]
    for name in names:
        put(str(room.mx.root), name, kept(name))
    source = room.pull()
    assert sorted(name for _, name in room.index.message) == names[:1]
    assert (source.ahead, source.unpulled) == (2, 0)
    room.now += 2 * 86400
    assert room.pull().ahead == 1
    assert sorted(name for _, name in room.index.message) == names[:2]


def test_a_message_older_than_the_ledger_stays_on_its_mx(room: Room) -> None:
    # an MX keeps refused mail without a limit; once the ledger has forgotten its id, it would come again each month
    cutoff = layout.received(room.settings.ledger_cutoff(room.now) + "Z-mx1")
    older, newer = ident(1, cutoff - 1), ident(2, cutoff + 1)
    for name in (older, newer):
        put(str(room.mx.root), name, kept(name))
    source = room.pull()
    assert sorted(room.index.ledger) == [newer]
    assert (source.unpulled, source.oldest, source.error) == (0, None, "")


def test_a_full_disk_stops_the_pull_and_is_reported(room: Room) -> None:
    room.fill(2)
    room.settings = support.settings(free_percent=0)
    room.settings.free_percent = 101
    with pytest.raises(remote.PullError, match="nothing is fetched until there is more"):
        room.pull()
    assert room.source().unpulled == 2


def test_the_record_of_a_dead_mx_stays(room: Room) -> None:
    names = room.fill(3)
    room.mx.unreadable = {f"2026-11-25/customer.example/new/{name}" for name in names}
    with pytest.raises(remote.PullError):
        room.pull()
    room.mx.fail = remote.PullError("rsync ended with 255: Connection timed out")
    room.now += 4 * 86400
    with pytest.raises(remote.PullError, match="timed out"):
        room.pull()
    source = room.source()
    assert source.unpulled == 3
    assert source.oldest == layout.received(names[0])


def test_expired_files_fetched_from_a_dead_mx_are_not_missing_any_more(room: Room) -> None:
    name, old = ident(1), ident(2, NOON - 3 * 86400)
    put(room.layout.incoming("mx1"), name, kept(name))
    put(room.layout.incoming("mx1"), old, kept(old), "short.example")  # its retention is over
    before = room.source()
    before.unpulled, before.oldest = 5, NOON
    before.save(room.layout.state, room.now)
    room.mx.fail = remote.PullError("no route")
    with pytest.raises(remote.PullError):
        room.pull()
    after = room.source()
    assert (after.imported, after.unpulled) == (1, 3)


def test_names_that_are_not_ours_are_counted_and_left(room: Room) -> None:
    folder = room.mx.root / "2026-11-25/customer.example/new"
    folder.mkdir(parents=True)
    (folder / "x").write_text("x")
    (room.mx.root / "stray").write_text("x")
    assert room.pull().foreign == 2


def test_each_mx_has_a_process_and_none_waits_for_another() -> None:
    def work(name: str) -> int:
        if name == "broken":
            raise RuntimeError("whatever")
        return 3 if name == "bad" else 0

    assert pull.side_by_side(["good", "bad", "broken"], work) == {"good": 0, "bad": 3, "broken": 1}


def test_the_error_of_an_mx_stays_until_it_is_listed_again(room: Room) -> None:
    source = room.source()
    source.error = "rsync ended with 255: timed out"
    source.save(room.layout.state, room.now)
    assert room.source().error == source.error
    room.fill(1)
    room.mx.fail = remote.PullError("again")
    with pytest.raises(remote.PullError):
        room.pull()
    assert room.source().error == source.error
    room.mx.fail = None
    assert room.pull().error == ""
