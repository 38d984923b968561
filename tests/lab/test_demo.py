"""The demo reads Ansible's output, and says what failed instead of showing a traceback."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import demo
import pytest

OUTPUT = """\
TASK [mf_tree : release | Release the tree] ***********
changed: [mx1]

PLAY RECAP *********************************************************************
localhost                  : ok=1    changed=0    unreachable=0    failed=0    skipped=0    rescued=0    ignored=0
mx1                        : ok=17   changed=4    unreachable=0    failed=0    skipped=2    rescued=0    ignored=0
control1                   : ok=9    changed=0    unreachable=0    failed=0    skipped=1    rescued=0    ignored=0
"""


@pytest.fixture(autouse=True)
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout of its own, with a program for `ansible-playbook` in PATH."""
    monkeypatch.setattr(demo, "ROOT", tmp_path)
    monkeypatch.setattr(demo, "LOGS", tmp_path / "build")
    monkeypatch.setattr(demo, "HEALTH", tmp_path / "build/health.json")
    (tmp_path / "build").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    return tmp_path


def ansible(places: Path, code: int) -> None:
    program = places / "ansible-playbook"
    program.write_text(f"#!/bin/sh\ncat <<'END'\n{OUTPUT}END\nexit {code}\n")
    program.chmod(0o755)


def test_progress_shows_plays_tasks_and_handlers() -> None:
    lines = [
        "PLAY [MX machines] ***",
        "TASK [Gate: SMTP] **",
        "RUNNING HANDLER [End it] *",
        "ok: [mx1]",
        "PLAY RECAP ***",
    ]
    assert [demo.current_task(line) for line in lines] == ["MX machines", "Gate: SMTP", "End it", None, None]


def test_the_recap_is_summed_up() -> None:
    hosts = demo.recap(OUTPUT)
    assert hosts["mx1"]["changed"] == 4
    assert demo.summary(hosts) == "2 hosts, changed mx1"
    hosts["mx1"]["changed"] = 0
    assert demo.summary(hosts) == "2 hosts, nothing to change"


def test_a_failed_playbook_ends_the_run_with_its_last_lines(places: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ansible(places, code=2)
    with pytest.raises(demo.Failure, match=r"playbooks/site.yml failed; its whole output is in build/site.log"):
        demo.playbook("deployment", "site")
    assert "changed: [mx1]" in capsys.readouterr().out
    assert (places / "build/site.log").read_text() == OUTPUT


def test_bad_health_is_shown_and_no_health_is_a_failure(places: Path) -> None:
    ansible(places, code=2)
    with pytest.raises(demo.Failure, match="no health to show"):
        demo.health()


@pytest.mark.parametrize(("lost", "status", "good"), [(0, "OK", True), (1, "OK", False), (0, "WARNING", False)])
def test_it_is_good_only_when_all_is(
    lost: int, status: str, good: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(command: list[str], **_options: Any) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(command, lost if "mail" in command else 0)

    def play(_title: str, name: str, *_words: str, may_fail: bool = False) -> str:
        if name == "check_fleet":
            assert may_fail
            demo.HEALTH.write_text(json.dumps({"hosts": [{"name": "mx1", "status": status, "problems": []}]}))
        return ""

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(demo, "playbook", play)
    assert demo.demo(30) is good
    assert ("not as it should" in capsys.readouterr().out) is not good
