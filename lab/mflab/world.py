"""What stands on the host `world`: the sender and a customer's mail server."""

from __future__ import annotations

import hashlib
from pathlib import Path

from mflab.podman import Podman
from mflab.spec import Host, Lab, LabError

FILES = Path(__file__).resolve().parents[1] / "world"
RECORD = "/var/lib/world/mail.jsonl"
MODES = ("accept", "tempfail", "refuse", "down")

# $1 is the hash of lab/world; says "current" when that is what is installed and running.
CURRENT = """\
[ "$(cat /opt/world/made-of 2>/dev/null)" = "$1" ] && echo current || :
"""
INSTALL = """\
set -eu
cp /opt/world/world-customer.service /etc/systemd/system/
systemctl daemon-reload
systemctl --quiet enable world-customer.service
systemctl restart world-customer.service
echo "$1" > /opt/world/made-of
"""


def made_of(folder: Path = FILES) -> str:
    """Return a short hash of what is installed on `world`."""
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if path.is_file():
            digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:12]


def equip(podman: Podman, host: Host) -> None:
    """Install lab/world on `host` and start its services, unless they are there already."""
    wanted = made_of()
    if podman.run("exec", host.container, "sh", "-c", CURRENT, "sh", wanted)[1].strip() == "current":
        return
    podman.run("exec", host.container, "mkdir", "-p", "/opt/world")
    podman.run("cp", f"{FILES}/.", f"{host.container}:/opt/world")
    podman.run("exec", host.container, "sh", "-c", INSTALL, "sh", wanted)


def set_customer(podman: Podman, host: Host, mode: str) -> None:
    """Have the customer's mail server accept mail, refuse it for now (4xx) or for good (5xx), or be down."""
    words = "stop" if mode == "down" else "start"
    text = "accept" if mode == "down" else mode
    podman.run(
        "exec",
        host.container,
        "sh",
        "-c",
        f"echo {text} > /var/lib/world/mode && systemctl {words} world-customer.service",
    )


def recorded(podman: Podman, lab: Lab, run: str) -> str:
    """Return the lines of the customer's record that belong to the run `run`."""
    code, lines = podman.run("exec", lab.host("world").container, "grep", "-F", "-e", f'"{run}-', RECORD, check=False)
    if code > 1:
        raise LabError("world's record of mail can't be read: run `lab.py up`")
    return lines
