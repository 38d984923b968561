"""Archives that were listed once and are not any more: every list that the log still holds, compared with the newest.

An archive that is left out of the list isn't deleted, so the log has no entry for it, and its data can be freed: by a
prune of an archive that names the same data. But over append-only the earlier lists stay where they are.

To read them takes the passphrase and Borg's own modules, which Debian's borgbackup has. So this runs in a process of
its own, as the account, with the passphrase from a pipe and little memory: what it unpacks, control may have made up.
"""

from __future__ import annotations

import json
import resource
import sys
from collections.abc import Iterable, Mapping

from . import segment_log

MEMORY = 1 << 30  # bytes; Borg's largest list is below 21 MB


def unlisted(lists: Iterable[tuple[int, Mapping[bytes, Mapping[bytes, bytes]]]]) -> list[tuple[bytes, bytes, int]]:
    """Archives that a list has and the last one hasn't, with that id and time: name, id, the last with it. Pure."""
    ever: dict[tuple[bytes, bytes, bytes], int] = {}
    now: set[tuple[bytes, bytes, bytes]] = set()
    for segment, archives in lists:
        now = {(name, archive[b"id"], archive[b"time"]) for name, archive in archives.items()}
        ever.update(dict.fromkeys(now, segment))
    return sorted((*each[:2], segment) for each, segment in ever.items() if each not in now)


def main(path: str) -> None:
    """Print them as JSON, for the repository in ``path``."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    try:
        from borg.crypto.key import key_factory
        from borg.logger import setup_logging
        from borg.repository import Repository
    except ImportError as error:
        sys.exit(f"Borg's Python modules can't be had ({error}), and without them no earlier list of archives be read")
    setup_logging(level="error")
    with Repository(path, lock=False) as repository:
        key = key_factory(repository, next(segment_log.lists(path))[1])
        plain = ((number, key.decrypt(None, data)) for number, data in segment_log.lists(path))
        gone = unlisted((number, key.unpack_and_verify_manifest(data)[0][b"archives"]) for number, data in plain)
    print(json.dumps([(name.decode(errors="replace"), ident.hex(), segment) for name, ident, segment in gone]))
