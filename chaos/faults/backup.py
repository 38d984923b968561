"""Faults of the backups: offsite gone, cut, damaged, full; crashes, clocks, the throttle, two at once, the quota.

A *period* is hours long, so it isn't waited for: the record of the last success is moved back by as much instead, and
the deployed check and schedule judge that by the real clock. Alarms are judged where operators see them: in the
check's result, and in the answer of the module mf_health.
"""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Generator

from chaos import ROOT, site_command
from chaos.backups import (
    BACKUP,
    BY_HAND,
    FAST,
    LOAD,
    OUT,
    RECORD,
    REPOSITORY,
    alarm,
    begin,
    due,
    fails,
    kill,
    load,
    nothing_half,
    offsite,
    pids,
    run,
    saved,
    size,
    succeeds,
    under_way,
    well,
)
from chaos.scene import CONTROL, Scene, fault, must

PERIOD = 14400  # s from one dump to the next

# $1 job, $2 seconds: move the success and the start of the job on record that much back; a job of cron's that is under
# way would write its own record over it
AGE = f"""
import fcntl, json, sys
lock = open("/run/mf/lock/backup-turn.lock", "a")
fcntl.flock(lock, fcntl.LOCK_EX)
record = json.load(open("{RECORD}"))
past = record["jobs"].setdefault(sys.argv[1], {{}})
for name in ("started", "succeeded"):
    past[name] = past.get(name, 0) - float(sys.argv[2])
json.dump(record, open("{RECORD}", "w"))
"""
# $1 seconds: the limit to waiting for the throttle; prints what it was
PATIENCE = """
import json, sys
settings = json.load(open("/mf/etc/mf.json"))
print(settings["backup"]["throttle_wait"])
settings["backup"]["throttle_wait"] = int(sys.argv[1])
json.dump(settings, open("/mf/etc/mf.json", "w"), indent=4)
"""


@fault("backup", "offsite down for two periods", "failed and late: WARNING; made up for by itself", CONTROL)
def down(scene: Scene) -> Generator[None, None, str]:
    """Its sshd is stopped; the last success, and the last segment off-site, are moved back by more than two periods."""
    succeeds(scene, "dump")
    where = offsite(scene)
    scene.undo("systemctl start ssh.service", where)
    where.run("systemctl stop ssh.socket 2>/dev/null; systemctl stop ssh.service")
    scene.broken()
    yield
    fails(scene, "dump", ("unreachable",))
    scene.host.python(AGE, "dump", str(2.2 * PERIOD))
    report = alarm(scene, scene.host, "backup", "WARNING", "dump late: 8.8 h")
    where.run(f"find {REPOSITORY}/data -type f -exec touch -d '9 hours ago' {{}} +")
    quiet = where.check("offsite")
    must("nothing new for 9.0 h" in str(quiet.get("summary")), f"check-offsite: {quiet.get('summary')}")
    where.run("systemctl start ssh.service")
    due(scene)
    well(scene)
    return f"{report}; check-offsite: {quiet['status']}; cron's next look made up for it"


@fault(
    "backup",
    "link cut in mid-transfer",
    "noticed within three minutes; no half archive; the next run is whole",
    CONTROL,
)
def cut(scene: Scene) -> Generator[None, None, str]:
    """Packets vanish without an error while files are on their way."""
    digest = load(scene, 40)
    back = f"ip route del blackhole {scene.host.address}"
    scene.undo(back, offsite(scene))
    under_way(scene, f"{BACKUP} run full --json", size(scene))
    offsite(scene).run(f"ip route add blackhole {scene.host.address}")
    scene.broken()
    yield
    took = scene.until("it is noticed", lambda: "{" in scene.host.ask(f"cat {OUT}")[1], 180)
    past = json.loads(scene.host.run(f"cat {OUT}"))
    must(
        past["failures"] and past["kind"] in ("cut", "unreachable"),
        f"the run ended as {past['kind'] or 'done'}: {past['error']}",
    )
    report = alarm(scene, scene.host, "backup", "WARNING", "full failed: ")
    scene.host.run(FAST)
    offsite(scene).run(back)
    succeeds(scene, "full", 400)
    nothing_half(scene)
    saved(scene, digest)
    return f"noticed after {took:.0f} s; {report}; the next run was whole"


@fault("backup", "repository corrupted", "verify finds it: CRITICAL", CONTROL)
def corrupted(scene: Scene) -> Generator[None, None, str]:
    """Some bytes in the middle of a segment change."""
    succeeds(scene, "full")
    where = offsite(scene)
    victim = where.run(f"ls -S {REPOSITORY}/data/0/* | head -1").strip()
    mend = f"[ ! -e /mf/var/offsite/kept ] || mv /mf/var/offsite/kept {victim}"
    scene.undo(mend, where)
    where.run(
        f"cp -a {victim} /mf/var/offsite/kept;"
        f" printf 'damage damage damage' | dd of={victim} bs=1 seek=$(($(stat -c %s {victim}) / 2)) conv=notrunc 2>&1"
    )
    scene.broken()
    yield
    failure = fails(scene, "verify", ("corrupt",), "CRITICAL", 400)
    where.run(mend)
    succeeds(scene, "verify", 400)
    return f"found by the repository's check; {failure}"


@fault("backup", "disk full off-site", "reported before and after; works when there is room", CONTROL)
def full_there(scene: Scene) -> Generator[None, None, str]:
    """The repository lies on a file system that something else has filled."""
    digest = load(scene, 30)
    where = offsite(scene)
    away = "umount -l /mf/var/offsite 2>/dev/null; umount -l /run/chaos-disk 2>/dev/null"
    scene.undo(away, where)
    where.run(
        f"mkdir -p /run/chaos-disk; mount -t tmpfs -o size={size(scene) // (1 << 20) + 200}m chaos /run/chaos-disk;"
        " cp -a /mf/var/offsite/. /run/chaos-disk/; chown mf-offsite: /run/chaos-disk; chmod 700 /run/chaos-disk;"
        " head -c 194M /dev/zero > /run/chaos-disk/filler; mount --bind /run/chaos-disk /mf/var/offsite"
    )
    scene.broken()
    yield
    before = alarm(scene, where, "offsite", "CRITICAL", "of the file system's space free")
    failure = fails(scene, "full", ("full", "offsite"))
    where.run("rm /run/chaos-disk/filler")
    past = run(scene, "full", 400)
    must(not past["failures"], f"with room it still fails: {past['error']}")
    saved(scene, digest)
    # back to the real disk, with all that was saved meanwhile
    where.run(f"cp -a /run/chaos-disk/repository /run/chaos-kept; {away}; rm -r {REPOSITORY}")
    where.run(f"mv /run/chaos-kept {REPOSITORY}; rmdir /run/chaos-disk")
    succeeds(scene, "full", 400)
    return f"before: {before}; the run failed: {failure}; with room the same run worked"


@fault(
    "backup", "disk full on control", "reported, though nothing can be put on record; works when there is room", CONTROL
)
def full_here(scene: Scene) -> Generator[None, None, str]:
    """Borg's cache and the record lie on file systems without a byte left."""
    digest = load(scene, 5)
    places = ("/mf/var/backup", "/mf/var/state")
    away = "; ".join(f"umount -l {place} 2>/dev/null" for place in places)
    scene.undo(away)
    for place in places:
        scene.host.run(
            "mkdir -p /run/chaos-disk; mount -t tmpfs -o size=1m chaos /run/chaos-disk;"
            " cp -a $1/*.json* /run/chaos-disk 2>/dev/null || :;"
            " cat /dev/zero > /run/chaos-disk/filler 2>/dev/null || :;"
            " mount --bind /run/chaos-disk $1; umount -l /run/chaos-disk",
            place,
        )
    scene.broken()
    yield
    code, out = scene.host.ask(f"{BACKUP} run full --wait 3m 2>&1", limit=240)
    must(code == 1 and len(out.splitlines()) == 1 and "No space left" in out, f"ended with {code}: {out[-200:]}")
    report = alarm(scene, scene.host, "backup", "CRITICAL", "no room to put anything on record")
    scene.host.ask(away)
    succeeds(scene, "full")
    saved(scene, digest)
    return f"one clear line, exit code 1; {report}; the same run worked afterwards"


@fault("backup", "two backups at once", "the second is refused, or waits; both whole", CONTROL)
def two(scene: Scene) -> Generator[None, None, str]:
    """An operator starts one while cron's is under way."""
    digest = load(scene, 20)
    under_way(scene, f"{BACKUP} run full --json", size(scene))
    scene.broken()
    yield
    code, out = scene.host.ask(f"{BACKUP} run dump --wait 1s 2>&1")
    must(
        code == 4 and "another job holds the repository lock" in out, f"the second run ended with {code}: {out[-200:]}"
    )
    must("{" not in scene.host.run(f"cat {OUT}"), "the first was over before the second began")
    past = run(scene, "dump", 400)
    first = json.loads(scene.host.run(f"cat {OUT}"))
    must(not past["failures"] and not first["failures"], f"one failed: {past['error'] or first['error']}")
    must(past["started"] >= first["started"] + first["seconds"] - 1, "the second didn't wait")
    well(scene)
    saved(scene, digest)
    nothing_half(scene)
    return "refused with exit code 4; with --wait it went second; no alarm needed"


@fault("backup", "clock ahead by a year", "WARNING; the next run is made all the same and is the newest", CONTROL)
def skew(scene: Scene) -> Generator[None, None, str]:
    """A dump is made under a clock that is a year ahead, here and in the times of the files off-site."""
    scene.host.run("command -v faketime || apt-get install -y -qq faketime", limit=240)
    succeeds(scene, "dump")
    scene.host.run(f"faketime -f +365d {BACKUP} run dump --wait 3m", limit=240)
    offsite(scene).run(f"find {REPOSITORY}/data -type f -exec touch -d '+365 days' {{}} +")
    scene.broken()
    yield
    report = alarm(scene, scene.host, "backup", "WARNING", "in the future")
    there = alarm(scene, offsite(scene), "offsite", "WARNING", "in the future")
    ahead = json.loads(scene.host.run(f"cat {RECORD}"))["jobs"]["dump"]["archive"]
    must(ahead.split("-")[3] == time.strftime("%Y", time.gmtime(time.time() + 365 * 86400)), f"{ahead} isn't ahead")
    due(scene)
    newest = json.loads(scene.host.run(f"cat {RECORD}"))["jobs"]["dump"]["archive"]
    must(newest != ahead, "no dump was made anew")
    past = run(scene, "drill")
    must(past["archive"] == newest and not past["failures"], f"the drill took {past['archive']}, not {newest}")
    well(scene)
    return f"{report}; {there}; done anew at cron's next look, and that one is restored"


@fault("backup", "killed on both sides, locks left behind", "the next run works by itself, on the record", CONTROL)
def killed(scene: Scene) -> Generator[None, None, str]:
    """SIGKILL for Borg here and there, in mid-transfer; and a lock that no process of that machine can explain."""
    digest = load(scene, 30)
    where, lock = offsite(scene), f"{REPOSITORY}/lock.exclusive"
    pid = under_way(scene, f"{BACKUP} run full", size(scene))
    kill(where, pids(where, "borg serve", "mf-offsite"))
    kill(scene.host, [pid, *pids(scene.host, "/usr/bin/borgmatic"), *pids(scene.host, "borg create")])
    where.run(
        f"rm -rf {lock}; mkdir {lock}; touch {lock}/elsewhere@1.1-1; chown -R mf-offsite: {lock}",
    )
    scene.broken()
    yield
    scene.host.run(FAST)
    succeeds(scene, "full", 400)
    must(len(scene.decided(check="backup", action="break-lock")) == 1, "the lock was broken without a word")
    nothing_half(scene)
    saved(scene, digest)
    return "broken on the record: under flock no other writer can be there; no alarm needed"


@fault("backup", "lock of a living holder", "never broken: the next run is refused, or waits", CONTROL)
def living(scene: Scene) -> Generator[None, None, str]:
    """A job dies and its Borg lives on; then an operator's own Borg has the repository."""
    load(scene, 30)
    pid = under_way(scene, f"{BACKUP} run full", size(scene))
    kill(scene.host, [pid])
    scene.broken()
    yield
    must(pids(scene.host, "borg create"), "Borg died with its parent")
    code, out = scene.host.ask(f"{BACKUP} run dump --wait 1s 2>&1")
    must(code == 4, f"beside a living Borg the next run ended with {code}: {out[-200:]}")
    scene.host.run(FAST)
    scene.until("what was orphaned ends", lambda: not pids(scene.host, "borg create"), 120)
    holder = begin(scene, f"({BY_HAND} exec borg with-lock :: sleep 45)")
    scene.until("it has the lock", lambda: bool(pids(scene.host, "sleep 45")), 60, every=0.2)
    past = run(scene, "dump", 400)
    must(not scene.host.alive(holder), "it didn't wait for the holder")
    must(not past["failures"] and past["seconds"] > 30, f"after {past['seconds']} s: {past['error'] or 'done'}")
    must(not scene.decided(check="backup", action="break-lock"), "a living holder's lock was broken")
    succeeds(scene, "full", 400)
    nothing_half(scene)
    return f"refused with exit code 4; then waited for {past['seconds']:.0f} s; nothing was broken; no alarm needed"


@fault("backup", "throttled all the while", "waits, late: WARNING; not skipped: waiting has a limit", CONTROL)
def throttled(scene: Scene) -> Generator[None, None, str]:
    """A lease of an hour while a dump is late; the limit to waiting is 20 s here instead of an hour."""
    succeeds(scene, "dump")
    scene.undo("/mf/bin/throttle off --owner chaos")
    before = json.loads(scene.host.run(f"cat {RECORD}"))["jobs"]["dump"]["archive"]
    limit = int(scene.host.python(PATIENCE, "20"))
    scene.later(lambda: scene.host.python(PATIENCE, str(limit)))
    scene.host.run("/mf/bin/throttle on --owner chaos --mark-only --ttl 1h --reason 'fault suite'")
    scene.host.python(AGE, "dump", str(1.6 * PERIOD))
    began = time.monotonic()
    begin(scene, f"({BACKUP} due; echo over)")
    scene.broken()
    yield
    report = alarm(scene, scene.host, "backup", "WARNING", "dump late: 6.4 h")
    must("over" not in scene.host.run(f"cat {OUT}"), "it didn't wait")
    scene.until("its patience ends", lambda: "over" in scene.host.run(f"cat {OUT}"), 120, every=0.5)
    took = time.monotonic() - began
    must(took >= 20, f"it waited for {took:.0f} s only")
    must(scene.host.ask("/mf/bin/throttle status")[0] != 0, "the lease was over")
    after = json.loads(scene.host.run(f"cat {RECORD}"))["jobs"]["dump"]["archive"]
    must(after != before, "it was skipped")
    well(scene)
    return f"{report}; ran after {took:.0f} s while the throttle was still on (limit 20 s here)"


@fault("backup", "quota used up", "WARNING, then CRITICAL before Borg stops; nothing saved is lost", CONTROL)
def quota(scene: Scene) -> Generator[None, None, str]:
    """Offsite is deployed with the smallest quota, and backups grow towards it."""
    where = offsite(scene)
    scene.later(deploy)
    succeeds(scene, "full")
    room(scene)
    deploy(mf_offsite_quota=100_000_000)
    grow(scene, 80)
    scene.broken()
    yield
    reports = [alarm(scene, where, "offsite", "WARNING", "of the quota used")]
    digest = grow(scene, 94)
    reports.append(alarm(scene, where, "offsite", "CRITICAL", "of the quota used"))
    result = scene.host.check("backup")
    must(result.get("status") == "OK", f"Borg stopped before the alarm: {result.get('summary')}")
    scene.host.run(f"head -c 20M /dev/urandom > {LOAD}/more")
    reports.append(fails(scene, "full", ("quota",)))
    saved(scene, digest)
    nothing_half(scene)
    past = run(scene, "drill")
    must(not past["failures"], f"at the quota a drill fails: {past['error']}")
    room(scene)
    succeeds(scene, "full", 400)
    saved(scene, digest)
    return f"{'; '.join(reports)}; list, restore and drill go on; prune and compact make room"


def room(scene: Scene) -> None:
    """An attended prune that the operator confirms: it deletes all daily archives of today but the newest."""
    before = size(scene)
    command = ["ansible-playbook", str(ROOT / "playbooks/prune_offsite.yml"), "-e", "prune=yes"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    must(done.returncode == 0, f"prune_offsite.yml: {done.stdout[-500:]}")
    must(size(scene) < before, "prune_offsite.yml made no room")


def grow(scene: Scene, percent: int) -> str:
    """Save new data until the repository has that share of 100 MB; the data's SHA-256."""
    missing = percent * 1_000_000 - size(scene)
    must(missing > 0, "the repository is too large for this already")
    scene.undo(f"rm -rf {LOAD}")
    scene.host.run(f"mkdir -p {LOAD}; head -c {missing} /dev/urandom > {LOAD}/random")
    past = run(scene, "full", 400)
    must(not past["failures"], f"below the quota: {past['error']}")
    return scene.host.run(f"sha256sum < {LOAD}/random").split()[0]


def deploy(**settings: object) -> None:
    """Offsite, with these settings."""
    done = subprocess.run(site_command("offsite", **settings), cwd=ROOT, capture_output=True, text=True, check=False)
    must(done.returncode == 0, f"deployment: {done.stdout[-300:]}")
