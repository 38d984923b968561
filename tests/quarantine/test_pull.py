"""The quarantine's fetching, release, repair and check: what is missing, tried again, remembered, said."""

from __future__ import annotations

import argparse
import datetime as dt
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
import types
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import quarantine_support as support
from mf import config, decisions, ssh, state
from mf_quarantine import (
    QuarantineError,
    check,
    cli,
    context,
    database,
    envelope,
    importer,
    layout,
    pull,
    query,
    release,
    repair,
    schema,
    settings,
    store,
)
from mf_quarantine.commands import pull as pull_command
from mf_quarantine.commands import release as release_command
from quarantine_support import NOON, Index, ident, kept, put

ROLE = Path(__file__).resolve().parents[2] / "roles/mf_quarantine"


class Mx:
    """An MX's folder; what rsync does with it, without rsync."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.asked: list[Sequence[str]] = []
        self.unreadable: set[str] = set()
        self.fail: Exception | None = None

    def listing(self, filters: Sequence[str]) -> Iterator[tuple[str, int] | None]:
        self.asked.append(filters)
        if self.fail:
            raise self.fail
        for path in sorted(self.root.rglob("*")):
            if path.is_file():
                yield str(path.relative_to(self.root)), path.stat().st_size

    def fetch(self, paths: Sequence[str], target: str) -> None:
        for path in paths:
            if path not in self.unreadable and (self.root / path).exists():
                put(target, path.rpartition("/")[2], (self.root / path).read_bytes(), path.split("/")[1])


class Room:
    """A control machine and an MX."""

    def __init__(self, root: Path) -> None:
        self.layout = layout.Layout(str(root / "quarantine"))
        self.places = state.Places(str(root))
        for folder in (self.layout.mail, self.layout.bad, self.layout.state, self.layout.locks, str(root / "mx")):
            Path(folder).mkdir(parents=True)
        self.mx = Mx(root / "mx")
        self.index: Any = Index()
        self.settings = support.settings()
        self.now = NOON + 60
        self.counts = importer.Counts()

    def pull(self, limit: float = 900.0) -> pull.Source:
        source = pull.Source(self.layout, "mx1", self.now)
        work = importer.Importer(
            self.index, self.layout, self.settings, "mx1", host=self.places, clock=lambda: self.now
        )
        remote: Any = self.mx
        try:
            pull.Puller(
                remote,
                self.index,
                self.layout,
                self.settings,
                work,
                source,
                host=self.places,
                clock=lambda: self.now,
                limit=limit,
            ).run()
        finally:
            self.counts = work.counts
        return pull.Source(self.layout, "mx1", self.now)


@pytest.fixture
def room(tmp_path: Path) -> Room:
    return Room(tmp_path)


def fill(room: Room, count: int, start: int = 0) -> list[str]:
    names = [ident(number, NOON + number / 1000) for number in range(start, start + count)]
    for name in names:
        put(str(room.mx.root), name, kept(name))
    return names


# --- pull


def test_what_an_mx_has_is_fetched_once(room: Room) -> None:
    names = fill(room, 5)
    source = room.pull()
    assert sorted(name for _, name in room.index.message) == names
    assert (source.imported, source.unpulled, source.oldest, source.error) == (5, 0, None, "")
    more = fill(room, 2, 5)
    assert room.pull().imported == 7
    assert room.counts.imported == len(more)
    assert room.counts.known == 0  # not even fetched again


def test_later_listings_ask_for_the_last_hours_only_and_sweep_now_and_then(room: Room) -> None:
    room.pull()
    assert room.mx.asked == [pull.EVERYTHING]
    room.now += 60
    room.pull()
    assert room.mx.asked[-1] != pull.EVERYTHING
    assert "--include=/2026-11-25/*/new/20261125T10*" in room.mx.asked[-1]
    assert "--include=/2026-11-25/*/new/20261125T12*" in room.mx.asked[-1]
    assert room.mx.asked[-1][-1] == "--exclude=*"
    room.now += pull.SWEEP
    room.pull()
    assert room.mx.asked[-1] == pull.EVERYTHING


def test_hours_around_midnight_are_asked_for_in_both_days() -> None:
    rules = pull.recent(NOON + 12 * 3600 - 60, NOON + 12 * 3600)
    assert "--include=/2026-11-25/*/new/20261125T23*" in rules
    assert "--include=/2026-11-26/*/new/20261126T00*" in rules


def test_a_large_backlog_comes_in_portions_oldest_first(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pull, "FETCH", 2)
    names = fill(room, 5)
    source = room.pull(limit=0.0)  # time is up at once: nothing is fetched in this run
    assert source.listed is None
    seen: list[int] = []
    original = room.mx.fetch

    def fetch(paths: Sequence[str], target: str) -> None:
        seen.append(len(paths))
        assert paths[0].endswith(names[sum(seen[:-1])])
        original(paths, target)

    monkeypatch.setattr(room.mx, "fetch", fetch)
    room.pull()
    assert seen == [2, 2, 1]
    assert len(room.index.message) == 5


def test_what_can_be_listed_and_not_fetched_ends_the_run_with_a_word(room: Room) -> None:
    names = fill(room, 2)
    room.mx.unreadable = {f"2026-11-25/customer.example/new/{names[0]}"}
    with pytest.raises(pull.PullError, match="1 messages are listed and can't be fetched"):
        room.pull()
    assert len(room.index.message) == 1
    assert pull.Source(room.layout, "mx1", room.now).unpulled == 1


def test_a_run_ends_while_the_mx_goes_on_rejecting(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(room, 3)
    original = room.mx.fetch

    def fetch(paths: Sequence[str], target: str) -> None:
        original(paths, target)
        fill(room, 1, len(room.index.message) + len(paths) + 100)

    monkeypatch.setattr(room.mx, "fetch", fetch)
    monkeypatch.setattr(pull, "FETCH", 2)
    room.pull()
    assert len(room.index.message) == 3
    assert len(room.mx.asked) == 1
    room.pull()
    assert len(room.index.message) == 5


def test_what_was_purged_before_it_was_fetched_is_no_error(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    names = fill(room, 2)
    original = room.mx.fetch

    def fetch(paths: Sequence[str], target: str) -> None:
        (room.mx.root / paths[0]).unlink()
        original(paths, target)

    monkeypatch.setattr(room.mx, "fetch", fetch)
    assert room.pull().unpulled == 0
    assert [name for _, name in room.index.message] == names[1:]


def test_what_is_fetched_and_not_imported_counts_as_behind(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    names = fill(room, 5)
    monkeypatch.setattr(pull, "FETCH", 3)
    monkeypatch.setattr(importer.Importer, "run", lambda *_, **__: None)
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
    source = pull.Source(room.layout, "mx1", room.now)
    source.swept = room.now + 30 * 86400
    source.save(room.now)
    room.pull()
    assert room.mx.asked[-1] == pull.EVERYTHING


def test_what_is_dated_far_ahead_stays_on_its_mx_until_its_time(room: Room) -> None:
    names = [ident(1), ident(2, NOON + 2 * 86400), ident(3, NOON + 9 * 86400)]
    for name in names:
        put(str(room.mx.root), name, kept(name))
    source = room.pull()
    assert sorted(name for _, name in room.index.message) == names[:1]
    assert (source.ahead, source.unpulled) == (2, 0)
    result = judged(check.Source("mx1", source.as_json()), expected=["mx1"])
    assert result.status == "WARNING"
    assert "mx1: 2 messages there are dated more than a day ahead" in result.summary
    room.now += 2 * 86400
    assert room.pull().ahead == 1
    assert sorted(name for _, name in room.index.message) == names[:2]


def test_a_full_disk_stops_the_fetching_and_says_so(room: Room) -> None:
    fill(room, 2)
    room.settings = support.settings(free_percent=0)
    room.settings.free_percent = 101
    with pytest.raises(pull.PullError, match="nothing is fetched until there is more"):
        room.pull()
    assert pull.Source(room.layout, "mx1", room.now).unpulled == 2


def test_what_is_known_of_a_dead_mx_stays(room: Room) -> None:
    names = fill(room, 3)
    room.mx.unreadable = {f"2026-11-25/customer.example/new/{name}" for name in names}
    with pytest.raises(pull.PullError):
        room.pull()
    room.mx.fail = pull.PullError("rsync ended with 255: Connection timed out")
    room.now += 4 * 86400
    with pytest.raises(pull.PullError, match="timed out"):
        room.pull()
    source = pull.Source(room.layout, "mx1", room.now)
    assert source.unpulled == 3
    assert source.oldest == layout.received(names[0])


def test_what_was_fetched_of_a_dead_mx_and_is_not_kept_is_not_missing_any_more(room: Room) -> None:
    name, old = ident(1), ident(2, NOON - 3 * 86400)
    put(room.layout.incoming("mx1"), name, kept(name))
    put(room.layout.incoming("mx1"), old, kept(old), "short.example")  # its retention is over
    before = pull.Source(room.layout, "mx1", room.now)
    before.unpulled, before.oldest = 5, NOON
    before.save(room.now)
    room.mx.fail = pull.PullError("no route")
    with pytest.raises(pull.PullError):
        room.pull()
    after = pull.Source(room.layout, "mx1", room.now)
    assert (after.imported, after.unpulled) == (1, 3)


def test_names_that_are_not_ours_are_counted_and_left(room: Room) -> None:
    folder = room.mx.root / "2026-11-25/customer.example/new"
    folder.mkdir(parents=True)
    (folder / "x").write_text("x")
    (room.mx.root / "stray").write_text("x")
    assert room.pull().foreign == 2


@pytest.mark.parametrize(
    ("line", "found"),
    [
        (
            b"-rw-r-----            812 2026/11/25 12:00:00 2026-11-25/a.example/new/x",
            ("2026-11-25/a.example/new/x", 812),
        ),
        (b"-rw-r-----      1,234,567 2026/11/25 12:00:00 a b", ("a b", 1234567)),
        (b"drwxr-x---          4,096 2026/11/25 12:00:00 2026-11-25", None),
        (b"lrwxrwxrwx              9 2026/11/25 12:00:00 x -> /etc/passwd", None),
        (b"Welcome to this host", None),
    ],
)
def test_lines_of_rsync(line: bytes, found: tuple[str, int] | None) -> None:
    match = pull.LISTED.fullmatch(line)
    assert (None if match is None else (match[2].decode(), int(match[1].replace(b",", b"")))) == found


def fake_rsync(folder: Path, script: str) -> str:
    """A program that stands where rsync would, for what rsync itself can't be made to do on demand."""
    path = folder / "rsync"
    path.write_text(f"#!{sys.executable}\nimport sys, os\n{script}\n")
    path.chmod(0o755)
    return str(path)


def test_an_incomplete_listing_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    line = f"-rw-r----- 812 2026/11/25 12:00:00 2026-11-25/a.example/new/{ident()}"
    monkeypatch.setattr(
        pull,
        "RSYNC",
        fake_rsync(tmp_path, f"print({line!r}); sys.stderr.write('Connection \\x1b[2Jreset\\n'); sys.exit(12)"),
    )
    found = pull.Remote("192.0.2.1", ["ssh"]).listing(pull.EVERYTHING)
    assert next(found) == (f"2026-11-25/a.example/new/{ident()}", 812)
    with pytest.raises(pull.PullError, match=r"rsync ended with 12: Connection \\x1b\[2Jreset"):
        list(found)


@pytest.fixture
def bounded() -> Iterator[None]:
    """What would hang fails instead, after 20 seconds."""

    def late(*_: object) -> None:
        raise TimeoutError("it hangs")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(20)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.usefixtures("bounded")
def test_an_rsync_with_very_much_to_say_is_heard_to_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    line = f"-rw-r----- 812 2026/11/25 12:00:00 2026-11-25/a.example/new/{ident()}"
    says = "sys.stderr.write('rsync: opendir failed\\n' * 10000); sys.stderr.flush()"
    monkeypatch.setattr(pull, "RSYNC", fake_rsync(tmp_path, f"{says}; print({line!r}); sys.exit(23)"))
    found = pull.Remote("192.0.2.1", ["ssh"]).listing(pull.EVERYTHING)
    assert next(found) == (f"2026-11-25/a.example/new/{ident()}", 812)
    with pytest.raises(pull.PullError, match=r"rsync ended with 23: rsync: opendir failed$"):
        list(found)


@pytest.mark.usefixtures("bounded")
@pytest.mark.parametrize(
    "script",
    [
        "while True: print('drwxr-x--- 4,096 2026/11/25 12:00:00 2026-11-25')",
        "while True: sys.stderr.write('no\\n')",
        "import time; os.close(1); os.close(2); time.sleep(60)",
    ],
    ids=["endless", "loud", "silent"],
)
def test_an_rsync_without_an_end_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    monkeypatch.setattr(pull, "RSYNC", fake_rsync(tmp_path, script))
    monkeypatch.setattr(pull, "LONGEST", 0.5)
    remote = pull.Remote("192.0.2.1", ["ssh"])
    with pytest.raises(pull.PullError, match="rsync took longer"):
        list(remote.listing(pull.EVERYTHING))
    with pytest.raises(pull.PullError, match="rsync took longer"):
        remote.fetch(["2026-11-25/a.example/new/x"], str(tmp_path / "there"))


def test_ssh_trusts_only_what_it_is_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        pull, "RSYNC", fake_rsync(tmp_path, f"open({str(tmp_path / 'argv')!r}, 'w').write('\\0'.join(sys.argv))")
    )
    list(pull.Remote("2001:db8::1", ssh.command("/k", "/h")).listing(pull.EVERYTHING))
    argv = (tmp_path / "argv").read_text().split("\0")
    assert argv[-1] == "mf-pull@[2001:db8::1]:/"
    words = shlex.split(argv[argv.index("-e") + 1])
    for option in ("StrictHostKeyChecking=yes", "UserKnownHostsFile=/h", "BatchMode=yes", "IdentitiesOnly=yes"):
        assert option in words


def test_each_mx_has_a_process_and_none_waits_for_another() -> None:
    def work(name: str) -> int:
        if name == "broken":
            raise RuntimeError("whatever")
        return 3 if name == "bad" else 0

    assert pull.side_by_side(["good", "bad", "broken"], work) == {"good": 0, "bad": 3, "broken": 1}


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command without a database and without another user."""
    monkeypatch.setattr(context, "drop_root", lambda: None)
    monkeypatch.setattr(settings, "load", lambda _: support.settings())
    monkeypatch.setattr(database, "Database", lambda: types.SimpleNamespace(made_by=os.getpid()))
    monkeypatch.setattr(pull_command, "load_canaries", lambda _: None)
    monkeypatch.setattr(decisions, "journal", lambda *_: None)
    places = layout.Layout(str(tmp_path / "quarantine"))
    monkeypatch.setattr(layout, "Layout", lambda *_: places)


@pytest.mark.usefixtures("command")
def test_each_process_has_a_connection_of_its_own(tmp_path: Path) -> None:
    own: Any = context.Context(state.Places(str(tmp_path)), "ann")
    assert own.index.made_by == os.getpid()
    assert own.index is own.index
    codes = pull.side_by_side(["mx1", "mx2"], lambda _: 0 if own.index.made_by == os.getpid() else 1)
    assert codes == {"mx1": 0, "mx2": 0}


@pytest.mark.usefixtures("command")
def test_a_state_that_cannot_be_written_is_said_by_pull_and_by_the_check(
    room: Room, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As on a full disk: both writes fail, and nobody is asked."""
    Path(room.layout.state).rmdir()
    monkeypatch.setattr(importer, "Importer", lambda *_, **__: pytest.fail("it went on"))
    assert pull_command.pull_mx(context.Context(room.places, "ann"), "mx1", sweep=False) == 1
    said = capsys.readouterr().err
    assert said.startswith("quarantine: mx1: ")
    assert said.count("\n") == 1


@pytest.mark.parametrize(
    ("free", "words"), [(4.9, "4.9% of space or inodes is left there"), (0.0, "0.0%"), (-1.0, "read-only")]
)
def test_a_full_disk_is_told_by_the_check_at_once(free: float, words: str) -> None:
    found = {one: source(one) for one in ("mx1", "mx2")}
    result = check.decide(found, ["mx1", "mx2"], NOON, VALUES, free=free)
    assert result.status == "WARNING"
    assert words in result.summary
    assert check.decide(found, ["mx1", "mx2"], NOON, VALUES, free=5.0).status == "OK"


def test_the_check_sees_the_room_itself(room: Room) -> None:
    values = VALUES | {"folder": room.layout.state, "mx": "", "free_percent": 0}
    figures = os.statvfs(room.layout.state)
    assert check.room(room.layout.state) == pytest.approx(100 * figures.f_bavail / figures.f_blocks, abs=1)
    assert check.look(room.places, values).status == "OK"
    assert "is left there" in check.look(room.places, values | {"free_percent": 101}).summary


def test_what_was_wrong_with_an_mx_stands_until_it_is_listed_again(room: Room) -> None:
    source = pull.Source(room.layout, "mx1", room.now)
    source.error = "rsync ended with 255: timed out"
    source.save(room.now)
    assert pull.Source(room.layout, "mx1", room.now).error == source.error
    fill(room, 1)
    room.mx.fail = pull.PullError("again")
    with pytest.raises(pull.PullError):
        room.pull()
    assert pull.Source(room.layout, "mx1", room.now).error == source.error
    room.mx.fail = None
    assert room.pull().error == ""


# --- repair


def restored(room: Room) -> Any:
    """A repair of a quarantine with 4 messages of which the index forgot the newest and the store the oldest."""
    names = fill(room, 4)
    room.pull()
    del room.index.message["customer.example", names[3]]
    del room.index.ledger[names[3]]
    Path(room.layout.path("customer.example", names[0])).unlink()
    return names


def test_repair_mends_both_sides(room: Room) -> None:
    names = restored(room)
    work = repair.Repair(room.index, room.layout, room.settings, clock=lambda: room.now)
    work.compare()
    remote: Any = room.mx
    assert work.fetch([("mx1", remote)]) == []
    assert (work.outcome.indexed, work.outcome.fetched, work.outcome.lost) == (1, 1, 0)
    assert sorted(name for _, name in room.index.message) == names
    assert Path(room.layout.path("customer.example", names[0])).read_bytes() == kept(names[0])
    # what was fetched for it is still in incoming and known: the next pull only clears it away
    room.pull()
    assert room.counts.known == 1


def test_repair_leaves_what_an_import_has_in_hand(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
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
    work = repair.Repair(room.index, room.layout, room.settings, clock=lambda: room.now)
    work.compare()
    assert work.outcome.indexed == 1
    assert sorted(name for _, name in room.index.message) == names[1:]


def test_repair_goes_on_without_an_mx_that_is_busy(room: Room) -> None:
    names = restored(room)
    remote: Any = room.mx
    work = repair.Repair(room.index, room.layout, room.settings, clock=lambda: room.now)
    work.compare()
    assert work.fetch([("mx0", None), ("mx1", remote)]) == [
        "mx0: is being pulled for longer than a minute; run this again"
    ]
    assert work.outcome.fetched == 1
    assert sorted(name for _, name in room.index.message) == names


def test_repair_tells_what_was_lost_before_from_what_is_new(room: Room) -> None:
    names = restored(room)
    remote: Any = room.mx
    for name in names[:2]:
        (room.mx.root / f"2026-11-25/customer.example/new/{name}").unlink()
    for count in ((1, 0), (1, 1), (0, 2)):
        work = repair.Repair(room.index, room.layout, room.settings, clock=lambda: room.now)
        work.compare()
        work.fetch([("mx1", remote)])
        assert (work.outcome.lost, work.outcome.lost_before) == count
        Path(room.layout.path("customer.example", names[1])).unlink(missing_ok=True)


def test_repair_calls_lost_only_what_every_mx_was_asked_for(room: Room) -> None:
    names = restored(room)
    (room.mx.root / f"2026-11-25/customer.example/new/{names[0]}").unlink()
    remote: Any = room.mx
    room.mx.fail = pull.PullError("no route")
    work = repair.Repair(room.index, room.layout, room.settings, clock=lambda: room.now)
    work.compare()
    assert work.fetch([("mx1", remote)]) == ["mx1: no route"]
    assert not room.index.lost
    room.mx.fail = None
    work = repair.Repair(room.index, room.layout, room.settings, clock=lambda: room.now)
    work.compare()
    assert work.fetch([("mx1", remote)]) == []
    assert room.index.lost == {names[0]}


def test_repair_does_not_bring_back_what_has_expired(room: Room) -> None:
    names = fill(room, 1)
    room.pull()
    room.index.forget("customer.example", [(names[0], "mx1", 1)])
    work = repair.Repair(room.index, room.layout, room.settings, clock=lambda: room.now)
    work.compare()
    assert (work.outcome.indexed, work.outcome.removed) == (0, 1)
    assert not list(Path(room.layout.mail).rglob(names[0]))


def test_a_dry_run_of_repair_changes_nothing(room: Room) -> None:
    names = restored(room)
    work = repair.Repair(room.index, room.layout, room.settings, dry_run=True, clock=lambda: room.now)
    work.compare()
    remote: Any = room.mx
    work.fetch([("mx1", remote)])
    assert (work.outcome.indexed, work.outcome.fetched) == (1, 1)
    assert len(room.index.message) == 3
    assert not Path(room.layout.path("customer.example", names[0])).exists()


# --- release


ROW = {"state": "kept", "lost": 0, "truncated": 0, "mx": "mx2", "size": 9, "kept": 9}
MXS = {"mx1": "192.0.2.1", "mx2": "192.0.2.2"}


def handover(state_: str, mx: str = "mx2") -> dict[str, Any]:
    return {"state": state_, "mx": mx, "who": "eve\x1b[2J", "began": dt.datetime(2026, 11, 25, 12), "answer": ""}  # noqa: DTZ001


def test_the_mx_that_rejected_it_comes_first() -> None:
    assert release.choose(ROW, None, MXS, None, False, lambda _: True) == "mx2"
    assert release.choose(ROW, None, MXS, None, False, lambda address: address == "192.0.2.1") == "mx1"
    assert release.choose(ROW, handover("refused", "mx1"), MXS, "mx1", False) == "mx1"


def test_what_an_mx_had_accepted_is_released_by_that_one() -> None:
    """It can be sent again there, too: from another one it could go twice."""
    row = ROW | {"plugin": "customer"}
    assert release.choose(row, None, MXS, None, False, lambda _: True) == "mx2"
    assert release.choose(row, None, MXS, "mx2", False, lambda _: True) == "mx2"
    with pytest.raises(release.ReleaseError, match=r"mx2 accepted it .* doesn't take it now: .*/refused forget there"):
        release.choose(row, None, MXS, None, False, lambda address: address == "192.0.2.1")
    with pytest.raises(release.ReleaseError, match=r"mx2 accepted it .* doesn't take it now"):
        release.choose(row, None, MXS, None, False, lambda _: True, ["mx2"])
    with pytest.raises(release.ReleaseError, match=r"mx2 accepted it .* isn't the one asked"):
        release.choose(row, None, MXS, "mx1", False, lambda _: True)
    assert release.choose(row, None, MXS, "mx1", True, lambda _: True) == "mx1"
    # gone for good: no one else can send it
    assert release.choose(row, None, {"mx1": "192.0.2.1"}, None, False, lambda _: True) == "mx1"


@pytest.mark.parametrize(
    ("row", "before", "wanted", "why"),
    [
        (ROW, handover("accepted"), None, r"released before: by eve\\x1b\[2J at 2026-11-25 12:00:00 UTC to mx2"),
        (ROW | {"state": "expired"}, None, None, "nothing is left"),
        (ROW | {"lost": 1}, None, None, "file is gone"),
        (ROW | {"truncated": 1}, None, None, "half a message"),
        (ROW, None, "mx9", "no MX is called mx9"),
        (ROW, handover("begun"), "mx1", "mx2 may have it already"),
        (ROW, handover("begun", "mx9"), None, "no longer there"),
        (ROW, None, None, "no MX answers"),
    ],
)
def test_what_is_not_released(row: Any, before: Any, wanted: str | None, why: str) -> None:
    with pytest.raises(release.ReleaseError, match=why):
        release.choose(row, before, MXS, wanted, False, lambda _: False)


def test_an_unanswered_handover_goes_to_the_same_mx_even_if_it_seems_dead() -> None:
    assert release.choose(ROW, handover("begun", "mx1"), MXS, None, False, lambda _: False) == "mx1"


@pytest.mark.parametrize("before", [None, "refused", "later", "begun"])
@pytest.mark.parametrize("force", [False, True])
def test_accepted_is_final(before: str | None, force: bool) -> None:
    with pytest.raises(release.ReleaseError, match="isn't released twice"):
        release.choose(ROW, handover("accepted"), MXS, None, force, lambda _: True)
    # by force, not the one that may have it: that one never delivers twice
    expected = "mx1" if force and before == "begun" else "mx2"
    assert release.choose(ROW, handover(before) if before else None, MXS, None, force, lambda _: True) == expected


def test_force_asks_the_same_mx_when_there_is_no_other() -> None:
    only = {"mx2": MXS["mx2"]}
    assert release.choose(ROW, handover("begun"), only, None, True, lambda _: True) == "mx2"
    assert release.choose(ROW, handover("begun"), MXS, None, True, lambda address: address == "192.0.2.2") == "mx2"


@pytest.mark.parametrize(
    ("said", "code", "word"),
    [
        ("accepted 250 OK id=1", 0, "accepted"),
        ("known", 0, "known"),
        ("refused 550 no", 1, "refused"),
        ("later 451 wait", 75, "later"),
        ("unclear whether", 70, "lost"),
        ("accepted x", 1, "lost"),
        ("later", 0, "lost"),
        ("", 255, "lost"),
        ("Accepted x", 0, "lost"),
    ],
)
def test_what_an_mx_answers(tmp_path: Path, said: str, code: int, word: str) -> None:
    path = tmp_path / "kept"
    path.write_bytes(kept(ident()))
    script = f"import sys; sys.stdin.buffer.read(); print({said!r}); sys.exit({code})"
    assert release.over_ssh([sys.executable, "-c", script], "mx", ident(), str(path)).word == word


@pytest.mark.parametrize(
    ("said", "out", "code", "word"),
    [
        ("ssh: connect to host 192.0.2.1 port 22: Connection refused", "", 255, "unsent"),
        ("@@@@@\n@ WARNING @\nHost key verification failed.", "", 255, "unsent"),
        ("mf-release@192.0.2.1: Permission denied (publickey).", "", 255, "unsent"),
        ("kex_exchange_identification: Connection closed by remote host", "", 255, "unsent"),
        ("Connection to 192.0.2.1 closed by remote host.", "", 255, "lost"),
        ("PermissionError: [Errno 13] Permission denied: 'x'", "", 255, "lost"),
        ("Host key verification failed.", "", 1, "lost"),
        ("Host key verification failed.", "x", 255, "lost"),
    ],
)
def test_what_ended_before_a_session_was_not_sent(tmp_path: Path, said: str, out: str, code: int, word: str) -> None:
    path = tmp_path / "kept"
    path.write_bytes(kept(ident()))
    script = f"import sys; sys.stderr.write({said!r}); sys.stdout.write({out!r}); sys.exit({code})"
    assert release.over_ssh([sys.executable, "-c", script], "mx", ident(), str(path)).word == word


class Handovers:
    """The table ``handover``, as far as ``hand_over`` uses it."""

    def __init__(self) -> None:
        self.states: list[str] = []

    def retried(self, work: Any) -> Any:
        return work()

    def run(self, sql: str, values: Sequence[Any]) -> int:
        self.states.append("begun" if sql.startswith("INSERT") else values[0])
        return 1


@pytest.mark.parametrize(
    ("before", "word", "left"),
    [
        (None, "accepted", "accepted"),
        (None, "known", "accepted"),
        (None, "lost", "begun"),
        (None, "later", "later"),
        (None, "unsent", "later"),
        ("later", "unsent", "later"),
        # an earlier time may have been taken
        ("begun", "unsent", "begun"),
        ("begun", "later", "later"),
    ],
)
def test_begun_is_written_before_anything_is_sent(before: str | None, word: str, left: str) -> None:
    table: Any = Handovers()

    def send() -> release.Answer:
        assert table.states == ["begun"]
        return release.Answer(word, "words")

    try:
        release.hand_over(table, ident(), "mx1", "ann", send, before=handover(before) if before else None)
        assert left == "accepted"
    except release.ReleaseError:
        assert left != "accepted"
    assert table.states == ["begun", left]


class Released:
    """A quarantine's database with one message, and MXs that answer in turn."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, *words: str) -> None:
        self.asked: list[str] = []
        self.states: list[str] = []
        self.words = list(words)
        self.name = ident()
        self.context = context.Context(state.Places(str(folder)), "ann")
        self.context.settings.mx = {"mx1": "192.0.2.1", "mx2": "192.0.2.2", "mx3": "192.0.2.3"}
        index: Any = types.SimpleNamespace(find=lambda _: ROW | {"domain": "a.example"}, retried=lambda work: work())
        index.run = self.run
        monkeypatch.setattr(database, "Database", lambda: index)
        monkeypatch.setattr(release, "find", lambda *_: handover(self.states[-1]) if self.states else None)
        monkeypatch.setattr(release, "over_ssh", self.send)
        # bound when the function was made
        monkeypatch.setattr(release.choose, "__defaults__", (lambda _: True, ()))
        path = Path(self.context.layout.path("a.example", self.name))
        path.parent.mkdir(parents=True)
        path.write_bytes(kept(self.name))

    def run(self, sql: str, values: Sequence[Any]) -> int:
        self.states.append("begun" if sql.startswith("INSERT") else values[0])
        return 1

    def send(self, _command: object, address: str, *_: object) -> release.Answer:
        self.asked.append(address)
        return release.Answer(self.words.pop(0), "words")

    def release(self, mx: str | None = None) -> str:
        chosen = argparse.Namespace(mx=mx, force=False, dry_run=False, by="ann")
        name, answer = release_command.release_message(self.context, self.name, chosen)
        assert answer is not None
        return f"{name} {answer.word}"


@pytest.mark.usefixtures("command")
def test_a_release_goes_on_to_the_next_mx(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    room = Released(tmp_path, monkeypatch, "later", "unsent", "accepted")
    assert room.release() == "mx3 accepted"
    assert room.asked == ["192.0.2.2", "192.0.2.1", "192.0.2.3"]


@pytest.mark.usefixtures("command")
def test_a_release_that_nobody_takes_says_who_was_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    room = Released(tmp_path, monkeypatch, "later", "later", "unsent")
    with pytest.raises(release.ReleaseError, match=r"mx2 can't take it now.*mx1 can't take it now.*mx3 can't"):
        room.release()


@pytest.mark.usefixtures("command")
@pytest.mark.parametrize(("word", "mx"), [("lost", None), ("refused", None), ("later", "mx2")])
def test_what_ends_a_release_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, word: str, mx: str | None
) -> None:
    """It may be there already; or it is refused for good; or one MX was asked for."""
    room = Released(tmp_path, monkeypatch, word)
    with pytest.raises(release.ReleaseError):
        room.release(mx)
    assert room.asked == ["192.0.2.2"]


@pytest.mark.usefixtures("command")
def test_forget_says_what_it_would_do_and_then_does_it(room: Room, capsys: pytest.CaptureFixture[str]) -> None:
    path = Path(room.layout.state, "mx9.json")
    path.write_text("{}")
    assert cli.main(["forget", "mx9", "--dry-run", "--json"], room.places) == 0
    assert json.loads(capsys.readouterr().out) == {"mx": "mx9", "dry_run": True}
    assert path.exists()
    assert cli.main(["forget", "mx9"], room.places) == 0
    assert not path.exists()


@pytest.mark.usefixtures("command")
def test_a_dry_pull_only_counts(room: Room, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    fill(room, 3)
    monkeypatch.setattr(pull_command, "remote", lambda *_: room.mx)
    monkeypatch.setattr(database, "Database", lambda: room.index)
    assert cli.main(["pull", "--dry-run", "--json"], room.places) == 0
    assert json.loads(capfd.readouterr().out)["missing"] == 3
    assert not Path(room.layout.incoming("mx1")).exists()
    assert not list(Path(room.layout.state).iterdir())
    room.mx.fail = pull.PullError("no route")
    assert cli.main(["pull", "--dry-run"], room.places) == 1


def test_repair_asks_each_mx_for_what_is_still_missing(room: Room, tmp_path: Path) -> None:
    names = fill(room, 4)
    room.pull()
    second = Mx(tmp_path / "mx2")
    for name in names[:2]:
        Path(room.layout.path("customer.example", name)).unlink()
    put(str(second.root), names[1], kept(names[1]))
    (room.mx.root / f"2026-11-25/customer.example/new/{names[1]}").unlink()
    remotes: Any = [("mx1", room.mx), ("mx2", second)]
    work = repair.Repair(room.index, room.layout, room.settings, clock=lambda: room.now)
    work.compare()
    assert work.fetch(remotes) == []
    assert (work.outcome.fetched, work.outcome.lost) == (2, 0)
    assert all(Path(room.layout.path("customer.example", name)).exists() for name in names)


# --- the check


VALUES = {"folder": "", "mx": "mx1 mx2", "lag_warning": 3600, "lag_critical": 259200, "silence": 600, "free_percent": 5}


def source(mx: str, **changes: Any) -> check.Source:
    return check.Source(
        mx,
        {"since": NOON - 1e6, "attempted": NOON - 5, "listed": NOON - 30, "unpulled": 0, "oldest": None, "error": ""}
        | changes,
    )


def judged(*sources: check.Source, expected: Sequence[str] = ("mx1", "mx2")) -> state.Result:
    return check.decide({one.mx: one for one in sources}, expected, NOON, VALUES)


def test_all_is_well() -> None:
    result = judged(source("mx1"), source("mx2"))
    assert (result.status, result.summary) == ("OK", "2 MXs, 0 messages to fetch, most behind 30 s")
    assert result.metrics["mx2_lag_seconds"] == 30


@pytest.mark.parametrize(
    ("changes", "status", "words"),
    [
        ({"listed": NOON - 3599}, "OK", "60 min"),
        ({"listed": NOON - 3700}, "WARNING", "mx2 is 62 min behind"),
        ({"oldest": NOON - 7200, "unpulled": 4}, "WARNING", "mx2 is 2.0 h behind, 4 messages known there"),
        (
            {"listed": NOON - 3 * 86400, "unpulled": 9, "error": "timed \x1bout"},
            "CRITICAL",
            r"9 messages known there and not fetched (timed \x1bout)",
        ),
        ({"listed": None, "since": NOON - 4 * 86400}, "CRITICAL", "mx2 is 4.0 days behind"),
        ({"error": "MariaDB: gone"}, "WARNING", "mx2: MariaDB: gone"),
        ({"error": "no route", "unpulled": 7}, "WARNING", "mx2: no route; 7 messages known there and not fetched"),
    ],
)
def test_what_is_said_of_an_mx(changes: dict[str, Any], status: str, words: str) -> None:
    result = judged(source("mx1"), source("mx2", **changes))
    assert result.status == status
    assert words in result.summary


def test_what_was_put_aside_is_said_until_it_is_gone(room: Room) -> None:
    values = VALUES | {"folder": room.layout.state, "mx": "mx1"}
    for name in (ident(1), ident(2)):
        put(str(room.mx.root), name, kept(name)[:-1])
    put(str(room.mx.root), ident(3), kept(ident(3)))
    room.now = time.time()
    room.pull()
    result = check.look(room.places, values)
    assert (result.status, result.metrics["bad"]) == ("WARNING", 2)
    assert f"2 messages can't be imported and lie in {room.layout.bad}/mx1" in result.summary
    for path in Path(room.layout.bad, "mx1").iterdir():
        path.unlink()
    result = check.look(room.places, values)
    assert (result.status, result.metrics["bad"]) == ("OK", 0)


def test_a_dead_puller_is_noticed() -> None:
    result = judged(source("mx1", attempted=NOON - 700), source("mx2", attempted=NOON - 800))
    assert result.status == "WARNING"
    assert "nobody has pulled for 12 min; is cron running?" in result.summary


def test_an_mx_that_left_the_inventory_with_mail_on_it_is_not_forgotten() -> None:
    gone = judged(source("mx1"), source("mx2", unpulled=7, oldest=NOON - 100), expected=["mx1"])
    assert gone.status == "WARNING"
    assert "mx2 has left the inventory: 7 messages were known there and not fetched" in gone.summary
    assert judged(source("mx1"), source("mx2"), expected=["mx1"]).status == "OK"


def test_an_mx_that_was_never_asked_is_named() -> None:
    assert "mx2: nothing was ever fetched from it" in judged(source("mx1")).summary


def test_a_new_mx_has_a_while() -> None:
    found = {"mx1": source("mx1")}
    assert check.decide(found, ["mx1", "mx2"], NOON, VALUES, NOON - 599).status == "OK"
    assert check.decide(found, ["mx1", "mx2"], NOON, VALUES, NOON - 601).status == "WARNING"
    assert check.decide({}, ["mx1"], NOON, VALUES, NOON - 5).summary == "nothing fetched yet"


def test_the_check_reads_what_the_puller_writes(room: Room) -> None:
    fill(room, 2)
    room.pull()
    Path(room.layout.state, "canary-mx1.json").write_text("{}")
    Path(room.layout.state, "mx2.json").write_text("{torn")
    found = check.read(room.layout.state)
    assert found["mx2"] is None
    assert found["mx1"] is not None
    assert found["mx1"].lag(room.now + 100) == 100
    values = VALUES | {"folder": room.layout.state, "mx": "mx1"}
    result = check.look(room.places, values)
    assert "mx2: its state is not whole" in result.summary


# --- questions, settings, schema


def test_a_domains_list_is_a_range_of_the_primary_key() -> None:
    sql, values = query.select(
        query.Wanted(domain="a.example", start="20261125", end="20261125~", subject="50%_\\", limit=9)
    )
    assert "FROM message WHERE message.domain = %s AND message.id >= %s AND message.id < %s" in sql
    assert sql.endswith("ORDER BY message.id DESC LIMIT %s")
    assert values == ["a.example", "20261125", "20261125~", "%50\\%\\_\\\\%", 9]


def test_a_hostile_subject_stays_in_its_line() -> None:
    row = {
        "received": dt.datetime(2026, 11, 25, 12),  # noqa: DTZ001
        "mx": "mx1",
        "size": 1,
        "lost": 0,
        "truncated": 1,
        "sender": "a\nb@x",
        "recipients": "c",
        "subject": "\x1b]0;owned\x07\x9b2J\u202egnp.exe\r\n\0",
        "id": ident(),
    }
    line = query.line(row, 0)
    assert line.isascii()
    assert line.isprintable()
    assert line.endswith(ident())
    assert len(query.line(row, 120)) <= 125
    json.dumps(query.as_json(row | {"sha256": b"\xff" * 32}))


@pytest.mark.parametrize(
    "change",
    [
        {"retention_days": 0},
        {"retention_days": True},
        {"retention": {"a.example": "7"}},
        {"mx": [{"name": "../x", "address": "192.0.2.1"}]},
        {"mx": [{"name": "mx1", "address": "-oProxyCommand=x"}]},
        {"import_throttle_sleep": -1},
        {"mx_keeps_days": 0},
        {"mx_keeps_days": "5"},
        {"mx": None},
    ],
)
def test_settings_that_cannot_be_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(config.SettingsError):
        support.settings(**change)


def test_the_ledger_outlives_what_an_mx_still_has() -> None:
    for days in (5, 60):
        kept_by = support.settings(mx_keeps_days=days, retention_days=1, retention={})
        # a message may be noted as expired on the day it comes, and its MX has it to its own end
        assert kept_by.ledger_cutoff(NOON) < layout.bound(NOON - (days + 10) * 86400)


def test_both_roles_mean_the_same_days() -> None:
    """An MX's default isn't known to other hosts, so control's role says it again."""
    default = (ROLE.parent / "mf_rejected/defaults/main.yml").read_text()
    days = re.search(r"^mf_rejected_keep_days: (\d+)$", default, re.MULTILINE)
    assert days is not None
    assert f"mf_rejected_keep_days | default({days[1]})" in (ROLE / "vars/main.yml").read_text()


def test_the_files_of_the_schema_lead_to_its_version(tmp_path: Path) -> None:
    files = schema.migrations(str(ROLE / "files/lib/mf_quarantine/schema"))
    found = [statement.split("(")[0].split()[-1] for statement in schema.statements(files[1])]
    assert found == ["message", "ledger", "tally", "handover"]
    assert all("IF NOT EXISTS" in statement for statement in schema.statements(files[1]))
    with pytest.raises(schema.SchemaError, match="needs 1 to"):
        schema.migrations(str(tmp_path))


def test_an_unknown_schema_is_refused() -> None:
    schema.judge(schema.SCHEMA, "x")
    with pytest.raises(QuarantineError, match="version 99 and this release knows versions up to"):
        schema.judge(99, "x")
    with pytest.raises(QuarantineError, match="quarantine migrate"):
        schema.judge(0, "x")


def test_every_name_of_a_list_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rsync 3.2.7 may refuse a list as a whole when its last name isn't."""
    given: list[bytes] = []

    def run(*_: object, **options: Any) -> subprocess.CompletedProcess[bytes]:
        given.append(options["input"])
        return subprocess.CompletedProcess([], 0, b"", b"")

    monkeypatch.setattr(subprocess, "run", run)
    pull.Remote("192.0.2.1", []).fetch(["a/new/1", "a/new/2"], str(tmp_path))
    assert given == [b"a/new/1\0a/new/2\0"]
