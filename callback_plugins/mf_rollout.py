# SPDX-License-Identifier: GPL-3.0-or-later
"""Report the state of all hosts when a host became unreachable in the middle of its change.

A run ends at such a host, and with it every play: Ansible runs no rescue, no later task and no later play for it. So a
callback is the only place that can still report. It changes nothing; the run stops because the plays that go from host
to host have no ``any_errors_fatal`` (reasons: tests/deploy/test_rollout.py).
"""

from __future__ import annotations

import unicodedata
from typing import TYPE_CHECKING, Any, NamedTuple

from ansible.plugins.callback import CallbackBase

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

DOCUMENTATION = r"""
name: mf_rollout
type: notification
short_description: Reports the state of all hosts when a host became unreachable in the middle of its change
version_added: "0.1.0"
description:
  - Prints nothing unless a host became unreachable while it was being changed, or before that in a play that goes from
    host to host. Then it reports at the very end which release may be in force there (or that a removal may be
    incomplete), which hosts are untouched, and the next steps.
author:
  - The mf authors
"""

CHANGES = "mf_deploy"
"""The action with which every change of a host begins."""
MOST = 10  # names shown at most


class Lost(NamedTuple):
    """A host that became unreachable: the task, and the result of mf_deploy, if the change had ``begun``.

    ``done`` and ``untouched`` are the hosts before and after it in a play that goes from host to ``host``.
    ``state`` is the state that the change had to bring, as in mf_deploy: present, rolled_back or absent.
    """

    host: str
    task: str
    begun: bool
    release: Mapping[str, Any] | None
    one_by_one: bool
    done: Sequence[str]
    untouched: Sequence[str]
    state: str = "present"


def report(lost: Lost) -> str:
    """Return the report on a host that became unreachable, with the next steps."""
    host, where = clean(lost.host), f'at the task "{clean(lost.task)}"'
    if not lost.begun:
        lines = [f"{host} became unreachable {where}, before its change began: nothing was changed there."]
    else:
        lines = [f"{host} became unreachable in the middle of its change, {where}.", *_state_lines(lost)]
    if lost.one_by_one:
        lines.append(f"The run ended here. Changed before it in this run: {_names(lost.done)}.")
        lines.append(f"Untouched: {_names(lost.untouched)}, and all later plays.")
    if lost.begun:
        back = lost.state == "rolled_back"
        lines.append(
            "Next: reach it another way (its provider's console) and find out what cut it off, before any other host"
            f" gets the same (with --limit '!{host}' they would)."
            + ("" if back else " Then run this again: it finishes what was begun.")
        )
        if back:
            few = 0 < len(lost.untouched) <= MOST
            lines.append(
                f"Don't run this again for {_names([lost.host, *lost.done])}: hosts that have gone back would go one"
                " release further."
                + (f" The untouched: --limit '{','.join(map(clean, lost.untouched))}'." if few else "")
            )
        lines.append('docs/runbook.md, "A host that didn\'t come back", has the steps.')
    else:
        lines.append(f"Next: mend it, or leave it out with --limit '!{host}', and run this again.")
    return "\n  ".join(lines)


def _state_lines(lost: Lost) -> list[str]:
    """Return lines on the state of a host, from mf_deploy's result; without one it is unknown."""
    if lost.state == "absent":
        gone = "All of our services and files are removed there."
        unknown = "How much of our services and files is removed there isn't known: all, a part or nothing."
        return [
            unknown if lost.release is None else gone,
            "It is not on hold: it goes on taking mail while its SMTP service runs.",
        ]
    lines = _release(lost.release, "previous" if lost.state == "rolled_back" else "new")
    lines.append(
        "It has passed no gate and is not on hold: services may run with the old files or the new, and it goes on"
        " taking mail if it can."
    )
    return lines


def _release(result: Mapping[str, Any] | None, wanted: str) -> list[str]:
    """Return lines on the release in force on a host, which should be the ``wanted`` one: new or previous."""
    if result is None:
        return [f"Whether the {wanted} release took effect there isn't known: wholly or not at all."]
    release = clean(result.get("generation"))
    if not result.get("changed"):
        return [f"Release {release} is in force there, as before."]
    before = result.get("previous")
    lines = [
        f"Release {release} is in force there" + (f", before it was {clean(before)}." if before else ", the first one.")
    ]
    paths = result.get("changed_paths")
    outside = [path for path in paths if str(path).startswith("/")] if isinstance(paths, list) else []
    if outside:
        lines.append(f"Files outside of /mf that this changed: {_names(outside)}.")
    return lines


def _names(hosts: Sequence[Any]) -> str:
    names = [clean(name) for name in hosts]
    more = f" and {len(names) - MOST} more" if len(names) > MOST else ""
    return ", ".join(names[:MOST]) + more if names else "none"


def clean(text: object) -> str:
    """Return text from a host or an inventory on one line, without characters that move the cursor or hide text."""
    line = " ".join(str(text).split())[:200]
    return "".join(letter if unicodedata.category(letter)[0] != "C" else "?" for letter in line)


class CallbackModule(CallbackBase):
    """Records results, and reports at the end."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "notification"
    CALLBACK_NAME = "mf_rollout"
    CALLBACK_NEEDS_ENABLED = False

    def __init__(self) -> None:
        super().__init__()
        self._one_by_one = False
        self._order: list[str] = []
        self._begun: set[str] = set()
        self._state = "present"
        self._released: dict[str, Mapping[str, Any]] = {}
        self._lost: list[Lost] = []

    def v2_playbook_on_play_start(self, play: Any) -> None:
        """Record the play's hosts; a play that goes from host to host begins once for each of them."""
        self._one_by_one = play.serial == [1]
        self._order = list(play.get_variable_manager().get_vars(play=play)["ansible_play_hosts_all"])
        self._begun, self._state, self._released = set(), "present", {}

    def v2_runner_on_start(self, host: Any, task: Any) -> None:
        """Record that a change begins on a host."""
        if task.action == CHANGES and not task.check_mode:
            self._begun.add(host.get_name())
            state = task.args.get("state", "present")
            # settled only ends a change of another state
            self._state = self._state if state == "settled" else state

    def v2_runner_on_ok(self, result: Any) -> None:
        """Record the release in force from mf_deploy's result."""
        if result.task.action == CHANGES and "generation" in result.result:
            self._released.setdefault(result.host.get_name(), result.result)

    def v2_runner_on_unreachable(self, result: Any) -> None:
        """Record an unreachable host."""
        host = result.host.get_name()
        if result.task.ignore_unreachable or not (self._one_by_one or host in self._begun):
            return
        place = self._order.index(host) if self._one_by_one else 0
        self._lost.append(
            Lost(
                host,
                result.task.get_name(),
                host in self._begun,
                self._released.get(host),
                self._one_by_one,
                self._order[:place],
                self._order[place + 1 :],
                self._state,
            )
        )

    def v2_playbook_on_stats(self, stats: Any) -> None:
        """Show the reports at the end of the run, after ``stats``."""
        for lost in self._lost:
            self._display.display(f"\n{report(lost)}\n", color="red")
