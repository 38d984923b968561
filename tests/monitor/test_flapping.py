"""Flapping: one message for it, one for what becomes of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import pytest
from mf_monitor import settings
from mf_monitor.incidents import fresh_alert
from mf_monitor.judging import problems, states
from mf_monitor.judging.states import DOWN, REFUSED, SILENT, UP, ProbeResult, SubjectState
from mf_monitor.notifying import alerts
from mf_monitor.notifying.alerts import Alert, Incident

from tests.monitor.conftest import NOW, RULES, bad, incident, keys, run, silent, subjects


def messages(role: str, rounds: int, services: Mapping[str, str], stays: int = 0) -> list[str]:
    """Messages about a host whose services fall silent and come back, some minutes each, in turn; then it is calm.

    ``stays``: it doesn't come back from the last turn for so many results more.
    """
    smtp = {"kind": "smtp"}
    entry = {"name": "a", "role": role, "address": "192.0.2.1", "services": [{"kind": "ssh"}, smtp]}
    rules = settings.parse({"hosts": [entry], "urgent_checks": ["backup"], "channels": [{"name": "sms", "url": "x"}]})
    current = {f"a/{name}": SubjectState() for name in ("ssh", "smtp", "check-backup")}
    open_: dict[str, Incident] = {}
    ended: list[Incident] = []
    notified: list[str] = []
    planned: dict[int, Alert] = {}
    now, number, calm = NOW, 0, int(2 * rules.flap_calm / 20)
    turns = [turn % 2 == 0 for turn in range(2 * rounds) for _ in range(5)]
    for bad_ in (*[False] * 3, *turns, *[True] * stays, *[False] * calm):
        for name in ("ssh", "smtp", "check-backup"):
            now += 5
            state, reason = (DOWN, services[name]) if bad_ and name in services else (UP, "")
            result = ProbeResult(f"a/{name}", now - 1, now, state, state, reason)
            current[result.subject] = states.advance(current[result.subject], result, rules)
            view = problems.judge(rules, current, {}, open_, now)
            for key, problem in view.problems.items():
                if key not in open_:
                    number += 1
                    open_[key] = incident(number, key, alert=Alert(noticed=now))
                alert = fresh_alert(planned.get(open_[key].number, open_[key].alert), problem)
                planned[open_[key].number] = alert
                open_[key] = dataclasses.replace(
                    open_[key], severity=problem.severity, title=problem.title, flapping=problem.flapping
                )
            gone = [key for key in open_ if key not in view.problems and key not in view.behind]
            ended += [dataclasses.replace(open_.pop(key), closed=now) for key in gone]
            for later in (0, 4):
                known = [
                    dataclasses.replace(
                        known_incident,
                        behind=known_incident.key in view.behind and not known_incident.closed,
                        alert=planned.get(known_incident.number, known_incident.alert),
                    )
                    for known_incident in (*open_.values(), *ended)
                ]
                plan = alerts.plan(rules, known, [], now + later)
                planned |= plan.alerts
                notified += [
                    draft.text for draft in plan.drafts if draft.kind in ("opened", "flapping", "stays", "closed")
                ]
    return notified


@pytest.mark.parametrize(
    ("services", "message"),
    [({"ssh": SILENT, "smtp": SILENT}, "a"), ({"ssh": REFUSED}, "a ssh"), ({"check-backup": "wrong"}, "a backup")],
)
def test_flapping_is_notified_once(services: dict[str, str], message: str) -> None:
    notified = messages("control", 6, services)
    assert [text.partition(": ")[0] for text in notified] == ["mf URGENT", "mf OK", "mf URGENT", "mf OK"], notified
    assert f"{message} is flapping, 3 changes" in notified[2] or f"{message} is flapping, 6 changes" in notified[2], (
        notified
    )
    assert f"{message} well again" in notified[3], notified
    assert len(messages("control", 1, services)) == 2


@pytest.mark.parametrize(
    ("services", "message"),
    [
        ({"ssh": SILENT, "smtp": SILENT}, "a does not answer"),
        ({"ssh": REFUSED}, "a ssh stays down after flapping: down"),
        ({"check-backup": "wrong"}, "a backup stays CRITICAL after flapping: down"),
    ],
)
def test_the_state_in_which_flapping_ends_is_notified(services: dict[str, str], message: str) -> None:
    notified = messages("control", 5, services, stays=40)
    heads = [text.partition(": ")[0] for text in notified]
    assert heads == ["mf URGENT", "mf OK", "mf URGENT", "mf URGENT", "mf OK"], notified
    assert "is flapping" in notified[2]
    assert message in notified[3]
    assert notified[3].rpartition("since ")[2][:5] > notified[2].rpartition("since ")[2][:5]


def test_a_host_that_dies_while_a_service_flaps_is_not_flapping() -> None:
    flapping = dataclasses.replace(bad(SILENT), flapping=NOW)
    view = problems.judge(RULES, subjects() | silent("mx1") | {"mx1/ssh": flapping}, {}, ("host:mx1",), NOW + 100)
    assert view.problems["host:mx1"].title == "mx1 does not answer"


def test_what_flaps_does_not_count_as_accepting_until_it_is_calm() -> None:
    for current in (bad(), run(UP)):
        flapping = dataclasses.replace(current, flapping=NOW)
        assert "fleet" in keys(subjects(mx3_smtp=bad(), mx2_smtp=flapping))
