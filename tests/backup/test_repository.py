"""Messages of borg and ssh, and a lock left by a process that has ended."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import IO

import pytest
import yaml
from mf import borg, state
from mf_backup import jobs, repository

from tests.backup.conftest import SETTINGS, fake

HELD = '{"type": "log_message", "levelname": "ERROR", "message": "Failed to create/acquire the lock", "msgid": ""}'


LOCKED = f"""
case "$*" in
  *break-lock*) touch broken; exit 0 ;;
esac
[ -e broken ] && echo '{{"archives": []}}' && exit 0
echo '{HELD}' >&2
exit 2
"""


def test_the_environment_has_no_secret_and_trusts_one_host_key() -> None:
    env = repository.environment(SETTINGS)
    assert "BORG_PASSPHRASE" not in env
    assert env["BORG_PASSCOMMAND"] == "cat /mf/etc/backup/passphrase"
    assert "StrictHostKeyChecking=yes" in env["BORG_RSH"]
    assert "UserKnownHostsFile=/mf/etc/backup/known_hosts" in env["BORG_RSH"]
    variables = yaml.safe_load((Path(__file__).parents[2] / "roles/mf_backup/vars/main.yml").read_text())
    assert variables["__mf_backup_ssh"] == env["BORG_RSH"]  # borgmatic's


def test_a_stale_lock_is_broken_once_and_recorded(tmp_path: Path, places: state.Places) -> None:
    lock = places.lock(jobs.LOCK)
    with lock as held:
        assert held
        runner = fake(tmp_path, places, LOCKED, lock.fileno())
        assert runner.archives() == {}
    (line,) = Path(places.decisions).read_text().splitlines()
    assert json.loads(line)["action"] == "break-lock"


def test_without_the_repository_lock_no_lock_is_broken(tmp_path: Path, places: state.Places) -> None:
    with pytest.raises(borg.BorgError) as caught:
        fake(tmp_path, places, LOCKED).archives()
    assert caught.value.kind == "lock"
    assert not (tmp_path / "broken").exists()


@pytest.mark.parametrize(
    ("message", "kind"),
    [
        ("mf-offsite@192.0.2.22: Permission denied (publickey).", "key"),
        ("Host key verification failed.", "host_key"),
        ("borg serve ended", "cut"),
    ],
)
def test_ssh_explains_the_end_of_a_connection_when_borg_does_not(
    tmp_path: Path, places: state.Places, message: str, kind: str
) -> None:
    closed = json.dumps({"type": "log_message", "levelname": "ERROR", "message": "Connection closed by remote host."})
    runner = fake(tmp_path, places, f"echo '{closed}' >&2; exit 2")
    ssh = tmp_path / "ssh"
    ssh.write_text(f'#!/bin/sh\n[ "$1" = ssh://mf-offsite@192.0.2.22:22 ] && echo "{message}" >&2\nexit 255\n')
    ssh.chmod(0o755)
    runner.env["BORG_RSH"] = str(ssh)
    with pytest.raises(borg.BorgError) as caught:
        runner.archives()
    assert caught.value.kind == kind


def test_a_stale_lock_is_no_matter_for_borgmatic_either(tmp_path: Path, places: state.Places) -> None:
    lock = places.lock(jobs.LOCK)
    with lock as held:
        assert held
        runner = fake(tmp_path, places, LOCKED, lock.fileno())
        assert runner.run_other([str(tmp_path / "borg"), "create"], 60).out == '{"archives": []}\n'
    assert (tmp_path / "broken").exists()


@pytest.mark.parametrize(
    ("status", "message", "kind"), [(1, "Remote: Finished full repository check, errors found.", "corrupt")]
)
def test_borgmatic_ends_with_1_for_every_failure_and_borg_for_a_warning(
    tmp_path: Path, places: state.Places, status: int, message: str, kind: str
) -> None:
    runner = fake(tmp_path, places, f"echo '{message}' >&2; echo done; exit {status}")
    with pytest.raises(borg.BorgError) as caught:
        runner.run_other([str(tmp_path / "borg"), "check"], 60)
    assert caught.value.kind == kind
    assert runner.run("list").out == "done\n"


def test_a_reader_that_has_had_enough_ends_the_command(tmp_path: Path, places: state.Places) -> None:
    runner = fake(tmp_path, places, "exec cat /dev/zero")
    began = time.monotonic()

    def impatient(stream: IO[bytes]) -> None:
        stream.read(10)

    assert runner.run("extract", limit=60, sink=impatient).messages == []
    assert time.monotonic() - began < 30


@pytest.mark.parametrize(
    ("name", "kind"), [("passphrase", "passphrase"), ("ssh.key", "key"), ("known_hosts", "host_key")]
)
def test_files_of_the_deployment_are_missing(tmp_path: Path, places: state.Places, name: str, kind: str) -> None:
    runner = fake(tmp_path, places, "touch ran")
    (tmp_path / "etc" / name).unlink()
    with pytest.raises(borg.BorgError, match="deploy control again") as caught:
        runner.run("list")
    assert caught.value.kind == kind
    assert not (tmp_path / "ran").exists()
