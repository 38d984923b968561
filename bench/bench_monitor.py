"""What the external monitor costs, on simulated targets on loopback.

``smtp``   full SMTP dialogues (greeting, EHLO, MAIL, RCPT, DATA, message, QUIT), many at a time, by our prober
           and by Debian's blackbox_exporter, in turn. Each runs on one core, targets and the one who asks blackbox on
           another. What counts is dialogues for a second of the prober's own CPU: whatever else the machine does,
           that is what one core does.
``fleet``  1,000 hosts with 4 services each, every minute, by the whole monitor: judging, storing, alerting, rendering
           its page. Left out: reading hosts' own health, see ``health``.
``health`` reading hosts' own health, an ssh process each, from a real sshd on loopback: CPU of the monitor's side for a
           reading, and what a minute of 1,000 hosts takes of one core. Wants root and Debian's openssh-server.
``dead``   a sweep over 1,000 hosts of which 10 % never answer.

Exit codes: 0 done, 1 something failed, 2 wrong command line, 3 what it is held against isn't installed.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

REPO = Path(__file__).resolve().parent.parent
sys.path[:0] = map(str, REPO.glob("roles/*/files/lib"))

import targets
from blackbox import BLACKBOX, Blackbox, free_ports, wait_for
from mf_monitor import engine, settings
from mf_monitor.clocks import Clocks
from mf_monitor.judging import states
from mf_monitor.probing import hosthealth, probes, smtp, wire
from mf_monitor.probing.world import World
from mf_monitor.publisher import Publisher

CANARY = b"canary@target.invalid"
BODY = b"Subject: bench\r\n\r\nbench\r\n.\r\n"
KINDS = ("smtp", "ssh", "http", "tcp")


@contextlib.contextmanager
def serving(core: str) -> Iterator[dict[str, int]]:
    """Targets in a process of their own; their ports by kind."""
    ports = dict(zip(KINDS, free_ports(4), strict=True))
    message = [sys.executable, str(REPO / "bench/targets.py"), core, *map(str, ports.values())]
    process = subprocess.Popen(message, stdin=subprocess.PIPE)
    try:
        wait_for(ports["tcp"])
        yield ports
    finally:
        assert process.stdin is not None
        process.stdin.close()
        process.wait(10)


# --- dialogues


async def dialogues(port: int, count: int, at_once: int) -> int:
    """Hold so many; how many came to their end."""
    good = 0
    left = count

    async def walk() -> None:
        nonlocal good, left
        while left > 0:
            left -= 1
            script = smtp.smtp_script(b"prober", message=(b"", CANARY, BODY))
            with contextlib.suppress(wire.EndedError):
                await wire.converse("127.0.0.1", port, 10, script, wire.reply)
                good += 1

    await asyncio.gather(*(walk() for _ in range(at_once)))
    return good


def ours(port: int, count: int, at_once: int) -> tuple[int, float, float]:
    """Good dialogues, wall seconds and CPU seconds of the monitor's prober."""
    os.sched_setaffinity(0, {0})
    started, before = time.perf_counter(), time.process_time()
    good = asyncio.run(dialogues(port, count, at_once))
    return good, time.perf_counter() - started, time.process_time() - before


def bench_smtp(count: int, rounds: int) -> int:
    """Both in turn; the table."""
    if shutil.which(BLACKBOX) is None:
        print(f"bench: {BLACKBOX} isn't installed; run: apt-get install {BLACKBOX}", file=sys.stderr)
        return 3
    cores = sorted(os.sched_getaffinity(0))
    other = str(cores[-1])
    rows: dict[str, list[tuple[int, float, float]]] = {"mf_monitor": [], "blackbox_exporter": []}
    with tempfile.TemporaryDirectory() as folder, serving(other) as ports:
        blackbox = Blackbox(Path(folder))
        try:
            for _ in range(rounds):
                rows["mf_monitor"].append(ours(ports["smtp"], count, 200))
                os.sched_setaffinity(0, {cores[-1]})
                rows["blackbox_exporter"].append(blackbox.hold(ports["smtp"], count, 20))
        finally:
            blackbox.stop()
    os.sched_setaffinity(0, set(cores))
    print(f"\nFull SMTP dialogues, {count} in a round, medians of {rounds} rounds in turn, one core each\n")
    print(f"{'':<20}{'good':>8}{'each second':>14}{'for a second of its CPU':>26}")
    rates = {}
    for name, measured in rows.items():
        good = sum(row[0] for row in measured)
        wall = statistics.median(row[0] / row[1] for row in measured)
        rates[name] = statistics.median(row[0] / row[2] for row in measured)
        print(f"{name:<20}{good:>8}{wall:>14.0f}{rates[name]:>26.0f}")
    print(f"\nratio for a second of CPU: {rates['mf_monitor'] / rates['blackbox_exporter']:.2f}")
    return int(any(row[0] != count for measured in rows.values() for row in measured))


# --- a large fleet


def large(ports: dict[str, int], hosts: int, dead: int, database: str, **changed: Any) -> settings.Settings:
    """Settings of so many hosts, four services each; the first ``dead`` of them never answer."""
    services = [{"kind": kind, "port": port} for kind, port in ports.items()]
    return settings.parse(
        {
            "database": database,
            "hosts": [
                {"name": f"mx{number}", "role": "mx", "address": address(number), "services": services}
                for number in range(hosts)
            ],
            **changed,
        }
    )


def address(number: int) -> str:
    """The loopback address of a host."""
    return f"127.1.{number // 200}.{number % 200 + 1}"


def bench_fleet(hosts: int, seconds: float) -> int:
    """The whole engine for some intervals; CPU and memory of its process, the targets' left out."""
    with tempfile.TemporaryDirectory() as folder, serving("-") as ports:
        chosen = large(ports, hosts, 0, f"{folder}/m.sqlite", page=f"{folder}/page")
        reader, writer = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(reader)
            code = asyncio.run(watch(chosen, seconds, writer))
            os._exit(code)
        os.close(writer)
        with os.fdopen(reader) as answer:
            figures = json.loads(answer.read() or "{}")
        _, status = os.waitpid(pid, 0)
    if os.waitstatus_to_exitcode(status) or not figures:
        print("bench: the monitor failed", file=sys.stderr)
        return 1
    print(f"\n{hosts} hosts with 4 services each, every {chosen.interval:.0f} s, for {figures['seconds']:.0f} s\n")
    print(
        f"probes {figures['probes']}, {figures['probes'] / figures['seconds']:.0f} a second;"
        f" late: {figures['late']} of all"
    )
    print(f"page  rendered {figures['pages']} times, {figures['page_seconds']:.2f} s of CPU each")
    print(f"CPU   {100 * figures['cpu'] / figures['seconds']:.1f} % of one core")
    print(f"RSS   {figures['rss'] / 1024:.0f} MiB")
    return int(figures["bad"] > 0)


class Pages(Publisher):
    """A publisher that counts."""

    rendered: list[float]  # CPU seconds of each page

    async def write(self, now: float) -> None:
        """Write it, and count."""
        await super().write(now)
        self.rendered.append(self.effort)


class Watched(engine.Engine):
    """The monitor, with a count of its results and the CPU seconds of each rendering."""

    def __init__(self, chosen: settings.Settings) -> None:
        super().__init__(chosen)
        self.results = 0
        self.bad = 0
        self.publisher = pages = Pages(chosen, self.clocks, self.recorder)
        self.rendered = pages.rendered = []

    def on_result(self, result: states.ProbeResult) -> None:
        """Count it."""
        self.results += 1
        self.bad += result.state == "down"
        super().on_result(result)


async def watch(chosen: settings.Settings, seconds: float, answer: int) -> int:
    """Run the engine, look at the process after a first interval, then at its end."""
    monitor = Watched(chosen)
    task = asyncio.create_task(monitor.run())
    await asyncio.sleep(chosen.interval)
    begun, cpu, results, pages = time.monotonic(), time.process_time(), monitor.results, len(monitor.rendered)
    await asyncio.sleep(seconds)
    took = time.monotonic() - begun
    expected = took / chosen.interval * len(monitor.services)
    status = Path("/proc/self/status").read_text()
    rss = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS"))
    probe_count = monitor.results - results
    figures = {
        "seconds": took,
        "cpu": time.process_time() - cpu,
        "rss": rss,
        "probes": probe_count,
        "late": max(0, round(expected - probe_count)),
        "bad": monitor.bad,
        "pages": len(monitor.rendered) - pages,
        "page_seconds": statistics.median(monitor.rendered or [0.0]),
    }
    os.write(answer, json.dumps(figures).encode())
    os.close(answer)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    return 0


def bench_dead(hosts: int, timeout: float) -> int:
    """One sweep over all hosts at once, a tenth of them dead."""
    gone = hosts // 10
    with serving("-") as ports:
        kept = targets.dead((address(number) for number in range(gone)), ports.values())
        chosen = large(ports, hosts, gone, "", timeout=timeout)
        world = World.of(chosen, Clocks())

        async def sweep() -> tuple[float, int]:
            room = asyncio.Semaphore(engine.AT_ONCE)

            async def is_down(service: settings.Service) -> bool:
                async with room:
                    return (await probes.probe(service, world)).state == "down"

            started = time.perf_counter()
            bad = await asyncio.gather(*(is_down(service) for host in chosen.hosts for service in host.services))
            return time.perf_counter() - started, sum(bad)

        took, bad = asyncio.run(sweep())
        for listener in kept:
            listener.close()
    print(f"\nA sweep over {hosts} hosts with 4 services each, {gone} hosts dead, timeout {timeout:g} s\n")
    print(f"took {took:.1f} s, {took / timeout:.2f} timeouts; {bad} of {4 * hosts} probes were bad, {4 * gone} must be")
    return int(bad != 4 * gone)


# --- hosts' own health

DOOR = "127.9.0.1"  # where sshd listens, port 22
SSHD = """
ListenAddress {door}:22
HostKey {folder}/host
AuthorizedKeysFile {folder}/key.pub
ForceCommand cat {folder}/health
PidFile none
StrictModes no
UsePAM no
PermitRootLogin yes
MaxStartups 1000
"""


@contextlib.contextmanager
def door(sshd: str, folder: str) -> Iterator[None]:
    """An sshd that answers with the health in ``folder`` to a client with the key there."""
    for name in ("host", "key"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", f"{folder}/{name}"], check=True)
    key = Path(folder, "host.pub").read_text().rsplit(maxsplit=1)[0]
    Path(folder, "known").write_text(f"{DOOR} {key}\n")
    checks = {name: {"status": "OK", "summary": "all well", "metrics": {"load1": 0.3}} for name in ("load", "smtp")}
    health: dict[str, Any] = {"status": "OK", "throttled": False, "refusing": False, "leases": [], "problems": []}
    Path(folder, "health").write_text(json.dumps({**health, "checks": checks, "maintenance": None}))
    Path(folder, "config").write_text(SSHD.format(door=DOOR, folder=folder))
    process = subprocess.Popen([sshd, "-D", "-e", "-f", f"{folder}/config"], stderr=subprocess.DEVNULL)
    try:
        wait_for(22, DOOR)
        yield
    finally:
        process.terminate()
        process.wait(10)


def bench_health(readings: int) -> int:
    """So many readings, as a fleet too large for kept connections has them."""
    sshd = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if sshd is None or os.geteuid():
        print("bench: health wants root, and openssh-server; run: apt-get install openssh-server", file=sys.stderr)
        return 3
    with tempfile.TemporaryDirectory() as folder, door(sshd, folder):
        access = {"user": "root", "key": f"{folder}/key", "known_hosts": f"{folder}/known", "folder": folder}
        hosts = [{"name": f"mx{number}", "address": DOOR} for number in range(hosthealth.KEEP_UP_TO + 1)]
        chosen = settings.parse({"hosts": hosts, "health": access})

        async def read() -> tuple[int, set[str]]:
            reader = hosthealth.Reader(chosen, Clocks())
            answers = await asyncio.gather(*(reader.read(chosen.hosts[0]) for _ in range(readings)))
            return sum(reading.record is not None for reading in answers), {
                reading.message for reading in answers if reading.record is None
            }

        before, own = resource.getrusage(resource.RUSAGE_CHILDREN), time.process_time()
        good, messages = asyncio.run(read())
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime + time.process_time() - own
    failures = "".join(f"; {message}" for message in sorted(messages))
    print(f"\nHosts' own health by ssh, {readings} readings, {good} good{failures}\n")
    share = cpu / readings * 1000 / 60
    print(f"CPU   {1000 * cpu / readings:.1f} ms each; 1,000 a minute: {100 * share:.0f} % of one core")
    return int(good != readings)


def main(argv: Sequence[str]) -> int:
    """Run the chosen parts."""
    parser = argparse.ArgumentParser(prog="bench_monitor", description=(__doc__ or "").partition("\n")[0])
    names = ("smtp", "fleet", "dead", "health")
    parser.add_argument("what", nargs="*", metavar="WHAT", help=f"{', '.join(names)}; default: all")
    parser.add_argument("--hosts", type=int, default=1000, help="hosts of the large fleet (default 1000)")
    parser.add_argument("--seconds", type=float, default=120, help="duration of the large fleet's run (default 120)")
    parser.add_argument("--dialogues", type=int, default=6000, help="SMTP dialogues in a round (default 6000)")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of the dialogues (default 5)")
    options = parser.parse_args(argv)
    if unknown := sorted(set(options.what) - set(names)):
        parser.error(f"there is no {unknown[0]}; choose from {', '.join(names)}")
    chosen = options.what or names
    code = 0
    if "smtp" in chosen:
        code = bench_smtp(options.dialogues, options.rounds) or code
    if "dead" in chosen:
        code = bench_dead(options.hosts, 5.0) or code
    if "fleet" in chosen:
        code = bench_fleet(options.hosts, options.seconds) or code
    if "health" in chosen:
        code = bench_health(200) or code
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
