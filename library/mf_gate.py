#!/usr/bin/python
# SPDX-License-Identifier: GPL-3.0-or-later
"""Documentation and options of mf_gate; the work is done on the controller, by the action plugin."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: mf_gate
short_description: Decide whether a host may stay as a deploy left it
description:
  - "Runs the host's checks and asks two things: does it accept mail, and is anything worse than before the change?"
  - "Worse: SMTP by any degree; processes or the queue UNKNOWN or CRITICAL and not as bad before. Whatever else is wrong
    is a remark: it is shown, and keeps no host from passing."
  - A busy host is waited for, up to a minute. An MX whose slots are all taken and that works accepts mail, so it passes
    then, with a remark; unless it had a slot for the check since the change and left it without an answer.
version_added: "0.1.0"
options:
  before:
    description:
      - What M(mf_health) with C(details=true) said of the host before the change.
      - Without it everything that is wrong counts as new.
    type: dict
    default: {}
  checks:
    description: Let only these checks decide what is worse. Whether the host accepts mail is asked in any case.
    type: list
    elements: str
    choices: [smtp, processes, queue]
    default: [smtp, processes, queue]
attributes:
  check_mode:
    description: Reads only; the checks are not run.
    support: full
  diff_mode:
    description: There is nothing to show.
    support: none
  platform:
    description: Debian, with the /mf tree.
    support: full
    platforms: debian
seealso:
  - module: mf_health
  - module: mf_budget
author:
  - The mf authors
"""

EXAMPLES = r"""
- name: How it is before
  mf_health:
    details: true
  register: mf_before

- name: Decide
  mf_gate:
    before: "{{ mf_before }}"
"""

RETURN = r"""
msg:
  description: One line that says why it didn't pass, or that it did.
  returned: always
  type: str
  sample: it accepts mail, and nothing is worse than before
wrong:
  description: What keeps it from passing.
  returned: always
  type: list
  elements: str
worse:
  description: >-
    Whether what keeps it from passing is worse than before the change. A host that accepts no mail, and accepted none
    before for the same reason, doesn't pass and isn't worse.
  returned: always
  type: bool
remarks:
  description: What is wrong besides, and needn't be mended for this.
  returned: always
  type: list
  elements: str
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule

ARGUMENTS: dict[str, dict[str, Any]] = {
    "before": {"type": "dict", "default": {}},
    "checks": {
        "type": "list",
        "elements": "str",
        "choices": ["smtp", "processes", "queue"],
        "default": ["smtp", "processes", "queue"],
    },
}


def main() -> None:
    """Entry point of the module."""
    AnsibleModule(argument_spec=ARGUMENTS, supports_check_mode=True).fail_json(
        msg="mf_gate runs on the controller: name action_plugins/ of this repository in ansible.cfg"
    )


if __name__ == "__main__":
    main()
