#!/usr/bin/python
# SPDX-License-Identifier: GPL-3.0-or-later
"""Documentation and options of mf_inventory; the work is done on the controller, by the action plugin."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: mf_inventory
short_description: Refuse an inventory that can't work, before anything is changed
description:
  - Checks all MX machines (group C(mx)) at once and reports every problem with its remedy.
  - Runs on the controller alone; no host is touched, none needs to be reachable.
  - "Checked: there are MX machines, each with an address of its own; every domain has a route to its mail server;
    ports are ports; fewer MX machines must accept mail than there are. No host has a variable under its former name.
    Every host's services, and the variables of a monitor in this run, have the options and types that its role takes."
version_added: "0.1.0"
options: {}
attributes:
  check_mode:
    description: Changes nothing, so check mode makes no difference.
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
- name: Refuse an inventory that can't work
  mf_inventory:
  run_once: true
"""

RETURN = r"""
msg:
  description: One line that sums up the fleet, or all problems.
  returned: always
  type: str
  sample: 3 MX machines, 2 must accept mail, 2 domains
problems:
  description: The problems, one entry each.
  returned: failure
  type: list
  elements: str
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule

ARGUMENTS: dict[str, dict[str, Any]] = {}


def main() -> None:
    """Entry point of the module."""
    AnsibleModule(argument_spec=ARGUMENTS, supports_check_mode=True).fail_json(
        msg="mf_inventory runs on the controller: name action_plugins/ of this repository in ansible.cfg"
    )


if __name__ == "__main__":
    main()
