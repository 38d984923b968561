"""The page that a running monitor writes and nginx serves: read by people, by programs, not without the password.

Needs such a machine, so it is skipped unless MF_LIVE_PAGE is its address and MF_LIVE_SECRETS the file that
`scripts/make_secrets.py` wrote. Run by the scenario mf_monitor and by `make chaos-monitor`, each while something is
broken: MF_LIVE_HOST is shown as MF_LIVE_STATE. Screenshots are left in build/screenshots/live-….
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from playwright.sync_api import Browser, Page, expect

from tests.browser.conftest import SHOTS, listen, visit

from .test_pages import WIDTHS, every_scheme, violations

ADDRESS = os.environ.get("MF_LIVE_PAGE", "")
HOST = os.environ.get("MF_LIVE_HOST", "")
STATE = os.environ.get("MF_LIVE_STATE", "")

pytestmark = pytest.mark.skipif(not ADDRESS, reason="no running monitor: MF_LIVE_PAGE isn't set")


class Visitor:
    """A browser of a visitor's; what it asked for and what it complained about."""

    def __init__(self, browser: Browser, **options: Any) -> None:
        # the lab's certificate is its own; who serves it is checked where that is the subject (molecule mf_status_page)
        self.context = browser.new_context(ignore_https_errors=True, reduced_motion="reduce", **options)
        self.page: Page = self.context.new_page()
        self.requests, self.complaints = listen(self.page)

    def open(self, path: str) -> Page:
        """Open a page."""
        visit(self.page, f"{ADDRESS}{path}")
        return self.page

    def close(self) -> None:
        """End it: no request went elsewhere, no error was logged."""
        self.context.close()
        assert not [url for url in self.requests if not url.startswith((f"{ADDRESS}/", "data:image/svg+xml,"))]
        assert self.complaints == []


@pytest.fixture
def operator(browser: Browser, request: pytest.FixtureRequest) -> Iterator[Visitor]:
    """Somebody who knows the password; its scheme is the test's parameter, if it has one."""
    secret = yaml.safe_load(Path(os.environ["MF_LIVE_SECRETS"]).read_text())["mf_secrets"]["page"]
    scheme = getattr(request, "param", "light")
    known = {"username": secret["user"], "password": secret["password"], "origin": ADDRESS}
    visitor = Visitor(browser, http_credentials=known, color_scheme=scheme)
    yield visitor
    visitor.close()


@pytest.fixture
def stranger(browser: Browser) -> Iterator[Visitor]:
    """Anybody."""
    visitor = Visitor(browser)
    yield visitor
    visitor.close()


@pytest.mark.parametrize("operator", ["light", "dark"], indirect=True, ids=["light", "dark"])
def test_details_are_whole_accessible_and_fit(operator: Visitor, axe: str, request: pytest.FixtureRequest) -> None:
    page = operator.open("/fleet/")
    page.evaluate("document.fonts.ready")
    expect(page.locator("#stale")).to_be_hidden()
    row = page.locator("tbody.m", has=page.locator("th", has_text=re.compile(rf"^{HOST}\b")))
    expect(row.locator(".state").first).to_contain_text(re.compile(STATE, re.IGNORECASE))
    expect(page.locator("[data-part=open]")).to_contain_text(HOST)
    shot = operator.context.request.get(f"{ADDRESS}/fleet/status.json").json()
    assert {host["name"]: host["state"] for host in shot["hosts"]}[HOST] == STATE
    expect(page.locator("#sentence")).to_contain_text(shot["fleet"]["sentence"])
    scheme = request.node.callspec.id
    for width in WIDTHS:
        page.set_viewport_size({"width": width, "height": 900})
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        page.screenshot(path=SHOTS / f"live-{width}-{scheme}.png", full_page=True)
        assert violations(page, axe) == []
    page.evaluate("document.querySelectorAll('details').forEach(details => details.open = true)")
    assert violations(page, axe) == []


def test_it_renews_itself(operator: Visitor) -> None:
    page = operator.open("/fleet/")
    page.evaluate("window.still = 1")
    first = page.locator(".age time").get_attribute("datetime")
    assert first
    expect(page.locator(".age time")).not_to_have_attribute("datetime", first, timeout=60_000)
    assert page.evaluate("window.still") == 1


@every_scheme
def test_the_summary_is_public_and_names_no_host(browser: Browser, axe: str, scheme: str) -> None:
    visitor = Visitor(browser, color_scheme=scheme)
    page = visitor.open("/")
    page.evaluate("document.fonts.ready")
    assert not re.search(r"mx\d|control1|offsite1|\d+\.\d+\.\d+\.\d+", page.content())
    for width in WIDTHS:
        page.set_viewport_size({"width": width, "height": 900})
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        page.screenshot(path=SHOTS / f"live-public-{width}-{scheme}.png", full_page=True)
    assert violations(page, axe) == []
    visitor.close()


def test_details_want_a_password(stranger: Visitor) -> None:
    for path in ("/fleet/", "/fleet/status.json", "/metrics", "/fleet/metrics", "/fleet/index.html"):
        answer = stranger.context.request.get(f"{ADDRESS}{path}")
        assert answer.status == 401, path
        assert "mx1" not in answer.text()
    plain = stranger.context.request.get(f"{ADDRESS.replace('https', 'http')}/", max_redirects=0)
    assert (plain.status, plain.headers["location"]) == (301, f"{ADDRESS}/")
