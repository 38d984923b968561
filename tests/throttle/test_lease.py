"""Leases and what is read back of them."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mf.claims import LeaseError
from mf.throttle import lease
from mf.throttle.lease import Lease

from tests.throttle.conftest import NOW, held, json_values


def test_renewal_keeps_since_and_replaces_the_rest() -> None:
    first = lease.make("backup", "one", NOW, 60, False)
    again = lease.put((first,), lease.make("backup", "two", NOW + 30, 60, True), NOW + 30)
    assert again == (Lease("backup", "two", NOW, NOW + 90, True),)


def test_an_expired_lease_is_not_renewed_but_begun_anew() -> None:
    first = lease.make("backup", "", NOW, 60, False)
    assert lease.put((first,), lease.make("backup", "", NOW + 61, 60, False), NOW + 61)[0].since == NOW + 61


def test_ends_exactly_at_until() -> None:
    held_lease = lease.make("a", "", NOW, 60, True)
    assert held_lease.is_valid(NOW + 59.999)
    assert not held_lease.is_valid(NOW + 60)


def test_refusal_lasts_as_long_as_the_longest_that_refuses() -> None:
    some = held(
        lease.make("a", "", NOW, 60, True), lease.make("b", "", NOW, 90, True), lease.make("c", "", NOW, 600, False)
    )
    assert lease.refusal(some, NOW) == 90
    assert lease.refusal(some, NOW + 95) == 0
    assert lease.refusal((*some, lease.make("d", "", NOW, None, True)), NOW) is None
    assert lease.refusal((), NOW) == 0


def test_others_keep_theirs() -> None:
    some = held(lease.make("a", "", NOW, 60, True), lease.make("b", "", NOW, 90, True))
    assert [held_lease.owner for held_lease in lease.without(some, "a", NOW)] == ["b"]
    assert lease.without(some, "nobody", NOW) == some


def test_there_is_a_cap() -> None:
    some = held(*(lease.make(f"o{number}", "", NOW, 60, False) for number in range(lease.MAX_LEASES)))
    with pytest.raises(LeaseError, match="32 leases"):
        lease.put(some, lease.make("one-more", "", NOW, 60, False), NOW)
    assert len(lease.put(some, lease.make("o5", "again", NOW, 60, False), NOW)) == lease.MAX_LEASES
    # once the others have ended there is room
    assert len(lease.put(some, lease.make("one-more", "", NOW + 61, 60, False), NOW + 61)) == 1


def test_two_leases_of_one_owner_are_none() -> None:
    record = lease.make("a", "", NOW, 60, True).as_json()
    assert lease.parse_leases([record, record], NOW) is None


EPOCH = 1.7e9


def on_disk(*some: Lease, boot: str = "b" * 16) -> bytes:
    return json.dumps(lease.to_disk(some, NOW, EPOCH, boot)).encode()


def test_load_is_never_kept_on_disk() -> None:
    kept = on_disk(lease.make("load", "", NOW, 300, True), lease.make("a", "", NOW, 300, True))
    assert [record["owner"] for record in json.loads(kept)["leases"]] == ["a"]
    forged = kept.replace(b'"a"', b'"load"')
    assert lease.from_disk(forged, NOW, EPOCH, "b" * 16) == ()


def test_within_a_boot_the_wall_clock_does_not_count() -> None:
    kept = on_disk(lease.make("a", "", NOW, 300, True))
    for step in (-86400, 0, 86400):
        leases = lease.from_disk(kept, NOW + 100, EPOCH + 100 + step, "b" * 16)
        assert leases is not None
        assert [held_lease.left(NOW + 100) for held_lease in leases] == [200]


def test_after_a_reboot_the_wall_clock_is_all_there_is() -> None:
    kept = on_disk(lease.make("a", "", NOW, 300, True), lease.make("h", "", NOW, None, True))
    leases = lease.from_disk(kept, 12.0, EPOCH + 100, "c" * 16)
    assert leases is not None
    assert [(held_lease.owner, held_lease.left(12.0)) for held_lease in leases] == [
        ("a", pytest.approx(200)),
        ("h", None),
    ]
    later = lease.from_disk(kept, 12.0, EPOCH + 301, "c" * 16)
    assert later is not None
    assert [held_lease.owner for held_lease in later] == ["h"]


def test_a_clock_set_back_does_not_lengthen_a_lease() -> None:
    leases = lease.from_disk(on_disk(lease.make("a", "", NOW, 300, True)), 12.0, EPOCH - 86400, "")
    assert leases is not None
    assert leases[0].left(12.0) == pytest.approx(300)


@settings(max_examples=300)
@given(
    st.binary(max_size=200)
    | json_values.map(lambda it: json.dumps({"leases": [it], "written_epoch": 1, "boot": ""}).encode())
)
def test_hostile_disk_never_raises(data: bytes) -> None:
    lease.from_disk(data, NOW, EPOCH, "")
    lease.from_disk(data, NOW, EPOCH, "b" * 16)


@pytest.mark.parametrize("boot", ["b" * 16, "c" * 16])
@pytest.mark.parametrize(
    "change",
    [{"owner": "B a d"}, {"since": 1e9, "since_epoch": None}, {"refuse": 1}, {"until": 9e9, "until_epoch": 9e9}],
)
def test_one_implausible_lease_on_disk_is_left_out_alone(change: dict[str, object], boot: str) -> None:
    record = json.loads(on_disk(*(lease.make(owner, "", NOW, 300, True) for owner in "abc")))
    record["leases"][1].update(change)
    messages: list[str] = []
    leases = lease.from_disk(json.dumps(record).encode(), NOW, EPOCH, boot, dropped=messages)
    assert leases is not None
    assert [held_lease.owner for held_lease in leases] == ["a", "c"]
    assert len(messages) == 1
    assert messages[0].startswith("a lease on disk was left out: ")


@pytest.mark.parametrize("boot", ["b" * 16, "c" * 16])
@pytest.mark.parametrize(
    ("change", "owner"),
    [
        ({"owner": "B a d"}, "damaged"),
        ({"since": 1e9, "since_epoch": None}, "deploy"),
        ({"refuse": 1}, "deploy"),
        ({"reason": "x" * 999}, "deploy"),
        ({"until_epoch": "never", "since": None}, "deploy"),
        ({"until": 6000.0}, "deploy"),
        ({"until_epoch": 1.8e9}, "deploy"),
    ],
)
def test_a_damaged_hold_on_disk_is_kept(change: dict[str, object], owner: str, boot: str) -> None:
    record = json.loads(on_disk(lease.make("a", "", NOW, 300, False), lease.make("deploy", "gate", NOW, None, True)))
    record["leases"][1].update(change)
    messages: list[str] = []
    leases = lease.from_disk(json.dumps(record).encode(), NOW, EPOCH, boot, dropped=messages)
    assert leases is not None
    assert [
        (held_lease.owner, held_lease.until, held_lease.refuse) for held_lease in leases if held_lease.owner != "a"
    ] == [(owner, None, True)]
    assert lease.find(leases, "a") is not None
    assert len(messages) == 1
    assert messages[0].endswith(f"kept for {owner}")
    json.dumps([held_lease.as_json() for held_lease in leases])


def test_a_hold_is_not_displaced_on_disk() -> None:
    record = json.loads(on_disk(lease.make("deploy", "gate", NOW, None, True)))
    crowd = json.loads(on_disk(*(lease.make(f"a{number}", "", NOW, 300, False) for number in range(40))))["leases"]
    again = {**record["leases"][0], "until": NOW + 60, "until_epoch": EPOCH + 60}
    record["leases"] = [*crowd, *record["leases"], again]
    leases = lease.from_disk(json.dumps(record).encode(), NOW, EPOCH, "b" * 16)
    assert leases is not None
    assert len(leases) == lease.MAX_LEASES
    assert [held_lease.owner for held_lease in leases if held_lease.until is None] == ["deploy"]
