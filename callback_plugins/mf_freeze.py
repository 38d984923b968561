# SPDX-License-Identifier: GPL-3.0-or-later
"""Keep Python's garbage collector from the objects that exist before Ansible forks.

Ansible forks a process for each task and host. Whether its collector then goes through all of the parent's objects,
which costs more than the task itself, is a matter of chance otherwise.
"""

from __future__ import annotations

import gc
from typing import Any

from ansible.plugins.callback import CallbackBase

DOCUMENTATION = r"""
name: mf_freeze
type: notification
short_description: Makes forks of Ansible cheaper
version_added: "0.1.0"
description:
  - Freezes the objects that exist at the beginning of each play, so that no process that is forked for a task looks
    for garbage among them. It prints nothing.
author:
  - The mf authors
"""


class CallbackModule(CallbackBase):
    """Documented in DOCUMENTATION."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "notification"
    CALLBACK_NAME = "mf_freeze"
    CALLBACK_NEEDS_ENABLED = False

    def v2_playbook_on_play_start(self, play: Any) -> None:
        """Freeze what exists."""
        gc.freeze()
