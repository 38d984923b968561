"""Find what differs on a host from a manifest: edited, removed, added or re-owned files. Changes nothing."""

from __future__ import annotations

import os
import shlex
import stat
import sys
from collections.abc import Iterator
from typing import NamedTuple

from . import host, manifest
from .layout import TREE, DeployError, Layout

TMPFILES = "/etc/tmpfiles.d/"
SYSUSERS = "/etc/sysusers.d/"
FOLDER_MODE = 0o755
ROOT_MODE = 0o700


class Finding(NamedTuple):
    """``path`` as in a manifest (``/bin``-like for links).

    ``kind``: content, rights, extra, compiled, link, folder, account.
    """

    path: str
    kind: str


def compiled_name(path: str) -> str:
    """Return the path of the byte code of ``lib/a/b.py`` (PEP 3147), for the Python that runs this."""
    folder, name = os.path.split(path)
    return f"{folder}/__pycache__/{name[:-3]}.{sys.implementation.cache_tag}.pyc"


def modules(wanted: manifest.Manifest) -> list[str]:
    """The files that are compiled."""
    return [path for path in sorted(wanted.files) if path.startswith("lib/") and path.endswith(".py")]


def tree(layout: Layout, wanted: manifest.Manifest) -> list[Finding]:
    """Differences inside a release directory."""
    release = layout.release(wanted.generation)
    if not os.path.isdir(release):
        return [Finding(".", "content")]
    data = manifest.stored_data(release)
    compiled = data.get("compiled")
    if not isinstance(compiled, dict) or data.get("python") != sys.implementation.cache_tag:
        compiled = {}
    findings = []
    expected = {layout.stored("", path)[1:]: file for path, file in wanted.files.items()}
    byte_code = {compiled_name(path): path for path in modules(wanted)}
    seen = set()
    for path, is_folder in _walk(release):
        seen.add(path)
        if is_folder:
            want = ROOT_MODE if path == "root" else FOLDER_MODE
            if stat.S_IMODE(os.lstat(f"{release}/{path}").st_mode) != want:
                findings.append(Finding(path, "rights"))
        elif path in expected:
            finding = _compare(f"{release}/{path}", expected[path])
            if finding:
                findings.append(Finding(path, finding))
        elif path in byte_code:
            if compiled.get(path) is None or host.digest(f"{release}/{path}") != compiled[path]:
                findings.append(Finding(byte_code[path], "compiled"))
        elif path != "manifest.json":
            findings.append(Finding(path, "extra"))
    findings += [Finding(path, "content") for path in expected if path not in seen]
    findings += [Finding(path, "compiled") for name, path in byte_code.items() if name not in seen]
    known = manifest.stored(layout, wanted.generation)
    if known is None or known.as_data() != wanted.as_data():
        findings.append(Finding("manifest.json", "content"))
    return sorted(findings)


def _walk(release: str, below: str = "") -> Iterator[tuple[str, bool]]:
    """Everything in a directory tree as (relative path, is a real directory)."""
    with os.scandir(f"{release}/{below}") as entries:
        for entry in entries:
            path = f"{below}{entry.name}"
            is_folder = entry.is_dir(follow_symlinks=False)
            yield path, is_folder
            if is_folder:
                yield from _walk(release, path + "/")


def _compare(path: str, file: manifest.File) -> str:
    """Return the difference of a file: content, rights, or "" for not at all."""
    if host.digest(path) != file.sha256:
        return "content"
    status = os.lstat(path)
    try:
        owner = host.identify(file.owner, file.group)
    except DeployError:
        return "rights"
    return "" if (stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid) == (file.mode, *owner) else "rights"


def outside(layout: Layout, wanted: manifest.Manifest) -> list[Finding]:
    """Differences among the files outside of the tree."""
    kinds = ((file.path, _compare(layout.on_host(file.path), file)) for file in wanted.outside)
    return [Finding(path, kind) for path, kind in kinds if kind]


def links(layout: Layout) -> list[Finding]:
    """/mf/bin, /mf/etc and /mf/lib, which follow /mf/current."""
    findings = []
    for name in TREE:
        try:
            right = os.readlink(f"{layout.mf}/{name}") == f"current/{name}"
        except OSError:
            right = False
        if not right:
            findings.append(Finding(f"/mf/{name}", "link"))
    return findings


def folders(layout: Layout, texts: dict[str, str]) -> list[Finding]:
    """Directories that a tmpfiles.d(5) file of ours asks for (``d PATH MODE USER GROUP``) and that are not so.

    ``texts``: the content of those files by path.
    """
    findings = []
    for path in sorted(texts):
        for line in texts[path].splitlines():
            fields = shlex.split(line, comments=True)
            if len(fields) < 2 or fields[0].rstrip("!+=~^-") != "d":
                continue
            mode, user, group = [*fields[2:5], "-", "-", "-"][:3]
            if not _folder_is(layout.on_host(fields[1]), mode, user, group):
                findings.append(Finding(fields[1], "folder"))
    return findings


def _folder_is(path: str, mode: str, user: str, group: str) -> bool:
    try:
        status = os.lstat(path)
        owner = host.identify("root" if user == "-" else user, "root" if group == "-" else group)
    except (OSError, DeployError):
        return False
    return (
        stat.S_ISDIR(status.st_mode)
        and (mode == "-" or stat.S_IMODE(status.st_mode) == int(mode.lstrip("~:"), 8))
        and (user == "-" or status.st_uid == owner[0])
        and (group == "-" or status.st_gid == owner[1])
    )


def accounts(texts: dict[str, str]) -> list[Finding]:
    """Accounts that a sysusers.d(5) file of ours asks for (``u NAME ...``) and that this host doesn't have.

    ``texts``: the content of those files by path.
    """
    findings = []
    for path in sorted(texts):
        for line in texts[path].splitlines():
            fields = shlex.split(line, comments=True)
            if len(fields) >= 2 and fields[0].rstrip("!") == "u" and not host.has_account(fields[1]):
                findings.append(Finding(path, "account"))
    return findings


def texts_below(layout: Layout, wanted: manifest.Manifest, folder: str) -> dict[str, str]:
    """The files of a release on disk that belong into this directory of the host, by path."""
    texts = {}
    for file in wanted.outside:
        if file.path.startswith(folder):
            try:
                with open(layout.stored(layout.release(wanted.generation), file.path), encoding="utf-8") as stored:
                    texts[file.path] = stored.read()
            except (OSError, UnicodeError):
                continue
    return texts
