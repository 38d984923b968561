"""Secrets are made once, whole, and for their owner's eyes; host keys are those that ssh trusts."""

from __future__ import annotations

import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import make_secrets
import pytest
import yaml
from ansible.errors import AnsibleLookupError
from ansible.plugins.loader import lookup_loader

from tests.deploy.conftest import ROOT

PORT = 2211


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("secrets") / "secrets.yml"
    done = subprocess.run(
        [sys.executable, ROOT / "scripts/make_secrets.py", path], capture_output=True, text=True, check=True
    )
    assert (done.stdout, done.stderr) == (f"{path}\n", "")
    return path


def test_all_secrets_exist_and_only_the_owner_may_read_them(made: Path) -> None:
    assert stat.S_IMODE(made.stat().st_mode) == 0o600
    assert list(made.parent.iterdir()) == [made]
    values = yaml.safe_load(made.read_text())["mf_secrets"]
    assert len(bytes.fromhex(values["canary_key"])) == 32
    # none of them begins with a "-", which a program could take for an option
    assert len(bytes.fromhex(values["borg_passphrase"])) == 32
    assert len(bytes.fromhex(values["page"]["password"])) == 12
    assert values["page"]["hash"].startswith("$6$")
    assert len({values["ssh"][purpose]["public"] for purpose in make_secrets.SSH_KEYS}) == len(make_secrets.SSH_KEYS)


def test_a_private_key_belongs_to_its_public_one(made: Path, tmp_path: Path) -> None:
    pair = yaml.safe_load(made.read_text())["mf_secrets"]["ssh"]["pull"]
    key = tmp_path / "key"
    key.touch(0o600)
    key.write_text(pair["private"])
    shown = subprocess.run(["ssh-keygen", "-y", "-f", key], capture_output=True, text=True, check=True).stdout
    assert shown.split()[:2] == pair["public"].split()[:2]


def test_what_is_there_is_never_touched(made: Path) -> None:
    before = made.read_bytes()
    done = subprocess.run(
        [sys.executable, ROOT / "scripts/make_secrets.py", made], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert "is there already" in done.stderr
    assert made.read_bytes() == before


@pytest.fixture
def plugin() -> Any:
    lookup_loader.add_directory(str(ROOT / "lookup_plugins"))
    return lookup_loader.get("mf_host_key")


@pytest.fixture
def known(tmp_path: Path) -> Path:
    path = tmp_path / "known_hosts"
    path.write_text(
        f"@revoked [192.0.2.1]:{PORT} ssh-ed25519 AAAArevoked\n"
        f"[192.0.2.1]:{PORT} ssh-rsa AAAArsa\n"
        f"[192.0.2.1]:{PORT} ssh-ed25519 AAAAed comment\n"
        "192.0.2.1 ssh-ed25519 AAAAother\n"
    )
    return path


def ask(plugin: Any, known: Path, host: dict[str, object], **options: object) -> str:
    arguments = f"-F none -o UserKnownHostsFile={known} -o GlobalKnownHostsFile=/dev/null"
    variables = {"hostvars": {"mx1": {"ansible_ssh_common_args": arguments, **host}}}
    return str(plugin.run(["mx1"], variables, **options)[0])


def test_the_key_is_that_of_address_and_port(plugin: Any, known: Path) -> None:
    host = {"ansible_host": "192.0.2.1", "ansible_port": PORT}
    assert ask(plugin, known, host) == "ssh-ed25519 AAAAed"
    assert ask(plugin, known, {"ansible_host": "192.0.2.1"}) == "ssh-ed25519 AAAAother"
    assert ask(plugin, known, {**host, "mf_ssh_host_key": "ssh-ed25519 AAAAsaid me@here"}) == "ssh-ed25519 AAAAsaid"


def test_an_unknown_host_is_an_error_that_names_the_remedy(plugin: Any, known: Path) -> None:
    host = {"ansible_host": "192.0.2.2", "ansible_port": PORT}
    with pytest.raises(AnsibleLookupError, match="ssh-keyscan"):
        ask(plugin, known, host)
    assert ask(plugin, known, host, default="") == ""
    with pytest.raises(AnsibleLookupError, match="no host 'mx2'"):
        plugin.run(["mx2"], {"hostvars": {}})
