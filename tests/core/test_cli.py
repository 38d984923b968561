"""Command lines: what each end of a command prints, and its exit code."""

from __future__ import annotations

import argparse
import errno
import os
import sys
from pathlib import Path

import pytest
from mf import Failure, arguments, cli, state

ENDS = [
    pytest.param(Failure("no such host"), 1, "mf: no such host\n", id="failure"),
    pytest.param(OSError(errno.ENOSPC, "No space left on device", "/mf/x\n"), 1, "mf: /mf/x\\n: No space", id="path"),
    pytest.param(OSError("no route"), 1, "mf: no route\n", id="error"),
    pytest.param(KeyboardInterrupt(), 130, "\n", id="ctrl-c"),
]


def command(end: BaseException | None = None, misuse: int = cli.MISUSE, failure: int | None = None) -> cli.Command:
    """A command with one subcommand, which ends so."""

    def work(chosen: argparse.Namespace, places: state.Places) -> int:
        if end is not None:
            raise end
        print(chosen.dry_run, chosen.json, places.current)
        return 4

    parser = cli.Command("mf", "Test.", misuse=misuse, failure=failure)
    parser.add("go", work, "Go.", dry_run=True, json="as JSON")
    return parser


def test_a_subcommand_gets_its_options_and_gives_the_exit_code(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command().main(["go", "--dry-run"], state.Places(str(tmp_path))) == 4
    assert capsys.readouterr().out == f"True False {tmp_path}/mf/current\n"


@pytest.mark.parametrize(("end", "code", "message"), ENDS)
def test_each_end_has_its_exit_code_and_one_line(
    end: BaseException, code: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(end).main(["go"]) == code
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith(message)
    assert printed.err.count("\n") == 1


def test_a_command_may_have_its_own_code_for_failures(capsys: pytest.CaptureFixture[str]) -> None:
    assert command(Failure("gone"), failure=75).main(["go"]) == 75
    assert capsys.readouterr().err == "mf: gone\n"


@pytest.mark.parametrize("argv", [[], ["stop"], ["go", "--dry"], ["go", "more"]])
def test_a_wrong_command_line_gets_one_line(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """No abbreviations either: an option that is added later would change what they mean."""
    with pytest.raises(SystemExit) as ended:
        command(misuse=3).main(argv)
    assert ended.value.code in (2, 3)
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    assert message.endswith("--help\n")


def test_a_reader_that_went_away_is_no_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    closed = os.fdopen(writer, "w")
    monkeypatch.setattr(sys, "stdout", closed)
    assert command().main(["go"]) == cli.FAILED
    assert sys.stdout is None
    with pytest.raises(BrokenPipeError):
        closed.close()


@pytest.mark.parametrize(
    ("argv", "chosen"), [([], (False, False)), (["--dry-run"], (True, False)), (["--json"], (False, True))]
)
def test_the_options_of_a_check(argv: list[str], chosen: tuple[bool, bool]) -> None:
    assert arguments.check("load", "Test.", argv) == chosen


def test_a_wrong_command_line_of_a_check_is_unknown(capsys: pytest.CaptureFixture[str]) -> None:
    """3 is what Nagios reads as UNKNOWN."""
    with pytest.raises(SystemExit) as ended:
        arguments.check("load", "Test.", ["--jsno"])
    assert ended.value.code == 3
    assert capsys.readouterr().err.startswith("check-load: ")
