"""check-canary, on control: whether every MX's tagged spam arrived in the quarantine lately, and its ham at the sink.

It reads the notes of importer and sink, so it covers the whole way: qpsmtpd, its filters, the kept copy,
rsync, import and database for the spam; qpsmtpd and Exim for the ham. It takes no action.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

from mf import run, state
from mf.text import clean, span

NAME = "canary"
PURPOSE = "Check that each MX's test messages reach the quarantine and the sink in time."
RULES: run.Rules = {
    "mx": str,  # names of the inventory's MXs, separated by blanks
    "quarantine": str,  # folder of the importer's notes
    "sink": str,  # folder of the sink's notes
    "age_warning": (60, 86400),  # seconds since the newest canary that arrived was sent; one is sent every 10 minutes
    "age_critical": (60, 86400),
}
MOST = 25  # MXs with metrics of their own: the latest


@dataclass(frozen=True)
class Arrival:
    """The newest of an MX's canaries of one kind: ``age`` since it was sent, ``latency`` until it arrived, in seconds.

    Without one, ``age`` counts from when it is expected and ``latency`` is None; both None: unknown.
    """

    age: float | None
    latency: float | None

    @classmethod
    def of(cls, record: Mapping[str, object] | None, arrived: str, since: float | None, now: float) -> Arrival:
        """An arrival from its note, in which the key ``arrived`` has the time when it came."""
        sent, arrival = _number(record, "sent"), _number(record, arrived)
        latency = max(0.0, arrival - sent) if sent is not None and arrival is not None else None
        begun = sent if sent is not None else since
        return cls(max(0.0, now - begun) if begun is not None else None, latency)


def decide(
    arrivals: Mapping[str, tuple[Arrival, Arrival]], delivered: Mapping[str, float], now: float, values: run.Values
) -> state.Result:
    """The result. ``arrivals``: spam and ham of each MX. ``delivered``: when its tagged spam came to the sink. Pure."""
    problems: list[tuple[str, str]] = []
    ages: dict[str, float] = {}
    let_through = 0
    overdue: set[str] = set()
    for mx, kinds in sorted(arrivals.items()):
        name = clean(mx, 64)
        for kind, arrival in zip(("spam", "ham"), kinds, strict=True):
            if arrival.age is None:
                problems.append((state.WARNING, f"{name}: no canary recorded yet; does mf-canary-sink.service run?"))
                ages[mx] = float(values["age_critical"])
                break
            ages[mx] = max(ages.get(mx, 0.0), arrival.age)
            if arrival.age >= values["age_warning"]:
                status = state.CRITICAL if arrival.age >= values["age_critical"] else state.WARNING
                overdue |= {mx} if status == state.CRITICAL else set()
                where = "in the quarantine" if kind == "spam" else "at the sink"
                problem = f"the newest {kind} {where} was sent {span(arrival.age)} ago"
                if arrival.latency is None:
                    problem = f"no {kind} {where} yet"
                problems.append((status, f"{name}: {problem}"))
        when = delivered.get(mx)
        if when is not None and now - when < values["age_critical"]:
            let_through += 1
            problems.append((state.CRITICAL, f"{name}: a test spam was delivered instead of refused"))
    problems.sort(key=lambda problem: -state.SEVERITY[problem[0]])
    sentences = [problem for _, problem in problems[:5]]
    if len(problems) > 5:
        sentences.append(f"and {len(problems) - 5} more")
    if len(overdue) == len(arrivals) > 1:
        sentences.insert(0, f"no mail goes the whole way, of {len(arrivals)} MXs")
    latencies = [arrival.latency for kinds in arrivals.values() for arrival in kinds if arrival.latency is not None]
    if not sentences:
        slowest = f", slowest way {span(max(latencies))}" if latencies else ", none was due yet"
        sentences = [f"{len(arrivals)} MX{'' if len(arrivals) == 1 else 's'}" + slowest]
    result = state.Result(NAME, state.worst([status for status, _ in problems]), "; ".join(sentences))
    # the monitor takes from these that all are overdue, or that a filter lets spam through
    result.metrics = {
        "mx": len(arrivals),
        "overdue": len(overdue),
        "delivered": let_through,
        "age_seconds": round(max(ages.values(), default=0.0), 1),
    }
    for mx in sorted(ages, key=lambda name: (-ages[name], name))[:MOST]:
        spam, ham = arrivals[mx]
        result.metrics[f"{mx}_age_seconds"] = round(ages[mx], 1)
        if spam.latency is not None:
            result.metrics[f"{mx}_spam_seconds"] = round(spam.latency, 3)
        if ham.latency is not None:
            result.metrics[f"{mx}_ham_seconds"] = round(ham.latency, 3)
    return result


def probe(places: state.Places, values: run.Values) -> state.Result | run.Diagnosis:
    """Judge the notes of importer and sink."""
    del places
    now = time.time()
    arrivals, delivered = {}, {}
    for mx in values["mx"].split():
        name = mx.lower()
        ham = _read(f"{values['sink']}/ham-{name}.json")
        since = _number(ham, "since")
        spam = _read(f"{values['quarantine']}/canary-{name}.json")
        arrivals[mx] = (Arrival.of(spam, "imported", since, now), Arrival.of(ham, "received", since, now))
        when = _number(_read(f"{values['sink']}/spam-{name}.json"), "received")
        if when is not None:
            delivered[mx] = when
    return decide(arrivals, delivered, now, values)


def _read(path: str) -> Mapping[str, object] | None:
    data, _ = state.read_plain(path)
    return state.decode(data)


def _number(record: Mapping[str, object] | None, key: str) -> float | None:
    value = record.get(key) if record is not None else None
    return value if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < 1e11 else None


CHECK = run.Check(NAME, probe, RULES, PURPOSE)
