"""The canary's tag: only the key makes one, it doesn't last, and nothing hostile gets through."""

from __future__ import annotations

from pathlib import Path

import pytest
from mf import canary

KEY = bytes(range(32))
NOW = 1764036000.25


def tagged(**changes: object) -> str:
    values = {"host": "mx1", "kind": canary.SPAM, "now": NOW, "nonce": "00112233445566ff", **changes}
    return canary.make(KEY, **values)  # type: ignore[arg-type]


def test_a_tag_has_host_kind_and_time() -> None:
    assert canary.verify(KEY, tagged(), NOW + 3) == ("mx1", "spam", NOW, "00112233445566ff")
    assert canary.verify(KEY, b" " + tagged(kind="ham").encode() + b"\r\n", NOW) == (
        "mx1",
        "ham",
        NOW,
        "00112233445566ff",
    )


def test_two_tags_differ() -> None:
    assert canary.make(KEY, "mx1", canary.HAM, NOW) != canary.make(KEY, "mx1", canary.HAM, NOW)


@pytest.mark.parametrize(
    ("late", "good"), [(canary.MAX_AGE, True), (canary.MAX_AGE + 1, False), (-canary.SKEW, True), (-61.0, False)]
)
def test_an_old_tag_and_one_from_the_future_are_none(late: float, good: bool) -> None:
    assert (canary.verify(KEY, tagged(), NOW + late) is not None) is good


def test_a_longer_wait_needs_a_longer_age() -> None:
    assert canary.verify(KEY, tagged(), NOW + 5000, max_age=6000) is not None


def test_another_key_makes_no_tag() -> None:
    assert canary.verify(bytes(32), tagged(), NOW) is None


@pytest.mark.parametrize("place", range(0, len(tagged()), 3))
def test_no_character_can_be_changed(place: int) -> None:
    text = tagged()
    letter = "0" if text[place] != "0" else "1"
    assert canary.verify(KEY, text[:place] + letter + text[place + 1 :], NOW) is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "v1",
        "\x00" * 50,
        "v1 mx1 spam 9e99 0011223344556677 " + "0" * 64,
        "v1 mx1 spam 1764036000.250 00112233445566ff " + "é" * 64,
        "v1 mx1 spam \u0661764036000.250 00112233445566ff " + "0" * 64,
        "v1 ../../etc spam 1764036000.250 00112233445566ff " + "0" * 64,
        tagged() + " more",
        tagged() + "\n" + tagged(),
        tagged().upper(),
        "x" * 1_000_000,
    ],
)
def test_hostile_text_is_no_tag(text: str) -> None:
    assert canary.verify(KEY, text, NOW) is None
    assert canary.verify(KEY, text.encode("utf-8"), NOW) is None


@pytest.mark.parametrize(("host", "kind"), [("a b", "spam"), ("", "spam"), ("mx1\n", "ham"), ("mx1", "eggs")])
def test_an_invalid_tag_is_not_made(host: str, kind: str) -> None:
    with pytest.raises(ValueError, match="no canary"):
        canary.make(KEY, host, kind, NOW)


def test_it_is_found_in_the_header_only() -> None:
    head = b"Received: x\r\nx-MF-canary:  abc \r\nX-Mf-Canary: def\r\n\r\nX-Mf-Canary: ghi\r\n"
    assert canary.find(head) == b"abc"
    assert canary.find(b"Subject: x\n\nX-Mf-Canary: ghi\n") is None
    assert canary.find(b"Subject: x\n X-Mf-Canary: folded\n") is None
    assert canary.find(b"") is None


def test_a_nonce_counts_once_and_is_forgotten_after_a_while() -> None:
    seen = canary.Seen(window=1000)
    first = canary.Tag("mx1", canary.SPAM, NOW, "a" * 16)
    assert seen.take(first)
    assert not seen.take(first)
    again = canary.Seen(seen.items(), window=1000)
    assert not again.take(first)
    assert again.take(canary.Tag("mx1", canary.SPAM, NOW + 1001, "b" * 16))
    assert [nonce for nonce, _ in again.items()] == ["b" * 16]


def test_the_key_is_read_whole_or_refused(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_text(KEY.hex() + "\n")
    assert canary.read_key(str(path)) == KEY
    for bad in ("", "zz" * 32, KEY.hex()[:-2], "é" * 64):
        path.write_text(bad)
        with pytest.raises(canary.KeyFileError, match="64 hex"):
            canary.read_key(str(path))
    with pytest.raises(canary.KeyFileError, match="No such file"):
        canary.read_key(str(tmp_path / "none"))
