"""Faults of processes: who may be killed, who must live. The lab's session limit is 60 s instead of 1800."""

from __future__ import annotations

import re
import time
from collections.abc import Generator
from typing import Any

from chaos.plugin import add_plugin
from chaos.scene import Host, Scene, fault, must
from chaos.sessions import Sessions

LANE = "mx1"
AGED = "aged"  # these share the minutes until a session is stuck
LIMIT = 170.0  # s: 60 until a session is stuck, two looks 45 s apart, what check-processes itself takes
ADDRESS = re.compile(r"10\.\d+\.\d+\.\d+:\d+|127\.0\.0\.1:\d+|\[[0-9a-f:.]+\]:\d+")
KEPT = 4.0  # s between two runs of the check

# A process of qpsmtpd's user that only looks like one: $1 its name, further words its arguments.
DECOY = """
import ctypes, os, pwd, sys, time
os.setuid(pwd.getpwnam("qpsmtpd").pw_uid)
ctypes.CDLL(None).prctl(15, sys.argv[1].encode("utf-8", "surrogateescape").decode("unicode_escape").encode("latin-1"))
time.sleep(900)
"""
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
UNREAPED = """
import os, pwd, time
if os.fork() == 0:
    os.setuid(pwd.getpwnam("qpsmtpd").pw_uid)
    os._exit(0)
time.sleep(900)
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


def start(host: Host, program: str, *words: str, name: str) -> int:
    """Start a Python program in the background, detached; return its pid. Its stdout is /run/NAME.out."""
    script = 'program=$1; shift; setsid /usr/bin/python3 -c "$program" "$@" > /run/$NAME.out 2>&1 < /dev/null & echo $!'
    return int(host.run(f"NAME={name}; {script}", program, *words).strip())


def child_of(scene: Scene, clients: Sessions, name: str, stage: str, drip: float = 0.0, limit: float = 40.0) -> int:
    """Open a session from outside and return the pid of the child that serves it."""
    before = set(scene.host.children())
    clients.open(name, scene.host.address, stage, drip)
    said = clients.answer(name, limit)
    must(said[:1] in "23", f"no session: {said}")
    # a session of the mail that goes on may begin at the same moment: ours is the one that stays
    found: list[int] = []

    def settled() -> bool:
        scene.wait(1.0)
        found[:] = [pid for pid in scene.host.children() if pid not in before]
        return len(found) == 1

    scene.until("one new child", settled, 30)
    return found[0]


def die(scene: Scene, pid: int) -> str:
    """Wait until check-processes has killed the child; words for it."""
    scene.until(
        f"process {pid} is killed",
        lambda: not scene.host.alive(pid),
        LIMIT,
        lambda: scene.host.check("processes"),
        KEPT,
    )
    scene.healed()
    logged = scene.decided(action="kill", target=str(pid))
    must(logged, f"process {pid} is gone, but not by the check")
    must(logged[0]["outcome"] == "begun", "the evidence was not logged before the signal")
    evidence = logged[0]["evidence"]
    must(
        {"age_seconds", "peer", "waits", "stack", "state"} <= set(evidence), f"evidence lacks some: {sorted(evidence)}"
    )
    must(ADDRESS.fullmatch(str(evidence["address"])), f"the peer's address in the evidence is {evidence['address']!r}")
    must(evidence["stack"] or evidence["waits"] or evidence["syscall"], "the evidence doesn't say where it waits")
    return f"killed: {logged[-1]['reason']}, {logged[-1]['outcome'].removeprefix('done: ')}"


# A child whose sender is this one waits for a child of its own as vfork(2) makes a parent wait: in D-state, until that
# ends. The grandchild closes what it has open, so nobody takes it for a qpsmtpd, and writes its number down.
BLOCKER = r"""
use POSIX ();
sub hook_mail {
    my ($self, $transaction, $sender) = @_;
    return DECLINED unless $sender->user eq 'blocked';
    my $done = syscall(56, 0x4000 | 17, 0, 0, 0, 0);    # clone(CLONE_VFORK | SIGCHLD)
    if ($done == 0) { POSIX::close($_) for 0 .. 63; sleep 400; POSIX::_exit(0); }
    return DECLINED;
}
"""


@fault("processes", "child blocked in the kernel", "reported, never killed", LANE, together=AGED)
def blocked(scene: Scene) -> Generator[None, None, str]:
    """D-state, as with a disk or a network file system that doesn't answer. It must come first in its group."""
    add_plugin(scene, BLOCKER)
    clients = scene.sessions()
    before = set(scene.host.children())
    clients.open("blocked", scene.host.address, "blocked")
    pids: list[int] = []

    def in_kernel() -> bool:
        out = scene.host.ask(f"ps -o pid=,stat= --ppid {scene.host.master()}")[1]
        pids[:] = [int(line.split()[0]) for line in out.splitlines() if line.split()[1].startswith("D")]
        return bool(set(pids) - before)

    scene.until("a child is in D-state", in_kernel, 60)
    (pid,) = pids
    scene.undo(f"pkill -9 -P {pid}")
    yield
    found: dict[str, object] = {}

    def reported() -> bool:
        found.update(scene.host.check("processes"))
        return f"blocked in the kernel: {pid}" in str(found.get("summary"))

    began = time.monotonic()
    scene.until("it is reported", reported, 120, None, KEPT)
    must(found.get("status") in ("WARNING", "CRITICAL"), f"the status is {found.get('status')}")
    scene.until("it is older than the limit", lambda: time.monotonic() - began > 75, 100, reported, KEPT)
    must(scene.host.alive(pid), "it is gone")
    must(not scene.decided(action="kill", target=str(pid)), "a kill of it was decided")
    return f"reported: blocked in the kernel: {pid}; lives"


@fault("processes", "stopped child", "killed as stuck, evidence logged first", LANE, together=AGED)
def stopped_child(scene: Scene) -> Generator[None, None, str]:
    """SIGSTOP: it can't even take its TERM."""
    clients = scene.sessions()
    pid = child_of(scene, clients, "stopped", "mail")
    scene.undo(f"kill -CONT {pid}")
    scene.host.run(f"kill -STOP {pid}")
    scene.broken()
    yield
    return die(scene, pid)


@fault("processes", "child with a dead peer", "killed as stuck", LANE, together=AGED)
def dead_peer(scene: Scene) -> Generator[None, None, str]:
    """The client vanishes without a FIN, as when its power fails. It lives on another MX, for that has nft."""
    client = scene.fleet["mx2"]
    clients = scene.sessions(client)
    pid = child_of(scene, clients, "dead", "mail")
    remote = scene.host.run(f"ss -Htnp state established | grep 'pid={pid},' | awk '{{print $4}}'").strip()
    port = remote.rpartition(":")[2]
    must(port.isdigit(), f"the peer's port isn't known: {remote!r}")
    scene.undo("nft delete table inet chaos", client)
    rules = f"tcp sport {port} tcp dport 25 drop"
    client.run(
        "nft add table inet chaos && nft 'add chain inet chaos out { type filter hook output priority 0; }' && "
        f"nft add rule inet chaos out {rules}"
    )
    clients.end("dead")
    scene.broken()
    yield
    return die(scene, pid)


@fault("processes", "long but moving DATA", "lives, its message is accepted", LANE, together=AGED)
def moving_data(scene: Scene) -> Generator[None, None, str]:
    """Older than the limit, and it still moves."""
    clients = scene.sessions()
    pid = child_of(scene, clients, "moving", "data", 2.0)
    began = time.monotonic()
    yield
    scene.until(
        "two minutes pass", lambda: time.monotonic() - began > 125, 200, lambda: scene.host.check("processes"), 8
    )
    must(scene.host.alive(pid), "it was killed")
    must(not scene.decided(action="kill", target=str(pid)), "a kill of it was decided")
    reply = clients.finish("moving")
    must(reply.startswith("250"), f"its final dot got: {reply}")
    return f"lived for {time.monotonic() - began:.0f} s, then {reply[:3]}"


@fault("processes", "decoy with qpsmtpd in its arguments", "lives", LANE, together=AGED)
def decoy(scene: Scene) -> Generator[None, None, str]:
    """Same user, same words, old, idle; not a qpsmtpd."""
    words = ("qpsmtpd-forkser", "/usr/bin/qpsmtpd-forkserver", "[192.0.2.1 : host : 12:00]")
    pid = start(scene.host, DECOY, *words, name="chaos-decoy")
    scene.undo(f"kill {pid}")
    began = time.monotonic()
    yield
    scene.until(
        "two minutes pass", lambda: time.monotonic() - began > 125, 200, lambda: scene.host.check("processes"), 8
    )
    must(scene.host.alive(pid), "it was killed")
    return "lives"


@fault("processes", "names with newlines and escapes", "they live, nothing is confused", LANE, together=AGED)
def hostile_names(scene: Scene) -> Generator[None, None, str]:
    """A name that looks like the end of a stat line, and one for the terminal."""
    names = (r"perl\n1 (x) S 1", r"qpsmt) Z 1 1 1\n", r"\x1b]0;owned\x07\xff")
    pids = [start(scene.host, DECOY, name, "\x1b[31m\nred", name="chaos-names") for name in names]
    scene.undo(f"kill {' '.join(map(str, pids))}")
    yield
    began = time.monotonic()
    scene.until("a minute", lambda: time.monotonic() - began > 60, 100, lambda: scene.host.check("processes"), 8)
    must(all(scene.host.alive(pid) for pid in pids), "one of them was killed")
    result = scene.host.check("processes")
    must(result.get("status") in ("OK", "WARNING"), f"the check says {result.get('status')}: {result.get('summary')}")
    raw = scene.host.run("cat /run/mf/state/processes.json /mf/var/log/decisions.jsonl")
    must(all(char.isprintable() or char == "\n" for char in raw), "control characters in results or log")
    return "they live; results and log are plain text"


@fault("processes", "zombie", "reported, never killed; nothing else touched", LANE, together=AGED)
def zombie(scene: Scene) -> Generator[None, None, str]:
    """A process of qpsmtpd's user that nobody reaps."""
    parent = start(scene.host, UNREAPED, name="chaos-zombie")
    scene.undo(f"kill {parent}")
    yield
    found: dict[str, object] = {}

    def reported() -> bool:
        found.update(scene.host.check("processes"))
        return "zombie" in str(found.get("summary"))

    # it is looked at closely only while something else is odd, as here a stuck session is
    scene.until("the zombie is reported", reported, 120, None, KEPT)
    must(scene.host.alive(parent), "its parent was killed")
    return f"reported: {found.get('summary')}"[:60]


# A child of qpsmtpd's name and user that ends and that its parent, of the same name, never reaps.
LONE = """
import ctypes, os, pwd, time
ctypes.CDLL(None).prctl(15, b"qpsmtpd-forkser")
if os.fork() == 0:
    os.setuid(pwd.getpwnam("qpsmtpd").pw_uid)
    os._exit(0)
time.sleep(900)
"""


@fault("processes", "zombie and nothing else", "reported, never killed", "any", seconds=60)
def lone_zombie(scene: Scene) -> Generator[None, None, str]:
    """No stuck session draws attention to it."""
    parent = start(scene.host, LONE, name="chaos-lone")
    scene.undo(f"kill {parent}; rm -f /run/chaos-lone.out")
    zombie = int(scene.host.run(f"ps -o pid= --ppid {parent}").strip())
    yield
    found: dict[str, Any] = {}

    def reported() -> bool:
        found.update(scene.host.check("processes"))
        return f"zombie: {zombie}" in str(found.get("summary"))

    scene.until("the zombie is reported", reported, 120, None, KEPT)
    must(found["status"] == "WARNING", f"the status is {found['status']}")
    must(scene.host.alive(parent), "its parent was killed")
    must("Z" in scene.host.run(f"ps -o stat= -p {zombie}"), "it is no zombie any more")
    must(not scene.decided(check="processes"), f"something was decided: {scene.decided(check='processes')[:1]}")
    must(found["metrics"]["killed"] == 0, "it says that it killed something")
    scene.host.run(f"kill {parent}")
    scene.broken()
    scene.until("check-processes is OK", lambda: scene.host.check("processes").get("status") == "OK", 30)
    scene.healed()
    return f"reported: {found['summary']}; nothing killed; OK when its parent had gone"[:90]


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
    words = die(scene, pid)
    must("s of CPU and not a byte moved for" in words, f"it was {words}")
    must(moving in pids, f"the other one hasn't used as much CPU: {pids}")
    must(scene.host.alive(moving), "the one that moves was killed")
    must(not scene.decided(action="kill", target=str(moving)), "a kill of the one that moves was decided")
    reply = honest.finish("moving")
    must(reply.startswith("250"), f"its final dot got: {reply}")
    return f"{words}; the other lived, then {reply[:3]}"


@fault("processes", "orphan after its master was killed", "idle one killed, service started again", "any", seconds=70)
def orphan(scene: Scene) -> Generator[None, None, str]:
    """systemd ends what is left of a unit's cgroup, so one child is moved out of it: as under an init without one."""
    clients = scene.sessions()
    pid = child_of(scene, clients, "orphan", "mail")
    scene.undo(f"kill -9 {pid}")
    code, said = scene.host.ask(LEAVE_CGROUP, str(pid))
    must(code == 0, f"the child can't be moved: {said}")
    scene.host.run(f"kill -9 {scene.host.master()}")
    scene.broken()
    must(scene.host.alive(pid), "the child died with its master")
    yield
    scene.until("mail is accepted again", lambda: scene.sees() == "220", 90, scene.host.checks, 2)
    back = time.monotonic() - scene.broken_at
    words = die(scene, pid)
    must(scene.decided(check="smtp", action="start", outcome="done"), "the service was not started by check-smtp")
    return f"service back after {back:.0f} s; orphan {words}"


@fault("processes", "more stuck than the cap", "5 killed, CRITICAL; the rest in the next run", "any", seconds=130)
def many_stuck(scene: Scene) -> Generator[None, None, str]:
    """Eight at once: something else is wrong, and that is said. Without cron, whose run would come in between."""
    scene.undo("systemctl start cron.service")
    scene.host.run("systemctl stop cron.service; flock /run/mf/lock/processes.lock true")
    clients = scene.sessions(scene.host)
    before = set(scene.host.children())
    for number in range(8):
        clients.open(f"stuck{number}", "127.0.0.1", "mail")
    for number in range(8):
        said = clients.answer(f"stuck{number}")
        must(said.startswith("250"), f"no session: {said}")
    scene.wait(2)
    stuck = [pid for pid in scene.host.children() if pid not in before]
    must(len(stuck) >= 8, f"only {len(stuck)} sessions")
    words = " ".join(map(str, stuck))
    scene.undo(f"kill -CONT {words}")
    scene.host.run(f"kill -STOP {words}")
    scene.broken()
    yield
    scene.wait(62)
    first = scene.host.check("processes")
    # a fault beside this one may have let cron see them before
    if not first.get("metrics", {}).get("killed"):
        scene.wait(46)
        first = scene.host.check("processes")
    left = [pid for pid in stuck if scene.host.alive(pid)]
    must(first.get("metrics", {}).get("killed") == 5, f"the first run says: {first.get('summary')}")
    must(
        first.get("status") == "CRITICAL" and "kill limit" in str(first.get("summary")),
        f"it says: {first.get('summary')}",
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
    must(result.get("status") == "OK", f"check-processes says {result.get('status')}: {result.get('summary')}")
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
said = check.communicate()[0]
time.sleep(0.5)
alive = os.waitpid(victim, os.WNOHANG) == (0, 0)
print("alive" if alive else "killed", said, flush=True)
os.kill(victim, signal.SIGKILL)
"""


@fault("processes", "pid re-used between look and signal", "the newcomer lives", "any", seconds=125)
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
    said = scene.host.python(TAKE_OVER, str(pid)).strip()
    must(said.startswith("alive"), f"the newcomer was {said}")
    spared = scene.decided(action="kill", target=str(pid))
    must(spared and spared[-1]["outcome"].startswith("spared"), f"the log says {spared[-1:]}")
    return str(spared[-1]["outcome"])
