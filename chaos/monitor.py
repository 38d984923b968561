"""`python -m chaos.monitor`: break the fleet in front of its monitor, on real clocks; which messages come, and when.

Each fault is broken from outside, then taken away. Exactly the expected messages must have reached the SMS gateway of
the lab's `world`, the first within two intervals and ten seconds of the fault. `monitor status --json` must say the
same, and so must the page that nginx serves: its details (HTML and JSON, behind the password) and its public summary.
The lab's monitor looks every 10 seconds instead of every 60; nothing else is shortened but by --gateway-seconds. During
the first fault a browser looks at the page too (tests/browser/test_live.py), if there is a Chromium.
"""

from __future__ import annotations

import argparse
import html
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import yaml
from mflab import machine, ui, world
from mflab.podman import Podman
from mflab.spec import EXIT_INTERRUPTED, Lab, LabError, open_lab

from chaos import ROOT
from chaos.scene import Deviation, Host, must

LAB = "3"
INTERVAL = 10.0
BOUND = 2 * INTERVAL + 10  # seconds from a fault to its message
CALM = 120.0  # seconds, mf_monitor_flap_calm of the lab
WINDOW = 300.0  # seconds, mf_monitor_flap_window of the lab
PAGE_WITHIN = 30.0  # seconds; it is written every 5 s at most, after what is seen
QUIET = 8.0  # seconds without a further message until a fault is over
HOSTS = ("mx1", "mx2", "mx3", "control1", "offsite1", "monitor1", "world")

BLOCK = "printf 'table inet chaos { chain input { type filter hook input priority -10; %s drop; }; }' \"$1\" | nft -f -"
UNBLOCK = "nft delete table inet chaos 2> /dev/null || :"
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
CERTIFY = """
cd /run
$2 openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=panel $1 \\
  -keyout chaos.key -out chaos.crt 2> /dev/null
systemctl stop chaos-panel.service 2> /dev/null || :
systemctl reset-failed chaos-panel.service 2> /dev/null || :
systemd-run --quiet --unit=chaos-panel openssl s_server -accept 8443 -www -cert /run/chaos.crt -key /run/chaos.key
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

# Reads an order on stdin, so that the password is in no process list; prints the answers of the page's server.
VISIT = """
import base64, json, ssl, sys, urllib.error, urllib.request

order = json.load(sys.stdin)
trust = ssl.create_default_context(cadata=order["certificate"])


def get(path, secret=""):
    request = urllib.request.Request("https://" + order["address"] + path)
    if secret:
        request.add_header("Authorization", "Basic " + base64.b64encode(secret.encode()).decode())
    try:
        with urllib.request.urlopen(request, timeout=10, context=trust) as answer:
            return answer.read().decode()
    except urllib.error.HTTPError as error:
        return str(error.code)


secret = order["secret"]
print(json.dumps({
    "details": get("/fleet/", secret),
    "status": get("/fleet/status.json", secret),
    "summary": get("/"),
    "public": get("/status.json"),
    "closed": get("/fleet/status.json"),
}))
"""


@dataclass
class Outcome:
    """One row: what was expected, what came, seconds from the fault to the first message."""

    name: str
    expected: tuple[str, ...]
    texts: list[str] = field(default_factory=list)
    seconds: float | None = None
    state: str = ""
    trouble: str = ""


class Stage:
    """The lab in front of its monitor."""

    def __init__(self, podman: Podman, lab: Lab, gateway_seconds: float) -> None:
        self.podman = podman
        self.lab = lab
        self.gateway_seconds = gateway_seconds
        self.hosts = {name: Host(podman, lab.host(name)) for name in HOSTS}
        self.stack = ExitStack()
        self.broken_at = 0.0
        self.seen = 0
        self.state = ""

    def undo(self, host: str, script: str, *words: str) -> None:
        """Have this run in the end, whatever happens."""
        self.stack.callback(lambda: self.hosts[host].ask(script, *words))

    def broke(self) -> None:
        """Now it is broken."""
        self.broken_at = time.time()

    def sms(self, port: int = 8025) -> list[dict[str, Any]]:
        """Messages that reached a gateway since this fault began; tests and heartbeats left out."""
        found = [one for one in world.gateway_record(self.podman, self.lab, port) if one["text"]]
        return [one for one in found if one["time"] >= self.began]

    began = 0.0
    before: frozenset[str] = frozenset()

    def settle(self, limit: float) -> None:
        """Wait until everything was looked at and no message waits; what is only for the page may stay wrong."""

        def settled() -> bool:
            found = self.status()
            open_ = found.get("incidents", {}).get("open", ())
            self.before = frozenset(one["key"] for one in open_ if one["severity"] == "page")
            return (
                bool(found)
                and len(open_) == len(self.before)
                and not found["messages"]["waiting"]
                and found["fleet"]["state"] != "unknown"
                # nor is a former run, or a deployment, counted as flapping
                and not any(self.recent(name, "smtp", WINDOW) for name in ("mx1", "mx2", "mx3"))
                # what began to answer after the first looks isn't about to be told
                and not any(
                    one["soft"] or one["state"] == "down" for host in found["hosts"] for one in host["services"]
                )
            )

        self.until("the monitor has settled", settled, limit)

    def status(self) -> dict[str, Any]:
        """``monitor status --json``, empty while the monitor starts."""
        out = self.hosts["monitor1"].ask("/mf/bin/monitor status --json 2> /dev/null")[1]
        try:
            found = json.loads(out)
        except ValueError:
            return {}
        return found if isinstance(found, dict) else {}

    def recent(self, host: str, service: str, seconds: float) -> bool:
        """Whether a host or its service was down within so many seconds."""
        keys = (f"host:{host}", f"service:{host}/{service}")
        found = self.status().get("incidents", {})
        known = [*found.get("open", ()), *found.get("recent", ())]
        return any(one["key"] in keys and (one["closed"] or 1e18) > time.time() - seconds for one in known)

    def until(self, what: str, condition: Callable[[], bool], limit: float) -> None:
        """Wait for a condition."""
        give_up = time.monotonic() + limit
        while not condition():
            if time.monotonic() > give_up:
                raise Deviation(f"not within {limit:.0f} s: {what}")
            time.sleep(0.5)

    def message(self, pattern: str, limit: float = BOUND + 10, port: int = 8025) -> None:
        """Wait for a message."""
        self.until(
            f"a message {pattern!r}", lambda: any(re.search(pattern, one["text"]) for one in self.sms(port)), limit
        )

    def shows(self, host: str, state: str, limit: float = BOUND, visitor: str = "world") -> None:
        """Wait until the monitor and its page show a host so; what they show goes into the table."""

        def shown() -> bool:
            return any(one["name"] == host and one["state"] == state for one in self.status().get("hosts", ()))

        self.until(f"{host} is shown as {state}", shown, limit)
        self.page(lambda seen: any(one["name"] == host and one["state"] == state for one in seen["hosts"]), visitor)
        self.state = f"{self.state}, {host} {state}".strip(", ")

    def answers(self, visitor: str = "world") -> dict[str, str]:
        """What the page's server says to a host that asks for everything (see VISIT), over TLS that is verified."""
        monitor = self.hosts["monitor1"]
        secret = yaml.safe_load((self.lab.home / "secrets.yml").read_text())["mf_secrets"]["page"]
        order = {
            "address": monitor.address,
            "certificate": monitor.run("cat /mf/var/status-page/self.crt"),
            "secret": f"{secret['user']}:{secret['password']}",
        }
        found: dict[str, str] = json.loads(self.hosts[visitor].run('python3 -c "$1"', VISIT, text=json.dumps(order)))
        return found

    def page(self, condition: Callable[[dict[str, Any]], bool], visitor: str = "world") -> None:
        """Wait until the page's JSON fulfils a condition, and its HTML and its summary agree; the details are closed.

        ``visitor``: the host that looks.
        """
        wrong = ""

        def agrees() -> bool:
            nonlocal wrong
            found = self.answers(visitor)
            seen, public = json.loads(found["status"]), json.loads(found["public"])
            must(found["closed"] == "401", f"details without a password are answered with {found['closed']:.20}")
            must(not re.search(r"mx\d|control1", found["summary"] + found["public"]), "the public page names machines")
            sentence, fleet = seen["fleet"]["sentence"], seen["fleet"]["state"]
            good = {"up": "up", "warning": "up", "down": "down", "unknown": "unknown"}[fleet]
            for name, right in (
                ("its JSON", seen["generated"] >= self.broken_at and condition(seen)),
                ("its HTML", sentence in html.unescape(found["details"])),
                ("the public JSON", public["state"] == good),
                ("the public page", public["sentence"] in html.unescape(found["summary"])),
            ):
                if not right:
                    wrong = f"{name} doesn't show it ({sentence} / {public['sentence']})"
                    return False
            return True

        try:
            self.until("the page", agrees, PAGE_WITHIN)
        except Deviation as error:
            raise Deviation(f"{error}: {wrong}".rstrip(": ")) from None

    def browse(self, host: str, state: str) -> None:
        """Look at the page with a browser, if there is one."""
        if not shutil.which("chromium"):
            self.state += ", no Chromium"
            return
        about = {
            "MF_LIVE_PAGE": f"https://{self.hosts['monitor1'].address}",
            "MF_LIVE_SECRETS": str(self.lab.home / "secrets.yml"),
            "MF_LIVE_HOST": host,
            "MF_LIVE_STATE": state,
        }
        command = [sys.executable, "-m", "pytest", "-q", "tests/browser/test_live.py"]
        done = subprocess.run(
            command, cwd=ROOT, env={**os.environ, **about}, capture_output=True, text=True, check=False, timeout=300
        )
        log = ROOT / "build/chaos-monitor-browser.log"
        log.write_text(done.stdout + done.stderr)
        must(done.returncode == 0, f"the browser test failed, see {log}")
        self.state += f", browser: {done.stdout.strip().splitlines()[-1].partition(' in ')[0]}"

    def well(self, limit: float = 120) -> None:
        """Wait until nothing is wrong that wasn't before, and no message waits."""

        def fine() -> bool:
            found = self.status()
            if not found or found["messages"]["waiting"]:
                return False
            keys = {one["key"] for one in found["incidents"]["open"]}
            return keys <= self.before and found["fleet"]["accepting"] == found["fleet"]["mxs"]

        self.until("nothing is wrong any more", fine, limit)


Story: TypeAlias = Callable[[Stage], Generator[None, None, None]]
FAULTS: list[tuple[str, tuple[str, ...], Story]] = []


def fault(name: str, *expected: str) -> Callable[[Story], Story]:
    """Register a fault with the messages that must arrive, in this order, and no others."""

    def register(story: Story) -> Story:
        FAULTS.append((name, expected, story))
        return story

    return register


@fault("an MX without network", "mx2 does not answer", "OK: mx2 well again")
def network(stage: Stage) -> Generator[None, None, None]:
    """Its interface is taken down."""
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
    """SIGKILL, and whoever starts it gets an error."""
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
    """One that was valid until yesterday."""
    stage.until("control1 has been calm for long", lambda: not stage.recent("control1", "panel", WINDOW), WINDOW + 30)
    stage.undo("control1", CERTIFY, "-days 100", "")
    stage.hosts["control1"].run(CERTIFY, "-days 1", "faketime -f -2d")
    stage.broke()
    stage.message("certificate expired")
    stage.shows("control1", "down")
    yield


@fault("the spool's disk is full", "mx1 says: queue CRITICAL.*free", "OK: mx1 well again")
def disk(stage: Stage) -> Generator[None, None, None]:
    """A small file system in its place; check-queue is run at once instead of within five minutes."""
    stage.undo("mx1", EMPTY)
    stage.hosts["mx1"].run(FILL)
    stage.broke()
    stage.message("mx1 says: queue CRITICAL")
    stage.shows("mx1", "warning")
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
    """Forced, against the fleet's budget."""
    for name in ("mx1", "mx2", "mx3"):
        stage.undo(name, "/mf/bin/throttle off")
        stage.hosts[name].run("/mf/bin/throttle on --ttl 10m --reason chaos --force")
    stage.broke()
    stage.message("URGENT: . of 3 MX accept mail, 2 must")
    stage.shows("mx3", "throttled")
    yield


@fault("the monitor's uplink", "monitor1 was offline for")
def uplink(stage: Stage) -> Generator[None, None, None]:
    """Everything to and from it is dropped; it can only tell afterwards."""
    stage.undo("monitor1", UNBLOCK)
    stage.hosts["monitor1"].run(BLOCK, 'iifname != "lo"')
    stage.until("it knows that it is offline", lambda: stage.status().get("uplink", {}).get("state") == "down", BOUND)
    time.sleep(2 * INTERVAL)
    keys = [one["key"] for one in stage.status()["incidents"]["open"]]
    must(set(keys) - stage.before == {"uplink"}, f"open incidents while offline: {keys}")
    stage.page(lambda seen: seen["fleet"]["state"] == "unknown" and seen["uplink"]["state"] == "down", "monitor1")
    stage.state = "uplink down, no other incident, fleet unknown"
    # it can't tell before it is back
    stage.broke()
    yield


@fault("the prober killed")
def prober(stage: Stage) -> Generator[None, None, None]:
    """SIGKILL; systemd starts it again, and it remembers."""
    before = {one["name"]: one["since"] for one in stage.status()["hosts"]}
    stage.hosts["monitor1"].run("systemctl kill --signal=KILL mf-monitor.service")
    stage.broke()
    time.sleep(1)
    stage.until(
        "it runs again", lambda: stage.hosts["monitor1"].ask("systemctl is-active mf-monitor.service")[0] == 0, 15
    )
    stage.state = f"runs again after {time.time() - stage.broken_at:.0f} s"
    time.sleep(BOUND)
    after = {one["name"]: one["since"] for one in stage.status()["hosts"]}
    must(after == before, f"it forgot since when hosts are as they are: {before} {after}")
    stage.page(lambda seen: seen["fleet"]["state"] != "unknown")
    yield


@fault("the prober stays dead")
def dead(stage: Stage) -> Generator[None, None, None]:
    """It can't tell; the dead man's switch hears nothing any more, and the page is older than it says it may be."""

    def beats() -> list[float]:
        found = world.gateway_record(stage.podman, stage.lab, 8026)
        return [one["time"] - stage.broken_at for one in found if one["path"] == "/heartbeat"]

    stage.undo("monitor1", "systemctl start mf-monitor.service")
    stage.until("the heartbeat is heard", lambda: bool(beats()), BOUND)
    stage.hosts["monitor1"].run("systemctl stop mf-monitor.service")
    stage.broke()
    shown = json.loads(stage.answers()["status"])
    limit = shown["stale_after"]
    stage.until("the page is stale", lambda: time.time() - shown["generated"] > limit, limit + INTERVAL)
    must(json.loads(stage.answers()["status"]) == shown, "somebody wrote the page anew")
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
    """Three times away and back; then it is calm."""
    stage.until("mx3 has been calm for long", lambda: not stage.recent("mx3", "smtp", WINDOW), WINDOW + 30)
    stage.undo("mx3", UNBLOCK)
    for turn in range(3):
        stage.hosts["mx3"].run(BLOCK, "tcp dport 25")
        if not turn:
            stage.broke()
        time.sleep(40)
        stage.hosts["mx3"].run(UNBLOCK)
        time.sleep(40)
    stage.message("is flapping", 5)
    stage.page(lambda seen: any(one["name"] == "mx3" and one["flapping"] for one in seen["hosts"]))
    stage.state = "mx3 flapping"
    yield


@fault("the SMS gateway down while an MX fails", "mx2 smtp: connection refused", "OK: mx2 smtp well again")
def gateway(stage: Stage) -> Generator[None, None, None]:
    """The second channel has it in time, the SMS comes when the gateway is back."""
    stage.undo("mx2", MEND_SMTP)
    stage.undo("world", "systemctl start world-gateway@8025.service")
    stage.hosts["world"].run("systemctl stop world-gateway@8025.service")
    stage.hosts["mx2"].run(BREAK_SMTP)
    stage.broke()
    stage.message("mx2 smtp: connection refused", port=8026)
    instead = stage.sms(8026)[0]["time"] - stage.broken_at
    must(instead <= BOUND, f"the second channel had it after {instead:.0f} s")
    stage.shows("mx2", "down")
    stage.page(lambda seen: any(one["name"] == "sms" and one["ok"] is False for one in seen["messages"]["channels"]))
    time.sleep(max(0.0, stage.gateway_seconds - (time.time() - stage.broken_at)))
    stage.hosts["world"].run("systemctl start world-gateway@8025.service")
    stage.message("mx2 smtp: connection refused", 75)
    stage.state += f", second channel after {instead:.0f} s"
    yield


def play(stage: Stage, name: str, expected: tuple[str, ...], story: Story) -> Outcome:
    """Break it, take it away, hold what came against what was expected."""
    outcome = Outcome(name, expected)
    stage.began = time.time()
    stage.state = ""
    late_by_nature = story is gateway
    try:
        running = story(stage)
        next(running)
        stage.stack.close()
        stage.well(300 + CALM)
        time.sleep(QUIET)
    except Deviation as error:
        outcome.trouble = str(error)
    except (LabError, KeyError, IndexError, ValueError, subprocess.SubprocessError) as error:
        outcome.trouble = f"{type(error).__name__}: {error}"
    finally:
        stage.stack.close()
    found = stage.sms()
    outcome.texts = [one["text"] for one in found]
    outcome.state = stage.state
    if found:
        outcome.seconds = found[0]["time"] - stage.broken_at
    if not outcome.trouble:
        outcome.trouble = judge(outcome, late_by_nature)
    return outcome


def judge(outcome: Outcome, late_by_nature: bool) -> str:
    """What is wrong with the messages, or nothing."""
    if len(outcome.texts) != len(outcome.expected):
        return f"{len(outcome.texts)} messages instead of {len(outcome.expected)}"
    for pattern, text in zip(outcome.expected, outcome.texts, strict=True):
        if not re.search(pattern, text):
            return f"{text!r} instead of {pattern!r}"
    if outcome.seconds is not None and outcome.seconds > BOUND and not late_by_nature:
        return f"the first message came after {outcome.seconds:.0f} s"
    return ""


def deploy(lab: Lab) -> int:
    """Bring the lab up and run site.yml; the log's end is shown when that fails."""
    tool = [sys.executable, str(ROOT / "lab/lab.py"), "--lab", str(lab.number)]
    if subprocess.run([*tool, "up"], check=False).returncode:
        return 1
    words = ["ansible-playbook", "-i", "inventory/lab", "-i", "chaos/inventory", "playbooks/site.yml"]
    log = ROOT / "build/chaos-monitor-site.log"
    log.parent.mkdir(exist_ok=True)
    with log.open("wb") as out:
        code = subprocess.run(words, cwd=ROOT, stdout=out, stderr=subprocess.STDOUT, check=False).returncode
    if code:
        print(log.read_text(errors="replace")[-3000:], file=sys.stderr)
    return code


def show(outcomes: Sequence[Outcome]) -> str:
    """The table: a line for each message."""
    rows = []
    for one in outcomes:
        texts = [ui.clean(text) for text in one.texts] or ["(none)"]
        seconds = "-" if one.seconds is None else f"{one.seconds:.0f} s"
        rows.append((("ok" if not one.trouble else "DEVIATION"), one.name, seconds, one.state or "-", texts[0]))
        rows += [("", "", "", "", text) for text in texts[1:]]
        if one.trouble:
            rows.append(("", "", "", "", f"!! {ui.clean(one.trouble)}"))
    return ui.table(("", "fault", "first SMS", "state", "SMS that arrived"), rows, right=(2,))


def main() -> int:
    """Run the faults; return the exit code."""
    parser = argparse.ArgumentParser(prog="chaos.monitor", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "--only", default="", metavar="WORD", help="faults with this in their name (regular expression)"
    )
    parser.add_argument("--list", action="store_true", help="name the faults and their messages; run nothing")
    parser.add_argument("--no-deploy", action="store_true", help="the lab is up and deployed already")
    parser.add_argument("--keep", action="store_true", help="leave the lab as it is in the end")
    parser.add_argument(
        "--gateway-seconds", type=float, default=600, metavar="N", help="how long the gateway is down (default 600)"
    )
    args = parser.parse_args()
    chosen = [one for one in FAULTS if re.search(args.only, one[0])]
    if args.list or not chosen:
        print(ui.table(("fault", "messages"), [(name, " | ".join(texts) or "(none)") for name, texts, _ in FAULTS]))
        return 0 if args.list else 2
    os.environ.setdefault("MF_LAB", LAB)
    os.environ["ANSIBLE_CONFIG"] = str(ROOT / "ansible.cfg")
    lab = open_lab(None)
    made_here = not lab.home.exists()
    outcomes: list[Outcome] = []
    code = 0
    try:
        if not args.no_deploy and deploy(lab):
            return 1
        stage = Stage(Podman(machine.look(lab.home.parent)), lab, args.gateway_seconds)
        stage.hosts["control1"].run("apt-get install -qq -y openssl faketime > /dev/null", limit=120)
        stage.hosts["control1"].run(CERTIFY, "-days 100", "")
        for name in ("monitor1", "mx3"):
            stage.hosts[name].run(
                "command -v nft > /dev/null || apt-get install -qq -y nftables > /dev/null", limit=120
            )
        for name in ("mx1", "mx2", "mx3"):
            stage.hosts[name].load(0.2)
        stage.settle(WINDOW + 120)
        for name, expected, story in chosen:
            outcomes.append(play(stage, name, expected, story))
            last = outcomes[-1]
            print(f"{'DEVIATION' if last.trouble else 'ok       '} {name} {ui.clean(last.trouble)}", flush=True)
    except KeyboardInterrupt:
        print("chaos.monitor: interrupted; what was broken is restored", file=sys.stderr)
        code = EXIT_INTERRUPTED
    except (LabError, Deviation) as error:
        print(f"chaos.monitor: {error}", file=sys.stderr)
        code = 1
    print()
    print(show(outcomes))
    bad = sum(bool(one.trouble) for one in outcomes)
    print(f"{len(outcomes) - bad} as expected, {bad} deviations; the first SMS must come within {BOUND:.0f} s")
    if made_here and not args.keep:
        subprocess.run([sys.executable, str(ROOT / "lab/lab.py"), "--lab", str(lab.number), "down"], check=False)
    return code or int(bad > 0)


if __name__ == "__main__":
    sys.exit(main())
