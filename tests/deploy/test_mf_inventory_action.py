"""An inventory that can't work is refused whole, with what to do."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible.errors import AnsibleUndefinedVariable

from action_plugins import mf_inventory as plugin
from tests.deploy.conftest import ROOT, Controller


def fleet(count: int = 3, **changes: Any) -> dict[str, dict[str, Any]]:
    """A fleet that works, but for the changes."""
    return {
        f"mx{number}": {
            "mf_address": f"192.0.2.{number}",
            "mf_domains": {"customer.example": {"route": "mail.customer.example:25"}},
            "mf_min_accepting": 2,
            "mf_smtp_port": 25,
            **changes,
        }
        for number in range(1, count + 1)
    }


def test_a_good_fleet_has_no_problems() -> None:
    assert plugin.problems(fleet()) == []
    for route in ("192.0.2.9:2525", "[2001:db8::1]:25", ["mail.a.example:25", "mail2.a.example:25"]):
        assert plugin.problems(fleet(mf_domains={"a.example": {"route": route}})) == []


def test_no_mx() -> None:
    assert plugin.problems({}) == [
        "there is no MX machine: put at least one host into the group mx (see inventory/example)"
    ]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mf_domains": {"a.example": {}}}, "a.example has no route: state its mail server (route: mail.a.example:25)"),
        ({"mf_domains": {"a.example": None}}, "a.example has no route: state its mail server"),
        ({"mf_domains": {"a.example": {"route": []}}}, "a.example has no route: state its mail server"),
        ({"mf_domains": {"a.example": {"route": ["mail.a.example"]}}}, "must be SERVER:PORT"),
        ({"mf_domains": {"a.example": {"route": "[192.0.2.1]:25"}}}, "must be SERVER:PORT"),
        ({"mf_domains": {"a.example": {"route": "mail.a.example"}}}, "the route of a.example must be SERVER:PORT"),
        ({"mf_domains": {"a.example": {"route": "mail.a.example:99999"}}}, "needs a port from 1 to 65535, not '99999'"),
        ({"mf_domains": {"a.example": {"route": "mail.a.example:0"}}}, "needs a port from 1 to 65535, not '0'"),
        ({"mf_domains": {"a.example": {"route": "mail.a.example:25\nevil"}}}, "needs a port from 1 to 65535"),
        ({"mf_domains": {"a.example": {"route": "a b:25"}}}, "must be SERVER:PORT"),
        ({"mf_domains": {"a.example": {"route": {"host": "mail.a.example"}}}}, "must be SERVER:PORT"),
        ({"mf_domains": {"not a domain": {"route": "mail.a.example:25"}}}, "'not a domain' is not a domain name"),
        ({"mf_domains": {"a.example\n": {"route": "mail.a.example:25"}}}, "is not a domain name"),
        ({"mf_domains": {}}, "mf_domains is missing or empty"),
        ({"mf_domains": ["a.example"]}, "mf_domains is missing or empty"),
        ({"mf_smtp_port": 99999}, "mf_smtp_port must be a port from 1 to 65535, not 99999"),
        ({"mf_smtp_port": "25"}, "mf_smtp_port must be a port from 1 to 65535, not '25'"),
        ({"mf_smtp_port": True}, "mf_smtp_port must be a port"),
        ({"mf_greeting_patience": 9}, "mf_greeting_patience must be 2 to 8 seconds, not 9"),
        ({"mf_greeting_patience": "5"}, "mf_greeting_patience must be 2 to 8 seconds, not '5'"),
        ({"mf_min_accepting": 4}, "mf_min_accepting is 4, but there are 3 MX machines"),
        ({"mf_min_accepting": 3}, "mf_min_accepting is 3, but there are 3 MX machines, and one must be free"),
        ({"mf_min_accepting": -1}, "mf_min_accepting must be a whole number from 0 up, not -1"),
        ({"mf_min_accepting": "two"}, "mf_min_accepting must be a whole number"),
        ({"mf_min_accepting": None}, "mf_min_accepting is missing"),
    ],
)
def test_what_is_wrong_for_all_is_said_once(changes: dict[str, Any], message: str) -> None:
    problems = plugin.problems(fleet(**changes))
    assert len(problems) == 1, problems
    assert message in problems[0]
    assert "\n" not in problems[0]


def test_variables_of_a_former_name_are_refused_with_the_new_one() -> None:
    names = ["mf_domains", "mf_watched_from", "__mf_watched_from", "mf_watched_from", "not_mf_watched_from"]
    assert list(plugin.former_names([*names, "__mf_watched_by_anybody"])) == [
        "__mf_watched_by_anybody is now called __mf_health_access_on: change its name in the inventory",
        "__mf_watched_from is now called __mf_health_access_from: change its name in the inventory",
        "mf_watched_from is now called mf_health_access_from: change its name in the inventory",
    ]
    (problem,) = plugin.former_names(["mf_checks_queue_frozen_warning"])
    assert "is now called mf_checks_queue_frozen_critical:" in problem


@pytest.mark.parametrize("former", [False, True])
def test_a_play_refuses_a_former_name_anywhere_in_the_inventory(tmp_path: Path, *, former: bool) -> None:
    inventory = tmp_path / "inventory"
    shutil.copytree(ROOT / "inventory/example", inventory)
    (inventory / "host_vars").mkdir(exist_ok=True)
    if former:
        (inventory / "host_vars/monitor.filter.example.yml").write_text("mf_watched_from: [192.0.2.9]\n")
    playbook = tmp_path / "play.yml"
    playbook.write_text("- hosts: mx\n  tasks:\n    - mf_inventory:\n")
    controller = Controller(inventory)
    (play,) = controller.plays(playbook)
    action, known = controller.plugin(plugin, "mf_inventory", play, "mx1.filter.example")
    result = action.run(task_vars=known)
    assert result.get("problems", []) == former * [
        "mf_watched_from is now called mf_health_access_from: change its name in the inventory"
    ]
    assert bool(result.get("failed")) is former


def test_each_address_is_needed_valid_and_its_own() -> None:
    machines = fleet(4)
    del machines["mx1"]["mf_address"]
    machines["mx2"]["mf_address"] = "999.0.2.1"
    machines["mx4"]["mf_address"] = machines["mx3"]["mf_address"]
    assert plugin.problems(machines) == [
        "mx1 has no mf_address: state the address at which the other MX machines reach it",
        "mx2: mf_address must be an IP address, not '999.0.2.1'",
        "mx4 and mx3 have the same mf_address 192.0.2.3: give each its own",
    ]


def test_all_problems_are_reported_together() -> None:
    assert len(plugin.problems(fleet(mf_smtp_port=0, mf_min_accepting=9, mf_domains={}))) == 3


def test_one_budget_for_the_whole_fleet() -> None:
    machines = fleet()
    machines["mx2"]["mf_min_accepting"] = 1
    assert plugin.problems(machines) == [
        "mf_min_accepting differs between MX machines: set it once, for the whole fleet"
    ]


SPECS = yaml.safe_load((ROOT / plugin.MONITOR).read_text())["argument_specs"]


@pytest.mark.parametrize(
    ("entry", "variables", "message"),
    [
        ("services", {"mf_services": [{"kind": "ssh", "colour": 1}]}, "mf_services.colour. Supported parameters"),
        ("services", {"mf_services": [{"kind": "telnet"}]}, "kind must be one of: tcp, ssh"),
        ("services", {"mf_services": [{"kind": "tcp"}]}, "kind is tcp but all of the following are missing: port"),
        ("services", {"mf_services": [{"kind": "ssh", "port": "ssh"}]}, "'port' is of type str"),
        ("services", {"mf_services": {"kind": "ssh"}}, "cannot be converted to a list"),
        ("services", {"mf_services": [{"kind": "ssh", True: 1}]}, "mf_services: the name of an option is no text"),
        ("main", {"mf_monitor_channels": [{"name": "sms"}]}, "missing required arguments: url"),
        (
            "main",
            {"mf_monitor_channels": [{"name": "a", "url": "x", "severities": ["page"]}]},
            "Got no match for: page",
        ),
        ("main", {"mf_monitor_channels": [{"name": "a", "url": "x", "to": 1}]}, "mf_monitor_channels.to. Supported"),
        ("main", {"mf_monitor_cert_notice_days": ["soon"]}, "unable to convert to float"),
    ],
)
def test_wrong_variables_of_the_monitor_are_one_line(entry: str, variables: dict[str, Any], message: str) -> None:
    (line,) = plugin.refusals({"mx1": variables, "mx2": variables, "mx3": {}}, SPECS[entry]["options"])
    assert line.startswith(f"mx1, mx2: {plugin.MONITOR} refuses: ")
    assert message in line
    assert "\n" not in line


@pytest.mark.parametrize("channels", ["{}", ["{}"], [["{}"]], [{"{}": 1}], [{"name": "a", "url": "{}", "sms": "{}"}]])
def test_a_misplaced_url_of_a_channel_is_not_shown(channels: Any) -> None:
    wrong = json.loads(json.dumps(channels).replace("{}", "slack://SECRET/SECRET?to=SECRET"))
    lines = list(plugin.refusals({"monitor1": {"mf_monitor_channels": wrong}}, SPECS["main"]["options"]))
    assert any("a URL the value of their url" in line for line in lines)
    assert "SECRET" not in "".join(lines)


class Templates(dict[str, Any]):
    """Variables of which some are templates that refer to an unknown variable, and how often hosts were asked for."""

    asked = 0

    def __getitem__(self, key: str) -> Any:
        self.asked += 1
        value = super().__getitem__(key)
        if isinstance(value, str) and value.startswith("{{"):
            raise AnsibleUndefinedVariable(f"'{value.strip('{ }')}' is undefined")
        return value


def test_a_variable_of_the_monitor_may_refer_to_a_default_of_its_role() -> None:
    problems: list[str] = []
    variables = {
        "mf_monitor_interval": 30,
        "mf_monitor_recheck": "{{ mf_monitor_timeout }}",
        "mf_monitor_name": "{{ a }}",
    }
    hosts = Templates(monitor1=Templates(variables))
    assert plugin.chosen(hosts, ["monitor1"], variables, problems) == {"monitor1": {"mf_monitor_interval": 30}}
    assert problems == ["monitor1: mf_monitor_name can't be worked out: 'a' is undefined"]
    assert hosts.asked == 1


def test_right_variables_of_the_monitor_pass() -> None:
    services = [{"kind": "smtp", "starttls": False}, {"kind": "https", "status": 401, "interval": 5}]
    assert not list(plugin.refusals({"mx1": {"mf_services": services}}, SPECS["services"]["options"]))
