"""Faults that no probe from outside shows: the operator must be notified all the same. See ``chaos.monitor``."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Generator
from functools import partial
from typing import Any

from mflab import world

from chaos import ROOT
from chaos.backups import BY_HAND
from chaos.scene import must
from chaos.stage import BLOCK, BOUND, CALM, CERTIFY, INTERVAL, UNBLOCK, WINDOW, Stage, fault

NOT_KNOWN = 10 * INTERVAL  # seconds that something isn't known until that is notified
OVERDUE = 300.0  # seconds from cron's death until the first result of a host is past its time, at most
VITAL = 600.0  # and until that of a check of control is

STOP_CRON = "systemctl stop cron"
START_CRON = "systemctl start cron; /mf/bin/run-checks --all > /dev/null || :"
DELETE = f"""
{BY_HAND}
flock /mf/var/backup/lock borg create ::chaos-tampered /etc/hostname
flock /mf/var/backup/lock borg delete ::chaos-tampered
"""
# $1 messages for a recipient, handed to the queue as the SMTP service does; returns when all that wait are $3
QUEUE = """
python3 - "$1" "$2" <<'END'
import smtplib, sys
for _ in range(int(sys.argv[1])):
    with smtplib.SMTP("127.0.0.1", 10025, "mx1", timeout=60) as link:
        link.sendmail("a@world.example", sys.argv[2], "Subject: chaos\\r\\n\\r\\nrefused\\r\\n")
END
for _ in $(seq 120); do
  [ "$(/mf/bin/refused list --json | wc -l)" -ge "$3" ] && break
  sleep 0.5
done
/mf/bin/check-refused > /dev/null || :
"""
FORGET = "/mf/bin/refused forget --all; /mf/bin/check-refused > /dev/null || :"
CHECK = "/mf/bin/check-rejected > /dev/null || :"
# a file system without room where rejected mail is kept
CROWD = f"mount -t tmpfs -o size=64k chaos /mf/var/rejected; head -c 65536 /dev/zero > /mf/var/rejected/full; {CHECK}"
# that it was full is on record until the next purge
CLEAR = f"umount /mf/var/rejected 2> /dev/null; /mf/bin/purge-rejected; {CHECK}"


def ends(days: int, status: dict[str, Any]) -> bool:
    """Whether the page shows that the panel's certificate ends in so many days."""
    services = next(host["services"] for host in status["hosts"] if host["name"] == "control1")
    at = next(service["expires"] for service in services if service["name"] == "panel") or 0.0
    return bool(abs(at - time.time() - days * 86400) < 3600)


def table() -> str:
    """The output of `make check`."""
    command = ["ansible-playbook", "-i", "inventory/lab", "playbooks/check_fleet.yml"]
    return subprocess.run(
        command, cwd=ROOT, env={**os.environ, "NO_COLOR": "1"}, capture_output=True, text=True, check=False, timeout=120
    ).stdout


@fault("cron dies on an MX", "mx2: .* is cron running", "OK: mx2 well again", within=OVERDUE + NOT_KNOWN + 60)
def cron(stage: Stage) -> Generator[None, None, None]:
    """The MX takes mail as before; its results grow old. In the table of `make check` its mail is unknown."""
    stage.undo("mx2", START_CRON)
    stage.hosts["mx2"].run(STOP_CRON)
    stage.broke()
    stage.shows("mx2", "warning", OVERDUE)
    begun = time.time()
    stage.until(
        "SMTP's result is past its time", lambda: "smtp UNKNOWN" in stage.hosts["mx2"].ask("/mf/bin/health")[1], 90
    )
    row = next((line.split() for line in table().splitlines() if line.startswith("mx2 ")), [])
    must(row[3:4] == ["unknown"], f"the fleet's table shows {' '.join(row)}")
    stage.message("is cron running", NOT_KNOWN + 60)
    waited = stage.sms()[0]["time"] - begun
    must(waited > NOT_KNOWN - 2 * INTERVAL, f"notified after {waited:.0f} s")
    stage.state += f", the table shows unknown, notified {waited:.0f} s after it was shown"
    yield


@fault(
    "cron dies on all that isn't an MX",
    r"URGENT: control1 \w+: last ran",
    r"^mf: .*\boffsite1: \w+ UNKNOWN",
    r"^mf: .*\bmonitor1: \w+ UNKNOWN",
    # with looks every 10 s that is notified before a vital result is past its time
    r"?^mf: .*\bcontrol1: \w+ UNKNOWN",
    r"OK: .*\bcontrol1 (well|better)",
    r"OK: .*\boffsite1 well",
    r"OK: .*\bmonitor1 well",
    within=OVERDUE + NOT_KNOWN + 60,
    loose=True,
)
def crons(stage: Stage) -> Generator[None, None, None]:
    """One message for each host, the monitor too; control's is urgent, however many of its checks are unknown."""
    names = ("control1", "offsite1", "monitor1")
    for name in names:
        stage.undo(name, START_CRON)
        stage.hosts[name].run(STOP_CRON)
    stage.broke()
    urgent = stage.message("URGENT: control1", VITAL + NOT_KNOWN)
    # how long the rest takes depends on when each check last ran: no escalation meanwhile
    stage.hosts["monitor1"].run(f"/mf/bin/monitor ack {urgent.rpartition('#')[2]} --by suite")
    for name in names:
        stage.message(rf"{name}\b.*(last ran|UNKNOWN)", VITAL + NOT_KNOWN)
    # the last check of control grows old as well
    stage.until(
        "all results of control are past their time",
        lambda: stage.hosts["control1"].ask("/mf/bin/health")[1].count("is cron running") >= 4,
        VITAL,
    )
    time.sleep(3 * INTERVAL)
    yield


@fault(
    "objects deleted off-site, no prune recorded",
    "URGENT: offsite1 offsite: .*objects deleted, no prune recorded",
    "OK: offsite1 offsite well again",
)
def tamper(stage: Stage) -> Generator[None, None, None]:
    """Over the append-only account, as an intruder on control; check-offsite is run at once."""
    stage.undo("offsite1", "/mf/bin/offsite accept; /mf/bin/check-offsite > /dev/null || :")
    # a lab that was just deployed has saved nothing yet
    stage.hosts["control1"].run("/mf/bin/backup run dump --wait 5m", limit=400)
    stage.hosts["control1"].run(DELETE, limit=120)
    stage.hosts["offsite1"].run("/mf/bin/check-offsite > /dev/null || :")
    stage.broke()
    stage.message("objects deleted")
    stage.shows("offsite1", "warning")
    yield


@fault(
    "port 25 flaps, then stays closed",
    "mx3 smtp: no answer",
    "OK: mx3 smtp well again",
    "mx3 smtp is flapping",
    "mx3 smtp stays down after flapping: no answer",
    "OK: mx3 smtp well again",
)
def flaps_down(stage: Stage) -> Generator[None, None, None]:
    """Close and open the port five times, then close it: notified when it lasts longer than the times before."""
    stage.until("mx3 has been calm for long", lambda: not stage.recent("mx3", "smtp", WINDOW), WINDOW + 30)
    stage.undo("mx3", UNBLOCK)
    for outage in range(5):
        stage.hosts["mx3"].run(BLOCK, "tcp dport 25")
        if not outage:
            stage.broke()
        time.sleep(35)
        stage.hosts["mx3"].run(UNBLOCK)
        time.sleep(35)
    stage.message("is flapping", 5)
    must(len(stage.sms()) == 3, "its staying down was notified while it flapped")
    stage.hosts["mx3"].run(BLOCK, "tcp dport 25")
    closed = time.time()
    stage.message("stays down", CALM + BOUND)
    # by the monitor's own clock: on a busy machine a message takes half a minute to its gateway
    waited = (
        max(message["at"] for message in stage.status()["messages"]["recent"] if message["kind"] == "stays") - closed
    )
    must(waited < 1.5 * 45 + 2 * INTERVAL + 5 < CALM, f"decided after {waited:.0f} s")
    stage.shows("mx3", "down")
    stage.state += f", decided {waited:.0f} s after it closed for good"
    yield


@fault(
    "a second trouble on an MX of which one check flaps",
    "?mx1: rejected CRITICAL: .*full",
    "?OK: mx1 rejected well again",
    "mx1 rejected is flapping",
    # read before check-load's next run, it is a problem of the host's health
    "mx1: (load CRITICAL: )?.*NOT refusing",
    "OK: .*mx1 (load well again|better)",
    loose=True,
)
def second(stage: Stage) -> Generator[None, None, None]:
    """The disk of rejected mail is full, isn't, and so on until that flaps; then a throttle can't be put in force."""
    stage.undo("mx1", CLEAR)
    mx1 = stage.hosts["mx1"]

    def title() -> str:
        incidents = stage.status().get("incidents", {}).get("open", ())
        return next((str(incident["title"]) for incident in incidents if incident["key"] == "check:mx1/rejected"), "")

    stage.broke()
    for _ in range(4):
        mx1.run(CROWD)
        stage.until("it is full", lambda: "full" in title(), 5 * INTERVAL)
        mx1.run(CLEAR)
        stage.until("it isn't", lambda: not title() or "flapping" in title(), 5 * INTERVAL)
        if title():
            break
        stage.message("OK: mx1 rejected", 4 * INTERVAL)
    stage.message("rejected is flapping", 4 * INTERVAL)
    nft = mx1.run("readlink -f $(command -v nft)").strip()
    stage.undo("mx1", "umount $1 2> /dev/null; /mf/bin/throttle off; /mf/bin/check-load > /dev/null || :", nft)
    mx1.ask("mount --bind /bin/false $1; /mf/bin/throttle on --ttl 10m --reason chaos; /mf/bin/check-load", nft)
    stage.message("NOT refusing", 5 * INTERVAL)
    yield


@fault(
    "a customer's server refuses one recipient, then everything",
    "mx1: refused CRITICAL: 1 message refused for good",
    r"mx1: refused CRITICAL: 1\d messages refused for good",
    "OK: mx1 refused well again",
)
def refuses(stage: Stage) -> Generator[None, None, None]:
    """The first refused message and the tenth are notified, the second isn't."""
    mx1, customer = stage.hosts["mx1"], stage.hosts["world"].place
    stage.undo("mx1", FORGET)
    stage.stack.callback(world.set_customer, stage.podman, customer, "accept")
    world.set_customer(stage.podman, customer, "refuse gone")
    mx1.run(QUEUE, "1", "gone@customer.example", "1", limit=150)
    stage.broke()
    stage.message("1 message refused for good")
    mx1.run(QUEUE, "1", "gone@customer.example", "2", limit=150)
    time.sleep(BOUND)
    must(len(stage.sms()) == 1, "the second refused message was notified")
    world.set_customer(stage.podman, customer, "refuse")
    mx1.run(QUEUE, "12", "here@customer.example", "14", limit=150)
    stage.message(r"1\d messages refused for good")
    stage.state = "notified at 1 and 10 messages"
    yield


@fault("sshd dead on an MX", "mx2 ssh: connection refused", "OK: mx2 ssh well again")
def sshd(stage: Stage) -> Generator[None, None, None]:
    """The MX goes on taking mail, but the monitor can't read its health."""
    stage.undo("mx2", "systemctl start ssh")
    stage.hosts["mx2"].run("systemctl stop ssh ssh.socket 2> /dev/null || systemctl stop ssh")
    stage.broke()
    stage.message("mx2 ssh: connection refused")
    stage.shows("mx2", "down")
    # nor is it notified once more that its health can't be read
    time.sleep(NOT_KNOWN + 3 * INTERVAL)
    yield


@fault(
    "a certificate comes to its end",
    "mf: control1 panel: certificate expires in",
    "mf: control1 panel: certificate expires in",
    "OK: control1 panel well again",
)
def certificate_ends(stage: Stage) -> Generator[None, None, None]:
    """Certificates with twelve, nine, eight, two and one days left: notified at ten and at three."""
    stage.until("control1 has been calm for long", lambda: not stage.recent("control1", "panel", WINDOW), WINDOW + 30)
    stage.undo("control1", CERTIFY, "-days 100", "")
    for days in (12, 9, 8, 2, 1):
        stage.hosts["control1"].run(CERTIFY, f"-days {days}", "")
        if days == 9:
            stage.broke()
        stage.page(partial(ends, days))
        time.sleep(INTERVAL + 5)
    yield
