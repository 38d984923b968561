# SPDX-License-Identifier: GPL-3.0-or-later
"""Show the health of a fleet as a table. Documented in library/mf_report.py."""

from __future__ import annotations

import json
import os
import sys
import tempfile
import textwrap
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible.utils.display import Display

# Ansible finds module_utils of ansible.cfg for modules only
sys.path.append(str(Path(__file__).resolve().parents[1] / "roles/mf_tree/files/lib"))

from mf import health_record, state, text

ARGUMENTS: dict[str, dict[str, Any]] = {
    "hosts": {"type": "list", "elements": "str", "required": True},
    "register": {"type": "str", "required": True},
    "json_file": {"type": "path"},
    "fail": {"type": "bool", "default": False},
}
HEAD = ("host", "status", "load", "mail", "queue", "oldest", "release")
UNREACHABLE = "UNREACHABLE"
WIDTH = 120


@dataclass(frozen=True, slots=True)
class Report:
    """A host in the table; ``health`` is None without an answer, ``door`` is the way of the answer (see mf_health)."""

    name: str
    status: str
    problems: Sequence[str]
    health: health_record.Health | None = None
    door: str = ""

    @classmethod
    def of(cls, entry: Mapping[str, Any]) -> Report:
        """Parse a report from its JSON form (``as_json``). Raises HealthRecordError."""
        if "checks" not in entry:
            return cls(entry["name"], entry["status"], entry["problems"])
        health = health_record.parse({"line": "", **entry})
        return cls(entry["name"], health.status, health.problems, health, str(entry.get("door", "")))

    def as_json(self) -> dict[str, Any]:
        """Return the host's object in ``json_file``: the health record, or status and problems alone."""
        if self.health is None:
            return {"name": self.name, "status": self.status, "problems": list(self.problems)}
        record = self.health.as_json()
        del record["line"]
        return {**record, "door": self.door, "name": self.name}


def judge(host: str, result: object) -> Report:
    """Return the report of a host from its registered result of mf_health."""
    if not isinstance(result, dict):
        return Report(host, state.UNKNOWN, ["no answer: the host was not checked"])
    why = str(result.get("msg", ""))
    if result.get("unreachable"):
        return Report(host, UNREACHABLE, [f"unreachable: {why.removeprefix('Task failed: ')}"])
    if "checks" not in result:
        return Report(host, state.UNKNOWN, [f"no answer: {why}"])
    try:
        return Report.of({**result, "name": host})
    except health_record.HealthRecordError as error:
        return Report(host, state.UNKNOWN, [f"no answer: the result of mf_health {error}"])


def table(fleet: Sequence[Report]) -> str:
    """Return the fleet as a table: a row for each host, columns aligned, the problems below."""
    rows = [HEAD, *(_row(report) for report in fleet)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEAD))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    for report in fleet:
        for problem in report.problems:
            head = f"{clean(report.name)}: "
            lines += ["", *textwrap.wrap(head + clean(problem), WIDTH, subsequent_indent=" " * len(head))]
    # one empty line before the first problem, none between them
    return "\n".join(line for number, line in enumerate(lines) if line or number == len(rows))


def _row(report: Report) -> tuple[str, ...]:
    health = report.health
    if health is None:
        return (clean(report.name), report.status, "-", "unknown", "-", "-", "-")
    oldest = health.oldest_result_seconds
    return (
        clean(report.name),
        report.status,
        _number(health.load1),
        _mail(health),
        _number(health.queue),
        "-" if oldest is None else text.span(oldest),
        health.generation or "-",
    )


def _mail(health: health_record.Health) -> str:
    smtp = health.checks.get("smtp")
    if health.refusing:
        return "on hold" if health.held else "refused"
    if smtp is not None and smtp.status == state.UNKNOWN:
        return "unknown"  # an overdue result, for example, doesn't mean that mail isn't accepted
    if health.accepting is not None:
        return "accepted" if health.accepting else "not accepted"
    return "-" if health.checks else "unknown"  # without settings a host doesn't know whether it has SMTP


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:g}"


def clean(message: object) -> str:
    """Return text from a host, safe for a terminal: one line, no characters that move the cursor or hide text.

    Most of it has been through ``text.clean``, which would double its backslashes here.
    """
    line = " ".join(str(message).split())[:1000]
    return "".join(letter if unicodedata.category(letter)[0] != "C" else "?" for letter in line)


def verdict(fleet: Sequence[Report]) -> str:
    """Return one line on the whole fleet."""
    bad = [f"{clean(report.name)} is {report.status}" for report in fleet if report.status != state.OK]
    good = len(fleet) - len(bad)
    if not bad:
        return f"all {good} hosts are OK" if good != 1 else "1 host is OK"
    more = f" and {len(bad) - 10} more" if len(bad) > 10 else ""
    return f"{good} of {len(fleet)} hosts are OK; {', '.join(bad[:10])}{more}"


def write(path: str, fleet: Sequence[Report]) -> None:
    """Replace a file with the fleet as JSON, in one step. Raises OSError."""
    target = Path(path)
    answer = json.dumps({"hosts": [report.as_json() for report in fleet]}) + "\n"
    if target.exists() and not target.is_file():
        target.write_text(answer, encoding="utf-8")  # /dev/stdout, a FIFO
        return
    with tempfile.NamedTemporaryFile("w", dir=target.parent, delete=False, encoding="utf-8") as file:
        temporary = Path(file.name)
        file.write(answer)
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
        bad = any(report.status != state.OK for report in fleet)
        return {"changed": False, "failed": arguments["fail"] and bad, "msg": verdict(fleet)}
