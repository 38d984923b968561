"""What became of the messages of one run: the sender's account against the customer's record. Pure."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from statistics import quantiles
from typing import Any


@dataclass(frozen=True)
class Account:
    """The numbers of one run, in messages.

    sent: all; delivered: at the customer's at least once; refused: by a 5xx, by stage ("rcpt", "message" …);
    lost: accepted by an MX and never delivered; undecided: neither accepted nor refused before the deadline;
    doubled: delivered more than once, unexplained: those of them for which no reply to a final dot was lost and no MX
    was stopped; unknown: messages for which such a reply was lost; misjudged: ham refused, or spam delivered.

    With a quarantine (None without): quarantined: messages of which it has a copy; unkept: refused after DATA and not
    in it; copied: in it more often than once, with no lost reply to explain that; turned: accepted by an MX, refused by
    the customer's server, and so in it instead of lost; strays: in it for no such reason.
    """

    sent: int
    delivered: int
    refused: dict[str, int]
    lost: list[str]
    undecided: list[str]
    doubled: list[str]
    unexplained: list[str]
    unknown: int
    misjudged: list[str]
    by_mx: dict[str, int]
    retried: int
    deferred: dict[str, int]  # why attempts had to be repeated, the most frequent reasons
    delays: dict[str, float] = field(default_factory=dict)  # s from the first attempt to the customer: median, p95
    quarantined: int | None = None
    unkept: list[str] = field(default_factory=list)
    copied: list[str] = field(default_factory=list)
    turned: list[str] = field(default_factory=list)
    strays: list[str] = field(default_factory=list)

    @property
    def refused_total(self) -> int:
        """Messages refused at any stage."""
        return sum(self.refused.values())

    @property
    def refused_early(self) -> int:
        """Messages refused before DATA: of those there is nothing to keep."""
        return sum(count for stage, count in self.refused.items() if stage != "message")

    def faults(self) -> list[str]:
        """Return what must not be, in words; an empty list when the run kept its promise."""
        problems = []
        for ids, problem in (
            (self.lost, "lost"),
            (self.unexplained, "doubled without a lost reply"),
            (self.undecided, "neither accepted nor refused"),
            (self.misjudged, "misjudged (ham refused or spam delivered)"),
            (self.unkept, "refused after DATA and not in the quarantine"),
            (self.copied, "in the quarantine more than once"),
            (self.turned, "accepted and refused by the customer's server, kept in the quarantine"),
            (self.strays, "in the quarantine although never refused after DATA"),
        ):
            if ids:
                problems.append(f"{len(ids)} {problem}, such as {', '.join(ids[:3])}")
        total = self.delivered + self.refused_early + (self.quarantined or 0)
        if self.quarantined is not None and total != self.sent and not problems:
            problems.append(f"the sum is wrong: {total} of {self.sent} messages are accounted for")
        return problems


def parse_lines(text: str) -> list[dict[str, Any]]:
    """Return the JSON objects in `text`, one a line; an unfinished last line is left out."""
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n") and line.strip()]


def pending(ends: Iterable[Mapping[str, Any]], record: Iterable[Mapping[str, Any]]) -> int:
    """Return how many accepted messages haven't reached the customer yet."""
    return len({end["id"] for end in ends if end["outcome"] == "accepted"} - {line["id"] for line in record})


def unquarantined(ends: Iterable[Mapping[str, Any]], kept: Iterable[str]) -> int:
    """Return how many messages that were refused after DATA aren't among those `kept` in the quarantine yet."""
    return len({end["id"] for end in ends if _after_data(end)} - set(kept))


def _after_data(end: Mapping[str, Any]) -> bool:
    return bool(end["outcome"] == "refused" and end["stage"] == "message")


def reconcile(
    ends: Iterable[Mapping[str, Any]],
    record: Iterable[Mapping[str, Any]],
    stopped: bool = False,
    kept: Iterable[str] | None = None,
) -> Account:
    """Hold the sender's `ends` (see lab/world/send.py) against the customer's `record` (see lab/world/customer.py).

    `stopped`: an MX was stopped during the run, which explains a message that exists twice. `kept`: ids of the messages
    in the quarantine, one for each copy; None when there is no quarantine.
    """
    ends = list(ends)
    held = Counter(kept or ())
    times: dict[str, list[float]] = {}
    for line in record:
        times.setdefault(line["id"], []).append(float(line["time"]))
    copies = {end["id"]: len(times.get(end["id"], ())) for end in ends}
    away = [end["id"] for end in ends if end["outcome"] == "accepted" and not copies[end["id"]]]
    doubled = [end for end in ends if copies[end["id"]] > 1]
    delays = [min(times[end["id"]]) - end["started"] for end in ends if copies[end["id"]]]
    cuts = quantiles(delays, n=20, method="inclusive") if len(delays) > 1 else delays * 19
    return Account(
        sent=len(ends),
        delivered=sum(1 for count in copies.values() if count),
        refused=dict(sorted(Counter(str(end["stage"]) for end in ends if end["outcome"] == "refused").items())),
        lost=[ident for ident in away if not held[ident]],
        undecided=[end["id"] for end in ends if end["outcome"] == "undecided" and not copies[end["id"]]],
        doubled=[end["id"] for end in doubled],
        unexplained=[end["id"] for end in doubled if not end["unknown"] and not stopped],
        unknown=sum(1 for end in ends if end["unknown"]),
        misjudged=[
            end["id"]
            for end in ends
            if (end["kind"] == "ham" and end["outcome"] == "refused") or (end["kind"] != "ham" and copies[end["id"]])
        ],
        by_mx=dict(sorted(Counter(str(end["mx"]) for end in ends if end["outcome"] == "accepted").items())),
        deferred=dict(Counter(reason for end in ends for reason in end["deferred"]).most_common(5)),
        retried=sum(1 for end in ends if end["attempts"] > 1),
        delays={"median": round(cuts[9], 2), "p95": round(cuts[18], 2)} if delays else {},
        quarantined=None if kept is None else sum(1 for end in ends if held[end["id"]]),
        unkept=[] if kept is None else [end["id"] for end in ends if _after_data(end) and not held[end["id"]]],
        copied=[end["id"] for end in ends if held[end["id"]] > 1 and not end["unknown"] and not stopped],
        turned=[ident for ident in away if held[ident]],
        strays=[
            end["id"]
            for end in ends
            if held[end["id"]] and not _after_data(end) and not end["unknown"] and end["id"] not in away
        ],
    )
