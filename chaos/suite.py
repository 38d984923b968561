"""One run over a list of faults: injected, judged, put right again, each host beside the others."""

from __future__ import annotations

import subprocess
import threading
import time
from collections import deque
from collections.abc import Generator, Sequence
from dataclasses import replace

from mflab import ui
from mflab.spec import LabError

from chaos.scene import CONTROL, MXS, Deviation, Fault, Host, Outcome, Scene

WELL_LIMIT = 90.0  # s a host may take to be well again after its fault was taken away

# What an operator finds after a quiet hour: no restarts counted, no lease, nothing left of the fault before.
CLEAN = """\
rm -f /mf/var/state/breaker.json /run/mf/state/breaker.fallback
systemctl is-active --quiet cron.service || systemctl start cron.service
/mf/bin/throttle status > /dev/null
"""
WELL = """\
systemctl is-active --quiet qpsmtpd.service && systemctl is-active --quiet mf-exim.service &&
/mf/bin/throttle status >/dev/null && [ ! -e /run/mf/maintenance ]
"""
MEND = """\
for owner in operator chaos deploy; do /mf/bin/throttle off --owner $owner; done
/mf/bin/maintenance off
systemctl reset-failed; systemctl restart mf-exim.service qpsmtpd.service
"""
MEND_BACKUPS = "for job in dump full verify; do /mf/bin/backup run $job; done"


class Suite:
    """One run over a list of faults."""

    def __init__(self, fleet: dict[str, Host], quiet: bool) -> None:
        self.fleet = fleet
        self.quiet = quiet
        self.stop = threading.Event()
        self.outcomes: list[Outcome] = []
        self.errors: list[BaseException] = []
        self.lanes: list[threading.Event] = []
        self.guard = threading.Lock()
        self.shared: deque[Fault] = deque()
        self.sound: set[str] = set()  # hosts that were well when their last fault was over

    def run(self, faults: Sequence[Fault]) -> None:
        """All faults: each host's own beside each other, then those that need the fleet."""
        self.shared.extend(sorted((fault for fault in faults if fault.lane == "any"), key=lambda fault: -fault.seconds))
        for name in (*MXS, CONTROL):
            self.begin([fault for fault in faults if fault.lane == name], name)
        self.wait()
        self.begin([fault for fault in faults if fault.lane == "fleet"])
        self.wait()
        if self.errors:
            raise self.errors[0]

    def begin(self, faults: Sequence[Fault], name: str = "") -> None:
        """Start a lane in a thread of its own."""
        over = threading.Event()
        self.lanes.append(over)

        def walk() -> None:
            try:
                self.lane(faults, name)
            finally:
                over.set()

        threading.Thread(target=walk).start()

    def wait(self) -> None:
        """Wait for all lanes. (Not by Thread.join: an interrupted one takes its thread for ended.)"""
        for over in self.lanes:
            while not over.wait(0.5):
                pass

    def lane(self, faults: Sequence[Fault], name: str = "") -> None:
        """Run the faults of the host `name`, one group after the other; then those that any host will do for."""
        done: set[str] = set()
        try:
            for fault in faults:
                if self.stop.is_set():
                    return
                if fault.together in done:
                    continue
                group = [other for other in faults if other.together == fault.together] if fault.together else [fault]
                done |= {fault.together} - {""}
                self.group(group)
            while name in MXS and not self.stop.is_set():
                with self.guard:
                    if not self.shared:
                        return
                    fault = self.shared.popleft()
                self.group([replace(fault, host=name)])
        except BaseException as error:  # noqa: BLE001  (the main thread raises it)
            self.errors.append(error)
            self.stop.set()

    def group(self, faults: Sequence[Fault]) -> None:
        """Inject these faults, then judge each, then restore all and see that the hosts are well."""
        outcomes = [Outcome(fault.system, fault.name, fault.expected) for fault in faults]
        hosts = {*MXS} if any(fault.lane == "fleet" for fault in faults) else {fault.host for fault in faults}
        scenes: list[Scene] = []
        stories: list[Generator[None, None, str] | None] = []
        try:
            ready = self.prepare(hosts)
            for fault, outcome in zip(faults, outcomes, strict=True):
                scenes.append(Scene(self.fleet, fault.host, self.stop))
                outcome.began = time.time()
                outcome.happened = ready
                stories.append(None if ready else self.inject(fault, scenes[-1], outcome))
            for scene_, story, outcome in zip(scenes, stories, outcomes, strict=True):
                if story is not None:
                    self.judge(scene_, story, outcome)
                outcome.ended = time.time()
        finally:
            for scene_ in reversed(scenes):
                scene_.stack.close()
        trouble = self.recover(hosts)
        if not trouble:
            self.sound |= hosts
        for outcome in outcomes:
            if trouble and outcome.ok:
                outcome.ok, outcome.happened = False, f"{outcome.happened}; afterwards: {trouble}"
            self.report(outcome)

    def inject(self, fault: Fault, scene_: Scene, outcome: Outcome) -> Generator[None, None, str] | None:
        """Break it; None when that alone failed."""
        story = fault.story(scene_)
        try:
            next(story)
        except (Deviation, LabError, ValueError, subprocess.SubprocessError) as error:
            outcome.happened = f"not injected: {error}"
            return None
        return story

    def judge(self, scene_: Scene, story: Generator[None, None, str], outcome: Outcome) -> None:
        """Await what is expected."""
        try:
            next(story)
        except StopIteration as end:
            outcome.ok, outcome.happened = True, str(end.value)
        except Deviation as error:
            outcome.happened = str(error)
        except (LabError, ValueError, KeyError, subprocess.SubprocessError) as error:
            outcome.happened = f"{type(error).__name__}: {error}"
        outcome.heal = scene_.heal

    def prepare(self, hosts: set[str]) -> str:
        """Forget former restarts; return the problem of a host before anything is broken, or nothing."""
        for name in sorted(hosts):
            self.fleet[name].ask(CLEAN)
        trouble = self.recover(hosts - self.sound)
        self.sound -= hosts
        return trouble

    def recover(self, hosts: set[str]) -> str:
        """Wait until the hosts are well by themselves; otherwise mend them and report that."""
        unwell = []
        for name in sorted(hosts):
            host = self.fleet[name]
            give_up = time.monotonic() + WELL_LIMIT
            while not self.well(host):
                if time.monotonic() > give_up or self.stop.is_set():
                    host.ask(MEND_BACKUPS if name == CONTROL else MEND, limit=300)
                    unwell.append(name)
                    break
                time.sleep(1)
        return f"{', '.join(unwell)} had to be mended by hand" if unwell else ""

    @staticmethod
    def well(host: Host) -> bool:
        """Whether services run, no lease is in force and the SMTP check is OK."""
        if host.name == CONTROL:
            return host.ask("/mf/bin/throttle status")[0] == 0 and host.check("backup").get("status") == "OK"
        return host.ask(WELL)[0] == 0 and host.check("smtp").get("status") == "OK"

    def report(self, outcome: Outcome) -> None:
        """Print one line as soon as a fault is over."""
        with self.guard:
            self.outcomes.append(outcome)
            if not self.quiet:
                mark = "ok       " if outcome.ok else "DEVIATION"
                took = f"{outcome.ended - outcome.began:3.0f} s"
                print(f"{mark} {took} {outcome.system}: {outcome.name}: {ui.clean(outcome.happened)}", flush=True)
