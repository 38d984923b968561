"""The public ssh host key of a host of the inventory, as this machine has verified it."""

from __future__ import annotations

import os
import shlex
import subprocess
from typing import Any

from ansible.errors import AnsibleLookupError
from ansible.plugins.lookup import LookupBase

DOCUMENTATION = """
name: mf_host_key
short_description: The public ssh host key of a host of the inventory
description:
  - Takes it from the known_hosts file that ssh itself would use for that host, so the hosts of the fleet trust the same
    keys as Ansible. A variable C(mf_ssh_host_key) of the host comes first.
  - An Ed25519 key is preferred, then ECDSA, then RSA.
options:
  _terms:
    description: Names of hosts in the inventory.
    required: true
    type: list
    elements: str
  default:
    description: The value for a host whose key isn't known; without it that is an error.
    type: str
author: the mf project
"""

EXAMPLES = """
- name: Show a line of known_hosts
  ansible.builtin.debug:
    msg: "{{ hostvars['mx1'].mf_address }} {{ lookup('mf_host_key', 'mx1') }}"
"""

RETURN = """
_raw:
  description: Type and key as in a public key file, without a comment.
  type: list
  elements: str
"""

PREFERRED = ("ssh-ed25519", "ecdsa-sha2-nistp256", "ecdsa-sha2-nistp384", "ecdsa-sha2-nistp521", "ssh-rsa")


def ssh_settings(address: str, port: int, options: list[str]) -> dict[str, str]:
    """Return ssh's settings for this address: `ssh -G` (man ssh), lower-case names to values."""
    done = _run(["ssh", "-G", *options, "-p", str(port), "--", address])
    return dict(line.split(" ", 1) for line in done.splitlines() if " " in line)


def known_keys(settings: dict[str, str]) -> list[str]:
    """Return the keys of known_hosts files for an address, best first, as "TYPE KEY"."""
    port = settings.get("port", "22")
    host = settings["hostname"]
    name = settings.get("hostkeyalias") or (host if port == "22" else f"[{host}]:{port}")
    keys = []
    for setting in ("userknownhostsfile", "globalknownhostsfile"):
        for file in shlex.split(settings.get(setting, "")):
            if os.path.exists(os.path.expanduser(file)):
                lines = _run(["ssh-keygen", "-F", name, "-f", os.path.expanduser(file)], missing=True).splitlines()
                # marked lines (@revoked, @cert-authority) are no host's key
                keys += [line.split()[1:3] for line in lines if not line.startswith(("#", "@")) and line.count(" ") > 1]
    return [" ".join(key) for key in sorted(keys, key=_rank) if key[0] in PREFERRED]


def _rank(key: list[str]) -> int:
    return PREFERRED.index(key[0]) if key[0] in PREFERRED else len(PREFERRED)


def _run(command: list[str], *, missing: bool = False) -> str:
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=20
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise AnsibleLookupError(f"{command[0]}: {error}") from None
    if done.returncode and not missing:
        raise AnsibleLookupError(f"{shlex.join(command)}: {done.stderr.strip()[:300]}")
    return done.stdout


class LookupModule(LookupBase):
    """See DOCUMENTATION."""

    _known: dict[tuple[str, ...], list[str]] = {}  # noqa: RUF012  (one process asks for the same hosts for each host)

    def run(self, terms: list[str], variables: dict[str, Any] | None = None, **kwargs: Any) -> list[str]:
        """Return the keys of the named hosts, in their order."""
        self.set_options(var_options=variables, direct=kwargs)
        return [self._key(str(name), (variables or {}).get("hostvars", {})) for name in terms]

    def _key(self, name: str, hosts: Any) -> str:
        if name not in hosts:
            raise AnsibleLookupError(f"mf_host_key: no host {name!r} in the inventory")
        host = hosts[name]
        own = host.get("mf_ssh_host_key")
        if own:
            return " ".join(str(own).split()[:2])
        address, port = str(host.get("ansible_host", name)), int(host.get("ansible_port", 22))
        options = [word for key in ("common", "extra") for word in shlex.split(host.get(f"ansible_ssh_{key}_args", ""))]
        asked = (address, str(port), *options)
        if asked not in self._known:
            self._known[asked] = known_keys(ssh_settings(address, port, options))
        if self._known[asked]:
            return self._known[asked][0]
        default = self.get_option("default")
        if default is not None:
            return str(default)
        raise AnsibleLookupError(
            f"the ssh host key of {name} ({address}, port {port}) isn't in your known_hosts. Fetch it with "
            "ssh-keyscan, compare its fingerprint with the one your provider gives, then add it"
        )
