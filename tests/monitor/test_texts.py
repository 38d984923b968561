"""Texts fit into one SMS."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from mf_monitor import texts

GSM = set("@$_!\"#%&'()*+,-./0123456789:;<=>?ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz ")


@given(st.text(max_size=400), st.integers(4, 160))
def test_every_text_is_plain_gsm_within_its_limit(message: str, limit: int) -> None:
    made = texts.gsm7(message, limit)
    assert len(made) <= limit
    assert set(made) <= GSM


@given(st.text(max_size=40), st.lists(st.text(min_size=1, max_size=200), min_size=1, max_size=12), st.text(max_size=80))
def test_a_message_is_one_sms_even_as_a_repeat(name: str, titles: list[str], tail: str) -> None:
    made = texts.REPEAT + texts.compose(name, "ESCALATION", titles, tail)
    assert len(made) <= texts.LIMIT
    assert set(made) <= GSM


@given(st.integers(2, 50_000), st.integers(1, 120), st.sampled_from(["", "URGENT", "ESCALATION", "OK"]))
def test_what_does_not_fit_is_counted(many: int, length: int, mark: str) -> None:
    titles = [f"{number} ".ljust(length, "x") for number in range(many)]
    made = texts.REPEAT + texts.compose("a fleet of some name", mark, titles, "not acknowledged for 9 min #1,#2,#3+")
    assert len(made) <= texts.LIMIT
    shown = made.partition(": ")[2].partition(": ")[2].partition(" not")[0].split("; ")
    counted = int(shown.pop()[1:-5]) if shown[-1].endswith(" more") else 0
    assert len(shown) + counted == many


def test_the_tail_stays_when_titles_are_cut() -> None:
    made = texts.compose("mf", "URGENT", ["x" * 300, "y" * 300, "z" * 300], "since 12:03Z #7")
    assert made.startswith("mf URGENT: xxx")
    assert made.endswith("since 12:03Z #7")
    assert "+2 more" in made


def test_hosts_are_named_when_their_titles_do_not_fit() -> None:
    hosts = ["control1", "offsite1", "mx1", "mx1"]
    titles = [f"{host}: {'load UNKNOWN: last ran 5 min ago, then OK; ' * 2}" for host in hosts]
    made = texts.compose("mf", "", titles, "since 00:56Z #3,#4,#5+", hosts)
    assert made.endswith("; also offsite1, mx1 since 00:56Z #3,#4,#5+")


def test_two_titles_that_fit_when_cut_are_both_there() -> None:
    titles = [f"{host} {'x' * 70}" for host in ("control1", "offsite1")]
    made = texts.compose("mf", "", titles, "since 00:56Z #3,#4")
    assert "; offsite1 xxx" in made
    assert "more" not in made
