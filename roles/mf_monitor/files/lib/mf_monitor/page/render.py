"""The status page's files, written from a snapshot: two pages, two ``status.json``, the metrics.

Uses Debian's python3-jinja2. Templates, style, script and font lie in ``page/`` as data. A page is one file without any
outside request; it allows its own style and script by their hashes (Content Security Policy, W3C CSP Level 3).

``write`` leaves this in its folder::

    public/   index.html status.json inter.woff2               public: no machine, no address
    private/  index.html status.json inter.woff2 metrics       for operators
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import urllib.parse
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from . import metrics, view
from .model import Snapshot

_DATA = Path(__file__).parent
_FONT = "inter.woff2"
_COLOURS = {"up": "#1c8a55", "warning": "#d58a06", "down": "#d2362c"}
_SHAPES = {
    "up": "<circle cx='8' cy='8' r='7.5' fill='{0}'/><path d='M4.8 8.3l2.2 2.2 4.3-4.7' {1}/>",
    "warning": "<path d='M8 1l7.5 14H.5z' fill='{0}'/><path d='M8 6v4M8 12.4v.1' {1}/>",
    "down": "<path d='M5 .5h6L15.5 5v6L11 15.5H5L.5 11V5z' fill='{0}'/><path d='M5 5l6 6M11 5l-6 6' {1}/>",
}


@cache
def _text(name: str) -> str:
    return (_DATA / name).read_text("utf-8").strip()


@cache
def _environment() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(_DATA),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )


def content_hash(text: str) -> str:
    """A source expression ``'sha256-…'`` for an inline style or script."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


@cache
def policy() -> str:
    """The pages' Content Security Policy: nothing but their own style, script, font and renewal."""
    return "; ".join(
        (
            "default-src 'none'",
            f"style-src {content_hash(_text('page.css'))}",
            f"script-src {content_hash(_text('page.js'))}",
            "font-src 'self'",
            "img-src data:",
            "connect-src 'self'",
            "base-uri 'none'",
            "form-action 'none'",
        )
    )


def _favicon(icon: str) -> str:
    shape = _SHAPES.get(icon, _SHAPES["warning"]).format(
        _COLOURS.get(icon, "#80868f"),
        "fill='none' stroke='#fff' stroke-width='1.8' stroke-linecap='round' stroke-linejoin='round'",
    )
    return "data:image/svg+xml," + urllib.parse.quote(
        f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 16 16'>{shape}</svg>", safe="/:=' "
    )


def page(which: str, shown: Mapping[str, Any]) -> str:
    """The HTML of ``private`` or ``public`` from what ``mf_monitor.page.view`` made of a snapshot."""
    return (
        _environment()
        .get_template(f"{which}.html")
        .render(
            view=shown,
            css=Markup(_text("page.css")),  # ours; nothing from outside is in it
            js=Markup(_text("page.js")),
            csp=policy(),
            favicon=_favicon(str(shown["icon"])),
        )
    )


def _json(value: object) -> bytes:
    return (json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":")) + "\n").encode()


def _replace(path: Path, content: bytes, mode: int) -> None:
    """Replace a file by rename: a reader gets the old or the new content, whole."""
    temporary = path.with_name(f".{path.name}.new")
    with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode), "wb") as file:
        os.fchmod(file.fileno(), mode)
        file.write(content)
    os.replace(temporary, path)


def write(snapshot: Snapshot, folder: str | Path) -> None:
    """Write all files anew, each by rename. Raises OSError.

    Private files are readable by their group only (the web server's, given by the folder's setgid bit).
    """
    private, public = Path(folder, "private"), Path(folder, "public")
    for place, mode in ((private, 0o750), (public, 0o755)):
        place.mkdir(mode=mode, parents=True, exist_ok=True)
    files = (
        (private / "index.html", page("private", view.private(snapshot)).encode("utf-8", "replace"), 0o640),
        (private / "status.json", _json(view.status(snapshot)), 0o640),
        (private / "metrics", metrics.text(snapshot).encode(), 0o640),
        (public / "index.html", page("public", view.public(snapshot)).encode("utf-8", "replace"), 0o644),
        (public / "status.json", _json(view.public_status(snapshot)), 0o644),
    )
    font = (_DATA / _FONT).read_bytes()
    for place in (private, public):
        # a year old at most in a browser's cache, and it never changes: leave its time alone
        if not (place / _FONT).exists() or (place / _FONT).stat().st_size != len(font):
            _replace(place / _FONT, font, 0o644)
    for path, content, mode in files:
        _replace(path, content, mode)
