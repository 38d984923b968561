"""The status page without a browser: what it says, what it gives away, what it makes of hostile text, its metrics."""

from __future__ import annotations

import json
import re
import stat
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import yaml
from mf_monitor.page import charts, incidents, machines, metrics, model, render, values, view
from mf_monitor.page import snapshot as snapshot_

from tests.monitor import page_samples
from tests.monitor.samples import sample

ROOT = Path(__file__).resolve().parents[2]
NOW = page_samples.NOW
FILES = {
    "private": {"index.html", "status.json", "metrics", "inter.woff2"},
    "public": {"index.html", "status.json", "inter.woff2"},
}
every_state = pytest.mark.parametrize("state", page_samples.STATES)


def private(snapshot: model.Snapshot) -> str:
    return render.page("private", view.private(snapshot))


def public(snapshot: model.Snapshot) -> str:
    return render.page("public", view.public(snapshot))


class Parsed(HTMLParser):
    """Tags, attributes and text of a page; fails on a tag that is closed wrongly."""

    VOID = frozenset({"meta", "link", "br", "img"})

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in {"script", "style"}:
            self.text += data


# --- files


@every_state
def test_writes_all_files_and_nothing_else(state: str, tmp_path: Path) -> None:
    render.write(page_samples.STATES[state](), tmp_path)
    assert {place.name: {path.name for path in place.iterdir()} for place in tmp_path.iterdir()} == FILES


def test_only_the_group_reads_what_is_private(tmp_path: Path) -> None:
    render.write(page_samples.all_well(), tmp_path)
    assert stat.S_IMODE((tmp_path / "private").stat().st_mode) == 0o750
    for name in ("index.html", "status.json", "metrics"):
        assert stat.S_IMODE((tmp_path / "private" / name).stat().st_mode) == 0o640
    assert stat.S_IMODE((tmp_path / "public/index.html").stat().st_mode) == 0o644


def test_a_reader_keeps_the_page_that_it_opened(tmp_path: Path) -> None:
    render.write(page_samples.all_well(), tmp_path)
    with (tmp_path / "private/index.html").open() as opened:
        render.write(page_samples.failing(), tmp_path)
        assert "All 3 MXs accept mail." in opened.read()
    assert "Only 1 of 3 MXs" in (tmp_path / "private/index.html").read_text()


def test_the_font_is_written_once(tmp_path: Path) -> None:
    render.write(page_samples.all_well(), tmp_path)
    before = (tmp_path / "public/inter.woff2").stat()
    render.write(page_samples.all_well(), tmp_path)
    assert (tmp_path / "public/inter.woff2").stat().st_ino == before.st_ino


# --- what the pages say


@every_state
@pytest.mark.parametrize("page", [private, public])
def test_pages_are_well_formed_and_load_nothing_external(page: Any, state: str) -> None:
    parsed = Parsed(page(page_samples.STATES[state]()))
    for tag, attributes in parsed.tags:
        for name in ("href", "src", "action", "srcset", "poster", "data", "xlink:href"):
            target = attributes.get(name) or ""
            assert "//" not in target or target.startswith("data:image/svg+xml,"), (tag, target)
        assert "style" not in attributes
        assert not [name for name in attributes if name.startswith("on")]
    assert sum(tag == "script" for tag, _ in parsed.tags) == 1
    identities = [attributes["id"] for _, attributes in parsed.tags if "id" in attributes]
    assert len(identities) == len(set(identities))


def test_style_and_script_load_nothing_external() -> None:
    for name in ("page.css", "page.js"):
        assert "//" not in re.sub(
            r"^ *//.*$", "", (Path(render.__file__).parent / name).read_text(), flags=re.MULTILINE
        )


def test_the_policy_allows_exactly_what_is_in_the_page() -> None:
    html = private(page_samples.all_well())
    for tag in ("style", "script"):
        (inside,) = re.findall(rf"<{tag}>(.*?)</{tag}>", html, re.DOTALL)
        assert render.content_hash(inside) in render.policy()
    assert "unsafe" not in render.policy()
    assert render.policy().startswith("default-src 'none'; ")


def test_nginx_sends_the_policy_of_the_pages() -> None:
    """After a change of page.css or page.js: put the hashes that this names into the role's variable."""
    variables = yaml.safe_load((ROOT / "roles/mf_status_page/vars/main.yml").read_text())
    assert variables["__mf_status_page_policy"] == f"{render.policy()}; frame-ancestors 'none'"


@pytest.mark.parametrize(
    ("state", "sentence", "need", "title"),
    [
        ("all-well", "All 3 MXs accept mail.", "No action needed.", "Well · mf"),
        ("one-down", "2 of 3 MXs accept mail, enough", "It can wait until morning", "1 open · Reduced · mf"),
        ("throttled", "2 of 3 MXs accept mail, enough", "It can wait for office hours", "1 open · Reduced · mf"),
        ("failing", "Only 1 of 3 MXs accepts mail; 2 must.", "anna is on it.", "2 open · Failing · mf"),
        ("uplink-lost", "This monitor is offline", "Its own connection is down", "1 open · Monitor offline · mf"),
        ("empty", "Nothing is known", "Nothing has been measured yet.", "Not known · mf"),
    ],
)
def test_the_first_thing_said(state: str, sentence: str, need: str, title: str) -> None:
    shown = view.private(page_samples.STATES[state]())
    assert shown["sentence"].startswith(sentence)
    assert shown["need"].startswith(need)
    assert shown["title"] == title


def test_an_urgent_incident_that_is_not_acknowledged_asks_for_an_operator() -> None:
    snapshot = page_samples.failing()
    snapshot.incidents.open[0].acked = False
    assert view.private(snapshot)["need"] == "Act now."


def test_acknowledgement_and_its_end_are_shown_in_plain_text() -> None:
    incident = page_samples.failing().incidents.open[0]
    incident.timeline.append(replace(incident.timeline[-1], what="unacked"))
    acked, unacked = incidents.card(incident, NOW)["events"][-2:]
    assert (acked["label"], unacked["label"]) == ("Acknowledged", "Not acknowledged")
    assert f".e-{acked['kind']}::before" in private(page_samples.failing())


def test_one_row_a_machine_has_everything() -> None:
    text = " ".join(Parsed(private(page_samples.throttled())).text.split())
    for expected in ("mx1", "Throttled, 4 min left", "9.12", "1 284", "4.2 s", "Maintenance, 40 min left", "2.2 h"):
        assert expected in text


def test_facts_that_a_host_has_not_reported_lately_are_not_shown() -> None:
    row = machines.row(page_samples.one_down().hosts[1], NOW)
    assert (row["load"], row["queue"]) == ("–", "–")


def test_a_service_whose_last_probe_failed_is_in_doubt_and_not_up() -> None:
    smtp = model.Service("smtp", "smtp", 25, "up", NOW, NOW, 12.0, "220")
    assert machines.chip(smtp) == {"name": "smtp", "icon": "up", "fact": "12 ms"}
    assert machines.chip(replace(smtp, soft=True)) == {"name": "smtp", "icon": "unknown", "fact": "in doubt"}
    assert machines.chip(replace(smtp, soft=True, state="down"))["icon"] == "down"


def test_many_machines_those_in_trouble_come_first_and_have_details() -> None:
    shown = view.private(page_samples.big(count=60))
    icons = [host["icon"] for host in shown["machines"]]
    assert len(icons) == 60
    assert icons == sorted(icons, key=["down", "up"].index)
    assert {host["icon"] for host in shown["details"]} == {"down"}
    assert shown["details_left"] == icons.count("up")


# --- what the public may know


@every_state
def test_public_files_name_no_machine_and_no_address(state: str, tmp_path: Path) -> None:
    snapshot = page_samples.STATES[state]()
    render.write(snapshot, tmp_path)
    public = (tmp_path / "public/index.html").read_text() + (tmp_path / "public/status.json").read_text()
    for host in snapshot.hosts:
        for secret in (host.name, host.address, host.provider, host.location, host.message):
            assert secret not in public
    assert not re.search(r"\d+\.\d+\.\d+\.\d+", Parsed((tmp_path / "public/index.html").read_text()).text)
    assert "OpenSSH" not in public
    assert "anna" not in public


@pytest.mark.parametrize(
    ("state", "ending"),
    [
        ("one-down", "works."),
        ("throttled", "works."),
        ("failing", "delayed."),
        ("uplink-lost", "not known at the moment."),
    ],
)
def test_public_sentence(state: str, ending: str) -> None:
    assert view.public(page_samples.STATES[state]())["sentence"].endswith(ending)


# --- hostile text


def test_hostile_text_stays_text(tmp_path: Path) -> None:
    render.write(page_samples.hostile(), tmp_path)
    for name in ("private", "public"):
        html = (tmp_path / name / "index.html").read_text()
        parsed = Parsed(html)
        assert sum(tag == "script" for tag, _ in parsed.tags) == 1
        assert not [tag for tag, _ in parsed.tags if tag == "img"]
        assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f\u200b\u202a-\u202e]", html)
    assert "<script>document.title" in Parsed((tmp_path / "private/index.html").read_text()).text
    for line in (tmp_path / "private/metrics").read_text().splitlines():
        assert line.startswith("#") or re.fullmatch(r"[a-z0-9_]+(\{([a-z]+=\"([^\"\\]|\\.)*\",?)+\})? \S+", line), line
    assert "\x1b" not in json.dumps(json.loads((tmp_path / "private/status.json").read_text()), ensure_ascii=False)


def test_show_cuts_and_escapes() -> None:
    assert values.show("ü – ok") == "ü – ok"
    assert values.show("a\x1b[2J\u202eb\n") == "a\\x1b[2J\\u202eb\\n"
    assert values.show("\ud800") == "\\ud800"
    assert values.show("x" * 50, 10) == "x" * 9 + "…"


# --- figures


@pytest.mark.parametrize(
    ("down", "shown"), [(0, "100 %"), (1, "99.999 %"), (240, "99.996 %"), (86400, "98.88 %"), (90 * 86400, "0.00 %")]
)
def test_uptime_is_never_rounded_up(down: float, shown: str) -> None:
    days = page_samples.days(NOW, {0: {"down": min(down, 86400.0)}})
    if down > 86400:
        days = page_samples.days(NOW, {back: {"down": 86400.0} for back in range(90)})
    assert values.uptime(days) == shown


def test_uptime_counts_only_what_was_measured() -> None:
    day = {0: {"down": 4320.0, "missing": 43200.0}}
    assert values.uptime(page_samples.days(NOW, day, length=1)) == "90.00 %"
    assert values.uptime(page_samples.days(NOW, {0: {"down": 4320.0, "unknown": 43200.0}}, length=1)) == "90.00 %"
    assert values.uptime(page_samples.days(NOW, {0: {"down": 4320.0, "maintenance": 43200.0}}, length=1)) == "90.00 %"


def test_uptime_of_nothing() -> None:
    assert values.uptime([None] * 90) == "–"


def test_bars_are_runs_of_days() -> None:
    drawn = charts.bars(page_samples.days(NOW, {89: {"down": 901.0}, 1: {"down": 60.0}, 0: {"throttled": 5.0}}), NOW)
    paths = dict(drawn["paths"])
    assert paths == {"down": "M0 12h3", "up": "M4 16.5h347", "brief": "M352 13.5h3", "throttled": "M356 15h3"}
    assert drawn["notes"] == {0: "down 15 min", 88: "down 60 s", 89: "throttled 5 s"}
    assert drawn["label"] == "90 of 90 days measured, 2 with an outage"


@pytest.mark.parametrize("kind", ["missing", "unknown"])
def test_a_day_that_was_not_wholly_measured_is_not_green(kind: str) -> None:
    drawn = charts.bars(page_samples.days(NOW, {2: {kind: 900.0}, 1: {kind: 899.0}, 0: {kind: 7200, "down": 3.0}}), NOW)
    paths = dict(drawn["paths"])
    assert (paths["part"], paths["brief"]) == ("M348 19.5h3", "M356 13.5h3")
    assert drawn["notes"] == {87: "not measured 15 min", 89: "down 3 s, not measured 2.0 h"}
    assert drawn["label"] == "90 of 90 days measured (1 in part), 1 with an outage"


def test_a_day_of_maintenance_was_measured() -> None:
    day = page_samples.days(NOW, {0: {"maintenance": 86400.0}})[-1]
    assert day
    day.up = None
    assert charts.classify(day) == ("maintenance", "maintenance 24.0 h")


def test_bars_of_a_young_monitor_end_today() -> None:
    drawn = charts.bars(page_samples.days(NOW, length=2), NOW)
    assert dict(drawn["paths"]) == {"up": "M352 16.5h7", "none": "M0 22h351"}
    assert drawn["end"] == "2025-11-25"


def test_a_curve_has_a_gap_where_nothing_answered() -> None:
    hours = [[NOW - 3600 * back, 20.0, 40.0, 5, 0] for back in (5, 4, 3)]
    quarters = [
        [NOW - 900 * back, None if back in (4, 5) else 20.0, None if back in (4, 5) else 40.0, 5, 0]
        for back in range(12)
    ]
    assert charts.latency(quarters, NOW, "x")["line"].count("M") == 2  # type: ignore[index]
    assert charts.latency(hours, NOW, "x")["line"].count("M") == 3  # type: ignore[index]
    assert charts.latency([[NOW, None, None, 5, 5]], NOW, "x") is None


def test_curves_of_one_scale_have_the_same_axis() -> None:
    shown = view.private(page_samples.all_well())["charts"]
    assert len(shown) == 3
    assert len({tuple(chart["ticks"]) for chart in shown}) == 1


@pytest.mark.parametrize(("value", "top"), [(0, 10), (10, 10), (11, 20), (21, 50), (51, 100), (180, 200), (1e12, 1e9)])
def test_nice_top(value: float, top: float) -> None:
    assert charts.nice_top(value) == top


# --- for programs


@every_state
def test_metrics_keep_the_rules_of_the_format(state: str) -> None:
    typed: list[str] = []
    seen: set[str] = set()
    for line in metrics.text(page_samples.STATES[state]()).splitlines():
        if line.startswith("# TYPE "):
            typed.append(line.split()[2])
        elif not line.startswith("#"):
            series, value = line.rsplit(" ", 1)
            float(value)
            assert series.partition("{")[0] == typed[-1]
            assert series not in seen
            seen.add(series)
    assert len(typed) == len(set(typed))
    assert seen


def test_metrics_of_what_is_not_known_are_absent() -> None:
    text = metrics.text(page_samples.one_down())
    assert re.search(r'^mf_host_load1\{host="mx1",role="mx"\} 0\.', text, re.MULTILINE)
    assert not re.search(r'^mf_host_load1\{host="mx2"', text, re.MULTILINE)
    assert 'mf_service_up{host="mx2",role="mx",service="smtp",kind="smtp"} 0\n' in text
    assert 'mf_host_state{host="mx2",role="mx",state="down"} 1\n' in text


@every_state
def test_status_json_is_json_of_a_known_version(state: str, tmp_path: Path) -> None:
    snapshot = page_samples.STATES[state]()
    render.write(snapshot, tmp_path)
    inside = json.loads((tmp_path / "private/status.json").read_text())
    assert inside["version"] == view.VERSION
    assert inside["generated"] == snapshot.generated
    assert "latency" not in json.dumps(list(inside))
    outside = json.loads((tmp_path / "public/status.json").read_text())
    assert set(outside) == {"version", "name", "generated", "stale_after", "state", "sentence", "components"}


# --- with the engine's own snapshot


def test_what_the_engine_remembers_can_be_shown(tmp_path: Path) -> None:
    store, settings = sample(tmp_path / "monitor.sqlite", NOW)
    shot = snapshot_.take(store, settings, NOW)
    render.write(shot, tmp_path / "page")
    text = Parsed((tmp_path / "page/private/index.html").read_text()).text
    for expected in ("Only 1 of 3 MXs accepts mail; 2 must.", "ops is on it.", "mx2 smtp: connection refused", "4.1 s"):
        assert expected in text
    assert re.search(r"\d ms", text)
    public = (tmp_path / "page/public/index.html").read_text()
    assert "Incoming mail is delayed." in public
    assert "mx2" not in public
    store.close()


@pytest.mark.parametrize(("status", "icon"), [("OK", "up"), ("CRITICAL", "down"), ("UNKNOWN", "unknown")])
def test_backups_are_as_good_as_the_newest_one_not_as_the_machine_they_go_to(status: str, icon: str) -> None:
    snapshot = page_samples.all_well()
    for host in snapshot.hosts:
        if host.backups:
            host.backups.status = status
    assert {row["name"]: row["icon"] for row in view.components(snapshot)}["Backups"] == icon
