"""Real mail from `world` through the MXs to the customer, and its account."""

from __future__ import annotations

import secrets
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from typing import Any

from mflab import hosts, quarantine, ui, world
from mflab.podman import Podman
from mflab.reconcile import Account, parse_lines, pending, unquarantined
from mflab.spec import GROUPS, Host, Lab, LabError

POLL = 0.5  # s between two looks at the customer's record
QUIET = 10.0  # s that queues may still hold other mail once all of this run has arrived
# Counts what Exim has queued, whatever its configuration; 0 where there is no Exim.
QUEUED = "find /var/spool/exim4/input -name '*-H' 2>/dev/null | wc -l"


@dataclass
class Run:
    """One run of mail: its order and its outcome."""

    id: str
    mxs: list[Host]
    stopped: list[Host]
    ends: list[dict[str, Any]] = field(default_factory=list)
    seconds: float = 0.0  # sending
    waited: float = 0.0  # for deliveries, afterwards
    queued: int = 0  # messages of any kind still in the MXs' queues at the end
    kept: list[str] | None = None  # what the quarantine has of it, one id for each copy; None without a quarantine
    missing: list[str] = field(default_factory=list)  # rows of its index without a file
    fetched: float = 0.0  # until the quarantine had it all, after the deliveries


def new_id() -> str:
    """Return an id for a run that no other run has."""
    return f"{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}-{secrets.token_hex(3)}"


class Mailer:
    """Sends `count` messages through the MXs of `lab` and awaits their delivery."""

    def __init__(
        self, podman: Podman, lab: Lab, stop: Sequence[str] = (), kill: bool = False, show: bool = True
    ) -> None:
        self.podman = podman
        self.lab = lab
        self.kill = kill
        self.show = show
        containers = hosts.listed(podman, lab)
        running = [name for name, entry in containers.items() if entry.get("State") == "running"]
        mxs = [lab.host(name) for name in GROUPS["mx"] if lab.host(name).container in running]
        absent = [name for name in stop if name not in [host.name for host in mxs]]
        if lab.host("world").container not in running or not mxs:
            raise LabError(f"lab {lab.number} isn't up: run `lab.py --lab {lab.number} up` first")
        if absent:
            raise LabError(f"{', '.join(absent)} isn't a running MX, so it can't be stopped half way")
        self.run = Run(new_id(), mxs, [lab.host(name) for name in stop])
        self.container = lab.host("world").container
        self.unit = f"mf-send-{self.run.id}.service"

    def command(self, count: int, spam: float, strangers: float, deadline: float) -> list[str]:
        """Return the podman command of the sender: a unit of its own in `world`, so that it can be stopped."""
        program = [
            "/usr/bin/python3",
            "/opt/world/send.py",
            "--run",
            self.run.id,
            "--count",
            str(count),
            "--spam",
            str(spam),
            "--strangers",
            str(strangers),
            "--deadline",
            str(deadline),
        ]
        for host in self.run.mxs:
            program += ["--mx", f"{host.name}={host.address}"]
        return self.podman.command(
            "exec",
            self.container,
            "systemd-run",
            "--quiet",
            "--pipe",
            "--wait",
            "--collect",
            f"--unit={self.unit}",
            *program,
        )

    def send(self, count: int, spam: float, strangers: float, deadline: float) -> None:
        """Send the messages; stop the MXs that are to be stopped half way, and start them again afterwards."""
        started = time.monotonic()
        stopping: Future[None] | None = None
        with (
            ThreadPoolExecutor(1) as pool,
            subprocess.Popen(
                self.command(count, spam, strangers, deadline),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                env=self.podman.machine.env,
                start_new_session=True,
            ) as process,
        ):
            assert process.stdout is not None
            assert process.stderr is not None
            try:
                for line in process.stdout:
                    self.run.ends += parse_lines(line)
                    self.progress(count)
                    if self.run.stopped and stopping is None and len(self.run.ends) * 2 >= count:
                        stopping = pool.submit(self.stop)
                errors = process.stderr.read().strip()
            except BaseException:
                self.podman.run("exec", self.container, "systemctl", "stop", self.unit, check=False)
                process.kill()
                raise
            finally:
                if stopping is not None:
                    stopping.exception()  # waits for it; its error, if any, shows below
                    self.restart()
        if stopping is not None:
            stopping.result()
        if len(self.run.ends) != count:
            raise LabError(f"the sender ended early: {errors.splitlines()[-1] if errors else 'no reason given'}")
        self.run.seconds = time.monotonic() - started

    def stop(self) -> None:
        """Stop the MXs that are to be stopped."""
        for host in self.run.stopped:
            self.podman.run(*(("kill",) if self.kill else ("stop", "--time", "20")), host.container)

    def restart(self) -> None:
        """Start them again."""
        for host in self.run.stopped:
            self.podman.run("start", host.container)

    def progress(self, count: int, verb: str = "sent") -> None:
        """Show on a terminal how far it is."""
        if self.show and sys.stdout.isatty():
            print(f"\rmail         {len(self.run.ends)} of {count} {verb}\033[K", end="", flush=True)

    def queued(self) -> int:
        """Return how many messages the MXs' queues hold."""
        total = 0
        for host in self.run.mxs:
            code, out = self.podman.run("exec", host.container, "sh", "-c", QUEUED, check=False)
            total += int(out) if code == 0 and out.strip().isdigit() else 0
        return total

    def wait(self, limit: float) -> list[dict[str, Any]]:
        """Wait until what was accepted has arrived and the queues are empty, at most `limit` seconds.

        Returns the customer's record of this run.
        """
        started = time.monotonic()
        complete: float | None = None
        while True:
            record = parse_lines(world.recorded(self.podman, self.lab, self.run.id))
            now = time.monotonic()
            missing = pending(self.run.ends, record)
            if missing:
                self.progress(len(self.run.ends), f"sent, {missing} on their way")
            else:
                complete = complete or now
                self.run.queued = self.queued()
            if (complete and (not self.run.queued or now - complete > QUIET)) or now - started > limit:
                # Looked at once more: a second copy may have arrived between the two looks.
                self.run.waited = time.monotonic() - started
                return parse_lines(world.recorded(self.podman, self.lab, self.run.id))
            time.sleep(POLL)

    def wait_for_quarantine(self, limit: float) -> None:
        """Wait until the quarantine has all that was refused after DATA, at most `limit` seconds; note what it has."""
        if not quarantine.deployed(self.podman, self.lab):
            return
        started = time.monotonic()
        while True:
            kept = quarantine.kept_or_none(self.podman, self.lab, self.run.id)
            ids = kept.ids if kept else []
            missing = unquarantined(self.run.ends, ids)
            self.run.fetched = time.monotonic() - started
            if not missing or self.run.fetched > limit:
                break
            self.progress(len(self.run.ends), f"sent, {missing} on their way to the quarantine")
            quarantine.pull(self.podman, self.lab)
            time.sleep(POLL)
        self.run.kept, self.run.missing = ids, kept.missing if kept else []


def report(run: Run, account: Account) -> dict[str, Any]:
    """Return everything about `run` as one JSON object."""
    return {
        "run": run.id,
        "mxs": [host.name for host in run.mxs],
        "stopped": [host.name for host in run.stopped],
        "seconds": round(run.seconds, 2),
        "waited": round(run.waited, 2),
        "queued": run.queued,
        "fetched": round(run.fetched, 2),
        "missing": run.missing,
        **asdict(account),
        "faults": account.faults(),
    }


def _quarantined(run: Run, account: Account) -> list[tuple[str, int, str]]:
    """The quarantine's row of the table; none without a quarantine."""
    if account.quarantined is None:
        return []
    copies = len(run.kept or ()) - account.quarantined
    remarks = [f"of those, {run.fetched:.0f} s later"]
    remarks += [f"{len(account.unkept)} missing"] if account.unkept else []
    remarks += [f"{copies} copies more: their refusal was lost on the way, and they came again"] if copies else []
    return [("quarantined", account.quarantined, ", ".join(remarks))]


def show(run: Run, account: Account) -> str:
    """Return the table for a terminal."""
    by_stage = ", ".join(f"{stage} {count}" for stage, count in account.refused.items())
    by_mx = ", ".join(f"{name} {count}" for name, count in account.by_mx.items())
    delays = f"median {account.delays['median']} s, 95 % within {account.delays['p95']} s" if account.delays else ""
    lost_replies = f"replies to the final dot lost: {account.unknown}" if account.unknown else ""
    rows = [
        ("sent", account.sent, f"in {run.seconds:.1f} s ({account.sent / max(run.seconds, 0.001):.0f} a second)"),
        ("delivered", account.delivered, delays),
        ("refused", account.refused_total, f"by a 5xx after {by_stage}" if by_stage else ""),
        *_quarantined(run, account),
        ("lost", len(account.lost), ""),
        ("doubled", len(account.doubled), lost_replies),
        ("retried", account.retried, f"mostly {ui.clean(next(iter(account.deferred)))}" if account.deferred else ""),
    ]
    if account.undecided:
        rows.append(("undecided", len(account.undecided), "never accepted nor refused"))
    if run.queued:
        rows.append(("queued", run.queued, "still in the MXs' queues"))
    text = ui.table(("mail", "messages", ""), rows, right=(1,))
    return f"{text}\naccepted by: {by_mx or 'none'}" + (
        f"; {', '.join(host.name for host in run.stopped)} stopped half way" if run.stopped else ""
    )
