#!/usr/bin/python
# SPDX-License-Identifier: GPL-3.0-or-later
"""Documentation of the action plugin mf_preflight; nothing runs on the host."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: mf_preflight
short_description: Refuse invalid settings and hosts, before anything is changed
description:
  - Evaluates C(tasks/preflight.yml) of every role of the play for a host, in one task and on the controller.
  - Such a file holds C(ansible.builtin.assert) tasks only, each maybe with C(when) and C(loop).
  - Numbers are compared with the roles' C(__<role>_ranges) and C(__<role>_order).
  - Fails with all problems in one message.
  - M(mf_deploy) does this by itself before it changes anything.
version_added: "0.1.0"
options:
  facts:
    description: The host's facts from M(mf_deploy); without them, only the roles' own conditions are evaluated.
    type: dict
    default: {}
  roles:
    description: Whether to evaluate the roles' own conditions.
    type: bool
    default: true
attributes:
  action:
    description: Runs on the controller.
    support: full
  check_mode:
    description: Changes nothing in any mode.
    support: full
  diff_mode:
    description: Nothing to show.
    support: none
  platform:
    description: Nothing runs on the host.
    support: full
    platforms: all
author:
  - The mf authors
"""

EXAMPLES = r"""
- name: Refuse invalid settings
  mf_preflight:
"""

RETURN = r"""
msg:
  description: All problems and their remedies.
  returned: always
  type: str
"""

from ansible.module_utils.basic import AnsibleModule

ARGUMENTS = {"facts": {"type": "dict", "default": {}}, "roles": {"type": "bool", "default": True}}


def main() -> None:
    """Entry point of the module."""
    AnsibleModule(argument_spec=ARGUMENTS, supports_check_mode=True).fail_json(
        msg="mf_preflight runs on the controller: name action_plugins/ of this repository in ansible.cfg"
    )


if __name__ == "__main__":
    main()
