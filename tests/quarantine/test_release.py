"""A release: the choice of the MX, the meaning of its answer, and no second delivery."""

from __future__ import annotations

import argparse
import datetime as dt
import sys
import types
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from mf import state
from mf_quarantine import context, release
from mf_quarantine.commands import release as release_command

from tests.quarantine.conftest import ident, kept

ROW = {"state": "kept", "lost": 0, "truncated": 0, "mx": "mx2", "size": 9, "kept": 9}


MXS = {"mx1": "192.0.2.1", "mx2": "192.0.2.2"}


def handover(state_: str, mx: str = "mx2") -> dict[str, Any]:
    return {"state": state_, "mx": mx, "who": "eve\x1b[2J", "began": dt.datetime(2026, 11, 25, 12), "answer": ""}  # noqa: DTZ001


def test_the_mx_that_rejected_it_comes_first() -> None:
    assert release.choose(ROW, None, MXS, None, False, lambda _: True) == "mx2"
    assert release.choose(ROW, None, MXS, None, False, lambda address: address == "192.0.2.1") == "mx1"
    assert release.choose(ROW, handover("refused", "mx1"), MXS, "mx1", False) == "mx1"


def test_a_message_that_an_mx_had_accepted_is_released_by_that_mx() -> None:
    """It can be sent again there, too: from another one it could go twice."""
    row = ROW | {"plugin": "customer"}
    assert release.choose(row, None, MXS, None, False, lambda _: True) == "mx2"
    assert release.choose(row, None, MXS, "mx2", False, lambda _: True) == "mx2"
    with pytest.raises(release.ReleaseError, match=r"mx2 accepted it .* doesn't take it now: .*/refused forget there"):
        release.choose(row, None, MXS, None, False, lambda address: address == "192.0.2.1")
    with pytest.raises(release.ReleaseError, match=r"mx2 accepted it .* doesn't take it now"):
        release.choose(row, None, MXS, None, False, lambda _: True, ["mx2"])
    with pytest.raises(release.ReleaseError, match=r"mx2 accepted it .* isn't the one asked"):
        release.choose(row, None, MXS, "mx1", False, lambda _: True)
    assert release.choose(row, None, MXS, "mx1", True, lambda _: True) == "mx1"
    # gone for good: no one else can send it
    assert release.choose(row, None, {"mx1": "192.0.2.1"}, None, False, lambda _: True) == "mx1"


@pytest.mark.parametrize(
    ("row", "before", "wanted", "why"),
    [
        (ROW, handover("accepted"), None, r"released before: by eve\\x1b\[2J at 2026-11-25 12:00:00 UTC to mx2"),
        (ROW | {"state": "expired"}, None, None, "nothing is left"),
        (ROW | {"lost": 1}, None, None, "file is gone"),
        (ROW | {"truncated": 1}, None, None, "half a message"),
        (ROW, None, "mx9", "no MX is called mx9"),
        (ROW, handover("begun"), "mx1", "mx2 may have it already"),
        (ROW, handover("begun", "mx9"), None, "no longer there"),
        (ROW, None, None, "no MX answers"),
    ],
)
def test_messages_that_are_not_released(row: Any, before: Any, wanted: str | None, why: str) -> None:
    with pytest.raises(release.ReleaseError, match=why):
        release.choose(row, before, MXS, wanted, False, lambda _: False)


def test_an_unanswered_handover_goes_to_the_same_mx_even_if_it_seems_dead() -> None:
    assert release.choose(ROW, handover("begun", "mx1"), MXS, None, False, lambda _: False) == "mx1"


@pytest.mark.parametrize("before", [None, "refused", "later", "begun"])
@pytest.mark.parametrize("force", [False, True])
def test_accepted_is_final(before: str | None, force: bool) -> None:
    with pytest.raises(release.ReleaseError, match="isn't released twice"):
        release.choose(ROW, handover("accepted"), MXS, None, force, lambda _: True)
    # by force, not the one that may have it: that one never delivers twice
    expected = "mx1" if force and before == "begun" else "mx2"
    assert release.choose(ROW, handover(before) if before else None, MXS, None, force, lambda _: True) == expected


def test_force_asks_the_same_mx_when_there_is_no_other() -> None:
    only = {"mx2": MXS["mx2"]}
    assert release.choose(ROW, handover("begun"), only, None, True, lambda _: True) == "mx2"
    assert release.choose(ROW, handover("begun"), MXS, None, True, lambda address: address == "192.0.2.2") == "mx2"


@pytest.mark.parametrize(
    ("output", "code", "word"),
    [
        ("accepted 250 OK id=1", 0, "accepted"),
        ("known", 0, "known"),
        ("refused 550 no", 1, "refused"),
        ("later 451 wait", 75, "later"),
        ("unclear whether", 70, "lost"),
        ("accepted x", 1, "lost"),
        ("later", 0, "lost"),
        ("", 255, "lost"),
        ("Accepted x", 0, "lost"),
    ],
)
def test_answers_of_an_mx(tmp_path: Path, output: str, code: int, word: str) -> None:
    path = tmp_path / "kept"
    path.write_bytes(kept(ident()))
    script = f"import sys; sys.stdin.buffer.read(); print({output!r}); sys.exit({code})"
    assert release.over_ssh([sys.executable, "-c", script], "mx", ident(), str(path)).word == word


@pytest.mark.parametrize(
    ("error", "out", "code", "word"),
    [
        ("ssh: connect to host 192.0.2.1 port 22: Connection refused", "", 255, "unsent"),
        ("@@@@@\n@ WARNING @\nHost key verification failed.", "", 255, "unsent"),
        ("mf-release@192.0.2.1: Permission denied (publickey).", "", 255, "unsent"),
        ("kex_exchange_identification: Connection closed by remote host", "", 255, "unsent"),
        ("Connection to 192.0.2.1 closed by remote host.", "", 255, "lost"),
        ("PermissionError: [Errno 13] Permission denied: 'x'", "", 255, "lost"),
        ("Host key verification failed.", "", 1, "lost"),
        ("Host key verification failed.", "x", 255, "lost"),
    ],
)
def test_without_a_session_nothing_was_sent(tmp_path: Path, error: str, out: str, code: int, word: str) -> None:
    path = tmp_path / "kept"
    path.write_bytes(kept(ident()))
    script = f"import sys; sys.stderr.write({error!r}); sys.stdout.write({out!r}); sys.exit({code})"
    assert release.over_ssh([sys.executable, "-c", script], "mx", ident(), str(path)).word == word


class Handovers:
    """The table ``handover``, as far as ``hand_over`` uses it."""

    def __init__(self) -> None:
        self.states: list[str] = []

    def retried(self, work: Any) -> Any:
        return work()

    def run(self, sql: str, values: Sequence[Any]) -> int:
        self.states.append("begun" if sql.startswith("INSERT") else values[0])
        return 1


@pytest.mark.parametrize(
    ("before", "word", "left"),
    [
        (None, "accepted", "accepted"),
        (None, "known", "accepted"),
        (None, "lost", "begun"),
        (None, "later", "later"),
        (None, "unsent", "later"),
        ("later", "unsent", "later"),
        # an earlier time may have been taken
        ("begun", "unsent", "begun"),
        ("begun", "later", "later"),
    ],
)
def test_begun_is_written_before_anything_is_sent(before: str | None, word: str, left: str) -> None:
    table: Any = Handovers()

    def send() -> release.Answer:
        assert table.states == ["begun"]
        return release.Answer(word, "words")

    try:
        release.hand_over(table, ident(), "mx1", "ann", send, before=handover(before) if before else None)
        assert left == "accepted"
    except release.ReleaseError:
        assert left != "accepted"
    assert table.states == ["begun", left]


class Released:
    """A quarantine's database with one message, and MXs that answer in turn."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, *answers: str) -> None:
        self.asked: list[str] = []
        self.states: list[str] = []
        self.answers = list(answers)
        self.name = ident()
        self.context = context.Context(state.Places(str(folder)), "ann")
        self.context.settings.mx = {"mx1": "192.0.2.1", "mx2": "192.0.2.2", "mx3": "192.0.2.3"}
        index: Any = types.SimpleNamespace(find=lambda _: ROW | {"domain": "a.example"}, retried=lambda work: work())
        index.run = self.run
        index.handover = lambda _: handover(self.states[-1]) if self.states else None
        monkeypatch.setattr(context, "Index", lambda: index)
        monkeypatch.setattr(release, "over_ssh", self.send)
        # bound when the function was made
        monkeypatch.setattr(release.choose, "__defaults__", (lambda _: True, ()))
        path = Path(self.context.layout.path("a.example", self.name))
        path.parent.mkdir(parents=True)
        path.write_bytes(kept(self.name))

    def run(self, sql: str, values: Sequence[Any]) -> int:
        self.states.append("begun" if sql.startswith("INSERT") else values[0])
        return 1

    def send(self, _command: object, address: str, *_: object) -> release.Answer:
        self.asked.append(address)
        return release.Answer(self.answers.pop(0), "words")

    def release(self, mx: str | None = None) -> str:
        chosen = argparse.Namespace(mx=mx, force=False, dry_run=False, by="ann")
        name, answer = release_command.release_message(self.context, self.name, chosen)
        assert answer is not None
        return f"{name} {answer.word}"


@pytest.mark.usefixtures("command")
def test_a_release_goes_on_to_the_next_mx(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    room = Released(tmp_path, monkeypatch, "later", "unsent", "accepted")
    assert room.release() == "mx3 accepted"
    assert room.asked == ["192.0.2.2", "192.0.2.1", "192.0.2.3"]


@pytest.mark.usefixtures("command")
def test_a_release_that_no_mx_takes_names_the_mxs_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    room = Released(tmp_path, monkeypatch, "later", "later", "unsent")
    with pytest.raises(release.ReleaseError, match=r"mx2 can't take it now.*mx1 can't take it now.*mx3 can't"):
        room.release()


@pytest.mark.usefixtures("command")
@pytest.mark.parametrize(("word", "mx"), [("lost", None), ("refused", None), ("later", "mx2")])
def test_answers_that_end_a_release_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, word: str, mx: str | None
) -> None:
    """It may be there already; or it is refused for good; or one MX was asked for."""
    room = Released(tmp_path, monkeypatch, word)
    with pytest.raises(release.ReleaseError):
        room.release(mx)
    assert room.asked == ["192.0.2.2"]
