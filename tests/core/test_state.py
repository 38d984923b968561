"""Files, locks and results."""

from __future__ import annotations

import json
import multiprocessing
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mf import state
from mf.state import CRITICAL, OK, UNKNOWN, WARNING, Result


@pytest.fixture
def places(tmp_path: Path) -> state.Places:
    return state.Places(str(tmp_path))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(json_values)
def test_encode_is_json(value: Any) -> None:
    text_ = state.encode(value)
    assert text_.isascii()
    assert "\n" not in text_
    assert json.loads(text_) == value


def test_values_without_a_json_form_become_null() -> None:
    assert state.encode([float("inf"), float("nan"), 1.5]) == "[null, null, 1.5]"


@given(st.binary(max_size=200))
def test_decode_never_raises(data: bytes) -> None:
    assert state.decode(data) is None or isinstance(state.decode(data), dict)


@pytest.mark.parametrize("data", [None, b"", b"[1]", b"{", b"[" * 100_000, b"\xff", b"1"])
def test_decode_takes_objects_only(data: bytes | None) -> None:
    assert state.decode(data) is None


@pytest.mark.parametrize(
    ("statuses", "expected"),
    [
        ([], OK),
        ([OK, WARNING], WARNING),
        ([WARNING, UNKNOWN], UNKNOWN),
        ([UNKNOWN, CRITICAL, OK], CRITICAL),
    ],
)
def test_worst(statuses: list[str], expected: str) -> None:
    assert state.worst(statuses) == expected


def test_write_is_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(OSError, match="No such file"):
        state.write_atomic(str(tmp_path / "missing" / "file"), b"new")
    (tmp_path / "folder").mkdir()
    with pytest.raises(IsADirectoryError):
        state.write_atomic(str(tmp_path / "folder"), b"new")
    state.write_atomic(str(path), b"new" * 100_000, 0o600, durable=True)
    assert path.read_bytes() == b"new" * 100_000
    assert path.stat().st_mode & 0o777 == 0o600
    assert sorted(os.listdir(tmp_path)) == ["file", "folder"]


def test_a_full_disk_leaves_the_old_file() -> None:
    # /dev/full can't be renamed over; a file system of one page can be full
    if os.geteuid() != 0:
        pytest.skip("mounting takes root")
    with Tmpfs() as folder:
        path = folder / "file"
        state.write_atomic(str(path), b"old")
        with pytest.raises(OSError, match="No space left"):
            state.write_atomic(str(path), b"x" * 100_000)
        assert path.read_bytes() == b"old"
        assert os.listdir(folder) == ["file"]


class Tmpfs:
    """A file system of a few pages."""

    def __enter__(self) -> Path:
        import subprocess
        import tempfile

        self.folder = Path(tempfile.mkdtemp())
        if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16k", "none", self.folder], check=False).returncode:
            self.folder.rmdir()
            pytest.skip("mounting is not allowed here")
        return self.folder

    def __exit__(self, *_: object) -> None:
        import subprocess

        subprocess.run(["umount", self.folder], check=True)
        self.folder.rmdir()


def test_read(tmp_path: Path) -> None:
    path = tmp_path / "file"
    assert state.read_bytes(str(path)) is None
    path.write_bytes(b"abc" * 50_000)
    assert state.read_bytes(str(path)) == b"abc" * 50_000
    assert state.read_bytes(str(path), 10) == b"abcabcabca"
    (tmp_path / "link").symlink_to(path)
    with pytest.raises(OSError, match="symbolic links"):
        state.read_bytes(str(tmp_path / "link"))
    assert (state.read_bytes("/proc/self/status") or b"").startswith(b"Name:")


def test_a_link_in_the_way_is_replaced_not_followed(tmp_path: Path) -> None:
    target = tmp_path / "precious"
    target.write_text("precious")
    (tmp_path / "result").symlink_to(target)
    state.write_atomic(str(tmp_path / "result"), b"new")
    assert target.read_text() == "precious"
    assert (tmp_path / "result").read_text() == "new"


def _hold(places: state.Places, ready: Any, go: Any) -> None:
    with places.lock("smtp"):
        ready.set()
        go.wait(10)
        os.kill(os.getpid(), 9)


def test_a_lock_is_one_holders_and_ends_with_it(places: state.Places) -> None:
    with places.lock("smtp") as held:
        assert held
    context = multiprocessing.get_context("spawn")
    ready, go = context.Event(), context.Event()
    process = context.Process(target=_hold, args=(places, ready, go))
    process.start()
    assert ready.wait(20)
    with places.lock("smtp") as held:
        assert not held
    with places.lock("load") as held:
        assert held
    go.set()
    process.join()
    with places.lock("smtp", wait=2) as held:
        assert held


def written(places: state.Places, status: str, started: float) -> dict[str, Any]:
    result = Result("smtp", status, "text", {"greeting_seconds": 0.25})
    state.write_result(places, result, generation="abc", started=started, period=60, slack=30)
    stored = state.decode(state.read_bytes(places.results + "/smtp.json"))
    assert stored is not None
    return stored


def test_results_carry_since(places: state.Places) -> None:
    first = written(places, OK, 1000.0)
    assert set(first) == {
        "check",
        "status",
        "summary",
        "metrics",
        "since",
        "started",
        "finished",
        "next_due",
        "next_due_boottime",
        "actions",
        "generation",
    }
    assert first["since"] == 1000.0
    assert written(places, OK, 1060.0)["since"] == 1000.0
    assert written(places, CRITICAL, 1120.0)["since"] == 1120.0
    assert 85 < first["next_due_boottime"] - state.boottime() <= 90


@pytest.mark.parametrize(
    "torn",
    [
        b"",
        b"{",
        b'"status": "OK"',
        b'"status": "OK", "since": x,',
        b'"status": "OK", "since": -5,',
        b'"status": "OK", "since": 1e99,',
    ],
)
def test_since_of_a_torn_result_is_now(places: state.Places, torn: bytes) -> None:
    os.makedirs(places.results)
    Path(places.results, "smtp.json").write_bytes(torn)
    assert written(places, OK, 1000.0)["since"] == 1000.0


def test_the_line_is_a_nagios_plugins() -> None:
    result = Result(
        "smtp", OK, "fine | really", {"greeting_seconds": 0.25, "free_percent": 12, "class": "OK", "code": 250}
    )
    assert result.line() == "SMTP OK - fine / really | greeting_seconds=0.25s free_percent=12% code=250"


def test_a_directory_in_the_boot_tokens_place_is_moved_aside(places: state.Places) -> None:
    os.makedirs(places.boot)
    token = state.boot_token(places)
    assert len(token) == 16
    assert state.boot_token(places, make=False) == token
