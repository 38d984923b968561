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
"""Days that the ledger remembers an id beyond the longest retention and what MXs keep."""

_ADVICE = "deploy again with playbooks/site.yml"


class Settings:
    """``mx`` maps names to numeric addresses; days are whole, ``import_throttle_sleep`` is seconds.

    ``mx_keeps_days``: how long the MX that keeps rejected mail the longest does so. The ledger's memory is longer, so
    nothing that an MX still has is forgotten.
    """

    def __init__(self, section: Mapping[str, Any]) -> None:
        try:
            self.mx: dict[str, str] = {one["name"]: one["address"] for one in section["mx"]}
            self.retention_days: int = section["retention_days"]
            self.retention: dict[str, int] = dict(section["retention"])
            self.mx_keeps_days: int = section["mx_keeps_days"]
            self.import_throttle_sleep: float = section["import_throttle_sleep"]
            self.free_percent: float = section["free_percent"]
        except (KeyError, TypeError, ValueError):
            raise config.SettingsError(f"the section quarantine of mf.json is not whole; {_ADVICE}") from None
        for name, address in self.mx.items():
            # an address that begins with a hyphen would be an option of ssh
            if not layout.is_host(name) or not (address[:1].isalnum() or address[:1] == ":"):
                raise config.SettingsError(f"quarantine.mx: {name!r:.40} with {address!r:.60} can't be; {_ADVICE}")
        for days in (self.retention_days, *self.retention.values()):
            if type(days) is not int or not 1 <= days <= 3660:
                raise config.SettingsError(
                    f"quarantine.retention: days must be from 1 to 3660, not {days!r:.20}; {_ADVICE}"
                )
        if type(self.mx_keeps_days) is not int or not 1 <= self.mx_keeps_days <= 60:
            raise config.SettingsError(
                f"quarantine.mx_keeps_days must be from 1 to 60, not {self.mx_keeps_days!r:.20}; {_ADVICE}"
            )
        for number in (self.import_throttle_sleep, self.free_percent):
            if type(number) not in (int, float) or not 0 <= number <= 60:
                raise config.SettingsError(f"quarantine: a number must be from 0 to 60, not {number!r:.20}; {_ADVICE}")

    def days(self, domain: str) -> int:
        """Days that messages of a domain are kept."""
        return self.retention.get(domain, self.retention_days)

    def cutoff(self, domain: str, now: float) -> str:
        """What sorts before this has been kept long enough."""
        return layout.bound(now - self.days(domain) * DAY)

    def ledger_cutoff(self, now: float) -> str:
        """Ids that sort before this may be forgotten: no MX has them and no message is kept so long."""
        longest = max(self.retention_days, *self.retention.values(), self.mx_keeps_days)
        return layout.bound(now - (longest + self.mx_keeps_days + MARGIN) * DAY)


def load(places: state.Places) -> Settings:
    """The settings of this host. Raises config.SettingsError."""
    section = config.load(places).get("quarantine")
    if not isinstance(section, dict):
        raise config.SettingsError(f"{places.settings} has no section quarantine: this host keeps none")
    return Settings(section)
