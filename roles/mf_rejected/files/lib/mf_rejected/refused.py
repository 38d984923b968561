"""Accepted mail that a customer's server refused for good and that waits for an operator. Fast path: a check reads it.

The message is kept whole where rejected mail is, ``ROOT/YYYY-MM-DD/<domain>/new/<id>``, or in ``_shared`` when several
domains refused it (see ``keeper``). Beside that tree there is a note for each domain, ``FOLDER/<id>``: ``{"domain",
"recipients", "reason"}``. The note is removed when an operator has decided (``/mf/bin/refused``), or when control has
released the message; until then the purge keeps the message, however old it is.
"""

from __future__ import annotations

import posix

from mf import message_id, state

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

FOLDER = "/mf/var/refused"
PLUGIN = "customer"
"""The plugin in the envelope; it is part of the id as well."""
SHARED = "_shared"
COPIES = 1100  # of one message at most: recipients_max in exim4.conf


def is_refused(ident: str) -> bool:
    """Whether an id has the form TIME-HOST-customer-QUEUEID-HASH; the SMTP service's ids end in PID-COUNTER-RANDOM."""
    parts = ident.rsplit("-", 3)
    return len(parts) == 4 and parts[1] == PLUGIN and len(ident) > 27 and ident[:8].isdigit() and "/" not in ident


def file_name(ident: str) -> str:
    """The name of the message's file: the id, or that of the first copy when several domains share the file."""
    message, _, copy = ident.rpartition(".")
    return f"{message}.0" if copy.isdigit() else ident


def path(root: str, domain: str, ident: str) -> str:
    """The path of the message."""
    shared = ident.rpartition(".")[2].isdigit()
    return f"{root}/{message_id.day(ident)}/{SHARED if shared else domain}/new/{file_name(ident)}"


def noted(folder: str) -> list[str]:
    """The ids of all notes, oldest first. Raises OSError."""
    return sorted(name for name in posix.listdir(folder) if is_refused(name))


def released(releases: str, ident: str) -> bool:
    """Whether this MX has released it: by control, or by hand."""
    return state.content(f"{releases}/{ident}", 16).startswith((b"accepted ", b"accepted\n"))


def waiting(folder: str, releases: str) -> list[str]:
    """The ids that are undecided, oldest first. Raises OSError."""
    return [ident for ident in noted(folder) if not released(releases, ident)]


def waits(folder: str, releases: str, name: str) -> bool:
    """Whether a file of that name waits for an operator at this moment: a copy of it has a note and isn't released.

    Its notes are older than the file, so one that has none is decided. While notes can't be read, all refused mail
    waits.
    """
    if not is_refused(name):
        return False
    message, _, copy = name.rpartition(".")
    idents = [f"{message}.{number}" for number in range(COPIES)] if copy.isdigit() else [name]
    try:
        posix.stat(folder)
        return any(_is_noted(folder, ident) and not released(releases, ident) for ident in idents)
    except OSError:
        return True


def _is_noted(folder: str, ident: str) -> bool:
    try:
        posix.lstat(f"{folder}/{ident}")
    except FileNotFoundError:
        return False
    return True


def read(folder: str, ident: str) -> dict[str, str]:
    """``domain``, ``reason``, ``recipients`` (separated by blanks) of a note; "" for a missing value."""
    note = state.load(f"{folder}/{ident}")
    recipients = note.get("recipients")
    record = {key: value if isinstance(value := note.get(key), str) else "" for key in ("domain", "reason")}
    record["recipients"] = " ".join(str(recipient) for recipient in recipients) if isinstance(recipients, list) else ""
    # the domain becomes part of a path
    if "/" in record["domain"] or record["domain"].startswith("."):
        record["domain"] = ""
    return record


def settle(folder: str, releases: str) -> None:
    """Remove the notes of messages that were released. Raises OSError."""
    for ident in noted(folder):
        if released(releases, ident):
            forget(folder, ident)


def forget(folder: str, ident: str) -> None:
    """Remove a note. Raises OSError."""
    try:
        posix.unlink(f"{folder}/{ident}")
    except FileNotFoundError:
        pass


def moment(ident: str) -> str:
    """The time of the refusal, as text: ``2026-11-29 18:24 UTC``."""
    return f"{message_id.day(ident)} {ident[9:11]}:{ident[11:13]} UTC"


def groups(notes: Mapping[str, Mapping[str, str]]) -> Iterator[tuple[str, int, str, str]]:
    """``(domain, messages, id of the first, reason of the last)``, most messages first, from notes by id."""
    by_domain: dict[str, list[str]] = {}
    reasons: dict[str, str] = {}
    for ident, note in notes.items():
        by_domain.setdefault(note["domain"], []).append(ident)
        reasons[note["domain"]] = note["reason"]
    for domain in sorted(by_domain, key=lambda name: (-len(by_domain[name]), name)):
        yield domain, len(by_domain[domain]), by_domain[domain][0], reasons[domain]


def stored(root: str, notes: Mapping[str, Mapping[str, str]]) -> tuple[int, int]:
    """``(bytes on disk, notes without a file)`` of notes by id; a shared file counts once."""
    sizes: dict[str, int] = {}
    missing = 0
    for ident, note in notes.items():
        name = path(root, note["domain"] or "_invalid", ident)
        try:
            sizes[name] = posix.lstat(name).st_blocks * 512
        except OSError:
            missing += 1
    return sum(sizes.values()), missing
