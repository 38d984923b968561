"""Faults of SMTP: dead, frozen, busy, stopped, taken; which must be restarted and which must not."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Generator

from chaos.plugin import add_plugin
from chaos.scene import Host, Scene, fault, must
from chaos.sessions import Sessions

LANE = "any"
SLOTS = 15

# Listens instead of qpsmtpd, in the mode given: it never accepts, talks garbage, greets without end, or closes in the
# middle of DATA. It ticks as qpsmtpd does.
IMPOSTOR = """\
import socket, sys, time
server = socket.create_server(("::", 25), family=socket.AF_INET6, dualstack_ipv6=True, backlog=50)
server.settimeout(0.5)
mode = sys.argv[1]
while True:
    if mode == "deaf":
        time.sleep(0.5)
        continue
    try:
        line, _ = server.accept()
        line.settimeout(3)
        if mode == "garbage":
            line.sendall(b"\\x00\\xff\\x1b[2J no smtp\\r\\n")
        while mode == "endless":
            line.sendall(b"220-and one more line\\r\\n" * 100)
        if mode == "closing":
            line.sendall(b"220 hello\\r\\n")
            while not (word := line.recv(1000)).startswith(b"DATA"):
                line.sendall(b"250 go on\\r\\n")
            line.sendall(b"354 go on\\r\\n")
            line.recv(10)
        line.close()
    except OSError:
        pass
"""
VOLATILE = "/run/systemd/system"


def remove_drop_in(units: str = VOLATILE) -> str:
    """The script after which the unit runs qpsmtpd again, at its next start."""
    return f"rm -f {units}/qpsmtpd.service.d/chaos.conf; systemctl daemon-reload"


def replace(scene: Scene, mode: str, units: str = VOLATILE, programs: str = "/run") -> None:
    """Have the unit run the impostor from now on; with places that last, after a reboot as well."""
    drop_in, program = f"{units}/qpsmtpd.service.d/chaos.conf", f"{programs}/chaos-impostor.py"
    scene.undo(f"{remove_drop_in(units)}; systemctl restart qpsmtpd.service; rm -f {program}")
    scene.host.run(f"cat > {program}", text=IMPOSTOR)
    scene.host.run(
        f"mkdir -p {drop_in.rpartition('/')[0]}; printf '[Service]\\nExecStart=\\nExecStart=/usr/bin/python3 "
        f"{program} {mode}\\nExecStop=\\nTimeoutStopSec=2\\nKillMode=control-group\\n' > {drop_in}; "
        "systemctl daemon-reload; systemctl restart qpsmtpd.service"
    )


def back(scene: Scene, limit: float = 120.0) -> None:
    """Wait, while the checks run, until a sender outside is greeted again."""
    scene.until("mail is accepted again", lambda: scene.sees() == "220", limit, scene.host.checks, 1)
    scene.healed()


def was(scene: Scene, action: str, kind: str) -> str:
    """Words for the one action that healed it."""
    done = scene.decided(check="smtp", action=action, outcome="done")
    must(len(done) == 1, f"{len(done)} times {action} with success in the log instead of one")
    must(done[0]["evidence"]["class"] == kind, f"it was called {done[0]['evidence']['class']}")
    return f"{kind}: {done[0]['reason'][:70]}; {action}ed"


def untouched(scene: Scene, master: int) -> None:
    """Deviation if anything was restarted."""
    must(scene.host.master() == master, "the master was replaced")
    acted = [decision for decision in scene.decided(check="smtp") if decision["outcome"] in ("done", "failed")]
    must(not acted, f"check-smtp acted: {acted[:1]}")


def fill(scene: Scene, drip: float) -> Sessions:
    """Take all child slots by clients that are alive but slow."""
    clients = scene.sessions(scene.host)

    def full() -> bool:
        return len(scene.host.children()) >= SLOTS

    for number in range(SLOTS + 2):
        clients.open(f"slot{number}", "127.0.0.1", "mail", drip)
    scene.until("all slots are taken", full, 30)
    return clients


@fault("smtp", "master stopped", "WEDGED, restarted", LANE)
def master_stopped(scene: Scene) -> Generator[None, None, str]:
    """SIGSTOP."""
    pid = scene.host.master()
    scene.undo(f"kill -CONT {pid}")
    scene.host.run(f"kill -STOP {pid}")
    scene.broken()
    yield
    back(scene)
    return was(scene, "restart", "WEDGED")


def impostor(scene: Scene, behaviour: str) -> Generator[None, None, str]:
    """A program in qpsmtpd's place that misbehaves; the restart brings qpsmtpd back."""
    replace(scene, behaviour)
    scene.host.run(remove_drop_in())
    scene.broken()
    yield
    back(scene)
    return was(scene, "restart", "WEDGED")


@fault("smtp", "listener accepts nothing", "WEDGED, restarted", LANE)
def deaf_listener(scene: Scene) -> Generator[None, None, str]:
    """The master ticks, the port is open, connections stand in the queue."""
    return impostor(scene, "deaf")


@fault("smtp", "a greeting without end", "WEDGED, restarted, in time", LANE)
def endless_greeting(scene: Scene) -> Generator[None, None, str]:
    """``220-`` for ever: neither time nor memory may be lost to it."""
    return impostor(scene, "endless")


@fault("smtp", "connection closed in mid-DATA", "WEDGED, restarted", LANE)
def closed_in_data(scene: Scene) -> Generator[None, None, str]:
    """It takes a message and hangs up before the final dot."""
    return impostor(scene, "closing")


@fault("smtp", "all slots taken by slow clients", "BUSY, never restarted", LANE)
def busy(scene: Scene) -> Generator[None, None, str]:
    """The limit of children is reached; nothing is broken."""
    master = scene.host.master()
    clients = fill(scene, 5.0)
    scene.broken()
    yield
    scene.host.checks()
    result = scene.host.result("smtp")
    clients.close()
    untouched(scene, master)
    must(result.get("metrics", {}).get("class") == "BUSY", f"it was called: {result.get('summary')}")
    must(result.get("status") == "WARNING", f"the status was {result.get('status')}")
    back(scene, 60)
    untouched(scene, master)
    return str(result["summary"])[:80]


# Clients that come, stay a little, go, and come again, $1 of them, until stdin ends: each holds its session for a
# moment of its own. Prints how many were greeted.
CHURN = r"""
import random, socket, sys, threading, time
greeted, stop = [], threading.Event()
def come_and_go():
    while not stop.is_set():
        try:
            with socket.create_connection(("127.0.0.1", 25), 60) as line:
                line.settimeout(60)
                if line.recv(100).startswith(b"220"):
                    greeted.append(1)
                    line.sendall(b"EHLO churn.example\r\n")
                    line.recv(1000)
                    stop.wait(random.uniform(2.0, 6.0))
        except OSError:
            stop.wait(0.2)
for _ in range(int(sys.argv[1])):
    threading.Thread(target=come_and_go, daemon=True).start()
sys.stdin.read()
stop.set()
print(len(greeted))
"""


@fault("smtp", "all slots taken by clients that come and go", "BUSY or OK, never restarted", LANE, seconds=45)
def busy_with_churn(scene: Scene) -> Generator[None, None, str]:
    """Slots fall free all the time and are taken at once; more wait in the queue than a canary has patience for."""
    scene.undo("systemctl start cron.service")
    scene.host.run("systemctl stop cron.service; flock /run/mf/lock/smtp.lock true")
    master = scene.host.master()
    churn = subprocess.Popen(
        scene.host.podman.command("exec", "-i", scene.host.place.container, "/usr/bin/python3", "-c", CHURN, "60"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=scene.host.podman.machine.env,
        start_new_session=True,
    )

    def ended() -> int:
        return int(churn.communicate("", timeout=30)[0] or 0) if churn.poll() is None else 0

    scene.later(ended)
    scene.until("all slots are taken", lambda: len(scene.host.children()) >= SLOTS - 1, 30)
    scene.broken()
    yield
    classes: list[str] = []
    for _ in range(5):
        result = scene.host.check("smtp")
        classes.append(str(result.get("metrics", {}).get("class")))
        untouched(scene, master)
        must(set(classes) <= {"OK", "BUSY"}, f"it was called {classes[-1]}: {result.get('summary')}")
    must("BUSY" in classes, f"it was never busy: {classes}")
    greeted = ended()
    must(greeted > SLOTS, f"only {greeted} sessions: no coming and going")
    back(scene, 90)
    untouched(scene, master)
    return f"{', '.join(classes)} while {greeted} sessions came and went"


@fault("smtp", "all slots taken and the master stopped", "WEDGED, restarted within the deadline", LANE, seconds=45)
def busy_and_wedged(scene: Scene) -> Generator[None, None, str]:
    """It resembles BUSY, but no connection will ever be accepted again."""
    # a run of cron's would heal as well, and leave no record of how long it took
    scene.undo("systemctl start cron.service")
    scene.host.run("systemctl stop cron.service; flock /run/mf/lock/smtp.lock true")
    fill(scene, 5.0)
    pid = scene.host.master()
    scene.undo(f"kill -CONT {pid}")
    scene.host.run(f"kill -STOP {pid}")
    scene.broken()
    yield
    took = 0.0

    def ended() -> bool:
        nonlocal took
        took = healed_in(scene.host)
        return took > 0

    scene.until("a run has come to its end", ended, 150, scene.host.checks, 1)
    back(scene, 60)
    must(took < 55, f"the run that healed it took {took:.0f} s, longer than its deadline")
    return f"{was(scene, 'restart', 'WEDGED')}, in one run of {took:.0f} s"


def healed_in(host: Host) -> float:
    """Seconds that the last run of check-smtp took, when it restarted something; else 0."""
    last = host.result("smtp")
    return float(last["finished"]) - float(last["started"]) if "restarted" in str(last.get("summary")) else 0.0


@fault("smtp", "4xx from a plugin", "BUSY, never restarted", LANE)
def plugin_4xx(scene: Scene) -> Generator[None, None, str]:
    """A plugin refuses every sender for now."""
    add_plugin(scene, 'sub hook_mail { return (DENYSOFT, "chaos"); }\n')
    master = scene.host.master()
    yield
    for _ in range(2):
        scene.host.checks()
    result = scene.host.result("smtp")
    untouched(scene, master)
    must(result.get("metrics", {}).get("class") == "BUSY", f"it was called: {result.get('summary')}")
    return str(result["summary"])[:80]


@fault("smtp", "IPv6 loopback alone broken", "WARNING that names it, never restarted; OK when it is mended", LANE)
def ipv6_broken(scene: Scene) -> Generator[None, None, str]:
    """IPv4 works; ::1 swallows every packet, then refuses."""
    scene.undo("systemctl start cron.service")
    scene.undo("nft delete table ip6 chaos")
    scene.host.run(
        "systemctl stop cron.service; flock /run/mf/lock/smtp.lock true; nft add table ip6 chaos; "
        "nft 'add chain ip6 chaos in { type filter hook input priority -5; }'"
    )
    master = scene.host.master()
    yield
    for how in ("drop", "reject with tcp reset"):
        scene.host.run(f"nft flush chain ip6 chaos in; nft add rule ip6 chaos in ip6 daddr ::1 tcp dport 25 {how}")
        scene.broken()
        result = scene.host.check("smtp")
        must(result.get("status") == "WARNING", f"{how}: it reports {result.get('status')}: {result.get('summary')}")
        must("works over IPv4, but ::1" in result["summary"], f"{how}: it reports: {result['summary']}")
    must(scene.sees() == "220", "mail isn't accepted")
    untouched(scene, master)
    scene.host.run("nft delete table ip6 chaos")
    scene.until("check-smtp is OK", lambda: scene.host.check("smtp").get("status") == "OK", 30)
    scene.healed()
    untouched(scene, master)
    return f"{str(result['summary'])[:70]}; then OK"


# Offers STARTTLS and answers 220, but no handshake follows: as with a key that doesn't fit, or a middlebox.
NO_TLS = r"""
sub hook_ehlo {
    my ($self, $transaction) = @_;
    my $capabilities = $transaction->notes('capabilities') || [];
    $transaction->notes('capabilities', [@$capabilities, 'STARTTLS']);
    return DECLINED;
}
sub hook_unrecognized_command {
    my ($self, $transaction, $command) = @_;
    return DECLINED unless lc $command eq 'starttls';
    $self->qp->respond(220, 'go ahead');
    return DONE;
}
"""


@fault("smtp", "STARTTLS broken", "CRITICAL, never restarted; OK when it is mended", LANE)
def no_tls(scene: Scene) -> Generator[None, None, str]:
    """Offered, and no handshake."""
    scene.undo("systemctl start cron.service")
    scene.host.run("systemctl stop cron.service; flock /run/mf/lock/smtp.lock true")
    add_plugin(scene, NO_TLS)
    master = scene.host.master()
    yield
    for _ in range(2):
        result = scene.host.check("smtp")
        must(result.get("status") == "CRITICAL", f"it reports {result.get('status')}: {result.get('summary')}")
    must("STARTTLS is offered and broken" in result["summary"], f"it reports: {result['summary']}")
    untouched(scene, master)
    must(scene.sees() == "220", "mail isn't accepted")
    return str(result["summary"])[:100]


@fault("smtp", "unit failed", "DOWN, started", LANE)
def unit_failed(scene: Scene) -> Generator[None, None, str]:
    """The master dies by SIGKILL; systemd leaves it to check-smtp."""
    scene.host.run(f"kill -9 {scene.host.master()}")
    scene.broken()
    yield
    back(scene)
    return was(scene, "start", "DOWN")


@fault("smtp", "unit stopped by an operator", "alarm, no action", LANE, hand="start it again")
def unit_stopped(scene: Scene) -> Generator[None, None, str]:
    """An operator stopped it on purpose."""
    scene.undo("systemctl start qpsmtpd.service")
    scene.host.run("systemctl stop qpsmtpd.service")
    yield
    for _ in range(2):
        scene.host.checks()
    result = scene.host.result("smtp")
    must(scene.host.master() == 0, "it was started")
    must(result.get("status") == "CRITICAL", f"the status was {result.get('status')}")
    must(result.get("metrics", {}).get("class") == "STOPPED", f"it was called: {result.get('summary')}")
    must(scene.host.ask("/mf/bin/health")[0] == 2, "health is not CRITICAL")
    return str(result["summary"])[:80]


@fault("smtp", "tarpit", "BUSY, never restarted", LANE, hand="end the tarpit")
def tarpit(scene: Scene) -> Generator[None, None, str]:
    """Every greeting comes after a dialogue's limit."""
    add_plugin(scene, "sub hook_connect { sleep 14; return (DECLINED); }\n")
    master = scene.host.master()
    yield
    started = time.monotonic()
    scene.host.checks()
    took = time.monotonic() - started
    result = scene.host.result("smtp")
    must(took < 60, f"the checks took {took:.0f} s")
    untouched(scene, master)
    must(result.get("metrics", {}).get("class") == "BUSY", f"it was called: {result.get('summary')}")
    return f"{str(result['summary'])[:70]}, in {took:.0f} s"


@fault("smtp", "port taken by another program", "FOREIGN, alarm; healed when the port is free", LANE)
def port_taken(scene: Scene) -> Generator[None, None, str]:
    """qpsmtpd can't bind; the other program is not touched."""
    scene.undo("kill $(cat /run/chaos-thief); rm -f /run/chaos-thief /run/chaos-impostor.py")
    scene.host.run("cat > /run/chaos-impostor.py", text=IMPOSTOR)
    scene.host.run(
        "systemctl stop qpsmtpd.service; setsid /usr/bin/python3 /run/chaos-impostor.py garbage > /dev/null 2>&1 "
        "< /dev/null & echo $! > /run/chaos-thief; sleep 1; systemctl start qpsmtpd.service || :; sleep 2"
    )
    scene.broken()
    yield
    for _ in range(2):
        scene.host.checks()
    result = scene.host.result("smtp")
    thief = int(scene.host.run("cat /run/chaos-thief"))
    must(scene.host.alive(thief), "the other program was killed")
    must(result.get("metrics", {}).get("class") == "FOREIGN", f"it was called: {result.get('summary')}")
    must(result.get("status") == "CRITICAL", f"the status was {result.get('status')}")
    must(not scene.decided(check="smtp", outcome="done"), "check-smtp acted")
    scene.host.run(f"kill {thief}")
    scene.broken()
    back(scene)
    was(scene, "start", "DOWN")
    return f"{result['summary'][:48]}; then DOWN, started"
