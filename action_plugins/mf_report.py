# SPDX-License-Identifier: GPL-3.0-or-later
"""Show the health of a fleet as a table. Documented in library/mf_report.py."""

from __future__ import annotations

import json
import os
import tempfile
import textwrap
import unicodedata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible.utils.display import Display

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

ARGUMENTS: dict[str, dict[str, Any]] = {
    "hosts": {"type": "list", "elements": "str", "required": True},
    "register": {"type": "str", "required": True},
    "json_file": {"type": "path"},
    "fail": {"type": "bool", "default": False},
}
HEAD = ("host", "status", "load", "mail", "queue", "oldest", "release")
UNREACHABLE = "UNREACHABLE"
WIDTH = 120


def judge(host: str, result: object) -> dict[str, Any]:
    """What is known of a host, from what mf_health registered there."""
    if isinstance(result, dict) and isinstance(result.get("checks"), dict):
        health = {key: value for key, value in result.items() if key not in {"changed", "failed", "msg", "invocation"}}
        return {**health, "name": host}
    if isinstance(result, dict) and result.get("unreachable"):
        why = str(result.get("msg", "")).removeprefix("Task failed: ")
        return {"name": host, "status": UNREACHABLE, "problems": [f"unreachable: {why}"]}
    why = result.get("msg", "") if isinstance(result, dict) else "it was not looked at"
    return {"name": host, "status": "UNKNOWN", "problems": [f"no answer: {why}"]}


def table(fleet: Sequence[Mapping[str, Any]]) -> str:
    """The fleet for people: a row for each host, columns aligned, what is wrong below."""
    rows = [HEAD, *(_row(one) for one in fleet)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEAD))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    for one in fleet:
        for problem in one.get("problems", ()):
            head = f"{clean(one['name'])}: "
            lines += ["", *textwrap.wrap(head + clean(problem), WIDTH, subsequent_indent=" " * len(head))]
    # one empty line before the first problem, none between them
    return "\n".join(line for number, line in enumerate(lines) if line or number == len(rows))


def _row(one: Mapping[str, Any]) -> tuple[str, ...]:
    checks = one.get("checks")
    smtp = checks.get("smtp") if isinstance(checks, dict) else None
    if one.get("refusing"):
        mail = "on hold" if one.get("held") else "refused"
    elif isinstance(smtp, dict) and smtp.get("status") == "UNKNOWN":
        mail = "unknown"  # its result is overdue, say: nobody has looked, so nobody knows that it isn't accepted
    elif isinstance(one.get("accepting"), bool):
        mail = "accepted" if one["accepting"] else "not accepted"
    else:
        mail = "-" if checks else "unknown"  # nobody says whether it has SMTP
    return (
        clean(one["name"]),
        clean(one["status"]),
        _number(one.get("load1")),
        mail,
        _number(one.get("queue")),
        _span(one.get("oldest_result_seconds")),
        clean(one.get("generation") or "-"),
    )


def _number(value: object) -> str:
    return f"{value:g}" if isinstance(value, (int, float)) else "-"


def _span(value: object) -> str:
    if not isinstance(value, (int, float)):
        return "-"
    return f"{value:.0f} s" if value < 90 else f"{value / 60:.0f} min" if value < 5400 else f"{value / 3600:.0f} h"


def clean(text: object) -> str:
    """Text from a host, made safe for a terminal: one line, nothing that moves the cursor or hides."""
    words = " ".join(str(text).split())[:1000]
    return "".join(letter if unicodedata.category(letter)[0] != "C" else "?" for letter in words)


def verdict(fleet: Sequence[Mapping[str, Any]]) -> str:
    """One line on the whole fleet."""
    bad = [f"{clean(one['name'])} is {clean(one['status'])}" for one in fleet if one["status"] != "OK"]
    good = len(fleet) - len(bad)
    if not bad:
        return f"all {good} hosts are OK" if good != 1 else "1 host is OK"
    more = f" and {len(bad) - 10} more" if len(bad) > 10 else ""
    return f"{good} of {len(fleet)} hosts are OK; {', '.join(bad[:10])}{more}"


def write(path: str, fleet: Sequence[Mapping[str, Any]]) -> None:
    """Replace a file with the fleet as JSON, in one step. Raises OSError."""
    target = Path(path)
    if target.exists() and not target.is_file():
        target.write_text(json.dumps({"hosts": list(fleet)}) + "\n", encoding="utf-8")  # /dev/stdout, a FIFO
        return
    with tempfile.NamedTemporaryFile("w", dir=target.parent, delete=False, encoding="utf-8") as file:
        temporary = Path(file.name)
        json.dump({"hosts": list(fleet)}, file)
        file.write("\n")
    mask = os.umask(0)
    os.umask(mask)
    temporary.chmod(0o666 & ~mask)
    temporary.replace(target)


class ActionModule(ActionBase):
    """Print a table of the hosts' registered health."""

    _supports_check_mode = True
    _supports_diff = False
    _requires_connection = False
    TRANSFERS_FILES = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return one line on the whole fleet."""
        super().run(tmp, task_vars)
        _, arguments = self.validate_argument_spec(ARGUMENTS)
        hostvars = (task_vars or {})["hostvars"]
        fleet = [judge(host, hostvars[host].get(arguments["register"])) for host in arguments["hosts"]]
        Display().display("\n" + table(fleet) + "\n")
        if arguments["json_file"]:
            try:
                write(arguments["json_file"], fleet)
            except OSError as error:
                raise AnsibleActionFail(f"json_file {arguments['json_file']}: {error.strerror}") from None
        bad = any(one["status"] != "OK" for one in fleet)
        return {"changed": False, "failed": arguments["fail"] and bad, "msg": verdict(fleet)}
