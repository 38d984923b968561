"""Faults of leases: a clock that jumps, a crowd of owners, reboots, a load that flaps, the whole fleet overloaded."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Generator
from functools import partial

from chaos.faults.throttle import LANE, OFF, agree, load_check, refuse
from chaos.scene import MXS, Host, Scene, fault, must
from chaos.watch import Watch, fewest, steady

BLIND = 5.0  # s without a look at an MX: a fall of that length would go unseen
ENOUGH = 2  # MXs that have to accept: the lab's mf_min_accepting


# Another wall clock for the programs under it, by libfaketime: a container can't set the machine's. The time since boot
# stays as it is, as when an operator sets the date, and so do the times of files. Beside a monotonic clock that stays,
# its version 0.9.10 fails every sleep (EINVAL): a copy with clock_nanosleep renamed leaves sleeping to libc.
FAKETIME = "/var/tmp/chaos-faketime.so"
GET_FAKETIME = (
    "dpkg -s faketime > /dev/null 2>&1 || apt-get install -qq -y faketime > /dev/null; "
    f"sed s/clock_nanosleep/clock_nanosleeq/g /usr/lib/*/faketime/libfaketime.so.1 > {FAKETIME}"
)
FAKED = f"export LD_PRELOAD={FAKETIME} FAKETIME_DONT_FAKE_MONOTONIC=1 NO_FAKE_STAT=1 FAKETIME=$1; shift; "


@fault("throttle", "clock jumps of a day, both ways", "the lease keeps its length, results stay fresh", LANE)
def clock_jumps(scene: Scene) -> Generator[None, None, str]:
    """All our programs see another date; then they see the right one again."""
    scene.undo("systemctl start cron.service")
    scene.undo(f"rm -f {FAKETIME}")
    scene.host.run(f"systemctl stop cron.service; {GET_FAKETIME}")
    refuse(scene)
    # A message that waits for its next attempt would rightly be called a day old. The fleet's own canary does when its
    # sink, on control, isn't part of this lab.
    scene.host.run("exiqgrep -i -r canary.mf.invalid | xargs --no-run-if-empty exim4 -Mrm")
    scene.until("Exim's queue is empty", lambda: scene.host.run("/usr/sbin/exim4 -bpc").strip() == "0", 120, None, 2)
    began = time.monotonic()
    yield
    for step in (86400, -86400, 0):
        for command in ("/mf/bin/run-checks --all", "/mf/bin/throttle reconcile", "/mf/bin/check-load"):
            code, output = scene.host.ask(f"{FAKED} {command} 2>&1", f"{step:+d}")
            bad = [line[:90] for line in output.splitlines() if not re.match(r"[A-Z]+ (OK|WARNING) - ", line)]
            must(code < 2, f"{command} ended with {code}, the clock {step} s away: {'; '.join(bad)}")
        away = float(scene.host.result("load")["finished"]) - float(scene.host.run("date +%s"))
        must(abs(away - step) < 30, f"the check saw the clock {away:.0f} s away instead of {step}")
        left = float(scene.host.status()["leases"][0]["left_seconds"])
        should = 300 - (time.monotonic() - began)
        must(abs(left - should) < 15, f"{left:.0f} s are left instead of {should:.0f}")
        must(scene.host.refused_ports(), "the refusal was lost")
        for clock in {step, 0}:
            code, output = scene.host.ask(f"{FAKED} /mf/bin/health 2>&1", f"{clock:+d}")
            must(code == 1, f"health with the clock {clock} s away ended with {code}: {output[:150]}")
    scene.host.run(OFF)
    must(scene.sees() == "220", "mail isn't accepted after off")
    return "the lease kept its length, health stayed WARNING for the lease alone"


@fault("throttle", "50 concurrent on and off", "all end, marker and firewall agree", LANE)
def crowd(scene: Scene) -> Generator[None, None, str]:
    """Ten owners, each three times on and twice off, all at once."""
    owners = " ".join(f"crowd{number}" for number in range(10))
    scene.undo(f"for owner in {owners}; do /mf/bin/throttle off --owner $owner; done")
    script = (
        f"for turn in 1 2 3 4 5; do for owner in {owners}; do "
        "case $turn in 1|3|5) set -- on --force --ttl 2m;; *) set -- off;; esac; "
        "{ /mf/bin/throttle $* --owner $owner > /dev/null 2>> $LOG || echo failed >> $LOG; } & "
        "done; done; wait"
    )
    started = time.monotonic()
    scene.host.run(f"LOG=/run/chaos-crowd; rm -f $LOG; {script}", limit=150)
    took = time.monotonic() - started
    yield
    output = scene.host.ask("cat /run/chaos-crowd; rm -f /run/chaos-crowd")[1]
    must(not output.strip(), f"some failed: {output[-200:]}")
    must(agree(scene.host), "marker and firewall differ")
    scene.host.run(f"for owner in {owners}; do /mf/bin/throttle off --owner $owner; done")
    must(not scene.host.refused_ports(), "it refuses when all have given back")
    must(scene.host.status().get("throttled") is False, "a lease is left")
    return f"all ended within {took:.0f} s"


def reboot(scene: Scene) -> None:
    """Restart the container and wait for its system."""
    scene.host.podman.run("restart", "--time", "20", scene.host.place.container)

    def up() -> bool:
        return scene.host.ask("systemctl is-system-running")[1].strip() in ("running", "degraded")

    scene.until("it has booted", up, 90)
    scene.later(lambda: scene.host.load(0.2))


@fault("throttle", "reboot while throttled by an operator", "lease put back", "mx3")
def reboot_operator(scene: Scene) -> Generator[None, None, str]:
    """An operator's lease survives."""
    refuse(scene)
    scene.broken()
    reboot(scene)
    yield
    scene.until("it refuses", lambda: scene.sees() == "refused", 60)
    scene.healed()
    must(scene.host.status()["leases"][0]["owner"] == "chaos", "it isn't the operator's lease")
    return "put back at boot"


@fault("throttle", "reboot while throttled by load", "lease gone, mail flows", "fleet", host="mx3")
def reboot_load(scene: Scene) -> Generator[None, None, str]:
    """A lease of load describes a machine before its reboot."""
    scene.later(lambda: scene.host.load(0.2))
    scene.host.load(9.0)
    scene.until("it refuses", lambda: scene.sees() == "refused", 130, lambda: load_check(scene))
    scene.broken()
    reboot(scene)
    scene.host.load(0.2)
    yield
    scene.until("mail is accepted", lambda: scene.sees() == "220", 60)
    scene.healed()
    must(scene.host.status().get("throttled") is False, "the lease is still there")
    return "gone with the boot"


@fault(
    "throttle", "load flapping between 4.5 and 5.5", "refuses at the first 5.5, no other change", "fleet", host="mx2"
)
def flapping(scene: Scene) -> Generator[None, None, str]:
    """Hysteresis: in between nothing changes."""
    scene.undo("systemctl start cron.service")
    scene.host.run("systemctl stop cron.service")
    scene.later(lambda: relax(scene.host))
    yield
    states = []
    for minute in range(8):
        scene.host.load(5.5 if minute % 2 else 4.5)
        load_check(scene)
        states.append(scene.host.refused_ports())
    must(states == [False] + [True] * 7, f"refused after each run: {states}; not at 4.5, from the first 5.5 on always")
    done = scene.decided(check="load", outcome="done")
    must(
        [decision["action"] for decision in done] == ["throttle"],
        f"in the log: {[decision['action'] for decision in done]}",
    )
    must(scene.sees() == "refused", "a sender outside isn't refused")
    relax(scene.host)
    must(scene.sees() == "220", "mail isn't accepted when the load is gone")
    return "accepts at 4.5, refuses from the first 5.5 on: 1 change in 8 runs; accepts again at 0.2"


def relax(host: Host) -> None:
    """Low load, and as many runs as it takes to give the lease back."""
    host.load(0.2)
    for _ in range(3):
        host.check("load")


# Runs check-load at the moment $1: what a fleet's clocks that agree make of cron.
AT = """
import subprocess, sys, time
time.sleep(max(0.0, float(sys.argv[1]) - time.time()))
subprocess.run(["/mf/bin/check-load"])
"""


@fault("throttle", "all MXs at load 50 at once", f"at least {ENOUGH} accept all along", "fleet", host="mx1")
def all_overloaded(scene: Scene) -> Generator[None, None, str]:
    """The fleet's budget: three hosts decide in the same second. Senders probe all the while, in the settling too."""
    mxs = [scene.fleet[name] for name in MXS]
    watch = Watch(scene.world, mxs)
    scene.later(watch.end)
    scene.until(
        "senders see all of them",
        lambda: {probe[1] for probe in watch.probes if probe[2]} == {h.address for h in mxs},
        30,
    )
    for host in mxs:
        scene.undo("systemctl start cron.service", host)
        host.run("systemctl stop cron.service; flock /run/mf/lock/load.lock true")
        scene.later(partial(relax, host))
        host.load(50.0)
    scene.broken()
    yield
    for round_number in range(2):
        moment = str(time.time() + 2)
        crowd_ = [threading.Thread(target=host.python, args=(AT, moment), daemon=True) for host in mxs]
        for thread in crowd_:
            thread.start()
        for thread in crowd_:
            thread.join(90)
        if round_number == 0:
            scene.healed()
        accepting = sum(scene.sees(host) == "220" for host in mxs)
        must(accepting >= ENOUGH, f"{accepting} of 3 accept after round {round_number + 1}")
    marked = sum(bool(host.status().get("throttled")) for host in mxs)
    must(marked == 3, f"only {marked} are marked")
    refusing = sum(host.refused_ports() for host in mxs)
    must(refusing == len(mxs) - ENOUGH, f"{refusing} refuse: the budget allows {len(mxs) - ENOUGH}")
    probes = watch.end()
    worst, below = fewest(probes, ENOUGH)
    must(worst >= ENOUGH, f"only {worst} of 3 accepted meanwhile; fewer than {ENOUGH} for {below:.1f} s")
    apart = steady(probes, watch.ended)
    must(apart <= BLIND, f"no probe of one of them for {apart:.1f} s")
    return f"never fewer than {worst} of 3 accept ({len(probes)} probes, at most {apart:.1f} s apart), all 3 marked"
