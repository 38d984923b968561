#!/usr/bin/python
# SPDX-License-Identifier: GPL-3.0-or-later
"""Report a host's health: one line for operators, data for playbooks."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: mf_health
short_description: Report a host's health
description:
  - "One line a host: its status, load, whether it is throttled, age of its oldest check result, mail in its queue, and
    its problems."
  - A check result that is overdue counts as UNKNOWN, so a host on which nothing runs any more is never OK.
  - An unhealthy host is no failure of this module, unless O(fail_at) is set so.
  - Works on a host where C(/mf) is broken or missing, too, and reports that.
version_added: "0.1.0"
options:
  refresh:
    description:
      - Run the host's checks now, instead of reading the results of cron's last run. Needs root.
      - They act as they do under cron. In check mode they are not run.
    type: bool
    default: false
  checks:
    description:
      - Let only these checks decide for O(fail_at), instead of all problems of the host.
      - Any check that the host has, such as V(smtp), V(quarantine) or V(backup); O(details) lists them.
      - A name that the host doesn't have fails, whatever O(fail_at) is. On a host that reports no check at all, each
        counts as UNKNOWN.
    type: list
    elements: str
  fail_at:
    description: Fail when the host has this status, or a worse one. UNKNOWN ranks between WARNING and CRITICAL.
    type: str
    choices: [never, warning, unknown, critical]
    default: never
  details:
    description: Return all data, not only the line and the status.
    type: bool
    default: false
  broken:
    description: Set by the action plugin; not for playbooks. The error of the host's own C(/mf/bin/health).
    type: str
attributes:
  check_mode:
    description: Reads only. O(refresh) is left out, for checks may act.
    support: full
  diff_mode:
    description: There is nothing to show.
    support: none
  platform:
    description: Debian, with or without the /mf tree.
    support: full
    platforms: debian
notes:
  - "It reaches a host in two ways: the action plugin runs the host's own C(/mf/bin/health), one command over ssh; where
    that is missing or its answer is invalid, the module is sent to the host instead. Both run the same code."
seealso:
  - module: mf_throttle
author:
  - The mf authors
"""

EXAMPLES = r"""
# ansible mx -m mf_health
# ansible mx -m mf_health -a refresh=true
# ansible mx -m mf_health -a details=true

- name: Stop unless this host accepts mail
  mf_health:
    refresh: true
    checks: [smtp]
    fail_at: warning
"""

RETURN = r"""
msg:
  description: One line for operators; the problems come last.
  returned: always
  type: str
  sample: mx1 OK load 0.12, not throttled, oldest result 34 s, queue 0
status:
  description: V(OK), V(WARNING), V(UNKNOWN) or V(CRITICAL), the worst of all checks and live facts.
  returned: always
  type: str
  sample: OK
door:
  description: V(command) when the host's own C(/mf/bin/health) answered, V(module) when that is missing or broken.
  returned: with O(details), and whenever it is V(module)
  type: str
  sample: command
problems:
  description: The problems, the worst first.
  returned: with O(details)
  type: list
  elements: str
checks:
  description: Each check with its status, summary, age_seconds, since, overdue_seconds and metrics.
  returned: with O(details)
  type: dict
accepting:
  description: Whether mail from outside is accepted; null on a host without SMTP.
  returned: with O(details)
  type: bool
throttled:
  description: Whether any lease is in force.
  returned: with O(details)
  type: bool
refusing:
  description: Whether new SMTP connections are refused.
  returned: with O(details)
  type: bool
held:
  description: Whether a lease has no end, so that an operator must release it.
  returned: with O(details)
  type: bool
leases:
  description: The leases in force, each with owner, reason, refuse, held_seconds and left_seconds.
  returned: with O(details)
  type: list
  elements: dict
maintenance:
  description: The maintenance in force, with owner, reason and left_seconds; null without.
  returned: with O(details)
  type: dict
load1:
  description: Load average of one minute.
  returned: with O(details)
  type: float
queue:
  description: Messages in the mail queue; null when unknown, or without one.
  returned: with O(details)
  type: int
oldest_result_seconds:
  description: Age of the oldest check result.
  returned: with O(details)
  type: float
uptime_seconds:
  description: Seconds since the host booted.
  returned: with O(details)
  type: float
host:
  description: The host's own name.
  returned: with O(details)
  type: str
type:
  description: The host's type, such as mx.
  returned: with O(details)
  type: str
generation:
  description: The host's current release; empty when unknown.
  returned: with O(details)
  type: str
version:
  description: Version of the package that answered.
  returned: with O(details)
  type: str
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.mf import health, health_record, state
from ansible.module_utils.mf.command import health as command

ARGUMENTS: dict[str, dict[str, Any]] = {
    "refresh": {"type": "bool", "default": False},
    "checks": {"type": "list", "elements": "str"},
    "fail_at": {"type": "str", "choices": ["never", "warning", "unknown", "critical"], "default": "never"},
    "details": {"type": "bool", "default": False},
    "broken": {"type": "str"},
}


def read_health(places: state.Places, broken: str | None) -> health_record.Health:
    """Return the host's health; ``broken``, the error of its own command, is one of the problems.

    A host without settings reports that already, so the error is left out.
    """
    record = health.collect(places)
    if broken and record["generation"]:
        record["problems"].append(f"{broken}; deploy again with playbooks/site.yml")
        record["status"] = state.worst([record["status"], state.UNKNOWN])
        record["line"] = health.line(record)
    return health_record.parse(record)


def main() -> None:
    """Entry point of the module."""
    module = AnsibleModule(argument_spec=ARGUMENTS, supports_check_mode=True)
    if module.params["refresh"] and not module.check_mode:
        command.refresh()
    record = read_health(state.Places(), module.params["broken"])
    answer = record.as_json()
    line = answer.pop("line")
    if not module.params["details"]:
        answer = {"status": record.status}
    result: dict[str, Any] = {"changed": False, "door": "module", **answer}
    missing = record.without_check(module.params["checks"])
    if missing or record.is_at_least(module.params["fail_at"], module.params["checks"]):
        module.fail_json(msg=missing or line, **result)
    module.exit_json(msg=line, **result)


if __name__ == "__main__":
    main()
