"""Expiry of messages, and of files that were put aside."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from mf_quarantine import envelope, expire, store

from tests.quarantine.conftest import NOON, Died, Room, ident, kept, put


def fill(room: Room, days: int) -> None:
    for age in range(days):
        for domain in ("customer.example", "short.example"):
            name = ident(age if domain[0] == "c" else 100 + age, NOON - age * 86400.0)
            path = put(room.incoming, name, kept(name), domain)
            message = envelope.read(str(path), domain, name)
            store.keep(str(path), room.layout.path(domain, name))
            path.unlink()
            room.index.add([message])


def test_files_put_aside_are_removed_after_their_time_and_not_before(room: Room) -> None:
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


def test_expire_keeps_each_domain_for_its_own_retention(room: Room) -> None:
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


def test_the_ledger_keeps_ids_longer_than_any_message_is_kept(room: Room) -> None:
    room.index.ledger = {
        ident(2, NOON - 60): ("short.example", "canary"),
        ident(0, NOON - 44 * 86400): ("short.example", "expired"),
        ident(1, NOON - 46 * 86400): ("short.example", "expired"),
    }
    outcome = expire.run(room.index, room.layout, room.settings, clock=lambda: NOON)
    assert outcome.forgotten == 1
    assert sorted(room.index.ledger) == [ident(0, NOON - 44 * 86400), ident(2, NOON - 60)]
