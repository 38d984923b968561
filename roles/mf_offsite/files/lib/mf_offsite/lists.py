"""Archives that were listed once and aren't any more: compare every list in the log with the newest.

An archive that is left out of the list isn't deleted, so the log has no entry for it, and its data can be freed by a
prune of another archive with the same data. But an append-only account can't remove the earlier lists.

Reading them takes the passphrase and Borg's own modules, which Debian's borgbackup has. So this runs in a process of
its own, as the account, with the passphrase from a pipe and little memory: an attacker on control may have made up the
data.
"""

from __future__ import annotations

import json
import resource
import sys
from collections.abc import Iterable, Mapping

from . import segment_log

MEMORY = 1 << 30  # bytes; Borg's largest list is below 21 MB


def unlisted(lists: Iterable[tuple[int, Mapping[bytes, Mapping[bytes, bytes]]]]) -> list[tuple[bytes, bytes, int]]:
    """Archives (by name, id and time) of any list but the last: name, id, the last segment with it. Pure."""
    ever: dict[tuple[bytes, bytes, bytes], int] = {}
    now: set[tuple[bytes, bytes, bytes]] = set()
    for segment, archives in lists:
        now = {(name, archive[b"id"], archive[b"time"]) for name, archive in archives.items()}
        ever.update(dict.fromkeys(now, segment))
    return sorted((*each[:2], segment) for each, segment in ever.items() if each not in now)


def main(path: str) -> None:
    """Print the unlisted archives of the repository in ``path`` as JSON."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    try:
        from borg.crypto.key import key_factory
        from borg.logger import setup_logging
        from borg.repository import Repository
    except ImportError as error:
        sys.exit(f"Borg's Python modules are missing ({error}); without them no earlier list of archives can be read")
    setup_logging(level="error")
    with Repository(path, lock=False) as repository:
        key = key_factory(repository, next(segment_log.lists(path))[1])
        plain = ((number, key.decrypt(None, data)) for number, data in segment_log.lists(path))
        gone = unlisted((number, key.unpack_and_verify_manifest(data)[0][b"archives"]) for number, data in plain)
    print(json.dumps([(name.decode(errors="replace"), ident.hex(), segment) for name, ident, segment in gone]))
