"""States of subjects and incidents for tests: a small fleet, all well but for what is given."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mf_monitor.judging import problems, states
from mf_monitor.judging.states import DOWN, REFUSED, SILENT, UP, ProbeResult, SubjectState
from mf_monitor.notifying.alerts import Alert, Incident

from tests.monitor import samples

RULES = samples.settings()


NOW = 1_790_000_000.0


def run(*outcomes: str, every: float = 10.0, reason: str = "", current: SubjectState | None = None) -> SubjectState:
    """The state after these results, ``every`` seconds apart."""
    current = current or SubjectState()
    for number, state in enumerate(outcomes):
        at = max(NOW, current.checked) + (every if current.checked or number else 0.0)
        current = states.advance(current, ProbeResult("mx1/smtp", at - 1, at, state, state, reason), RULES)
    return current


def subjects(**special: SubjectState) -> dict[str, SubjectState]:
    """All well, but for these (``mx1_smtp=…``)."""
    good = run(UP)
    current = {service.subject: good for host in RULES.hosts for service in host.services}
    current |= {f"{host.name}/health": good for host in RULES.hosts if host.health}
    return current | {"uplink": good} | {name.replace("_", "/"): state for name, state in special.items()}


def bad(reason: str = REFUSED, state: str = DOWN) -> SubjectState:
    return run(UP, *[state] * 3, reason=reason)


def keys(
    current: dict[str, SubjectState], open_: Sequence[str] = (), **maintenance: problems.Maintenance
) -> dict[str, str]:
    view = problems.judge(RULES, current, maintenance, open_, NOW + 100)
    return {key: problem.severity for key, problem in view.problems.items()}


def silent(host: str) -> dict[str, SubjectState]:
    down = bad(SILENT)
    return {f"{host}/{name}": down for name in ("smtp", "smtp6", "ssh", "ssh6", "relay", "relay6")}


def incident(number: int, key: str, severity: str = "notice", **changed: Any) -> Incident:
    kind = key.partition(":")[0]
    host = key.partition(":")[2].partition("/")[0]
    given_: dict[str, Any] = {
        "number": number,
        "key": key,
        "kind": kind,
        "host": host,
        "severity": severity,
        "title": f"{host} is broken",
        "opened": NOW - 60,
        "closed": None,
        "acked": False,
        "flapping": False,
        "alert": Alert(noticed=NOW),
    }
    return Incident(**{**given_, **changed})
