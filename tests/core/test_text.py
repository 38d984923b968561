"""Text for logs and terminals."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from mf import text


@given(st.text() | st.binary())
def test_clean_text_cannot_move_a_cursor(hostile: str | bytes) -> None:
    shown = text.clean(hostile, 40)
    assert shown.isascii()
    assert shown.isprintable() or not shown
    assert len(shown) <= 40
