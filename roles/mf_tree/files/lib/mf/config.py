"""The host's settings, /mf/etc/mf.json: read whole, checked whole, or refused in one line.

Cold path only. The healthy path of a check takes its few values from its launcher and merely compares the
generation stamp (see ``same_generation``).
"""

from __future__ import annotations

from . import state

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any


class SettingsError(Exception):
    """Settings are missing or malformed. Its text is one line that says which, and what to do. Exit code 3."""


_ADVICE = "deploy again with playbooks/site.yml"

# section -> key -> (kind, lowest, highest); a kind is a tuple of types
_NUMBER: tuple[type, ...] = (int, float)
_RULES: dict[str, dict[str, tuple[tuple[type, ...], float, float]]] = {
    "throttle": {"lease_ttl": (_NUMBER, 60, 3600)},
    "fleet": {"min_accepting": ((int,), 0, 100000)},
    "service": {"children_max": ((int,), 1, 10000)},
    "checks.processes": {"session_limit": (_NUMBER, 60, 86400), "kill_cap": ((int,), 1, 1000)},
    "checks.smtp": {"port": ((int,), 1, 65535)},
    "checks.load": {"high": (_NUMBER, 0.1, 10000), "low": (_NUMBER, 0.1, 10000)},
    "checks.queue": {},
}
_EVERY_CHECK: dict[str, tuple[tuple[type, ...], float, float]] = {
    "period": ((int,), 60, 86400),
    "offset": ((int,), 0, 1440),
    "deadline": (_NUMBER, 1, 3600),
}


def load(places: state.Places) -> dict[str, Any]:
    """The settings as in docs/architecture.md. Raises SettingsError."""
    try:
        data = state.read_bytes(places.settings)
    except OSError as error:
        raise SettingsError(f"{places.settings} can't be read: {error.strerror}; {_ADVICE}") from None
    if data is None:
        raise SettingsError(f"{places.settings} is missing; {_ADVICE}")
    settings = state.decode(data)
    if settings is None:
        raise SettingsError(f"{places.settings} is not a whole JSON object; {_ADVICE}")
    verify(settings, places.settings)
    return settings


def verify(settings: Mapping[str, Any], source: str = "settings") -> None:
    """Raise SettingsError for the first thing wrong with the settings."""
    for key in ("generation", "host"):
        if not isinstance(settings.get(key), str) or not settings[key]:
            raise SettingsError(f"{source}: {key} must be a text; {_ADVICE}")
    checks = _section(settings, "checks", source)
    for name in checks:
        _verify_keys(_section(checks, name, source, "checks."), _EVERY_CHECK, f"checks.{name}", source)
    for path, rules in _RULES.items():
        folder, _, name = path.rpartition(".")
        holder = checks if folder else settings
        if name in holder:
            _verify_keys(_section(holder, name, source, folder and folder + "."), rules, path, source)
    load_check = checks.get("load")
    if load_check and load_check["low"] > load_check["high"]:
        raise SettingsError(f"{source}: checks.load.low is above checks.load.high; {_ADVICE}")


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
        if isinstance(value, bool) or not isinstance(value, kinds) or not lowest <= value <= highest:
            raise SettingsError(
                f"{source}: {path}.{key} must be a number from {lowest:g} to {highest:g}, not {value!r:.40}; {_ADVICE}"
            )


def same_generation(places: state.Places, generation: str) -> bool:
    """Whether mf.json carries this stamp, seen without parsing it (hot path)."""
    try:
        data = state.read_bytes(places.settings)
    except OSError:
        return False
    return data is not None and f'"generation": "{generation}"'.encode() in data
