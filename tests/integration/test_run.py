"""One run of a check, in processes of its own as cron would start it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mf import run, state

LIB = Path(__file__).resolve().parents[2] / "roles/mf_tree/files/lib"

# A check that does what its setting "do" says.
PROGRAM = """
import sys, time
sys.path.insert(0, {lib!r})
from mf import run, state

def probe(places, values):
    do = values["do"]
    if do == "ok":
        return state.Result("load", state.OK, "fine", {{"load1": 0.5}})
    if do == "raise":
        raise ValueError("bad\\x1b[31m thing\\nsecond line")
    if do == "hang":
        while True:
            try:
                time.sleep(100)
            except Exception:
                pass
    return slow

def slow(dry_run):
    if {slow!r} == "raise":
        raise OSError(28, "No space left")
    if {slow!r} == "hang":
        time.sleep(100)
    if {slow!r} == "nothing":
        return None
    result = state.Result("load", state.CRITICAL, "slow")
    result.actions.append("would act" if dry_run else "acted")
    return result

values = {values!r}
values.setdefault("generation", "abc")
run.state.Places.__init__.__defaults__ = ({root!r}, "/proc")
run.main(run.Check("load", probe, {{"do": str, "high": (0.1, 100)}}, ""), sys.argv[1:], **values)
"""
VALUES = {"period": 60, "deadline": 5, "high": 5.0, "do": "ok"}


class Ran:
    def __init__(self, done: subprocess.CompletedProcess[str], root: Path) -> None:
        self.code = done.returncode
        self.out = done.stdout
        self.err = done.stderr
        path = root / "run/mf/state/load.json"
        self.stored: dict[str, Any] | None = json.loads(path.read_text()) if path.exists() else None


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for folder in ("mf/etc", "run/mf/state", "run/mf/lock", "mf/var/log"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "mf/etc/mf.json").write_text('{"generation": "abc", "host": "mx1"}\n')
    return tmp_path


def program(root: Path, slow: str = "", **values: Any) -> str:
    chosen = {key: value for key, value in {**VALUES, **values}.items() if value is not None}
    return PROGRAM.format(lib=str(LIB), slow=slow, values=chosen, root=str(root))


def ran(root: Path, *argv: str, slow: str = "", **values: Any) -> Ran:
    command = [sys.executable, "-IS", "-c", program(root, slow, **values), *argv]
    return Ran(subprocess.run(command, capture_output=True, text=True, check=False, timeout=20), root)


def test_a_healthy_run(root: Path) -> None:
    outcome = ran(root)
    assert (outcome.code, outcome.out, outcome.err) == (0, "LOAD OK - fine | load1=0.5\n", "")
    assert outcome.stored is not None
    assert outcome.stored["status"] == "OK"
    assert outcome.stored["generation"] == "abc"


def test_a_run_on_the_slow_path(root: Path) -> None:
    outcome = ran(root, do="slow")
    assert outcome.code == 2
    assert outcome.stored is not None
    assert outcome.stored["actions"] == ["acted"]


def test_a_dry_run_stores_nothing(root: Path) -> None:
    outcome = ran(root, "--dry-run", "--json", do="slow")
    assert outcome.code == 2
    assert json.loads(outcome.out)["actions"] == ["would act"]
    assert outcome.stored is None


def test_a_dry_run_lists_its_actions(root: Path) -> None:
    assert ran(root, "--dry-run", do="slow").out == "LOAD CRITICAL - slow\nwould act\n"


def test_json(root: Path) -> None:
    outcome = ran(root, "--json")
    assert json.loads(outcome.out) == outcome.stored


@pytest.mark.parametrize("argv", [("--nonsense",), ("extra",), ("--dry",)])
def test_a_wrong_command_line(root: Path, argv: tuple[str, ...]) -> None:
    outcome = ran(root, *argv)
    assert outcome.code == 3
    assert outcome.out == ""
    assert len(outcome.err.splitlines()) == 1
    assert outcome.stored is None


def test_help(root: Path) -> None:
    outcome = ran(root, "--help")
    assert outcome.code == 0
    assert "--dry-run" in outcome.out


def test_an_exception_is_one_line(root: Path) -> None:
    outcome = ran(root, do="raise")
    assert outcome.code == 3
    assert outcome.out == "LOAD UNKNOWN - internal error: ValueError: bad\\x1b[31m thing\\nsecond line\n"
    assert "Traceback" not in outcome.err
    assert outcome.stored is not None
    assert outcome.stored["status"] == "UNKNOWN"


def test_an_exception_on_the_slow_path(root: Path) -> None:
    outcome = ran(root, do="slow", slow="raise")
    assert (outcome.code, outcome.out) == (3, "LOAD UNKNOWN - internal error: OSError: [Errno 28] No space left\n")


def test_a_slow_path_without_a_result(root: Path) -> None:
    assert ran(root, do="slow", slow="nothing").code == 3


@pytest.mark.parametrize(("do", "slow"), [("hang", ""), ("slow", "hang")])
def test_the_deadline(root: Path, do: str, slow: str) -> None:
    begun = time.monotonic()
    outcome = ran(root, do=do, slow=slow, deadline=1)
    assert (outcome.code, outcome.out) == (3, "LOAD UNKNOWN - did not finish within 1 s\n")
    assert time.monotonic() - begun < 20
    assert outcome.stored is not None
    assert outcome.stored["status"] == "UNKNOWN"


def test_a_second_run_leaves_at_once(root: Path) -> None:
    ran(root)
    with subprocess.Popen([sys.executable, "-IS", "-c", program(root, do="hang", deadline=3)], stdout=subprocess.PIPE):
        places = state.Places(str(root))
        give_up = time.monotonic() + 5
        while time.monotonic() < give_up:
            with places.lock("load") as held:
                if not held:
                    break
            time.sleep(0.02)
        outcome = ran(root)
        assert (outcome.code, outcome.out, outcome.err) == (0, "", "")
        # once the last result is past its time, nobody knows how things are
        os.unlink(root / "run/mf/state/load.json")
        outcome = ran(root)
        assert (outcome.code, outcome.err, outcome.stored) == (3, "", None)
        assert outcome.out.startswith(
            "LOAD UNKNOWN - another run is under way, and the last result is missing or past its time"
        )


def test_overdue(tmp_path: Path) -> None:
    places = state.Places(str(tmp_path))
    assert run.overdue(places, "load")
    result = state.Result("load", state.OK, "fine")
    state.write_result(places, result, generation="abc", started=time.time(), period=120, slack=10)
    assert not run.overdue(places, "load")
    state.write_result(places, result, generation="abc", started=time.time(), period=120, slack=-121)
    assert run.overdue(places, "load")
    Path(places.results, "load.json").write_bytes(b"{}")
    assert run.overdue(places, "load")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"high": None}, "high must be a number from 0.1 to 100, not None"),
        ({"high": "high"}, "high must be a number from 0.1 to 100, not 'high'"),
        ({"high": True}, "high must be a number"),
        ({"high": 101}, "high must be a number"),
        ({"do": 5}, "do must be a text"),
        ({"deadline": -5}, "deadline must be a number from 1 to 3600, not -5"),
        ({"period": None}, "period must be a number"),
    ],
)
def test_a_bad_setting(root: Path, values: dict[str, Any], message: str) -> None:
    outcome = ran(root, **values)
    assert outcome.code == 3
    assert len(outcome.err.splitlines()) == 1
    assert message in outcome.err
    assert outcome.stored is not None
    assert outcome.stored["status"] == "UNKNOWN"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "is missing"),
        ('{"generation": "abc", "host": "mx1"', "is not a whole JSON object"),
        ("", "is not a whole JSON object"),
    ],
)
def test_bad_settings_files(root: Path, content: str | None, message: str) -> None:
    path = root / "mf/etc/mf.json"
    if content is None:
        path.unlink()
    else:
        path.write_text(content)
    outcome = ran(root)
    assert outcome.code == 3
    assert message in outcome.err
    assert len(outcome.err.splitlines()) == 1
    assert message in outcome.out
    assert outcome.stored is not None


def test_settings_of_another_release(root: Path) -> None:
    outcome = ran(root, generation="def", do="slow")
    assert outcome.code == 3
    assert "this launcher is of release def" in outcome.out
    assert outcome.stored is not None
    assert outcome.stored["actions"] == []


def test_a_deploy_that_overtakes_a_run_spoils_no_result(root: Path) -> None:
    (root / "mf/current").symlink_to("releases/abc")
    outcome = ran(root, generation="def")
    assert outcome.code == 3
    assert "a deploy overtook this run" in outcome.out
    assert outcome.stored is None


def test_a_result_that_cannot_be_stored_is_still_said(root: Path) -> None:
    os.rmdir(root / "run/mf/state")
    (root / "run/mf/state").write_text("in the way")
    outcome = ran_without_result(root)
    assert (outcome.returncode, outcome.stdout) == (0, "LOAD OK - fine | load1=0.5\n")
    assert "can't be stored" in outcome.stderr


def ran_without_result(root: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-IS", "-c", program(root)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=20)


def test_no_lock_no_action(root: Path) -> None:
    os.rmdir(root / "run/mf/lock")
    (root / "run/mf/lock").write_text("in the way")
    outcome = ran(root, do="slow")
    assert outcome.code == 3
    assert "no lock" in outcome.out


def test_a_closed_output_is_no_error(root: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run([sys.executable, "-IS", "-c", program(root)], stdout=writer, check=False, timeout=20)
    os.close(writer)
    assert done.returncode == 0


@given(
    st.dictionaries(st.sampled_from(["a", "b"]), st.none() | st.integers() | st.floats() | st.text() | st.booleans())
)
def test_only_good_settings_pass(values: dict[str, Any]) -> None:
    problem = run.wrong_setting(values, {"a": (1, 5), "b": str})
    good = type(values.get("a")) in (int, float) and 1 <= values["a"] <= 5 and isinstance(values.get("b"), str)
    assert (problem is None) == good
    assert problem is None or "\n" not in problem
