"""The tag of an end-to-end canary: it identifies our test message, its host and its time. The key makes it genuine.

Every MX sends itself a spam and a ham through its own front door. The spam must show up in the quarantine, the ham at
the sink on control; both are recognised by the tag in the header ``X-Mf-Canary`` and count in no statistics::

    X-Mf-Canary: v1 mx1 spam 1764036000.123 9f86d081884c7d65 <64 hex digits>
                    host kind time (epoch s)  nonce          HMAC-SHA256 (RFC 2104) over all before it

A tag that is forged, altered, too old or from the future is no tag: its message is ordinary mail. So is a message
with a genuine tag that isn't for ``DOMAIN``, to which only an MX itself can send; so an attacker who sees a tag can't
hide anything behind it. ``Seen`` keeps the nonces that were taken, so that none counts twice.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import time
from collections.abc import Iterable
from typing import NamedTuple

from . import Failure

HEADER = "X-Mf-Canary"
DOMAIN = "canary.mf.invalid"  # ".invalid" never exists (RFC 2606), so no customer's mail is mistaken for a canary
SPAM, HAM = "spam", "ham"

MAX_AGE = 900.0  # seconds from making to the moment a message was received
SKEW = 60.0  # seconds by which a clock may be behind the one that made the tag
KEY_BYTES = 32

_HOST = re.compile(r"[a-z0-9](?:[a-z0-9._-]{0,62}[a-z0-9])?")
_TAG = re.compile(
    rf"(v1 (?P<host>{_HOST.pattern}) (?P<kind>{SPAM}|{HAM}) (?P<time>[0-9]{{1,11}}\.[0-9]{{3}}) "
    r"(?P<nonce>[0-9a-f]{16})) (?P<mac>[0-9a-f]{64})"
)
_LONGEST = 256


class KeyFileError(Failure):
    """The key is missing or malformed. Its text is one line."""


class Tag(NamedTuple):
    """A tag that has been verified."""

    host: str  # inventory name of the MX, lower case
    kind: str  # SPAM or HAM
    time: float  # epoch seconds of making
    nonce: str  # 16 hex digits, different for each message


def read_key(path: str) -> bytes:
    """The key, from a file with its 64 hex digits. Raises KeyFileError."""
    try:
        with open(path, encoding="ascii") as source:
            key = bytes.fromhex(source.read(1024))
    except OSError as error:
        raise KeyFileError(f"{path}: {error.strerror}") from None
    except ValueError:
        key = b""
    if len(key) != KEY_BYTES:
        raise KeyFileError(f"{path}: not the 64 hex digits that scripts/make_secrets.py makes")
    return key


def make(key: bytes, host: str, kind: str, now: float | None = None, nonce: str | None = None) -> str:
    """The value of the header. ``host`` is lowered; ValueError when it or ``kind`` can't be in a tag."""
    name = host.lower()
    if not _HOST.fullmatch(name) or kind not in (SPAM, HAM):
        raise ValueError(f"no canary of kind {kind!r} from a host called {host!r}")
    moment = time.time() if now is None else now
    text = f"v1 {name} {kind} {moment:.3f} {nonce or secrets.token_hex(8)}"
    return f"{text} {_mac(key, text)}"


def verify(key: bytes, text: str | bytes, now: float, max_age: float = MAX_AGE) -> Tag | None:
    """The tag in a header's value, if this key made it at most ``max_age`` seconds before ``now``; otherwise None.

    ``now`` is when the message was received (epoch seconds), not when it is processed. Never raises, whatever the text
    is.
    """
    if isinstance(text, bytes):
        text = text[: _LONGEST + 1].decode("latin-1")
    match = _TAG.fullmatch(text.strip(" \t\r\n")) if len(text) <= _LONGEST else None
    if match is None or not hmac.compare_digest(_mac(key, match[1]), match["mac"]):
        return None
    tag = Tag(match["host"], match["kind"], float(match["time"]), match["nonce"])
    return tag if -SKEW <= now - tag.time <= max_age else None


def find(head: bytes) -> bytes | None:
    """The value of the first ``X-Mf-Canary`` in a message's beginning; None without one. Only the header counts."""
    name = HEADER.lower().encode() + b":"
    for line in head.split(b"\n"):
        if not line.strip(b"\r"):
            break
        if line[: len(name)].lower() == name:
            return line[len(name) :].strip()
    return None


class Seen:
    """Nonces of the last ``window`` seconds, by the time in their tags; a nonce taken again is a replay."""

    def __init__(self, taken: Iterable[tuple[str, float]] = (), window: float = 86400.0) -> None:
        self._window = window
        self._taken = dict(taken)

    def take(self, tag: Tag) -> bool:
        """Whether the tag is new; afterwards it counts as taken."""
        if tag.nonce in self._taken:
            return False
        self._taken[tag.nonce] = tag.time
        newest = max(self._taken.values())
        self._taken = {nonce: moment for nonce, moment in self._taken.items() if newest - moment <= self._window}
        return True

    def items(self) -> list[tuple[str, float]]:
        """Nonces and times to store for the next run, oldest first."""
        return sorted(self._taken.items(), key=lambda item: item[1])


def _mac(key: bytes, text: str) -> str:
    return hmac.new(key, text.encode("ascii"), hashlib.sha256).hexdigest()
