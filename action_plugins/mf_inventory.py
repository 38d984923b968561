# SPDX-License-Identifier: GPL-3.0-or-later
"""Refuse an inventory that can't work. Documented in library/mf_inventory.py."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from ansible.errors import AnsibleError
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from ansible.plugins.action import ActionBase

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

GROUP = "mx"
MONITOR = "roles/mf_monitor/meta/argument_specs.yml"
CHANNELS = "mf_monitor_channels"

# RFC 1035 2.3.1 with RFC 1123 2.1; two labels at least, for a mail domain or a server of one
PATIENCE = (2, 8)
"""Seconds. check-smtp waits for a greeting as long as the highest, with which check-load still settles in time."""
RENAMED = {
    "mf_watched_by_anybody": "mf_health_access_on",
    "mf_watched_": "mf_health_access_",
    "mf_checks_queue_frozen_warning": "mf_checks_queue_frozen_critical",
}
"""Former prefix of variables -> the prefix now, the first that fits; internal variables have two underscores before."""
_DEFAULT = re.compile(r"mf_monitor_\w+ can't be worked out: .*'mf_monitor_\w+' is undefined")
"""A variable of the monitor may refer to its role's defaults, which only its own play has."""
_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_NAME = re.compile(rf"(?=.{{1,253}}\Z){_LABEL}(?:\.{_LABEL})+")
_HOST_NAME = re.compile(rf"(?=.{{1,253}}\Z){_LABEL}(?:\.{_LABEL})*")


def problems(machines: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return the problems of a fleet, in one sentence each; an empty list without any.

    ``machines`` maps the name of each MX to its variables: mf_address, mf_domains, mf_greeting_patience,
    mf_min_accepting, mf_smtp_port.
    """
    if not machines:
        return [f"there is no MX machine: put at least one host into the group {GROUP} (see inventory/example)"]
    every = (
        *_addresses(machines),
        *(problem for variables in machines.values() for problem in _common(variables, len(machines))),
        *_agreement(machines),
    )
    return list(dict.fromkeys(every))  # in order; a problem of all hosts is listed once


def former_names(names: Iterable[str]) -> Iterator[str]:
    """Yield a problem for each variable that has another name now."""
    for name in sorted(set(names)):
        for former, now in RENAMED.items():
            head, match, tail = name.partition(former)
            if match and not head.strip("_"):
                yield f"{name} is now called {head}{now}{tail}: change its name in the inventory"
                break


def chosen(
    hostvars: Mapping[str, Mapping[str, Any]], hosts: Iterable[str], keys: Iterable[str], complaints: list[str]
) -> dict[str, dict[str, Any]]:
    """Return some variables of some hosts. A template that doesn't work is added to ``complaints``."""
    values: dict[str, dict[str, Any]] = {}
    for name in hosts:
        # once for each host: Ansible merges its variables anew
        variables, values[name] = hostvars[name], {}
        for key in keys:
            try:
                if key in variables:
                    values[name][key] = variables[key]
            except AnsibleError as error:
                problem = f"{key} can't be worked out: {str(error)[:200]}"
                if not _DEFAULT.match(problem):
                    complaints.append(f"{name}: {problem}")
    return values


def refusals(hosts: Mapping[str, Mapping[str, Any]], spec: Mapping[str, Any]) -> Iterator[str]:
    """Yield what the argument_specs of the monitor refuse in variables of hosts."""
    refused: dict[str, dict[str, None]] = {}
    for name, variables in hosts.items():
        try:
            errors = ArgumentSpecValidator(spec).validate(variables).error_messages
        except TypeError:
            errors = [f"{', '.join(variables)}: the name of an option is no text, but for example on, yes or 1"]
        for error in errors:
            # the URL of a channel, or a part of it, is a secret
            secret = CHANNELS in error and "://" in error
            message = f"{CHANNELS} must be a list of objects, and a URL the value of their url" if secret else error
            refused.setdefault(message.rstrip("."), {})[name] = None
    for message, names in refused.items():
        yield f"{', '.join(names)}: {MONITOR} refuses: {message}"


def _addresses(machines: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    seen: dict[str, str] = {}
    for name, variables in machines.items():
        address = variables.get("mf_address")
        if address is None:
            yield f"{name} has no mf_address: state the address at which the other MX machines reach it"
            continue
        try:
            parsed = ipaddress.ip_address(address if isinstance(address, str) else repr(address))
        except ValueError:
            yield f"{name}: mf_address must be an IP address, not {_shown(address)}"
            continue
        other = seen.setdefault(str(parsed), name)
        if other != name:
            yield f"{name} and {other} have the same mf_address {parsed}: give each its own"


def _common(variables: Mapping[str, Any], machines: int) -> Iterator[str]:
    yield from _domains(variables.get("mf_domains"))
    port = variables.get("mf_smtp_port", 25)
    if not _is_whole(port, 1, 65535):
        yield f"mf_smtp_port must be a port from 1 to 65535, not {_shown(port)}"
    patience = variables.get("mf_greeting_patience", 5)
    if not _is_whole(patience, *PATIENCE):
        yield "mf_greeting_patience must be {} to {} seconds, not {}".format(*PATIENCE, _shown(patience))
    least = variables.get("mf_min_accepting")
    if least is None:
        yield "mf_min_accepting is missing: state how many MX machines must accept mail at any time"
    elif not _is_whole(least, 0, 100_000):
        yield f"mf_min_accepting must be a whole number from 0 up, not {_shown(least)}"
    elif least >= machines:
        yield (
            f"mf_min_accepting is {least}, but there are {machines} MX machines, and one must be free to refuse mail or"
            " be changed: lower it, or add machines"
        )


def _domains(domains: object) -> Iterator[str]:
    if not isinstance(domains, Mapping) or not domains:
        yield "mf_domains is missing or empty: map each domain to its route (a.example: {route: mail.a.example:25})"
        return
    for domain, settings in domains.items():
        if not isinstance(domain, str) or not _NAME.fullmatch(domain):
            yield f"mf_domains: {_shown(domain)} is not a domain name"
            continue
        routes = settings.get("route") if isinstance(settings, Mapping) else None
        if not routes:
            yield f"mf_domains: {domain} has no route: state its mail server (route: mail.{domain}:25)"
            continue
        for route in routes if isinstance(routes, list) else [routes]:
            yield from _route(domain, route)


def _route(domain: str, route: object) -> Iterator[str]:
    host, colon, port = route.rpartition(":") if isinstance(route, str) else ("", "", "")
    if not colon or not (_HOST_NAME.fullmatch(host) or _is_ipv6(host)):
        yield f"mf_domains: the route of {domain} must be SERVER:PORT, not {_shown(route)}"
    elif not (port.isascii() and port.isdigit() and 1 <= int(port) <= 65535):
        yield f"mf_domains: the route of {domain} needs a port from 1 to 65535, not {_shown(port)}"


def _is_ipv6(host: str) -> bool:
    """Return whether the text is an IPv6 address in brackets."""
    try:
        return host[:1] == "[" and host[-1:] == "]" and ipaddress.ip_address(host[1:-1]).version == 6
    except ValueError:
        return False


def _agreement(machines: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    if len({repr(variables.get("mf_min_accepting")) for variables in machines.values()}) > 1:
        yield "mf_min_accepting differs between MX machines: set it once, for the whole fleet"
    if len({repr(variables.get("mf_greeting_patience")) for variables in machines.values()}) > 1:
        yield "mf_greeting_patience differs between MX machines: set it once, for the whole fleet"


def _is_whole(value: object, lowest: int, highest: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and lowest <= value <= highest


def _shown(value: object) -> str:
    return ascii(str(value) if isinstance(value, str) else value)[:60]


class ActionModule(ActionBase):
    """Check all MX machines of the inventory, whatever the play's hosts are."""

    _supports_check_mode = True
    _supports_diff = False
    _requires_connection = False
    TRANSFERS_FILES = False

    NEEDED = ("mf_address", "mf_domains", "mf_greeting_patience", "mf_min_accepting", "mf_smtp_port")

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return one line about the fleet, or fail with all problems."""
        super().run(tmp, task_vars)
        task_vars = task_vars or {}
        self.validate_argument_spec({})
        groups, hostvars = task_vars["groups"], task_vars["hostvars"]
        names: Sequence[str] = groups.get(GROUP, [])
        complaints = list(former_names(key for name in groups["all"] for key in hostvars[name]))
        machines = chosen(hostvars, names, self.NEEDED, complaints)
        complaints.extend(problem for problem in problems(machines) if problem not in complaints)
        specs = yaml.safe_load((Path(__file__).resolve().parents[1] / MONITOR).read_text())["argument_specs"]
        # a run without the monitor may lack what its variables need, such as a vault's password
        monitors = [name for name in groups.get("monitor", ()) if name in task_vars["ansible_play_hosts_all"]]
        for entry, hosts in (("services", groups["all"]), ("main", monitors)):
            options = specs[entry]["options"]
            complaints.extend(refusals(chosen(hostvars, hosts, options, complaints), options))
        if complaints:
            head = "The inventory can't work, so nothing was changed:"
            return {"failed": True, "msg": "\n  - ".join([head, *complaints]), "problems": complaints}
        first = machines[names[0]]
        return {
            "changed": False,
            "msg": f"{_count(len(names), 'MX machine')}, {first['mf_min_accepting']} must accept mail, "
            f"{_count(len(first['mf_domains']), 'domain')}",
        }


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
