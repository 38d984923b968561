#!/usr/bin/python
# SPDX-License-Identifier: GPL-3.0-or-later
"""Refuse a play that calls mf_deploy by its former name."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: mf_release
short_description: The former name of mf_deploy
description:
  - Always fails and names M(mf_deploy). Nothing is changed.
version_added: "0.1.0"
options:
  state: {description: As in M(mf_deploy)., type: str}
  host: {description: As in M(mf_deploy)., type: str}
  type: {description: As in M(mf_deploy)., type: str}
  remove_roles: {description: As in M(mf_deploy)., type: list, elements: str}
attributes:
  check_mode:
    description: Fails all the same.
    support: full
  diff_mode:
    description: There is nothing to show.
    support: none
  platform:
    description: Any.
    support: full
    platforms: all
seealso:
  - module: mf_deploy
author:
  - The mf authors
"""

EXAMPLES = r"""
- name: Fail with the module's new name
  mf_release:
"""

RETURN = r"""
msg:
  description: The new name.
  returned: failure
  type: str
"""

from ansible.module_utils.basic import AnsibleModule

ARGUMENTS = {
    "state": {"type": "str"},
    "host": {"type": "str"},
    "type": {"type": "str"},
    "remove_roles": {"type": "list", "elements": "str"},
}


def main() -> None:
    """Entry point of the module."""
    module = AnsibleModule(argument_spec=ARGUMENTS, supports_check_mode=True)
    module.fail_json(msg="mf_release is now called mf_deploy: change the name in your play. Nothing was changed.")


if __name__ == "__main__":
    main()
