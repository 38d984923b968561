"""Break the fleet in front of its monitor, on real clocks: which messages come, and when?

Each fault is broken from outside, then taken away. Exactly the expected messages must have reached the SMS gateway of
the lab's `world`, the first within two intervals and ten seconds of the fault. `monitor status --json` must agree, and
so must the page that nginx serves: its details (HTML and JSON, behind the password) and its public summary. The lab's
monitor probes every 10 seconds instead of every 60; nothing else is shortened but by --gateway-seconds. While an MX has
no network a browser opens the page too (tests/browser/test_live.py), if there is a Chromium.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import time
from collections.abc import Generator

from mflab import machine, ui, world
from mflab.podman import Podman
from mflab.spec import EXIT_INTERRUPTED, EXIT_USAGE, Lab, LabError

from chaos import ROOT, alerting, expression, open_lab
from chaos.scene import Deviation, must
from chaos.stage import BLOCK, BOUND, CERTIFY, FAULTS, INTERVAL, UNBLOCK, WINDOW, Stage, fault
from chaos.verdicts import Outcome, play, show

MODULES = (alerting,)  # importing it fills FAULTS, too

BREAK_SMTP = """
mkdir -p /run/systemd/system/qpsmtpd.service.d
printf '[Service]\\nExecStart=\\nExecStart=/bin/false\\n' > /run/systemd/system/qpsmtpd.service.d/chaos.conf
systemctl daemon-reload
systemctl kill --signal=KILL qpsmtpd.service
"""
MEND_SMTP = """
rm -rf /run/systemd/system/qpsmtpd.service.d
systemctl daemon-reload
systemctl reset-failed qpsmtpd.service 2> /dev/null || :
systemctl restart qpsmtpd.service
rm -f /mf/var/state/breaker.json
/mf/bin/check-smtp > /dev/null || :
"""
FILL = """
systemctl stop mf-exim.service
mount -t tmpfs -o size=4m,mode=0750,uid=$(id -u Debian-exim),gid=$(id -g Debian-exim) chaos /var/spool/exim4
install -d -o Debian-exim -g Debian-exim -m 0750 /var/spool/exim4/input /var/spool/exim4/msglog /var/spool/exim4/db
systemctl start mf-exim.service
dd if=/dev/zero of=/var/spool/exim4/full bs=4k 2> /dev/null || :
/mf/bin/check-queue > /dev/null || :
"""
EMPTY = """
systemctl stop mf-exim.service
umount /var/spool/exim4
systemctl start mf-exim.service
/mf/bin/check-queue > /dev/null || :
"""


@fault("an MX without network", "mx2 does not answer", "OK: mx2 well again")
def network(stage: Stage) -> Generator[None, None, None]:
    """Take its interface down."""
    # after a fault that closed its ssh, a second outage within the window would be notified as flapping
    stage.until("mx2 has been calm for long", lambda: not stage.recent("mx2", "ssh", WINDOW), WINDOW + 30)
    way = stage.hosts["mx2"].run("ip route show default").strip()
    stage.undo("mx2", "ip link set eth0 up; ip route replace $1", way)
    stage.hosts["mx2"].run("ip link set eth0 down")
    stage.broke()
    stage.message("mx2 does not answer")
    stage.shows("mx2", "down")
    stage.browse("mx2", "down")
    yield


@fault("qpsmtpd killed, and its check can't start it", "mx1 smtp: connection refused", "OK: mx1 smtp well again")
def killed(stage: Stage) -> Generator[None, None, None]:
    """SIGKILL, and every start fails."""
    stage.undo("mx1", MEND_SMTP)
    stage.hosts["mx1"].run(BREAK_SMTP)
    stage.broke()
    stage.message("mx1 smtp: connection refused")
    stage.shows("mx1", "down")
    yield


@fault("port 25 blocked, the rest answers", "mx3 smtp: no answer", "OK: mx3 smtp well again")
def port(stage: Stage) -> Generator[None, None, None]:
    """A provider that blocks SMTP."""
    stage.undo("mx3", UNBLOCK)
    stage.hosts["mx3"].run(BLOCK, "tcp dport 25")
    stage.broke()
    stage.message("mx3 smtp: no answer")
    stage.shows("mx3", "down")
    yield


@fault("a certificate expires", "control1 panel: certificate expired", "OK: control1 panel well again")
def certificate(stage: Stage) -> Generator[None, None, None]:
    """Serve a certificate that was valid until yesterday."""
    stage.until("control1 has been calm for long", lambda: not stage.recent("control1", "panel", WINDOW), WINDOW + 30)
    stage.undo("control1", CERTIFY, "-days 100", "")
    stage.hosts["control1"].run(CERTIFY, "-days 1", "faketime -f -2d")
    stage.broke()
    stage.message("certificate expired")
    stage.shows("control1", "down")
    yield


@fault(
    "the spool's disk is full",
    "mx1 smtp: 421 at greeting",
    "?mx1: queue CRITICAL.*free",
    "OK: .*mx1 smtp.*well again",
    "?OK: mx1 queue well again",
    loose=True,
)
def disk(stage: Stage) -> Generator[None, None, None]:
    """Mount a small file system in its place: an MX that can't keep mail greets no client."""
    # a second outage within the window would be notified as flapping
    stage.until("mx1 has been calm for long", lambda: not stage.recent("mx1", "smtp", WINDOW), WINDOW + 30)
    stage.undo("mx1", EMPTY)
    stage.hosts["mx1"].run(FILL)
    stage.broke()
    stage.message("mx1 smtp: 421 at greeting")
    stage.shows("mx1", "down")
    yield


@fault("one MX throttled")
def throttled(stage: Stage) -> Generator[None, None, None]:
    """No message: the page shows it."""
    stage.undo("mx1", "/mf/bin/throttle off")
    stage.hosts["mx1"].run("/mf/bin/throttle on --ttl 10m --reason chaos")
    stage.broke()
    stage.shows("mx1", "throttled")
    time.sleep(BOUND)
    yield


@fault(
    "all MXs throttled", "URGENT: 0 of 3 MX accept mail, 2 must|URGENT: 1 of 3 MX accept mail", "OK: enough MX accept"
)
def throttled_all(stage: Stage) -> Generator[None, None, None]:
    """Force it, against the fleet's budget."""
    for name in ("mx1", "mx2", "mx3"):
        stage.undo(name, "/mf/bin/throttle off")
        stage.hosts[name].run("/mf/bin/throttle on --ttl 10m --reason chaos --force")
    stage.broke()
    stage.message("URGENT: . of 3 MX accept mail, 2 must")
    stage.shows("mx3", "throttled")
    yield


@fault("the monitor's uplink", "monitor1 was offline for")
def connectivity(stage: Stage) -> Generator[None, None, None]:
    """Drop all its packets; it can only report that afterwards."""
    stage.undo("monitor1", UNBLOCK)
    stage.hosts["monitor1"].run(BLOCK, 'iifname != "lo"')
    stage.until(
        "the monitor shows that it is offline", lambda: stage.status().get("uplink", {}).get("state") == "down", BOUND
    )
    time.sleep(2 * INTERVAL)
    keys = [incident["key"] for incident in stage.status()["incidents"]["open"]]
    must(set(keys) - stage.before == {"uplink"}, f"open incidents while offline: {keys}")
    stage.page(lambda status: status["fleet"]["state"] == "unknown" and status["uplink"]["state"] == "down", "monitor1")
    stage.state = "uplink down, no other incident, fleet unknown"
    # it can't tell before it is back
    stage.broke()
    yield


@fault("the prober killed")
def prober(stage: Stage) -> Generator[None, None, None]:
    """SIGKILL; systemd starts it again, with the state it had."""
    before = {host["name"]: host["since"] for host in stage.status()["hosts"]}
    stage.hosts["monitor1"].run("systemctl kill --signal=KILL mf-monitor.service")
    stage.broke()
    time.sleep(1)
    stage.until(
        "it runs again", lambda: stage.hosts["monitor1"].ask("systemctl is-active mf-monitor.service")[0] == 0, 15
    )
    stage.state = f"runs again after {time.time() - stage.broken_at:.0f} s"
    time.sleep(BOUND)
    after = {host["name"]: host["since"] for host in stage.status()["hosts"]}
    must(after == before, f"it forgot since when hosts are as they are: {before} {after}")
    stage.page(lambda status: status["fleet"]["state"] != "unknown")
    yield


@fault("the prober stays dead")
def dead(stage: Stage) -> Generator[None, None, None]:
    """No message can leave; the dead man's switch gets no heartbeat, and the page is older than its own limit."""

    def beats() -> list[float]:
        requests = world.gateway_record(stage.podman, stage.lab, 8026)
        return [request["time"] - stage.broken_at for request in requests if request["path"] == "/heartbeat"]

    stage.undo("monitor1", "systemctl start mf-monitor.service")
    stage.until("the heartbeat is heard", lambda: bool(beats()), BOUND)
    stage.hosts["monitor1"].run("systemctl stop mf-monitor.service")
    stage.broke()
    shown = json.loads(stage.answers()["status"])
    limit = shown["stale_after"]
    stage.until("the page is stale", lambda: time.time() - shown["generated"] > limit, limit + INTERVAL)
    must(json.loads(stage.answers()["status"]) == shown, "another process wrote the page anew")
    must(max(beats()) < 1, f"a heartbeat {max(beats()):.0f} s after its end")
    stage.hosts["monitor1"].run("systemctl start mf-monitor.service")
    stage.until("the heartbeat is heard again", lambda: max(beats()) > limit, BOUND)
    stage.state = f"no heartbeat, page stale after {limit:.0f} s"
    yield


@fault(
    "a service flaps every 40 s",
    "mx3 smtp: no answer",
    "OK: mx3 smtp well again",
    "mx3 smtp is flapping",
    "OK: mx3 smtp well again",
)
def flap(stage: Stage) -> Generator[None, None, None]:
    """Close and open the port three times; then leave it open."""
    stage.until("mx3 has been calm for long", lambda: not stage.recent("mx3", "smtp", WINDOW), WINDOW + 30)
    stage.undo("mx3", UNBLOCK)
    for outage in range(3):
        stage.hosts["mx3"].run(BLOCK, "tcp dport 25")
        if not outage:
            stage.broke()
        time.sleep(40)
        stage.hosts["mx3"].run(UNBLOCK)
        time.sleep(40)
    stage.message("is flapping", 5)
    stage.page(lambda status: any(host["name"] == "mx3" and host["flapping"] for host in status["hosts"]))
    stage.state = "mx3 flapping"
    yield


@fault(
    "the SMS gateway down while an MX fails",
    "mx2 smtp: connection refused",
    "OK: mx2 smtp well again",
    within=float("inf"),
)
def gateway(stage: Stage) -> Generator[None, None, None]:
    """The second channel gets the message in time; the SMS comes when the gateway is back."""
    stage.undo("mx2", MEND_SMTP)
    stage.undo("world", "systemctl start world-gateway@8025.service")
    stage.hosts["world"].run("systemctl stop world-gateway@8025.service")
    stage.hosts["mx2"].run(BREAK_SMTP)
    stage.broke()
    stage.message("mx2 smtp: connection refused", port=8026)
    instead = stage.sms(8026)[0]["time"] - stage.broken_at
    must(instead <= BOUND, f"the second channel had it after {instead:.0f} s")
    stage.shows("mx2", "down")
    stage.page(
        lambda status: any(
            channel["name"] == "sms" and channel["ok"] is False for channel in status["messages"]["channels"]
        )
    )
    time.sleep(max(0.0, stage.gateway_seconds - (time.time() - stage.broken_at)))
    stage.hosts["world"].run("systemctl start world-gateway@8025.service")
    stage.message("mx2 smtp: connection refused", 75)
    stage.state += f", second channel after {instead:.0f} s"
    yield


@fault(
    "Exim dead on all MXs",
    # each is looked at at its own time
    "?^mf: mx. smtp: 421 at greeting",
    "?URGENT: 1 of 3 MX accept mail, 2 must",
    "URGENT: 0 of 3 MX accept mail, 2 must",
    "?queue CRITICAL",
    "OK: enough MX accept",
    "?OK: mx. .*well again",
    loose=True,
)
def queues(stage: Stage) -> Generator[None, None, None]:
    """The MXs greet no client, so the page must not report that incoming mail works."""
    names = ("mx1", "mx2", "mx3")
    stage.until(
        "the MXs have been calm for long",
        lambda: not any(stage.recent(name, "smtp", WINDOW) for name in names),
        WINDOW + 30,
    )
    for name in names:
        stage.undo(name, "systemctl start mf-exim.service")
        stage.hosts[name].run("systemctl stop mf-exim.service")
    stage.broke()
    stage.message("URGENT: 0 of 3 MX accept mail, 2 must")
    stage.shows("mx3", "down")
    stage.page(
        lambda status: all("421 at greeting" in host["words"] for host in status["hosts"] if host["role"] == "mx")
    )
    must("Incoming mail is delayed" in stage.answers()["summary"], "the public page doesn't show it")
    yield


def deploy(lab: Lab) -> int:
    """Bring the lab up and run site.yml; the log's end is shown when that fails."""
    tool = [sys.executable, str(ROOT / "lab/lab.py"), "--lab", str(lab.number)]
    if subprocess.run([*tool, "up"], check=False).returncode:
        return 1
    command = ["ansible-playbook", "-i", "inventory/lab", "-i", "chaos/inventory", "playbooks/site.yml"]
    log = ROOT / "build/chaos-monitor-site.log"
    log.parent.mkdir(exist_ok=True)
    with log.open("wb") as out:
        code = subprocess.run(command, cwd=ROOT, stdout=out, stderr=subprocess.STDOUT, check=False).returncode
    if code:
        print(log.read_text(errors="replace")[-3000:], file=sys.stderr)
    return code


def main() -> int:
    """Run the faults; return the exit code."""
    parser = argparse.ArgumentParser(prog="chaos.monitor", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "--only",
        default="",
        type=expression,
        metavar="WORD",
        help="only faults with this in their name (regular expression)",
    )
    parser.add_argument("--list", action="store_true", help="list the faults and the expected messages; run nothing")
    parser.add_argument("--no-deploy", action="store_true", help="use a lab that is up and deployed already")
    parser.add_argument("--keep", action="store_true", help="leave the lab as it is at the end")
    parser.add_argument(
        "--gateway-seconds", type=float, default=600, metavar="N", help="how long the gateway is down (default 600)"
    )
    args = parser.parse_args()
    chosen = [fault for fault in FAULTS if re.search(args.only, fault.name)]
    if args.list:
        print(
            ui.table(("fault", "messages"), [(fault.name, " | ".join(fault.expected) or "(none)") for fault in FAULTS])
        )
        return 0
    if not chosen:
        print(f"chaos.monitor: no fault is called {args.only!r}; see --list", file=sys.stderr)
        return EXIT_USAGE
    lab = open_lab("chaos.monitor")
    made_here = not lab.home.exists()
    outcomes: list[Outcome] = []
    code = 0
    try:
        if not args.no_deploy and deploy(lab):
            return 1
        stage = Stage(Podman(machine.inspect(lab.home.parent)), lab, args.gateway_seconds)
        stage.hosts["control1"].run("apt-get install -qq -y openssl faketime > /dev/null", limit=120)
        stage.hosts["control1"].run(CERTIFY, "-days 100", "")
        for name in ("monitor1", "mx1", "mx3"):
            stage.hosts[name].run(
                "command -v nft > /dev/null || apt-get install -qq -y nftables > /dev/null", limit=120
            )
        for name in ("mx1", "mx2", "mx3"):
            stage.hosts[name].load(0.2)
        stage.settle(WINDOW + 120)
        for fault in chosen:
            outcomes.append(play(stage, fault))
            last = outcomes[-1]
            print(f"{'DEVIATION' if last.trouble else 'ok       '} {fault.name} {ui.clean(last.trouble)}", flush=True)
    except KeyboardInterrupt:
        print("chaos.monitor: interrupted; what was broken is restored", file=sys.stderr)
        code = EXIT_INTERRUPTED
    except (LabError, Deviation) as error:
        print(f"chaos.monitor: {error}", file=sys.stderr)
        code = 1
    print()
    print(show(outcomes))
    bad = sum(bool(outcome.trouble) for outcome in outcomes)
    print(f"{len(outcomes) - bad} as expected, {bad} deviations; the first SMS must come within {BOUND:.0f} s")
    if made_here and not args.keep:
        subprocess.run([sys.executable, str(ROOT / "lab/lab.py"), "--lab", str(lab.number), "down"], check=False)
    return code or int(bad > 0)


if __name__ == "__main__":
    sys.exit(main())
