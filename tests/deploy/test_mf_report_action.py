"""The fleet as a table: aligned, safe to show, one verdict."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from action_plugins import mf_report as plugin

HEALTH: dict[str, Any] = {
    "changed": False,
    "msg": "mx1 OK",
    "door": "command",
    "status": "OK",
    "load1": 0.12,
    "accepting": True,
    "throttled": False,
    "refusing": False,
    "held": False,
    "leases": [],
    "maintenance": None,
    "queue": 0,
    "oldest_result_seconds": 34.2,
    "generation": "0123456789ab",
    "problems": [],
    "checks": {},
}


def check(status: str) -> dict[str, Any]:
    return {"status": status, "summary": "", "metrics": {}}


def test_rows_are_aligned_and_problems_stand_below() -> None:
    sick = {**HEALTH, "status": "CRITICAL", "refusing": True, "held": True, "oldest_result_seconds": 9000}
    sick["problems"] = ["smtp CRITICAL: no greeting"]
    fleet = [plugin.judge("mx1", HEALTH), plugin.judge("mx2.long.example", sick)]
    assert plugin.table(fleet).splitlines() == [
        "host              status    load  mail      queue  oldest  release",
        "mx1               OK        0.12  accepted  0      34 s    0123456789ab",
        "mx2.long.example  CRITICAL  0.12  on hold   0      2.5 h   0123456789ab",
        "",
        "mx2.long.example: smtp CRITICAL: no greeting",
    ]
    assert plugin.verdict(fleet) == "1 of 2 hosts are OK; mx2.long.example is CRITICAL"


def test_a_host_without_an_answer_is_shown() -> None:
    unreachable = plugin.judge("mx1", {"unreachable": True, "msg": "ssh: no route"})
    nothing = plugin.judge("mx2", None)
    failed = plugin.judge("mx3", {"failed": True, "msg": "no Python"})
    assert [report.status for report in (unreachable, nothing, failed)] == ["UNREACHABLE", "UNKNOWN", "UNKNOWN"]
    table = plugin.table([unreachable, nothing, failed])
    for line in (
        "mx1: unreachable: ssh: no route",
        "mx2: no answer: the host was not checked",
        "mx3: no answer: no Python",
    ):
        assert line in table


def test_a_result_of_another_shape_is_no_answer() -> None:
    changes: list[dict[str, Any]] = [{"checks": []}, {"load1": "high"}, {"status": "FINE"}]
    for wrong in changes:
        report = plugin.judge("mx1", {**HEALTH, **wrong})
        assert report.status == "UNKNOWN"
        assert report.problems[0].startswith("no answer: the result of mf_health has ")


def test_what_is_not_known_is_not_shown_as_not_accepted() -> None:
    def mail(**changed: Any) -> str:
        return re.split("  +", plugin.table([plugin.judge("mx1", {**HEALTH, **changed})]).splitlines()[1])[3]

    def smtp(status: str) -> dict[str, Any]:
        return {"smtp": check(status), "load": check("OK")}

    assert mail(accepting=False, checks=smtp("UNKNOWN")) == "unknown"
    assert mail(accepting=False, checks=smtp("CRITICAL")) == "not accepted"
    assert mail(accepting=True, checks=smtp("OK")) == "accepted"
    assert mail(accepting=False, refusing=True, checks=smtp("UNKNOWN")) == "refused"
    assert mail(accepting=None, checks={"load": check("UNKNOWN")}) == "-"
    assert mail(accepting=None, status="UNKNOWN", checks={}) == "unknown"  # its settings can't be read
    for nothing in (None, {"unreachable": True, "msg": "no route"}):
        assert plugin.table([plugin.judge("mx1", nothing)]).splitlines()[1].split()[3] == "unknown"


def test_all_is_well() -> None:
    assert plugin.verdict([plugin.judge("mx1", HEALTH)]) == "1 host is OK"
    assert plugin.verdict([plugin.judge(name, HEALTH) for name in ("mx1", "mx2")]) == "all 2 hosts are OK"


def test_a_large_sick_fleet_has_a_short_verdict() -> None:
    fleet = [plugin.judge(f"mx{number}", None) for number in range(200)]
    assert plugin.verdict(fleet).endswith("mx9 is UNKNOWN and 190 more")


def test_hostile_text_is_tamed() -> None:
    fleet = [plugin.judge("mx1", {**HEALTH, "problems": ["\x1b[2J\r\nmx2 OK \u202e" + "x" * 5000]})]
    table = plugin.table(fleet)
    assert "\x1b" not in table
    assert "\u202e" not in table
    assert len(table) < 2000
    assert not any(line.startswith("mx2") for line in table.splitlines())


def test_json_replaces_a_file_in_one_step(tmp_path: Path) -> None:
    path = tmp_path / "health.json"
    path.write_text("old")
    plugin.write(str(path), [plugin.judge("mx1", HEALTH)])
    (host,) = json.loads(path.read_text())["hosts"]
    assert (host["name"], host["door"], host["load1"], host["checks"]) == ("mx1", "command", 0.12, {})
    assert not {"line", "msg", "changed"} & set(host)
    assert plugin.Report.of(host) == plugin.judge("mx1", {**HEALTH, "msg": ""})
    assert [entry.name for entry in tmp_path.iterdir()] == ["health.json"]
