"""A certificate's date as a probe's outcome."""

from __future__ import annotations

from mf import certificate, text

from ..judging.states import EXPIRED, WARNING, WRONG
from .world import Outcome, World

DAY = 86400


def outcome(der: bytes, world: World, message: str) -> Outcome:
    """Whether a certificate (DER) has expired or is about to; ``message`` when neither."""
    now = world.clocks.wall()
    expires = certificate.not_after(der)
    if expires is None:
        return Outcome(f"{message}, a certificate that can't be read", WARNING, WRONG)
    left = expires - now
    if left <= 0:
        return Outcome(f"certificate expired {text.span(-left)} ago", WARNING, EXPIRED, expires)
    if left < world.settings.cert_warning_days * DAY:
        return Outcome(f"certificate expires in {text.span(left)}", WARNING, "", expires)
    return Outcome(message, expires=expires)
