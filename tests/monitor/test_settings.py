"""Settings: defaults, and a clear line for what is wrong."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from mf_monitor import rules, settings
from mf_monitor.settings import MonitorSettingsError

from tests.monitor import samples

ROOT = Path(__file__).resolve().parents[2]
ROLE = ROOT / "roles/mf_monitor"


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"interval": 0}, "interval must be a number"),
        ({"bogus": 1}, "'bogus' is no setting"),
        ({"test_at": "someday"}, "test_at"),
        ({"cert_notice_days": [10, 0]}, "cert_notice_days must be a list of days"),
        ({"cert_notice_days": "10"}, "cert_notice_days must be a list of days"),
        ({"cert_notice_days": [366]}, "cert_notice_days must be a list of days"),
        ({"failures": 2.5}, "failures must be a whole number"),
        ({"references": ["nowhere"]}, "is not address:port"),
        ({"references": "192.0.2.1:53"}, "references must be a list of texts"),
        ({"resolvers": ["resolver"]}, "'resolver' is not an IP address"),
        ({"heartbeat": "switch.example"}, "heartbeat must be an http"),
        ({"relay_sender": "a b@c"}, "relay_sender must be an address"),
        ({"relay_recipient": ""}, "relay_recipient must be an address"),
        ({"relay_recipient": "me@Filter.example", "domains": ["filter.example"]}, "is our own, not a stranger"),
        ({"health": {"user": "u"}}, "health must have the texts"),
        ({"channels": [{"url": "x"}]}, "a channel has no name"),
        ({"channels": [{"name": "sms"}]}, "channel 'sms' has no url"),
        ({"channels": [{"name": "sms", "url": "x", "colour": 1}]}, "'colour' is no option"),
        ({"channels": [{"name": "sms", "url": "x", "sms": "yes"}]}, "sms must be true or false"),
        ({"channels": [{"name": "sms", "url": "x"}] * 2}, "two channels have the same name"),
        ({"channels": [{"name": "sms", "url": "x", "second": "mail"}]}, "names 'mail' as its second, which is none"),
        ({"channels": [{"name": "sms", "url": "x", "second": "sms"}]}, "which is itself"),
        ({"channels": [{"name": "sms", "url": "x", "severities": ["loud"]}]}, "unknown severity, 'loud'"),
        ({"channels": [{"name": "sms", "url": "x", "severities": []}]}, "channel 'sms' would send nothing"),
        ({"channels": [{"name": "sms", "url": "x", "severities": ["page"]}]}, "unknown severity, 'page'; there are"),
        ({"hosts": [{"name": "a", "adress": "192.0.2.1"}]}, "'adress' is nothing a host has"),
        ({"hosts": [{"name": "a", "services": [{"kind": "ssh"}]}]}, "it has no address"),
        ({"hosts": [{"name": "a", "address6": "nowhere"}]}, "is not an IP address"),
        ({"hosts": [{"name": "a", "services": ["ssh"]}]}, "services of a must be a list of objects"),
        ({"hosts": [{"name": "a", "services": [{"kind": "ssh", "port": "22"}]}]}, "port must be a whole number"),
        ({"hosts": [{"name": "a", "services": [{"kind": "smtp", "starttls": "yes"}]}]}, "starttls must be optional"),
        ({"hosts": [{"name": "a", "services": [{"kind": "http", "path": "x"}]}]}, "path must be a path"),
        ({"hosts": [{"name": "a", "services": [{"kind": "relay", "sender": "x\r\n@y"}]}]}, "sender must be an address"),
        ({"hosts": [{"name": "a", "address": "a", "services": [{"kind": "ssh", "name": "health"}]}]}, "this name"),
        ({"hosts": [{"name": "a", "address": "a", "services": [{"kind": "ssh", "name": "check-x"}]}]}, "this name"),
        ({"hosts": [{"name": "a", "services": [{"kind": "telnet"}]}]}, "kind 'telnet'"),
        ({"hosts": [{"name": "a", "services": [{"kind": "tcp"}]}]}, "port is missing"),
        ({"hosts": [{"name": "a", "services": [{"kind": "ssh", "pørt": 1}]}]}, "is no option"),
        ({"hosts": [{"name": "a", "address": "192.0.2.1"}] * 2}, "two hosts have the same name"),
        ({"hosts": "mx1"}, "hosts must be a list of objects"),
    ],
)
def test_wrong_settings_are_one_clear_line(changed: dict[str, Any], expected: str) -> None:
    with pytest.raises(MonitorSettingsError) as caught:
        settings.parse(samples.raw_settings(**changed))
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


def test_ansible_has_the_options_of_a_service_and_of_a_channel() -> None:
    specs = yaml.safe_load((ROLE / "meta/argument_specs.yml").read_text())["argument_specs"]
    service = specs["services"]["options"]["mf_services"]["options"]
    # the DNS is asked for mf_domains: no service of a host
    kinds = {kind: options for kind, options in rules.KINDS.items() if kind != "mx"}
    assert set(service["kind"]["choices"]) == set(kinds)
    assert set(service) == {"kind", "name", "address", "interval"}.union(*kinds.values())
    channel = specs["main"]["options"]["mf_monitor_channels"]["options"]
    assert set(channel) == {field.name for field in dataclasses.fields(settings.Channel)}
    assert channel["severities"]["choices"] == list(settings.SEVERITIES)


def test_a_variable_stands_in_four_places_at_most() -> None:
    """Its default, its specification, a rule or a template, the dataclass that reads it; comments don't count."""
    names = yaml.safe_load((ROLE / "defaults/main.yml").read_text())
    paths = [*ROOT.glob("roles/*/*/**/*.yml"), *ROOT.glob("roles/*/templates/**/*.j2"), *ROOT.glob("playbooks/*.yml")]
    paths += [*ROOT.glob("action_plugins/*.py"), *ROOT.glob("library/*.py"), *ROOT.glob("module_utils/**/*.py")]
    variables = {
        path.relative_to(ROOT): set(re.findall(r"\w+", re.sub(r"#.*", "", path.read_text()))) for path in paths
    }
    fields = {
        f"mf_monitor_{field.metadata.get('key') or field.name}" for field in dataclasses.fields(settings.Settings)
    }
    assert len(fields.intersection(names)) > 20
    for name in names:
        places = [str(path) for path, named in variables.items() if name in named]
        places += ["mf_monitor/settings.py"] if name in fields else []
        assert len(places) <= 4, f"{name}: {places}"


def test_thresholds_have_shorter_keys_in_the_file() -> None:
    chosen = settings.parse({"failures": 5, "successes": 4})
    assert (chosen.failure_threshold, chosen.success_threshold) == (5, 4)
    with pytest.raises(MonitorSettingsError, match="'failure_threshold' is no setting"):
        settings.parse({"failure_threshold": 5})


def test_services_by_role_where_none_are_said() -> None:
    hosts = [
        {"name": "a", "role": "mx", "address": "192.0.2.1", "address6": "2001:db8::1", "mx_name": "A.example"},
        {"name": "b", "role": "control", "address": "192.0.2.2"},
        {"name": "c", "role": "offsite", "address": "192.0.2.3", "services": []},
    ]
    chosen = settings.parse({"hosts": hosts, "domains": ["customer.example"]})
    assert [[service.name for service in host.services] for host in chosen.hosts] == [
        ["customer.example"],
        ["smtp", "smtp6", "ssh", "ssh6", "relay", "relay6"],
        ["ssh"],
        [],
    ]
    assert chosen.hosts[0].services[0].options["expect"] == {"a.example": ["192.0.2.1", "2001:db8::1"]}


def test_a_channel_takes_all_unless_it_stands_behind_another() -> None:
    boss, chat = {"name": "boss", "url": "x", "escalation": True}, {"name": "chat", "url": "x"}
    sms = {"name": "sms", "url": "x", "second": "chat"}
    chosen = settings.parse({"channels": [sms, boss, chat]}).channels
    assert [channel.severities for channel in chosen] == [settings.SEVERITIES, (), ()]


def test_a_channels_url_is_not_shown() -> None:
    chosen = settings.parse({"channels": [{"name": "sms", "url": "secret://token", "severities": ["urgent"]}]})
    assert "token" not in repr(chosen)
