"""What the fleet's own care costs: checks, restarts, health queries, an idle deploy; each beside a peer or floor.

Needs the lab of ``make demo``. Every figure is a median of runs taken in turn with the commands it is compared to, so
compare within a table, not across machines. Exit codes: 0 done, 1 a command under test failed, 3 there is no lab.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import shutil
import statistics
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import measure

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

REPO = Path(__file__).resolve().parent.parent
PYTHON = "/usr/bin/python3"
PLUGINS = "/usr/lib/nagios/plugins"
MX1 = 11  # last octet and port offset of mx1 in the lab
MX_COUNT = 3

FLOOR = "python3 -I -S -c pass"
CHECKS = {
    FLOOR: [PYTHON, "-I", "-S", "-c", "pass"],
    "check-load": ["/mf/bin/check-load"],
    "check-processes": ["/mf/bin/check-processes"],
    "check-smtp": ["/mf/bin/check-smtp"],
    "check-queue": ["/mf/bin/check-queue"],
    "a minute's: load, processes, smtp": ["/run/bench-minute"],
    "all of an MX in one minute": ["/run/bench-all"],
    "health --json": ["/mf/bin/health", "--json"],
}
PEERS = {
    "check_load": [f"{PLUGINS}/check_load", "-w", "50,50,50", "-c", "90,90,90"],
    "check_procs": [f"{PLUGINS}/check_procs", "-w", "1:500", "-c", "1:900", "-C", "qpsmtpd-forkser"],
    "check_smtp": [f"{PLUGINS}/check_smtp", "-H", "127.0.0.1", "-p", "25", "-t", "10"],
}


# Copies of run-checks to which every check, or only what an MX checks each minute or two, is due.
PREPARE = r"""
sed -E 's/"period": [0-9]+/"period": 60/g; s/"offset": [0-9]+/"offset": 0/g' /mf/bin/run-checks > /run/bench-all
sed -E 's/(, )?"(queue|rejected|refused)": [{][^}]*[}]//g' /run/bench-all > /run/bench-minute
chmod 755 /run/bench-all /run/bench-minute
"""


def number_of_lab(parser: argparse.ArgumentParser) -> int:
    """MF_LAB, 0 by default; ends with usage when it is no number."""
    number = os.environ.get("MF_LAB") or "0"
    if not number.isdecimal():
        parser.error(f"MF_LAB must be a number, not {number!r}")
    return int(number)


class BenchError(Exception):
    """A figure can't be measured; one line, with its exit code."""

    def __init__(self, message: str, code: int = 1) -> None:
        super().__init__(message)
        self.code = code


def ssh(lab: int, octet: int, command: str) -> list[str]:
    """The argv of one ssh command to a host of the lab, over a connection of its own."""
    folder = REPO / ".lab" / str(lab)
    if not (folder / "known_hosts").exists():
        raise BenchError("no lab is running; run: make demo", 3)
    return [
        shutil.which("ssh") or "ssh",
        *("-F", "none", "-i", str(folder / "id_ed25519"), "-p", str(2200 + 100 * lab + octet)),
        *("-o", f"UserKnownHostsFile={folder / 'known_hosts'}", "-o", "BatchMode=yes", "-o", "LogLevel=ERROR"),
        *("root@127.0.0.1", command),
    ]


def on_mx1(lab: int, commands: Mapping[str, Sequence[str]], runs: int, crowd: int = 0) -> dict[str, measure.Figures]:
    """Have mx1 time commands in turn, with ``crowd`` idle processes beside them."""
    program = (REPO / "bench" / "measure.py").read_text(encoding="utf-8")
    answer = subprocess.run(
        ssh(lab, MX1, f"{PYTHON} -I -c {shlex.quote(program)}"),
        input=json.dumps({"runs": runs, "commands": commands, "crowd": crowd}),
        capture_output=True,
        text=True,
        check=False,
    )
    if answer.returncode:
        raise BenchError(f"measuring on mx1 failed: {answer.stderr.strip()[-300:]}")
    figures: dict[str, measure.Figures] = json.loads(answer.stdout)
    return figures


def install_peers(lab: int) -> None:
    """Have the C plugins, Monit (not as a service) and GNU time on mx1."""
    packages = "monitoring-plugins-basic monit time"
    tools = f"dpkg -s {packages} >/dev/null 2>&1 || {{ apt-get install -qq -y --no-install-recommends {packages} &&"
    if subprocess.run(
        ssh(lab, MX1, f"{tools} systemctl disable --now monit; }}"), capture_output=True, check=False
    ).returncode:
        raise BenchError(f"the peers can't be installed on mx1; run there: apt-get install {packages}")


def by_program(lab: int, measurement: str, number: int) -> dict[str, Any]:
    """The figures of bench/on_host.py on mx1."""
    program = (REPO / "bench" / "on_host.py").read_text(encoding="utf-8")
    command = f"{PYTHON} -I -c {shlex.quote(program)} {measurement} {number}"
    answer = subprocess.run(ssh(lab, MX1, command), capture_output=True, text=True, check=False)
    if answer.returncode:
        raise BenchError(f"{measurement} on mx1 failed: {answer.stderr.strip()[-300:]}")
    result: dict[str, Any] = json.loads(answer.stdout)
    return result


def bench_scan(lab: int, runs: int) -> None:
    """Time check-processes beside pgrep and check_procs while 100, 1,000 and 5,000 other processes exist."""
    install_peers(lab)
    commands = {
        "check-processes": CHECKS["check-processes"],
        "pgrep": ["/usr/bin/pgrep", "-c", "qpsmtpd-forkser"],
        "check_procs": PEERS["check_procs"],
    }
    rows = []
    for size in (100, 1000, 5000):
        figures = on_mx1(lab, commands, runs, size)
        mine = figures["check-processes"]
        rows.append(
            [f"{size:,} processes"]
            + [f"{figures[name]['cpu_ms']:.1f}" for name in commands]
            + [f"{mine['cpu_ms'] / figures[peer]['cpu_ms']:.2f}" for peer in ("pgrep", "check_procs")]
        )
    table(
        f"Process scan on mx1, CPU ms ({runs} runs each, in turn)",
        ["beside", *commands, "x pgrep", "x check_procs"],
        rows,
    )


def bench_checks(lab: int, runs: int) -> None:
    """Each check and all of a minute's, timed on mx1 beside bare Python and three plugins written in C."""
    install_peers(lab)
    subprocess.run(ssh(lab, MX1, PREPARE), check=False)
    figures = on_mx1(lab, CHECKS | PEERS, runs)
    peers = sum(figures[name]["cpu_ms"] for name in PEERS)
    rows = [
        [
            name,
            f"{row['cpu_ms']:.1f}",
            f"{row['cpu_ms'] / figures[FLOOR]['cpu_ms']:.2f}",
            f"{row['cpu_ms'] / peers:.2f}",
            f"{row['wall_ms']:.1f}",
            f"{row['rss_mib']:.1f}",
            ",".join(map(str, row["exits"])),
        ]
        for name, row in figures.items()
    ]
    rows.append(["the three C plugins", f"{peers:.1f}", f"{peers / figures[FLOOR]['cpu_ms']:.2f}", "1.00", "", "", ""])
    monit = by_program(lab, "monit", runs)
    rows.append(
        [
            "one cycle of a Monit daemon",
            f"{monit['cpu_ms']:.1f}",
            f"{monit['cpu_ms'] / figures[FLOOR]['cpu_ms']:.2f}",
            f"{monit['cpu_ms'] / peers:.2f}",
            "",
            f"{monit['rss_mib']:.1f}",
            "",
        ]
    )
    table(
        f"Checks on mx1, healthy ({runs} runs each, in turn)",
        ["command", "CPU ms", "x bare", "x C plugins", "wall ms", "MiB", "exit"],
        rows,
    )


def bench_restart(lab: int, runs: int) -> None:
    """Time without mail when qpsmtpd is restarted, and when check-smtp finds it dead."""
    seconds = by_program(lab, "restart", runs)
    names = {"restart": "systemctl restart qpsmtpd", "heal": "master killed, check-smtp started"}
    rows = [
        [names[name], f"{statistics.median(each):.2f}", f"{min(each):.2f}", f"{max(each):.2f}"]
        for name, each in seconds.items()
    ]
    table(
        f"Until a canary is accepted again on mx1, seconds ({runs} runs each, in turn)",
        ["after", "median", "best", "worst"],
        rows,
    )


def bench_fleet(lab: int, runs: int) -> None:
    """mf_health over all MXs beside ansible's ping and bare ssh, seen from the controller."""
    ansible = shutil.which("ansible") or "ansible"
    hosts = " & ".join(shlex.join(ssh(lab, MX1 + number, "true")) for number in range(MX_COUNT))
    commands = {
        "ansible mx -m mf_health": [ansible, "mx", "-m", "mf_health"],
        "ansible mx -m ping": [ansible, "mx", "-m", "ping"],
        "ssh HOST true, three at once": ["/bin/sh", "-c", f"{hosts} & wait"],
    }
    figures = measure.compare(commands, runs)
    ping = figures["ansible mx -m ping"]
    rows = [
        [
            name,
            f"{row['wall_ms']:.0f}",
            f"{row['wall_ms'] / ping['wall_ms']:.2f}",
            f"{row['cpu_ms']:.0f}",
            f"{row['cpu_ms'] / ping['cpu_ms']:.2f}",
            str(row["exits"]),
        ]
        for name, row in figures.items()
    ]
    table(
        f"Fleet queries over {MX_COUNT} MXs ({runs} runs each, in turn)",
        ["command", "wall ms", "x ping", "controller CPU ms", "x ping", "exit"],
        rows,
    )


def bench_deploy(runs: int) -> None:
    """A site.yml that changes nothing: wall time, tasks and remote executions for each host."""
    playbook = [shutil.which("ansible-playbook") or "ansible-playbook", "playbooks/site.yml"]
    traced = subprocess.run([*playbook, "-vvv"], cwd=REPO, capture_output=True, text=True, check=False)
    hosts = recap(traced.stdout)
    if traced.returncode or not hosts:
        raise BenchError(f"site.yml failed: {traced.stdout.strip()[-300:]}")
    if any(row["changed"] for row in hosts.values()):
        raise BenchError("site.yml changed something; run it again until it doesn't, then measure")
    remote = executions(traced.stdout)
    figures = measure.compare({"site.yml": playbook}, runs, warm_up=1)["site.yml"]
    rows = [[host, str(row["ok"]), str(remote.get(host, 0))] for host, row in hosts.items()]
    table(f"site.yml with nothing to change ({runs} runs)", ["host", "tasks", "remote executions"], rows)
    wall, cpu = figures["wall_ms"] / 1000, figures["cpu_ms"] / 1000
    print(f"whole run: {wall:.1f} s of wall time, {cpu:.1f} s of controller CPU,")
    print(f"that is {wall / len(hosts):.2f} s of wall time for each of {len(hosts)} hosts\n")


def recap(output: str) -> dict[str, dict[str, int]]:
    """The counts of Ansible's PLAY RECAP, by host; localhost is left out."""
    hosts = re.findall(r"^(\S+)\s+: ok=(\d+)\s+changed=(\d+)", output.rpartition("PLAY RECAP")[2], re.MULTILINE)
    return {host: {"ok": int(ok), "changed": int(changed)} for host, ok, changed in hosts if host != "localhost"}


def executions(output: str) -> dict[str, int]:
    """Remote executions by host in the output of ``ansible-playbook -vvv``: one a command sent over ssh."""
    counts: dict[str, int] = {}
    for line in output.splitlines():
        # the address is the same for all hosts of the lab; the port in the command distinguishes them
        if "SSH: EXEC" in line and (port := re.search(r"-o Port=(\d+)|-p (\d+)", line)):
            host = NAMES.get(int(port[1] or port[2]) % 100, "?")
            counts[host] = counts.get(host, 0) + 1
    return counts


NAMES = {11: "mx1", 12: "mx2", 13: "mx3", 21: "control1", 22: "offsite1", 23: "monitor1"}


def table(title: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print rows as aligned columns; the first is text, the others are numbers."""
    widths = [max(len(row[column]) for row in [head, *rows]) for column in range(len(head))]
    print(f"\n{title}")
    for row in [head, ["-" * width for width in widths], *rows]:
        cells = [
            cell.ljust(width) if not column else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        print("  ".join(cells).rstrip())
    print()


def main(argv: Sequence[str]) -> int:
    """Parse the command line, run the chosen parts."""
    parser = argparse.ArgumentParser(prog="bench", description=__doc__.splitlines()[0] if __doc__ else None)
    names = ["checks", "scan", "restart", "fleet", "deploy"]
    parser.add_argument("what", nargs="*", metavar="WHAT", help=f"{', '.join(names)}; default: all of them")
    parser.add_argument(
        "--runs",
        type=int,
        default=0,
        help="counted runs of each command (default 30, scan 10, restart 5, fleet 7, deploy 3)",
    )
    options = parser.parse_args(argv)
    lab = number_of_lab(parser)
    what = options.what or names
    if unknown := sorted(set(what) - set(names)):
        parser.error(f"there is no {unknown[0]}; choose from {', '.join(names)}")
    try:
        if "checks" in what:
            bench_checks(lab, options.runs or 30)
        if "scan" in what:
            bench_scan(lab, options.runs or 10)
        if "restart" in what:
            bench_restart(lab, options.runs or 5)
        if "fleet" in what:
            bench_fleet(lab, options.runs or 7)
        if "deploy" in what:
            bench_deploy(options.runs or 3)
    except BenchError as error:
        print(f"bench: {error}", file=sys.stderr)
        return error.code
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
