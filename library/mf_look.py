#!/usr/bin/python
# SPDX-License-Identifier: GPL-3.0-or-later
"""Look at a host before anything is done to it."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: mf_look
short_description: Look at a host before anything is changed on it
description:
  - Says in one cheap remote execution what a deployment needs to know, its system, its Python, whether systemd runs,
    which of the packages are missing, and whether apt could install those.
  - Refuses nothing by itself; it returns data.
version_added: "0.1.0"
options:
  packages:
    description: Debian packages that are going to be needed.
    type: list
    elements: str
    default: []
attributes:
  check_mode:
    description: >-
      Never changes packages. Outside of check mode it fetches apt's lists once, when a package can't be had and the
      lists are missing or older than a day.
    support: full
  diff_mode:
    description: Nothing to show.
    support: none
  platform:
    description: Runs on any POSIX system, to be able to say that it is the wrong one.
    support: full
    platforms: posix
author:
  - The mf authors
"""

EXAMPLES = r"""
- name: Look at the host
  mf_look:
    packages: [python3-psutil, nftables]
  register: look
"""

RETURN = r"""
system:
  description: ID of os-release(5), a space, VERSION_ID.
  returned: always
  type: str
  sample: debian 12
python:
  description: Version of the Python the module ran under.
  returned: always
  type: str
  sample: 3.11.2
systemd:
  description: Whether systemd is the init system.
  returned: always
  type: bool
root:
  description: Whether the module ran as root.
  returned: always
  type: bool
free_mib:
  description: Space left for /mf, in MiB.
  returned: always
  type: int
missing:
  description: Packages that are not installed.
  returned: always
  type: list
  elements: str
refused:
  description: Why apt can't install missing packages; empty when it can.
  returned: always
  type: str
  sample: "E: Unable to locate package nftables"
unknown:
  description: In check mode, apt's lists were missing or old, and it wasn't sure whether the packages can be had.
  returned: always
  type: bool
check_mode:
  description: Whether this is check mode. A play's own C(check_mode) is not in C(ansible_check_mode).
  returned: always
  type: bool
"""

import os
import platform
import re
import time
from collections.abc import Mapping
from typing import Any

from ansible.module_utils.basic import AnsibleModule

DAY = 86400.0
LISTS = "/var/lib/apt/lists"
_APT = ["apt-get", "--simulate", "--quiet", "--no-install-recommends", "install", "--"]
_ENVIRONMENT = {"LC_ALL": "C", "DEBIAN_FRONTEND": "noninteractive"}


def installed(status: bytes, packages: list[str]) -> set[str]:
    """Which packages dpkg's status file (deb822, man dpkg-query) says are installed."""
    found = set()
    for package in packages:
        pattern = rb"^Package: " + re.escape(package.encode()) + rb"\n(?:[^\n]+\n)*?Status: ([^\n]+)\n"
        head = re.search(pattern, status, re.MULTILINE)
        if head and head[1].split()[-1:] == [b"installed"]:
            found.add(package)
    return found


def system(text: str) -> str:
    """ID and VERSION_ID of os-release(5)."""
    fields = dict(line.split("=", 1) for line in text.splitlines() if "=" in line and not line.startswith("#"))
    return " ".join(fields.get(key, "unknown").strip("\"'") for key in ("ID", "VERSION_ID"))


def stale(lists: str, now: float) -> bool:
    """Whether apt's package lists are missing or older than a day."""
    try:
        times = [entry.stat().st_mtime for entry in os.scandir(lists) if entry.name.endswith("_Packages")]
        # fetching lists that didn't change upstream leaves their times alone, but touches the directory
        return not times or now - max(*times, os.stat(lists).st_mtime, os.stat(f"{lists}/partial").st_mtime) > DAY
    except FileNotFoundError:
        return True


def reason(output: str) -> str:
    """apt's errors in one line."""
    lines = [line.strip() for line in output.splitlines()]
    errors = [line for line in lines if line.startswith("E: ")]
    broken = [line for line in lines if " : Depends:" in line]
    return "; ".join(dict.fromkeys([*errors, *broken])) or (lines[-1] if lines else "apt-get failed without a word")


def read(path: str) -> bytes:
    """A file's content, or nothing."""
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError:
        return b""


def look(module: AnsibleModule) -> dict[str, Any]:
    """Everything that is to be known."""
    packages: list[str] = module.params["packages"]
    status = read("/var/lib/dpkg/status")
    missing = sorted(set(packages) - installed(status, packages))
    if missing and "python3-apt" not in installed(status, ["python3-apt"]):
        # what Ansible's apt module itself needs
        missing.append("python3-apt")
    space = os.statvfs("/mf" if os.path.isdir("/mf") else "/")
    found: dict[str, Any] = {
        "changed": False,
        "system": system((read("/etc/os-release") or read("/usr/lib/os-release")).decode(errors="replace")),
        "python": platform.python_version(),
        "systemd": os.path.isdir("/run/systemd/system"),
        "root": os.geteuid() == 0,
        "free_mib": space.f_bavail * space.f_frsize // (1 << 20),
        "missing": missing,
        "refused": "",
        "unknown": False,
    }
    return {**found, **(_obtainable(module, missing) if missing else {})}


def _obtainable(module: AnsibleModule, missing: list[str]) -> Mapping[str, Any]:
    apt = module.get_bin_path("apt-get")
    if apt is None:
        return {"refused": "there is no apt-get"}
    refused = _simulate(module, missing)
    if not refused or not stale(LISTS, time.time()):
        return {"refused": refused}
    if module.check_mode:
        return {"unknown": True}
    code, output, errors = module.run_command([apt, "--quiet", "update"], environ_update=_ENVIRONMENT)
    refused = _simulate(module, missing)
    if refused and code != 0:
        refused += f"; apt-get update failed: {reason(output + errors)}"
    return {"refused": refused}


def _simulate(module: AnsibleModule, packages: list[str]) -> str:
    """Why apt can't install some packages together; nothing when it can."""
    code, output, errors = module.run_command([*_APT, *packages], environ_update=_ENVIRONMENT)
    return "" if code == 0 else reason(output + "\n" + errors)


def main() -> None:
    """Entry point of the module."""
    module = AnsibleModule(
        argument_spec={"packages": {"type": "list", "elements": "str", "default": []}}, supports_check_mode=True
    )
    module.exit_json(**look(module), check_mode=module.check_mode)


if __name__ == "__main__":
    main()
