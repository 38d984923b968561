#!/usr/bin/python
# SPDX-License-Identifier: GPL-3.0-or-later
"""Deploy a release of the /mf tree to a host."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: mf_deploy
short_description: Deploy the /mf tree, atomically
description:
  - Gathers the files, settings, packages and units of all roles of the play, renders them for the host, and deploys
    them as one release that takes effect by one rename.
  - A release is complete, compiled and validated on disk before it becomes current. When anything fails, everything
    is as it was before.
  - Manual changes are found and repaired.
  - The first remote execution examines the host and sends hashes only. When nothing differs, it is the only one.
    Otherwise the variables are checked by C(tasks/preflight.yml) of all roles (see M(mf_preflight)), missing packages
    are installed, and a second execution sends the contents that the host lacks.
version_added: "0.1.0"
options:
  state:
    description:
      - V(present) makes the release of this play current, complete and without manual changes.
      - V(rolled_back) goes back to the previous release.
      - V(settled) ends the maintenance that a release began, so that the checks act again.
      - V(absent) stops and disables the units, and removes all of our files, C(/mf/var) with all data included.
    type: str
    choices: [present, rolled_back, settled, absent]
    default: present
  host:
    description: The host's name in its settings. Needed with O(state=present).
    type: str
  type:
    description: The host's type in its settings (mx, control, ...). Needed with O(state=present).
    type: str
  manifest:
    description: Set by the action plugin; not for playbooks. The parts of the release.
    type: str
  content:
    description: Set by the action plugin; not for playbooks. Contents that the host lacks.
    type: str
  packages:
    description: Set by the action plugin; not for playbooks. Packages that the roles need.
    type: list
    elements: str
    default: []
  roles:
    description: Set by the action plugin; not for playbooks. Roles of the play.
    type: list
    elements: str
    default: []
  remove_roles:
    description: >-
      Roles that the host may lose. Without it a play that lacks a role which the host's release has is refused, and so
      is O(state=rolled_back) to a release without it.
      V(unknown) stands for the roles of a host on which no release's manifest can be read.
    type: list
    elements: str
    default: []
attributes:
  check_mode:
    description: >-
      Reports what would change without changing it. The release is built and validated in a temporary directory, as
      far as the validating programs are installed.
    support: full
  diff_mode:
    description: Shows files before and after, except those that aren't world-readable.
    support: full
  platform:
    description: Debian with systemd.
    support: full
    platforms: debian
notes:
  - Needs root.
  - The conventions by which roles contribute are described in C(roles/mf_tree/README.md).
seealso:
  - module: mf_preflight
author:
  - The mf authors
"""

EXAMPLES = r"""
- name: Deploy the tree
  mf_deploy:
    host: "{{ inventory_hostname }}"
    type: mx
  register: mf_tree__result

- name: Go back to the previous release
  mf_deploy:
    state: rolled_back

- name: Remove everything that is ours
  mf_deploy:
    state: absent
"""

RETURN = r"""
generation:
  description: The current release, 12 hex digits; null when there is none.
  returned: success
  type: str
  sample: 3f2a9c01b7de
previous:
  description: The release that was current before.
  returned: success
  type: str
changed_paths:
  description: Files that changed by meaning. C(bin/x) lies in the tree, C(/etc/x) on the host.
  returned: success
  type: list
  elements: str
changed_parts:
  description: Roles whose files or settings changed.
  returned: success
  type: list
  elements: str
packages:
  description: Debian packages that were installed, or would be in check mode.
  returned: with O(state=present)
  type: list
  elements: str
rehearsed:
  description: This was check mode; the host is as it was.
  returned: with O(state=present)
  type: bool
units:
  description: >-
    State of the units that roles registered. C(stale) means that a unit was started before a file of its role changed
    and must be restarted, also after an interrupted run.
  returned: success
  type: dict
  sample: {"qpsmtpd.service": {"exists": true, "active": true, "enabled": true, "stale": false}}
maintenance:
  description: A maintenance marker of the deployment is in force, until O(state=settled) or 15 minutes have passed.
  returned: success
  type: bool
"""

import signal
import sys
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.mf_deploy import facts, guard, host, release
from ansible.module_utils.mf_deploy.layout import DeployError, Layout
from ansible.module_utils.mf_deploy.manifest import Manifest, unpack, unpack_content

ARGUMENTS: dict[str, dict[str, Any]] = {
    "state": {"type": "str", "choices": ["present", "rolled_back", "settled", "absent"], "default": "present"},
    "host": {"type": "str"},
    "type": {"type": "str"},
    # not secret as such, but long, and contents may be: kept out of the system's log
    "manifest": {"type": "str", "no_log": True},
    "content": {"type": "str", "no_log": True},
    "packages": {"type": "list", "elements": "str", "default": []},
    "roles": {"type": "list", "elements": "str", "default": []},
    "remove_roles": {"type": "list", "elements": "str", "default": []},
}


def bring(module: AnsibleModule, layout: Layout, run: host.Run) -> dict[str, Any]:
    """Bring the host to the state of the parameters. Raises DeployError, OSError."""
    state, check = module.params["state"], module.check_mode
    if state == "rolled_back":
        return release.rolled_back(layout, run, module.params["remove_roles"], check=check)
    if state == "settled":
        return release.settled(layout, check=check)
    if state == "absent":
        return release.absent(layout, run, check=check)
    if not module.params["manifest"]:
        raise DeployError("mf_deploy state=present works in a play with roles, through its action plugin")
    content = module.params["content"]
    host_facts = {} if content else {"facts": facts.read(module.params["packages"], run, check=check)}
    if host_facts and (not host_facts["facts"]["root"] or sys.version_info < (3, 11)):
        # it can't go on; the controller gives the reason
        return {"changed": False, **host_facts}
    guard.keep_roles(guard.present_roles(layout), module.params["roles"], module.params["remove_roles"])
    done = release.present(
        layout,
        Manifest(unpack(module.params["manifest"])),
        unpack_content(content) if content else None,
        run,
        check=check,
        diff=bool(module._diff),
    )
    return {**done, **host_facts}


def _leave(number: int, _frame: object) -> None:
    """End through the exception handlers that clean up."""
    raise SystemExit(128 + number)


def main() -> None:
    """Entry point of the module."""
    module = AnsibleModule(argument_spec=ARGUMENTS, supports_check_mode=True)
    for number in (signal.SIGHUP, signal.SIGTERM):
        signal.signal(number, _leave)
    layout = Layout()
    before = layout.generation()
    try:
        result = bring(module, layout, host.run)
    except DeployError as error:
        # a failure that came after the release took effect: a restart is still due
        module.fail_json(msg=str(error), changed=layout.generation() != before, maintenance=guard.ours(layout))
    except OSError as error:
        module.fail_json(msg=f"{error.filename or 'this host'}: {error.strerror or error}. Nothing was changed.")
    module.exit_json(**result)


if __name__ == "__main__":
    main()
