"""A release made complete on disk before other processes see it: written, compiled, validated, then given its name."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import marshal
import os
import shlex
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from . import drift, host, manifest
from .layout import TREE, DeployError, Layout


class Contents:
    """File contents by sha256: those that were sent, and those that releases on this host still have intact."""

    def __init__(self, layout: Layout, sent: Mapping[str, bytes] | None = None) -> None:
        self._sent = dict(sent or {})
        self._places: dict[str, list[str]] = {}
        for generation in layout.generations():
            known = manifest.stored(layout, generation)
            for file in known.files.values() if known else ():
                self._places.setdefault(file.sha256, []).append(layout.stored(layout.release(generation), file.path))

    def __contains__(self, sha256: str) -> bool:
        return sha256 in self._sent or any(host.digest(path) == sha256 for path in self._places.get(sha256, ()))

    def read(self, file: manifest.File) -> bytes:
        """The content of a file, checked. Raises DeployError when neither host nor controller has it."""
        data = self._sent.get(file.sha256)
        if data is None:
            for path in self._places.get(file.sha256, ()):
                if host.digest(path) == file.sha256:
                    with open(path, "rb") as stored:
                        data = stored.read()
                    break
        if data is None or hashlib.sha256(data).hexdigest() != file.sha256:
            raise DeployError(f"{file.path}: its content was not sent, or was damaged on its way; run it again")
        return data


def build(layout: Layout, wanted: manifest.Manifest, contents: Contents, run: host.Run) -> None:
    """Put a complete, validated release on disk under its own name. Raises DeployError, and then leaves no trace."""
    staging = layout.staging(wanted.generation)
    host.discard(staging)
    made = host.make_folders(layout.releases)
    try:
        os.mkdir(staging)
        _fill(layout, wanted, contents, staging, host.identify)
        validate(layout, wanted, staging, run)
        for folder, _, _ in os.walk(staging):
            host.sync(folder)
        # what stands under this name was never current or is damaged: current releases are repaired in place
        host.discard(layout.release(wanted.generation))
        os.rename(staging, layout.release(wanted.generation))
        host.sync(layout.releases)
    except BaseException:
        host.discard(staging)
        host.remove_empty(made)
        raise


def make_accounts(wanted: manifest.Manifest, contents: Contents, run: host.Run) -> None:
    """Make the accounts of the release's sysusers.d(5) files that are missing, for files may be theirs.

    Raises DeployError. An account stays when its file goes: something on disk may belong to it.
    """
    for file in wanted.outside:
        if not file.path.startswith(drift.SYSUSERS):
            continue
        data = contents.read(file)
        if not drift.accounts({file.path: data.decode(errors="replace")}):
            continue
        with tempfile.TemporaryDirectory(prefix="mf-accounts-") as folder:
            path = f"{folder}/{os.path.basename(file.path)}"
            host.write(path, data, 0o644, (-1, -1))
            _demand(["systemd-sysusers", path], file, run)


def rehearse(layout: Layout, wanted: manifest.Manifest, contents: Contents, run: host.Run) -> None:
    """Build and validate a release in a temporary directory and throw it away. Raises DeployError as ``build`` does.

    On a bare host owners and validators may still have to be installed: those are passed over.
    """
    with tempfile.TemporaryDirectory(prefix="mf-rehearsal-") as folder:
        _fill(layout, wanted, contents, folder, lambda *_: (-1, -1))
        validate(layout, wanted, folder, run, bare=True)


def _fill(
    layout: Layout,
    wanted: manifest.Manifest,
    contents: Contents,
    folder: str,
    identify: Callable[[str, str], tuple[int, int]],
) -> None:
    """Write all of a release into an empty directory."""
    os.chmod(folder, drift.FOLDER_MODE)
    os.mkdir(f"{folder}/root", drift.ROOT_MODE)
    for name in TREE:
        host.make_folders(f"{folder}/{name}")
    for _, file in sorted(wanted.files.items()):
        path = layout.stored(folder, file.path)
        host.make_folders(os.path.dirname(path))
        host.write(path, contents.read(file), file.mode, identify(file.owner, file.group))
    compiled = {
        drift.compiled_name(path): _compile(layout, wanted.generation, folder, path) for path in drift.modules(wanted)
    }
    host.write(f"{folder}/manifest.json", _manifest_text(wanted, compiled), 0o644, (-1, -1))


def _manifest_text(wanted: manifest.Manifest, compiled: Mapping[str, str]) -> bytes:
    data: dict[str, Any] = {**wanted.as_data(), "compiled": dict(compiled), "python": sys.implementation.cache_tag}
    return (json.dumps(data, indent=1, sort_keys=True) + "\n").encode()


def _compile(layout: Layout, generation: str, release: str, path: str) -> str:
    """Write a module's byte code beside it; its sha256.

    Unchecked hash-based byte code (PEP 552): Python then never looks at the source, which saves a stat for each module
    of each run. Tracebacks name the place where the release ends up.
    """
    with open(f"{release}/{path}", "rb") as file:
        source = file.read()
    code = _syntax(source, f"{layout.release(generation)}/{path}", path)
    data = _byte_code(code, source)
    target = f"{release}/{drift.compiled_name(path)}"
    host.make_folders(os.path.dirname(target))
    host.replace(target, data, 0o644, (-1, -1))
    return hashlib.sha256(data).hexdigest()


def _byte_code(code: Any, source: bytes) -> bytes:
    # flags 0b01: hash-based, 0b00 in the second bit: unchecked
    return (
        importlib.util.MAGIC_NUMBER
        + (1).to_bytes(4, "little")
        + importlib.util.source_hash(source)
        + marshal.dumps(code)
    )


def _syntax(source: bytes, filename: str, path: str) -> Any:
    try:
        return compile(source, filename, "exec", dont_inherit=True)
    except (SyntaxError, ValueError) as error:
        line = f" line {error.lineno}" if isinstance(error, SyntaxError) and error.lineno else ""
        raise DeployError(f"{path}{line} is not valid Python: {error}; nothing was changed") from None


def validate(layout: Layout, wanted: manifest.Manifest, release: str, run: host.Run, *, bare: bool = False) -> None:
    """Check every file that can be checked. Raises DeployError with the role, the file, the command and its output.

    In a command %s is the file, %r the release. ``bare``: pass over commands that are not installed.
    """
    for _, file in sorted(wanted.files.items()):
        path = layout.stored(release, file.path)
        if file.path.startswith("bin/"):
            _validate_launcher(file, path, run)
        command = _command(file, path, release)
        if command and not (bare and shutil.which(command[0], path=host.PATH) is None):
            _demand(command, file, run)


def validate_secrets(layout: Layout, wanted: manifest.Manifest, run: host.Run) -> None:
    """Check those files of a release on disk that may be newer than it. Raises DeployError."""
    release = layout.release(wanted.generation)
    for _, file in sorted(wanted.files.items()):
        command = _command(file, layout.stored(release, file.path), release)
        if file.secret and command:
            _demand(command, file, run)


def _command(file: manifest.File, path: str, release: str) -> list[str]:
    return [word.replace("%r", release).replace("%s", path) for word in shlex.split(file.validate)]


def _validate_launcher(file: manifest.File, path: str, run: host.Run) -> None:
    with open(path, "rb") as launcher:
        source = launcher.read()
    first = source.partition(b"\n")[0]
    if not first.startswith(b"#!"):
        raise DeployError(f"{file.path} (role {file.part}) has no #! line; nothing was changed")
    if b"python" in first:
        _syntax(source, file.path, f"{file.path} (role {file.part})")
    elif first.split(b"/")[-1].split()[0] in (b"sh", b"bash", b"dash"):
        _demand(["/bin/sh", "-n", path], file, run)


def _demand(command: list[str], file: manifest.File, run: host.Run) -> None:
    code, output = run(command)
    if code != 0:
        raise DeployError(
            f"{file.path} (role {file.part}) was refused by `{shlex.join(command)}`, exit code {code}: "
            f"{output[-2000:] or 'no output'}. Nothing was changed."
        )


def repair(layout: Layout, wanted: manifest.Manifest, findings: Iterable[drift.Finding], contents: Contents) -> None:
    """Bring a release directory that is in use back to its manifest, one atomic replacement at a time."""
    release = layout.release(wanted.generation)
    by_place = {layout.stored("", path)[1:]: file for path, file in wanted.files.items()}
    for path, kind in findings:
        place = f"{release}/{path}"
        if kind == "extra":
            host.discard(place)
        elif kind == "rights" and path not in by_place:
            os.chmod(place, drift.ROOT_MODE if path == "root" else drift.FOLDER_MODE)
        elif kind in ("content", "rights") and path in by_place:
            file = by_place[path]
            if os.path.isdir(place) and not os.path.islink(place):
                host.discard(place)
            host.make_folders(os.path.dirname(place))
            host.replace(place, contents.read(file), file.mode, host.identify(file.owner, file.group))
    compiled = {
        drift.compiled_name(path): _compile(layout, wanted.generation, release, path) for path in drift.modules(wanted)
    }
    host.replace(f"{release}/manifest.json", _manifest_text(wanted, compiled), 0o644, (-1, -1))
