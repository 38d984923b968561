"""Keep messages that a customer's server refused for good, whole, as rejected mail.

Exim gives each of its own bounces to this program, by LMTP over a unix socket (mf-keep.socket), with the whole original
inside: a multipart/report (RFC 6522) of three parts, the last of which is the message as it was accepted, below a line
``Return-path:`` with its envelope's sender. One file is written, in the format of
roles/qpsmtpd/files/lib/qpsmtpd/lib/Mf/Rejected.pm, with a copy for each domain of the refused recipients, with
``plugin`` "customer" and the server's answer as ``reason``; so control fetches, indexes and releases it like any other.

The answer to the final dot is a 250 only when file and notes are synced and in their places. Otherwise it is a 451, and
the bounce stays in Exim's queue, whole. The notes come before the file. The id is made of the bounce's alone: a second
try writes the same file again, so control recognises by the id what it has fetched, and one that was released is not
sent a second time.

A day takes so many bytes and no more, counted in ``.day`` beside the notes, since a stranger can have mail refused.
What is beyond them waits in Exim's queue for the next day. They are compared before a message, so the last may exceed
them.
"""

from __future__ import annotations

import errno
import functools
import hashlib
import json
import os
import re
import string
import sys
import time
from io import BufferedIOBase
from typing import Any, BinaryIO, NamedTuple

from mf import Failure, message_id, state, text

from . import purge_record, refused

MAX_ENVELOPE = 1 << 20  # bytes; a file's readers take no longer line
MAX_LINE = 4096  # bytes of a command
MAX_COMMANDS = 100
MAX_REPORT = 16 << 20  # bytes before the original: 1,100 recipients and their servers' answers are far less
BLOCK = 1 << 20
LOCKED = 5.0  # seconds to wait for another keeper that counts
_BASE62 = string.digits + string.ascii_uppercase + string.ascii_lowercase
_DOMAIN = re.compile(r"(?!.*\.\.)[a-z0-9][a-z0-9.-]{0,252}", re.ASCII)
_BOUNDARY = re.compile(
    rb'^content-type:\s*multipart/report;[^\n]*(?:\n[ \t][^\n]*)*?boundary="?([^"\s;]{1,70})',
    re.IGNORECASE | re.MULTILINE,
)
_WHOLE = re.compile(rb"^content-type:\s*message/rfc822\s*$", re.IGNORECASE | re.MULTILINE)
# as it is written in Exim's queue, see the rewriting rule in exim4.conf
_QUEUED_SENDER = re.compile(r'\A(.*)=([^=@"]*)("?)@0\Z')
_QUOTE = re.compile(r'\\(.)|"')
_PATH = re.compile(rb"return-path: <([^\n]*)>\n", re.IGNORECASE)
_QUEUED = re.compile(
    rb"^message-id:\s*<E([0-9A-Za-z]{6}-[0-9A-Za-z]{6,11}-[0-9A-Za-z]{2,4})@", re.IGNORECASE | re.MULTILINE
)


class ReportError(Failure):
    """Not a bounce with a whole message in it. One line."""


class Refusal(NamedTuple):
    """A refused message. Offsets are those in the bounce."""

    queued: str  # Exim's id of the bounce
    sender: str  # "" for a bounce; addresses have no quotes in their local parts
    recipients: dict[str, str]  # with their servers' answers
    part: int  # where the header of the original's part begins
    start: int  # where the original begins, as it was accepted
    end: int  # where it ends


def parse(report: bytes | bytearray) -> Refusal:
    """The refused message in a bounce of Exim's. Lines end in "\n". Raises ReportError. Pure."""
    head, body = _split(report, 0, len(report))
    boundary, queued = _BOUNDARY.search(head), _QUEUED.search(head)
    if boundary is None or queued is None:
        raise ReportError("not a bounce of this host's Exim")
    line = b"--" + boundary[1]
    parts = []
    at = body - 1
    for _ in range(3):
        # text and report come first, so nothing in the original is taken for a boundary
        at = report.find(b"\n" + line + b"\n", at)
        if at < 0:
            raise ReportError("a part of the bounce is missing")
        at += len(line) + 1
        parts.append(at + 1)
    # the line end before a boundary belongs to the boundary (RFC 2046, 5.1.1)
    end = report.rfind(b"\n" + line + b"--\n")
    if end <= parts[2]:
        raise ReportError("the bounce has no end")
    kind, first = _split(report, parts[2], end)
    if not _WHOLE.search(kind):
        raise ReportError("the bounce doesn't hold the whole message")
    path = _PATH.match(report, first, end)
    if path is None:
        raise ReportError("the bounce doesn't name the sender of the message")
    recipients = _recipients(bytes(report[parts[1] : parts[2]]), _explanation(bytes(report[parts[0] : parts[1]])))
    if not recipients:
        raise ReportError("the bounce names no recipient")
    sender = _QUEUED_SENDER.sub(r"\1\3@\2", path[1].decode("latin-1"))
    return Refusal(queued[1].decode("ascii"), _unquoted(sender), recipients, parts[2], path.end(), end)


def _unquoted(address: str) -> str:
    """An address of Exim's, its local part without quotes and their backslashes, as Mf::Rejected stores it."""
    local, at, domain = address.rpartition("@")
    return _QUOTE.sub(r"\1", local) + at + domain


def _split(report: bytes | bytearray, start: int, end: int) -> tuple[bytes, int]:
    """A part's header, and where its body begins."""
    at = report.find(b"\n\n", start, min(end, start + MAX_REPORT))
    if at < 0:
        raise ReportError("a part of the bounce has no end of its header")
    return bytes(report[start : at + 1]), at + 2


def _recipients(report: bytes, otherwise: str) -> dict[str, str]:
    """The failed recipients in a message/delivery-status (RFC 3464), with their server's answer, or Exim's text."""
    recipients: dict[str, str] = {}
    for block in re.sub(rb"\n[ \t]+", b" ", report).split(b"\n\n"):
        fields = {
            name.strip().lower(): value.strip()
            for name, _, value in (line.partition(b":") for line in block.split(b"\n"))
        }
        if fields.get(b"action") != b"failed":
            continue
        address = fields.get(b"final-recipient", b"").partition(b";")[2].strip().decode("latin-1")
        answer = fields.get(b"diagnostic-code", b"").partition(b";")[2].strip().decode("latin-1")
        if address:
            recipients[_unquoted(address)] = text.clean(answer or otherwise or "no reason given", 250)
    return recipients


def _explanation(part: bytes) -> str:
    """The indented lines of the bounce's text, the addresses left out."""
    lines = [line.strip() for line in part.decode("latin-1").split("\n") if line.startswith("    ")]
    return " ".join(lines)


def keep(report: bytes | bytearray, root: str, folder: str, host: str) -> list[str]:
    """Write notes and file, synced; returns the ids, one for each domain. Raises ReportError, and OSError."""
    refusal = parse(report)
    raw = memoryview(report)[refusal.start : refusal.end]
    domains: dict[str, list[str]] = {}
    for address in refusal.recipients:
        name = address.rpartition("@")[2].lower()
        domains.setdefault(name if _DOMAIN.fullmatch(name) else "_invalid", []).append(address)
    digest = hashlib.sha256(raw).hexdigest()
    copies: list[dict[str, Any]] = [
        {
            "domain": domain,
            "recipients": addresses,
            "reason": "; ".join(dict.fromkeys(refusal.recipients[address] for address in addresses))[:250],
        }
        for domain, addresses in sorted(domains.items())
    ]
    name = _name(refusal.queued, host, digest, sorted(domains))
    idents = [f"{name[:-1]}{number}" for number in range(len(copies))] if len(copies) > 1 else [name]
    for ident, copy in zip(idents, copies, strict=True):
        note = {**copy, "recipients": copy["recipients"][:20]}
        state.write_atomic(f"{folder}/{ident}", json.dumps(note).encode("ascii") + b"\n", 0o640, durable=True)
    envelope = {
        "message": f"{host}-{refusal.queued}",
        "host": host,
        "received": message_id.iso(name),
        "sender": refusal.sender,
        "client_ip": "",
        "helo": "",
        "plugin": refused.PLUGIN,
        "size": len(raw),
        "truncated": False,
        "sha256": digest,
    }
    _write(refused.path(root, copies[0]["domain"], name), _line(envelope, name, copies), raw)
    _count(folder, len(raw))
    return idents


def _count(folder: str, size: int) -> None:
    """Add to the day's bytes. Raises OSError."""
    lock = state.Lock(f"{folder}/.day", LOCKED)
    with lock as held:
        if not held:
            raise TimeoutError(errno.ETIMEDOUT, "locked", f"{folder}/.day")
        now = time.time()
        used = purge_record.today(folder, now)["used"] + size
        day = time.strftime("%Y%m%d", time.gmtime(now))
        # of a fixed width, so it is replaced in place
        os.pwrite(lock.fileno(), f"day {day}\nused {used:015.0f}\n".encode("ascii"), 0)


def _line(envelope: dict[str, Any], name: str, copies: list[dict[str, Any]]) -> bytes:
    """The first line of a file."""
    if len(copies) == 1:
        own = {"id": name, "recipients": copies[0]["recipients"], "reason": copies[0]["reason"]}
        return json.dumps({**envelope, **own}).encode("ascii") + b"\n"
    envelope["reason"] = "refused by the servers of several domains"
    line = json.dumps({**envelope, "copies": copies}).encode("ascii") + b"\n"
    if len(line) > MAX_ENVELOPE:
        # the notes still have the reasons
        bare = [{key: copy[key] for key in ("domain", "recipients")} for copy in copies]
        line = json.dumps({**envelope, "copies": bare}).encode("ascii") + b"\n"
    return line


def alone(line: bytes, ident: str) -> bytes:
    """A shared file's first line with one copy only, as of a file for one domain. Raises Failure."""
    try:
        envelope = json.loads(line)
        copies = envelope.pop("copies")
        copy = copies[int(ident.rpartition(".")[2])]
        own = {"id": ident, "recipients": copy["recipients"], "reason": copy.get("reason", envelope.get("reason"))}
    except (ValueError, RecursionError, KeyError, TypeError, IndexError, AttributeError):
        raise Failure("its first line is no envelope of several copies") from None
    return json.dumps({**envelope, **own}).encode("ascii") + b"\n"


def _name(queued: str, host: str, digest: str, domains: list[str]) -> str:
    """The file's name, the same at each try: its time is that of Exim's id, seconds in base 62. Pure."""
    words = [queued, host, *(domains if len(domains) == 1 else []), digest]
    unique = hashlib.sha256(" ".join(words).encode()).hexdigest()[:16] + (".0" if len(domains) > 1 else "")
    seconds = functools.reduce(lambda value, letter: value * 62 + _BASE62.index(letter), queued[:6], 0)
    mx = re.sub(r"[^a-z0-9.-]", "-", host.lower()[:64])
    moment = time.strftime("%Y%m%dT%H%M%S", time.gmtime(seconds))
    return f"{moment}.000000Z-{mx}-{refused.PLUGIN}-{queued.replace('-', '.')}-{unique}"


def _write(target: str, line: bytes, raw: memoryview) -> None:
    """Write a message as the SMTP service does: into tmp/, synced, renamed to new/, synced."""
    box, _, ident = target.rpartition("/new/")
    for folder in (f"{box}/tmp", f"{box}/new"):
        _make(folder)
    temporary = f"{box}/tmp/{ident}"
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o640)
    try:
        try:
            for piece in (memoryview(line), raw):
                done = 0
                while done < len(piece):
                    done += os.write(descriptor, piece[done:])
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        os.rename(temporary, target)
    except BaseException:
        os.unlink(temporary)
        raise
    _sync(f"{box}/new")


def _make(folder: str) -> None:
    """Make a folder and those above it, each entry synced."""
    try:
        os.mkdir(folder, 0o750)
    except FileExistsError:
        return
    except FileNotFoundError:
        _make(folder.rpartition("/")[0])
        _make(folder)
        return
    _sync(folder.rpartition("/")[0])


def _sync(folder: str) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def receive(source: BufferedIOBase) -> bytearray:
    """A message up to its final dot, lines ended by "\n". Raises EOFError when the client leaves before it."""
    message = bytearray()
    pending = b""
    fresh = True  # at the beginning of a line
    while block := source.read1(BLOCK):
        data = pending + block
        cut = data.rfind(b"\n") + 1
        if not cut and len(data) > BLOCK:
            # a very long line; its last byte may be the first half of a line's end
            cut = len(data) - 1
        lines, pending = data[:cut].replace(b"\r\n", b"\n"), data[cut:]
        if not lines:
            continue
        last = lines.endswith(b"\n.\n") or (fresh and lines == b".\n")
        lines = (lines[:-2] if last else lines).replace(b"\n.", b"\n")
        message += lines.removeprefix(b".") if fresh else lines
        fresh = message.endswith(b"\n") or not message
        if last:
            return message
    raise EOFError


def serve(source: BufferedIOBase, sink: BinaryIO, root: str, folder: str, host: str, day_size: int) -> None:
    """One LMTP session (RFC 2033) with this host's Exim. A failure is answered with 4xx, so Exim keeps the bounce.

    ``day_size``: bytes that a day takes.
    """

    def send(line: str) -> None:
        sink.write(line.encode("ascii", "replace") + b"\r\n")
        sink.flush()

    send(f"220 {host} keeps what was refused")
    recipients = 0
    for _ in range(MAX_COMMANDS):
        line = source.readline(MAX_LINE)
        if not line.endswith(b"\n"):
            return
        verb = line[:4].upper().strip()
        if verb == b"DATA" and recipients:
            send("354 go on")
            try:
                answer = _take(receive(source), root, folder, host)
            except EOFError:
                return
            for _ in range(recipients):
                send(answer)
            recipients = 0
        elif verb == b"QUIT":
            send("221 2.0.0 bye")
            return
        elif verb == b"MAIL" and purge_record.today(folder, time.time())["used"] >= day_size:
            # before the message comes: Exim tries again every 5 minutes
            send(_not_kept(f"a day takes {day_size} bytes and no more"))
        elif verb in (b"LHLO", b"MAIL", b"RSET", b"NOOP", b"RCPT"):
            recipients = recipients + 1 if verb == b"RCPT" else recipients if verb == b"NOOP" else 0
            send("250 2.0.0 ok")
        else:
            send("451 4.5.1 not now")


def _take(report: bytearray, root: str, folder: str, host: str) -> str:
    try:
        idents = keep(report, root, folder, host)
    except ReportError as error:
        reason = str(error)
    except OSError as error:
        reason = f"{error.filename or 'the disk'}: {error.strerror}"
    else:
        print(f"kept what a customer's server refused, as {' '.join(idents)}", file=sys.stderr)
        return "250 2.0.0 kept"
    return _not_kept(reason)


def _not_kept(reason: str) -> str:
    print(f"not kept, so it stays in Exim's queue: {reason}", file=sys.stderr)
    return f"451 4.3.0 not kept: {text.clean(reason, 200)}"


def trim(report: bytes) -> bytes:
    """A bounce for the sender: of the original only its header goes back (RFC 6522). Raises ReportError. Pure."""
    refusal = parse(report)
    header = report[refusal.start : refusal.end].partition(b"\n\n")[0]
    kind = report[refusal.part : refusal.start].replace(b"message/rfc822", b"text/rfc822-headers", 1)
    return report[: refusal.part] + kind + header + b"\n" + report[refusal.end :]
