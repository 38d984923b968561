"""The content of a release, and the difference between two. Pure, except for reading a stored manifest."""

from __future__ import annotations

import base64
import json
import os
import zlib
from collections.abc import Mapping
from typing import Any, NamedTuple

from .layout import GENERATION, DeployError, Layout

SETTINGS = "settings"
"""The part that owns etc/mf.json, which belongs to all roles."""


class File(NamedTuple):
    """One file. ``path`` is ``bin/x`` in the tree or ``/etc/x`` on the host; ``part`` is the role it came from.

    ``source`` is the hash before the generation was filled in: two releases are compared by it, for else every
    file that names its generation would differ each time. ``validate`` is a command with %s, or empty. ``secret``: of
    this no older one may come back (see secret.py).
    """

    path: str
    part: str
    mode: int
    owner: str
    group: str
    sha256: str
    source: str
    validate: str
    secret: bool = False

    @property
    def outside(self) -> bool:
        """Return whether its place is outside of the tree."""
        return self.path.startswith("/")

    def as_data(self) -> dict[str, Any]:
        """The JSON form."""
        return {**self._asdict(), "mode": f"{self.mode:04o}"}

    def same(self, other: File | None) -> bool:
        """Return whether two releases mean the same by it."""
        return other is not None and (self.source, self.mode, self.owner, self.group) == (
            other.source,
            other.mode,
            other.owner,
            other.group,
        )


class Manifest:
    """A release: its files by path, the hash of each role's settings, and which roles' files each unit depends on."""

    def __init__(self, data: Mapping[str, Any]) -> None:
        """Read the JSON form. Raises DeployError when that is no manifest."""
        try:
            self.generation = str(data["generation"])
            self.files = {entry["path"]: _file(entry) for entry in data["files"]}
            self.settings = {str(part): str(digest) for part, digest in data["settings"].items()}
            self.units = {str(unit): [str(part) for part in parts] for unit, parts in data["units"].items()}
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise DeployError(f"not a manifest: {error!r}") from None
        if not GENERATION.match(self.generation):
            raise DeployError(f"not a manifest: {self.generation!r} is not a generation")

    def as_data(self) -> dict[str, Any]:
        """The JSON form."""
        return {
            "generation": self.generation,
            "files": [file.as_data() for _, file in sorted(self.files.items())],
            "settings": self.settings,
            "units": self.units,
        }

    @property
    def roles(self) -> set[str]:
        """The roles that it is made of, as far as they bring something."""
        owners = {file.part for file in self.files.values()} | {part for parts in self.units.values() for part in parts}
        return (owners | set(self.settings)) - {SETTINGS}

    @property
    def outside(self) -> list[File]:
        """The files whose place is outside of the tree."""
        return [file for _, file in sorted(self.files.items()) if file.outside]


def _file(entry: Mapping[str, Any]) -> File:
    path = str(entry["path"])
    if path != os.path.normpath(path) or path.startswith(("../", "//")) or path in ("", ".", "..", "/"):
        raise ValueError(f"path {path!r}")
    texts = {key: str(entry[key]) for key in ("part", "owner", "group", "sha256", "source", "validate")}
    return File(path=path, mode=int(entry["mode"], 8), secret=entry.get("secret") is True, **texts)


def stored(layout: Layout, generation: str) -> Manifest | None:
    """The manifest of a release on disk, or None when it is missing or damaged."""
    data = stored_data(layout.release(generation))
    try:
        return Manifest(data) if data else None
    except DeployError:
        return None


def all_stored(layout: Layout) -> list[Manifest]:
    """The manifests of all releases on disk, without those that are missing or damaged."""
    return [known for generation in layout.generations() if (known := stored(layout, generation))]


def stored_data(release: str) -> dict[str, Any]:
    """A release's manifest.json as it is, with the host's own fields (``compiled``, ``python``); {} if damaged."""
    try:
        with open(f"{release}/manifest.json", encoding="utf-8") as file:
            data = json.load(file)
    except (OSError, ValueError):
        return {}
    return data if isinstance(data, dict) else {}


class Difference(NamedTuple):
    """``paths`` whose meaning differs; ``parts`` are the roles behind them; ``restart`` those whose files changed."""

    paths: list[str]
    parts: list[str]
    restart: list[str]


def difference(old: Manifest | None, new: Manifest) -> Difference:
    """Return the changes of a release: files by meaning (not by the generation in them), and settings of roles."""
    before = old.files if old else {}
    paths = sorted(
        path for path in {*before, *new.files} if path not in new.files or not new.files[path].same(before.get(path))
    )
    owners = {(new.files.get(path) or before[path]).part for path in paths} - {SETTINGS}
    settings = old.settings if old else {}
    tuned = {part for part in {*settings, *new.settings} if settings.get(part) != new.settings.get(part)}
    return Difference(paths, sorted(owners | tuned), sorted(owners))


def unpack(text: str) -> Any:
    """The value behind base64(zlib(JSON)), the form in which the controller sends a manifest."""
    try:
        return json.loads(zlib.decompress(base64.b64decode(text, validate=True)))
    except (ValueError, zlib.error) as error:
        raise DeployError(f"what the controller sent can't be read: {error}") from None


def unpack_content(text: str) -> dict[str, bytes]:
    """File contents by sha256: base64(zlib(a line of JSON ``[[sha256, size], …]`` followed by the contents))."""
    try:
        header, _, blob = zlib.decompress(base64.b64decode(text, validate=True)).partition(b"\n")
        content, start = {}, 0
        for sha256, size in json.loads(header):
            content[str(sha256)] = blob[start : start + size]
            start += size
    except (ValueError, TypeError, zlib.error) as error:
        raise DeployError(f"what the controller sent can't be read: {error}") from None
    return content
