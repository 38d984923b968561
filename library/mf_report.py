#!/usr/bin/python
# SPDX-License-Identifier: GPL-3.0-or-later
"""Documentation and options of mf_report; the work is done on the controller, by the action plugin."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: mf_report
short_description: Show the health of a fleet as a table
description:
  - Prints one line a host, aligned, and the problems below the table.
  - Takes the result that M(mf_health) with C(details=true) registered on each host.
  - A host without a result, unreachable for example, is shown, too.
  - Runs on the controller alone.
version_added: "0.1.0"
options:
  hosts:
    description: The hosts to show, in this order.
    type: list
    elements: str
    required: true
  register:
    description: The name under which the result of M(mf_health) was registered.
    type: str
    required: true
  json_file:
    description: Also write everything into this file, as JSON.
    type: path
  fail:
    description: Fail unless every host is OK, so that C(ansible-playbook) has an exit code that scripts can use.
    type: bool
    default: false
attributes:
  check_mode:
    description: Prints the same. The file of O(json_file) is written, too.
    support: full
  diff_mode:
    description: There is nothing to show.
    support: none
  platform:
    description: The controller.
    support: full
    platforms: posix
seealso:
  - module: mf_health
author:
  - The mf authors
"""

EXAMPLES = r"""
- name: Read the health of each host
  mf_health:
    details: true
  ignore_unreachable: true
  register: fleet_health

- name: Show the fleet
  mf_report:
    hosts: "{{ ansible_play_hosts_all }}"
    register: fleet_health
    fail: true
  run_once: true
"""

RETURN = r"""
msg:
  description: One line on the whole fleet.
  returned: always
  type: str
  sample: "5 of 6 hosts are OK; mx2 is CRITICAL"
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule

ARGUMENTS: dict[str, dict[str, Any]] = {
    "hosts": {"type": "list", "elements": "str", "required": True},
    "register": {"type": "str", "required": True},
    "json_file": {"type": "path"},
    "fail": {"type": "bool", "default": False},
}


def main() -> None:
    """Entry point of the module."""
    AnsibleModule(argument_spec=ARGUMENTS, supports_check_mode=True).fail_json(
        msg="mf_report runs on the controller: name action_plugins/ of this repository in ansible.cfg"
    )


if __name__ == "__main__":
    main()
