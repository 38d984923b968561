"""Texts that fit into one SMS: GSM 03.38's default alphabet (3GPP TS 23.038, 6.2.1), 160 septets, nothing hostile."""

from __future__ import annotations

import time
from collections.abc import Sequence

from mf import text

LIMIT = 160
REPEAT = "repeat: "  # may be put before a text after a crash; room is kept for it
# printable ASCII that is not in the default alphabet, or takes two septets there
_REPLACE = str.maketrans({"`": "'", "[": "(", "]": ")", "{": "(", "}": ")", "\\": "/", "^": "-", "~": "-", "|": "/"})


def gsm7(message: str, limit: int = LIMIT) -> str:
    """At most ``limit`` septets: printable ASCII within the default alphabet, cut with ``...``."""
    plain = " ".join(text.clean(message, 1000).translate(_REPLACE).split())
    return plain if len(plain) <= limit else plain[: limit - 3] + "..."


def compose(name: str, mark: str, titles: list[str], tail: str, hosts: Sequence[str] = ()) -> str:
    """``NAME MARK: title; title TAIL``; the tail stays whole.

    Titles that don't fit are left out: their ``hosts`` (one for each title) are named, or else they are counted.
    """
    head = f"{gsm7(name, 20)} {mark}: " if mark else f"{gsm7(name, 20)}: "
    end = f" {gsm7(tail, 60)}" if tail else ""
    room = LIMIT - len(REPEAT) - len(head) - len(end)
    body = gsm7("; ".join(titles), 1000)
    if len(body) > room and len(titles) > 1:
        body = _shortened(titles, hosts, room)
    return head + gsm7(body, room) + end


def _shortened(titles: list[str], hosts: Sequence[str], room: int) -> str:
    """The first titles, each cut, and the hosts of the rest, or their number."""
    longest = min(60, room - len(f"; +{len(titles)} more"))
    cut = [gsm7(title, longest) for title in titles[: room // 2]]
    for named in (True, False):
        for kept in range(len(cut), 0, -1):
            left = len(titles) - kept
            if not left:
                rest = ""
            elif not named:
                rest = f"; +{left} more"
            elif hosts and left < room:
                rest = f"; also {', '.join(dict.fromkeys(hosts[kept:]))}"
            else:
                continue
            body = "; ".join(cut[:kept]) + rest
            if len(body) <= room:
                return body
    return cut[0]


def clock(moment: float) -> str:
    """``12:03Z``."""
    return time.strftime("%H:%MZ", time.gmtime(moment))
