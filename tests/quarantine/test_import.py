"""The quarantine's import and expiry: each message once, whatever it is made of and wherever the process dies."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import quarantine_support as support
from mf import canary, state
from mf_quarantine import canaries, envelope, expire, importer, layout, store
from quarantine_support import NOON, Died, Index, ident, kept, put


class Room:
    """A quarantine: its folders, an index, and imports for mx1."""

    def __init__(self, root: Path) -> None:
        self.layout = layout.Layout(str(root / "quarantine"))
        self.places = state.Places(str(root))
        for folder in (self.layout.mail, self.layout.bad, self.layout.state, self.layout.locks):
            Path(folder).mkdir(parents=True)
        (root / "run/mf").mkdir(parents=True)
        self.index: Any = Index()
        self.incoming = self.layout.incoming("mx1")
        self.settings = support.settings()
        self.slept: list[float] = []
        self.canaries: canaries.Canaries | None = None

    def work(self) -> importer.Importer:
        return importer.Importer(
            self.index,
            self.layout,
            self.settings,
            "mx1",
            host=self.places,
            canaries=self.canaries,
            clock=lambda: NOON + 60,
            sleep=self.slept.append,
        )

    def run(self, *, fresh: bool = True) -> importer.Counts:
        work = self.work()
        work.run(fresh=fresh)
        return work.counts

    def stored(self) -> list[str]:
        return sorted(path.name for path in Path(self.layout.mail).rglob("*") if path.is_file())

    def waiting(self) -> list[str]:
        return [name for _, _, name in layout.waiting(self.incoming)]


@pytest.fixture
def room(tmp_path: Path) -> Room:
    return Room(tmp_path)


# --- names


@pytest.mark.parametrize(
    "path",
    [
        "2026-11-25/../../etc/new/" + ident(),
        "2026-11-25/.../new/" + ident(),
        "2026-11-25/a..b/new/" + ident(),
        "2026-11-25/UPPER.example/new/" + ident(),
        "2026-11-25/customer.example/tmp/" + ident(),
        "2026-11-25/customer.example/new/../x",
        "2026-11-25/customer.example/new/" + ident().replace("20261125", "20261345"),
        "2026-11-25/customer.example/new/" + ident() + "\n",
        "2026-11-25/customer.example/new/20261125T120000.000000Z-" + "x" * 200,
        "customer.example/new/" + ident(),
    ],
)
def test_a_hostile_path_is_no_kept_file(path: str) -> None:
    assert layout.kept_file(path) is None


def test_a_kept_file_says_domain_and_id() -> None:
    name = ident()
    assert layout.kept_file(f"2026-11-25/customer.example/new/{name}") == ("customer.example", name)
    assert layout.kept_file(f"2026-11-25/_invalid/new/{name}") == ("_invalid", name)
    assert layout.received(name) == NOON
    assert layout.day(name) == "2026-11-25"


# --- one file


def read(folder: Path, data: bytes) -> envelope.Message:
    path = folder / ident()
    path.write_bytes(data)
    return envelope.read(str(path), "customer.example", ident())


def test_the_index_gets_envelope_and_subject(tmp_path: Path) -> None:
    body = b"Received: x\nSUBJECT: =?utf-8?q?caf=C3=A9?=\n and more\nTo: y\n\nSubject: not this\n"
    found = read(tmp_path, kept(ident(), body, recipients=["a@customer.example", "b@customer.example"]))
    assert (found.id, found.domain, found.mx) == (ident(), "customer.example", "mx1")
    assert found.subject == "café and more"
    assert found.recipients == "a@customer.example b@customer.example"
    assert (found.size, found.kept, found.truncated) == (len(body), len(body), False)


@pytest.mark.parametrize(
    ("body", "subject"),
    [
        (b"", ""),
        (b"\nSubject: in the body\n", ""),
        (b"no header at all", ""),
        (b"Subject:", ""),
        (b"X-Subject : no\nSubject \t: a\n \n b\n\n", "a b"),
        (b"Subject not\nSubject" + b" " * 60000 + b"x: no\n\n", ""),
        (b"Subject: a\0b\x1b[2J\n\n", "a\0b\x1b[2J"),
        (b"Subject: \xff\xfe\n\n", "\xff\xfe"),
        (b"Subject: =?no-such-charset?q?x?= y\n\n", "=?no-such-charset?q?x?= y"),
        (b"Subject: =?utf-8?b?!!!?=\n\n", None),
        (b"Subject: =?utf-7?q?+2AA-?=\n\n", None),
        (b"Subject: " + b"x" * 100000 + b"\n\n", "x" * 250),
        (b"Subject: a" + b"\n " * 50000 + b"\n\n", "a"),
    ],
)
def test_odd_messages_are_read(tmp_path: Path, body: bytes, subject: str | None) -> None:
    found = read(tmp_path, kept(ident(), body))
    found.subject.encode("utf-8")
    if subject is not None:
        assert found.subject == subject


def test_a_large_message_is_streamed(tmp_path: Path) -> None:
    body = b"Subject: large\n\n" + b"0123456789abcdef" * (1 << 18)
    found = read(tmp_path, kept(ident(), body))
    assert found.kept == len(body)
    assert len(found.head) == envelope.HEAD_MAX


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "empty"),
        (b"\0" * 5000, "no envelope"),
        (b"{\n", "no envelope"),
        (b"[]\n", "no envelope"),
        (b"[" * 100000 + b"\n", "no envelope"),
        (b'{"id": 1}\n', "no proper id"),
        (kept(ident(1)), "another message"),
        (kept(ident(), host="../x"), "no proper host"),
        (kept(ident(), size=True), "no proper size"),
        (kept(ident(), size=-1), "no proper size"),
        (kept(ident(), recipients=[1]), "no proper recipients"),
        (kept(ident())[:-3], "sha256"),
        (kept(ident())[:40], "no envelope"),
        (b"x" * (1 << 21), "no envelope"),
    ],
)
def test_what_is_not_whole_is_refused(tmp_path: Path, data: bytes, why: str) -> None:
    with pytest.raises(envelope.DamagedError, match=why):
        read(tmp_path, data)


def test_half_a_surrogate_pair_can_be_stored(tmp_path: Path) -> None:
    data = kept(ident(), sender="\ud800@world.example")
    assert read(tmp_path, data).sender == "?@world.example"


# --- import


def test_a_message_is_imported_once(room: Room) -> None:
    for number in range(3):
        put(room.incoming, ident(number), kept(ident(number)))
    assert room.run().imported == 3
    assert room.stored() == [ident(number) for number in range(3)]
    assert room.waiting() == []
    assert not list(Path(room.incoming).rglob("new"))
    # the MX still has it, and somebody fetched it again
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


def test_what_is_older_than_its_retention_is_noted_and_not_kept(room: Room) -> None:
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


def test_what_a_repair_has_indexed_meanwhile_stops_no_import(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(3):
        put(room.incoming, ident(number), kept(ident(number)))
    work = room.work()
    original = store.sync

    def sync(folder: str) -> None:
        original(folder)
        name = ident(1)
        room.index.index_again([envelope.read(room.layout.path("customer.example", name), "customer.example", name)])

    monkeypatch.setattr(store, "sync", sync)
    work.run(fresh=True)
    assert (work.counts.imported, work.counts.known) == (2, 1)
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
    folder = Path(room.incoming, layout.day(ident()), "customer.example", "new", ident())
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


def test_what_was_put_aside_goes_after_its_time_and_nothing_of_it_before(room: Room) -> None:
    old, young = ident(1, NOON - (expire.BAD_DAYS + 1) * 86400.0), ident(2)
    for name in (old, young):
        (Path(room.layout.bad, "mx1", name)).mkdir(parents=True)
        (Path(room.layout.bad, "mx1", name, "0")).write_bytes(b"x")
    put(room.incoming, ident(3), kept(ident(3))[:-1])
    room.run()
    outcome = expire.run(room.index, room.layout, room.settings, clock=lambda: NOON + 60)
    assert outcome.bad == 1
    assert sorted(os.listdir(f"{room.layout.bad}/mx1")) == [young, ident(3)]
    assert os.listdir(f"{room.layout.bad}/mx1/{young}") == ["0"]


def test_unfinished_files_of_rsync_are_passed_over_and_swept(room: Room) -> None:
    path = put(room.incoming, ident(), kept(ident()))
    path.rename(path.with_name(f".{ident()}.aB3dEf"))
    assert room.run().imported == 0
    store.sweep_temporary(room.incoming)
    assert not list(Path(room.incoming).rglob(".*"))


# --- the throttle


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
    work = room.work()
    sizes = []
    original = work.batch

    def batch(files: Any, *, fresh: bool) -> None:
        sizes.append(len(files))
        original(files, fresh=fresh)

    now = [0.0]
    monkeypatch.setattr(work, "batch", batch)
    monkeypatch.setattr(work, "_sleep", lambda seconds: now.__setitem__(0, now[0] + seconds))
    real = state.boottime
    monkeypatch.setattr(state, "boottime", lambda: real() + now[0])
    work.run(fresh=True)
    assert sizes == [1, 1, 1]
    # three pauses of three seconds
    assert 8.0 <= now[0] <= 9.0


def test_the_pause_ends_with_the_throttle(room: Room) -> None:
    put(room.incoming, ident(), kept(ident()))
    throttle(room)
    work = room.work()
    work._sleep = lambda _: Path(room.places.marker).unlink()
    before = state.boottime()
    work.run(fresh=True)
    assert state.boottime() - before < 2
    assert work.counts.imported == 1


def test_without_its_turn_nothing_is_imported(room: Room) -> None:
    put(room.incoming, ident(), kept(ident()))
    throttle(room)
    with room.layout.lock("pace") as held:
        assert held
        work = room.work()
        work.run(fresh=True, patience=lambda: 0.0)
    assert work.counts.imported == 0
    assert room.waiting() == [ident()]


# --- canaries

KEY = bytes(range(32))


def canary_file(
    name: str, kind: str = canary.SPAM, key: bytes = KEY, host: str = "mx1", nonce: str = "0" * 16
) -> bytes:
    tag = canary.make(key, host, kind, NOON - 5, nonce)
    raw = canary.message(tag, kind, "a@b.example", f"x@{canary.DOMAIN}", "now").replace(b"\r\n", b"\n")
    return kept(name, raw)


def test_a_canary_is_seen_removed_and_not_counted(room: Room) -> None:
    room.canaries = canaries.Canaries(KEY, room.layout.state)
    put(room.incoming, ident(), canary_file(ident()), canary.DOMAIN)
    assert room.run().canaries == 1
    assert room.stored() == []
    assert not room.index.message
    assert room.index.ledger[ident()] == (canary.DOMAIN, "canary")
    seen = json.loads(Path(room.layout.state, "canary-mx1.json").read_text())
    assert (seen["sent"], seen["received"], seen["id"]) == (NOON - 5, NOON, ident())


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
def test_what_only_looks_like_a_canary_is_ordinary_mail(room: Room, domain: str, data: bytes) -> None:
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


# --- the end


def fill(room: Room, days: int) -> None:
    for age in range(days):
        for domain in ("customer.example", "short.example"):
            name = ident(age if domain[0] == "c" else 100 + age, NOON - age * 86400.0)
            path = put(room.incoming, name, kept(name), domain)
            message = envelope.read(str(path), domain, name)
            store.keep(str(path), room.layout.path(domain, name))
            path.unlink()
            room.index.add([message])


def test_expire_keeps_each_domain_for_its_own_time(room: Room) -> None:
    fill(room, 40)
    outcome = expire.run(room.index, room.layout, room.settings, clock=lambda: NOON + 60)
    left = [domain for domain, _ in room.index.message]
    assert left.count("customer.example") == 30
    assert left.count("short.example") == 2
    assert outcome.messages == 48
    assert outcome.finished
    assert len(room.stored()) == 32
    # empty folders go, too
    assert len(list(Path(room.layout.mail).iterdir())) == 30


def test_nothing_expires_by_a_clock_that_is_days_ahead(room: Room) -> None:
    fill(room, 5)
    ahead = NOON + expire.AHEAD + 60
    with pytest.raises(expire.ClockError, match=r"3\.0 days beyond the newest message.*--trust-clock"):
        expire.run(room.index, room.layout, room.settings, clock=lambda: ahead)
    assert len(room.index.message) == 10
    outcome = expire.run(room.index, room.layout, room.settings, clock=lambda: ahead, trust_clock=True)
    assert outcome.messages == 5


def test_a_dry_run_of_expire_changes_nothing(room: Room) -> None:
    room.index.amount = lambda domain, before: (len(room.index.older(domain, before, 1000)), 0)
    fill(room, 5)
    assert expire.run(room.index, room.layout, room.settings, dry_run=True, clock=lambda: NOON + 60).messages == 3
    assert len(room.index.message) == 10


def test_a_death_between_files_and_rows_is_finished_by_the_next_run(room: Room) -> None:
    fill(room, 5)
    room.index.die = "before the commit"
    with pytest.raises(Died):
        expire.run(room.index, room.layout, room.settings, clock=lambda: NOON + 60)
    room.index.die = ""
    assert len(room.stored()) == 7
    assert expire.run(room.index, room.layout, room.settings, clock=lambda: NOON + 60).messages == 3
    assert len(room.index.message) == 7


def test_the_ledger_remembers_longer_than_anything_is_kept(room: Room) -> None:
    room.index.ledger = {
        ident(2, NOON - 60): ("short.example", "canary"),
        ident(0, NOON - 44 * 86400): ("short.example", "expired"),
        ident(1, NOON - 46 * 86400): ("short.example", "expired"),
    }
    outcome = expire.run(room.index, room.layout, room.settings, clock=lambda: NOON)
    assert outcome.forgotten == 1
    assert sorted(room.index.ledger) == [ident(0, NOON - 44 * 86400), ident(2, NOON - 60)]
