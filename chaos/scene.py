"""What a fault is made of: hosts, what is expected, a stage to break things on and to put them right again.

A fault is a generator function under ``@fault(...)``. Before its ``yield`` it injects, after it awaits and judges. What
has to be put right is pushed with ``scene.undo`` as soon as it is broken, so that a deviation, an error or Ctrl-C
restores the host as well. Faults of the same ``together`` are injected one after the other and then judged: they share
the minutes it takes until a process counts as stuck.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Generator
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from mflab import load
from mflab.podman import Podman, PodmanError
from mflab.spec import Host as LabHost
from mflab.spec import Lab

from chaos.sessions import Sessions

MXS = ("mx1", "mx2", "mx3")
CONTROL = "control1"
OFFSITE = "offsite1"
OWN_CHECKS = ("load", "processes", "smtp", "queue")
# A check that finds its lock taken leaves at once: its result would be of before.
AFTER_CRON = 'for name; do flock -w 60 "/run/mf/lock/$name.lock" true; done;'

# $1 address, $2 port: prints what a sender on the internet would see
SEE = """
import socket, sys
try:
    with socket.create_connection((sys.argv[1], int(sys.argv[2])), 4) as line:
        line.settimeout(6)
        print(line.recv(100)[:3].decode("ascii", "replace") or "closed")
except ConnectionRefusedError:
    print("refused")
except OSError as error:
    print(type(error).__name__)
"""


class Deviation(Exception):
    """The outcome isn't the expected one; the message describes it."""


class Host:
    """One container of the lab, as a fault sees it."""

    def __init__(self, podman: Podman, place: LabHost) -> None:
        self.podman = podman
        self.place = place
        self.name = place.name
        self.address = place.address

    def run(self, script: str, *arguments: str, text: str = "", limit: float = 90.0) -> str:
        """Run a shell script (``$1`` … are `arguments`) and return its stdout. PodmanError when it fails."""
        command = ("exec", "-i", self.place.container, "sh", "-euc", script, "sh", *arguments)
        return self.podman.run(*command, text=text, limit=limit)[1]

    def ask(self, script: str, *arguments: str, limit: float = 90.0) -> tuple[int, str]:
        """Run a shell script; return exit status and stdout, whatever they are."""
        return self.podman.run(
            "exec", self.place.container, "sh", "-c", script, "sh", *arguments, check=False, limit=limit
        )

    def python(self, program: str, *arguments: str, limit: float = 90.0) -> str:
        """Run a Python program on the host and return its stdout."""
        return self.podman.run(
            "exec", self.place.container, "/usr/bin/python3", "-c", program, *arguments, limit=limit
        )[1]

    def checks(self) -> None:
        """Run all checks now as cron would, whatever their status; first wait for an earlier run of cron's."""
        self.ask(f"{AFTER_CRON} exec /mf/bin/run-checks --all", *OWN_CHECKS, limit=210)

    def check(self, name: str) -> dict[str, Any]:
        """Run one check, after one of cron's, and return its result; the stored one when another run is in the way."""
        _, out = self.ask(f"{AFTER_CRON} /mf/bin/check-{name} --json 2>/dev/null || :", name, limit=180)
        try:
            answer = json.loads(out)
        except ValueError:
            return self.result(name)
        return answer if isinstance(answer, dict) else {}

    def result(self, name: str) -> dict[str, Any]:
        """The stored result of a check; empty when there is none."""
        try:
            answer = json.loads(self.ask(f"cat /run/mf/state/{name}.json")[1])
        except ValueError:
            return {}
        return answer if isinstance(answer, dict) else {}

    def master(self) -> int:
        """The pid of qpsmtpd's master, 0 for none."""
        return int(self.run("systemctl show --value --property MainPID qpsmtpd.service").strip() or 0)

    def children(self) -> list[int]:
        """Pids of the master's children, zombies left out."""
        out = self.ask(f"ps -o pid=,stat= --ppid {self.master() or 999999}")[1]
        return [int(line.split()[0]) for line in out.splitlines() if "Z" not in line.split()[1]]

    def alive(self, pid: int) -> bool:
        """Whether a process exists and is no zombie."""
        code, out = self.ask(f"ps -o stat= -p {pid}")
        return code == 0 and "Z" not in out

    def decisions(self) -> list[dict[str, Any]]:
        """Everything in the decision log."""
        out = self.ask("cat /mf/var/log/decisions.jsonl 2>/dev/null")[1]
        return [json.loads(line) for line in out.splitlines() if line.strip()]

    def refused_ports(self) -> bool:
        """Whether the kernel refuses new connections by our table."""
        return "elements" in self.ask("/usr/sbin/nft list set inet mf refused_ports 2>/dev/null")[1]

    def status(self) -> dict[str, Any]:
        """``throttle status --json``."""
        answer = json.loads(self.ask("/mf/bin/throttle status --json")[1])
        return answer if isinstance(answer, dict) else {}

    def load(self, value: float | None) -> None:
        """Fake the host's load average."""
        load.fake(self.podman, self.place, value)


@dataclass
class Outcome:
    """One row of the table. ``heal``: seconds from the injection until all was well again; None where nothing heals."""

    system: str
    name: str
    expected: str
    happened: str = ""
    ok: bool = False
    heal: float | None = None
    began: float = 0.0
    ended: float = 0.0
    lost: int = 0


class Scene:
    """The stage of one fault."""

    minutes = 1.0  # that a fault goes on which is about endurance; --minutes

    def __init__(self, fleet: dict[str, Host], host: str, stop: threading.Event) -> None:
        self.fleet = fleet
        self.host = fleet[host]
        self.world = fleet["world"]
        self.stop = stop
        self.stack = ExitStack()
        self.broken_at = 0.0
        self.heal: float | None = None
        self.decisions_before = len(self.host.decisions())

    def undo(self, script: str, host: Host | None = None) -> None:
        """Run this shell script on the host at the end; it may fail, for instance when it was run already."""
        where = host or self.host

        def restore() -> None:
            try:
                where.ask(script)
            except PodmanError:
                pass

        self.stack.callback(restore)

    def later(self, function: Callable[[], object]) -> None:
        """Call this at the end."""
        self.stack.callback(function)

    def sessions(self, on: Host | None = None) -> Sessions:
        """SMTP clients on `on`, by default on the machine outside the fleet."""
        opened = Sessions((on or self.world).podman, (on or self.world).place.container)
        self.stack.callback(opened.close)
        return opened

    def broken(self) -> None:
        """Now it is broken: the time to heal begins."""
        self.broken_at = time.monotonic()

    def healed(self) -> None:
        """Now it is well again."""
        self.heal = time.monotonic() - self.broken_at

    def sees(self, host: Host | None = None) -> str:
        """The answer to a sender outside: "220", another code, "refused", "closed", "TimeoutError"."""
        return self.world.python(SEE, (host or self.host).address, "25").strip()

    def until(
        self,
        event: str,
        condition: Callable[[], bool],
        limit: float,
        hurry: Callable[[], object] | None = None,
        every: float = 1.0,
    ) -> float:
        """Wait until `condition`, at most `limit` seconds; `hurry` runs before each look. Returns the seconds taken."""
        started = time.monotonic()
        while True:
            if self.stop.is_set():
                raise KeyboardInterrupt
            if hurry is not None:
                hurry()
            if condition():
                return time.monotonic() - started
            if time.monotonic() - started > limit:
                raise Deviation(f"not within {limit:.0f} s: {event}")
            self.stop.wait(every)

    def wait(self, seconds: float) -> None:
        """Let time pass; Ctrl-C ends it."""
        if self.stop.wait(seconds):
            raise KeyboardInterrupt

    def decided(self, **wanted: str) -> list[dict[str, Any]]:
        """Decisions on the host since this fault began that have these fields."""
        new = self.host.decisions()[self.decisions_before :]
        return [
            decision
            for decision in new
            if all(str(decision.get(key, "")).startswith(value) for key, value in wanted.items())
        ]


Story: TypeAlias = Callable[[Scene], Generator[None, None, str]]


@dataclass
class Fault:
    """One thing that is broken on purpose. ``lane``: the host it happens on, or ``any``; lanes run beside each other,
    ``fleet`` (needs all MXs) comes after them. ``hand``: the manual step of the repair, if there is one.
    ``seconds`` it takes, roughly, where that is more than half a minute: the long ones are begun first."""

    system: str
    name: str
    expected: str
    lane: str
    story: Story
    together: str = ""
    hand: str = ""
    host: str = field(default="")
    seconds: float = 0.0

    def __post_init__(self) -> None:
        self.host = self.host or (self.lane if self.lane in (*MXS, CONTROL) else "mx3")


FAULTS: list[Fault] = []


def fault(
    system: str,
    name: str,
    expected: str,
    lane: str,
    *,
    together: str = "",
    hand: str = "",
    host: str = "",
    seconds: float = 0.0,
) -> Callable[[Story], Story]:
    """Register a fault."""

    def register(story: Story) -> Story:
        FAULTS.append(Fault(system, name, expected, lane, story, together, hand, host, seconds))
        return story

    return register


def must(condition: object, happened: str) -> None:
    """Raise Deviation with what happened unless the condition holds."""
    if not condition:
        raise Deviation(happened)


def fleet_of(podman: Podman, lab: Lab) -> dict[str, Host]:
    """The hosts that faults use."""
    return {name: Host(podman, lab.host(name)) for name in (*MXS, CONTROL, OFFSITE, "world")}
