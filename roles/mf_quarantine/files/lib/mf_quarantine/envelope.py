"""One kept file: its envelope line, and what the index says about the message that follows. Reads; writes nothing.

The envelope is that of one copy, or of one copy for each of several domains (see Mf/Rejected.pm). Everything in
it was written by strangers. What isn't as the MX's plugin writes it is refused as ``DamagedError``, never guessed."""

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
"""Bytes of a message in which its header is looked for."""
_CHUNK = 1 << 20


class DamagedError(Exception):
    """The file isn't whole, or isn't one of ours. One line."""


class Message:
    """What the index keeps of a message. Texts are cut to their columns and can be stored as UTF-8."""

    __slots__ = (
        "domain",
        "head",
        "id",
        "kept",
        "mx",
        "plugin",
        "reason",
        "recipients",
        "sender",
        "sha256",
        "size",
        "subject",
        "truncated",
    )

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
    """One copy of the message in a kept file, its bytes held against the hash in the envelope.

    Raises DamagedError, OSError.
    """
    return one_of(copies(path, ident), domain, ident)


def one_of(found: Iterable[Message], domain: str, ident: str) -> Message:
    """The copy of that id, which must be that domain's. Raises DamagedError."""
    for one in found:
        if one.id == ident and one.domain in (domain, ""):
            one.domain = domain
            return one
    raise DamagedError("its envelope is that of another message")


def copies(path: str, ident: str) -> list[Message]:
    """All copies of the message in a kept file that has ``ident`` for one of them, as ``read``.

    The envelope of a single one doesn't name its domain: then that is "".
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
    return [Message(one.get("domain", ""), one, head, kept, checksum.digest()) for one in envelopes]


def parse(line: bytes, ident: str) -> dict[str, Any]:
    """The envelope of one copy in a file's first line; nothing of the others is in it. Raises DamagedError."""
    return next(one for one in parse_all(line, ident) if one["id"] == ident)


def alone(line: bytes, ident: str) -> bytes:
    """A file's first line as it is for one copy: what leaves this host has no other domain's recipients.

    A line that isn't shared, or is none of ours, stays as it is.
    """
    try:
        envelopes = parse_all(line.rstrip(b"\n"), ident)
    except DamagedError:
        return line
    if "domain" not in envelopes[0]:
        return line
    own = next(one for one in envelopes if one["id"] == ident)
    return json.dumps({key: value for key, value in own.items() if key != "domain"}).encode() + b"\n"


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
    # a single one has no domain of its own: its folder says it
    envelope.pop("domain", None)
    envelopes = _shared(envelope, ident) if "copies" in envelope else [envelope]
    for one in envelopes:
        recipients = one.get("recipients")
        if not isinstance(recipients, list) or not all(isinstance(address, str) for address in recipients):
            raise DamagedError("its envelope has no proper recipients")
    # an id that is no text is that of no message
    if not any(one.get("id") == ident for one in envelopes):
        raise DamagedError("its envelope is that of another message")
    return envelopes


def _shared(envelope: dict[str, Any], ident: str) -> list[dict[str, Any]]:
    """An envelope for each of the copies, with its ``domain``. Their ids follow from the file's, so none can be that
    of another message.
    """
    entries = envelope["copies"]
    if not isinstance(entries, list) or not all(isinstance(one, dict) for one in entries):
        raise DamagedError("its envelope has no proper copies")
    domains = [one.get("domain") for one in entries]
    if not all(isinstance(one, str) and layout.is_domain(one) for one in domains) or len(set(domains)) != len(domains):
        raise DamagedError("its envelope has no proper copies")
    common = {key: value for key, value in envelope.items() if key != "copies"}
    name = layout.message(ident)
    return [
        common | {"id": layout.copy(name, number), "domain": one["domain"], "recipients": one.get("recipients")}
        for number, one in enumerate(entries)
    ]


def header(head: bytes) -> bytes:
    """The header of a message that begins with these bytes, without the blank line."""
    if head.startswith(b"\n"):
        return b""
    return head.partition(b"\n\n")[0]


def field(head: bytes, name: bytes) -> bytes | None:
    """The first header field of a name, unfolded, at most 2000 bytes; None when there is none."""
    lines = header(head)
    # blanks before the colon: RFC 5322, 4.5
    found = re.search(rb"^" + re.escape(name) + rb"[ \t]*:", lines, re.IGNORECASE | re.MULTILINE)
    if found is None:
        return None
    start = end = found.end()
    limit = min(len(lines), start + 2000)
    while True:
        end = lines.find(b"\n", end, limit)
        if end < 0:
            end = limit
            break
        if lines[end + 1 : end + 2] not in (b" ", b"\t"):
            break
        end += 1
    return lines[start:end].replace(b"\n", b"").strip()


def subject(head: bytes) -> str:
    """The Subject, decoded (RFC 2047) where that is possible, as one line of at most 250 characters; "" without any."""
    raw = field(head, b"subject")
    if raw is None:
        return ""
    try:
        words = raw.decode("utf-8")
    except UnicodeDecodeError:
        words = raw.decode("latin-1")
    if "=?" in words:
        try:
            words = "".join(
                part if isinstance(part, str) else part.decode(charset or "latin-1", "replace")
                for part, charset in email.header.decode_header(words)
            )
        except (ValueError, LookupError, AttributeError, email.errors.MessageError):
            pass  # shown as it came
    return storable(" ".join(words.split()), 250)


def storable(text: str, limit: int) -> str:
    """At most ``limit`` characters, none of them half a surrogate pair, so that UTF-8 can hold them."""
    return text[:limit].encode("utf-8", "replace").decode("utf-8")
