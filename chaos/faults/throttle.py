"""Faults of the throttle: marker and firewall torn apart, killed in between, flushed, missing, rebooted, crowded."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Generator
from functools import partial

from chaos.scene import MXS, Host, Scene, fault, must
from chaos.watch import Watch, fewest, steady

LANE = "any"
BLIND = 5.0  # s without a look at an MX: a fall of that length would go unseen
ENOUGH = 2  # MXs that have to accept: the lab's mf_min_accepting
NFT = "/usr/sbin/nft"
ON = "/mf/bin/throttle on --owner chaos --force --reason 'fault suite'"
OFF = "/mf/bin/throttle off --owner chaos"

# Bound over nft: at a change of the ruleset it kills its parent, the program that asked for it, before or after.
DEADLY_NFT = """\
#!/bin/sh
if [ "$1" = -f ]; then
    [ "$WHEN" = before ] && { kill -9 $PPID; exit 0; }
    /run/chaos-nft-real "$@"
    kill -9 $PPID
    exit 0
fi
exec /run/chaos-nft-real "$@"
"""
RELEASE_NFT = f"umount {NFT}; rm -f /run/chaos-nft /run/chaos-nft-real"


def deadly(scene: Scene, when: str) -> None:
    """From now on, a program that changes the ruleset dies: ``before`` or ``after`` the change."""
    scene.undo(RELEASE_NFT)
    scene.host.run("cat > /run/chaos-nft", text=DEADLY_NFT.replace("$WHEN", when))
    # /run may be mounted noexec; a copy beside nft isn't needed, since a bind mount keeps the original reachable
    scene.host.run(f"cp {NFT} /run/chaos-nft-real && chmod 755 /run/chaos-nft /run/chaos-nft-real")
    scene.host.run(f"mount --bind /run/chaos-nft {NFT} && mount -o remount,bind,exec {NFT} 2>/dev/null || :")


def refuse(scene: Scene, ttl: str = "5m") -> None:
    """An operator's lease that refuses."""
    scene.undo(OFF)
    scene.host.run(f"{ON} --ttl {ttl}")
    must(scene.host.refused_ports(), "nothing is refused after throttle on")


def agree(host: Host) -> bool:
    """Whether marker and firewall say the same."""
    return bool(host.status().get("refusing")) == host.refused_ports()


def load_check(scene: Scene) -> None:
    """One run of check-load, which also reconciles."""
    scene.host.check("load")


@fault("throttle", "killed between marker and firewall", "marked at once, refusing after the next check", LANE)
def killed_before(scene: Scene) -> Generator[None, None, str]:
    """SIGKILL after the marker was written, before nft ran."""
    scene.undo(OFF)
    deadly(scene, "before")
    code, _ = scene.host.ask(f"{ON} --ttl 5m")
    scene.broken()
    must(code != 0, "the command wasn't killed")
    yield
    must(scene.host.ask("/mf/bin/throttle status")[0] == 2, "there is no marker: local work wouldn't back off")
    must(not scene.host.refused_ports(), "nft ran")
    scene.host.run(RELEASE_NFT)
    scene.until("it refuses", scene.host.refused_ports, 130, lambda: load_check(scene))
    scene.healed()
    must(agree(scene.host), "marker and firewall differ")
    return "marked; the next check-load made the firewall follow"


@fault("throttle", "killed between firewall and marker", "refusing; marker follows at the next check", LANE)
def killed_after(scene: Scene) -> Generator[None, None, str]:
    """SIGKILL after nft ran, before the marker says so."""
    scene.undo(OFF)
    deadly(scene, "after")
    code, _ = scene.host.ask(f"{ON} --ttl 5m")
    scene.broken()
    must(code != 0, "the command wasn't killed")
    yield
    must(scene.host.refused_ports(), "nft did not run")
    must(not scene.host.status().get("refusing"), "the marker knew it already")
    scene.host.run(RELEASE_NFT)
    scene.until("marker and firewall agree", lambda: agree(scene.host), 130, lambda: load_check(scene))
    scene.healed()
    must(scene.host.refused_ports(), "the refusal was lost")
    return "refused; the next check-load wrote the marker"


@fault("throttle", "off killed half way", "accepting after the next check", LANE)
def off_killed(scene: Scene) -> Generator[None, None, str]:
    """The lease is gone from the marker, the firewall still refuses."""
    refuse(scene)
    deadly(scene, "before")
    code, _ = scene.host.ask(OFF)
    scene.broken()
    must(code != 0, "the command wasn't killed")
    yield
    must(scene.host.refused_ports(), "nft ran")
    scene.host.run(RELEASE_NFT)
    scene.until("it accepts", lambda: not scene.host.refused_ports(), 130, lambda: load_check(scene))
    scene.healed()
    must(scene.host.status().get("throttled") is False, "the lease came back")
    return "finished by the next check-load"


@fault("throttle", "cron dead while throttled", "mail flows when the lease ends, by itself", LANE)
def cron_dead(scene: Scene) -> Generator[None, None, str]:
    """Nothing of ours runs any more: the kernel ends the refusal."""
    scene.undo("systemctl start cron.service")
    scene.host.run("systemctl stop cron.service")
    refuse(scene, "15s")
    scene.broken()
    must(scene.sees() == "refused", "a sender outside isn't refused")
    yield
    scene.until("mail is accepted", lambda: scene.sees() == "220", 25, None, 0.5)
    scene.healed()
    must(scene.heal is not None and scene.heal > 10, "it ended too early")
    must(scene.host.ask("/mf/bin/throttle status")[0] == 0, "the marker still counts")
    return "lease of 15 s ended by the kernel"


@fault("throttle", "nft flushed", "refusing again after the next check", LANE)
def nft_flushed(scene: Scene) -> Generator[None, None, str]:
    """Somebody loads a ruleset of his own."""
    refuse(scene)
    scene.host.run("nft flush ruleset")
    scene.broken()
    must(scene.sees() == "220", "it still refuses")
    yield
    scene.until("it refuses", lambda: scene.sees() == "refused", 130, lambda: load_check(scene))
    scene.healed()
    return "put back by check-load"


@fault("throttle", "nft missing", "only marked, and said; refusing when it is back", LANE)
def nft_missing(scene: Scene) -> Generator[None, None, str]:
    """The package was removed."""
    scene.undo(OFF)
    scene.undo(f"[ ! -e {NFT}.away ] || mv {NFT}.away {NFT}")
    scene.host.run(f"mv {NFT} {NFT}.away")
    code, _ = scene.host.ask(f"{ON} --ttl 5m 2>&1")
    yield
    must(code == 1, f"throttle on ended with {code}")
    must(scene.host.status().get("throttled"), "there is no marker: local work wouldn't back off")
    result = scene.host.check("load")
    must(result.get("status") == "CRITICAL", f"check-load says {result.get('status')}: {result.get('summary')}")
    scene.host.run(f"mv {NFT}.away {NFT}")
    scene.broken()
    scene.until("it refuses", scene.host.refused_ports, 130, lambda: load_check(scene))
    scene.healed()
    return "marked and CRITICAL; refusing as soon as nft was back"


@fault("throttle", "marker corrupt", "written anew, lease kept, refusing all the while", LANE)
def marker_corrupt(scene: Scene) -> Generator[None, None, str]:
    """Garbage, then nothing at all."""
    refuse(scene)
    yield
    for damage in ("head -c 300 /dev/urandom > /run/mf/throttled", ": > /run/mf/throttled", "rm /run/mf/throttled"):
        scene.host.run(damage)
        scene.broken()
        scene.until(
            "the marker is whole", lambda: bool(scene.host.status().get("throttled")), 130, lambda: load_check(scene)
        )
        scene.healed()
        must(scene.host.refused_ports(), "the refusal was lost")
    return "garbage, empty and deleted: each made good by check-load"


@fault("throttle", "marker a symlink", "replaced; where it points isn't touched", LANE)
def marker_symlink(scene: Scene) -> Generator[None, None, str]:
    """It points at a file that matters."""
    refuse(scene)
    scene.undo("rm -f /etc/chaos-precious")
    scene.host.run("echo precious > /etc/chaos-precious; ln -sf /etc/chaos-precious /run/mf/throttled")
    scene.broken()
    yield
    scene.until(
        "the marker is whole", lambda: bool(scene.host.status().get("throttled")), 130, lambda: load_check(scene)
    )
    scene.healed()
    must(scene.host.run("cat /etc/chaos-precious") == "precious\n", "the file it points at was changed")
    must(scene.host.run("stat -c %F /run/mf/throttled").strip() == "regular file", "it is still a symlink")
    return "replaced, its target untouched"


@fault("throttle", "no room for the marker", "refused by the firewall, said; ends with the lease", LANE)
def marker_full_disk(scene: Scene) -> Generator[None, None, str]:
    """A full file system over /run/mf."""
    scene.undo("umount /run/mf")
    scene.undo(OFF)
    scene.host.run(
        "systemctl stop cron.service; mount -t tmpfs -o size=64k,mode=0755 chaos /run/mf; "
        "mkdir /run/mf/lock /run/mf/state; "
        "dd if=/dev/zero of=/run/mf/full bs=4k 2>/dev/null || :"
    )
    scene.undo("systemctl start cron.service")
    code, said = scene.host.ask(f"{ON} --ttl 10s 2>&1")
    scene.broken()
    yield
    must(code == 1 and "jobs don't know" in said, f"it passed for done: exit {code}, {said[-150:]}")
    must(scene.host.refused_ports() or scene.sees() == "refused", "it doesn't refuse")
    scene.until("mail is accepted", lambda: scene.sees() == "220", 25)
    scene.healed()
    return f"exit {code}, warned, refused until the lease ended"


@fault("throttle", "hold given back while /run/mf is full", "gone for good; the other lease stays", LANE)
def hold_full_disk(scene: Scene) -> Generator[None, None, str]:
    """No room for a new marker, and the old one still names the hold."""
    scene.undo("systemctl start cron.service")
    scene.undo("/mf/bin/throttle off --owner chaos-hold; " + OFF)
    scene.undo("umount /run/mf")
    scene.host.run(
        "systemctl stop cron.service; mount -t tmpfs -o size=64k,mode=0755 chaos /run/mf; "
        f"mkdir /run/mf/lock /run/mf/state; {ON} --ttl 5m --mark-only; "
        "/mf/bin/throttle on --owner chaos-hold --hold --reason 'fault suite'"
    )
    must(scene.host.refused_ports(), "the hold doesn't refuse")
    scene.host.run("dd if=/dev/zero of=/run/mf/full bs=4k 2>/dev/null || :")
    scene.broken()
    code, said = scene.host.ask("/mf/bin/throttle off --owner chaos-hold 2>&1")
    yield
    must(code == 0, f"off ended with {code}: {said[-150:]}")
    scene.host.run("/mf/bin/throttle reconcile")
    held = [one["owner"] for one in scene.host.status()["leases"]]
    must(held == ["chaos"], f"held by {held}")
    must(not scene.host.refused_ports(), "it still refuses")
    scene.healed()
    return "written over the old marker; a reconcile brought nothing back"


@fault("throttle", "marker and file of a hold deleted", "the refusal ends at the next check, said", LANE)
def hold_deleted(scene: Scene) -> Generator[None, None, str]:
    """Nothing but the kernel knows of it, and there it has no end."""
    scene.undo("systemctl start cron.service")
    scene.undo("/mf/bin/throttle off --owner chaos-hold")
    scene.host.run(
        "systemctl stop cron.service; /mf/bin/throttle on --owner chaos-hold --hold --reason 'fault suite'; "
        "rm /run/mf/throttled /mf/var/state/leases.json"
    )
    scene.broken()
    code, said = scene.host.ask("/mf/bin/health")
    yield
    must(code != 0 and "marker of the throttle is lost" in said, f"health ended with {code}: {said[:150]}")
    code, said = scene.host.ask("/mf/bin/check-load")
    must("was lost" in said, f"check-load ended with {code}: {said[:150]}")
    must(not scene.host.refused_ports(), "it still refuses")
    scene.healed()
    return "noticed by health, ended by check-load"


@fault("throttle", "/run/mf read-only", "nothing half done, said; works when it is back", LANE)
def marker_read_only(scene: Scene) -> Generator[None, None, str]:
    """Neither lock nor marker can be written."""
    scene.undo("systemctl start cron.service")
    scene.undo(OFF)
    scene.undo("umount /run/mf")
    scene.host.run("systemctl stop cron.service; mount --bind /run/mf /run/mf && mount -o remount,ro,bind /run/mf")
    code, said = scene.host.ask(f"{ON} --ttl 5m 2>&1")
    checked, words = scene.host.ask("/mf/bin/check-load")
    yield
    must(code == 1 and "Read-only file system" in said, f"throttle on ended with {code}: {said[-150:]}")
    must(not scene.host.refused_ports(), "it refuses without a marker")
    must(checked == 3, f"check-load ended with {checked}: {words[:100]}")
    scene.host.run("umount /run/mf")
    scene.broken()
    scene.host.run(f"{ON} --ttl 5m")
    must(scene.host.refused_ports() and agree(scene.host), "marker and firewall differ")
    scene.healed()
    return "exit 1 and UNKNOWN, both with the reason; refused as soon as it could be written"


@fault("throttle", "/mf/var read-only", "refusing and given back; says what won't survive", LANE)
def disk_read_only(scene: Scene) -> Generator[None, None, str]:
    """The lease can't be kept for a reboot."""
    scene.undo("umount /mf/var")
    scene.undo(OFF)
    scene.host.run("mount --bind /mf/var /mf/var && mount -o remount,ro,bind /mf/var")
    _, said = scene.host.ask(f"{ON} --ttl 5m 2>&1")
    yield
    must(scene.host.refused_ports(), f"nothing is refused: {said[-150:]}")
    must("survive" in said, f"nothing was said of the disk: {said[-150:]}")
    scene.host.ask(OFF)
    must(not scene.host.refused_ports(), "it still refuses after off")
    must(scene.sees() == "220", "mail isn't accepted after off")
    return "refused, warned, given back"


@fault("throttle", "sessions open while refusal begins", "none cut; new ones refused", LANE)
def open_sessions(scene: Scene) -> Generator[None, None, str]:
    """Three messages are in the middle of their DATA."""
    clients = scene.sessions()
    for number in range(3):
        clients.open(f"open{number}", scene.host.address, "data", 1.0)
    for number in range(3):
        must(clients.answer(f"open{number}").startswith("354"), "no session")
    refuse(scene)
    yield
    must(scene.sees() == "refused", "a new connection isn't refused")
    scene.wait(5)
    replies = [clients.finish(f"open{number}") for number in range(3)]
    must(all(reply.startswith("250") for reply in replies), f"an open session was cut: {replies}")
    return "three messages finished with 250, a new connection was refused"


# Another wall clock for the programs under it, by libfaketime: a container can't set the machine's. The time since boot
# stays as it is, as when somebody sets the date, and so do the times of files. Beside a monotonic clock that stays, its
# version 0.9.10 fails every sleep (EINVAL): a copy with clock_nanosleep renamed leaves sleeping to libc.
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
            code, said = scene.host.ask(f"{FAKED} {command} 2>&1", f"{step:+d}")
            bad = [line[:90] for line in said.splitlines() if not re.match(r"[A-Z]+ (OK|WARNING) - ", line)]
            must(code < 2, f"{command} ended with {code}, the clock {step} s away: {'; '.join(bad)}")
        away = float(scene.host.result("load")["finished"]) - float(scene.host.run("date +%s"))
        must(abs(away - step) < 30, f"the check saw the clock {away:.0f} s away instead of {step}")
        left = float(scene.host.status()["leases"][0]["left_seconds"])
        should = 300 - (time.monotonic() - began)
        must(abs(left - should) < 15, f"{left:.0f} s are left instead of {should:.0f}")
        must(scene.host.refused_ports(), "the refusal was lost")
        for clock in {step, 0}:
            code, said = scene.host.ask(f"{FAKED} /mf/bin/health 2>&1", f"{clock:+d}")
            must(code == 1, f"health with the clock {clock} s away ended with {code}: {said[:150]}")
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
    said = scene.host.ask("cat /run/chaos-crowd; rm -f /run/chaos-crowd")[1]
    must(not said.strip(), f"some failed: {said[-200:]}")
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
    """A lease of load speaks of a machine that isn't so any more."""
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
    for turn in range(8):
        scene.host.load(5.5 if turn % 2 else 4.5)
        load_check(scene)
        states.append(scene.host.refused_ports())
    must(states == [False] + [True] * 7, f"refused after each run: {states}; not at 4.5, from the first 5.5 on always")
    done = scene.decided(check="load", outcome="done")
    must([one["action"] for one in done] == ["throttle"], f"in the log: {[one['action'] for one in done]}")
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
    """The fleet's budget: three hosts decide in the same second. Senders look all the while, also while it settles."""
    mxs = [scene.fleet[name] for name in MXS]
    watch = Watch(scene.world, mxs)
    scene.later(watch.end)
    scene.until(
        "senders see all of them", lambda: {look[1] for look in watch.looks if look[2]} == {h.address for h in mxs}, 30
    )
    for host in mxs:
        scene.undo("systemctl start cron.service", host)
        host.run("systemctl stop cron.service; flock /run/mf/lock/load.lock true")
        scene.later(partial(relax, host))
        host.load(50.0)
    scene.broken()
    yield
    for turn in range(2):
        moment = str(time.time() + 2)
        crowd_ = [threading.Thread(target=host.python, args=(AT, moment), daemon=True) for host in mxs]
        for one in crowd_:
            one.start()
        for one in crowd_:
            one.join(90)
        if turn == 0:
            scene.healed()
        accepting = sum(scene.sees(host) == "220" for host in mxs)
        must(accepting >= ENOUGH, f"{accepting} of 3 accept after round {turn + 1}")
    marked = sum(bool(host.status().get("throttled")) for host in mxs)
    must(marked == 3, f"only {marked} are marked")
    refusing = sum(host.refused_ports() for host in mxs)
    must(refusing == len(mxs) - ENOUGH, f"{refusing} refuse: the budget allows {len(mxs) - ENOUGH}")
    looks = watch.end()
    worst, below = fewest(looks, ENOUGH)
    must(worst >= ENOUGH, f"only {worst} of 3 accepted meanwhile; fewer than {ENOUGH} for {below:.1f} s")
    apart = steady(looks, watch.ended)
    must(apart <= BLIND, f"nobody looked at one of them for {apart:.1f} s")
    return f"never fewer than {worst} of 3 accept ({len(looks)} looks, at most {apart:.1f} s apart), all 3 marked"
