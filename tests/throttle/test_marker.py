"""The marker: what is written is read back, and anything else counts as absent."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mf import claims
from mf.throttle import lease, marker
from mf.throttle.lease import Lease

from tests.throttle.conftest import NOW, held, json_values, leases, owners


@given(st.lists(leases, max_size=6), st.booleans())
def test_a_marker_reads_back_as_it_was_written(some: list[Lease], refusing: bool) -> None:
    there = marker.Marker(held(*some), refusing)
    assert marker.parse(there.encode(NOW), NOW) == there


@given(st.lists(leases, max_size=6), st.data())
def test_a_torn_marker_counts_as_absent(some: list[Lease], data: st.DataObject) -> None:
    whole = marker.Marker(held(*some), True).encode(NOW)
    torn = whole[: data.draw(st.integers(0, len(whole) - 2))]
    assert marker.parse(torn, NOW) is None


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
    parsed_marker = marker.parse(data, NOW)
    if parsed_marker is None:
        return
    assert len(parsed_marker.leases) <= lease.MAX_LEASES
    for held_lease in parsed_marker.leases:
        assert claims.check_owner(held_lease.owner, reserved=True)
        assert claims.check_reason(held_lease.reason) is not None
        assert held_lease.until is None or held_lease.until <= NOW + claims.MAX_TTL + 1
        assert held_lease.since <= NOW + 1
    # and it is fit to be shown and stored again
    status = marker.Status(parsed_marker.leases, parsed_marker.refusing, NOW)
    assert status.describe().isprintable()
    json.dumps(status.as_json(), allow_nan=False)
    assert marker.parse(marker.Marker(parsed_marker.leases, parsed_marker.refusing).encode(NOW), NOW) == parsed_marker


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
