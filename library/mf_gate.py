#!/usr/bin/python
# SPDX-License-Identifier: GPL-3.0-or-later
"""Documentation and options of mf_gate; the work is done on the controller, by the action plugin."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: mf_gate
short_description: Decide whether a host passes after its deployment
description:
  - "Runs the host's checks and decides two things: does it accept mail, and is anything worse than before the change?"
  - "Worse: SMTP by any degree; processes or the queue UNKNOWN or CRITICAL and not as bad before. All other problems are
    remarks: they are shown, and the host passes."
  - What time alone brings is a remark, too, whenever it begins. A certificate nears its end, or the one that was there
    before has ended; a message in the queue grows old.
  - A busy host gets up to a minute. After that an MX that works and whose slots are all taken passes with a remark, for
    it accepts mail; unless it had a slot for the check since the change and gave no answer.
version_added: "0.1.0"
options:
  before:
    description:
      - The result of M(mf_health) with C(details=true) before the change.
      - Without it every problem counts as new.
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
- name: Record the health before the change
  mf_health:
    details: true
  register: mf_before

- name: Check that the host accepts mail and nothing is worse than before
  mf_gate:
    before: "{{ mf_before }}"
"""

RETURN = r"""
msg:
  description: One line with the reason why the host didn't pass, or that it did.
  returned: always
  type: str
  sample: it accepts mail, and nothing is worse than before
wrong:
  description: The problems that keep the host from passing.
  returned: always
  type: list
  elements: str
worse:
  description: >-
    Whether one of these is worse than before the change. A host that accepts no mail, and accepted none before for the
    same reason, doesn't pass and isn't worse.
  returned: always
  type: bool
remarks:
  description: Other problems, with which the host passes.
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
