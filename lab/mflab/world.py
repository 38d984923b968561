"""What stands on the host `world`: the sender, a customer's mail server, gateways for messages, the internet's DNS."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from mflab.podman import Podman
from mflab.spec import Host, Lab, LabError

FILES = Path(__file__).resolve().parents[1] / "world"
RECORD = "/var/lib/world/mail.jsonl"
DOMAINS = ("customer.example", "shop.example")
MODES = ("accept", "tempfail", "refuse", "strict", "down")

# $1 is the hash of lab/world; prints "current" when that is what is installed and running.
CURRENT = """\
[ "$(cat /opt/world/made-of 2>/dev/null)" = "$1" ] && echo current || :
"""
INSTALL = """\
set -eu
cp /opt/world/*.service /etc/systemd/system/
cat > /opt/world/dns.conf
systemctl daemon-reload
services="world-customer.service world-gateway@8025.service world-gateway@8026.service"
systemctl --quiet enable $services world-dns.service
systemctl restart $services
# installs its package first: no start waits for that
systemctl --no-block restart world-dns.service
echo "$1" > /opt/world/made-of
"""


def made_of(folder: Path = FILES) -> str:
    """Return a short hash of what is installed on `world`."""
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if path.is_file():
            digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:12]


def names(lab: Lab) -> str:
    """The configuration of dnsmasq: the fleet's names, and MX records of the customers' domains."""
    mxs = [host for host in lab.hosts() if host.name.startswith("mx")]
    lines = ["no-resolv", "no-hosts", "bind-interfaces", "except-interface=lo", "local=/example/"]
    for host in mxs:
        lines.append(f"host-record={host.name}.filter.example,{host.address}")
        lines += [f"mx-host={domain},{host.name}.filter.example,10" for domain in DOMAINS]
    return "\n".join(lines) + "\n"


def equip(podman: Podman, lab: Lab, host: Host) -> None:
    """Install lab/world on `host` and start its services, unless they are there already."""
    wanted = made_of()
    if podman.run("exec", host.container, "sh", "-c", CURRENT, "sh", wanted)[1].strip() == "current":
        return
    podman.run("exec", host.container, "mkdir", "-p", "/opt/world")
    podman.run("cp", f"{FILES}/.", f"{host.container}:/opt/world")
    podman.run("exec", "--interactive", host.container, "sh", "-c", INSTALL, "sh", wanted, text=names(lab))


def gateway_record(podman: Podman, lab: Lab, port: int = 8025) -> list[dict[str, Any]]:
    """Return what a gateway took, oldest first: `time`, `path`, `text`. 8025 is the SMS gateway, 8026 the chat."""
    command = ("exec", lab.host("world").container, "cat", f"/var/lib/world/gateway-{port}.jsonl")
    code, lines = podman.run(*command, check=False)
    return [] if code else [json.loads(line) for line in lines.splitlines()]


def set_customer(podman: Podman, host: Host, mode: str) -> None:
    """Have the customer's mail server accept mail, refuse it for now (4xx) or for good (5xx), or be down.

    ``strict``: it refuses for good a message with a line that is too long, after its final dot.
    """
    action = "stop" if mode == "down" else "start"
    text = "accept" if mode == "down" else mode
    podman.run(
        "exec",
        host.container,
        "sh",
        "-c",
        f"echo {text} > /var/lib/world/mode && systemctl {action} world-customer.service",
    )


def recorded(podman: Podman, lab: Lab, run: str) -> str:
    """Return the lines of the customer's record that belong to the run `run`."""
    code, lines = podman.run("exec", lab.host("world").container, "grep", "-F", "-e", f'"{run}-', RECORD, check=False)
    if code > 1:
        raise LabError("world's record of mail can't be read: run `lab.py up`")
    return lines
