"""Debian's Chromium, a web server for the pages, and axe-core: what the browser tests need.

Chromium is installed when it isn't there (root or a sudo that doesn't ask). Playwright only drives it.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from mf_monitor.page import model, render
from playwright.sync_api import Browser, BrowserContext, Error, Page, sync_playwright

from tests.monitor import page_samples

ROOT = Path(__file__).resolve().parents[2]
SHOTS = ROOT / "build/screenshots"
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


def find_chromium() -> str:
    """Its path; installed first if need be. Fails the test with what to do."""
    if program := shutil.which("chromium"):
        return program
    if not shutil.which("apt-get"):
        pytest.fail("The browser tests need Debian's chromium, and there is no apt-get to install it with.")
    log = ROOT / "build/chromium.log"
    log.parent.mkdir(exist_ok=True)
    root = [] if os.geteuid() == 0 else ["sudo", "-n"]
    install = "apt-get -y --no-install-recommends -o Acquire::Retries=3 install chromium"
    with log.open("w") as out:
        for command in ("apt-get update", install):
            subprocess.run(
                [*root, *command.split()],
                check=False,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"},
            )
    program = shutil.which("chromium")
    if not program:
        pytest.fail(f"Chromium can't be installed ({log}). As root: apt install chromium")
    return program


class Quiet(SimpleHTTPRequestHandler):
    """Serves files and says nothing."""

    def log_message(self, *_: Any) -> None:
        """Nothing."""


class Site:
    """A folder that is served on loopback, into which snapshots are written."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder)))
        self.address = f"http://127.0.0.1:{self.server.server_address[1]}"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.05,))
        self.thread.start()
        self.writes = 0

    def write(self, name: str, snapshot: model.Snapshot) -> str:
        """Write the pages; return the address of the folder that holds private/ and public/."""
        render.write(snapshot, self.folder / name)
        self.writes += 1
        for which in ("private", "public"):  # a second is the grain of Last-Modified
            path = self.folder / name / which / "index.html"
            os.utime(path, (time.time() + self.writes,) * 2)
        return f"{self.address}/{name}"

    def close(self) -> None:
        """End it."""
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A site without a page yet."""
    served = Site(tmp_path_factory.mktemp("site"))
    yield served
    served.close()


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """One Chromium for all tests."""
    with sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=find_chromium(), args=list(FLAGS))
        yield started
        started.close()


@pytest.fixture(scope="session")
def axe() -> str:
    """axe-core's source, which the package brings along; its own Python isn't used."""
    package = importlib.util.find_spec("axe_playwright_python")
    assert package
    assert package.origin
    return Path(package.origin).with_name("axe.min.js").read_text()


NETWORK_CHANGED = "ERR_NETWORK_CHANGED"  # no fault of a page: a lab on this machine makes or removes its network


def visit(page: Page, url: str) -> None:
    """Open ``url``, once more if a network came or went meanwhile."""
    try:
        page.goto(url)
    except Error as error:
        if NETWORK_CHANGED not in str(error):
            raise
        page.goto(url)


def listen(page: Page) -> tuple[list[str], list[str]]:
    """What the page asks for from now on, and what it complains about."""
    requests: list[str] = []
    complaints: list[str] = []

    def complain(text: str) -> None:
        if NETWORK_CHANGED not in text:
            complaints.append(text)

    page.on("request", lambda request: requests.append(request.url))
    page.on("console", lambda message: complain(message.text))
    page.on("pageerror", lambda error: complain(str(error)))
    page.on("dialog", lambda dialog: complain(f"dialog {dialog.message}"))
    return requests, complaints


class Watched:
    """A page, and all that it asked for or complained about."""

    def __init__(self, context: BrowserContext, site: Site) -> None:
        self.page: Page = context.new_page()
        self.site = site
        self.requests, self.complaints = listen(self.page)

    def open(self, path: str) -> Page:
        """Go to ``/STATE/private/`` or the like, of a state written just now, and wait until its font is there, too."""
        self.go(path)
        self.page.evaluate("document.fonts.ready")
        return self.page

    def go(self, path: str) -> Page:
        """The same without waiting, which takes script."""
        state = path.split("/")[1]
        if state in page_samples.STATES:
            self.site.write(state, page_samples.STATES[state](time.time()))
        visit(self.page, self.site.address + path)
        return self.page


@pytest.fixture
def watch(browser: Browser, site: Site) -> Iterator[Callable[..., Watched]]:
    """Makes a page with a context of its own; in the end, no request went outside and nothing complained."""
    made: list[tuple[BrowserContext, Watched]] = []

    def new(*, width: int = 1280, height: int = 900, **options: Any) -> Watched:
        context = browser.new_context(viewport={"width": width, "height": height}, **options)
        watched = Watched(context, site)
        made.append((context, watched))
        return watched

    yield new
    for context, watched in made:
        context.close()
        assert not [url for url in watched.requests if not url.startswith((site.address, "data:image/svg+xml,"))]
        assert not watched.complaints
