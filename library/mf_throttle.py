#!/usr/bin/python
# SPDX-License-Identifier: GPL-3.0-or-later
"""Throttle a host for a while, or end that."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: mf_throttle
short_description: Throttle a host for a while, or end that
description:
  - A throttled host makes its IO-heavy jobs wait (quarantine import, backups), and an MX also refuses new SMTP
    connections, so that senders go to another MX at once. Sessions under way are not cut, loopback stays open.
  - "The throttle is a lease: it ends by itself. If everything on the host should die, the kernel ends it."
  - An owner has one lease. A lease of the same owner is renewed.
  - "Obeys the fleet's budget unless forced: it is refused when fewer than C(mf_min_accepting) MX machines would be left
    that accept mail. All hosts of the same run (or of the same batch, with C(serial)) are counted as refusing."
version_added: "0.1.0"
options:
  state:
    description:
      - V(present) takes or renews the lease of O(owner).
      - V(absent) releases it. Leases of other owners, check-load's for example, stay in force.
    type: str
    choices: [present, absent]
    default: present
  owner:
    description:
      - "Whose lease it is: a small letter, then up to 31 of C(a-z 0-9 _ . -)."
      - V(load) belongs to check-load and can't be used.
      - V(deploy) is used by C(playbooks/site.yml) and C(playbooks/rollback_tree.yml) for a host that failed its gate.
    type: str
    default: operator
  reason:
    description: The reason, in one line.
    type: str
    default: ""
  ttl:
    description:
      - How long, such as V(90s), V(15m), V(2h) or V(1d); up to 7 days. A bare number is seconds.
      - Default is V(15m). Excludes O(hold).
    type: str
  hold:
    description:
      - Without an end. Stays until an operator releases it, also after a reboot, and health shows it all the time.
    type: bool
    default: false
  refuse:
    description: Refuse new SMTP connections. If V(false), only IO-heavy jobs wait.
    type: bool
    default: true
  force:
    description: Refuse mail although too few MX machines would be left that accept it.
    type: bool
    default: false
  leaving:
    description:
      - Set by the action plugin; not for playbooks. Names of the MX machines that are throttled in the same run.
    type: list
    elements: str
    default: []
attributes:
  check_mode:
    description: Probes the other MX machines, too, and reports what would change without changing it.
    support: full
  diff_mode:
    description: Shows the leases and whether mail is refused, before and after.
    support: full
  platform:
    description: Debian, with the /mf tree.
    support: full
    platforms: debian
notes:
  - Needs root on the host.
  - "Idempotent: to take the lease again with the same O(reason), O(refuse) and O(hold) renews it, and is no change."
  - A new refusal takes some 3 seconds, because the host probes the other MX machines again after it began.
seealso:
  - module: mf_health
author:
  - The mf authors
"""

EXAMPLES = r"""
- name: Throttle the host during a disk swap
  mf_throttle:
    ttl: 15m
    reason: disk swap

- name: Make jobs wait while mail is accepted
  mf_throttle:
    ttl: 2h
    reason: array is rebuilding
    refuse: false

- name: Take a host out of service until an operator puts it back
  mf_throttle:
    hold: true
    reason: memory errors, new module is ordered

- name: Put it back into service
  mf_throttle:
    state: absent

# ansible mx1 -m mf_throttle -a 'state=present ttl=15m reason="disk swap"'
# ansible mx1 -m mf_throttle -a state=absent
"""

RETURN = r"""
msg:
  description: One line for operators.
  returned: always
  type: str
  sample: "throttled, refusing new mail: operator (disk swap, 15 min left)"
throttled:
  description: Whether any lease is in force now, of any owner.
  returned: success
  type: bool
refusing:
  description: Whether the host refuses new SMTP connections now.
  returned: success
  type: bool
"""

from typing import TYPE_CHECKING, Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.mf import Failure, claims, config, state, text
from ansible.module_utils.mf.throttle import budget, control, lease, marker, peers

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

DEFAULT_TTL = "15m"

ARGUMENTS: dict[str, dict[str, Any]] = {
    "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
    "owner": {"type": "str", "default": "operator"},
    "reason": {"type": "str", "default": ""},
    "ttl": {"type": "str"},
    "hold": {"type": "bool", "default": False},
    "refuse": {"type": "bool", "default": True},
    "force": {"type": "bool", "default": False},
    "leaving": {"type": "list", "elements": "str", "default": []},
}


class RefusedError(Exception):
    """The request can't be fulfilled. The text is one line with the remedy."""


def wanted_seconds(params: Mapping[str, Any]) -> float | None:
    """The lease's length, None for a hold. Raises RefusedError for parameters that make no sense."""
    try:
        claims.check_owner(params["owner"])
        claims.check_reason(params["reason"])
        if params["hold"]:
            return None
    except claims.LeaseError as error:
        raise RefusedError(str(error)) from None
    try:
        return claims.check_ttl(text.seconds(DEFAULT_TTL if params["ttl"] is None else params["ttl"]))
    except ValueError as error:  # LeaseError is one; the package names the command's options
        raise RefusedError(f"ttl: {error}".replace("--hold", "hold=true")) from None


def survey_without(leaving: Collection[str]) -> Any:
    """A survey of the peers that counts those ``leaving`` as refusing already, whatever they do at this moment."""

    def probe(fleet: Mapping[str, Any], **options: Any) -> peers.Survey:
        survey = peers.survey(fleet, **options)
        return peers.Survey(survey.total, survey.asked, survey.accepting - frozenset(leaving))

    return probe


def change(params: Mapping[str, Any], places: state.Places, *, check: bool, **parts: Any) -> control.Outcome:
    """Take, renew or give back the lease. ``parts`` replace parts of throttle.Control, for tests.

    Raises RefusedError.
    """
    seconds = wanted_seconds(params)
    survey = survey_without(params["leaving"])
    try:
        settings = config.load(places)
        throttle = control.Control(places, settings, dry_run=check, **{"survey": survey, **parts})
        if params["state"] == "absent":
            return throttle.off(params["owner"])
        if seconds is None and params["refuse"] and throttle.can_refuse and not params["force"]:
            hold_within_budget(params, places, settings, parts.get("survey", survey))
        return throttle.on(params["owner"], params["reason"], seconds, refuse=params["refuse"], force=params["force"])
    except control.OverBudgetError as error:
        raise RefusedError(over_budget(str(error).partition(". ")[0], params["leaving"])) from None
    except Failure as error:
        raise RefusedError(str(error)) from None


def hold_within_budget(params: Mapping[str, Any], places: state.Places, settings: Mapping[str, Any], ask: Any) -> None:
    """Raise RefusedError when a new hold would leave too few. (The package lets every hold pass, as a deploy needs.)"""
    own = lease.find(marker.current(places).leases, params["owner"])
    minimum = settings["fleet"]["min_accepting"] if "fleet" in settings else 0
    if minimum > 0 and not (own is not None and own.refuse):
        survey = ask(settings["fleet"])
        if not budget.is_enough(survey, minimum):
            raise RefusedError(over_budget(f"over budget: {survey.describe(minimum)}", params["leaving"]))


def over_budget(why: str, leaving: Sequence[str]) -> str:
    """Return the message for a lease with which too few MXs would accept mail."""
    together = f" ({', '.join(leaving[:5])}{' ...' if len(leaving) > 5 else ''} would be throttled in the same run)"
    return (
        f"{why}{together if leaving else ''}. Nothing was changed: {'name fewer hosts at once, ' if leaving else ''}"
        "use refuse=false to throttle without refusing mail, force=true to refuse it all the same"
    )


def shown(status: marker.Status) -> dict[str, Any]:
    """Return the state for a diff, without times, which differ in each run."""
    return {
        "refusing": status.refusing,
        "leases": {
            held.owner: {"reason": held.reason, "refuse": held.refuse, "hold": held.until is None}
            for held in status.leases
        },
    }


def refuses_in_vain(params: Mapping[str, Any], after: marker.Status) -> bool:
    """Return whether mail should be refused and isn't: the lease is recorded, but not in the firewall."""
    return params["state"] == "present" and params["refuse"] and after.should_refuse and not after.refusing


def not_an_owner(params: Mapping[str, Any], before: marker.Status) -> str:
    """Return the message for an owner without a lease to release while others hold some; empty otherwise."""
    if params["state"] == "present" or not before.leases or lease.find(before.leases, params["owner"]) is not None:
        return ""
    return f"{params['owner']} holds no lease here; held by: {', '.join(held.owner for held in before.leases)}"


def main() -> None:
    """Entry point of the module."""
    module = AnsibleModule(argument_spec=ARGUMENTS, mutually_exclusive=[("ttl", "hold")], supports_check_mode=True)
    try:
        outcome = change(module.params, state.Places(), check=module.check_mode)
    except RefusedError as error:
        module.fail_json(msg=str(error))
    for warning in outcome.warnings:
        module.warn(warning)
    before, after = outcome.before, outcome.after
    result: dict[str, Any] = {
        "changed": outcome.changed,
        "throttled": after.throttled,
        "refusing": after.refusing,
        "diff": {"before": shown(before), "after": shown(after)},
    }
    if refuses_in_vain(module.params, after):
        module.fail_json(msg=after.describe(), **result)
    if outcome.unmarked:
        module.fail_json(msg=f"{after.describe()}, but {'; '.join(outcome.warnings)}", **result)
    module.exit_json(msg=not_an_owner(module.params, before) or after.describe(), **result)


if __name__ == "__main__":
    main()
