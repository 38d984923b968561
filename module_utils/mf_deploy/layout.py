"""The paths of a release on a host. Every path hangs below one root, so that a test lives in a directory of its own."""

from __future__ import annotations

import os
import re

GENERATION = re.compile(r"[0-9a-f]{12}\Z")
TREE = ("bin", "etc", "lib")
"""Parts of the tree that /mf shows as links into the current release."""


class DeployError(Exception):
    """Nothing was changed, or everything was put back. The text is for the operator and names the next step."""


class Layout:
    """Paths of one host.

    ``/mf/releases/<generation>/{bin,lib,etc,root,manifest.json}``, ``/mf/current`` names the one in force, and
    ``root/`` holds the files whose place is outside of /mf, so that a way back brings them back as well.
    """

    def __init__(self, root: str = "") -> None:
        self.root = root
        self.mf = root + "/mf"
        self.var = self.mf + "/var"
        self.releases = self.mf + "/releases"
        self.current = self.mf + "/current"
        self.journal = self.releases + "/journal.json"
        self.run = root + "/run/mf"
        self.stamps = self.run + "/parts.json"

    def release(self, generation: str) -> str:
        """Directory of a release. Raises DeployError for what can't be one (it becomes part of a path)."""
        if not GENERATION.match(generation):
            raise DeployError(f"{generation!r} is not a generation (12 hex digits)")
        return f"{self.releases}/{generation}"

    def staging(self, generation: str) -> str:
        """Return the directory in which a release is built before it is complete."""
        return f"{self.releases}/.staging-{generation}"

    def stored(self, release: str, path: str) -> str:
        """Return a file's place in a release directory: ``bin/x`` as it is, ``/etc/x`` below its ``root``."""
        return f"{release}/root{path}" if path.startswith("/") else f"{release}/{path}"

    def on_host(self, path: str) -> str:
        """Return the place at which a file outside of the tree takes effect."""
        return self.root + path

    def generation(self) -> str | None:
        """The generation in force, or None when there is none."""
        try:
            target = os.readlink(self.current)
        except OSError:
            return None
        name = os.path.basename(target)
        return name if target == f"releases/{name}" and GENERATION.match(name) else None

    def generations(self) -> list[str]:
        """All releases on disk, in no order that means anything."""
        try:
            return sorted(name for name in os.listdir(self.releases) if GENERATION.match(name))
        except FileNotFoundError:
            return []
