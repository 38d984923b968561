"""Owner, time and reason of a lease or of maintenance."""

from __future__ import annotations

from typing import Any

import pytest
from mf import claims
from mf.claims import LeaseError


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
