"""The common input of probes: settings, certificates, clocks; and the outcome of a probe."""

from __future__ import annotations

import ssl
from dataclasses import dataclass

from ..clocks import Clocks
from ..judging.states import UP
from ..settings import Settings

OWN = "own"  # the reason when the monitor itself is at fault


@dataclass(frozen=True, slots=True)
class World:
    """The input of a probe besides the service."""

    settings: Settings
    context: ssl.SSLContext  # accepts any certificate: its dates are checked, and mail servers have what they have
    strict: ssl.SSLContext  # for https with verify
    clocks: Clocks

    @staticmethod
    def of(settings: Settings, clocks: Clocks) -> World:
        """Return a world with the system's certificates."""
        lax = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        lax.check_hostname = False
        lax.verify_mode = ssl.CERT_NONE
        return World(settings, lax, ssl.create_default_context(), clocks)


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of a probe that came to its end."""

    message: str
    state: str = UP
    reason: str = ""
    expires: float | None = None
