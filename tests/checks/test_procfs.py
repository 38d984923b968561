"""/proc: the parser and the survey."""

from __future__ import annotations

import os

from hypothesis import given, settings
from hypothesis import strategies as st
from mf import state
from mf_checks import procfs
from mf_checks.procfs import Stat


def stat_line(
    pid: int, comm: bytes = b"perl", state_: str = "S", parent: int = 1, start: int = 500, cpu: int = 0
) -> bytes:
    return b"%d (%s) %s %d 1 1 0 -1 4194560 5613 0 14 0 %d 7 0 0 20 0 1 0 %d 30265344 6713 184 1 1\n" % (
        pid,
        comm,
        state_.encode(),
        parent,
        cpu,
        start,
    )


def test_a_line_of_stat() -> None:
    stat = procfs.parse_stat(stat_line(1760, b"qpsmtpd-forkser", "S", 1, 223730, 12))
    assert stat is not None
    assert (stat.pid, stat.comm, stat.state, stat.parent, stat.start, stat.cpu) == (
        1760,
        b"qpsmtpd-forkser",
        "S",
        1,
        223730,
        19,
    )


def test_this_process_as_the_kernel_shows_it() -> None:
    stat = procfs.read_stat(os.getpid())
    assert stat is not None
    assert (stat.pid, stat.parent, stat.state) == (os.getpid(), os.getppid(), "R")
    assert 0 <= stat.age(state.boottime()) < 3600


@given(st.binary(max_size=64).filter(lambda name: b"\0" not in name))
@settings(max_examples=1000)
def test_any_name_is_read_right(name: bytes) -> None:
    stat = procfs.parse_stat(stat_line(7, name, "T", 3, 99, 5))
    assert stat is not None
    assert (stat.pid, stat.comm, stat.state, stat.parent, stat.start) == (7, name, "T", 3, 99)


def test_a_name_that_looks_like_the_rest_of_the_line() -> None:
    line = stat_line(7, b"x) S 1 1 1 (perl", "S", 42)
    stat = procfs.parse_stat(line)
    assert stat is not None
    assert stat.parent == 42
    survey = procfs.survey([line], 42)
    assert [child.pid for child in survey.children] == [7]


@given(st.binary(max_size=400) | st.text(max_size=200).map(str.encode))
@settings(max_examples=2000)
def test_garbage_is_no_process(line: bytes) -> None:
    stat = procfs.parse_stat(line)
    assert stat is None or isinstance(stat.pid, int)
    procfs.survey([line, b"1 " + line, line + b") S 1 "], 1)


def test_the_scan_has_the_processes_of_ps() -> None:
    mine = {stat.pid for stat in procfs.scan()}
    assert os.getpid() in mine
    assert 1 in mine


def test_survey_sorts() -> None:
    survey = procfs.survey(
        [
            stat_line(1, b"systemd", parent=0),
            stat_line(1000, b"qpsmtpd-forkser", parent=1),
            stat_line(1001, b"/usr/bin/qpsmtp", parent=1000),
            stat_line(1002, b"perl", parent=1001),  # a plugin's helper
            stat_line(1003, b"/usr/bin/qpsmtp", parent=1),  # orphan
            stat_line(1004, b"/usr/bin/qpsmtp", parent=77),  # adopted by a subreaper
            stat_line(1005, b"cron", parent=1),
            stat_line(1006, b"bash", parent=77),
            stat_line(10001, b"sshd", parent=10000),
        ],
        1000,
    )
    assert survey.total == 9
    assert survey.master is not None
    assert [process.pid for process in survey.children] == [1001]
    assert [process.pid for process in survey.strangers] == [1003, 1004, 1005]


def test_first_sights_of_sleepers_are_carried() -> None:
    zombie = Stat(7, b"x", "Z", 1000, 70, 0)
    first = procfs.sleeping([zombie, Stat(8, b"x", "S", 1000, 71, 0)], "", 500.0)
    assert first == {"7:70": 500.0}
    text = procfs.sleepers(first)
    assert procfs.sleeping([zombie], text, 560.0) == {"7:70": 500.0}
    assert procfs.sleeping([zombie], text, 400.0) == {"7:70": 400.0}
    assert procfs.sleeping([zombie], "7:70@nonsense @ 7", 560.0) == {"7:70": 560.0}


def test_a_sleepers_number_is_not_the_end_of_anothers() -> None:
    zombie, other = Stat(12, b"x", "Z", 1000, 345, 0), Stat(112, b"x", "Z", 1000, 345, 0)
    text = procfs.sleepers({"112:345": 400.0, "12:345": 500.0})
    assert procfs.sleeping([zombie, other], text, 560.0) == {"12:345": 500.0, "112:345": 400.0}
