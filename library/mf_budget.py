#!/usr/bin/python
# SPDX-License-Identifier: GPL-3.0-or-later
"""Refuse to touch an MX that the fleet can't spare at this moment."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: mf_budget
short_description: Refuse to touch an MX that the fleet can't spare
description:
  - "If this MX accepts mail now, at least C(mf_min_accepting) others must accept it too, or it isn't touched."
  - An MX that accepts no mail takes nothing from the fleet when it is touched, so it may always be repaired.
  - An MX that is silent because senders hold all its slots accepts mail. The last result of its SMTP check
    distinguishes it from a frozen one.
  - An MX counts as accepting when it greets with a 220 within C(mf_greeting_patience) seconds. Of more than 30 others
    a sample is probed.
version_added: "0.1.0"
options:
  min_accepting:
    description: How many others must accept mail. The action plugin takes it from C(mf_min_accepting).
    type: int
  address:
    description:
      - This MX's own address. The action plugin takes it from C(mf_address).
      - Loopback is greeted even while the queue behind takes no mail and all other clients get a 421.
    type: str
    default: ""
  port:
    description: The SMTP port. The action plugin takes it from C(mf_smtp_port).
    type: int
    default: 25
  patience:
    description: Seconds an MX may take to greet. The action plugin takes it from C(mf_greeting_patience).
    type: float
    default: 5
  peers:
    description:
      - The other MX machines, each with name, address and port.
      - The action plugin takes them from the inventory, since a host's own settings may be older.
    type: list
    elements: dict
    default: []
attributes:
  check_mode:
    description: Reads only.
    support: full
  diff_mode:
    description: There is nothing to show.
    support: none
  platform:
    description: Debian, with or without the /mf tree.
    support: full
    platforms: debian
seealso:
  - module: mf_throttle
author:
  - The mf authors
"""

EXAMPLES = r"""
- name: Refuse to touch this MX when the fleet can't spare it
  mf_budget:
"""

RETURN = r"""
msg:
  description: One line for operators.
  returned: always
  type: str
  sample: this MX accepts mail, and so do 2 of 2 others; 2 must
accepting:
  description: Whether this MX accepts mail.
  returned: always
  type: bool
others:
  description: How many others do, at least.
  returned: when this MX accepts mail
  type: int
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.mf import health, smtp, state
from ansible.module_utils.mf.throttle import budget, marker, peers

OWN_TIMEOUT = 10.0  # seconds: a greeting may wait for the queue, and silence here would pass for a greeting

ARGUMENTS: dict[str, dict[str, Any]] = {
    "min_accepting": {"type": "int"},
    "address": {"type": "str", "default": ""},
    "port": {"type": "int", "default": 25},
    "patience": {"type": "float", "default": 5},
    "peers": {"type": "list", "elements": "dict", "default": []},
}


def judge(accepting: bool, others: peers.Survey, minimum: int) -> dict[str, Any]:
    """The module's result, from one probe of this MX and a survey of the others."""
    if not accepting:
        return {"msg": "this MX accepts no mail now, so touching it takes nothing from the fleet", "accepting": False}
    number = others.estimate()
    result = {"accepting": True, "others": number}
    if budget.is_enough(others, minimum):
        return {"msg": f"this MX accepts mail, and so do {number} of {others.total} others; {minimum} must", **result}
    missing = sorted(others.asked - others.accepting)
    return {
        "failed": True,
        "msg": f"over budget: only {number} of {others.total} other MX machines accept mail, {minimum} must, so this "
        f"one was not touched. First see to {', '.join(missing[:5]) or 'the inventory'}"
        f"{' and others' if len(missing) > 5 else ''}",
        **result,
    }


def accepts(address: str, port: int, patience: float) -> bool:
    """Return whether this MX accepts mail from outside. Loopback is exempt from a refusal and from a 421."""
    places = state.Places()
    if marker.current(places).refusing:
        return False
    reply = smtp.greeting("127.0.0.1", port, patience)
    if reply.outcome == smtp.SILENT:
        # all slots are taken, or it is frozen: the result of its SMTP check distinguishes the two
        return bool(health.collect(places)["accepting"])
    # the way to its own address may not exist (NAT): nothing but a 421 counts
    return reply.outcome == smtp.ACCEPTED and (not address or smtp.greeting(address, port, OWN_TIMEOUT).code != 421)


def main() -> None:
    """Entry point of the module."""
    module = AnsibleModule(argument_spec=ARGUMENTS, supports_check_mode=True)
    fleet = {"peers": module.params["peers"], "patience": module.params["patience"]}
    accepting = accepts(module.params["address"], module.params["port"], module.params["patience"])
    others = peers.survey(fleet) if accepting else peers.Survey(0, (), ())
    result = judge(accepting, others, module.params["min_accepting"] or 0)
    if result.pop("failed", False):
        module.fail_json(**result)
    module.exit_json(changed=False, **result)


if __name__ == "__main__":
    main()
