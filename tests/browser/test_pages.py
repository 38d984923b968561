"""The status page in a browser: accessible in every state and scheme, alone in the network, alive without flicker.

Screenshots of every state at three widths, and of the widest in the dark, are left in build/screenshots/.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
from playwright.sync_api import Error, Page, expect

from tests.browser.conftest import SHOTS, Site, Watched, visit
from tests.monitor import page_samples

Watch = Callable[..., Watched]
WIDTHS = (360, 768, 1280)
every_state = pytest.mark.parametrize("state", page_samples.STATES)
every_scheme = pytest.mark.parametrize("scheme", ["light", "dark"])

RENEW = "document.dispatchEvent(new Event('visibilitychange'))"  # as when a reader comes back to the tab


def violations(page: Page, axe: str) -> list[str]:
    """What axe-core finds, all its rules on, one line for each. It runs beside the page: the page's policy stays on."""
    page.evaluate(axe)
    report: dict[str, Any] = page.evaluate("axe.run(document, {resultTypes: ['violations']})")
    return [
        f"{violation['id']}: {node['html'][:120]} {node['failureSummary'][:200]}"
        for violation in report["violations"]
        for node in violation["nodes"]
    ]


@every_state
@every_scheme
def test_accessible(watch: Watch, axe: str, state: str, scheme: str) -> None:
    watched = watch(color_scheme=scheme, reduced_motion="reduce")
    page = watched.open(f"/{state}/private/")
    if state in {"throttled", "hostile"}:  # between them they have every kind of detail
        page.evaluate("document.querySelectorAll('details').forEach(details => details.open = true)")
    assert violations(page, axe) == []
    assert violations(watched.open(f"/{state}/public/"), axe) == []


@every_state
@every_scheme
def test_fits_at_every_width(watch: Watch, state: str, scheme: str) -> None:
    watched = watch(color_scheme=scheme, reduced_motion="reduce")
    for which in ("private", "public"):
        page = watched.open(f"/{state}/{which}/")
        # a scheme changes colours only
        for width in WIDTHS if scheme == "light" else WIDTHS[-1:]:
            page.set_viewport_size({"width": width, "height": 900})
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            path = SHOTS / f"{which}-{state}-{width}-{scheme}.png"
            page.screenshot(path=path, full_page=True)
            assert path.stat().st_size > 5000


@pytest.mark.parametrize("state", ["failing", "empty"])
def test_accessible_on_a_phone(watch: Watch, axe: str, state: str) -> None:
    assert violations(watch(width=360, height=780, reduced_motion="reduce").open(f"/{state}/private/"), axe) == []


def test_renews_itself_without_a_reload(watch: Watch, site: Site) -> None:
    address = site.write("renewed", page_samples.all_well(time.time()))
    page = watch().open("/renewed/private/")
    page.evaluate("window.still = 1; window.kept = document.querySelector('[data-part=charts]')")
    page.locator("#m-mx3").locator("xpath=..").locator("summary").click()
    page.evaluate("document.getElementById('scheme').focus(); scrollTo(0, 700)")
    site.write("renewed", page_samples.failing(time.time()))
    page.evaluate(RENEW)
    expect(page.locator("#sentence")).to_contain_text("Only 1 of 3 MXs accepts mail; 2 must.")
    expect(page).to_have_title("2 open · Failing · mf")
    expect(page.locator("#announce")).to_contain_text("Only 1 of 3 MXs accepts mail")
    expect(page.locator("[data-part=open]")).to_be_visible()
    expect(page.locator("#m-mx3")).to_be_visible()
    assert page.evaluate("[window.still, scrollY, document.activeElement.id]") == [1, 700, "scheme"]
    # and back again; what did not change was not touched
    page.evaluate("window.kept = document.querySelector('[data-part=past]')")
    site.write("renewed", page_samples.one_down(time.time() - 1))
    page.evaluate(RENEW)
    expect(page.locator("#sentence")).to_contain_text("2 of 3 MXs accept mail")
    assert page.evaluate(
        "[window.still, document.querySelector('[data-part=open]').querySelectorAll('details').length]"
    ) == [1, 1]
    assert address in page.url


def test_a_part_that_did_not_change_stays_the_same_element(watch: Watch, site: Site) -> None:
    now = time.time()
    site.write("kept", page_samples.all_well(now))
    page = watch().open("/kept/private/")
    page.evaluate("window.kept = document.querySelector('[data-part=monitor]')")
    changed = page_samples.all_well(now)
    changed.fleet.sentence = "All 3 MXs still accept mail."
    site.write("kept", changed)
    page.evaluate(RENEW)
    expect(page.locator("#sentence")).to_contain_text("still")
    assert page.evaluate("window.kept === document.querySelector('[data-part=monitor]')")


def test_a_page_of_a_new_release_is_loaded_anew(watch: Watch, site: Site) -> None:
    site.write("release", page_samples.all_well(time.time()))
    watched = watch()
    page = watched.open("/release/private/")
    page.evaluate("window.still = 1")
    path = site.folder / "release/private/index.html"
    site.write("release", page_samples.one_down(time.time()))
    stamp = path.stat().st_mtime
    path.write_text(path.read_text().replace('"use strict";', '"use strict"; /* new */'))
    os.utime(path, (stamp + 5, stamp + 5))
    with page.expect_navigation():
        page.evaluate(RENEW)
    assert page.evaluate("window.still") is None
    # the policy in the page doesn't know that script: whoever changes it on the way gets nowhere
    assert watched.complaints
    assert all("Content Security Policy" in complaint for complaint in watched.complaints)
    watched.complaints.clear()


def test_a_fresh_page_does_not_call_itself_stale(watch: Watch) -> None:
    expect(watch().open("/all-well/private/").locator("#stale")).to_be_hidden()


@pytest.mark.parametrize("which", ["private", "public"])
def test_a_stale_page_is_marked_stale(watch: Watch, which: str) -> None:
    page = watch().open(f"/stale/{which}/")
    expect(page.locator("#stale")).to_contain_text("This page is out of date. The monitor wrote it 14 min ago")
    expect(page.locator(".age")).to_contain_text("14 min ago")


def test_a_page_grows_stale_while_its_server_is_gone(watch: Watch, site: Site) -> None:
    site.write("gone", page_samples.all_well(time.time()))
    watched = watch()
    watched.page.clock.install()
    page = watched.open("/gone/private/")
    expect(page.locator("#stale")).to_be_hidden()
    page.context.set_offline(True)
    page.clock.fast_forward(600_000)
    expect(page.locator("#stale")).to_contain_text("can't be fetched")
    page.context.set_offline(False)
    site.write("gone", page_samples.all_well(time.time() + 600))
    page.evaluate(RENEW)
    expect(page.locator("#stale")).to_be_hidden()
    watched.complaints = [text for text in watched.complaints if "ERR_INTERNET_DISCONNECTED" not in text]


def test_a_device_with_a_wrong_clock_is_not_fooled(watch: Watch, site: Site) -> None:
    site.write("clock", page_samples.all_well(time.time()))
    watched = watch()
    watched.page.clock.install(time=time.time() + 86400)
    page = watched.open("/clock/private/")
    expect(page.locator("#stale")).to_be_hidden()
    expect(page.locator(".age")).to_contain_text(" s ago")


def test_hostile_text_is_inert(watch: Watch) -> None:
    page = watch().open("/hostile/private/")
    page.evaluate("document.querySelectorAll('details').forEach(details => details.open = true)")
    assert page.title().startswith("2 open")
    assert page.locator("img").count() == 0
    assert page.locator("script").count() == 1
    expect(page.locator("#sentence")).to_contain_text("<script>document.title='owned'</script>")


def test_works_without_script(watch: Watch) -> None:
    watched = watch(java_script_enabled=False)
    page = watched.go("/one-down/private/")
    expect(page.locator("#sentence")).to_contain_text("2 of 3 MXs accept mail")
    expect(page.locator(".stale.plain")).to_contain_text("This page renews itself. Written at 20")
    expect(page.locator("#scheme")).to_be_hidden()
    assert page.locator("noscript meta[http-equiv=refresh], meta[http-equiv=refresh]").count() == 1
    page.locator("details.machine summary").first.click()
    expect(page.locator("#m-mx1")).to_be_visible()


def test_by_keyboard_alone(watch: Watch) -> None:
    page = watch().open("/one-down/private/")
    page.keyboard.press("Tab")
    expect(page.locator(".skip")).to_be_focused()
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    expect(page.locator("a[href='#m-mx1']")).to_be_focused()
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(page.locator("#m-mx2")).to_be_visible()
    expect(page.locator("details:has(#m-mx2) > summary")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("#m-mx2")).to_be_hidden()


def test_a_chosen_scheme_is_remembered(watch: Watch) -> None:
    watched = watch(color_scheme="light")
    page = watched.open("/all-well/private/")
    button, paper = page.locator("#scheme"), "getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(paper)
    button.click()
    assert page.evaluate(paper) == light
    button.click()
    expect(button).to_have_text("Theme: dark")
    dark = page.evaluate(paper)
    assert dark != light
    page.reload()
    assert page.evaluate(paper) == dark


def test_a_day_is_explained_under_the_pointer(watch: Watch) -> None:
    page = watch().open("/all-well/private/")
    bars = page.locator(".m .bars").nth(1)
    box = bars.bounding_box()
    assert box
    page.mouse.move(box["x"] + box["width"] * 77.5 / 90, box["y"] + 10)
    expect(page.locator("#tip")).to_contain_text(": down 1.5 h")
    page.mouse.move(box["x"] + box["width"] * 10.5 / 90, box["y"] + 10)
    expect(page.locator("#tip")).to_contain_text(": no trouble")
    page.mouse.move(0, 0)
    expect(page.locator("#tip")).to_be_hidden()


def test_on_paper_it_is_black_on_white(watch: Watch, tmp_path: Path) -> None:
    page = watch(color_scheme="dark").open("/failing/private/")
    page.emulate_media(media="print")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert page.evaluate("getComputedStyle(document.body).color") == "rgb(0, 0, 0)"
    expect(page.locator("#scheme")).to_be_hidden()
    page.pdf(path=SHOTS / "print.pdf", format="A4")


def test_a_network_that_comes_or_goes_is_no_fault_of_the_page() -> None:
    failures = [Error("Page.goto: net::ERR_NETWORK_CHANGED at http://x/")]

    class Asked:
        def goto(self, _url: str) -> None:
            if failures:
                raise failures.pop()

    visit(cast("Page", Asked()), "http://x/")
    assert not failures
    failures += [Error("Page.goto: net::ERR_CONNECTION_REFUSED"), Error("Page.goto: net::ERR_NETWORK_CHANGED")]
    with pytest.raises(Error, match="REFUSED"):
        visit(cast("Page", Asked()), "http://x/")


def test_a_thousand_machines_are_shown_at_once(watch: Watch, site: Site) -> None:
    site.write("big", page_samples.big(time.time()))
    page = watch().open("/big/private/")
    assert page.locator("tbody.m").count() == 1000
    expect(page.locator("tbody.m").first).to_contain_text("Down")
