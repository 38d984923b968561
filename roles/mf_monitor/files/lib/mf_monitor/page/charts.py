"""The page's drawings as path data: history bars and latency curves. Pure; the markup is the templates' business."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import TypedDict

from mf.text import span

from .model import Day

DAYS = 90
PITCH = 4  # units of width for a day: a bar of 3, a gap of 1
_BRIEF = 900.0  # seconds of a day: what was down for less is drawn as a brief outage, less unmeasured is passed over
# class -> height of its bars, of 24: trouble is taller, so that colour isn't the only sign
HEIGHTS = {"up": 15, "throttled": 18, "maintenance": 18, "brief": 21, "down": 24, "part": 9, "none": 4}

WIDE, HIGH = 480, 96  # of a latency chart
_HOURS = 24
_STEP = 900  # seconds of a point: about three pixels


class Bars(TypedDict):
    """90 days: the path of each class's runs; notes for days with trouble; the last day; one sentence for all."""

    paths: list[tuple[str, str]]
    notes: dict[int, str]
    end: str
    label: str


class Latency(TypedDict):
    """24 hours: the mean as a line, up to the slowest answer as an area; axes; one sentence."""

    name: str
    line: str
    area: str
    ticks: list[tuple[float, str]]
    hours: list[tuple[float, str]]
    now: str
    label: str


def day_name(day: str) -> str:
    """``2026-11-05`` as ``5 Nov``; itself when it isn't a date."""
    try:
        return time.strftime("%d %b", time.strptime(day, "%Y-%m-%d")).lstrip("0")
    except ValueError:
        return day[:10]


def classify(day: Day | None) -> tuple[str, str]:
    """Class and text of one day; None wasn't measured, ``part`` is without trouble but not whole."""
    if day is None or (day.up is None and not day.maintenance_seconds):
        return "none", "not measured"
    gone = day.unmeasured_seconds if day.unmeasured_seconds >= _BRIEF else 0
    troubles = (("throttled", day.throttled_seconds), ("maintenance", day.maintenance_seconds), ("part", gone))
    named = (("down", day.down_seconds), *troubles[:2], ("not measured", gone))
    note = ", ".join(f"{kind} {span(seconds)}" for kind, seconds in named if seconds)
    if day.down_seconds:
        return ("down" if day.down_seconds >= _BRIEF else "brief"), note
    return next((kind for kind, seconds in troubles if seconds), "up"), note


def bars(days: Sequence[Day | None], now: float) -> Bars:
    """The last 90 UTC days, oldest first, the last of ``days`` being that of ``now`` (epoch seconds)."""
    judged = [classify(day) for day in [None] * (DAYS - len(days)) + list(days[-DAYS:])]
    kinds = [kind for kind, _ in judged]
    runs: dict[str, list[str]] = {}
    start = 0
    for place in range(1, DAYS + 1):
        if place == DAYS or kinds[place] != kinds[start]:
            middle = 24 - HEIGHTS[kinds[start]] / 2
            runs.setdefault(kinds[start], []).append(f"M{start * PITCH} {middle:g}h{(place - start) * PITCH - 1}")
            start = place
    measured = DAYS - kinds.count("none")
    bad = kinds.count("down") + kinds.count("brief")
    part = f" ({partly} in part)" if (partly := kinds.count("part")) else ""
    label = f"{measured} of {DAYS} days measured{part}, {bad or 'none'} with an outage"
    return {
        "paths": [(kind, "".join(runs[kind])) for kind in HEIGHTS if kind in runs],
        "notes": {place: note for place, (_, note) in enumerate(judged) if note} if measured else {},
        "end": time.strftime("%Y-%m-%d", time.gmtime(now)),
        "label": label if measured else "no day measured yet",
    }


def nice_top(value: float) -> float:
    """The first of 10, 20, 50, 100, 200 … that isn't below ``value``."""
    top, steps, place = 10.0, (2.0, 2.5, 2.0), 0
    while top < value and top < 1e9:
        top *= steps[place % 3]
        place += 1
    return top


def _time(value: float) -> str:
    return f"{value:.0f} ms" if value < 999.5 else f"{value / 1000:.3g} s"


def _points(series: Iterable[Sequence[float | None]]) -> list[tuple[float, float, float]]:
    """Middle, mean and maximum of each quarter of an hour in which something answered, oldest first."""
    quarters: dict[int, list[tuple[float, float]]] = {}
    for start, mean, high, *_ in series:
        if start is not None and mean is not None and high is not None:
            quarters.setdefault(int(start // _STEP), []).append((mean, high))
    return [
        ((quarter + 0.5) * _STEP, sum(mean for mean, _ in answers) / len(answers), max(high for _, high in answers))
        for quarter, answers in sorted(quarters.items())
    ]


def highest(series: Iterable[Sequence[float | None]]) -> float:
    """The slowest answer in ms; 0 without any."""
    return max((bucket[2] or 0.0 for bucket in series), default=0.0)


def latency(series: Iterable[Sequence[float | None]], now: float, name: str, top: float = 0.0) -> Latency | None:
    """A chart of ``[[start, mean ms, max ms, …], …]`` (epoch seconds); None when nothing answered.

    ``top`` in ms makes several charts comparable. Where nothing answered, the curve has a gap.
    """
    start = now - _HOURS * 3600
    points = [point for point in _points(series) if start <= point[0] <= now + _STEP]
    if not points:
        return None
    slowest = max(high for _, _, high in points)
    top = nice_top(max(top, slowest))
    pieces = [[points[0]]]
    for earlier, later in pairwise(points):
        if later[0] - earlier[0] > 1.5 * _STEP:
            pieces.append([])
        pieces[-1].append(later)

    def path(curve: Iterable[tuple[float, float]]) -> str:
        return "L".join(
            f"{(moment - start) / (_HOURS * 3600) * WIDE:.1f} {HIGH - value / top * HIGH:.1f}"
            for moment, value in curve
        )

    line, area = [], []
    for piece in pieces:
        # a single bucket still shows
        wide = piece if len(piece) > 1 else [*piece, (piece[0][0] + _STEP / 3, *piece[0][1:])]
        means = [(moment, mean) for moment, mean, _ in wide]
        line.append("M" + path(means))
        area.append(f"M{path((moment, high) for moment, _, high in wide)}L{path(reversed(means))}Z")
    usual = sorted(mean for _, mean, _ in points)
    first_mark = (int(start) // 21600 + 1) * 21600
    return {
        "name": name,
        "line": "".join(line),
        "area": "".join(area),
        "ticks": [(round(HIGH - part * HIGH, 1), _time(part * top)) for part in (1.0, 0.5, 0.0)],
        "hours": [
            (round((moment - start) / (_HOURS * 36), 1), time.strftime("%H:%M", time.gmtime(moment)))
            for moment in range(first_mark, int(now), 21600)
        ],
        "now": _time(points[-1][1]),
        "label": f"{name}, last {_HOURS} hours: usually {_time(usual[len(usual) // 2])}, slowest {_time(slowest)}",
    }
