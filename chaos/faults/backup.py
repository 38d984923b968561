"""Faults of the backups: offsite gone, cut, damaged, full; crashes, clocks, the throttle, two at once.

A *period* is hours long, so it isn't waited for: the record of the last success is moved back by as much instead, and
the deployed check and schedule judge that by the real clock.
"""

from __future__ import annotations

import json
from collections.abc import Generator
from typing import Any

from chaos.scene import Deviation, Host, Scene, fault, must

LANE = "control1"
BACKUP = "/mf/bin/backup"
REPOSITORY = "/mf/var/offsite/repository"
LOAD = "/root/chaos-load"  # below /root: it is part of the daily archive

# $1 job, $2 seconds: the record says that the job succeeded, and was tried, that much earlier (later, if negative)
AGE = """
import json, sys
path = "/mf/var/state/backup.json"
record = json.load(open(path))
past = record["jobs"].setdefault(sys.argv[1], {})
for name in ("started", "succeeded"):
    past[name] = past.get(name, 0) - float(sys.argv[2])
json.dump(record, open(path, "w"))
"""
PERIOD = 14400
CUT = "ip route add blackhole"  # nothing goes back to control any more, and nobody is told


def offsite(scene: Scene) -> Host:
    """The machine that keeps the backups."""
    return scene.fleet["offsite1"]


def run(scene: Scene, job: str, limit: float = 240) -> dict[str, Any]:
    """Run a job; what it left on record."""
    _, out = scene.host.ask(f"{BACKUP} run {job} --json --wait 3m 2>/dev/null", limit=limit)
    found = json.loads(out)
    return found if isinstance(found, dict) else {}


def succeeds(scene: Scene, job: str, limit: float = 240) -> None:
    """The job must work; then all is well again."""
    past = run(scene, job, limit)
    must(not past["failures"], f"{job} still fails: {past['error']}")
    scene.healed()


def fails(scene: Scene, job: str, kinds: tuple[str, ...], limit: float = 240) -> str:
    """The job must fail for one of these reasons, and the check must say so; returns the check's status."""
    past = run(scene, job, limit)
    must(past["failures"] and past["kind"] in kinds, f"{job}: {past['kind'] or 'no failure'}: {past['error']}")
    result = scene.host.check("backup")
    must(f"{job} " in str(result.get("summary")), f"check-backup says {result.get('summary')}")
    return str(result.get("status"))


def load(scene: Scene, megabytes: int) -> None:
    """Have that much more to save."""
    scene.undo(f"rm -rf {LOAD}")
    scene.host.run(f"mkdir -p {LOAD}; head -c {megabytes}M /dev/urandom > {LOAD}/random")


def size(scene: Scene) -> int:
    """Bytes of the repository."""
    return int(offsite(scene).run(f"du -sb {REPOSITORY} | cut -f1") or 0)


@fault("backup", "offsite down for two periods", "CRITICAL or late, then made up for by itself", LANE)
def down(scene: Scene) -> Generator[None, None, str]:
    """Its sshd is stopped; the last success is moved back by more than two periods."""
    succeeds(scene, "dump")
    scene.undo("systemctl start ssh.service", offsite(scene))
    offsite(scene).run("systemctl stop ssh.socket ssh.service 2>/dev/null; systemctl stop ssh.service")
    scene.broken()
    yield
    fails(scene, "dump", ("unreachable", "cut"))
    scene.host.python(AGE, "dump", str(2.2 * PERIOD))
    result = scene.host.check("backup")
    must(result.get("status") == "WARNING" and "late" in str(result.get("summary")), f"check: {result.get('summary')}")
    offsite(scene).run("systemctl start ssh.service")
    scene.host.ask(f"{BACKUP} due", limit=300)
    result = scene.host.check("backup")
    must(result.get("status") == "OK", f"not made up for: {result.get('summary')}")
    scene.healed()
    return "late was said; cron's next look made up for it"


@fault("backup", "link cut in mid-transfer", "noticed within two minutes; no half archive; the next run goes on", LANE)
def cut(scene: Scene) -> Generator[None, None, str]:
    """Packets vanish without a word while files are on their way."""
    load(scene, 60)
    before = size(scene)
    scene.undo("rm -f /run/chaos-full")
    scene.undo(f"ip route del blackhole {scene.host.address}", offsite(scene))
    scene.host.run(f"({BACKUP} run full --json > /run/chaos-full 2>&1 &)")
    scene.until("bytes arrive", lambda: size(scene) > before + 1_000_000, 120, every=0.2)
    offsite(scene).run(f"{CUT} {scene.host.address}")
    scene.broken()
    yield
    scene.until("it is noticed", lambda: "{" in scene.host.ask("cat /run/chaos-full")[1], 180)
    past = json.loads(scene.host.run("cat /run/chaos-full"))
    must(past["failures"], "the run was over before the link was cut")
    offsite(scene).run(f"ip route del blackhole {scene.host.address}")
    succeeds(scene, "full", 400)
    code, out = scene.host.ask(f"{BACKUP} list --wait 3m")
    must(code == 0, f"backup list: {out[-200:]}")
    return f"noticed ({past['kind']}); the next run finished"


@fault("backup", "repository corrupted", "verify finds it: CRITICAL", LANE)
def corrupted(scene: Scene) -> Generator[None, None, str]:
    """Some bytes in the middle of a segment change."""
    succeeds(scene, "full")
    where = offsite(scene)
    victim = where.run(f"ls -S {REPOSITORY}/data/0/* | head -1").strip()
    scene.undo(f"[ ! -e /mf/var/offsite/kept ] || mv /mf/var/offsite/kept {victim}", where)
    where.run(f"cp -a {victim} /mf/var/offsite/kept")
    where.run(
        f"printf 'damage damage damage' | dd of={victim} bs=1 seek=$(($(stat -c %s {victim}) / 2)) conv=notrunc 2>&1"
    )
    scene.broken()
    yield
    status = fails(scene, "verify", ("corrupt",), 400)
    must(status == "CRITICAL", f"check-backup says {status}")
    where.run(f"mv /mf/var/offsite/kept {victim}")
    succeeds(scene, "verify", 400)
    return "found by the repository's check"


@fault("backup", "disk full off-site", "the run fails and says so; works when there is room", LANE)
def full_there(scene: Scene) -> Generator[None, None, str]:
    """The repository lies on a file system without room."""
    load(scene, 30)
    where = offsite(scene)
    scene.undo("umount -l /mf/var/offsite 2>/dev/null", where)
    megabytes = size(scene) // 1_000_000 + 6
    where.run(
        f"mkdir -p /run/chaos-disk; mount -t tmpfs -o size={megabytes}m chaos /run/chaos-disk;"
        " cp -a /mf/var/offsite/. /run/chaos-disk/; chown mf-offsite: /run/chaos-disk; chmod 700 /run/chaos-disk;"
        " mount --move /run/chaos-disk /mf/var/offsite 2>/dev/null"
        " || { mount --bind /run/chaos-disk /mf/var/offsite; }"
    )
    scene.undo("umount -l /run/chaos-disk 2>/dev/null", where)
    scene.broken()
    yield
    fails(scene, "full", ("full", "failed", "cut"))
    where.run("umount -l /mf/var/offsite")
    succeeds(scene, "full", 400)
    return "said by check-backup; the same run worked afterwards"


@fault("backup", "disk full on control", "the run fails and says so; works when there is room", LANE)
def full_here(scene: Scene) -> Generator[None, None, str]:
    """Borg's cache has no room."""
    load(scene, 5)
    scene.undo("umount -l /mf/var/backup 2>/dev/null")
    scene.host.run("mount -t tmpfs -o size=64k,mode=711 chaos /mf/var/backup")
    scene.broken()
    yield
    fails(scene, "full", ("full", "failed"))
    scene.host.run("umount -l /mf/var/backup")
    succeeds(scene, "full")
    return "said by check-backup; the same run worked afterwards"


@fault("backup", "two backups at once", "the second is told, or waits; both whole", LANE)
def two(scene: Scene) -> Generator[None, None, str]:
    """A person starts one while cron's is under way."""
    load(scene, 20)
    yield
    out = scene.host.run(
        f"{BACKUP} run full > /run/chaos-first 2>&1 & sleep 1; code=0; {BACKUP} run dump --wait 1s || code=$?;"
        f" {BACKUP} run dump --wait 5m > /run/chaos-second 2>&1; wait; echo $code; rm -f /run/chaos-*",
        limit=400,
    )
    must(out.splitlines()[-1] == "4", f"the second run wasn't told: {out[-200:]}")
    result = scene.host.check("backup")
    must(result.get("status") == "OK", f"check-backup says {result.get('summary')}")
    return "told with exit code 4; with --wait it went second"


@fault("backup", "clock was ahead by a year", "said; the next run is made all the same and is the newest", LANE)
def skew(scene: Scene) -> Generator[None, None, str]:
    """The last dump was made under a clock that was a year ahead."""
    succeeds(scene, "dump")
    scene.host.python(AGE, "dump", str(-365 * 86400))
    scene.broken()
    yield
    result = scene.host.check("backup")
    must("in the future" in str(result.get("summary")), f"check-backup says {result.get('summary')}")
    scene.host.ask(f"{BACKUP} due", limit=300)
    result = scene.host.check("backup")
    must(result.get("status") == "OK", f"check-backup says {result.get('summary')}")
    scene.healed()
    return "doubted, and done anew at cron's next look"


@fault("backup", "killed on both sides, locks left behind", "the next run works by itself", LANE)
def killed(scene: Scene) -> Generator[None, None, str]:
    """SIGKILL for Borg here and there, in mid-transfer; and a lock that no process of that machine can explain."""
    load(scene, 40)
    before = size(scene)
    where = offsite(scene)
    scene.undo("rm -f /run/chaos-full")
    scene.host.run(f"({BACKUP} run full > /run/chaos-full 2>&1 &)")
    scene.until("bytes arrive", lambda: size(scene) > before + 1_000_000, 120, every=0.2)
    where.ask("pkill -9 -u mf-offsite -f 'borg serve'")
    scene.host.ask("pkill -9 -f '/usr/bin/borg create'; pkill -9 -f 'backup run full'; pkill -9 -x borgmatic")
    where.run(
        f"rm -rf {REPOSITORY}/lock.exclusive; mkdir {REPOSITORY}/lock.exclusive;"
        f" touch {REPOSITORY}/lock.exclusive/elsewhere@1.1-1; chown -R mf-offsite: {REPOSITORY}/lock.exclusive"
    )
    scene.broken()
    yield
    succeeds(scene, "full", 400)
    must(scene.decided(check="backup", action="break-lock"), "the lock was broken without a word")
    return "broken on the record: under flock nobody else can be there"


@fault("backup", "throttled all the while", "late, not skipped", LANE)
def throttled(scene: Scene) -> Generator[None, None, str]:
    """A lease while a dump is due, once shorter and once longer than the limit to waiting."""
    succeeds(scene, "dump")
    scene.undo("/mf/bin/throttle off --owner chaos; rm -f /run/chaos-due")
    scene.host.run("/mf/bin/throttle on --owner chaos --mark-only --ttl 25s --reason 'fault suite'")
    scene.host.python(AGE, "dump", str(1.1 * PERIOD))
    before = json.loads(scene.host.run("cat /mf/var/state/backup.json"))["jobs"]["dump"]["archive"]
    scene.host.run(f"({BACKUP} due > /run/chaos-due 2>&1; echo over >> /run/chaos-due) &")
    scene.broken()
    yield
    scene.wait(8)
    must("over" not in scene.host.ask("cat /run/chaos-due")[1], "it didn't wait")
    scene.until("it is done when the lease has ended", lambda: "over" in scene.host.ask("cat /run/chaos-due")[1], 240)
    after = json.loads(scene.host.run("cat /mf/var/state/backup.json"))["jobs"]["dump"]["archive"]
    must(after != before, "it was skipped")
    scene.healed()
    scene.host.run("/mf/bin/throttle on --owner chaos --mark-only --ttl 1h --reason 'fault suite'")
    code, out = scene.host.ask(f"/mf/bin/throttle run --max 3s -- {BACKUP} run dump --wait 3m 2>&1", limit=240)
    if code:
        raise Deviation(f"with its patience at an end it didn't run: {out[-200:]}")
    return "waited for the lease's end; and no longer than its limit"
