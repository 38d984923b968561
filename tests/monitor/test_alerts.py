"""Messages from incidents: whom to notify of what, and when."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
from mf_monitor.incidents import fresh_alert
from mf_monitor.judging import health, problems, states
from mf_monitor.judging.states import UP, WARNING, ProbeResult
from mf_monitor.notifying import alerts
from mf_monitor.notifying.alerts import Alert, Incident
from mf_monitor.probing import hosthealth
from mf_monitor.settings import Settings
from mf_monitor.store import Silence

from tests.monitor import samples
from tests.monitor.conftest import NOW, RULES, incident, run, subjects


def silence(pattern: str) -> Silence:
    return Silence(1, pattern, NOW + 999, "", "anna", NOW)


class Story:
    """Plans one after the other, as the engine does."""

    def __init__(self, rules: Settings = RULES) -> None:
        self.rules = rules
        self.silences: list[Silence] = []
        self.alerts: dict[int, Alert] = {}

    def at(self, seconds: float, *incidents: Incident) -> list[alerts.Draft]:
        known = [dataclasses.replace(entry, alert=self.alerts.get(entry.number, entry.alert)) for entry in incidents]
        plan = alerts.plan(self.rules, known, self.silences, NOW + seconds)
        self.alerts |= plan.alerts
        return plan.drafts


def test_what_begins_together_is_one_message_and_is_notified_once() -> None:
    story = Story()
    pair = (incident(1, "host:mx1"), incident(2, "service:mx2/smtp"))
    assert story.at(1, *pair) == []
    (draft,) = story.at(4, *pair)
    assert draft.incidents == (1, 2)
    assert "mx1 is broken; mx2 is broken" in draft.text
    assert draft.text.endswith("#1,#2")
    assert [story.at(after, *pair) for after in (5, 4000, 99999)] == [[], [], []]


def test_the_younger_go_with_the_eldest() -> None:
    story = Story()
    pair = (incident(1, "host:mx1"), incident(2, "host:mx2", alert=Alert(noticed=NOW + alerts.GROUP - 0.1)))
    (draft,) = story.at(alerts.GROUP, *pair)
    assert draft.incidents == (1, 2)
    later = incident(3, "host:mx3", alert=Alert(noticed=NOW + alerts.GROUP + 0.1))
    assert story.at(alerts.GROUP + 1, *pair, later) == []
    (second,) = story.at(2 * alerts.GROUP + 0.2, *pair, later)
    assert second.incidents == (3,)


def test_what_ends_together_is_one_message() -> None:
    story = Story()
    pair = [incident(1, "host:mx1"), incident(2, "host:mx2")]
    story.at(4, *pair)
    pair[0] = dataclasses.replace(pair[0], closed=NOW + 60)
    assert story.at(60, *pair) == []
    pair[1] = dataclasses.replace(pair[1], closed=NOW + 62.5)
    # what was never notified doesn't hurry the others
    assert story.at(62.5, *pair, incident(3, "warning:mx2/smtp", "page", closed=NOW + 62.5)) == []
    (draft,) = story.at(63, *pair)
    assert draft.incidents == (1, 2)
    assert "OK: mx1 well again after" in draft.text
    assert "; mx2 well again after" in draft.text
    assert story.at(70, *pair) == []


def test_an_end_is_notified_before_it_begins_anew() -> None:
    story = Story()
    open_incident = incident(1, "host:mx1")
    story.at(4, open_incident)
    closed = dataclasses.replace(open_incident, closed=NOW + 60)
    assert story.at(60, closed) == []
    (over,) = story.at(61, closed, incident(2, "host:mx1", alert=Alert(noticed=NOW + 61)))
    assert (over.kind, over.incidents) == ("closed", (1,))


def test_the_end_is_notified_once_and_only_if_the_beginning_was() -> None:
    story = Story()
    open_incident = incident(1, "host:mx1")
    closed = dataclasses.replace(open_incident, closed=NOW + 2)
    assert story.at(2, closed) == []
    story = Story()
    story.at(4, open_incident)
    (draft,) = story.at(63, dataclasses.replace(open_incident, closed=NOW + 60))
    assert draft.kind == "closed"
    assert "OK: mx1 well again after 2 min" in draft.text or "OK: mx1 well again after 120 s" in draft.text
    assert story.at(64, dataclasses.replace(open_incident, closed=NOW + 60)) == []


def test_a_suppressed_problem_sends_nothing_until_it_is_resolved() -> None:
    boss = {"name": "boss", "url": "json://x", "escalation": True}
    story = Story(samples.settings(channels=[boss]))
    open_incident = incident(1, "service:control1/ssh", "urgent")
    story.at(1, open_incident)
    behind = dataclasses.replace(open_incident, behind=True)
    assert [story.at(after, behind) for after in (RULES.escalate_after + 9, RULES.reminder + 9)] == [[], []]
    (over,) = story.at(9999, dataclasses.replace(open_incident, closed=NOW + 9990))
    assert "control1 ssh well again" in over.text
    assert Story().at(99, dataclasses.replace(open_incident, behind=True)) == []


def test_well_again_is_only_what_has_nothing_else() -> None:
    host, ssh = incident(1, "host:mx1"), incident(2, "service:mx1/ssh")
    expired, smtp = incident(3, "warning:mx2/smtp"), incident(4, "service:mx2/smtp")
    slow = incident(5, "internal:slow", host="")
    for over, left, expected in (
        (host, ssh, "mx1 answers again"),
        (smtp, expired, "mx2 smtp better"),
        (slow, ssh, "keeps up"),
    ):
        story = Story()
        story.at(4, over, left)
        (draft,) = story.at(63, dataclasses.replace(over, closed=NOW + 60), left)
        assert expected in draft.text
        assert "well again" not in draft.text


@pytest.mark.parametrize(("key", "subject"), [("host:mx9", "mx9"), ("service:mx1/imap", "mx1 imap")])
def test_what_was_taken_off_the_inventory_is_not_well_again(key: str, subject: str) -> None:
    story, open_incident = Story(), incident(1, key)
    story.at(4, open_incident)
    (draft,) = story.at(63, dataclasses.replace(open_incident, closed=NOW + 60))
    assert f"OK: {subject} no longer watched" in draft.text


def test_the_page_gets_no_message() -> None:
    story = Story()
    open_incident = incident(1, "throttled:mx3", "page", alert=Alert(noticed=NOW, held_since=NOW))
    assert story.at(RULES.throttled_after - 1, open_incident) == []
    (draft,) = story.at(RULES.throttled_after, open_incident)
    assert draft.severity == "notice"


def test_urgent_is_notified_again_and_escalates_until_acknowledged() -> None:
    boss = {"name": "boss", "url": "json://x", "escalation": True}
    story = Story(samples.settings(channels=[boss]))
    open_incident = incident(1, "fleet", "urgent")
    assert [draft.kind for draft in story.at(1, open_incident)] == ["opened"]
    assert story.at(RULES.escalate_after, open_incident) == []
    (escalation,) = story.at(RULES.escalate_after + 2, open_incident)
    assert escalation.escalation
    assert "ESCALATION" in escalation.text
    (reminder,) = story.at(RULES.reminder + 2, open_incident)
    assert reminder.kind == "reminder"
    assert story.at(RULES.reminder * 5, dataclasses.replace(open_incident, acked=True)) == []


def boss_story() -> Story:
    return Story(samples.settings(channels=[{"name": "boss", "url": "json://x", "escalation": True}]))


def test_a_problem_no_longer_urgent_is_not_repeated_until_it_is_again() -> None:
    story, open_incident = boss_story(), incident(1, "check:control1/backup", "urgent")
    story.at(1, open_incident)
    calm = dataclasses.replace(open_incident, severity="page")  # maintenance, or a warning by now
    assert [story.at(after, calm) for after in (RULES.escalate_after + 9, RULES.reminder + 9)] == [[], []]
    again = RULES.reminder + 99
    assert [draft.kind for draft in story.at(again, open_incident)] == ["reminder"]
    assert [draft.kind for draft in story.at(again + RULES.escalate_after, open_incident)] == ["escalation"]


def test_escalation_channels_get_the_resolution() -> None:
    story, open_incident = boss_story(), incident(1, "fleet", "urgent")
    story.at(1, open_incident)
    story.at(RULES.escalate_after + 2, open_incident)
    over = story.at(9999, dataclasses.replace(open_incident, closed=NOW + 9990))
    assert [(draft.kind, draft.escalation) for draft in over] == [("closed", False), ("closed", True)]
    story = boss_story()
    story.at(1, open_incident)
    assert [draft.escalation for draft in story.at(99, dataclasses.replace(open_incident, closed=NOW + 90))] == [False]


def test_an_expired_acknowledgement_restarts_the_escalation_delay() -> None:
    story, open_incident = boss_story(), incident(1, "fleet", "urgent")
    story.at(1, open_incident)
    ended = RULES.escalate_after * 2
    assert story.at(ended - 1, dataclasses.replace(open_incident, acked=True)) == []
    lapsed = dataclasses.replace(open_incident, ack_ended=NOW + ended)
    assert story.at(ended + RULES.escalate_after - 1, lapsed) == []
    (escalation,) = story.at(ended + RULES.escalate_after, lapsed)
    assert "not acknowledged for 10 min" in escalation.text
    # and so it is with one that had been escalated before
    later = dataclasses.replace(open_incident, ack_ended=NOW + ended * 2)
    kinds = [[draft.kind for draft in story.at(ended * 2 + RULES.escalate_after + after, later)] for after in (-1, 0)]
    assert ["escalation" in draft_kinds for draft_kinds in kinds] == [False, True]


def test_that_it_can_see_again_is_not_that_all_is_well() -> None:
    unseen = incident(1, "unknown:fleet", host="")
    fleet = incident(2, "fleet", "urgent", alert=Alert(noticed=NOW + 60))
    story = Story()
    story.at(4, unseen)
    over = dataclasses.replace(unseen, closed=NOW + 60)
    assert [draft.kind for draft in story.at(64, over, fleet)] == ["opened"]
    story = Story()
    story.at(4, unseen)
    (draft,) = story.at(64, over)
    assert "probes again after 2 min: enough MX accept mail" in draft.text


def test_what_an_operator_has_acknowledged_before_escalates_no_more() -> None:
    boss = {"name": "boss", "url": "json://x", "escalation": True}
    story = Story(samples.settings(channels=[boss]))
    open_incident = incident(1, "fleet", "urgent")
    story.at(1, open_incident)
    assert story.at(RULES.escalate_after + 9, dataclasses.replace(open_incident, acked=True)) == []


def test_the_fleets_message_speaks_for_its_members() -> None:
    story = Story()
    member = incident(1, "service:mx2/smtp")
    fleet = incident(2, "fleet", "urgent", alert=Alert(noticed=NOW, about=("service:mx2/smtp",)))
    (draft,) = story.at(4, member, fleet)
    assert draft.incidents == (2,)
    (over,) = story.at(63, member, dataclasses.replace(fleet, closed=NOW + 60))
    assert "still wrong: mx2" in over.text
    (end,) = story.at(93, dataclasses.replace(member, closed=NOW + 90))
    assert "mx2 smtp well again" in end.text


def test_what_is_urgent_beneath_the_fleets_stays_so_and_is_not_notified_twice() -> None:
    story = Story()
    member = incident(1, "check:control1/canary", "urgent")
    fleet = incident(2, "fleet", "urgent", alert=Alert(noticed=NOW, about=("check:control1/canary",)))
    story.at(1, member, fleet)
    (over,) = story.at(63, member, dataclasses.replace(fleet, closed=NOW + 60))
    assert "still wrong: control1" in over.text
    assert story.at(64, member) == []
    (reminder,) = story.at(63 + RULES.reminder, member)
    assert reminder.kind == "reminder"


def test_what_an_acknowledged_or_silenced_fleet_does_not_speak_for_is_notified() -> None:
    fleet = incident(2, "fleet", "urgent", alert=Alert(noticed=NOW, about=("service:mx1/smtp", "service:mx2/smtp")))
    for silences, acked in (([silence("fleet")], False), ([], True)):
        story = Story()
        story.silences = silences
        fleet_incident = dataclasses.replace(fleet, acked=acked)
        (draft,) = story.at(4, incident(1, "service:mx1/smtp"), fleet_incident)
        assert draft.incidents == (1,)


def test_a_higher_severity_is_notified_though_the_lower_one_was_acknowledged() -> None:
    story = Story()
    assert story.at(4, incident(1, "check:control1/backup", "page", acked=True)) == []
    worse = incident(1, "check:control1/backup", "urgent", acked=True, alert=story.alerts[1])
    assert alerts.plan(RULES, [worse], [], NOW + 10).void == {1}
    (draft,) = story.at(10, worse)
    assert (draft.kind, draft.severity) == ("opened", "urgent")
    # who acknowledged what is urgent already isn't asked again, whatever it was called meanwhile
    for severity in ("page", "urgent"):
        notified = incident(1, "check:control1/backup", severity, acked=True, alert=story.alerts[1])
        assert alerts.plan(RULES, [notified], [], NOW + 20).void == set()
        assert story.at(20, notified) == []


def test_fewer_still_is_notified_anew_and_voids_the_acknowledgement() -> None:
    def at(level: int, acked: bool = False) -> Incident:
        alert = dataclasses.replace(story.alerts.get(3, Alert(noticed=NOW)), level=level)
        story.alerts[3] = alert
        return incident(3, "fleet", "urgent", title=f"{level} of 3 MX accept mail", acked=acked, alert=alert)

    story = Story()
    (first,) = story.at(4, at(1))
    assert "1 of 3" in first.text
    assert story.at(10, at(1, acked=True)) == []
    worse = at(0, acked=True)
    assert alerts.plan(RULES, [worse], [], NOW + 20).void == {3}
    assert story.at(20, worse) == []  # noticed just now
    (second,) = story.at(21, at(0))
    assert "0 of 3" in second.text
    assert [story.at(after, at(level)) for after, level in ((30, 1), (40, 0))] == [[], []]


def refused(*reports: dict[str, Any]) -> list[int]:
    """Numbers of the metrics of mx1's check-refused that are notified; from its health's JSON to messages."""
    story, current, messages = Story(), run(UP), ""
    for number, metrics in enumerate(reports):
        record = samples.health_record("mx1", "mx", NOW, status="CRITICAL")
        check = {"status": "CRITICAL", "summary": f"metrics {number};", "age_seconds": 1.0, "since": NOW}
        record["checks"]["refused"] = {**check, "overdue_seconds": 0.0, "metrics": metrics}
        parsed = hosthealth.parse(json.dumps(record).encode())
        for now in (NOW + 300 * number, NOW + 300 * number + 60, NOW + 300 * number + 120):
            reading = health.Reading("mx1", now - 1, now, parsed, "read")
            results = {result.subject: result for result in health.results(reading, (), {"refused"})}
            current = states.advance(current, results["mx1/check-refused"], RULES)
            view = problems.judge(RULES, subjects(**{"mx1_check-refused": current}), {}, (), now)
            for key, problem in view.problems.items():
                story.alerts[1] = fresh_alert(story.alerts.get(1, Alert(noticed=now)), problem)
                open_incident = incident(1, key, problem.severity, title=problem.title)
                for later in (0, alerts.GROUP + 1):
                    messages += "".join(draft.text for draft in story.at(now - NOW + later, open_incident))
    return [number for number in range(len(reports)) for _ in range(messages.count(f"CRITICAL: metrics {number};"))]


def counts(*backlogs: tuple[Any, Any]) -> list[dict[str, Any]]:
    return [{"waiting": waiting, "domains": domains} for waiting, domains in backlogs]


def test_more_that_a_customer_s_server_refuses_is_notified_anew() -> None:
    # at 1, 10, 100 and 1,000 messages, whatever lies between
    assert refused(*counts((1, 1), (9, 1), (10, 1), (99, 1), (100, 1), (999, 1), (1000, 1), (90000, 1))) == [0, 2, 4, 6]
    # at each new domain; both at once are one message
    assert refused(*counts((1, 1), (2, 2), (3, 3), (30, 4))) == [0, 1, 2, 3]
    # not when it stays, falls, or is again what it was
    assert refused(*counts((20, 2), (20, 2), (9, 2), (9, 1), (20, 2), (20, 3))) == [0, 5]
    # nor when the check can't read its notes in between
    assert refused(*counts((20, 2)), {}, *counts((20, 2), (100, 2))) == [0, 3]


def test_hostile_counts_of_check_refused_are_bounded() -> None:
    assert refused(*counts(("x", "y"), (True, [1]), (-1, -5), (1e300, -1e300), (-1e14, 0))) == [0]
    assert refused(*counts((1, 1), (1e14, 1e14), (9e14, 9e14))) == [0, 1]
    assert len(refused(*counts(*((number, number) for number in range(1, 60))))) == health.MAX_DOMAINS


def test_an_incident_that_was_notified_without_a_level_is_notified_anew() -> None:
    """As one from a release before."""
    story, open_incident = Story(), incident(1, "check:mx1/refused")
    assert len(story.at(4, open_incident)) == 1
    for after, level, messages in ((10, -2, 0), (20, -2, 0), (30, -3, 0), (34, -3, 1), (40, -3, 0)):
        story.alerts[1] = dataclasses.replace(story.alerts[1], level=level)
        assert len(story.at(after, open_incident)) == messages


def test_a_certificate_is_notified_at_each_of_its_days_once() -> None:
    """From results to messages, every half a day until it is renewed."""
    story = Story()
    notified = []
    for half in range(32, -3, -1):
        left, now = half / 2 * 86400, NOW - half / 2 * 86400
        warns = left < RULES.cert_warning_days * 86400
        reason, message = (states.EXPIRED if left <= 0 else ""), f"certificate expires in {half / 2:g} days"
        result = ProbeResult("mx2/smtp", now - 1, now, WARNING if warns else UP, message, reason, expires=NOW)
        current = states.advance(run(UP), result, RULES)
        view = problems.judge(RULES, subjects(mx2_smtp=current), {}, (), now)
        for problem in view.problems.values():
            alert = fresh_alert(story.alerts.get(1, Alert(noticed=now)), problem)
            story.alerts[1] = Alert.of(json.loads(json.dumps(alert.as_json())))  # a kill -9 in between
            open_incident = incident(1, problem.key, problem.severity, title=problem.title)
            for later in (0, alerts.GROUP + 1):
                notified += [(half / 2, draft.severity) for draft in story.at(now - NOW + later, open_incident)]
    assert notified == [(10.0, "notice"), (3.0, "notice"), (0.0, "notice")]


def test_silence_is_by_pattern() -> None:
    story = Story()
    story.silences = [silence("*:mx1*")]
    (draft,) = story.at(4, incident(1, "host:mx1"), incident(2, "host:mx10x"), incident(3, "host:mx2"))
    assert draft.incidents == (3,)


def test_flapping_is_said_once() -> None:
    story = Story()
    open_incident = incident(1, "service:mx1/smtp")
    story.at(4, open_incident)
    flaps = dataclasses.replace(open_incident, flapping=True, title="mx1 smtp is flapping")
    (draft,) = story.at(9, flaps)
    assert draft.kind == "flapping"
    assert [story.at(after, flaps) for after in (10, 500)] == [[], []]


def test_what_grows_worse_is_notified_anew() -> None:
    story = Story()
    open_incident = incident(1, "host:control1")
    story.at(4, open_incident)
    (draft,) = story.at(30, dataclasses.replace(open_incident, severity="urgent"))
    assert draft.severity == "urgent"


def test_offline_is_notified_afterwards() -> None:
    story = Story()
    open_incident = incident(1, "uplink")
    assert story.at(50, open_incident) == []
    (draft,) = story.at(63, dataclasses.replace(open_incident, closed=NOW + 60))
    assert "monitor1 was offline for" in draft.text
