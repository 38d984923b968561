"""Deliver a message out of the quarantine to this MX's Exim, past qpsmtpd, once.

Control releases it; its ssh key allows this one command here. The command's argument is the id of the release, stdin is
the file as it was kept: one JSON envelope line, then the raw message. The answer is one line and an exit code::

    accepted WORDS   0   handed to Exim now
    known WORDS      0   this release was delivered before; nothing was done
    refused WORDS    1   not taken, and it won't be: malformed, damaged, or Exim's 5xx
    later WORDS      75  nothing was done, for certain; try again, here or elsewhere (EX_TEMPFAIL, sysexits.h)
    unclear WORDS    70  the final dot was sent and its answer is missing; ask this MX again, with the same id

Once: the id is stored before the final dot, and the outcome after it. A lost ssh connection doesn't end this
program, so the answer is there when control asks again. If it was killed in between, the next try reads Exim's
logs, in which each release has its own name in EHLO: Exim writes "<=" before it answers the dot. Logs that don't
reach back to that dot prove nothing: then the answer is always ``unclear``.
"""

from __future__ import annotations

import contextlib
import errno
import gzip
import hashlib
import io
import json
import os
import re
import smtplib
import time
from collections.abc import Iterator
from typing import Any, BinaryIO, NamedTuple

from mf import state, text

RECORDS = "/mf/var/release"
LOGS = "/var/log/exim4"
ADDRESS, PORT = "127.0.0.1", 10025

ACCEPTED, KNOWN, REFUSED, LATER, UNCLEAR = "accepted", "known", "refused", "later", "unclear"
EXIT_CODES = {ACCEPTED: 0, KNOWN: 0, REFUSED: 1, LATER: 75, UNCLEAR: 70}

MAX_ENVELOPE = 1 << 20  # bytes
MAX_MESSAGE = 1 << 30  # bytes; the limit that applies is Exim's (mf_exim_message_size)
MAX_RECIPIENTS = 1000
DIALOGUE = 300.0  # seconds for one answer of Exim (RFC 5321, 4.5.3.2)
BUSY = 30.0  # seconds to wait for another try of the same release
FORGET = 3700 * 86400.0  # seconds that an id is remembered: longer than any quarantine has its message (3660 days)

BLOCK = 1 << 16  # bytes of a message that are made ready, and sent, at a time

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9.-]{0,149}")
# Addresses that Mf::Address allows; Exim judges the domain. Local part without its quotes, domain or literal.
_ADDRESS = re.compile(r"([ -~]+)@([A-Za-z0-9._-]+|\[(?:[0-9.]{7,15}|IPv6:[0-9A-Fa-f:.]{2,45})\])")
_MAX_PATH = 256  # bytes with the brackets, as in Mf::Address; local parts above 64 are common (VERP, SRS)
# Characters that a local part must quote; the same as in Qpsmtpd::Address, which applies to mail that isn't rejected.
_QUOTED = re.compile(r"[^a-zA-Z0-9!#$%&'*+\-/=?^_`{|}~.]")


class Answer(NamedTuple):
    """One of the five words, and its detail."""

    word: str
    detail: str

    def line(self) -> str:
        """The one line for control."""
        return f"{self.word} {text.clean(self.detail, 300)}"


class RefusedError(Exception):
    """The message can't be delivered, and never will. One line."""


class Message(NamedTuple):
    """A message as it was kept, whole; addresses as in SMTP, in angle brackets."""

    sender: str  # "<>" for a bounce
    recipients: list[str]
    raw: bytes


def read(source: BinaryIO) -> Message:
    """The message on a stream. Raises RefusedError."""
    first = source.readline(MAX_ENVELOPE + 1)
    raw = source.read(MAX_MESSAGE + 1)
    if len(first) > MAX_ENVELOPE or len(raw) > MAX_MESSAGE:
        raise RefusedError(f"too large: more than {MAX_MESSAGE >> 20} MiB")
    return parse(first, raw)


def parse(first: bytes, raw: bytes) -> Message:
    """Envelope line and message, checked. Raises RefusedError. Pure."""
    try:
        envelope = json.loads(first)
        sender, recipients, digest = envelope["sender"], envelope["recipients"], envelope["sha256"]
    except (ValueError, RecursionError, KeyError, TypeError, IndexError):
        raise RefusedError("its first line is no envelope") from None
    if hashlib.sha256(raw).hexdigest() != digest:
        raise RefusedError("damaged: its sha256 isn't the one in its envelope")
    if envelope.get("truncated"):
        raise RefusedError(f"only its first {len(raw)} bytes were kept, of {_number(envelope.get('size'))}")
    if not isinstance(recipients, list) or not 0 < len(recipients) <= MAX_RECIPIENTS:
        raise RefusedError(f"an envelope has 1 to {MAX_RECIPIENTS} recipients")
    return Message(path(sender) if sender != "" else "<>", [path(address) for address in recipients], raw)


def path(address: object) -> str:
    """An address as in MAIL and RCPT, unambiguous. Raises RefusedError. Pure."""
    match = _ADDRESS.fullmatch(address) if isinstance(address, str) and len(address) <= _MAX_PATH - 2 else None
    if match is None:
        raise RefusedError(f"no address: {text.clean(str(address), 80)}")
    local, domain = match.groups()
    safe = _QUOTED.sub(r"\\\g<0>", local)
    return f"<{local}@{domain}>" if safe == local else f'<"{safe}"@{domain}>'


def wire(raw: bytes) -> Iterator[bytes]:
    """The message as sent after DATA, in blocks, without the final dot.

    CRLF, dots stuffed (RFC 5321, 4.5.2), no bare CR. A message of only line ends takes no more memory than others.
    """
    source, block = io.BytesIO(raw), bytearray()
    crs = 0  # read and not sent: at the end of a line they are dropped, inside a line each becomes a space
    begun = False  # whether something of this line was sent
    while piece := source.readline(BLOCK):
        content = piece.rstrip(b"\r\n")
        ended = piece.endswith(b"\n")
        if content:
            block += b"." if content.startswith(b".") and not begun and not crs else b" " * crs
            block += content.replace(b"\r", b" ")
            begun, crs = True, 0
        crs += len(piece) - len(content) - ended
        if ended:
            block += b"\r\n"
            begun, crs = False, 0
        if len(block) >= BLOCK:
            yield bytes(block)
            block.clear()
    yield bytes(block) + (b"\r\n" if begun else b"")


def helo(release: str) -> str:
    """The name in EHLO by which this release is recognized in Exim's log."""
    return f"r-{hashlib.sha256(release.encode()).hexdigest()[:40]}.release.mf.invalid"


def deliver(
    identifier: str,
    source: BinaryIO,
    *,
    records: str = RECORDS,
    logs: str = LOGS,
    address: str = ADDRESS,
    port: int = PORT,
    now: float | None = None,
) -> Answer:
    """Deliver one message, at most once for an identifier. Never raises for an error outside this program."""
    if not _ID.fullmatch(identifier):
        return Answer(REFUSED, "no release id: letters, digits, dots and hyphens, at most 150")
    moment = time.time() if now is None else now
    settled = False  # whether no earlier try was accepted, for certain
    try:
        lock = state.Lock(f"{records}/{identifier}", BUSY)
        with lock as held:
            if not held:
                # Exim may accept it any moment
                return Answer(UNCLEAR, "another try of this release is under way")
            record = lock.fileno()
            status, _, detail = _load(record).partition(" ")
            if status == ACCEPTED:
                return Answer(KNOWN, detail)
            if status == "begun":
                # without its time all logs are read, and none reaches back to it
                queue_id = logged(logs, helo(identifier), float(detail) if detail.isdigit() else 0.0)
                if queue_id is None:
                    return Answer(UNCLEAR, f"Exim may have taken it before its logs begin; see {records}/{identifier}")
                if queue_id:
                    with contextlib.suppress(OSError):
                        _store(record, f"{ACCEPTED} {queue_id}")
                    return Answer(KNOWN, f"{queue_id} (found in Exim's log)")
            settled = True
            answer = _deliver(identifier, source, record, moment, address, port)
            if answer.word != UNCLEAR:
                # should this fail, the record stays "begun", and the next try looks into Exim's log
                with contextlib.suppress(OSError):
                    _store(record, f"{answer.word} {answer.detail}")
            return answer
    except RefusedError as error:
        return Answer(REFUSED, str(error))
    except OSError as error:
        # before the final dot nothing has been done; after it, _deliver has caught everything. A full disk stops only
        # a record that is new, that is a first try.
        word = LATER if settled or error.errno == errno.ENOSPC else UNCLEAR
        return Answer(word, f"{error.filename or 'here'}: {error.strerror or error}")


def logged(logs: str, name: str, since: float) -> str | None:
    """Exim's id of the message that it accepted from ``name``, from its logs since then. Raises OSError.

    "" for none; None when unknown, because the logs begin later. ``since`` is epoch seconds; a log that was last
    written before is passed over.
    """
    pattern = re.compile(rb"^\S+ \S+ (?:\[\d+\] )?(\S+) <= .* H=\(" + re.escape(name.encode()) + rb"\) ")
    reach = False
    for entry in sorted(os.scandir(logs), key=lambda log: log.name):
        if not entry.name.startswith("mainlog"):
            continue
        if entry.stat().st_mtime < since - 60:
            reach = True
            continue
        opened: Any = gzip.open(entry.path, "rb") if entry.name.endswith(".gz") else open(entry.path, "rb")  # noqa: SIM115
        with opened as lines:
            for number, line in enumerate(lines):
                match = pattern.match(line)
                if match:
                    return str(match[1].decode("ascii", "replace"))
                reach = reach or (number == 0 and _written(line) <= since)
    return "" if reach else None


def _written(line: bytes) -> float:
    """Time of a line of Exim's log, in epoch seconds; infinity if it has no time."""
    try:
        return time.mktime(time.strptime(line[:19].decode("ascii"), "%Y-%m-%d %H:%M:%S"))
    except ValueError:
        return float("inf")


def forget(records: str, now: float | None = None) -> int:
    """Remove records older than FORGET; returns how many. No directory, nothing to do. Raises OSError."""
    moment = time.time() if now is None else now
    try:
        folder = os.open(records, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return 0
    try:
        old = [
            name
            for name in os.listdir(folder)
            if moment - os.stat(name, dir_fd=folder, follow_symlinks=False).st_mtime > FORGET
        ]
        for name in old:
            os.unlink(name, dir_fd=folder)
        return len(old)
    finally:
        os.close(folder)


def _deliver(identifier: str, source: BinaryIO, record: int, now: float, address: str, port: int) -> Answer:
    """The dialogue with Exim. Raises RefusedError, and OSError while nothing has been done."""
    message = read(source)
    link = smtplib.SMTP(local_hostname=helo(identifier), timeout=DIALOGUE)
    dotted = False
    try:
        code, reply = link.connect(address, port)
        steps = [
            f"EHLO {link.local_hostname}",
            f"MAIL FROM:{message.sender}",
            *(f"RCPT TO:{recipient}" for recipient in message.recipients),
            "DATA",
        ]
        for step in steps:
            if not 200 <= code < 400:
                return _negative(code, reply)
            code, reply = link.docmd(step)
        if code != 354:
            return _negative(code, reply)
        for block in wire(message.raw):
            link.send(block)
        _store(record, f"begun {now:.0f}")
        dotted = True
        link.send(b".\r\n")
        code, reply = link.getreply()
        if code != 250:
            return _negative(code, reply)
        with contextlib.suppress(smtplib.SMTPException, OSError):
            link.putcmd("QUIT")
        return Answer(ACCEPTED, reply.decode("ascii", "replace"))
    except (smtplib.SMTPException, OSError) as error:
        reason = text.clean(str(error) or type(error).__name__, 120)
        return Answer(UNCLEAR if dotted else LATER, f"Exim: {reason}")
    finally:
        link.close()


def _negative(code: int, reply: bytes) -> Answer:
    return Answer(REFUSED if 500 <= code <= 599 else LATER, f"{code} {reply.decode('ascii', 'replace')}")


def _load(record: int) -> str:
    """The first line. A record that is empty or cut off in it counts as none: nothing had been sent yet.

    Text after the line is the rest of a longer one: the machine stopped before the file was cut.
    """
    os.lseek(record, 0, os.SEEK_SET)
    data = os.read(record, 4096).decode("ascii", "replace")
    line, end, _ = data.partition("\n")
    return line if end else ""


def _store(record: int, line: str) -> None:
    """Replace the record's line, durably. In place: the lock is the file's own, and a new file would have none."""
    data = (text.clean(line, 1000) + "\n").encode("ascii")
    os.lseek(record, 0, os.SEEK_SET)
    os.write(record, data)
    os.ftruncate(record, len(data))
    os.fsync(record)


def _number(value: object) -> str:
    return str(value) if isinstance(value, int) else "an unknown number"
