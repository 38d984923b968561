"""Faults of SMTP that no restart cures: slow filters, refusals; and the two refusals that one does cure."""

from __future__ import annotations

import json
import time
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor

from chaos.faults.smtp import back, untouched, was
from chaos.plugin import add_plugin
from chaos.scene import MXS, Host, Scene, fault, must
from chaos.sessions import Sessions

LANE = "any"
CONFIG = "/mf/etc/qpsmtpd/plugins"

SLOW = "sub hook_data_post { sleep %d; return DECLINED; }\n"
# What a content filter or a policy may say to a message like the canary: without a sender and a trace.
POLICY = r"""
sub hook_data_post {
    my ($self, $transaction) = @_;
    return DECLINED if length $transaction->sender->user || $transaction->header->get('Received', 1);
    return (DENY, "5.7.1 policy \x1b[31mred");
}
"""
# other mail has a sender
OLD_POLICY = r"""
sub hook_mail {
    my ($self, $transaction, $sender) = @_;
    return length $sender->user ? DECLINED : (DENY, '5.7.1 an old policy');
}
"""
# Says that files of the role qpsmtpd changed just now, as a deploy does.
STAMP = """
import json, os, time
path = "/run/mf/parts.json"
stamps = json.load(open(path)) if os.path.exists(path) else {}
stamps["qpsmtpd"] = time.monotonic()
json.dump(stamps, open(path, "w"))
"""


def alone(scene: Scene) -> None:
    """No run of cron's in between."""
    scene.undo("systemctl start cron.service")
    scene.host.run("systemctl stop cron.service; flock /run/mf/lock/smtp.lock true")


def letter(scene: Scene, host: Host | None = None, clients: Sessions | None = None) -> str:
    """The answer to the final dot of a sender outside."""
    clients = clients or scene.sessions()
    to = host or scene.host
    name = f"letter-{to.name}"
    clients.open(name, to.address, "data")
    answer = clients.answer(name)
    must(answer.startswith("354"), f"a sender's DATA got: {answer}")
    answer = clients.finish(name)
    clients.end(name)
    return answer


def delivered(scene: Scene, host: Host, since: float) -> list[float]:
    """When the customer's server got each letter through this MX."""
    record = (json.loads(line) for line in scene.world.run("cat /var/lib/world/mail.jsonl").splitlines())
    return [
        entry["time"] for entry in record if entry["via"] == host.address and not entry["id"] and entry["time"] >= since
    ]


@fault("smtp", "a filter of 9 s", "a warning that names it, never restarted; mail goes through", LANE, seconds=60)
def slow_filter(scene: Scene) -> Generator[None, None, str]:
    """Longer than a greeting may take, shorter than a canary is waited for."""
    alone(scene)
    add_plugin(scene, SLOW % 9)
    master = scene.host.master()
    yield
    for _ in range(3):
        result = scene.host.check("smtp")
        untouched(scene, master)
    must(result.get("status") == "WARNING", f"it reports {result.get('status')}: {result.get('summary')}")
    must("slow: canary accepted in 9." in result["summary"], f"it reports: {result['summary']}")
    answer = letter(scene)
    must(answer.startswith("250"), f"a sender got: {answer}")
    untouched(scene, master)
    return f"{result['summary'][:70]}; a sender got 250"


@fault("smtp", "a filter slower than any patience", "BUSY, never restarted; mail goes through", LANE, seconds=90)
def slower_filter(scene: Scene) -> Generator[None, None, str]:
    """Silence after the final dot, and the session's process lives."""
    alone(scene)
    add_plugin(scene, SLOW % 25)
    master = scene.host.master()
    yield
    for _ in range(2):
        result = scene.host.check("smtp")
        untouched(scene, master)
    must(result.get("metrics", {}).get("class") == "BUSY", f"it was called: {result.get('summary')}")
    must(result.get("status") == "WARNING", f"the status was {result.get('status')}")
    answer = letter(scene)
    must(answer.startswith("250"), f"a sender got: {answer}")
    untouched(scene, master)
    return f"{result['summary'][:90]}; a sender got 250"


@fault("smtp", "a policy refuses the canary", "REFUSED in the server's words, never restarted", LANE)
def policy(scene: Scene) -> Generator[None, None, str]:
    """Real mail is fine."""
    add_plugin(scene, POLICY)
    master = scene.host.master()
    yield
    for _ in range(3):
        result = scene.host.check("smtp")
        untouched(scene, master)
    must(result.get("metrics", {}).get("class") == "REFUSED", f"it was called: {result.get('summary')}")
    must(result.get("status") == "CRITICAL", f"the status was {result.get('status')}")
    must("5.7.1 policy" in result["summary"], f"it reports: {result['summary']}")
    must(str(result["summary"]).isprintable(), "control characters in the summary")
    answer = letter(scene)
    must(answer.startswith("250"), f"a sender got: {answer}")
    return str(result["summary"])[:90]


@fault("smtp", "the canary's plugin isn't loaded", "REFUSED, restarted", LANE)
def canary_missing(scene: Scene) -> Generator[None, None, str]:
    """The service was started without it; its configuration has it."""
    alone(scene)
    scene.undo(f"umount $(realpath {CONFIG}); rm -f /run/chaos-plugins; systemctl restart qpsmtpd.service")
    scene.host.run(
        f"grep -v '^mf_canary' {CONFIG} > /run/chaos-plugins; chmod 644 /run/chaos-plugins; "
        f"mount --bind /run/chaos-plugins $(realpath {CONFIG}); systemctl restart qpsmtpd.service"
    )
    scene.until("it listens", lambda: scene.sees() == "220", 30)
    master = scene.host.master()
    yield
    # while the configuration hasn't got it either, a restart would change nothing
    result = scene.host.check("smtp")
    untouched(scene, master)
    must("mf_canary isn't in" in str(result.get("summary")), f"it reports: {result.get('summary')}")
    scene.host.run(f"umount $(realpath {CONFIG})")
    scene.broken()
    back(scene)
    return was(scene, "restart", "REFUSED")


@fault("smtp", "the service runs older files than the release", "REFUSED, restarted", LANE)
def outdated(scene: Scene) -> Generator[None, None, str]:
    """As after a deploy that was cut off before its restart."""
    alone(scene)
    add_plugin(scene, OLD_POLICY)
    scene.until("it listens", lambda: scene.sees() == "220", 30)
    scene.host.run(f"umount $(realpath {CONFIG})")
    master = scene.host.master()
    yield
    result = scene.host.check("smtp")
    untouched(scene, master)
    must("550 at mail: 5.7.1 an old policy" in str(result.get("summary")), f"it reports: {result.get('summary')}")
    scene.host.python(STAMP)
    scene.broken()
    back(scene)
    return was(scene, "restart", "REFUSED")


@fault(
    "smtp", "a filter of 9 s on all MXs, mail flowing", "warnings; nothing is restarted anywhere", "fleet", seconds=90
)
def slow_everywhere(scene: Scene) -> Generator[None, None, str]:
    """For --minutes, with cron's own runs of the checks, and mail through each MX all the time."""
    hosts = [scene.fleet[name] for name in MXS]
    known = {host.name: len(host.decisions()) for host in hosts}
    for host in hosts:
        add_plugin(scene, SLOW % 9, host)
    scene.until("all listen", lambda: all(scene.sees(host) == "220" for host in hosts), 60)
    masters = {host.name: host.master() for host in hosts}
    clients = scene.sessions()
    letters = 0
    began, since = time.monotonic(), time.time()
    yield
    results: dict[str, list[str]] = {name: [] for name in MXS}

    def look(host: Host) -> None:
        result = host.result("smtp")
        results[host.name].append(f"{result.get('status')} {result.get('metrics', {}).get('class')}")

    def over() -> bool:
        nonlocal letters
        with ThreadPoolExecutor(len(hosts)) as pool:
            answers = [*pool.map(lambda host: letter(scene, host, clients), hosts)]
        letters += 1
        for host, answer in zip(hosts, answers, strict=True):
            must(answer.startswith("250"), f"letter {letters} to {host.name} got: {answer}")
            look(host)
        # the last run of cron's that falls into it must be over
        return time.monotonic() - began > 60 * scene.minutes + 30

    scene.until("the time is over", over, 60 * scene.minutes + 120, None, 15)
    seconds = time.time() - since
    parts = max(3, int(scene.minutes))
    scene.until("all are delivered", lambda: all(len(delivered(scene, host, since)) >= letters for host in hosts), 70)
    for host in hosts:
        busy_parts = {int((when - since) / seconds * parts) for when in delivered(scene, host, since)}
        idle = sorted(set(range(parts)) - busy_parts)
        must(not idle, f"{host.name} delivered nothing in {idle} of {parts} parts of the time")
    acted = [
        f"{host.name}: {entry['action']} {entry['outcome']}: {entry['reason'][:60]}"
        for host in hosts
        for entry in host.decisions()[known[host.name] :]
        if entry["check"] == "smtp" and entry["outcome"] in ("begun", "done", "failed")
    ]
    must(not acted, f"{len(acted)} entries of restarts: {acted[:3]}")
    for host in hosts:
        must(host.master() == masters[host.name], f"the master of {host.name} was replaced")
        must("WARNING OK" in results[host.name], f"{host.name} reported {sorted(set(results[host.name]))}")
        last = host.result("smtp")
        must(last.get("status") == "WARNING", f"{host.name} ended with {last.get('status')}: {last.get('summary')}")
    kinds = ", ".join(sorted({kind for host_results in results.values() for kind in host_results}))
    return f"0 restarts on {len(hosts)} MXs in {seconds:.0f} s, {letters} letters through each; results: {kinds}"
