"""Text from outside (process names, SMTP replies, file names) made safe to show, log and send."""

from __future__ import annotations


def clean(text: str | bytes, limit: int = 120) -> str:
    """Printable ASCII of at most ``limit`` characters: everything else becomes an escape such as ``\\x1b``.

    The result can't move a cursor, end a line, or start a new field in a log. Text that was cut ends in ``...``.
    """
    if isinstance(text, bytes):
        text = text[: 4 * limit].decode("latin-1")
    shown = "".join(
        letter if letter.isascii() and letter.isprintable() and letter != "\\" else _escape(letter)
        for letter in text[: 4 * limit]
    )
    return shown if len(shown) <= limit else shown[: limit - 3] + "..."


def _escape(letter: str) -> str:
    return letter.encode("unicode_escape").decode("ascii")


def seconds(text: str) -> float:
    """``90``, ``90s``, ``15m``, ``2h`` or ``1d`` in seconds. Raises ValueError, in one clear line."""
    units = {"s": 1, "m": 60, "h": 3600, "d": 86400}
    duration = text.strip()
    unit = units.get(duration[-1:].lower(), 0)
    number = duration[:-1] if unit else duration
    if not (number.isascii() and number.replace(".", "", 1).isdigit()):
        raise ValueError(f"{clean(text, 40)!r} is not a duration; use for example 90s, 15m, 2h or 1d")
    value = float(number) * (unit or 1)
    if not 0 < value <= 366 * 86400:
        raise ValueError(f"{clean(text, 40)!r} is out of range; a duration is more than 0 and at most 366d")
    return value


def span(value: float) -> str:
    """Seconds in a readable unit: ``45 s``, ``12 min``, ``3.5 h``, ``2.1 days``."""
    if value < 90:
        return f"{value:.0f} s"
    if value < 5400:
        return f"{value / 60:.0f} min"
    if value < 129600:
        return f"{value / 3600:.1f} h"
    return f"{value / 86400:.1f} days"
