"""What `measure.py` can't time as a command: a daemon's cycle, and how long mail is away. Runs on a host as root.

``on_host.py monit SECONDS`` writes ``{"cpu_ms": …, "cycles": …, "rss_mib": …}``: what a Monit daemon with the work of
our checks spends on a cycle. ``on_host.py restart RUNS`` writes ``{"restart": […], "heal": […]}``: seconds until a
canary is accepted again after ``systemctl restart``, and after the master was killed and check-smtp was started.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time

RULES = "/run/bench-monitrc"
CONNECTIONS = 2  # that a cycle of Monit opens

# The same work: load, processes, SMTP on both families' port, the queue. Monit's SMTP test ends after EHLO.
MONITRC = """\
set daemon 1
set log /dev/null
set pidfile /run/bench-monit.pid
set idfile /run/bench-monit.id
set statefile /run/bench-monit.state
check system mx
    if loadavg (1min) > 5 then alert
check process qpsmtpd matching "qpsmtpd-forkserver"
    if children > 500 then alert
    if failed host 127.0.0.1 port 25 protocol smtp with timeout 8 seconds then alert
check process exim matching "exim4"
    if failed host 127.0.0.1 port 10025 protocol smtp with timeout 8 seconds then alert
check filesystem spool with path /var/spool/exim4
    if space usage > 85 % then alert
    if inode usage > 85 % then alert
"""


def opened() -> int:
    """TCP connections that were opened from this host, ever."""
    with open("/proc/net/snmp", encoding="ascii") as table:
        head, row = [line.split() for line in table if line.startswith("Tcp:")]
    return int(row[head.index("ActiveOpens")])


def spent(pid: int) -> float:
    """Milliseconds on a processor (kernel: sched-stats.rst); Monit's children are none of it."""
    with open(f"/proc/{pid}/schedstat", encoding="ascii") as line:
        return int(line.read().split()[0]) / 1e6


def monit(seconds: float) -> dict[str, float]:
    """One cycle of a Monit daemon, averaged over those of so many seconds."""
    with open(os.open(RULES, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="ascii") as rules:
        rules.write(MONITRC)
    subprocess.run(["systemctl", "stop", "cron.service"], check=True)  # its checks open connections, too
    daemon = subprocess.Popen(["monit", "-I", "-c", RULES], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        time.sleep(5)  # its first cycles look around
        before, cpu = opened(), spent(daemon.pid)
        time.sleep(seconds)
        cycles = (opened() - before) / CONNECTIONS
        used = spent(daemon.pid) - cpu
        with open(f"/proc/{daemon.pid}/status", encoding="ascii") as status:
            resident = int(status.read().partition("VmRSS:")[2].split()[0]) / 1024
    finally:
        daemon.terminate()
        daemon.wait()
        subprocess.run(["systemctl", "start", "cron.service"], check=True)
        os.unlink(RULES)
    if cycles < 1:
        raise SystemExit("Monit opened no connection; is it installed?")
    return {"cpu_ms": used / cycles, "cycles": cycles, "rss_mib": resident}


def until_accepted(begun: float) -> float:
    """Seconds since ``begun`` until our own client's canary is accepted."""
    with open("/mf/etc/mf.json", encoding="utf-8") as settings:
        values = json.load(settings)["checks"]["smtp"]
    sys.path.insert(0, "/mf/current/lib")
    from mf import smtp
    from mf_checks.smtp_report import canary

    where, recipient = (values["address"], values["port"], 2.0), values["canary"]
    while smtp.transaction(*where, recipient, canary(recipient)).outcome != smtp.ACCEPTED:
        time.sleep(0.01)
    return time.monotonic() - begun


def restart(runs: int) -> dict[str, list[float]]:
    """Time without mail, again and again; without cron, whose check would heal in between."""
    seconds: dict[str, list[float]] = {"restart": [], "heal": []}
    subprocess.run(["systemctl", "stop", "cron.service"], check=True)
    try:
        for _ in range(runs):
            begun = time.monotonic()
            subprocess.run(["systemctl", "restart", "qpsmtpd.service"], check=True)
            seconds["restart"].append(until_accepted(begun))
            # this many in a row would open the circuit breaker
            for path in ("/mf/var/state/breaker.json", "/run/mf/state/breaker.fallback"):
                if os.path.exists(path):
                    os.unlink(path)
            subprocess.run(["systemctl", "kill", "--kill-whom=main", "--signal=KILL", "qpsmtpd.service"], check=True)
            while subprocess.run(["systemctl", "is-failed", "--quiet", "qpsmtpd.service"], check=False).returncode:
                time.sleep(0.01)
            begun = time.monotonic()
            subprocess.run(["/mf/bin/check-smtp"], stdout=subprocess.DEVNULL, check=False)
            seconds["heal"].append(until_accepted(begun))
    finally:
        subprocess.run(["systemctl", "start", "cron.service"], check=True)
    return seconds


if __name__ == "__main__":
    measurement, number = sys.argv[1:]
    json.dump(monit(float(number)) if measurement == "monit" else restart(int(number)), sys.stdout)
