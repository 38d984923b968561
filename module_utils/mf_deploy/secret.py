"""Keys, passphrases and authorized keys: no older version of them is kept, and none comes back.

Releases are there to go back to. But a secret that was replaced may be known to an attacker: so a release that takes
effect has its secrets take the place of those in the other releases, on disk and in their manifests. A way back then
leads to the former programs with the present secrets. One that the present release doesn't have is removed from the
others, which can't be gone back to any more.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from typing import NamedTuple

from . import host, manifest
from .layout import Layout


class Stale(NamedTuple):
    """A file in a release that isn't the present secret. ``now`` is that, as the release has to have it, and ``data``
    its content; None when there is none any more."""

    generation: str
    path: str
    now: manifest.File | None
    data: bytes


def stale(layout: Layout, present: manifest.Manifest) -> list[Stale]:
    """Secrets in other releases that aren't those of the present one, which is whole. Changes nothing."""
    data = {}
    for path, file in present.files.items():
        if file.secret:
            with open(layout.stored(layout.release(present.generation), path), "rb") as stored:
                data[path] = stored.read()
    others = [name for name in layout.generations() if name != present.generation]
    return [old for name in others for old in _of(layout, present, data, name)]


def _of(layout: Layout, present: manifest.Manifest, data: dict[str, bytes], generation: str) -> Iterator[Stale]:
    known = manifest.stored(layout, generation)
    files = known.files if known else {}
    # a release from before this field existed has the files that are secrets in the present one
    for path in sorted({*data, *(path for path, file in files.items() if file.secret)}):
        place = layout.stored(layout.release(generation), path)
        if not os.path.lexists(place):
            continue
        if path not in data:
            yield Stale(generation, path, None, b"")
            continue
        now, content = present.files[path], data[path]
        if now.sha256 != now.source:
            # it names its release
            content = content.replace(present.generation.encode(), generation.encode())
            now = now._replace(sha256=hashlib.sha256(content).hexdigest())
        if host.digest(place) != now.sha256 or (known and files.get(path) != now):
            yield Stale(generation, path, now, content)


def replace(layout: Layout, present: manifest.Manifest) -> None:
    """Have no other secrets on disk than the present ones. Raises OSError, DeployError.

    First the file, then the manifest: when that is cut short, the next run does it again.
    """
    for generation, path, now, data in stale(layout, present):
        release = layout.release(generation)
        if now is None:
            host.forget(layout.stored(release, path))
        else:
            host.replace(layout.stored(release, path), data, now.mode, host.identify(now.owner, now.group))
            _note(release, now)


def _note(release: str, file: manifest.File) -> None:
    """Enter a file into a release's manifest. A release whose manifest can't be read is never gone back to."""
    data = manifest.stored_data(release)
    if not isinstance(data.get("files"), list):
        return
    others = [entry for entry in data["files"] if isinstance(entry, dict) and entry.get("path") != file.path]
    data["files"] = sorted([*others, file.as_data()], key=lambda entry: str(entry.get("path")))
    text = json.dumps(data, indent=1, sort_keys=True) + "\n"
    host.replace(f"{release}/manifest.json", text.encode(), 0o644, (-1, -1))
