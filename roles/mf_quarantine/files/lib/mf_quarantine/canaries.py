"""Our own end-to-end canaries among the messages: recorded as seen, then removed, and not counted (see mf.canary).

``state/canary-<mx>.json`` has the newest of an MX: ``{"sent", "received", "imported": epoch seconds, "id", "seen":
[[nonce, sent, id]]}``. An id that was seen may be imported again: the index may be older than this, from a dump."""

from __future__ import annotations

import json
from typing import Any

from mf import canary, state

from . import layout
from .envelope import Message
from .source import CANARY


class Canaries:
    """Verifies canaries with the fleet's key, and records those seen in ``folder``."""

    def __init__(self, key: bytes, folder: str) -> None:
        self._key = key
        self._folder = folder
        self._seen: dict[str, canary.Seen] = {}
        self._ids: dict[str, str] = {}

    def recognise(self, message: Message) -> canary.Tag | None:
        """The tag of a genuine canary; None for other mail, and for a replay.

        It is to the domain that only an MX can send to, from that MX, and its nonce is new or this message's own.
        """
        if message.domain != canary.DOMAIN:
            return None
        value = canary.find(message.head)
        tag = canary.verify(self._key, value, layout.received(message.id)) if value is not None else None
        if tag is None or tag.kind != canary.SPAM or tag.host != message.mx.lower():
            return None
        if tag.host not in self._seen:
            entries = _entries(self._read(tag.host).get("seen"))
            self._seen[tag.host] = canary.Seen((nonce, sent) for nonce, sent, _ in entries)
            self._ids.update((nonce, ident) for nonce, _, ident in entries)
        if self._seen[tag.host].take(tag):
            self._ids[tag.nonce] = message.id
        return tag if self._ids.get(tag.nonce) == message.id else None

    def note(self, tag: canary.Tag, message: Message, now: float) -> None:
        """Record a canary as seen."""
        before = self._read(tag.host)
        record: dict[str, Any] = {
            "sent": tag.time,
            "received": layout.received(message.id),
            "imported": round(now, 3),
            "id": message.id,
        }
        sent = before.get("sent")
        # a late canary may be imported after a newer one, and a repeated one is not newer
        if isinstance(sent, (int, float)) and sent >= tag.time:
            record = {key: before.get(key) for key in record}
        record["seen"] = [(nonce, when, self._ids[nonce]) for nonce, when in self._seen[tag.host].items()]
        state.write_atomic(self._path(tag.host), json.dumps(record).encode() + b"\n", 0o644)

    def _read(self, host: str) -> dict[str, Any]:
        return state.decode(state.read_bytes(self._path(host))) or {}

    def _path(self, host: str) -> str:
        return f"{self._folder}/{CANARY}{host}.json"


def _entries(seen: object) -> list[tuple[str, float, str]]:
    """``(nonce, sent, id)`` of each entry that is whole."""
    return [
        (entry[0], float(entry[1]), entry[2])
        for entry in (seen if isinstance(seen, list) else [])
        if isinstance(entry, list) and [type(value) for value in entry] in ([str, float, str], [str, int, str])
    ]
