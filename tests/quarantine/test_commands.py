"""The command: its processes, its dry runs, and its errors for a wrong command line."""

from __future__ import annotations

import json
import os
import time
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mf import state
from mf_quarantine import QuarantineError, cli, context, importer, pull, remote
from mf_quarantine.commands import pull as pull_command

from tests.quarantine.conftest import NOON, Room, ident, kept, put


@pytest.mark.usefixtures("command")
def test_each_process_has_a_connection_of_its_own(tmp_path: Path) -> None:
    own: Any = context.Context(state.Places(str(tmp_path)), "ann")
    assert own.index.made_by == os.getpid()
    assert own.index is own.index
    codes = pull.side_by_side(["mx1", "mx2"], lambda _: 0 if own.index.made_by == os.getpid() else 1)
    assert codes == {"mx1": 0, "mx2": 0}


@pytest.mark.usefixtures("command")
def test_a_state_that_cannot_be_written_is_reported_in_one_line(
    room: Room, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As on a full disk: both writes fail, and no MX is asked."""
    Path(room.layout.state).rmdir()
    monkeypatch.setattr(importer, "Importer", lambda *_, **__: pytest.fail("it went on"))
    assert pull_command.pull_mx(context.Context(room.places, "ann"), "mx1", sweep=False) == 1
    error = capsys.readouterr().err
    assert error.startswith("quarantine: mx1: ")
    assert error.count("\n") == 1


@pytest.mark.usefixtures("command")
def test_forget_prints_its_plan_in_a_dry_run_and_then_does_it(room: Room, capsys: pytest.CaptureFixture[str]) -> None:
    path = Path(room.layout.state, "mx9.json")
    path.write_text("{}")
    assert cli.main(["forget", "mx9", "--dry-run", "--json"], room.places) == 0
    assert json.loads(capsys.readouterr().out) == {"mx": "mx9", "dry_run": True}
    assert path.exists()
    assert cli.main(["forget", "mx9"], room.places) == 0
    assert not path.exists()


@pytest.mark.usefixtures("command")
def test_a_dry_pull_only_counts(room: Room, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    room.fill(3)
    monkeypatch.setattr(pull_command, "remote_of", lambda *_: room.mx)
    monkeypatch.setattr(context, "Index", lambda: room.index)
    assert cli.main(["pull", "--dry-run", "--json"], room.places) == 0
    assert json.loads(capfd.readouterr().out)["missing"] == 3
    assert not Path(room.layout.incoming("mx1")).exists()
    assert not list(Path(room.layout.state).iterdir())
    room.mx.fail = remote.PullError("no route")
    assert cli.main(["pull", "--dry-run"], room.places) == 1


def test_files_of_an_mx_that_has_left_the_inventory_are_imported(
    command: Room, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Damaged files don't count as missing any more: their MX isn't asked again."""
    command.settings.mx.clear()
    monkeypatch.setattr(context, "Index", lambda: command.index)
    monkeypatch.setattr(time, "time", lambda: command.now)
    put(command.incoming, ident(1), kept(ident(1)))
    put(command.incoming, ident(2), kept(ident(2))[:-1])
    before = command.source()
    before.unpulled, before.oldest = 2, NOON
    before.save(command.layout.state, command.now)
    assert pull_command.pull_mx(context.Context(command.places, "ann"), "mx1", sweep=False, as_json=True) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["now"] | {"imported": 1, "damaged": 1, "files": 1} == record["now"]
    assert (record["imported"], record["unpulled"], record["oldest"]) == (1, 0, None)
    assert vars(command.source()) == {key: value for key, value in record.items() if key != "now"}


def test_no_command_runs_before_root_is_dropped(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse() -> None:
        raise QuarantineError("run this as root or as mf-quarantine")

    monkeypatch.setattr(context, "drop_root", refuse)
    monkeypatch.setattr(context, "Context", lambda *_: pytest.fail("it went on"))
    assert cli.main(["list"]) == 1
    assert capsys.readouterr().err == "quarantine: run this as root or as mf-quarantine\n"


@pytest.mark.parametrize(
    ("argv", "code", "message"),
    [
        ([], 2, "required: COMMAND"),
        (["look"], 2, "invalid choice"),
        (["list", "--lim", "3"], 2, "unrecognized arguments"),
        (["list", "--domain", "../../etc"], 2, "is no domain"),
        (["list", "--day", "2026-13-01"], 2, "is no day"),
        (["list", "--since", "yesterday"], 2, "is no time"),
        (["list", "--limit", "many"], 2, "is no number"),
        (["list", "--before", "x"], 2, "is no id"),
        (["list", "--day", "2026-11-25", "--since", "2h"], 2, "use either --day or --since and --until"),
        (["show", "x\x1b[2J\nx"], 2, r"'x\\x1b[2J\\nx' is no id"),
        (["show", ident()], 1, "ever came here"),
        (["release"], 2, "required: ID"),
        (["release", ident(), "--by", "a\nb"], 2, "1 to 64 printable characters"),
        (["release", ident()], 1, "no such message ever came here"),
        (["pull", "--mx", "mx9\x1b"], 2, r"no MX is called mx9\x1b; there are mx1"),
        (["expire", "--max", "soon"], 2, "argument --max"),
        (["repair", "now"], 2, "unrecognized arguments"),
        (["forget"], 2, "required: MX"),
        (["forget", "mx1"], 1, "is in the inventory"),
        (["forget", "../x"], 1, "nothing is known of ../x"),
        (["migrate"], 1, "run this as root"),
    ],
)
def test_a_wrong_command_line_gets_one_line(
    command: Room,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    argv: list[str],
    code: int,
    message: str,
) -> None:
    monkeypatch.setattr(context, "Index", lambda: types.SimpleNamespace(find=lambda _: None))
    monkeypatch.setattr(os, "getuid", lambda: 1000)
    try:
        ended: object = cli.main(argv, command.places)
    except SystemExit as error:
        ended = error.code
    out, err = capsys.readouterr()
    assert (ended, out) == (code, "")
    assert err.startswith("quarantine")
    assert err.count("\n") == 1
    assert message in err


@pytest.mark.parametrize(("word", "start"), [("2026-11-25", "20261125"), ("2026-1-5", "20260105")])
def test_a_day_is_a_range_of_ids(
    command: Room, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], word: str, start: str
) -> None:
    asked: list[list[object]] = []

    def stream(_: str, values: list[object]) -> Iterator[dict[str, Any]]:
        asked.append(values)
        return iter([])

    monkeypatch.setattr(context, "Index", lambda: types.SimpleNamespace(stream=stream))
    assert cli.main(["list", "--domain", "A.example", "--day", word], command.places) == 0
    assert asked == [["a.example", start, start + "~", 100]]
    assert capsys.readouterr() == ("", "")
