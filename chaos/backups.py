"""Jobs, alarms and the repository of control and offsite, as the faults of the backups use them."""

from __future__ import annotations

import json
import os
import subprocess
from typing import Any

from chaos import ROOT
from chaos.scene import OFFSITE, Host, Scene, must

BACKUP = "/mf/bin/backup"
RECORD = "/mf/var/state/backup.json"
REPOSITORY = "/mf/var/offsite/repository"
LOAD = "/mf/var/chaos-load"  # below /mf: it is part of the daily archive
OUT = "/run/chaos-out"  # what a job in the background printed
# $1 text that must be in the command line, $2 user (or empty): pids of such processes, this one left out
PIDS = """
import os, pwd, sys
wanted = pwd.getpwnam(sys.argv[2]).pw_uid if sys.argv[2] else None
for pid in filter(str.isdigit, os.listdir("/proc")):
    try:
        words = open(f"/proc/{pid}/cmdline", "rb").read().replace(b"\\0", b" ").decode(errors="replace")
        owner = os.stat(f"/proc/{pid}").st_uid
    except OSError:
        continue
    if sys.argv[1] in words and int(pid) != os.getpid() and wanted in (None, owner):
        print(pid)
"""
# What borg needs to work by hand on control, as an operator has it; without the repository lock of the host.
BY_HAND = """\
export BORG_BASE_DIR=/mf/var/backup/borg BORG_PASSCOMMAND='cat /mf/etc/backup/passphrase' \
BORG_RELOCATED_REPO_ACCESS_IS_OK=yes BORG_REPO=$(/usr/bin/python3 -c \
'import json; print(json.load(open("/mf/etc/mf.json"))["backup"]["repository"])') \
BORG_RSH='ssh -F none -i /mf/etc/backup/ssh.key -o IdentitiesOnly=yes -o BatchMode=yes \
-o UserKnownHostsFile=/mf/etc/backup/known_hosts'
"""
SLOW = "tc qdisc add dev eth0 root tbf rate 16mbit burst 64k latency 300ms"  # 2 MB a second: there is a middle to hit
FAST = "tc qdisc del dev eth0 root 2>/dev/null"


def offsite(scene: Scene) -> Host:
    """The machine that keeps the backups."""
    return scene.fleet[OFFSITE]


def run(scene: Scene, job: str, limit: float = 240) -> dict[str, Any]:
    """Run a job; return its record."""
    _, out = scene.host.ask(f"{BACKUP} run {job} --json --wait 3m 2>/dev/null", limit=limit)
    answer = json.loads(out)
    return answer if isinstance(answer, dict) else {}


def alarm(scene: Scene, host: Host, check: str, status: str, expected: str) -> str:
    """Require the alarm from the check and from the host's mf_health; return it for the table."""
    result = host.check(check)
    shown = f"check-{check} reports {result.get('status')}: {result.get('summary')}"
    must(
        result.get("status") == status and expected in str(result.get("summary")),
        f"{shown}, not {status} with {expected!r}",
    )
    asked = subprocess.run(
        ["ansible", host.name, "-m", "mf_health"],
        cwd=ROOT,
        env={**os.environ, "NO_COLOR": "1", "ANSIBLE_NOCOLOR": "1"},
        capture_output=True,
        text=True,
        check=False,
    ).stdout
    must(f'"status": "{status}"' in asked and expected in asked, f"mf_health reports: {' '.join(asked.split())[:200]}")
    return f"check-{check} and mf_health: {status}"


def well(scene: Scene) -> None:
    """Require that no alarm is left, here or off-site; note the time to heal."""
    for host, check in ((scene.host, "backup"), (offsite(scene), "offsite")):
        result = host.check(check)
        must(result.get("status") == "OK", f"check-{check} still reports: {result.get('summary')}")
    scene.healed()


def succeeds(scene: Scene, job: str, limit: float = 240) -> None:
    """Require that the job succeeds and that no alarm is left."""
    past = run(scene, job, limit)
    must(not past["failures"], f"{job} still fails: {past['error']}")
    well(scene)


def fails(scene: Scene, job: str, kinds: tuple[str, ...], status: str = "WARNING", limit: float = 240) -> str:
    """Require that the job fails for one of these reasons and that the checks report it; return which."""
    past = run(scene, job, limit)
    must(past["failures"] and past["kind"] in kinds, f"{job}: {past['kind'] or 'no failure'}: {past['error']}")
    return alarm(scene, scene.host, "backup", status, f"{job} failed")


def due(scene: Scene) -> None:
    """Run the due jobs as cron does every ten minutes; cron's own run may have been first."""
    scene.host.ask(f"{BACKUP} due; flock --wait 300 /run/mf/lock/backup-due.lock true", limit=600)


def begin(scene: Scene, command: str) -> int:
    """Start a command in the background; its pid. What it prints is in OUT."""
    scene.undo(f"rm -f {OUT}")
    return int(scene.host.run(f"{command} > {OUT} 2>&1 & echo $!"))


def pids(host: Host, arguments: str, user: str = "") -> list[int]:
    """Processes of the host whose command line contains `arguments`."""
    return [int(pid) for pid in host.python(PIDS, arguments, user).split()]


def kill(host: Host, processes: list[int]) -> None:
    """SIGKILL."""
    must(processes, f"there was nothing to kill on {host.name}")
    host.ask(f"kill -9 {' '.join(map(str, processes))}")


def load(scene: Scene, megabytes: int) -> str:
    """Add that much data to save; return its SHA-256."""
    scene.undo(f"rm -rf {LOAD}")
    scene.host.run(f"mkdir -p {LOAD}; head -c {megabytes}M /dev/urandom > {LOAD}/random")
    return scene.host.run(f"sha256sum < {LOAD}/random").split()[0]


def saved(scene: Scene, digest: str) -> None:
    """Require that the newest daily archive has the load, bit for bit."""
    archive = json.loads(scene.host.run(f"cat {RECORD}"))["jobs"]["full"]["archive"]
    out = scene.host.run(f"{BY_HAND} borg extract --stdout ::{archive} {LOAD[1:]}/random | sha256sum", limit=240)
    must(out.split()[0] == digest, f"{archive} has another content")


def nothing_half(scene: Scene) -> None:
    """Require that the repository has exactly the recorded archives, and no checkpoint."""
    code, out = scene.host.ask(f"{BACKUP} list --json --wait 3m", limit=300)
    listed = json.loads(out) if code == 0 else {}
    must(listed and not listed["missing"] + listed["unknown"] + listed["changed"], f"backup list: {out[-200:]}")
    names = scene.host.run(f"{BY_HAND} borg list --short --consider-checkpoints", limit=120).split()
    half = [name for name in names if ".checkpoint" in name]
    must(names and not half, f"there is a half archive: {half}")


def size(scene: Scene) -> int:
    """Bytes of the repository."""
    return int(offsite(scene).run(f"du -sb {REPOSITORY} | cut -f1") or 0)


def under_way(scene: Scene, command: str, before: int) -> int:
    """Start a job over a slow line and wait until its bytes arrive; its pid."""
    scene.undo(FAST)
    scene.host.run(SLOW)
    pid = begin(scene, command)
    scene.until("bytes arrive", lambda: size(scene) > before + 2_000_000, 120, every=0.2)
    return pid
