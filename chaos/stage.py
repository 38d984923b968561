"""The lab in front of its monitor, for the faults of ``chaos.monitor`` and ``chaos.alerting``."""

from __future__ import annotations

import html
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, TypeAlias

import yaml
from mflab import world
from mflab.podman import Podman
from mflab.spec import Lab

from chaos import ROOT
from chaos.scene import Deviation, Host, must

INTERVAL = 10.0
BOUND = 2 * INTERVAL + 10  # seconds from a fault to its message
CALM = 120.0  # seconds, mf_monitor_flap_calm of the lab
WINDOW = 300.0  # seconds, mf_monitor_flap_window of the lab
PAGE_WITHIN = 30.0  # seconds; it is written every 5 s at most, after what is seen
HOSTS = ("mx1", "mx2", "mx3", "control1", "offsite1", "monitor1", "world")

BLOCK = "printf 'table inet chaos { chain input { type filter hook input priority -10; %s drop; }; }' \"$1\" | nft -f -"
UNBLOCK = "nft delete table inet chaos 2> /dev/null || :"
CERTIFY = """
cd /run
$2 openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=panel $1 \\
  -keyout chaos.key -out chaos.crt 2> /dev/null
systemctl stop chaos-panel.service 2> /dev/null || :
systemctl reset-failed chaos-panel.service 2> /dev/null || :
systemd-run --quiet --unit=chaos-panel openssl s_server -accept 8443 -www -cert /run/chaos.crt -key /run/chaos.key
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


class Stage:
    """The lab in front of its monitor."""

    def __init__(self, podman: Podman, lab: Lab, gateway_seconds: float) -> None:
        self.podman = podman
        self.lab = lab
        self.gateway_seconds = gateway_seconds
        self.hosts = {name: Host(podman, lab.host(name)) for name in HOSTS}
        self.stack = ExitStack()
        self.broken_at = 0.0
        self.state = ""

    def undo(self, host: str, script: str, *arguments: str) -> None:
        """Run this at the end, whatever happens."""
        self.stack.callback(lambda: self.hosts[host].ask(script, *arguments))

    def broke(self) -> None:
        """Now it is broken."""
        self.broken_at = time.time()

    def sms(self, port: int = 8025) -> list[dict[str, Any]]:
        """Messages that reached a gateway since this fault began; tests and heartbeats left out."""
        record = world.gateway_record(self.podman, self.lab, port)
        # the weekly test message comes at its hour, whatever is broken then
        messages = [message for message in record if message["text"] and not message["text"].startswith("mf TEST")]
        return [message for message in messages if message["time"] >= self.began]

    began = 0.0
    before: frozenset[str] = frozenset()

    def settle(self, limit: float) -> None:
        """Wait until everything was probed and no message waits; problems that are only for the page may stay."""

        def settled() -> bool:
            status = self.status()
            open_ = status.get("incidents", {}).get("open", ())
            self.before = frozenset(incident["key"] for incident in open_ if incident["severity"] == "page")
            return (
                bool(status)
                and len(open_) == len(self.before)
                and not status["messages"]["waiting"]
                and status["fleet"]["state"] != "unknown"
                # nor is an end about to be notified
                and not any(incident["closed"] > time.time() - INTERVAL for incident in status["incidents"]["recent"])
                # nor is a former run, or a deployment, counted as flapping
                and not any(self.recent(name, "smtp", WINDOW) for name in ("mx1", "mx2", "mx3"))
                # what began to answer after the first looks isn't about to be notified
                and not any(
                    service["soft"] or service["state"] == "down"
                    for host in status["hosts"]
                    for service in host["services"]
                )
            )

        self.until("the monitor has settled", settled, limit)

    def status(self) -> dict[str, Any]:
        """``monitor status --json``, empty while the monitor starts."""
        out = self.hosts["monitor1"].ask("/mf/bin/monitor status --json 2> /dev/null")[1]
        try:
            answer = json.loads(out)
        except ValueError:
            return {}
        return answer if isinstance(answer, dict) else {}

    def recent(self, host: str, service: str, seconds: float) -> bool:
        """Whether a host or its service was down within so many seconds."""
        keys = (f"host:{host}", f"service:{host}/{service}")
        incidents = self.status().get("incidents", {})
        all_incidents = [*incidents.get("open", ()), *incidents.get("recent", ())]
        return any(
            incident["key"] in keys and (incident["closed"] or 1e18) > time.time() - seconds
            for incident in all_incidents
        )

    def until(self, event: str, condition: Callable[[], bool], limit: float) -> None:
        """Wait for a condition."""
        give_up = time.monotonic() + limit
        while not condition():
            if time.monotonic() > give_up:
                raise Deviation(f"not within {limit:.0f} s: {event}")
            time.sleep(0.5)

    def message(self, pattern: str, limit: float = BOUND + 10, port: int = 8025) -> str:
        """Wait for a message, and return its text."""
        texts: list[str] = []

        def arrived() -> bool:
            texts[:] = [message["text"] for message in self.sms(port) if re.search(pattern, message["text"])]
            return bool(texts)

        self.until(f"a message {pattern!r}", arrived, limit)
        return texts[0]

    def shows(self, host: str, state: str, limit: float = BOUND, visitor: str = "world") -> None:
        """Wait until the monitor and its page show a host in this state; their state goes into the table."""

        def shown() -> bool:
            return any(listed["name"] == host and listed["state"] == state for listed in self.status().get("hosts", ()))

        self.until(f"{host} is shown as {state}", shown, limit)
        self.page(
            lambda status: any(listed["name"] == host and listed["state"] == state for listed in status["hosts"]),
            visitor,
        )
        self.state = f"{self.state}, {host} {state}".strip(", ")

    def answers(self, visitor: str = "world") -> dict[str, str]:
        """The answers of the page's server to a host that requests every address (see VISIT), over verified TLS."""
        monitor = self.hosts["monitor1"]
        secret = yaml.safe_load((self.lab.home / "secrets.yml").read_text())["mf_secrets"]["page"]
        order = {
            "address": monitor.address,
            "certificate": monitor.run("cat /mf/var/status-page/self.crt"),
            "secret": f"{secret['user']}:{secret['password']}",
        }
        replies: dict[str, str] = json.loads(self.hosts[visitor].run('python3 -c "$1"', VISIT, text=json.dumps(order)))
        return replies

    def page(self, condition: Callable[[dict[str, Any]], bool], visitor: str = "world") -> None:
        """Wait until the page's JSON fulfils a condition, and its HTML and its summary agree; the details are closed.

        ``visitor``: the host that looks.
        """
        wrong = ""

        def agrees() -> bool:
            nonlocal wrong
            replies = self.answers(visitor)
            status, public = json.loads(replies["status"]), json.loads(replies["public"])
            must(replies["closed"] == "401", f"details without a password are answered with {replies['closed']:.20}")
            must(
                not re.search(r"mx\d|control1", replies["summary"] + replies["public"]),
                "the public page names machines",
            )
            sentence, fleet = status["fleet"]["sentence"], status["fleet"]["state"]
            good = {"up": "up", "warning": "up", "down": "down", "unknown": "unknown"}[fleet]
            for name, right in (
                ("its JSON", status["generated"] >= self.broken_at and condition(status)),
                ("its HTML", sentence in html.unescape(replies["details"])),
                ("the public JSON", public["state"] == good),
                ("the public page", public["sentence"] in html.unescape(replies["summary"])),
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
        """Open the page in a browser, if there is one."""
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
            status = self.status()
            if not status or status["messages"]["waiting"]:
                return False
            keys = {incident["key"] for incident in status["incidents"]["open"]}
            return keys <= self.before and status["fleet"]["accepting"] == status["fleet"]["mxs"]

        self.until("nothing is wrong any more", fine, limit)


Story: TypeAlias = Callable[[Stage], Generator[None, None, None]]


@dataclass(frozen=True)
class Fault:
    """The messages that must arrive, in this order, and no others; the first within so many seconds.

    ``loose``: in any order, one message may be for several, and what begins with ``?`` may come or not.
    """

    name: str
    expected: tuple[str, ...]
    story: Story
    within: float
    loose: bool = False


FAULTS: list[Fault] = []


def fault(name: str, *expected: str, within: float = BOUND, loose: bool = False) -> Callable[[Story], Story]:
    """Register a fault."""

    def register(story: Story) -> Story:
        FAULTS.append(Fault(name, expected, story, within, loose))
        return story

    return register
