"""The monitor's settings, one JSON file rendered from the inventory: read whole, checked whole, or refused in one line.

Its shape (``roles/mf_monitor/templates/etc/monitor/settings.json.j2``)::

    {"name": "mf", "host": "monitor1", "generation": "...", "min_accepting": 2,
     (min_accepting: at least 1 where SMTP of an MX is watched)
     "interval": 60, "timeout": 10, "recheck": 10,                     seconds
     "failures": 3, "successes": 2,                                    looks until a state is believed (hard)
     "flap_window": 900, "flap_changes": 3, "flap_calm": 600,          seconds, changes, seconds
     "throttled_after": 1800, "reminder": 1800, "escalate_after": 600, seconds
     "rate_limit": 20,                                                 messages an hour to one channel
     "cert_warning_days": 14, "cert_notice_days": [10, 3],             days before a certificate ends
     "database": "/mf/var/monitor/monitor.sqlite", "page": "/mf/var/monitor-page",
     "references": ["192.0.2.1:53", "[2001:db8::1]:443"], "resolvers": ["192.0.2.1"],
     "heartbeat": "https://…" or "", "canary_key": 64 hexadecimal digits or "", "test_at": "mon 10:00" or "",
     "health": {"user": "mf-health", "key": "/mf/etc/monitor/id_health", "known_hosts": "/mf/etc/monitor/known_hosts",
                "folder": "/run/mf-monitor"} or null,
     "urgent_checks": ["quarantine", "backup"],
     "channels": [{"name": "sms", "url": "json://…", "severities": ["urgent", "notice"], "escalation": false,
                   "second": "mail" or "", "sms": true}],
     "hosts": [{"name": "mx1", "role": "mx", "address": "192.0.2.11", "address6": "", "provider": "", "location": "",
                "health": true, "smtp_port": 25, "mx_name": "mx1.filter.example",
                "services": [{"name": "smtp", "kind": "smtp", "port": 25, …}] or null: what its role has by default}],
     "relay_sender": "",                            who the relay test says to be; empty: see probes.relay_senders
     "relay_recipient": "postmaster@iana.org",      to whom nobody here may relay
     "domains": ["customer.example"]}               whose MX records must name the MXs' ``mx_name``, nobody else

What a service may have besides is in ``KINDS``. ``monitord --check FILE`` says whether a file is right.
"""

from __future__ import annotations

import ipaddress
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

DEFAULT_PATH = "/mf/etc/monitor/settings.json"
_ADVICE = "correct the inventory, then run playbooks/site.yml"

# kind -> its options with their defaults; None: must be said
KINDS: dict[str, dict[str, Any]] = {
    "tcp": {"port": None},
    "ssh": {"port": 22},
    "smtp": {"port": 25, "starttls": "optional", "canary": "", "verify": False},
    "relay": {"port": 25, "recipient": "", "sender": ""},
    "http": {"port": 80, "path": "/", "host_header": "", "status": 0, "contains": ""},
    "https": {"port": 443, "path": "/", "host_header": "", "status": 0, "contains": "", "verify": True},
    "mx": {"domain": None, "expect": None},
}
SELDOM = ("relay", "mx")  # kinds that say nothing of whether their host is there
SEVERITIES = ("urgent", "notice", "page")
# key -> lowest and highest
_RANGES: dict[str, tuple[float, float]] = {
    "interval": (1, 3600),
    "timeout": (0.2, 60),
    "recheck": (0.2, 600),
    "failures": (1, 20),
    "successes": (1, 20),
    "flap_window": (10, 86400),
    "flap_changes": (2, 100),
    "flap_calm": (5, 86400),
    "throttled_after": (1, 604800),
    "reminder": (10, 604800),
    "escalate_after": (1, 86400),
    "rate_limit": (1, 10000),
    "cert_warning_days": (0, 365),
    "min_accepting": (0, 100000),
}


_WHOLE = ("failures", "successes", "flap_changes", "rate_limit", "min_accepting")
_HOST = {
    *("name", "role", "address", "address6", "provider", "location", "health", "smtp_port", "mx_name", "services"),
}
_MAILBOX = r"[!-;=?-~]+@[A-Za-z0-9.-]+"


def _is_text(value: object) -> bool:
    """One that can't end a line or a field of a protocol."""
    return isinstance(value, str) and value.isprintable()


def _is_word(value: object) -> bool:
    return _is_text(value) and not any(letter in " <>" for letter in str(value))


def _is_mailbox(value: object) -> bool:
    return value == "" or (isinstance(value, str) and re.fullmatch(_MAILBOX, value) is not None)


def _is_whole(lowest: int, highest: int) -> Callable[[object], bool]:
    return lambda value: type(value) is int and lowest <= value <= highest


# option of a service -> what it must be, in code and in words
_OPTIONS: dict[str, tuple[Callable[[object], bool], str]] = {
    "name": (lambda value: _is_word(value) and value != "" and "/" not in str(value), "a word without a slash"),
    "address": (_is_word, "an IP address or a name"),
    "port": (_is_whole(1, 65535), "a whole number from 1 to 65535"),
    "interval": (
        lambda value: type(value) in (int, float) and (value == 0 or 1 <= float(str(value)) <= 86400),
        "a number of seconds from 1 to 86400",
    ),
    "starttls": (lambda value: value in ("optional", "required", "off"), "optional, required or off"),
    "verify": (lambda value: isinstance(value, bool), "true or false"),
    "canary": (_is_mailbox, "an address such as canary@example.org, or empty"),
    "recipient": (_is_mailbox, "an address such as postmaster@iana.org, or empty"),
    "sender": (_is_mailbox, "an address such as probe@example.org, or empty"),
    "path": (lambda value: _is_word(value) and str(value).startswith("/"), "a path that begins with /"),
    "host_header": (_is_word, "a name"),
    "status": (lambda value: value == 0 or _is_whole(100, 599)(value), "an HTTP status from 100 to 599"),
    "contains": (_is_text, "a text"),
    "domain": (lambda value: _is_word(value) and value != "", "a domain"),
}


class MonitorSettingsError(Exception):
    """Settings are missing or malformed. Its text is one line that says which, and what to do."""


@dataclass(frozen=True, slots=True)
class Service:
    """One thing to be probed. ``address`` is numeric or a name; ``options`` are those of its kind, complete."""

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
    def tells(self) -> bool:
        """Whether its silence or its answer says that the host is away or there: not what is seldom asked."""
        return self.kind not in SELDOM


@dataclass(frozen=True, slots=True)
class Host:
    """One machine; ``health`` says whether its own health is read by ssh."""

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
        """Where senders deliver: SMTP at their port over IPv4, as most have nothing else; without that over IPv6."""
        smtp = [service for service in self.services if service.kind == "smtp"]
        port = [service for service in smtp if service.port == self.smtp_port] or smtp
        return [service for service in port if ":" not in service.address] or port


@dataclass(frozen=True, slots=True)
class Channel:
    """A way to a person: an Apprise URL, the severities it takes, the channel that steps in when it fails."""

    name: str
    url: str = field(repr=False)
    severities: tuple[str, ...] = ()
    escalation: bool = False
    second: str = ""
    sms: bool = True


@dataclass(frozen=True, slots=True)
class HealthAccess:
    """How hosts' own health is read: the account's key and what is known of the hosts."""

    user: str
    key: str
    known_hosts: str
    folder: str


@dataclass(frozen=True, slots=True)
class Settings:
    """All of it; see the module's text for meanings and units."""

    name: str
    host: str
    generation: str
    min_accepting: int
    interval: float
    timeout: float
    recheck: float
    failures: int
    successes: int
    flap_window: float
    flap_changes: int
    flap_calm: float
    throttled_after: float
    reminder: float
    escalate_after: float
    rate_limit: int
    cert_warning_days: float
    cert_notice_days: tuple[float, ...]
    database: str
    page: str
    references: tuple[tuple[str, int], ...]
    resolvers: tuple[str, ...]
    heartbeat: str
    canary_key: str
    test_at: str
    health: HealthAccess | None
    urgent_checks: tuple[str, ...]
    channels: tuple[Channel, ...]
    hosts: tuple[Host, ...]
    relay_sender: str
    relay_recipient: str
    domains: tuple[str, ...]

    @property
    def mxs(self) -> list[Host]:
        """The MX machines."""
        return [host for host in self.hosts if host.role == "mx"]


DEFAULTS: dict[str, Any] = {
    "name": "mf",
    "host": "monitor",
    "generation": "",
    "min_accepting": 0,
    "interval": 60,
    "timeout": 10,
    "recheck": 10,
    "failures": 3,
    "successes": 2,
    "flap_window": 900,
    "flap_changes": 3,
    "flap_calm": 600,
    "throttled_after": 1800,
    "reminder": 1800,
    "escalate_after": 600,
    "rate_limit": 20,
    "cert_warning_days": 14,
    "cert_notice_days": [10, 3],
    "database": "/mf/var/monitor/monitor.sqlite",
    "page": "",
    "references": [],
    "resolvers": [],
    "heartbeat": "",
    "canary_key": "",
    "test_at": "",
    "health": None,
    "urgent_checks": [],
    "channels": [],
    "hosts": [],
    "relay_sender": "",
    # a domain that exists and takes mail: a relay that verifies recipients would refuse any other, and look closed
    "relay_recipient": "postmaster@iana.org",
    "domains": [],
}
RELAY_EVERY = 10  # intervals


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
    if not isinstance(data, dict):
        raise MonitorSettingsError(f"{source}: not a JSON object; {_ADVICE}")
    unknown = sorted(set(data) - set(DEFAULTS) - {"ansible_managed"})
    if unknown:
        raise MonitorSettingsError(f"{source}: {unknown[0]!r:.40} is no setting; {_ADVICE}")
    given = {**DEFAULTS, **data}
    _plain_values(given, source)
    hosts = [*_dns(given, source), *_objects(given["hosts"], "hosts", source)]
    found = tuple(_host(one, given["interval"], source) for one in hosts)
    for service in (service for host in found for service in host.services):
        if service.name == "health" or service.name.startswith("check-"):
            raise MonitorSettingsError(f"{source}: {service.subject}: a service can't have this name; {_ADVICE}")
        recipient = service.options.get("recipient") or given["relay_recipient"]
        if service.kind == "relay" and recipient.rpartition("@")[2].lower() in map(str.lower, given["domains"]):
            raise MonitorSettingsError(
                f"{source}: {service.subject}: {recipient} is our own, not a stranger; {_ADVICE}"
            )
    names = [host.name for host in found]
    if len(set(names)) != len(names):
        raise MonitorSettingsError(f"{source}: two hosts have the same name; {_ADVICE}")
    if any(one.role == "mx" and one.front for one in found):
        given["min_accepting"] = max(1, given["min_accepting"])  # when nobody accepts mail, nothing goes on without it
    given["cert_warning_days"] = max(given["cert_warning_days"], *given["cert_notice_days"], 0)  # told is shown
    apart = ("references", "resolvers", "health", "hosts", "channels", "domains", "urgent_checks", "cert_notice_days")
    return Settings(
        **{key: given[key] for key in DEFAULTS if key not in apart},
        references=tuple(place(one, source) for one in given["references"]),
        resolvers=tuple(_address(one, "resolvers", source) for one in given["resolvers"]),
        urgent_checks=tuple(given["urgent_checks"]),
        domains=tuple(given["domains"]),
        cert_notice_days=tuple(given["cert_notice_days"]),
        channels=_channels(_objects(given["channels"], "channels", source), source),
        health=_health(given["health"], source),
        hosts=found,
    )


def _plain_values(given: Mapping[str, Any], source: str) -> None:
    """Numbers, texts and lists of texts."""
    for key, (lowest, highest) in _RANGES.items():
        value, whole = given[key], key in _WHOLE
        if type(value) not in ((int,) if whole else (int, float)) or not lowest <= value <= highest:
            kind = "a whole number" if whole else "a number"
            raise MonitorSettingsError(f"{source}: {key} must be {kind} from {lowest:g} to {highest:g}; {_ADVICE}")
    relay = ("relay_sender", "relay_recipient")
    for key in ("name", "host", "generation", "database", "page", "heartbeat", "test_at", "canary_key", *relay):
        if not isinstance(given[key], str):
            raise MonitorSettingsError(f"{source}: {key} must be a text; {_ADVICE}")
    for key in ("references", "resolvers", "urgent_checks", "domains"):
        if not isinstance(given[key], list) or not all(isinstance(one, str) and one for one in given[key]):
            raise MonitorSettingsError(f"{source}: {key} must be a list of texts; {_ADVICE}")
    days = given["cert_notice_days"]
    if not isinstance(days, list) or not all(type(one) in (int, float) and 0 < one <= 365 for one in days):
        raise MonitorSettingsError(f"{source}: cert_notice_days must be a list of days from 0 to 365; {_ADVICE}")
    if given["test_at"] and weekly(given["test_at"]) is None:
        raise MonitorSettingsError(f"{source}: test_at must be like 'mon 10:00' (UTC) or empty; {_ADVICE}")
    if given["heartbeat"] and not re.fullmatch(r"https?://[!-~]+", given["heartbeat"]):
        raise MonitorSettingsError(f"{source}: heartbeat must be an http:// or https:// address or empty; {_ADVICE}")
    if given["canary_key"] and not re.fullmatch("[0-9a-f]{64}", given["canary_key"]):
        raise MonitorSettingsError(f"{source}: canary_key must be 64 hexadecimal digits or empty; {_ADVICE}")
    if not _is_mailbox(given["relay_sender"]):
        raise MonitorSettingsError(f"{source}: relay_sender must be an address such as probe@example.org; {_ADVICE}")
    if not given["relay_recipient"] or not _is_mailbox(given["relay_recipient"]):
        raise MonitorSettingsError(
            f"{source}: relay_recipient must be an address such as postmaster@iana.org; {_ADVICE}"
        )


def _objects(found: Any, what: str, source: str) -> list[dict[str, Any]]:
    if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
        raise MonitorSettingsError(f"{source}: {what} must be a list of objects; {_ADVICE}")
    return found


def _address(found: str, what: str, source: str) -> str:
    try:
        return str(ipaddress.ip_address(found))
    except ValueError:
        raise MonitorSettingsError(f"{source}: {what}: {found!r:.60} is not an IP address; {_ADVICE}") from None


def _health(found: Any, source: str) -> HealthAccess | None:
    if not found:
        return None
    names = {one.name for one in fields(HealthAccess)}
    if not isinstance(found, dict) or set(found) != names or not all(isinstance(one, str) for one in found.values()):
        raise MonitorSettingsError(f"{source}: health must have the texts {', '.join(sorted(names))}; {_ADVICE}")
    return HealthAccess(**found)


def _channels(found: list[dict[str, Any]], source: str) -> tuple[Channel, ...]:
    """The channels. What is said about a wrong one never shows its URL, which is a secret."""
    kinds = {"name": str, "url": str, "severities": list, "escalation": bool, "second": str, "sms": bool}
    channels = []
    for one in found:
        name = one.get("name")
        if not isinstance(name, str) or not name:
            raise MonitorSettingsError(f"{source}: a channel has no name; {_ADVICE}")
        if not one.get("url"):
            raise MonitorSettingsError(f"{source}: channel {name!r:.40} has no url; {_ADVICE}")
        for key, value in one.items():
            if key not in kinds:
                raise MonitorSettingsError(f"{source}: channel {name!r:.40}: {key!r:.40} is no option of it; {_ADVICE}")
            if not isinstance(value, kinds[key]):
                word = {str: "a text", list: "a list", bool: "true or false"}[kinds[key]]
                raise MonitorSettingsError(f"{source}: channel {name!r:.40}: {key} must be {word}; {_ADVICE}")
        for severity in one.get("severities", ()):
            if severity not in SEVERITIES:
                raise MonitorSettingsError(
                    f"{source}: channel {name!r:.40} has an unknown severity, {severity!r:.40}; "
                    f"there are {', '.join(SEVERITIES)}; {_ADVICE}"
                )
        # a way to people takes all, unless it is for what nobody acknowledged or for what another one can't deliver
        own = not (one.get("escalation") or any(other.get("second") == name for other in found))
        severities = tuple(one.get("severities", SEVERITIES if own else ()))
        if own and not severities:
            raise MonitorSettingsError(
                f"{source}: channel {name!r:.40} would tell nothing: its severities are empty; {_ADVICE}"
            )
        channels.append(Channel(**{**one, "severities": severities}))
    known = [channel.name for channel in channels]
    if len(set(known)) != len(known):
        raise MonitorSettingsError(f"{source}: two channels have the same name; {_ADVICE}")
    for channel in channels:
        if channel.second and (channel.second not in known or channel.second == channel.name):
            raise MonitorSettingsError(
                f"{source}: channel {channel.name!r:.40} names {channel.second!r:.40} as its second, "
                f"which is {'itself' if channel.second == channel.name else 'none'}; {_ADVICE}"
            )
    return tuple(channels)


def place(text: str, source: str = "settings") -> tuple[str, int]:
    """Address and port of ``192.0.2.1:53``, ``[2001:db8::1]:53`` or ``name:53``. Raises MonitorSettingsError."""
    address, _, port = str(text).rpartition(":")
    if not (address and port.isascii() and port.isdigit() and 0 < int(port) < 65536):
        raise MonitorSettingsError(f"{source}: {text!r:.60} is not address:port; {_ADVICE}")
    return address.removeprefix("[").removesuffix("]"), int(port)


def weekly(text: str) -> tuple[int, int, int] | None:
    """Weekday (0 is Monday), hour and minute of ``mon 10:00``; None when it isn't that."""
    day, _, clock = text.partition(" ")
    days = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
    hour, _, minute = clock.partition(":")
    if day not in days or not (hour.isdigit() and minute.isdigit() and int(hour) < 24 and int(minute) < 60):
        return None
    return days.index(day), int(hour), int(minute)


def _dns(given: Mapping[str, Any], source: str) -> list[dict[str, Any]]:
    """What is asked of the DNS, as a host of its own."""
    mxs = [one for one in _objects(given["hosts"], "hosts", source) if one.get("role") == "mx"]
    both = ("address", "address6")
    expect = {
        str(one.get("mx_name") or one.get("name")).lower(): [one[key] for key in both if one.get(key)] for one in mxs
    }
    services = [{"kind": "mx", "name": domain, "domain": domain, "expect": expect} for domain in given["domains"]]
    return [{"name": "dns", "role": "dns", "services": services}] if services else []


def _by_role(one: dict[str, Any], interval: float) -> list[dict[str, Any]]:
    """What a host is expected to run when nothing is said: SMTP on an MX, ssh on all."""
    port = one.get("smtp_port") or 25
    if one.get("role") == "mx":
        relay = {"kind": "relay", "port": port, "interval": RELAY_EVERY * interval}
        return [{"kind": "smtp", "port": port}, {"kind": "ssh"}, relay]
    return [{"kind": "ssh"}]


def _host(one: dict[str, Any], interval: float, source: str) -> Host:
    name, address = one.get("name"), one.get("address", "")
    if not isinstance(name, str) or not name or "/" in name:
        raise MonitorSettingsError(f"{source}: {name!r:.40} is no name of a host; {_ADVICE}")
    unknown = sorted(set(one) - _HOST)
    if unknown:
        raise MonitorSettingsError(f"{source}: {name}: {unknown[0]!r:.40} is nothing a host has; {_ADVICE}")
    if not isinstance(address, str) or any(letter.isspace() for letter in address):
        raise MonitorSettingsError(f"{source}: {name}: address must be an IP address or a name; {_ADVICE}")
    if one.get("address6"):
        _address(str(one["address6"]), f"{name}: address6", source)
    services = []
    tls_name = str(one.get("mx_name") or name)
    entries = one.get("services")
    entries = _by_role(one, interval) if entries is None else _objects(entries, f"services of {name}", source)
    for entry in entries:
        services.append(_service(name, address, entry, interval, source, tls_name))
        # the same over IPv6, where the host has it
        if one.get("address6") and not entry.get("address") and entry["kind"] != "mx":
            six = {**entry, "name": f"{entry.get('name', entry['kind'])}6"}
            services.append(_service(name, one["address6"], six, interval, source, tls_name))
    if len({service.name for service in services}) != len(services):
        raise MonitorSettingsError(
            f"{source}: two services of {name} have the same name; give each a name of its own; {_ADVICE}"
        )
    return Host(
        name=name,
        role=str(one.get("role", "")),
        address=address,
        provider=str(one.get("provider", "")),
        location=str(one.get("location", "")),
        health=bool(one.get("health", False)),
        services=tuple(services),
        smtp_port=one.get("smtp_port") or 25,
    )


def _service(host: str, address: str, entry: dict[str, Any], interval: float, source: str, tls_name: str) -> Service:
    kind = entry.get("kind")
    if not isinstance(kind, str) or kind not in KINDS:
        raise MonitorSettingsError(
            f"{source}: {host} has a service of kind {kind!r:.40}; there are {', '.join(KINDS)}; {_ADVICE}"
        )
    options = {**KINDS[kind], **entry}
    if options.get("starttls") is False:  # what YAML makes of off
        options["starttls"] = "off"
    missing = [key for key, value in options.items() if value is None]
    if missing:
        raise MonitorSettingsError(f"{source}: {host}, {kind}: {missing[0]} is missing; {_ADVICE}")
    unknown = sorted(set(options) - set(KINDS[kind]) - {"name", "kind", "address", "interval"})
    if unknown:
        raise MonitorSettingsError(f"{source}: {host}, {kind}: {unknown[0]!r:.40} is no option of it; {_ADVICE}")
    for key, value in options.items():
        wanted = _OPTIONS.get(key)
        if wanted is not None and not wanted[0](value):
            raise MonitorSettingsError(f"{source}: {host}, {kind}: {key} must be {wanted[1]}; {_ADVICE}")
    if kind != "mx" and not (options.get("address") or address):
        raise MonitorSettingsError(f"{source}: {host}, {kind}: it has no address; {_ADVICE}")
    port = options.pop("port", 0)
    return Service(
        host=host,
        name=options.pop("name", kind),
        kind=options.pop("kind"),
        address=options.pop("address", "") or address,
        port=port,
        interval=float(options.pop("interval", 0) or interval),
        options=options,
        tls_name=tls_name,
    )
