"""The quarantine's section of mf.json, checked whole.

::

    "quarantine": {"mx": [{"name", "address"}], "retention_days": 30, "retention": {"customer.example": 7},
                   "mx_keeps_days": 5, "import_throttle_sleep": 3, "free_percent": 5}
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mf import config, state

from . import layout

DAY = 86400.0
MARGIN = 10
"""Days that the ledger keeps an id longer than the longest retention and the MXs' own."""

_ADVICE = "deploy again with playbooks/site.yml"


class Settings:
    """``mx`` maps names to numeric addresses; ``import_throttle_sleep`` is seconds.

    ``mx_keeps_days``: the longest time that an MX keeps rejected mail. The ledger keeps ids longer, so it has every
    message that is still on an MX. Raises config.SettingsError.
    """

    def __init__(self, section: Mapping[str, Any]) -> None:
        try:
            self.mx: dict[str, str] = {mx["name"]: mx["address"] for mx in section["mx"]}
            self.retention_days: int = section["retention_days"]
            self.retention: dict[str, int] = dict(section["retention"])
            self.mx_keeps_days: int = section["mx_keeps_days"]
            self.import_throttle_sleep: int = section["import_throttle_sleep"]
            self.free_percent: int = section["free_percent"]
        except (KeyError, TypeError, ValueError):
            raise config.SettingsError(f"the section quarantine of mf.json is not whole; {_ADVICE}") from None
        for name, address in self.mx.items():
            # an address that begins with a hyphen would be an option of ssh
            if not layout.is_host(name) or not (address[:1].isalnum() or address[:1] == ":"):
                raise config.SettingsError(f"quarantine.mx: {name!r:.40} with {address!r:.60} can't be; {_ADVICE}")
        for key, value, least, most in (
            *(("retention", days, 1, 3660) for days in (self.retention_days, *self.retention.values())),
            ("mx_keeps_days", self.mx_keeps_days, 1, 60),
            ("import_throttle_sleep", self.import_throttle_sleep, 0, 60),
            ("free_percent", self.free_percent, 0, 60),
        ):
            # type() and not isinstance(): true is no number
            if type(value) is not int or not least <= value <= most:
                problem = f"must be a whole number from {least} to {most}, not {value!r:.20}"
                raise config.SettingsError(f"quarantine.{key} {problem}; {_ADVICE}")

    def days(self, domain: str) -> int:
        """Days that messages of a domain are kept."""
        return self.retention.get(domain, self.retention_days)

    def cutoff(self, domain: str, now: float) -> str:
        """The bound of a domain's retention: ids that sort before it have expired."""
        return layout.bound(now - self.days(domain) * DAY)

    def ledger_cutoff(self, now: float) -> str:
        """The bound of the ledger: ids that sort before it have expired, and of rejected mail no MX has them."""
        longest = max(self.retention_days, *self.retention.values(), self.mx_keeps_days)
        return layout.bound(now - (longest + self.mx_keeps_days + MARGIN) * DAY)


def load(places: state.Places) -> Settings:
    """The settings of this host. Raises config.SettingsError."""
    section = config.load(places).get("quarantine")
    if not isinstance(section, dict):
        raise config.SettingsError(f"{places.settings} has no section quarantine: this host keeps none")
    return Settings(section)
