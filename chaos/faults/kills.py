"""Faults of kills: a core burnt, an orphan, the limit of a run, a crowded host, a pid that is used again."""

from __future__ import annotations

import time
from collections.abc import Generator

from chaos.faults.processes import LANE, child_of, die, start
from chaos.plugin import add_plugin
from chaos.scene import Scene, fault, must

# Moves process $1 into the cgroup of process 1, in whichever hierarchy systemd keeps its own.
LEAVE_CGROUP = """
moved=1
for line in $(grep -e name=systemd -e '^0:' /proc/1/cgroup); do
    for root in /sys/fs/cgroup /sys/fs/cgroup/systemd /sys/fs/cgroup/unified; do
        group=$root${line##*:}
        [ -e $group/cgroup.procs ] && echo $1 > $group/cgroup.procs && moved=0
    done
done
exit $moved
"""
FORKS = """
import os, signal, sys
signal.signal(signal.SIGTERM, signal.SIG_DFL)
for _ in range(int(sys.argv[1])):
    if os.fork() == 0:
        signal.pause()
        os._exit(0)
print("ready", flush=True)
signal.pause()
"""


# A line of carriage returns, as a stranger can send it, before an expression that tries each of them with all the rest:
# hours, and no signal gets through to Perl meanwhile. "a" is honest: much CPU for its size, and then it goes on.
BURNER = r"""
sub hook_mail {
    my ($self, $transaction, $sender) = @_;
    if ($sender->user eq 'blocked') {
        my $line = ("\r" x 1_000_000) . 'x';
        $line =~ s/\r*\n?\z//;
    }
    return burn($sender);
}
sub hook_rcpt { return burn($_[1]->sender) }
sub hook_data { return burn($_[1]->sender) }
sub burn {
    my $cpu   = sub { my ($user, $system) = times; $user + $system };
    my $begun = $cpu->();
    1 while $_[0]->user eq 'a' && $cpu->() - $begun < 4;
    return DECLINED;
}
"""


@fault("processes", "a session burns a core", "killed; one that used as much CPU and moves lives", "any", seconds=130)
def burning(scene: Scene) -> Generator[None, None, str]:
    """The lab's limit is 10 s of CPU instead of 60."""
    add_plugin(scene, BURNER)
    honest = scene.sessions()
    moving = child_of(scene, honest, "moving", "data", 2.0, 300)
    clients = scene.sessions()
    before = set(scene.host.children())
    clients.open("fire", scene.host.address, "blocked")
    pids: list[int] = []

    def burns() -> bool:
        rows = scene.host.ask(f"ps -o pid=,times= --ppid {scene.host.master()}")[1].split("\n")
        pids[:] = [int(row.split()[0]) for row in rows if row.strip() and int(row.split()[1]) > 10]
        return bool(set(pids) - before)

    scene.until("a child has used 10 s of CPU", burns, 90)
    (pid,) = set(pids) - before
    scene.broken()
    yield
    outcome = die(scene, pid)
    must("s of CPU and not a byte moved for" in outcome, f"it was {outcome}")
    must(moving in pids, f"the other one hasn't used as much CPU: {pids}")
    must(scene.host.alive(moving), "the one that moves was killed")
    must(not scene.decided(action="kill", target=str(moving)), "a kill of the one that moves was decided")
    reply = honest.finish("moving")
    must(reply.startswith("250"), f"its final dot got: {reply}")
    return f"{outcome}; the other lived, then {reply[:3]}"


@fault("processes", "orphan after its master was killed", "idle one killed, service started again", "any", seconds=70)
def orphan(scene: Scene) -> Generator[None, None, str]:
    """systemd ends what is left of a unit's cgroup, so one child is moved out of it: as under an init without one."""
    clients = scene.sessions()
    pid = child_of(scene, clients, "orphan", "mail")
    scene.undo(f"kill -9 {pid}")
    code, output = scene.host.ask(LEAVE_CGROUP, str(pid))
    must(code == 0, f"the child can't be moved: {output}")
    scene.host.run(f"kill -9 {scene.host.master()}")
    scene.broken()
    must(scene.host.alive(pid), "the child died with its master")
    yield
    scene.until("mail is accepted again", lambda: scene.sees() == "220", 90, scene.host.checks, 2)
    back = time.monotonic() - scene.broken_at
    outcome = die(scene, pid)
    must(scene.decided(check="smtp", action="start", outcome="done"), "the service was not started by check-smtp")
    return f"service back after {back:.0f} s; orphan {outcome}"


@fault("processes", "more stuck than the cap", "5 killed, CRITICAL; the rest in the next run", "any", seconds=130)
def many_stuck(scene: Scene) -> Generator[None, None, str]:
    """Eight at once: something else is wrong, and the check reports that. Without cron, whose run would interfere."""
    scene.undo("systemctl start cron.service")
    scene.host.run("systemctl stop cron.service; flock /run/mf/lock/processes.lock true")
    clients = scene.sessions(scene.host)
    before = set(scene.host.children())
    for number in range(8):
        clients.open(f"stuck{number}", "127.0.0.1", "mail")
    for number in range(8):
        reply = clients.answer(f"stuck{number}")
        must(reply.startswith("250"), f"no session: {reply}")
    scene.wait(2)
    sessions = [pid for pid in scene.host.children() if pid not in before]
    pids = " ".join(map(str, sessions))
    scene.undo(f"kill -CONT {pids}")
    # a session of the mail that goes on may have ended meanwhile
    scene.host.ask(f"kill -STOP {pids}")
    stuck = [pid for pid in sessions if scene.host.alive(pid)]
    must(len(stuck) >= 8, f"only {len(stuck)} sessions")
    scene.broken()
    yield
    scene.wait(62)
    first = scene.host.check("processes")
    # a fault beside this one may have let cron see them before
    if not first.get("metrics", {}).get("killed"):
        scene.wait(46)
        first = scene.host.check("processes")
    left = [pid for pid in stuck if scene.host.alive(pid)]
    must(first.get("metrics", {}).get("killed") == 5, f"the first run reports: {first.get('summary')}")
    must(
        first.get("status") == "CRITICAL" and "kill limit" in str(first.get("summary")),
        f"it reports: {first.get('summary')}",
    )
    must(len(left) == len(stuck) - 5, f"{len(left)} of {len(stuck)} are left")
    scene.host.check("processes")
    must(not any(scene.host.alive(pid) for pid in left), "the next run left some alive")
    scene.healed()
    return "5 killed and CRITICAL, then the rest"


@fault("processes", "5,000 processes on the host", "all checks OK, in time", LANE)
def many_processes(scene: Scene) -> Generator[None, None, str]:
    """Sleeping ones: the scan has to pass them all."""
    pid = start(scene.host, FORKS, "5000", name="chaos-forks")
    scene.undo(f"kill -9 -{pid}; rm -f /run/chaos-forks.out")
    scene.until("they are there", lambda: "ready" in scene.host.ask("cat /run/chaos-forks.out")[1], 300)
    yield
    started = time.monotonic()
    result = scene.host.check("processes")
    took = time.monotonic() - started
    count = result.get("metrics", {}).get("processes", 0)
    must(result.get("status") == "OK", f"check-processes reports {result.get('status')}: {result.get('summary')}")
    must(count >= 5000, f"it saw {count} processes")
    must(took < 10, f"it took {took:.1f} s")
    must(scene.host.check("smtp").get("status") == "OK", "check-smtp isn't OK")
    return f"{count} processes seen, {took:.1f} s with podman's own part"


# Waits until check-processes has looked and decided (it has written what it saw, and now wants the action lock, which
# this program holds), then ends process $1, has another one of the same user take over its number, and lets go.
TAKE_OVER = """
import fcntl, os, pwd, signal, subprocess, sys, time
victim = int(sys.argv[1])
seen = "/run/mf/state/processes.seen"
lock = open("/run/mf/lock/action.lock", "w")
fcntl.flock(lock, fcntl.LOCK_EX)
before = os.stat(seen).st_mtime_ns
check = subprocess.Popen(["/mf/bin/check-processes"], stdout=subprocess.PIPE, text=True)
while os.stat(seen).st_mtime_ns == before and check.poll() is None:
    time.sleep(0.01)
os.kill(victim, signal.SIGKILL)
while os.path.exists(f"/proc/{victim}"):
    time.sleep(0.01)
for _ in range(50):
    with open("/run/chaos-proc/sys/kernel/ns_last_pid", "w") as last:
        last.write(str(victim - 1))
    heir = os.fork()
    if heir == 0:
        if os.getpid() != victim:
            os._exit(0)
        lock.close()
        os.setuid(pwd.getpwnam("qpsmtpd").pw_uid)
        os.setsid()
        for descriptor in range(3):
            os.close(descriptor)
        time.sleep(120)
        os._exit(0)
    if heir == victim:
        break
    os.waitpid(heir, 0)
else:
    sys.exit("the number was never free")
time.sleep(0.2)
lock.close()
printed = check.communicate()[0]
time.sleep(0.5)
alive = os.waitpid(victim, os.WNOHANG) == (0, 0)
print("alive" if alive else "killed", printed, flush=True)
os.kill(victim, signal.SIGKILL)
"""


@fault("processes", "pid re-used between probe and signal", "the newcomer lives", "any", seconds=125)
def reused_pid(scene: Scene) -> Generator[None, None, str]:
    """The stuck child ends by itself and another process gets its number, after the verdict and before the signal."""
    scene.undo("systemctl start cron.service")
    scene.host.run("systemctl stop cron.service")
    clients = scene.sessions()
    pid = child_of(scene, clients, "stuck", "mail")
    scene.undo(f"kill -CONT {pid}")
    scene.host.run(f"kill -STOP {pid}")
    scene.undo("umount /run/chaos-proc; rmdir /run/chaos-proc")
    # ns_last_pid (proc_sys_kernel(5)) is this container's own; its /proc/sys is read-only, another mount of it isn't
    scene.host.run("mkdir -p /run/chaos-proc; mount -t proc chaos /run/chaos-proc")
    yield
    scene.wait(62)
    scene.host.check("processes")
    scene.wait(47)
    outcome = scene.host.python(TAKE_OVER, str(pid)).strip()
    must(outcome.startswith("alive"), f"the newcomer was {outcome}")
    spared = scene.decided(action="kill", target=str(pid))
    must(spared and spared[-1]["outcome"].startswith("spared"), f"the log has: {spared[-1:]}")
    return str(spared[-1]["outcome"])
