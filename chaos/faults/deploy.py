"""Faults during a deploy: the verdict of gate and budget on a host that is full, or that was unwell before."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Generator

from chaos import ROOT, site_command
from chaos.faults.degraded import SLOW, letter
from chaos.faults.smtp import fill
from chaos.plugin import add_plugin
from chaos.scene import MXS, Scene, fault, must

LANE = "fleet"
# $1: days. A certificate of the host's own, and its key.
CERTIFICATE = (
    "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days $1 -subj /CN=mx1.example "
    "-keyout /etc/ssl/private/chaos.key -out /etc/ssl/certs/chaos.crt 2>/dev/null; "
    "chgrp qpsmtpd /etc/ssl/private/chaos.key; chmod 640 /etc/ssl/private/chaos.key; chmod 711 /etc/ssl/private; "
    "systemctl try-restart qpsmtpd.service"
)
TLS = {"qpsmtpd_tls_certificate": "/etc/ssl/certs/chaos.crt", "qpsmtpd_tls_key": "/etc/ssl/private/chaos.key"}
# Greets late, as `earlytalker wait 2.5` does, or a list that is asked at connect.
LATE = """\
use strict;
use warnings;
use Qpsmtpd::Constants;
sub hook_connect { select undef, undef, undef, %s; return DECLINED }
1;
"""


def command(*arguments: str) -> tuple[int, str]:
    """Run a program of Ansible's; return its exit status and output."""
    done = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, check=False, env=os.environ)
    return done.returncode, done.stdout + done.stderr


def deploy(scene: Scene, **settings: object) -> str:
    """Deploy the scene's host with other settings; return the output. A Deviation when it doesn't pass."""
    code, output = command(*site_command(scene.host.name, **settings))
    must(code == 0, f"the deploy ended with {code}: {last_failure(output)}")
    return output


def last_failure(output: str) -> str:
    """The last line that reports a failure."""
    lines = [line for line in output.splitlines() if "did not pass" in line or "fatal:" in line]
    return lines[-1][-300:] if lines else output[-300:]


def as_it_was(scene: Scene) -> None:
    """In the end, deploy the host as the suite did; a hold that a deviation left ends."""
    scene.undo("/mf/bin/throttle off --owner deploy")
    scene.later(lambda: command(*site_command(scene.host.name)))


@fault("deploy", "all slots taken", "waited for, then it passes with a remark", LANE, host="mx1", seconds=120)
def full(scene: Scene) -> Generator[None, None, str]:
    """Senders have all slots of mx1 for the whole deploy; nothing is broken."""
    as_it_was(scene)
    fill(scene, 5.0)
    scene.host.checks()
    yield
    output = deploy(scene, mf_checks_load_high=5.5)
    must("mx1 passes, with remarks: smtp" in output, f"no such remark: {output[-300:]}")
    must(not scene.host.status().get("held"), "it is on hold")
    return "passed with a remark"


@fault(
    "deploy", "all slots taken, another MX stopped", "the fleet can't spare the full one", LANE, host="mx1", seconds=40
)
def full_and_needed(scene: Scene) -> Generator[None, None, str]:
    """Of three one is dead and one full: to touch that leaves one."""
    scene.undo("systemctl start qpsmtpd.service", scene.fleet["mx2"])
    fill(scene, 5.0)
    scene.host.checks()
    scene.fleet["mx2"].run("systemctl stop qpsmtpd.service")
    yield
    code, output = command("ansible", "mx1", "-m", "mf_budget")
    must(code != 0 and "over budget" in output, f"it might have been touched: {output[:200]}")
    return "over budget: it counts as accepting"


@fault("deploy", "certificate with nine days left", "a remark: it was so before", LANE, host="mx1", seconds=120)
def certificate(scene: Scene) -> Generator[None, None, str]:
    """The deploy has nothing to do with the certificate."""
    scene.undo("rm -f /etc/ssl/certs/chaos.crt /etc/ssl/private/chaos.key; chmod 700 /etc/ssl/private")
    as_it_was(scene)
    scene.host.run(CERTIFICATE, "90")
    deploy(scene, **TLS)
    scene.host.run(CERTIFICATE, "9")
    scene.until("check-smtp warns", lambda: "certificate ends" in str(scene.host.check("smtp").get("summary")), 60)
    yield
    deploy(scene, mf_checks_load_high=5.5, **TLS)
    result = scene.host.check("smtp")
    must("certificate ends" in str(result.get("summary")), f"the certificate is well: {result.get('summary')}")
    must(not scene.host.status().get("held"), "it is on hold")
    return "passed; still a warning of check-smtp"


@fault(
    "deploy",
    "every MX greets after 3 s",
    "counts as accepting for throttle, budget and gate",
    LANE,
    host="mx1",
    seconds=90,
)
def late_greeting(scene: Scene) -> Generator[None, None, str]:
    """No MX is broken: each greets late, as with filters at connect."""
    as_it_was(scene)
    for name in MXS:
        other = Scene(scene.fleet, name, scene.stop)
        scene.later(other.stack.close)
        add_plugin(other, LATE % "3")
    yield
    scene.until("mx1 greets", lambda: scene.sees() == "220", 30)
    scene.undo("/mf/bin/throttle off --owner chaos")
    code, output = scene.host.ask("/mf/bin/throttle on --owner chaos --ttl 5m")
    must(code == 0, f"throttle on was refused: {output[:200]}")
    scene.host.run("/mf/bin/throttle off --owner chaos")
    output = deploy(scene, mf_checks_load_high=5.5)
    # the only one that is left must never be restarted because its own greeting takes long
    for name in ("mx2", "mx3"):
        scene.undo("systemctl start qpsmtpd.service", scene.fleet[name])
        scene.fleet[name].run("systemctl stop qpsmtpd.service")
    code, output = command("ansible", "mx1", "-m", "mf_budget")
    must(code != 0 and "over budget" in output, f"the last one might have been touched: {output[:200]}")
    return "throttle on without force, a deploy passed, the last one was not touched"


@fault("deploy", "a filter slower than any patience, as before", "passes with a remark", LANE, host="mx1", seconds=150)
def slow_filter(scene: Scene) -> Generator[None, None, str]:
    """Mail goes through before, meanwhile and after: the host is no worse, and a hold would cost it."""
    as_it_was(scene)
    add_plugin(scene, SLOW % 25)
    result = scene.host.check("smtp")
    must(result.get("metrics", {}).get("slow") == 1, f"before the deploy: {result.get('summary')}")
    yield
    output = deploy(scene, mf_checks_load_high=5.6)
    must("a filter is slow" in output, f"the deploy has no remark: {output[-300:]}")
    must(not scene.host.status().get("held"), "it is on hold")
    answer = letter(scene)
    must(answer.startswith("250"), f"a sender got: {answer}")
    return "passed with a remark; a sender got 250"
