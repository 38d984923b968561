"""Faults of processes: which may be killed, which must live. The lab's session limit is 60 s instead of 1800."""

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
UNREAPED = """
import os, pwd, time
if os.fork() == 0:
    os.setuid(pwd.getpwnam("qpsmtpd").pw_uid)
    os._exit(0)
time.sleep(900)
"""


def start(host: Host, program: str, *arguments: str, name: str) -> int:
    """Start a Python program in the background, detached; return its pid. Its stdout is /run/NAME.out."""
    script = 'program=$1; shift; setsid /usr/bin/python3 -c "$program" "$@" > /run/$NAME.out 2>&1 < /dev/null & echo $!'
    return int(host.run(f"NAME={name}; {script}", program, *arguments).strip())


def child_of(scene: Scene, clients: Sessions, name: str, stage: str, drip: float = 0.0, limit: float = 40.0) -> int:
    """Open a session from outside and return the pid of the child that serves it."""
    before = set(scene.host.children())
    clients.open(name, scene.host.address, stage, drip)
    reply = clients.answer(name, limit)
    must(reply[:1] in "23", f"no session: {reply}")
    # a session of the mail that goes on may begin at the same moment: ours is the one that stays
    children: list[int] = []

    def settled() -> bool:
        scene.wait(1.0)
        children[:] = [pid for pid in scene.host.children() if pid not in before]
        return len(children) == 1

    scene.until("one new child", settled, 30)
    return children[0]


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
# ends. The grandchild closes what it has open, so no check takes it for a qpsmtpd, and writes its number down.
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
    result: dict[str, object] = {}

    def reported() -> bool:
        result.update(scene.host.check("processes"))
        return f"blocked in the kernel: {pid}" in str(result.get("summary"))

    began = time.monotonic()
    scene.until("it is reported", reported, 120, None, KEPT)
    must(result.get("status") in ("WARNING", "CRITICAL"), f"the status is {result.get('status')}")
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
    arguments = ("qpsmtpd-forkser", "/usr/bin/qpsmtpd-forkserver", "[192.0.2.1 : host : 12:00]")
    pid = start(scene.host, DECOY, *arguments, name="chaos-decoy")
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
    must(result.get("status") in ("OK", "WARNING"), f"it reports {result.get('status')}: {result.get('summary')}")
    raw = scene.host.run("cat /run/mf/state/processes.json /mf/var/log/decisions.jsonl")
    must(all(char.isprintable() or char == "\n" for char in raw), "control characters in results or log")
    return "they live; results and log are plain text"


@fault("processes", "zombie", "reported, never killed; nothing else touched", LANE, together=AGED)
def zombie(scene: Scene) -> Generator[None, None, str]:
    """A process of qpsmtpd's user that its parent doesn't reap."""
    parent = start(scene.host, UNREAPED, name="chaos-zombie")
    scene.undo(f"kill {parent}")
    yield
    result: dict[str, object] = {}

    def reported() -> bool:
        result.update(scene.host.check("processes"))
        return "zombie" in str(result.get("summary"))

    # it is examined closely only while something else is odd, as here a stuck session is
    scene.until("the zombie is reported", reported, 120, None, KEPT)
    must(scene.host.alive(parent), "its parent was killed")
    return f"reported: {result.get('summary')}"[:60]


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
    result: dict[str, Any] = {}

    def reported() -> bool:
        result.update(scene.host.check("processes"))
        return f"zombie: {zombie}" in str(result.get("summary"))

    scene.until("the zombie is reported", reported, 120, None, KEPT)
    must(result["status"] == "WARNING", f"the status is {result['status']}")
    must(scene.host.alive(parent), "its parent was killed")
    must("Z" in scene.host.run(f"ps -o stat= -p {zombie}"), "it is no zombie any more")
    must(not scene.decided(check="processes"), f"something was decided: {scene.decided(check='processes')[:1]}")
    must(result["metrics"]["killed"] == 0, "it counts a kill")
    scene.host.run(f"kill {parent}")
    scene.broken()
    scene.until("check-processes is OK", lambda: scene.host.check("processes").get("status") == "OK", 30)
    scene.healed()
    return f"reported: {result['summary']}; nothing killed; OK when its parent had gone"[:90]
