"""Accepted mail that a customer's server refused for good and that waits for an operator. Fast path: a check reads it.

The message is kept whole where rejected mail is, ``ROOT/YYYY-MM-DD/<domain>/new/<id>`` (see ``keeper``), and beside
that tree there is a note of it, ``FOLDER/<id>``: ``{"domain", "recipients", "reason", "received"}``. The note is
removed when an operator has decided (``/mf/bin/refused``), when control has released the message, or with the message.
"""

from __future__ import annotations

import posix

from mf import state

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

FOLDER = "/mf/var/refused"
PLUGIN = "customer"
"""The plugin in the envelope; it is part of the id as well."""


def is_refused(ident: str) -> bool:
    """Whether an id has the form TIME-HOST-customer-QUEUEID-HASH; the SMTP service's ids end in PID-COUNTER-RANDOM."""
    parts = ident.rsplit("-", 3)
    return len(parts) == 4 and parts[1] == PLUGIN and len(ident) > 27 and ident[:8].isdigit() and "/" not in ident


def path(root: str, domain: str, ident: str) -> str:
    """The path of the message."""
    return f"{root}/{ident[:4]}-{ident[4:6]}-{ident[6:8]}/{domain}/new/{ident}"


def noted(folder: str) -> list[str]:
    """The ids of all notes, oldest first; none where there is no folder. Raises OSError."""
    try:
        return sorted(name for name in posix.listdir(folder) if is_refused(name))
    except FileNotFoundError:
        return []


def released(releases: str, ident: str) -> bool:
    """Whether this MX has released it: by control, or by hand."""
    return state.content(f"{releases}/{ident}", 16).startswith((b"accepted ", b"accepted\n"))


def waiting(folder: str, releases: str) -> list[str]:
    """The ids that are undecided, oldest first. Raises OSError."""
    return [ident for ident in noted(folder) if not released(releases, ident)]


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


def settle(root: str, folder: str, releases: str) -> list[str]:
    """Remove notes of messages that were released or are gone; returns the ids of the undecided. Raises OSError."""
    lost = []
    for ident in noted(folder):
        done = released(releases, ident)
        if not done and _exists(path(root, read(folder, ident)["domain"] or "_invalid", ident)):
            continue
        forget(folder, ident)
        lost += [] if done else [ident]
    return lost


def forget(folder: str, ident: str) -> None:
    """Remove a note. Raises OSError."""
    try:
        posix.unlink(f"{folder}/{ident}")
    except FileNotFoundError:
        pass


def moment(ident: str) -> str:
    """The time of the refusal, as text: ``2026-11-29 18:24 UTC``."""
    return f"{ident[:4]}-{ident[4:6]}-{ident[6:8]} {ident[9:11]}:{ident[11:13]} UTC"


def groups(folder: str, idents: list[str]) -> Iterator[tuple[str, int, str, str]]:
    """``(domain, messages, id of the first, reason of the last)``, most messages first."""
    by_domain: dict[str, list[str]] = {}
    reasons: dict[str, str] = {}
    for ident in idents:
        note = read(folder, ident)
        by_domain.setdefault(note["domain"], []).append(ident)
        reasons[note["domain"]] = note["reason"]
    for domain in sorted(by_domain, key=lambda name: (-len(by_domain[name]), name)):
        yield domain, len(by_domain[domain]), by_domain[domain][0], reasons[domain]


def _exists(name: str) -> bool:
    try:
        posix.lstat(name)
    except FileNotFoundError:
        return False
    return True
