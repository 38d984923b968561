"""What became of a fault's mail, added up over its runs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from mflab.mail import Run
from mflab.reconcile import reconcile


@dataclass(kw_only=True)
class Tally:
    """Messages by where they ended, and what is wrong with them."""

    ok: bool = False
    sent: int = 0
    delivered: int = 0
    quarantined: int = 0
    refused_early: int = 0
    faults: list[str] = field(default_factory=list)

    def add(self, run: Run, record: Iterable[Mapping[str, Any]]) -> None:
        """Add a run's messages once both ends are complete; `record` is the customer's."""
        account = reconcile(run.ends, record, kept=run.kept)
        self.sent += account.sent
        self.delivered += account.delivered
        self.quarantined += account.quarantined or 0
        self.refused_early += account.refused_early
        self.faults += account.faults()
        if run.missing:
            self.faults.append(f"{len(run.missing)} rows without a file")
