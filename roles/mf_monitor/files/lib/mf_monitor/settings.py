"""The monitor's settings, one JSON file rendered from the inventory: read whole, checked whole, or refused in one line.

``roles/mf_monitor/templates/etc/monitor/settings.json.j2`` renders it from the role's argument_specs. Its keys are the
fields of the dataclasses here, or a field's own ``key``. A field carries the rule of a setting and its default, so each
stands once. Texts of hosts are those of the inventory::

    "hosts": [{"name": "mx1", "role": "mx", "address": "192.0.2.11", "address6": "", "provider": "", "location": "",
               "health": true, "smtp_port": 25, "mx_name": "mx1.filter.example",
               "services": [{"name": "smtp", "kind": "smtp", "port": 25, …}] or null: what its role has by default}]

The other options of a service are in ``rules.KINDS``. ``monitord --check FILE`` checks a file.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from mf import Failure

from .rules import (
    FLAG,
    KINDS,
    OBJECTS,
    OPTIONS,
    TEXT,
    TEXTS,
    Rule,
    WrongError,
    address_of,
    list_of,
    mailbox,
    matching,
    number,
    place,
    weekly,
    whole,
)

DEFAULT_PATH = "/mf/etc/monitor/settings.json"
SEVERITIES = ("urgent", "notice")  # of messages; what is for the page only sends none
SELDOM = ("relay", "mx")  # kinds whose result does not show whether their host is there
RELAY_EVERY = 10  # intervals
_ADVICE = "correct the inventory, then run playbooks/site.yml"


class MonitorSettingsError(Failure):
    """Settings are missing or malformed. Its text is one line: which, and what to do."""


# --- the settings


def _setting(default: Any, rule: Rule, key: str = "") -> Any:
    """A field; ``key`` is its name in the file where that is another."""
    return field(default=default, metadata={"rule": rule, "key": key})


@dataclass(frozen=True, slots=True)
class Service:
    """A service to probe. ``address`` is numeric or a name; ``options`` are those of its kind, complete."""

    host: str
    name: str
    kind: str
    address: str
    port: int
    interval: float
    options: dict[str, Any] = field(hash=False)
    tls_name: str = ""  # what its certificate must be for

    @property
    def subject(self) -> str:
        """Its name in the store, ``host/service``."""
        return f"{self.host}/{self.name}"

    @property
    def is_evidence(self) -> bool:
        """Return whether its result is evidence that the host is down or up: not when it is probed seldom."""
        return self.kind not in SELDOM


@dataclass(frozen=True, slots=True)
class Host:
    """A machine; ``health``: whether its own health is read by ssh."""

    name: str
    role: str
    address: str
    provider: str
    location: str
    health: bool
    services: tuple[Service, ...]
    smtp_port: int = 25

    @property
    def front(self) -> list[Service]:
        """Services for senders: SMTP at their port over IPv4, as most have nothing else; without that over IPv6."""
        smtp = [service for service in self.services if service.kind == "smtp"]
        port = [service for service in smtp if service.port == self.smtp_port] or smtp
        return [service for service in port if ":" not in service.address] or port


@dataclass(frozen=True, slots=True)
class Channel:
    """A way to reach operators: an Apprise URL, its severities, the channel that steps in when it fails."""

    name: str = _setting("", TEXT)
    url: str = field(default="", repr=False, metadata={"rule": TEXT})
    severities: tuple[str, ...] = _setting((), Rule("a list", lambda value: isinstance(value, list)))
    escalation: bool = _setting(False, FLAG)
    second: str = _setting("", TEXT)
    sms: bool = _setting(True, FLAG)


@dataclass(frozen=True, slots=True)
class HealthAccess:
    """Access to the hosts' health: the account, its key, and the host keys."""

    user: str
    key: str
    known_hosts: str
    folder: str


@dataclass(frozen=True, slots=True)
class Settings:
    """All of it. Times are seconds."""

    name: str = _setting("mf", TEXT)
    host: str = _setting("monitor", TEXT)
    generation: str = _setting("", TEXT)
    min_accepting: int = _setting(0, whole(0, 100000))  # at least 1 where SMTP of an MX is watched
    interval: float = _setting(60, number(1, 3600))
    timeout: float = _setting(10, number(0.2, 60))
    recheck: float = _setting(10, number(0.2, 600))
    failure_threshold: int = _setting(3, whole(1, 20), "failures")  # probes until a state is confirmed (hard)
    success_threshold: int = _setting(2, whole(1, 20), "successes")
    flap_window: float = _setting(900, number(10, 86400))
    flap_changes: int = _setting(3, whole(2, 100))
    flap_calm: float = _setting(600, number(5, 86400))
    throttled_after: float = _setting(1800, number(1, 604800))
    reminder: float = _setting(1800, number(10, 604800))
    escalate_after: float = _setting(600, number(1, 86400))
    rate_limit: int = _setting(20, whole(1, 10000))  # messages an hour to one channel
    cert_warning_days: float = _setting(14, number(0, 365))
    cert_notice_days: tuple[float, ...] = _setting(
        (10, 3),
        list_of(lambda value: type(value) in (int, float) and 0 < value <= 365, "a list of days from 0 to 365"),
    )
    database: str = _setting("/mf/var/monitor/monitor.sqlite", TEXT)
    page: str = _setting("", TEXT)
    # "192.0.2.1:53", "[2001:db8::1]:443"
    reference_hosts: tuple[tuple[str, int], ...] = _setting((), TEXTS, "references")
    resolvers: tuple[str, ...] = _setting((), TEXTS)
    heartbeat: str = _setting("", matching(r"(https?://[!-~]+)?", "an http:// or https:// address or empty"))
    canary_key: str = _setting("", matching("([0-9a-f]{64})?", "64 hexadecimal digits or empty"))
    test_at: str = _setting(
        "",
        Rule(
            "like 'mon 10:00' (UTC) or empty",
            lambda value: value == "" or (isinstance(value, str) and weekly(value) is not None),
        ),
    )
    health: HealthAccess | None = None
    urgent_checks: tuple[str, ...] = _setting((), TEXTS)
    channels: tuple[Channel, ...] = _setting((), OBJECTS)
    hosts: tuple[Host, ...] = _setting((), OBJECTS)
    relay_sender: str = _setting("", mailbox("probe@example.org"))  # empty: see probes.relay_senders
    # a domain that exists and takes mail: a relay that verifies recipients would refuse any other, and look closed
    relay_recipient: str = _setting("postmaster@iana.org", mailbox("postmaster@iana.org", more=""))
    domains: tuple[str, ...] = _setting((), TEXTS)  # whose MX records must name the MXs' ``mx_name``, and no other host

    @property
    def mxs(self) -> list[Host]:
        """The MX machines."""
        return [host for host in self.hosts if host.role == "mx"]


# --- reading them


def load(path: str = DEFAULT_PATH) -> Settings:
    """Read and check a settings file. Raises MonitorSettingsError."""
    try:
        data = json.loads(Path(path).read_bytes())
    except OSError as error:
        raise MonitorSettingsError(f"{path} can't be read: {error.strerror}; {_ADVICE}") from None
    except ValueError:
        raise MonitorSettingsError(f"{path} is not JSON; {_ADVICE}") from None
    return parse(data, path)


def parse(data: Any, source: str = "settings") -> Settings:
    """Settings from the JSON object. Raises MonitorSettingsError for the first thing that is wrong."""
    try:
        return _parse(data)
    except WrongError as error:
        raise MonitorSettingsError(f"{source}: {error}; {_ADVICE}") from None


def _parse(data: Any) -> Settings:
    if not isinstance(data, dict):
        raise WrongError("not a JSON object")
    values = {key: value for key, value in data.items() if key != "ansible_managed"}
    _check(values, Settings, "", "no setting")
    values["health"] = _health(values.get("health"))
    values["channels"] = _channels(values.get("channels", []))
    values["references"] = tuple(place(text) for text in values.get("references", ()))
    values["resolvers"] = tuple(address_of(text, "resolvers") for text in values.get("resolvers", ()))
    for key in ("urgent_checks", "domains", "cert_notice_days"):
        if key in values:
            values[key] = tuple(values[key])
    for item in fields(Settings):
        if item.metadata.get("key") in values:
            values[item.name] = values.pop(item.metadata["key"])
    raw, values["hosts"] = values.get("hosts", []), ()
    chosen = Settings(**values)
    hosts = tuple(_host(host, chosen.interval) for host in [*_dns(chosen.domains, raw), *raw])
    _check_hosts(hosts, chosen)
    if any(host.role == "mx" and host.front for host in hosts):
        # without it the loss of all MXs would be no incident of the fleet
        values["min_accepting"] = max(1, chosen.min_accepting)
    # a certificate that was notified is shown, too
    values["cert_warning_days"] = max(chosen.cert_warning_days, *chosen.cert_notice_days, 0)
    return Settings(**{**values, "hosts": hosts})


def _check(values: Mapping[str, Any], kind: type, where: str, unknown: str) -> None:
    """Hold an object against the rules of a dataclass's fields."""
    rules = {item.metadata.get("key") or item.name: item.metadata.get("rule") for item in fields(kind)}
    for key, value in values.items():
        if key not in rules:
            raise WrongError(f"{where}{key!r:.40} is {unknown}")
        rule = rules[key]
        if rule is not None and not rule.fits(value):
            raise WrongError(f"{where}{key} must be {rule.takes}")


def _health(access: Any) -> HealthAccess | None:
    if not access:
        return None
    names = {item.name for item in fields(HealthAccess)}
    if not isinstance(access, dict) or set(access) != names or not all(map(TEXT.fits, access.values())):
        raise WrongError(f"health must have the texts {', '.join(sorted(names))}")
    return HealthAccess(**access)


def _channels(entries: list[dict[str, Any]]) -> tuple[Channel, ...]:
    """The channels. A message about a wrong channel never shows its URL, which is a secret."""
    channels = []
    for entry in entries:
        name = entry.get("name")
        if not isinstance(name, str) or not name:
            raise WrongError("a channel has no name")
        if not entry.get("url"):
            raise WrongError(f"channel {name!r:.40} has no url")
        _check(entry, Channel, f"channel {name!r:.40}: ", "no option of it")
        for severity in entry.get("severities", ()):
            if severity not in SEVERITIES:
                known = ", ".join(SEVERITIES)
                raise WrongError(f"channel {name!r:.40} has an unknown severity, {severity!r:.40}; there are {known}")
        # a channel takes all, unless it is for escalations or the second of another
        own = not (entry.get("escalation") or any(other.get("second") == name for other in entries))
        severities = tuple(entry.get("severities", SEVERITIES if own else ()))
        if own and not severities:
            raise WrongError(f"channel {name!r:.40} would send nothing: its severities are empty")
        channels.append(Channel(**{**entry, "severities": severities}))
    names = [channel.name for channel in channels]
    if len(set(names)) != len(names):
        raise WrongError("two channels have the same name")
    for channel in channels:
        if channel.second and (channel.second not in names or channel.second == channel.name):
            which = "itself" if channel.second == channel.name else "none"
            raise WrongError(
                f"channel {channel.name!r:.40} names {channel.second!r:.40} as its second, which is {which}"
            )
    return tuple(channels)


def _check_hosts(hosts: tuple[Host, ...], chosen: Settings) -> None:
    """Check hosts against each other, and against other settings."""
    for service in (service for host in hosts for service in host.services):
        if service.name == "health" or service.name.startswith("check-"):
            raise WrongError(f"{service.subject}: a service can't have this name")
        recipient = service.options.get("recipient") or chosen.relay_recipient
        if service.kind == "relay" and recipient.rpartition("@")[2].lower() in map(str.lower, chosen.domains):
            raise WrongError(f"{service.subject}: {recipient} is our own, not a stranger")
    if len({host.name for host in hosts}) != len(hosts):
        raise WrongError("two hosts have the same name")


def _dns(domains: tuple[str, ...], hosts: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The DNS as a host of its own: a service for each domain."""
    expect = {
        str(host.get("mx_name") or host.get("name")).lower(): [
            host[key] for key in ("address", "address6") if host.get(key)
        ]
        for host in hosts
        if host.get("role") == "mx"
    }
    services = [{"kind": "mx", "name": domain, "domain": domain, "expect": expect} for domain in domains]
    return [{"name": "dns", "role": "dns", "services": services}] if services else []


def _by_role(role: str, port: int, interval: float) -> list[dict[str, Any]]:
    """Services of a host by default: SMTP on an MX, ssh on all."""
    if role == "mx":
        relay = {"kind": "relay", "port": port, "interval": RELAY_EVERY * interval}
        return [{"kind": "smtp", "port": port}, {"kind": "ssh"}, relay]
    return [{"kind": "ssh"}]


_HOST = {item.name for item in fields(Host)} | {"address6", "mx_name"}


def _host(entry: dict[str, Any], interval: float) -> Host:
    name, address, six = entry.get("name"), entry.get("address", ""), entry.get("address6")
    if not isinstance(name, str) or not name or "/" in name:
        raise WrongError(f"{name!r:.40} is no name of a host")
    unknown = sorted(set(entry) - _HOST)
    if unknown:
        raise WrongError(f"{name}: {unknown[0]!r:.40} is nothing a host has")
    if not isinstance(address, str) or any(letter.isspace() for letter in address):
        raise WrongError(f"{name}: address must be an IP address or a name")
    if six:
        address_of(str(six), f"{name}: address6")
    role, port, tls_name = str(entry.get("role", "")), entry.get("smtp_port") or 25, str(entry.get("mx_name") or name)
    listed = entry.get("services")
    listed = _by_role(role, port, interval) if listed is None else listed
    if not OBJECTS.fits(listed):
        raise WrongError(f"services of {name} must be {OBJECTS.takes}")
    services = []
    for given in listed:
        services.append(_service(name, address, given, interval, tls_name))
        if six and not given.get("address") and given["kind"] != "mx":  # the same over IPv6
            again = {**given, "name": f"{given.get('name', given['kind'])}6"}
            services.append(_service(name, six, again, interval, tls_name))
    if len({service.name for service in services}) != len(services):
        raise WrongError(f"two services of {name} have the same name; give each a name of its own")
    return Host(
        name=name,
        role=role,
        address=address,
        provider=str(entry.get("provider", "")),
        location=str(entry.get("location", "")),
        health=bool(entry.get("health", False)),
        services=tuple(services),
        smtp_port=port,
    )


def _service(host: str, address: str, entry: dict[str, Any], interval: float, tls_name: str) -> Service:
    kind = entry.get("kind")
    if not isinstance(kind, str) or kind not in KINDS:
        raise WrongError(f"{host} has a service of kind {kind!r:.40}; there are {', '.join(KINDS)}")
    where = f"{host}, {kind}: "
    options = {**KINDS[kind], **entry}
    if options.get("starttls") is False:  # what YAML makes of off
        options["starttls"] = "off"
    for key, value in options.items():
        if value is None:
            raise WrongError(f"{where}{key} is missing")
        if key not in KINDS[kind] and key not in ("name", "kind", "address", "interval"):
            raise WrongError(f"{where}{key!r:.40} is no option of it")
        if key in OPTIONS and not OPTIONS[key].fits(value):
            raise WrongError(f"{where}{key} must be {OPTIONS[key].takes}")
    if kind != "mx" and not (options.get("address") or address):
        raise WrongError(f"{where}it has no address")
    return Service(
        host=host,
        port=options.pop("port", 0),
        name=options.pop("name", kind),
        kind=options.pop("kind"),
        address=options.pop("address", "") or address,
        interval=float(options.pop("interval", 0) or interval),
        options=options,
        tls_name=tls_name,
    )
