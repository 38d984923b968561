"""What a lab consists of: names, addresses, ports, paths. Pure data; nothing here touches the machine."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

# Host -> last octet of its address. `world` is everything outside the fleet: senders, a customer's mail server.
# (control1, not control: Ansible warns at every command about a host that is called like its group.)
OCTETS = {"mx1": 11, "mx2": 12, "mx3": 13, "control1": 21, "offsite1": 22, "monitor1": 23, "world": 31}
# The groups of inventory/lab, which a command may name instead of hosts.
GROUPS = {"mx": ("mx1", "mx2", "mx3"), "control": ("control1",), "offsite": ("offsite1",), "monitor": ("monitor1",)}
# Further names a host answers to in the lab's DNS.
ALIASES = {"world": ("mail.customer.example", "mail.shop.example")}

HIGHEST_NUMBER = 249
REPOSITORY = Path(__file__).resolve().parents[2]

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_PREREQUISITES = 3
EXIT_INTERRUPTED = 130


class LabError(Exception):
    """An error for the operator at the terminal: one message without a traceback. `code` is the exit status."""

    def __init__(self, message: str, code: int = EXIT_FAILED) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True)
class Host:
    """One container of a lab."""

    name: str
    container: str
    address: str
    mac: str  # fixed: after a restart with another one, its neighbours would not find it for half a minute
    ssh_port: int  # on 127.0.0.1 of the machine that runs the lab
    aliases: tuple[str, ...] = ()


@dataclass(frozen=True)
class Lab:
    """Lab number `number` (0..249): its own network 10.111.N.0/24, its own containers, keys and ports.

    `home` is the directory for its keys and state, `.lab/N` in the checkout.
    """

    number: int
    home: Path

    @property
    def network(self) -> str:
        """The name of its podman network."""
        return f"mf-lab-{self.number}"

    @property
    def subnet(self) -> str:
        """The network's addresses."""
        return f"10.111.{self.number}.0/24"

    @property
    def label(self) -> str:
        """The label of all that podman makes for it, and only for it."""
        return f"mf.lab={self.number}"

    @property
    def key(self) -> Path:
        """Its private ssh key."""
        return self.home / "id_ed25519"

    @property
    def known_hosts(self) -> Path:
        """The pinned keys of its hosts."""
        return self.home / "known_hosts"

    def host(self, name: str) -> Host:
        """Return the host `name`, one of OCTETS."""
        octet = OCTETS[name]
        return Host(
            name=name,
            container=f"mf-lab{self.number}-{name}",
            address=f"10.111.{self.number}.{octet}",
            mac=f"02:6d:66:{self.number:02x}:00:{octet:02x}",  # 02: locally administered
            ssh_port=2200 + 100 * self.number + octet,
            aliases=ALIASES.get(name, ()),
        )

    def hosts(self) -> list[Host]:
        """Return all hosts in order."""
        return [self.host(name) for name in OCTETS]


def parse_number(text: str) -> int:
    """Return the lab number written in `text`; LabError (usage) unless it is 0..249."""
    if not re.fullmatch(r"[0-9]{1,3}", text) or int(text) > HIGHEST_NUMBER:
        raise LabError(f"the lab number (--lab or MF_LAB) must be 0 to {HIGHEST_NUMBER}, not {text!r}", EXIT_USAGE)
    return int(text)


def parse_hosts(text: str) -> list[str]:
    """Return the hosts that the comma-separated names of hosts and groups in `text` mean, in the lab's order.

    LabError (usage) for a name that is neither, or if there is none.
    """
    names = [name.strip() for name in text.split(",") if name.strip()]
    unknown = [name for name in names if name not in OCTETS and name not in GROUPS]
    if unknown or not names:
        known = ", ".join([*OCTETS, *GROUPS])
        raise LabError(f"unknown host {', '.join(unknown) or repr(text)}: choose from {known}", EXIT_USAGE)
    wanted = {host for name in names for host in GROUPS.get(name, (name,))}
    return [name for name in OCTETS if name in wanted]


def open_lab(number: str | None, repository: Path = REPOSITORY) -> Lab:
    """Return the lab that `--lab` (or else MF_LAB, or else 0) names."""
    chosen = parse_number(number if number is not None else os.environ.get("MF_LAB") or "0")
    return Lab(number=chosen, home=repository / ".lab" / str(chosen))
