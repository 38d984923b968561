"""Rules for the monitor's settings, each a text and a test, and the kinds of services with their options."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

_MAILBOX = r"[!-;=?-~]+@[A-Za-z0-9.-]+"


class WrongError(Exception):
    """A setting is wrong. The text names it and what is allowed, on one line."""


@dataclass(frozen=True, slots=True)
class Rule:
    """Rule for a value: a text that follows "must be", and a test."""

    takes: str
    fits: Callable[[Any], bool]


def number(lowest: float, highest: float) -> Rule:
    """A number in a range."""
    return Rule(
        f"a number from {lowest:g} to {highest:g}",
        lambda value: type(value) in (int, float) and lowest <= value <= highest,
    )


def whole(lowest: int, highest: int) -> Rule:
    """A whole number in a range."""
    return Rule(
        f"a whole number from {lowest} to {highest}", lambda value: type(value) is int and lowest <= value <= highest
    )


def matching(pattern: str, takes: str) -> Rule:
    """A text that fits a regular expression as a whole."""
    return Rule(takes, lambda value: isinstance(value, str) and re.fullmatch(pattern, value) is not None)


def list_of(fits: Callable[[Any], bool], takes: str) -> Rule:
    """A list whose entries all fit."""
    return Rule(takes, lambda value: isinstance(value, list) and all(map(fits, value)))


def weekly(text: str) -> tuple[int, int, int] | None:
    """Weekday (0 is Monday), hour and minute of ``mon 10:00``; None when it isn't that."""
    day, _, clock = text.partition(" ")
    days = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
    hour, _, minute = clock.partition(":")
    if day not in days or not (hour.isdigit() and minute.isdigit() and int(hour) < 24 and int(minute) < 60):
        return None
    return days.index(day), int(hour), int(minute)


def _is_word(value: object) -> bool:
    """A text that can't end a line or a field of a protocol."""
    return isinstance(value, str) and value.isprintable() and not any(letter in " <>" for letter in value)


TEXT = Rule("a text", lambda value: isinstance(value, str))
FLAG = Rule("true or false", lambda value: isinstance(value, bool))
TEXTS = list_of(lambda value: isinstance(value, str) and value != "", "a list of texts")
OBJECTS = list_of(lambda value: isinstance(value, dict), "a list of objects")


def mailbox(example: str, more: str = ", or empty") -> Rule:
    """An address of a mailbox."""
    return matching(f"({_MAILBOX})?" if more else _MAILBOX, f"an address such as {example}{more}")


# kind of a service -> its options with their defaults; None: must be given
KINDS: dict[str, dict[str, Any]] = {
    "tcp": {"port": None},
    "ssh": {"port": 22},
    "smtp": {"port": 25, "starttls": "optional", "canary": "", "verify": False},
    "relay": {"port": 25, "recipient": "", "sender": ""},
    "http": {"port": 80, "path": "/", "host_header": "", "status": 0, "contains": ""},
    "https": {"port": 443, "path": "/", "host_header": "", "status": 0, "contains": "", "verify": True},
    "mx": {"domain": None, "expect": None},
}
_STATUS = whole(100, 599)
OPTIONS: dict[str, Rule] = {
    "name": Rule("a word without a slash", lambda value: _is_word(value) and value != "" and "/" not in value),
    "address": Rule("an IP address or a name", _is_word),
    "port": whole(1, 65535),
    "interval": Rule(
        "a number of seconds from 1 to 86400",
        lambda value: type(value) in (int, float) and (value == 0 or 1 <= value <= 86400),
    ),
    "starttls": Rule("optional, required or off", lambda value: value in ("optional", "required", "off")),
    "verify": FLAG,
    "canary": mailbox("canary@example.org"),
    "recipient": mailbox("postmaster@iana.org"),
    "sender": mailbox("probe@example.org"),
    "path": Rule("a path that begins with /", lambda value: _is_word(value) and value.startswith("/")),
    "host_header": Rule("a name", _is_word),
    "status": Rule("an HTTP status from 100 to 599", lambda value: value == 0 or _STATUS.fits(value)),
    "contains": Rule("a text", lambda value: isinstance(value, str) and value.isprintable()),
    "domain": Rule("a domain", lambda value: _is_word(value) and value != ""),
}


def address_of(text: str, what: str) -> str:
    """A numeric address in its usual form. Raises WrongError."""
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        raise WrongError(f"{what}: {text!r:.60} is not an IP address") from None


def place(text: str) -> tuple[str, int]:
    """Address and port of ``192.0.2.1:53``, ``[2001:db8::1]:53`` or ``name:53``. Raises WrongError."""
    address, _, port = text.rpartition(":")
    if not (address and port.isascii() and port.isdigit() and 0 < int(port) < 65536):
        raise WrongError(f"{text!r:.60} is not address:port")
    return address.removeprefix("[").removesuffix("]"), int(port)
