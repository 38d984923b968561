"""Leases and what is read back of them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mf import claims
from mf.claims import LeaseError
from mf.throttle import lease, marker
from mf.throttle.lease import Lease

NOW = 5000.0
owners = st.from_regex(r"[a-z][a-z0-9_.-]{0,31}", fullmatch=True).filter(lambda owner: owner != "load")
leases = st.builds(
    lease.make,
    owners,
    st.text(st.characters(categories=["L", "N", "P"]), max_size=60),
    st.just(NOW),
    st.none() | st.floats(1, 7 * 86400),
    st.booleans(),
)


def held(*some: Lease) -> tuple[Lease, ...]:
    found: tuple[Lease, ...] = ()
    for one in some:
        found = lease.put(found, one, NOW)
    return found


@pytest.mark.parametrize("owner", ["", "Bob", "1a", "a" * 33, "a b", "a\n", "é", "../x", None, 7, "_a", "a\x00"])
def test_owner_is_refused(owner: Any) -> None:
    with pytest.raises(LeaseError, match="is not a name"):
        claims.check_owner(owner)


@pytest.mark.parametrize("owner", ["a", "operator", "borg.daily-2_x", "a" * 32])
def test_owner_is_taken(owner: str) -> None:
    assert claims.check_owner(owner) == owner


def test_load_is_reserved() -> None:
    with pytest.raises(LeaseError, match="belongs to check-load"):
        claims.check_owner("load")
    assert claims.check_owner("load", reserved=True) == "load"


@pytest.mark.parametrize("ttl", [-5, 0, 0.9, 7 * 86400 + 1, float("nan"), float("inf"), True, "60", None])
def test_ttl_is_refused(ttl: Any) -> None:
    with pytest.raises(LeaseError, match="1 s to 7 d"):
        claims.check_ttl(ttl)


@pytest.mark.parametrize("reason", ["x" * 201, "two\nlines", "\x1b[31m", None])
def test_reason_is_refused(reason: Any) -> None:
    with pytest.raises(LeaseError, match="one line"):
        claims.check_reason(reason)


def test_renewal_keeps_since_and_replaces_the_rest() -> None:
    first = lease.make("backup", "one", NOW, 60, False)
    again = lease.put((first,), lease.make("backup", "two", NOW + 30, 60, True), NOW + 30)
    assert again == (Lease("backup", "two", NOW, NOW + 90, True),)


def test_an_expired_lease_is_not_renewed_but_begun_anew() -> None:
    first = lease.make("backup", "", NOW, 60, False)
    assert lease.put((first,), lease.make("backup", "", NOW + 61, 60, False), NOW + 61)[0].since == NOW + 61


def test_ends_exactly_at_until() -> None:
    one = lease.make("a", "", NOW, 60, True)
    assert one.is_valid(NOW + 59.999)
    assert not one.is_valid(NOW + 60)


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
    assert [one.owner for one in lease.without(some, "a", NOW)] == ["b"]
    assert lease.without(some, "nobody", NOW) == some


def test_there_is_a_cap() -> None:
    some = held(*(lease.make(f"o{number}", "", NOW, 60, False) for number in range(lease.MAX_LEASES)))
    with pytest.raises(LeaseError, match="32 leases"):
        lease.put(some, lease.make("one-more", "", NOW, 60, False), NOW)
    assert len(lease.put(some, lease.make("o5", "again", NOW, 60, False), NOW)) == lease.MAX_LEASES
    # once the others have ended there is room
    assert len(lease.put(some, lease.make("one-more", "", NOW + 61, 60, False), NOW + 61)) == 1


@given(st.lists(leases, max_size=6), st.booleans())
def test_a_marker_reads_back_as_it_was_written(some: list[Lease], refusing: bool) -> None:
    there = marker.Marker(held(*some), refusing)
    assert marker.parse(there.encode(NOW), NOW) == there


@given(st.lists(leases, max_size=6), st.data())
def test_a_torn_marker_counts_as_absent(some: list[Lease], data: st.DataObject) -> None:
    whole = marker.Marker(held(*some), True).encode(NOW)
    torn = whole[: data.draw(st.integers(0, len(whole) - 2))]
    assert marker.parse(torn, NOW) is None


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
nearly = st.fixed_dictionaries(
    {
        "leases": st.lists(
            st.fixed_dictionaries(
                {
                    "owner": json_values | owners,
                    "reason": json_values | st.just(""),
                    "since": json_values | st.just(NOW),
                    "until": json_values | st.just(NOW + 60),
                    "refuse": json_values | st.booleans(),
                }
            )
            | json_values,
            max_size=3,
        )
        | json_values,
        "refusing": st.booleans() | json_values,
    }
)


@settings(max_examples=1000)
@given(
    st.binary(max_size=300)
    | json_values.map(lambda it: json.dumps(it).encode())
    | nearly.map(lambda it: json.dumps(it).encode())
)
def test_hostile_bytes_give_a_sound_marker_or_none(data: bytes) -> None:
    found = marker.parse(data, NOW)
    if found is None:
        return
    assert len(found.leases) <= lease.MAX_LEASES
    for one in found.leases:
        assert claims.check_owner(one.owner, reserved=True)
        assert claims.check_reason(one.reason) is not None
        assert one.until is None or one.until <= NOW + claims.MAX_TTL + 1
        assert one.since <= NOW + 1
    # and it is fit to be shown and stored again
    status = marker.Status(found.leases, found.refusing, NOW)
    assert status.describe().isprintable()
    json.dumps(status.as_json(), allow_nan=False)
    assert marker.parse(marker.Marker(found.leases, found.refusing).encode(NOW), NOW) == found


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"null",
        b"[]",
        b"{" * 100000,
        b'{"leases": [' + b" " * 70000 + b'], "refusing": false}',
        b'{"leases": {}, "refusing": false}',
        b'{"leases": [], "refusing": 1}',
        b'{"leases": [{"owner": "a", "reason": "", "since": 1, "until": 1e999, "refuse": true}], "refusing": true}',
        b'{"leases": [{"owner": "a", "reason": "", "since": 1, "until": NaN, "refuse": true}], "refusing": true}',
        b'{"leases": [{"owner": "a", "reason": "", "since": 9999, "until": 10000, "refuse": true}], "refusing": true}',
        b'{"leases": [{"owner": "a", "reason": "", "since": 1, "until": 9999999, "refuse": true}], "refusing": true}',
        b"\xff\xfe\x00",
    ],
)
def test_marker_that_is_none(data: bytes) -> None:
    assert marker.parse(data, NOW) is None


def test_two_leases_of_one_owner_are_none() -> None:
    one = lease.make("a", "", NOW, 60, True).as_json()
    assert lease.parse_leases([one, one], NOW) is None


EPOCH = 1.7e9


def on_disk(*some: Lease, boot: str = "b" * 16) -> bytes:
    return json.dumps(lease.to_disk(some, NOW, EPOCH, boot)).encode()


def test_load_is_never_kept_on_disk() -> None:
    kept = on_disk(lease.make("load", "", NOW, 300, True), lease.make("a", "", NOW, 300, True))
    assert [one["owner"] for one in json.loads(kept)["leases"]] == ["a"]
    forged = kept.replace(b'"a"', b'"load"')
    assert lease.from_disk(forged, NOW, EPOCH, "b" * 16) == ()


def test_within_a_boot_the_wall_clock_does_not_count() -> None:
    kept = on_disk(lease.make("a", "", NOW, 300, True))
    for step in (-86400, 0, 86400):
        found = lease.from_disk(kept, NOW + 100, EPOCH + 100 + step, "b" * 16)
        assert found is not None
        assert [one.left(NOW + 100) for one in found] == [200]


def test_after_a_reboot_the_wall_clock_is_all_there_is() -> None:
    kept = on_disk(lease.make("a", "", NOW, 300, True), lease.make("h", "", NOW, None, True))
    found = lease.from_disk(kept, 12.0, EPOCH + 100, "c" * 16)
    assert found is not None
    assert [(one.owner, one.left(12.0)) for one in found] == [("a", pytest.approx(200)), ("h", None)]
    later = lease.from_disk(kept, 12.0, EPOCH + 301, "c" * 16)
    assert later is not None
    assert [one.owner for one in later] == ["h"]


def test_a_clock_set_back_does_not_lengthen_a_lease() -> None:
    found = lease.from_disk(on_disk(lease.make("a", "", NOW, 300, True)), 12.0, EPOCH - 86400, "")
    assert found is not None
    assert found[0].left(12.0) == pytest.approx(300)


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
    said: list[str] = []
    found = lease.from_disk(json.dumps(record).encode(), NOW, EPOCH, boot, dropped=said)
    assert found is not None
    assert [one.owner for one in found] == ["a", "c"]
    assert len(said) == 1
    assert said[0].startswith("a lease on disk was left out: ")


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
    said: list[str] = []
    found = lease.from_disk(json.dumps(record).encode(), NOW, EPOCH, boot, dropped=said)
    assert found is not None
    assert [(one.owner, one.until, one.refuse) for one in found if one.owner != "a"] == [(owner, None, True)]
    assert lease.find(found, "a") is not None
    assert len(said) == 1
    assert said[0].endswith(f"kept for {owner}")
    json.dumps([one.as_json() for one in found])


def test_a_hold_is_not_displaced_on_disk() -> None:
    record = json.loads(on_disk(lease.make("deploy", "gate", NOW, None, True)))
    crowd = json.loads(on_disk(*(lease.make(f"a{number}", "", NOW, 300, False) for number in range(40))))["leases"]
    again = {**record["leases"][0], "until": NOW + 60, "until_epoch": EPOCH + 60}
    record["leases"] = [*crowd, *record["leases"], again]
    found = lease.from_disk(json.dumps(record).encode(), NOW, EPOCH, "b" * 16)
    assert found is not None
    assert len(found) == lease.MAX_LEASES
    assert [one.owner for one in found if one.until is None] == ["deploy"]
