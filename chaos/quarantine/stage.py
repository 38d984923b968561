"""The lab and its mail, for the faults on the way to the quarantine."""

from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack

from mflab import hosts, mail, quarantine
from mflab.podman import Podman
from mflab.spec import Lab, LabError

from chaos.quarantine.programs import CALM, CRON, PUT
from chaos.scene import Deviation, Host

SPAM, STRANGERS = 0.6, 0.05
SENDING = 900.0  # s a message may be tried
SETTLING = 900.0  # s until everything must have arrived, once nothing is broken any more


class Stage:
    """The lab, and one run of mail through it."""

    def __init__(self, podman: Podman, lab: Lab, count: int, down: float, crowd: int) -> None:
        self.podman = podman
        self.lab = lab
        self.count = count
        self.crowd = crowd
        self.down = down
        up = [name for name, entry in hosts.listed(podman, lab).items() if entry.get("State") == "running"]
        self.mxs = [name for name in ("mx1", "mx2", "mx3") if lab.host(name).container in up]
        if not self.mxs or not {lab.host(name).container for name in ("control1", "world")} <= set(up):
            raise LabError(f"lab {lab.number} has no MX, control1 and world; run: make demo MF_LAB={lab.number}")
        self.control = Host(podman, lab.host("control1"))
        before = self.control.check("quarantine")
        if before.get("status") != "OK":
            raise LabError(f"control1 isn't well before anything is broken; mend that first: {before.get('summary')}")
        self.world = Host(podman, lab.host("world"))
        self.choice = random.Random()
        self.stack = ExitStack()

    def host(self, name: str) -> Host:
        """A host of the lab."""
        return Host(self.podman, self.lab.host(name))

    def undo(self, host: Host, script: str) -> None:
        """Run this at the end, whatever happens; it may have been run already."""
        self.stack.callback(lambda: host.ask(script))

    def send(self, most: int = 1_000_000, least: int = 0) -> mail.Mailer:
        """Send the mail of one run, so many messages at most and at least; returns when each is accepted or refused."""
        mailer = mail.Mailer(self.podman, self.lab, show=False)
        mailer.send(max(least, min(self.count, most)), SPAM, STRANGERS, SENDING)
        return mailer

    def sending(self) -> Sending:
        """Send as `send` does, in the background."""
        return Sending(self)

    def pulling(self) -> threading.Thread:
        """A pull as cron starts it, in the background."""
        thread = threading.Thread(target=quarantine.pull, args=(self.podman, self.lab), daemon=True)
        thread.start()
        return thread

    def unpulled(self, mx: str) -> int:
        """How many messages of that MX control has listed and not imported."""
        record = json.loads(self.control.run(f"cat /mf/var/quarantine/state/{mx}.json"))
        return int(record["unpulled"])

    def sweep(self, *mxs: str) -> None:
        """Pull all days that some MXs have, now, after what is under way."""
        which = " ".join(f"--mx {mx}" for mx in mxs)
        self.control.ask(f"{CALM} /mf/bin/quarantine pull --sweep {which}; {CRON}", limit=300)

    def sql(self, query: str) -> list[str]:
        """The rows of a query of the index, as MariaDB's own client prints them."""
        return self.control.run('mariadb --batch --skip-column-names mf_quarantine -e "$1"', query).splitlines()

    def put(self, mx: str, domain: str, body: bytes, *, ago: float = 0, count: int = 1, cut: str = "0") -> str:
        """Leave files on an MX as if it had rejected messages; returns the first one's id."""
        host = self.host(mx)
        self.undo(host, f"rm -rf /mf/var/rejected/*/'{domain}'")
        return host.python(PUT, domain, str(ago), str(count), body.hex(), "new", cut, limit=300).strip()

    def load(self) -> float:
        """Control's load average of the last minute."""
        return float(self.control.run("cat /proc/loadavg").split()[0])

    def pace(self) -> float:
        """Seconds between two imported messages on control while it is throttled, as it is configured."""
        return float(json.loads(self.control.run("cat /mf/etc/mf.json"))["quarantine"]["import_throttle_sleep"])

    def rows(self, run: str) -> int:
        """How many messages of a run the quarantine has; 0 while it can't be asked."""
        kept = quarantine.kept_or_none(self.podman, self.lab, run)
        return len(kept.ids) if kept else 0

    def until(
        self,
        event: str,
        condition: Callable[[], bool],
        limit: float,
        every: float = 1.0,
        instead: Callable[[], str] = lambda: "",
    ) -> float:
        """Wait for a condition; return the seconds taken. ``instead`` describes the state when it doesn't come."""
        started = time.monotonic()
        while not condition():
            if time.monotonic() - started > limit:
                detail = instead()
                raise Deviation(f"not within {limit:.0f} s: {event}{f' ({detail})' if detail else ''}")
            time.sleep(every)
        return time.monotonic() - started


class Sending:
    """Mail on its way in a thread of its own."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._mailer: mail.Mailer | None = None
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def _work(self) -> None:
        try:
            self._mailer = self._stage.send()
        except BaseException as error:  # noqa: BLE001  (raised by `join`)
            self._error = error

    def busy(self) -> bool:
        """Whether messages are still being sent."""
        return self._thread.is_alive()

    def join(self) -> mail.Mailer:
        """Wait until all are decided."""
        self._thread.join(SENDING + 60)
        if self._error is not None:
            raise self._error
        if self._mailer is None:
            raise Deviation("sending didn't come to its end")
        return self._mailer
