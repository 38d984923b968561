"""Rename what a monitor of a former release has stored.

Checks had no subjects of their own, except urgent checks (``HOST/NAME``); the worst of the rest was in ``HOST/health``.
Without this an upgrade would notify that all of it is well, and then notify it anew.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import replace

from ..judging.health import check_subject
from ..judging.states import DOWN, WARNING, SubjectState
from ..settings import Host, Settings
from . import Store

_CHECK = re.compile(r"([\w-]{1,40}) (?:CRITICAL|WARNING): (.*)", re.DOTALL)


def adopt(store: Store, settings: Settings) -> None:
    """Rename subjects and incidents, inside a transaction. Those with their new name stay."""
    rows = store.current.load()
    services = {service.subject for host in settings.hosts for service in host.services}
    for host in settings.hosts:
        for name in settings.urgent_checks:
            former = f"{host.name}/{name}"
            if former in rows and former not in services:
                _move(store, rows, host, name, former, SubjectState.of(rows[former].memory))
        former = f"{host.name}/health"
        if former not in rows:
            continue
        current = SubjectState.of(rows[former].memory)
        match = _CHECK.fullmatch(current.message)
        if match and current.state in (DOWN, WARNING) and not current.reason:
            name = match[1]
            if _move(store, rows, host, name, former, replace(current, message=match[2])):
                store.incidents.rename(f"health:{host.name}", f"check:{host.name}/{name}", "check", name)


def _move(store: Store, rows: Collection[str], host: Host, name: str, former: str, current: SubjectState) -> bool:
    subject = check_subject(host.name, name)
    if subject in rows:
        return False
    store.current.set(
        [(subject, current.state, current.since, current.checked, current.latency, current.message, current.as_json())]
    )
    store.current.forget([former])
    return True
