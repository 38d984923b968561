"""Mail that goes on while things are broken, accounted for at the end: no message may be lost."""

from __future__ import annotations

import threading
import time
from typing import Any

from mflab import mail, world
from mflab.podman import Podman
from mflab.reconcile import Account, parse_lines, pending, reconcile
from mflab.spec import Lab, LabError

BATCH = 6  # messages at a time
PAUSE = 8.0  # s between two batches
PATIENCE = 600.0  # s a message may be tried
SPAM = 0.17


class Trickle:
    """Sends a small batch every few seconds until it is stopped."""

    def __init__(self, podman: Podman, lab: Lab) -> None:
        self.podman = podman
        self.lab = lab
        self.runs: list[mail.Run] = []
        self.trouble: list[str] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def _work(self) -> None:
        while not self._stop.is_set():
            try:
                mailer = mail.Mailer(self.podman, self.lab, show=False)
                mailer.run.mxs = [self.lab.host(name) for name in ("mx1", "mx2", "mx3")]
                self.runs.append(mailer.run)
                mailer.send(BATCH, SPAM, 0.0, PATIENCE)
            except LabError as error:
                if not self._stop.is_set():
                    self.trouble.append(str(error))
            self._stop.wait(PAUSE)

    def abandon(self) -> None:
        """Stop sending at once; messages under way are not accounted for."""
        self._stop.set()
        self.podman.run("exec", self.lab.host("world").container, "systemctl", "stop", "mf-send-*", check=False)
        self._thread.join(20)

    def finish(self, limit: float) -> Account:
        """Stop sending, wait until accepted messages have arrived (at most `limit` seconds), and account for all."""
        self._stop.set()
        self._thread.join(PATIENCE)
        give_up = time.monotonic() + limit
        while True:
            ends, record = self.ends(), self.record()
            if not pending(ends, record) or time.monotonic() > give_up:
                return reconcile(ends, record, stopped=True)
            time.sleep(2)

    def ends(self) -> list[dict[str, Any]]:
        """The outcome of each message in the sender's record."""
        return [end for run in list(self.runs) for end in list(run.ends)]

    def record(self) -> list[dict[str, Any]]:
        """The customer's record of this mail."""
        records = []
        for run in self.runs:
            records += parse_lines(world.recorded(self.podman, self.lab, run.id))
        return records
