"""Role mf_checks: thresholds that make no sense are refused with one clear message, without a host."""

from __future__ import annotations

import json
from typing import Any

import pytest
import yaml

from tests.deploy.conftest import ROOT, Controller, load_action

ROLE = ROOT / "roles/mf_checks"

# a host for each: its variables, and what is said about them ("" for nothing)
CASES: dict[str, tuple[dict[str, Any], str]] = {
    "good": ({"mf_checks_load_high": "8", "mf_checks_load_low": 7.5, "mf_checks_load_mark": 2}, ""),
    "same": ({"mf_checks_load_high": 5, "mf_checks_load_low": 5}, ""),
    "text": (
        {"mf_checks_load_high": "high"},
        'mf_checks_load_high is "high" on text; it takes a number from 0.1 to 10000',
    ),
    "none": ({"mf_checks_load_low": None}, "mf_checks_load_low is"),
    "negative": (
        {"mf_checks_kill_cap": -5},
        'mf_checks_kill_cap is "-5" on negative; it takes a whole number from 1 to 1000',
    ),
    "list": ({"mf_checks_session_limit": [60]}, "mf_checks_session_limit is"),
    "short": ({"mf_checks_session_limit": 59}, "from 60 to 86400"),
    "order": ({"mf_checks_load_low": 6}, "mf_checks_load_low (6) must not be above mf_checks_load_high (5.0)"),
    "percent": ({"mf_checks_queue_free_warning": 101}, "from 0 to 100"),
    "mark": ({"mf_checks_load_mark": 9}, 'mf_checks_load_mark is "9" on mark'),
    "marktext": ({"mf_checks_load_mark": "much"}, 'mf_checks_load_mark is "much" on marktext'),
}


@pytest.fixture(scope="module")
def preflight_messages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The message of the role's preflight for each host ("" for none)."""
    folder = tmp_path_factory.mktemp("preflight")
    hosts = {name: {"mf_min_accepting": 0, **variables} for name, (variables, _) in CASES.items()}
    (folder / "hosts.json").write_text(json.dumps({"all": {"hosts": hosts}}))
    tasks = [{"mf_preflight": {}}, {"ansible.builtin.import_role": {"name": "mf_checks"}}]
    (folder / "play.yml").write_text(yaml.safe_dump([{"hosts": "all", "gather_facts": False, "tasks": tasks}]))
    controller, preflight = Controller(folder / "hosts.json"), load_action("mf_preflight")
    (play,) = controller.plays(folder / "play.yml")
    messages = {}
    for name in CASES:
        plugin, known = controller.plugin(preflight, "mf_preflight", play, name)
        result = plugin.run(None, known)
        messages[name] = result["msg"] if result.get("failed") else ""
    return messages


@pytest.mark.parametrize("name", CASES)
def test_preflight(preflight_messages: dict[str, str], name: str) -> None:
    expected = CASES[name][1]
    if not expected:
        assert preflight_messages[name] == ""
    else:
        assert expected in preflight_messages[name]
        assert preflight_messages[name].startswith("Nothing was changed.")


def test_every_number_has_a_range() -> None:
    defaults = yaml.safe_load((ROLE / "defaults/main.yml").read_text())
    known = yaml.safe_load((ROLE / "vars/main.yml").read_text())
    numbers = {
        name for name, value in defaults.items() if isinstance(value, (int, float)) and not isinstance(value, bool)
    }
    assert numbers == set(known["__mf_checks_ranges"])


def test_ranges_are_those_of_the_checks() -> None:
    from mf_checks import load, processes, queue, smtp

    rules = {
        "mf_checks_load_high": load.RULES["high"],
        "mf_checks_load_low": load.RULES["low"],
        "mf_checks_session_limit": processes.RULES["session_limit"],
        "mf_checks_session_cpu": processes.RULES["session_cpu"],
        "mf_checks_smtp_patience": smtp.RULES["patience"],
        "mf_checks_certificate_days": smtp.RULES["certificate_days"],
        "mf_checks_kill_cap": processes.RULES["kill_cap"],
        **{
            f"mf_checks_queue_{name}": queue.RULES[name]
            for name in queue.RULES
            if name.partition("_")[0] in ("age", "frozen", "free")
        },
    }
    known = yaml.safe_load((ROLE / "vars/main.yml").read_text())["__mf_checks_ranges"]
    assert {name: tuple(span) for name, span in known.items()} == rules
