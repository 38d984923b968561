"""Texts that fit into one SMS: GSM 03.38's default alphabet (3GPP TS 23.038, 6.2.1), 160 septets, nothing hostile."""

from __future__ import annotations

import time

from mf import text

LIMIT = 160
REPEAT = "repeat: "  # may be put before a text after a crash; room is kept for it
# printable ASCII that is not in the default alphabet, or takes two septets there
_REPLACE = str.maketrans({"`": "'", "[": "(", "]": ")", "{": "(", "}": ")", "\\": "/", "^": "-", "~": "-", "|": "/"})


def gsm7(words: str, limit: int = LIMIT) -> str:
    """At most ``limit`` septets: printable ASCII within the default alphabet, cut with ``...``."""
    plain = " ".join(text.clean(words, 1000).translate(_REPLACE).split())
    return plain if len(plain) <= limit else plain[: limit - 3] + "..."


def compose(name: str, mark: str, titles: list[str], tail: str) -> str:
    """``NAME MARK: title; title TAIL``; when it gets too long titles are cut, then only counted. The tail stays."""
    head = f"{gsm7(name, 20)} {mark}: " if mark else f"{gsm7(name, 20)}: "
    end = f" {gsm7(tail, 60)}" if tail else ""
    room = LIMIT - len(REPEAT) - len(head) - len(end)
    body = gsm7("; ".join(titles), 1000)
    if len(body) > room and len(titles) > 1:
        longest = min(60, room - len(f"; +{len(titles)} more"))
        kept = [gsm7(titles[0], longest)]
        for title in titles[1:]:
            more = f"; +{len(titles) - len(kept) - 1} more"
            if len("; ".join([*kept, gsm7(title, longest)])) + len(more) > room:
                break
            kept.append(gsm7(title, longest))
        left = len(titles) - len(kept)
        body = "; ".join(kept) + (f"; +{left} more" if left else "")
    return head + gsm7(body, room) + end


def clock(moment: float) -> str:
    """``12:03Z``."""
    return time.strftime("%H:%MZ", time.gmtime(moment))
