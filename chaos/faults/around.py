"""Faults around the checks: full and read-only disks, torn files, too many runs, too few, killed ones."""

from __future__ import annotations

import threading
from collections.abc import Generator

from chaos.scene import Host, Scene, fault, must

LANE = "any"
FULL = "dd if=/dev/zero of=$1/full bs=4k 2>/dev/null || :"
TRACEBACKS = (
    "journalctl --quiet --since @$1 -t mf -o json --output-fields=MF_TRACEBACK,MESSAGE | grep -c TRACEBACK || :"
)
RESULTS = ("load", "processes", "queue", "smtp")


def now_on(host: Host) -> str:
    """The host's time in epoch seconds."""
    return host.run("date +%s").strip()


def tracebacks(host: Host, since: str) -> int:
    """How many internal errors the checks have reported."""
    return int(host.ask(TRACEBACKS, since)[1].strip() or 0)


def freeze(scene: Scene) -> None:
    """Stop the master: something to heal."""
    pid = scene.host.master()
    scene.undo(f"kill -CONT {pid}")
    scene.host.run(f"kill -STOP {pid}")
    scene.broken()


def die(scene: Scene) -> None:
    """Kill the master: something to heal, noticed sooner than a silent master."""
    scene.host.run(f"kill -9 {scene.host.master()}")
    scene.broken()


def restarted(scene: Scene) -> None:
    """Wait until it is healed."""
    scene.until("mail is accepted again", lambda: scene.sees() == "220", 130, scene.host.checks)
    scene.healed()


@fault("around", "/mf/var full", "a dead service is started all the same", LANE)
def var_full(scene: Scene) -> Generator[None, None, str]:
    """No decision can be logged, no breaker stored on disk."""
    since = now_on(scene.host)
    scene.undo("umount /mf/var")
    scene.host.run(
        "mount -t tmpfs -o size=128k,mode=0755 chaos /mf/var; mkdir /mf/var/state /mf/var/log; "
        "install -d -o qpsmtpd -g qpsmtpd -m 0750 /mf/var/rejected; " + FULL,
        "/mf/var",
    )
    die(scene)
    yield
    restarted(scene)
    must(tracebacks(scene.host, since) == 0, "a check had an internal error")
    breaker = scene.host.ask("cat /run/mf/state/breaker.fallback")[1]
    must("restarts" in breaker, "the start wasn't counted")
    return "started; counted on tmpfs instead"


@fault("around", "/mf/var read-only", "a dead service is started all the same", LANE)
def var_read_only(scene: Scene) -> Generator[None, None, str]:
    """As after an IO error of its disk."""
    since = now_on(scene.host)
    scene.undo("umount /mf/var")
    scene.host.run("mount --bind /mf/var /mf/var && mount -o remount,ro,bind /mf/var")
    die(scene)
    yield
    restarted(scene)
    must(tracebacks(scene.host, since) == 0, "a check had an internal error")
    return "started; counted on tmpfs instead"


@fault("around", "/run/mf full", "a dead service is started; health turns UNKNOWN, never stale green", LANE)
def run_full(scene: Scene) -> Generator[None, None, str]:
    """Results can't be stored."""
    scene.undo("umount /run/mf")
    scene.host.run(
        "mount -t tmpfs -o size=64k,mode=0755 chaos /run/mf; mkdir -m 0755 /run/mf/lock /run/mf/state; " + FULL,
        "/run/mf",
    )
    die(scene)
    yield
    restarted(scene)
    code, output = scene.host.ask("/mf/bin/health")
    must(code >= 2, f"health ended with {code}: {output[:100]}")
    return f"started; health is {output.split()[1] if len(output.split()) > 1 else output[:40]}"


@fault("around", "state files truncated", "next run writes them anew, no internal error", LANE)
def truncated(scene: Scene) -> Generator[None, None, str]:
    """Half of each, then nothing of each."""
    since = now_on(scene.host)
    yield
    for script in ("truncate -s $(($(stat -c %s $1) / 2)) $1", ": > $1"):
        scene.host.run(
            'for file in $(find /run/mf/state /mf/var/state -type f) /run/mf/reconciled; do [ ! -e "$file" ] || '
            f"sh -c '{script}' sh \"$file\"; done"
        )
        scene.broken()
        scene.until(
            "all results are OK",
            lambda: all(scene.host.result(name).get("status") == "OK" for name in RESULTS),
            90,
            scene.host.checks,
        )
        scene.healed()
    must(tracebacks(scene.host, since) == 0, "a check had an internal error")
    return "all results OK after the next run, twice"


@fault("around", "ten overlapping runs", "no noise, no internal error, results whole", LANE)
def overlapping(scene: Scene) -> Generator[None, None, str]:
    """Each finds the locks of the one before."""
    since = now_on(scene.host)
    yield
    scene.host.run(
        "rm -f /run/chaos-noise; for n in 1 2 3 4 5 6 7 8 9 10; do "
        "/mf/bin/run-checks --all > /dev/null 2>> /run/chaos-noise & done; wait",
        limit=120,
    )
    noise = scene.host.ask("cat /run/chaos-noise; rm -f /run/chaos-noise")[1]
    must(not noise.strip(), f"on stderr: {noise[:100]}")
    must(tracebacks(scene.host, since) == 0, "a check had an internal error")
    must(all(scene.host.result(name).get("status") == "OK" for name in RESULTS), "a result isn't OK")
    return "ten at once, quiet, all OK"


# Makes every result $1 seconds older than it is.
AGE_RESULTS = """
import glob, json, sys
for path in glob.glob("/run/mf/state/*.json"):
    result = json.load(open(path))
    for key in ("started", "finished", "next_due", "next_due_boottime"):
        result[key] -= float(sys.argv[1])
    text = json.dumps(result)
    open(path, "w").write(text + chr(10))
"""


@fault("around", "cron missed 10 minutes, then all at once", "UNKNOWN meanwhile, OK after one run", LANE)
def cron_missed(scene: Scene) -> Generator[None, None, str]:
    """Results are made ten minutes older instead of waiting; then ten runs start together."""
    scene.undo("systemctl start cron.service")
    scene.host.run("systemctl stop cron.service")
    scene.wait(2)
    # its own turn may have fallen into a fault that had stopped cron as well
    scene.host.run("/mf/bin/purge-rejected")
    scene.host.python(AGE_RESULTS, "600")
    yield
    code, output = scene.host.ask("/mf/bin/health")
    must(code == 3, f"health ended with {code} though cron is dead: {output[:100]}")
    scene.broken()
    scene.host.run("systemctl start cron.service")
    scene.host.run("for n in 1 2 3 4 5 6 7 8 9 10; do /mf/bin/run-checks > /dev/null 2>&1 & done; wait", limit=120)
    scene.until("health is OK", lambda: scene.host.ask("/mf/bin/health")[0] == 0, 70)
    scene.healed()
    return "UNKNOWN meanwhile; OK after the first run"


@fault("around", "checks killed in the middle", "next run heals, no lock left", LANE, seconds=35)
def killed(scene: Scene) -> Generator[None, None, str]:
    """SIGKILL, as the kernel does when memory is short: parent and children, while they diagnose a frozen service."""
    freeze(scene)
    yield
    round_ = threading.Thread(target=scene.host.checks, daemon=True)
    round_.start()
    # the brackets keep the pattern from matching the shell that looks
    running = "pgrep -f '[b]in/run-checks'"
    scene.until("a check is in its slow path", lambda: len(scene.host.ask(running)[1].split()) > 1, 30)
    victims = scene.host.ask(running)[1].split()
    scene.host.ask(f"kill -9 {' '.join(victims)}")
    round_.join(60)
    restarted(scene)
    return f"{len(victims)} killed; the next run restarted the service"


# Runs the checks in a memory cgroup of their own that gets smaller from run to run, until the kernel's OOM killer has
# struck: prints how often, at which limit, and their output. Version 1 is mounted anew, for containers have it
# read-only; where there is only version 2, systemd sets the limit.
STARVE = r"""
import os, subprocess, sys
where = "/run/chaos-memory"
group = next((line.split(":")[2] for line in open("/proc/self/cgroup").read().split("\n") if ":memory:" in line), None)
command = ["/mf/bin/run-checks", "--all"]

def killed(path):
    return int(open(path).read().split("oom_kill ")[1].split()[0])

def first():
    own = f"{where}{group}/chaos"
    os.makedirs(where, exist_ok=True)
    subprocess.run(["mount", "-t", "cgroup", "-o", "memory", "chaos", where], check=True)
    os.mkdir(own)
    for limit in range(14, 1, -1):
        open(f"{own}/memory.limit_in_bytes", "w").write(f"{limit}M")
        enter = lambda: open(f"{own}/cgroup.procs", "w").write(str(os.getpid()))
        done = subprocess.run(command, preexec_fn=enter, stdout=subprocess.PIPE, text=True)
        if count := killed(f"{own}/memory.oom_control"):
            return count, limit, done

def second():
    for limit in range(14, 1, -1):
        words = ["systemd-run", "--quiet", "--wait", "--pipe", "-p", f"MemoryMax={limit}M", "-p", "MemorySwapMax=0"]
        done = subprocess.run([*words, "-p", "OOMPolicy=continue", *command], stdout=subprocess.PIPE, text=True)
        if done.returncode not in (0, 1, 2, 3) or "killed by signal 9" in done.stdout:
            return 1, limit, done

count, limit, done = first() if group else second()
print(count, limit, done.returncode, done.stdout.replace("\n", "; "))
"""


@fault(
    "around", "OOM kill of a check", "reported UNKNOWN or by its age; next run heals, no lock left", LANE, seconds=35
)
def out_of_memory(scene: Scene) -> Generator[None, None, str]:
    """The kernel's own OOM kill, while the check diagnoses a frozen service."""
    scene.undo(
        "rmdir /run/chaos-memory/*/*/chaos /run/chaos-memory/*/chaos; umount /run/chaos-memory; rmdir /run/chaos-memory"
    )
    scene.undo("systemctl start cron.service")
    scene.host.run("systemctl stop cron.service; flock /run/mf/lock/smtp.lock true")
    freeze(scene)
    yield
    count, limit, code, output = scene.host.python(STARVE, limit=180).split(" ", 3)
    must(int(count) > 0, "the kernel killed nothing")
    must(int(code) != 0, f"the checks ended with {code}: {output[:100]}")
    restarted(scene)
    must(all(scene.host.result(name).get("status") != "UNKNOWN" for name in RESULTS), "a result is still UNKNOWN")
    return f"{count} killed by the kernel at {limit} MiB; the next run restarted the service"
