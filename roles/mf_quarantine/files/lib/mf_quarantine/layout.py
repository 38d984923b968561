"""Names and folders of the quarantine. A name from outside must match one of these patterns, or it isn't used.

::

    /mf/var/quarantine/mail/YYYY-MM-DD/<domain>/<id>                 kept, exactly as the MX wrote it
                       incoming/<mx>/YYYY-MM-DD/<domain>/new/<id>    fetched, not yet imported
                       incoming/<mx>/YYYY-MM-DD/_shared/new/<id>     the same, a message with a copy for several domains
                       bad/<mx>/<id>                                 can't be imported, for the operator to see
                       state/<mx>.json                               how far the pull from an MX has come (source.py)
                       lock/<mx>.lock                                one flock for each MX, and one for the pace

The format of a file is in roles/qpsmtpd/files/lib/qpsmtpd/lib/Mf/Rejected.pm. An id begins with the time of the
rejection, so ids sort by time, and the first 8 digits are its day. A message with copies for several domains lies in
``_shared`` under the first copy's id; in ``mail`` each copy is a hard link to it, so the bytes are there once."""

from __future__ import annotations

import datetime as dt
import os
import re
from collections.abc import Iterator
from typing import NamedTuple

from mf import message_id, state

_ID = re.compile(r"\d{8}T\d{6}\.\d{6}Z-[A-Za-z0-9.-]{1,120}", re.ASCII)
_TIME = re.compile(r"(\d{4})(\d\d)(\d\d)T(\d\d)(\d\d)(\d\d)\.(\d{6})", re.ASCII)
_DOMAIN = re.compile(r"_invalid|(?!.*\.\.)[a-z0-9][a-z0-9.-]{0,252}", re.ASCII)
_HOST = re.compile(r"[A-Za-z0-9][A-Za-z0-9.-]{0,63}", re.ASCII)
_KEPT = re.compile(r"(\d{4}-\d\d-\d\d)/([^/]+)/new/([^/]+)", re.ASCII)

SHARED = "_shared"
"""Takes a domain's place in the path of a message with a copy for several of them."""

_EPOCH = dt.datetime(1970, 1, 1)  # noqa: DTZ001  (all times here are UTC and naive, as in the database)


def is_id(text: str) -> bool:
    """Whether this is an id as an MX gives one, with a time that exists."""
    return _ID.fullmatch(text) is not None and _moment(text) is not None


def is_domain(text: str) -> bool:
    """Whether this is a domain's folder: its name in lower case, or ``_invalid``."""
    return _DOMAIN.fullmatch(text) is not None


def is_host(text: str) -> bool:
    """Whether this can be an MX's name, and a file's."""
    return _HOST.fullmatch(text) is not None


def kept_file(path: str) -> tuple[str, str] | None:
    """``(domain or SHARED, id)`` from ``YYYY-MM-DD/<domain>/new/<id>``; None when it is anything else."""
    match = _KEPT.fullmatch(path)
    if match is None:
        return None
    _, domain, ident = match.groups()
    proper = is_domain(domain) or (domain == SHARED and ident == first_copy(ident))
    return (domain, ident) if proper and is_id(ident) else None


def copy(message: str, number: int) -> str:
    """The id of a message's copy; ``number`` counts from 0."""
    return f"{message}.{number}"


def message(ident: str) -> str:
    """The common prefix of the ids of all copies of a message."""
    return ident.rpartition(".")[0]


def first_copy(ident: str) -> str:
    """The id under which a message lies in SHARED, from the id of any of its copies."""
    return copy(message(ident), 0)


def received(ident: str) -> float:
    """Time of rejecting the message of this id, epoch seconds. Raises ValueError."""
    moment = _moment(ident)
    if moment is None:
        raise ValueError(f"not an id: {ident!r:.60}")
    return (moment - _EPOCH).total_seconds()


def bound(epoch: float) -> str:
    """The lower bound of the ids given from this moment on: all earlier ids sort before it."""
    return (_EPOCH + dt.timedelta(seconds=epoch)).strftime("%Y%m%dT%H%M%S.%f")


def _moment(ident: str) -> dt.datetime | None:
    match = _TIME.match(ident)
    try:
        if match is None:
            return None
        year, month, day_, hour, minute, second, fraction = map(int, match.groups())
        return dt.datetime(year, month, day_, hour, minute, second, fraction)  # noqa: DTZ001
    except ValueError:
        return None


class Layout:
    """The folders below one root, which only the quarantine's own user may write."""

    def __init__(self, root: str = "/mf/var/quarantine") -> None:
        self.root = root
        self.mail = root + "/mail"
        self.bad = root + "/bad"
        self.state = root + "/state"
        self.locks = root + "/lock"

    def incoming(self, mx: str) -> str:
        """Folder of messages that rsync has fetched from an MX."""
        return f"{self.root}/incoming/{mx}"

    def path(self, domain: str, ident: str) -> str:
        """Path of a message."""
        return f"{self.mail}/{message_id.day(ident)}/{domain}/{ident}"

    def lock(self, name: str, wait: float = 0.0) -> state.Lock:
        """A flock of the quarantine's own: an MX's, or that of a task."""
        return state.Lock(f"{self.locks}/{name}.lock", wait, parents=True)

    def stray(self) -> list[str]:
        """Names of MXs that have a folder in ``incoming``, in the inventory or not."""
        return [name for name in names(self.root + "/incoming") if is_host(name)]


class Waiting(NamedTuple):
    """A whole file in ``incoming``; ``domain`` may be SHARED."""

    path: str
    domain: str
    ident: str


def waiting(folder: str) -> Iterator[Waiting]:
    """All whole files below an ``incoming`` folder, a folder at a time.

    rsync's temporary files, which begin with a dot, are skipped.
    """
    for date in names(folder):
        for domain in names(f"{folder}/{date}"):
            box = f"{folder}/{date}/{domain}/new"
            for name in names(box):
                if kept_file(f"{date}/{domain}/new/{name}") is not None:
                    yield Waiting(f"{box}/{name}", domain, name)


def names(folder: str) -> list[str]:
    """Names in a folder, sorted; none if there is no such folder."""
    try:
        return sorted(os.listdir(folder))
    except (FileNotFoundError, NotADirectoryError):
        return []


def free_percent(folder: str) -> float:
    """Percent that is free of a folder's file system, of the scarcer of bytes and inodes; -1 if it is read-only."""
    return -1.0 if os.statvfs(folder).f_flag & os.ST_RDONLY else min(state.free_percent(folder))
