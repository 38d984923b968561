"""check-queue: Exim's spool read without Exim."""

from __future__ import annotations

import string
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mf import state
from mf_checks import queue

from tests.core.conftest import server, silent, talking

NOW = 1_795_000_000
VALUES: dict[str, Any] = {
    "unit": "no-such.service",
    "address": "127.0.0.1",
    "age_warning": 14_400,
    "age_critical": 86_400,
    "frozen_critical": 1,
    "free_warning": 15,
    "free_critical": 5,
}
DIGITS = string.digits + string.ascii_uppercase + string.ascii_lowercase


def message_id(when: int, tail: str = "-0001Ab-1C") -> str:
    letters = ""
    for _ in range(6):
        when, digit = divmod(when, 62)
        letters = DIGITS[digit] + letters
    return letters + tail


HEADER = """{id}-H
Debian-exim 101 103
<sender@customer.example>
{when} 0
-received_time_usec .123456
{frozen}-helo_name mx1
-host_address [127.0.0.1]:40000
-body_linecount 3
-max_received_linelength 40
XX
1
rcpt@customer.example

035  Subject: -frozen 1795000000
-frozen 1795000000
"""


def spool(folder: Path, *messages: tuple[int, bool], split: bool = False, long_: bool = False) -> str:
    (folder / "input").mkdir()
    (folder / "input" / "hdr.1234").write_text("a header that is just being written")
    for number, (when, frozen) in enumerate(messages):
        tail = f"-{number:011d}-12aB" if long_ else f"-{number:06d}-Zz"
        name = message_id(when, tail)
        place = folder / "input" / name[5] if split else folder / "input"
        place.mkdir(exist_ok=True)
        (place / f"{name}-D").write_text(f"{name}-D\nbody\n")
        mark = f"-frozen {when}\n" if frozen else ""
        (place / f"{name}-H").write_text(HEADER.format(id=name, when=when, frozen=mark))
    return str(folder)


@given(st.integers(0, 62**6 - 1))
def test_an_id_has_its_time(when: int) -> None:
    assert queue.arrival(message_id(when)) == when
    assert queue.arrival(message_id(when, "-0000000001Ab-12cD-H")) == when


@pytest.mark.parametrize("name", ["", "hdr.1234", "1rABCD", "1rABC!-000000-00", "é" * 16, "1rABCD_000000-00"])
def test_invalid_ids(name: str) -> None:
    assert queue.arrival(name) is None


@pytest.mark.parametrize("split", [False, True])
@pytest.mark.parametrize("long_", [False, True])
def test_a_spool(tmp_path: Path, split: bool, long_: bool) -> None:
    survey = queue.survey(spool(tmp_path, (NOW - 50, False), (NOW - 90, True), (NOW, True), split=split, long_=long_))
    assert (survey.arrivals, survey.frozen, survey.read) == ([NOW - 90, NOW - 50, NOW], 2, 3)


def test_an_empty_spool(tmp_path: Path) -> None:
    survey = queue.survey(spool(tmp_path))
    assert (survey.arrivals, survey.frozen) == ((), 0)


def test_a_large_queue_is_read_in_part(tmp_path: Path) -> None:
    path = spool(tmp_path, *[(NOW - number, number >= 15) for number in range(20)])
    survey = queue.survey(path, limit=10)
    assert (len(survey.arrivals), survey.frozen, survey.read) == (20, 5, 10)


def test_of_a_crowd_the_newest_are_read_too_that_can_be_unkept(tmp_path: Path) -> None:
    """The customer is down: all wait, and a bounce that waits to be kept is among the newest."""
    path = spool(tmp_path, *[(NOW - 10_000 + number, number == 0) for number in range(20)], *[(NOW - 9, False)] * 5)
    name = message_id(NOW - 700)
    (tmp_path / "input" / f"{name}-H").write_text(BOUNCE.format(id=name, when=NOW - 700, tree="XX"))
    survey = queue.survey(path, limit=4, now=NOW)
    assert (len(survey.arrivals), survey.frozen, survey.unkept, survey.read) == (26, 1, 1, 4)


def test_a_crowd_s_summary_shows_how_many_were_read(
    tmp_path: Path, places: state.Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queue, "READ", 2)
    slow_path = queue.probe(places, {**VALUES, "spool": spool(tmp_path, *[(NOW, False)] * 3), "port": 1})
    assert callable(slow_path)
    assert "; 3 messages (2 read)" in slow_path(True).summary


def test_no_spool(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        queue.survey(str(tmp_path))


@given(st.binary(max_size=500))
@settings(max_examples=1000)
def test_any_header_is_frozen_or_not(head: bytes) -> None:
    assert queue.is_frozen(head) in (True, False)


# as Exim 4.96 writes one that waits to be kept; below it one that was kept and waits for the sender's server only
BOUNCE = """{id}-H
Debian-exim 101 103
<>
{when} 0
-received_time_usec .123456
-ident Debian-exim
-received_protocol local
-body_linecount 3
{tree}
1
a@world.example

035  Subject: refused@keep.mf.invalid
-received_protocol local
"""
KEPT = "NN refused@keep.mf.invalid"


@pytest.mark.parametrize(("tree", "expected"), [("XX", 2), (KEPT, 0), ("YN a@world.example\n" + KEPT, 0)])
def test_unkept_messages_are_counted_after_some_minutes(tmp_path: Path, tree: str, expected: int) -> None:
    path = spool(tmp_path, (NOW - 900, False))  # an ordinary one
    for when, tail in ((NOW - 700, "-a"), (NOW - 650, "-b"), (NOW - 60, "-c")):
        name = message_id(when, f"-00000{tail[1]}-Zz")
        (tmp_path / "input" / f"{name}-H").write_text(BOUNCE.format(id=name, when=when, tree=tree))
    outside = BOUNCE.replace("-received_protocol local\n-body", "-received_protocol esmtp\n-body")
    name = message_id(NOW - 800)
    (tmp_path / "input" / f"{name}-H").write_text(outside.format(id=name, when=NOW - 800, tree="XX"))
    survey = queue.survey(path, now=NOW)
    assert survey.unkept == expected
    status, problems = queue.decide(survey, 0.0, 90.0, 90.0, VALUES)
    assert status == (state.CRITICAL if expected else state.OK)
    assert problems == (["2 refused by a customer's server can't be kept"] if expected else [])


@given(st.lists(st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=30)))
@settings(max_examples=200)
def test_any_names_in_the_spool(tmp_path_factory: pytest.TempPathFactory, names: list[str]) -> None:
    folder = tmp_path_factory.mktemp("spool")
    (folder / "input").mkdir()
    for name in names:
        if name not in (".", "..") and len(name.encode()) < 200:
            (folder / "input" / f"{name}-H").write_bytes(b"\xff" * 10)
    assert len(queue.survey(str(folder)).arrivals) <= len(names)


def test_a_folder_where_a_file_should_be(tmp_path: Path) -> None:
    path = spool(tmp_path, (NOW, False))
    (tmp_path / "input" / f"{message_id(NOW - 7)}-H").mkdir()
    survey = queue.survey(path)
    assert (len(survey.arrivals), survey.read) == (2, 1)


@pytest.mark.parametrize(
    ("survey", "free", "inodes", "status", "problems"),
    [
        (queue.Queue(), 90.0, 90.0, state.OK, []),
        (queue.Queue([NOW - 100]), 90.0, 90.0, state.OK, []),
        (queue.Queue([NOW - 14_400]), 90.0, 90.0, state.WARNING, ["oldest message 4.0 h"]),
        (queue.Queue([NOW - 86_400]), 90.0, 90.0, state.CRITICAL, ["oldest message 24.0 h"]),
        (queue.Queue([NOW + 9999]), 90.0, 90.0, state.OK, []),
        (queue.Queue([NOW], 1, 1), 90.0, 90.0, state.CRITICAL, ["1 frozen"]),
        (queue.Queue(), 14.0, 90.0, state.WARNING, ["14% of the spool's space free"]),
        (queue.Queue(), 4.0, 90.0, state.CRITICAL, ["4% of the spool's space free"]),
        (queue.Queue(), 90.0, 4.0, state.CRITICAL, ["4% of the spool's inodes free"]),
        (
            queue.Queue([NOW - 86_400, NOW - 9], 2, 2),
            14.0,
            90.0,
            state.CRITICAL,
            ["oldest message 24.0 h", "2 frozen", "14% of the spool's space free"],
        ),
    ],
)
def test_decisions(survey: queue.Queue, free: float, inodes: float, status: str, problems: list[str]) -> None:
    waited, _ = queue.age(survey.arrivals, None, NOW, 1e6)
    assert queue.decide(survey, waited, free, inodes, VALUES) == (status, problems)


class Watch:
    """Runs of the check, one after the other, on clocks that can be set apart."""

    def __init__(self) -> None:
        self.boot, self.epoch, self.before = 90_000.0, float(NOW), ""

    def sleep(self, seconds: float) -> None:
        self.boot += seconds
        self.epoch += seconds

    def run(self, *arrivals: int) -> float:
        waited, self.before = queue.age(sorted(arrivals), self.before, self.epoch, self.boot)
        return waited


@pytest.mark.parametrize("step", [-86_400, 86_400])
def test_a_clock_that_is_set_changes_no_age(step: int) -> None:
    watch = Watch()
    old, young = NOW - 18_000, NOW - 600
    assert watch.run(old, young) == 18_000
    watch.epoch += step
    watch.sleep(300)
    late = int(watch.epoch) - 100
    assert watch.run(old, young, late) == 18_300
    # the oldest has gone: nobody is taken for older than it was, nor for young for ever
    watch.sleep(300)
    assert watch.run(young, late) <= 18_600
    watch.sleep(14_400)
    assert watch.run(young, late) >= 14_400


def test_a_clock_set_forward_after_an_empty_queue_is_no_alarm() -> None:
    watch = Watch()
    assert watch.run() == 0
    watch.sleep(200)
    message = int(watch.epoch)
    watch.epoch += 86_400
    watch.sleep(100)
    assert watch.run(message) == 300
    watch.sleep(300)
    assert watch.run(message) == 600


def test_a_message_may_be_older_than_the_last_boot() -> None:
    watch = Watch()
    watch.boot = 100.0
    assert watch.run(NOW - 18_000) == 18_000
    watch.sleep(300)
    assert watch.run(NOW - 18_000) == 18_300


def test_a_message_of_the_future_counts_from_its_first_sight() -> None:
    watch = Watch()
    assert watch.run(NOW + 86_400) == 0
    watch.sleep(86_500)
    assert watch.run(NOW + 86_400) == 86_500


MEMORIES = st.text(max_size=40) | st.from_regex(r"-?\d+@\S*") | st.none() | st.integers()


@given(MEMORIES, st.lists(st.integers(1, 2**35), max_size=3))
def test_any_memory_gives_an_age(memory: object, arrivals: list[int]) -> None:
    waited, new_memory = queue.age(sorted(arrivals), memory, NOW, 5000.0)
    assert 0 <= waited < 1e12 + 5001
    assert int(new_memory.rpartition("@")[0]) >= -1


def probed(path: str, port: int, places: state.Places | None = None) -> state.Result | Any:
    places = places or state.Places("/none")
    return queue.probe(places, {**VALUES, "spool": path, "port": port, "free_warning": 0, "free_critical": 0})


def test_the_fast_path(tmp_path: Path) -> None:
    path = spool(tmp_path, (int(time.time()) - 100, False))
    with server(talking()) as port:
        result = probed(path, port)
    assert isinstance(result, state.Result)
    assert (result.status, result.summary) == (state.OK, "1 message")
    assert 99 <= float(result.metrics["oldest_seconds"]) <= 110
    assert float(result.metrics["free_percent"]) > 0


def test_the_fast_path_stores_the_oldest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, places = spool(tmp_path, (int(time.time()) - 100, False)), state.Places(str(tmp_path))
    with server(talking()) as port:
        first = probed(path, port, places)
        state.write_result(places, first, generation="abc", started=time.time(), period=300, slack=35)
        real = time.time
        monkeypatch.setattr(time, "time", lambda: real() + 86_400)
        second = probed(path, port, places)
    assert 99 <= float(second.metrics["oldest_seconds"]) <= 110
    assert second.metrics["oldest"] == first.metrics["oldest"]


def test_the_age_of_a_message_is_separate_from_other_faults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The gate of a deploy reads it: time alone is no reason for a hold."""
    monkeypatch.setattr(queue, "GREETING", 0.2)
    path = spool(tmp_path, (int(time.time()) - 90_000, False))
    with server(talking()) as port:
        result = probed(path, port)
    assert (result.status, result.metrics[state.BUT_FOR_TIME]) == (state.CRITICAL, state.OK)
    (tmp_path / "frozen").mkdir()
    path = spool(tmp_path / "frozen", (int(time.time()) - 90_000, True))
    with server(talking()) as port:
        result = probed(path, port)
    assert (result.status, result.metrics[state.BUT_FOR_TIME]) == (state.CRITICAL, state.CRITICAL)
    with server(silent) as port:
        rest = probed(path, port)
    assert not isinstance(rest, state.Result)
    result = rest(False)
    assert (result.status, result.metrics.get(state.BUT_FOR_TIME)) == (state.CRITICAL, None)


def test_exim_does_not_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queue, "GREETING", 0.2)
    path = spool(tmp_path)
    with server(silent) as port:
        rest = probed(path, port)
    assert not isinstance(rest, state.Result)
    result = rest(False)
    assert result.status == state.CRITICAL
    assert "Exim doesn't answer (silence at greeting)" in result.summary


def test_a_spool_that_cannot_be_read(tmp_path: Path) -> None:
    with server(talking()) as port:
        result = probed(str(tmp_path / "none"), port)
    assert isinstance(result, state.Result)
    assert result.status == state.CRITICAL
    assert "No such file" in result.summary
