"""Attack one MX of the lab (`python -m chaos.attack`), and account for the good mail meanwhile.

Ten connections from two addresses of `world` (an MX takes fifteen, five from each) send input that burns CPU and
memory: lines of carriage returns, many line ends, addresses and parameters of absurd length, lines without an
end before EHLO and in a message, bursts of commands, refused recipients and NOOPs without end. Good mail goes on from
a third address, and every message is accounted for. The lab has to be up and deployed.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import threading
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from mflab import machine, mail, ui
from mflab.podman import Podman
from mflab.reconcile import Account, reconcile
from mflab.spec import EXIT_INTERRUPTED, EXIT_USAGE, GROUPS, LabError

from chaos import attacker, open_lab
from chaos.scene import Host

SECONDS = (10, 3600)  # s an attack may last
ATTACKERS = (201, 202)  # their addresses' last octets: none of the lab's hosts
BATCH = 20  # messages that are sent together
PATIENCE = 60.0  # s a message may be tried; later mail has come too late to count
PAUSE = 2.0  # s between two batches
MEMORY = 1024  # MiB that the service may use at most
SETTLE = 20.0  # s after the attack; what still burns then serves no client
BURNING = 0.1  # cores that may still be used then
SAMPLER = r"""
import glob, json, os, pwd, time
uid, tick = pwd.getpwnam("qpsmtpd").pw_uid, os.sysconf("SC_CLK_TCK")
while True:
    memory = running = 0
    cpu = {}
    for path in glob.glob("/proc/[0-9]*"):
        try:
            if os.stat(path).st_uid != uid:
                continue
            status = dict(line.split(":", 1) for line in open(path + "/status") if ":" in line)
            fields = open(path + "/stat").read().rpartition(")")[2].split()
        except (OSError, IndexError):
            continue
        running += 1
        memory += int(status.get("RssAnon", "0").split()[0])
        cpu[path[6:] + "." + fields[19]] = (int(fields[11]) + int(fields[12])) / tick
    load = float(open("/proc/loadavg").read().split()[0])
    print(json.dumps({"memory": memory / 1024, "sessions": max(running - 1, 0), "load": load, "cpu": cpu}), flush=True)
    time.sleep(1)
"""


@dataclass
class Report:
    """The figures of one attack. Memory in MiB (private memory of the service's processes), CPU in seconds."""

    mx: str
    seconds: float
    sent: int = 0
    delivered: int = 0
    lost: int = 0
    doubled: int = 0
    undecided: int = 0
    refused: int = 0
    delay: float | None = None  # s, median of the batches' medians
    slowest: float | None = None  # s, 95 % within, of the slowest batch
    memory: float = 0.0
    load: float = 0.0
    sessions: int = 0
    cpu: float = 0.0
    burning: float = 0.0  # cores that the service still uses SETTLE s after the attack
    attacks: dict[str, int] = field(default_factory=dict)
    answers: dict[str, int] = field(default_factory=dict)
    turned_away: int = 0

    @property
    def share(self) -> float:
        """Good mail that was delivered, 0 to 1."""
        return self.delivered / self.sent if self.sent else 0.0

    def faults(self) -> list[str]:
        """Why the MX didn't withstand the attack, or why there was none; empty if it did."""
        ends = [answer for answer in self.answers if not answer.endswith(f": {attacker.SILENCE}")]
        names = [attack.__name__ for attack in attacker.ATTACKS]
        missing = [name for name in names if not any(answer.startswith(f"{name}: ") for answer in ends)]
        faults = {
            "good mail was lost, doubled or not delivered": self.delivered < self.sent or self.lost or self.doubled,
            "no good mail was sent": not self.sent,
            f"{self.memory:.0f} MiB of memory, more than {MEMORY}": self.memory > MEMORY,
            f"{self.burning:.2f} cores are still used after the attack": self.burning > BURNING,
            f"the MX never answered: {', '.join(missing)}": missing,
        }
        return [fault for fault, present in faults.items() if present]


class Gauge:
    """Reads the service's memory, sessions, load and CPU on `host` each second."""

    def __init__(self, host: Host) -> None:
        self.samples: list[tuple[float, dict[str, Any]]] = []
        self._process = subprocess.Popen(
            host.podman.command("exec", "-i", host.place.container, "/usr/bin/python3", "-c", SAMPLER),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=host.podman.machine.env,
            start_new_session=True,
        )
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.samples.append((time.monotonic(), json.loads(line)))

    def end(self) -> None:
        """End the readings."""
        self._process.kill()
        self._process.wait()
        self._thread.join(5)


def used(samples: list[tuple[float, dict[str, Any]]]) -> float:
    """CPU seconds between the first and the last reading; use after a process's own last reading is missing."""
    if not samples:
        return 0.0
    first = samples[0][1]["cpu"]
    last: dict[str, float] = {}
    for _, sample in samples:
        last.update(sample["cpu"])
    return float(sum(value - first.get(name, 0.0) for name, value in last.items()))


class Good:
    """Good mail, batch after batch, until `deadline`; no spam in it."""

    def __init__(self, podman: Podman, lab: Any, deadline: float) -> None:
        self.podman = podman
        self.lab = lab
        self.deadline = deadline
        self.accounts: list[Account] = []

    def run(self) -> None:
        """Send until the deadline; each batch is judged when its time is over."""
        while time.monotonic() < self.deadline:
            mailer = mail.Mailer(self.podman, self.lab, show=False)
            mailer.send(BATCH, 0.0, 0.0, PATIENCE)
            self.accounts.append(reconcile(mailer.run.ends, mailer.wait(PATIENCE)))
            time.sleep(PAUSE)


def attack(podman: Podman, lab: Any, name: str, seconds: float) -> Report:
    """Attack the MX `name`, send good mail meanwhile, and return the figures."""
    mx, world = Host(podman, lab.host(name)), Host(podman, lab.host("world"))
    sources = [f"{world.address.rpartition('.')[0]}.{octet}" for octet in ATTACKERS]
    device = world.run("ip -o -4 address show | awk -v want=\"$1/\" 'index($4, want) == 1 {print $2}'", world.address)
    program = (Path(__file__).parent / "attacker.py").read_text(encoding="utf-8")
    report = Report(name, seconds)
    for source in sources:
        world.run('ip address replace "$1/24" dev "$2"', source, device.strip())
    gauge = Gauge(mx)
    good = Good(podman, lab, time.monotonic() + seconds)
    sender = threading.Thread(target=good.run, daemon=True)
    try:
        sender.start()
        done = json.loads(world.python(program, mx.address, str(seconds), *sources, limit=seconds + 120))
        sender.join(3 * PATIENCE)
        if sender.is_alive() or not good.accounts:
            raise LabError("the good mail's sender didn't come to an end")
        during = list(gauge.samples)
        time.sleep(SETTLE)
        after = [sample for sample in gauge.samples if sample[0] > time.monotonic() - SETTLE / 2]
        if not during or len(after) < 2:
            raise LabError(f"{name}'s memory and CPU weren't read until the end")
    finally:
        gauge.end()
        for source in sources:
            world.ask('ip address delete "$1/24" dev "$2"', source, device.strip())
    for account in good.accounts:
        report.sent += account.sent
        report.delivered += account.delivered
        report.lost += len(account.lost)
        report.doubled += len(account.doubled)
        report.undecided += len(account.undecided)
        report.refused += account.refused_total
    delays = [account.delays for account in good.accounts if account.delays]
    if delays:
        report.delay = round(median(delay["median"] for delay in delays), 2)
        report.slowest = max(delay["p95"] for delay in delays)
    report.memory = round(max(sample["memory"] for _, sample in during))
    report.load = max(sample["load"] for _, sample in during)
    report.sessions = max(sample["sessions"] for _, sample in during)
    report.cpu = round(used(during), 1)
    report.burning = round(used(after) / max(after[-1][0] - after[0][0], 0.1), 2)
    report.attacks, report.answers, report.turned_away = done["made"], done["answers"], done["turned_away"]
    return report


def show(report: Report) -> str:
    """Return the table for a terminal."""
    delay = f"median {report.delay} s, 95 % within {report.slowest} s" if report.delay is not None else ""
    made = ", ".join(f"{name.replace('_', ' ')} {count}" for name, count in report.attacks.items())
    rows = [
        ("good mail delivered", f"{report.share:.1%}", f"{report.delivered} of {report.sent}; {delay}"),
        ("undecided", report.undecided, f"neither accepted nor refused within {PATIENCE:.0f} s"),
        ("refused", report.refused, ""),
        ("lost", report.lost, ""),
        ("doubled", report.doubled, ""),
        (
            "memory",
            f"{report.memory:.0f} MiB",
            f"private memory of the SMTP service at its highest; at most {MEMORY} MiB allowed",
        ),
        ("load", f"{report.load:.1f}", "at its highest"),
        ("sessions", report.sessions, "at most"),
        ("CPU", f"{report.cpu:.0f} s", f"of the SMTP service in {report.seconds:.0f} s"),
        ("burning", f"{report.burning:.2f}", f"cores that it still used {SETTLE:.0f} s later"),
        ("attacks", sum(report.attacks.values()), f"{made}; {report.turned_away} connections turned away"),
    ]
    return ui.table((f"attack on {ui.clean(report.mx)}", "", ""), rows, right=(1,))


def main() -> int:
    """Run it; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m chaos.attack",
        description=(__doc__ or "").split("\n\n", 1)[1],
        epilog="Exit codes: 0 all good mail was delivered once, memory stayed bounded and nothing burns on, "
        "1 not so, or an attack wasn't answered even once, 2 wrong command line, 130 interrupted",
    )
    parser.add_argument("--mx", default="mx1", choices=GROUPS["mx"], help="the MX to attack (default mx1)")
    parser.add_argument("--seconds", type=int, default=300, metavar="N", help="duration, 10 to 3600 (default 300)")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    args = parser.parse_args()
    if not SECONDS[0] <= args.seconds <= SECONDS[1]:
        print(f"chaos.attack: --seconds takes {SECONDS[0]} to {SECONDS[1]}", file=sys.stderr)
        return EXIT_USAGE
    lab = open_lab("chaos.attack")
    try:
        report = attack(Podman(machine.inspect(lab.home.parent)), lab, args.mx, float(args.seconds))
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except LabError as error:
        print(f"chaos.attack: {ui.clean(str(error))}", file=sys.stderr)
        return 1
    if args.json:
        print(json.dumps({**asdict(report), "share": round(report.share, 4)}, indent=2))
    else:
        print(show(report))
        for answer, count in report.answers.items():
            print(f"  {ui.clean(answer)} ({count})")
    faults = report.faults()
    for fault in faults:
        print(f"chaos.attack: {ui.clean(fault)}", file=sys.stderr)
    return int(bool(faults))


if __name__ == "__main__":
    sys.exit(main())
