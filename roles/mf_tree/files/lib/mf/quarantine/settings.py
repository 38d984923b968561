"""The quarantine's section of mf.json, checked whole.

::

    "quarantine": {"mx": [{"name", "address"}], "retention_days": 30, "retention": {"customer.example": 7},
                   "import_throttle_sleep": 3, "free_percent": 5}
"""

from __future__ import annotations

from .. import config, state
from . import layout

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

DAY = 86400.0
MX_KEEPS = 5
"""Days an MX keeps rejected mail; so much younger than the ledger's memory that nothing it still has is forgotten."""
MARGIN = 10
"""Days that the ledger remembers an id beyond the longest retention and what MXs keep."""

_ADVICE = "deploy again with playbooks/site.yml"


class Settings:
    """``mx`` maps names to numeric addresses; days are whole, ``import_throttle_sleep`` is seconds."""

    def __init__(self, section: Mapping[str, Any]) -> None:
        try:
            self.mx: dict[str, str] = {one["name"]: one["address"] for one in section["mx"]}
            self.retention_days: int = section["retention_days"]
            self.retention: dict[str, int] = dict(section["retention"])
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
        longest = max(self.retention_days, *self.retention.values(), MX_KEEPS)
        return layout.bound(now - (longest + MX_KEEPS + MARGIN) * DAY)


def load(places: state.Places) -> Settings:
    """The settings of this host. Raises config.SettingsError."""
    section = config.load(places).get("quarantine")
    if not isinstance(section, dict):
        raise config.SettingsError(f"{places.settings} has no section quarantine: this host keeps none")
    return Settings(section)
