"""The host's settings, /mf/etc/mf.json: read and verified as a whole, or refused in one line.

Fast path: health reads them. A check does so on its slow path only; before, it takes its few values from its launcher
and compares the generation alone (see ``run``).
"""

from __future__ import annotations

from . import Failure, state

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any, NoReturn


class SettingsError(Failure):
    """Settings are missing or malformed. Its text is one line with the setting and what to do."""


_ADVICE = "deploy again with playbooks/site.yml"

# section -> key -> (kind, lowest, highest); a kind is a tuple of types
_NUMBER: tuple[type, ...] = (int, float)
_RULES: dict[str, dict[str, tuple[tuple[type, ...], float, float]]] = {
    "throttle": {"lease_ttl": (_NUMBER, 60, 3600)},
    "fleet": {"min_accepting": ((int,), 0, 100000)},
}
# of every check; its own settings are verified by its run
_EVERY_CHECK: dict[str, tuple[tuple[type, ...], float, float]] = {
    "period": ((int,), 60, 86400),
    "offset": ((int,), 0, 1440),
    "deadline": (_NUMBER, 1, 3600),
}


class Section(dict[str, "Any"]):
    """Settings, or a part of them, in which a missing key is a SettingsError that names the key."""

    def __init__(self, values: Mapping[str, Any], source: str, path: str = "") -> None:
        super().__init__(values)
        self._source, self._path = source, path

    def __missing__(self, key: str) -> NoReturn:
        raise SettingsError(f"{self._source}: {self._path}{key} is missing; {_ADVICE}")

    def section(self, name: str) -> Section:
        """The part with this name; empty when there is none."""
        return Section(_section(self, name, self._source, self._path), self._source, f"{self._path}{name}.")


def load(places: state.Places) -> Section:
    """The settings as in docs/architecture.md. Raises SettingsError."""
    try:
        data = state.read_bytes(places.settings)
    except OSError as error:
        advice = "run this as root" if isinstance(error, PermissionError) else _ADVICE
        raise SettingsError(f"{places.settings} can't be read: {error.strerror}; {advice}") from None
    if data is None:
        raise SettingsError(f"{places.settings} is missing; {_ADVICE}")
    settings = state.decode(data)
    if settings is None:
        raise SettingsError(f"{places.settings} is not a whole JSON object; {_ADVICE}")
    verify(settings, places.settings)
    return Section(settings, places.settings)


def verify(settings: Mapping[str, Any], source: str = "settings") -> None:
    """Raise SettingsError for the first thing wrong with the settings."""
    for key in ("generation", "host"):
        if not isinstance(settings.get(key), str) or not settings[key]:
            raise SettingsError(f"{source}: {key} must be a text; {_ADVICE}")
    checks = _section(settings, "checks", source)
    for name in checks:
        _verify_keys(_section(checks, name, source, "checks."), _EVERY_CHECK, f"checks.{name}", source)
    for name, rules in _RULES.items():
        if name in settings:
            _verify_keys(_section(settings, name, source), rules, name, source)
    _verify_ports(settings.get("throttle", {}), source)
    _verify_peers(settings.get("fleet", {}), source)


def _verify_ports(throttle: Mapping[str, Any], source: str) -> None:
    ports = throttle.get("ports", [])
    if not isinstance(ports, list) or not all(_is_port(port) for port in ports):
        raise SettingsError(f"{source}: throttle.ports must be a list of numbers from 1 to 65535; {_ADVICE}")


def _verify_peers(fleet: Mapping[str, Any], source: str) -> None:
    peers = fleet.get("peers", [])
    if not isinstance(peers, list) or not all(
        isinstance(peer, dict)
        and all(isinstance(peer.get(key), str) and peer[key] for key in ("name", "address"))
        and _is_port(peer.get("port"))
        for peer in peers
    ):
        raise SettingsError(f"{source}: fleet.peers must be a list of objects with name, address and port; {_ADVICE}")


def _is_port(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= 65535


def _section(holder: Mapping[str, Any], name: str, source: str, prefix: str = "") -> Mapping[str, Any]:
    value = holder.get(name, {})
    if not isinstance(value, dict):
        raise SettingsError(f"{source}: {prefix}{name} must be an object; {_ADVICE}")
    return value


def _verify_keys(
    section: Mapping[str, Any], rules: Mapping[str, tuple[tuple[type, ...], float, float]], path: str, source: str
) -> None:
    for key, (kinds, lowest, highest) in rules.items():
        value: Any = section.get(key)
        if value is None:
            raise SettingsError(f"{source}: {path}.{key} is missing; {_ADVICE}")
        # type() and not isinstance(): True is no number here
        if type(value) not in kinds or not lowest <= value <= highest:
            raise SettingsError(
                f"{source}: {path}.{key} must be a number from {lowest:g} to {highest:g}, not {value!r:.40}; {_ADVICE}"
            )
