"""One kept file: its envelope line, and the message that follows as the index keeps it. Reads; writes nothing.

The envelope is that of one copy, or of one copy for each of several domains (see Mf/Rejected.pm). Its values come
from strangers. What isn't as the MX's plugin writes it is refused as ``DamagedError``, never guessed."""

from __future__ import annotations

import email.errors
import email.header
import hashlib
import json
import os
import re
from collections.abc import Iterable
from typing import Any

from . import layout

LINE_MAX = 1 << 20
"""Bytes of an envelope line: a thousand recipients of 320 bytes, escaped, take less than half of it."""
HEAD_MAX = 65536
"""Bytes of a message that are searched for its header."""
_CHUNK = 1 << 20
# Unfolded by subject(). Blanks before the colon: RFC 5322, 4.5.
_SUBJECT = re.compile(rb"^subject[ \t]*:((?:[^\n]|\n(?=[ \t])){0,2000})", re.IGNORECASE | re.MULTILINE)


class DamagedError(Exception):
    """The file is damaged, or isn't one of ours. One line."""


class Message:
    """A message as the index keeps it. Texts are cut to their columns' sizes, and valid UTF-8."""

    def __init__(self, domain: str, envelope: dict[str, Any], head: bytes, kept: int, sha256: bytes) -> None:
        self.id: str = envelope["id"]
        self.domain = domain
        self.mx: str = envelope["host"]
        self.sender = storable(envelope["sender"], 320)
        self.recipients = storable(" ".join(envelope["recipients"]), 1000)
        self.subject = subject(head)
        self.plugin = storable(envelope["plugin"], 64)
        self.reason = storable(envelope["reason"], 255)
        self.size: int = envelope["size"]
        self.kept = kept
        self.truncated: bool = envelope["truncated"]
        self.sha256 = sha256
        self.head = head
        """The first HEAD_MAX bytes of the message."""


_SINGLE: dict[str, type] = {"id": str, "recipients": list}
_KINDS: dict[str, type] = {
    "host": str,
    "sender": str,
    "plugin": str,
    "reason": str,
    "size": int,
    "truncated": bool,
    "sha256": str,
}


def read(path: str, domain: str, ident: str) -> Message:
    """One copy of the message in a kept file, checked against the envelope's hash. Raises DamagedError, OSError."""
    return select(copies(path, ident), domain, ident)


def select(messages: Iterable[Message], domain: str, ident: str) -> Message:
    """The copy with that id, which must be that domain's. Raises DamagedError."""
    for message in messages:
        if message.id == ident and message.domain in (domain, ""):
            message.domain = domain
            return message
    raise DamagedError("its envelope is that of another message")


def copies(path: str, ident: str) -> list[Message]:
    """All copies of the message in a kept file, ``ident`` among them, as ``read``.

    The envelope of a single copy doesn't name its domain: then that is "".
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        first = os.read(descriptor, _CHUNK)
        line, newline, body = first.partition(b"\n")
        if not newline:
            raise DamagedError("it is empty" if not first else "its first line is no envelope")
        envelopes = parse_all(line, ident)
        checksum = hashlib.sha256(body)
        kept = len(body)
        # a plain file gives less than was asked for at its end only
        while len(first) == _CHUNK:
            first = os.read(descriptor, _CHUNK)
            checksum.update(first)
            kept += len(first)
    finally:
        os.close(descriptor)
    if checksum.hexdigest() != envelopes[0]["sha256"]:
        raise DamagedError("its bytes are not those that the MX wrote (sha256 differs)")
    head = body[:HEAD_MAX]
    return [Message(copy.get("domain", ""), copy, head, kept, checksum.digest()) for copy in envelopes]


def parse(line: bytes, ident: str) -> dict[str, Any]:
    """The envelope of one copy in a file's first line, without the others. Raises DamagedError."""
    return next(envelope for envelope in parse_all(line, ident) if envelope["id"] == ident)


def alone(line: bytes, ident: str) -> bytes:
    """A file's first line with one copy only: no other domain's recipients leave this host.

    A line that isn't shared, or isn't one of ours, is returned as it is.
    """
    try:
        envelope = parse(line.rstrip(b"\n"), ident)
    except DamagedError:
        return line
    if "domain" not in envelope:
        return line
    return json.dumps({key: value for key, value in envelope.items() if key != "domain"}).encode() + b"\n"


def parse_all(line: bytes, ident: str) -> list[dict[str, Any]]:
    """The envelopes of all copies in a file's first line, ``ident`` among them. Raises DamagedError."""
    if len(line) >= LINE_MAX:
        raise DamagedError("its first line is too long for an envelope")
    try:
        envelope = json.loads(line)
    except (ValueError, RecursionError):
        envelope = None
    if not isinstance(envelope, dict):
        raise DamagedError("its first line is no envelope")
    kinds = _KINDS if "copies" in envelope else _SINGLE | _KINDS
    for key, kind in kinds.items():
        # type() and not isinstance(): true is no size
        if type(envelope.get(key)) is not kind:
            raise DamagedError(f"its envelope has no proper {key}")
    if not layout.is_host(envelope["host"]):
        raise DamagedError("its envelope has no proper host")
    if not 0 <= envelope["size"] < 1 << 40:
        raise DamagedError("its envelope has no proper size")
    # the domain of a single copy is its folder's name
    envelope.pop("domain", None)
    envelopes = _shared(envelope, ident) if "copies" in envelope else [envelope]
    for copy in envelopes:
        recipients = copy.get("recipients")
        if not isinstance(recipients, list) or not all(isinstance(address, str) for address in recipients):
            raise DamagedError("its envelope has no proper recipients")
    if not any(copy["id"] == ident for copy in envelopes):
        raise DamagedError("its envelope is that of another message")
    return envelopes


def _shared(envelope: dict[str, Any], ident: str) -> list[dict[str, Any]]:
    """An envelope for each of the copies, with its ``domain`` and its own ``reason``, if it has one. Their ids are
    derived from the file's, so none can be that of another message.
    """
    entries = envelope["copies"]
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise DamagedError("its envelope has no proper copies")
    domains = [entry.get("domain") for entry in entries]
    proper = all(isinstance(domain, str) and layout.is_domain(domain) for domain in domains)
    if not proper or len(set(domains)) != len(domains):
        raise DamagedError("its envelope has no proper copies")
    if not all(isinstance(entry.get("reason", ""), str) for entry in entries):
        raise DamagedError("its envelope has no proper reason")
    common = {key: value for key, value in envelope.items() if key != "copies"}
    name = layout.message(ident)
    return [
        common
        | {key: entry[key] for key in ("domain", "reason") if key in entry}
        | {"id": layout.copy(name, number), "recipients": entry.get("recipients")}
        for number, entry in enumerate(entries)
    ]


def header(head: bytes) -> bytes:
    """The header of a message that begins with these bytes, without the blank line."""
    return b"" if head.startswith(b"\n") else head.partition(b"\n\n")[0]


def subject(head: bytes) -> str:
    """The Subject, decoded (RFC 2047) where that is possible, as one line of at most 250 characters; "" without any."""
    match = _SUBJECT.search(header(head))
    if match is None:
        return ""
    raw = match[1].replace(b"\n", b"").strip()
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError:
        text = raw.decode("latin-1")
    if "=?" in text:
        try:
            text = "".join(
                part if isinstance(part, str) else part.decode(charset or "latin-1", "replace")
                for part, charset in email.header.decode_header(text)
            )
        except (ValueError, LookupError, AttributeError, email.errors.MessageError):
            pass  # shown undecoded
    return storable(" ".join(text.split()), 250)


def storable(text: str, limit: int) -> str:
    """At most ``limit`` characters, valid as UTF-8: half a surrogate pair becomes "?"."""
    return text[:limit].encode("utf-8", "replace").decode("utf-8")
