"""Faults of check-smtp's restarts: they don't help, or something else acts on the host at the same time."""

from __future__ import annotations

import json
import subprocess
import threading
from collections.abc import Generator, Mapping, Sequence
from typing import Any

from chaos import ROOT, site_command
from chaos.faults.leases import reboot
from chaos.faults.processes import KEPT, LIMIT, child_of
from chaos.faults.smtp import LANE, back, remove_drop_in, replace, untouched, was
from chaos.scene import Deviation, Host, Scene, fault, must

# Moves what the breaker has stored $1 seconds into the past: as if so much time had gone by.
AGE_BREAKER = """
import json, sys
path = "/mf/var/state/breaker.json"
stored = json.load(open(path))
for breaker in stored.values():
    breaker["restarts"] = [at - float(sys.argv[1]) for at in breaker["restarts"]]
    breaker["until"] = breaker["until"] and breaker["until"] - float(sys.argv[1])
json.dump(stored, open(path, "w"))
"""


def attempts(scene: Scene) -> int:
    """Restarts that didn't help."""
    return len(scene.decided(check="smtp", action="restart", outcome="failed"))


def reports(scene: Scene, expected: str) -> bool:
    """Whether check-smtp's last result is CRITICAL with this text."""
    result = scene.host.result("smtp")
    return expected in str(result.get("summary")) and result.get("status") == "CRITICAL"


def wear_out(scene: Scene) -> None:
    """Have the check try until its breaker opens: again only when something has changed, here an operator's start."""
    for count in (1, 2, 3):
        scene.until("it isn't tried again", lambda: reports(scene, "did not cure it"), 120, scene.host.checks, 0.2)
        scene.host.checks()
        must(attempts(scene) == count, f"{attempts(scene)} attempts, and {count} times something had changed")
        scene.host.run("systemctl restart qpsmtpd.service")
    scene.until("the breaker opens", lambda: reports(scene, "breaker is open"), 90, scene.host.checks, 0.2)
    must(attempts(scene) == 3, f"{attempts(scene)} restarts before it opened")


@fault(
    "smtp",
    "a restart that never works",
    "not repeated before something changes; breaker opens, half-opens, closes",
    LANE,
    seconds=90,
)
def restart_never_works(scene: Scene) -> Generator[None, None, str]:
    """After every restart the service talks garbage. The breaker's waits are shortened by ageing its record."""
    replace(scene, "garbage")
    scene.broken()
    yield
    wear_out(scene)
    scene.host.checks()
    must(attempts(scene) == 3, "a restart through the open breaker")
    scene.host.python(AGE_BREAKER, "905")
    scene.until("one more attempt, half-open", lambda: attempts(scene) == 4, 90, scene.host.checks, 0.2)
    scene.host.run("systemctl restart qpsmtpd.service")
    scene.until("it is open again", lambda: reports(scene, "breaker is open"), 60, scene.host.checks, 0.2)
    must(attempts(scene) == 4, f"{attempts(scene)} restarts after it half-opened once")
    scene.host.run(remove_drop_in())
    scene.host.python(AGE_BREAKER, "1805")
    back(scene, 90)
    must(len(scene.decided(check="smtp", action="restart", outcome="done")) == 1, "no successful restart in the log")
    return "1 restart at a time, after 3 open; 1 half-open, open again; then restarted and closed"


@fault("smtp", "reboot with an open breaker", "still open, no restart; half-opens, heals, closes", "mx3", seconds=60)
def reboot_open(scene: Scene) -> Generator[None, None, str]:
    """Three restarts didn't help, and the machine is rebooted: the counters must survive that."""
    replace(scene, "garbage", "/etc/systemd/system", "/var/tmp")
    scene.broken()
    yield

    def acts() -> list[dict[str, Any]]:
        return [
            decision for decision in scene.decided(check="smtp") if decision["outcome"] in ("begun", "done", "failed")
        ]

    scene.until("the breaker opens", lambda: reports(scene, "breaker is open"), 200, scene.host.checks, 0.2)
    counted = len(breaker_of(scene.host)["restarts"])
    must(counted == 3, f"{counted} restarts are counted")
    booted = len(acts())
    reboot(scene)
    for _ in range(3):
        scene.host.checks()
        must(
            reports(scene, "breaker is open"),
            f"after the reboot it reports: {scene.host.result('smtp').get('summary')}",
        )
    must(len(acts()) == booted, f"after the reboot it acted: {acts()[booted:][:1]}")
    must(len(breaker_of(scene.host)["restarts"]) == counted, "the restarts before the reboot were forgotten")
    must(scene.host.result("smtp").get("status") == "CRITICAL", "an open breaker isn't CRITICAL")
    scene.host.run(remove_drop_in("/etc/systemd/system"))
    scene.host.python(AGE_BREAKER, "905")
    back(scene, 90)
    done = [decision for decision in acts()[booted:] if decision["outcome"] == "done"]
    must(len(done) == 1, f"{len(done)} successful restarts after it half-opened")
    must(breaker_of(scene.host)["until"] is None, "the breaker didn't close")
    return f"{counted} restarts counted before and after the boot, none by the open breaker; then 1, healed, closed"


def breaker_of(host: Host) -> dict[str, Any]:
    """The stored record of qpsmtpd's breaker."""
    breaker: dict[str, Any] = json.loads(host.run("cat /mf/var/state/breaker.json"))["qpsmtpd.service"]
    return breaker


@fault("smtp", "master stopped while throttled", "restarted on loopback's evidence, still refusing", LANE)
def throttled_too(scene: Scene) -> Generator[None, None, str]:
    """Our own refusal is no evidence, neither for nor against."""
    scene.undo("/mf/bin/throttle off --owner chaos")
    scene.host.run("/mf/bin/throttle on --owner chaos --force --ttl 5m --reason 'fault suite'")
    master = scene.host.master()
    scene.host.checks()
    untouched(scene, master)
    must(scene.sees() == "refused", "a sender outside isn't refused")
    scene.undo(f"kill -CONT {master}")
    scene.host.run(f"kill -STOP {master}")
    scene.broken()
    yield
    scene.until("check-smtp is OK", lambda: scene.host.result("smtp").get("status") == "OK", 120, scene.host.checks)
    scene.healed()
    must(scene.sees() == "refused", "the refusal was lost")
    was(scene, "restart", "WEDGED")
    return "WEDGED, restarted, still refusing"


@fault("smtp", "master stopped under maintenance", "probed only; healed when maintenance ends", LANE)
def under_maintenance(scene: Scene) -> Generator[None, None, str]:
    """An operator is at work."""
    scene.undo("/mf/bin/maintenance off")
    scene.host.run("/mf/bin/maintenance on --ttl 5m --reason 'fault suite'")
    pid = scene.host.master()
    scene.undo(f"kill -CONT {pid}")
    scene.host.run(f"kill -STOP {pid}")
    yield
    scene.host.checks()
    must(scene.host.master() == pid, "it was restarted under maintenance")
    must(scene.decided(check="smtp", action="restart", outcome="refused"), "the refusal isn't logged")
    scene.host.run("/mf/bin/maintenance off")
    scene.broken()
    back(scene)
    was(scene, "restart", "WEDGED")
    return "refused and logged meanwhile; restarted after it"


@fault("smtp", "checks, kill and action lock at the same moment", "one actor at a time, one restart", LANE)
def same_moment(scene: Scene) -> Generator[None, None, str]:
    """Five rounds of checks start at once while another action holds the lock for a moment, as a deploy does."""
    pid = scene.host.master()
    scene.undo(f"kill -CONT {pid}")
    scene.host.run(f"kill -STOP {pid}")
    scene.broken()
    yield
    hold = threading.Thread(target=scene.host.ask, args=("flock /run/mf/lock/action.lock sleep 4",), daemon=True)
    hold.start()
    rounds = [threading.Thread(target=checks_quietly, args=(scene.host,), daemon=True) for _ in range(5)]
    for thread in rounds:
        thread.start()
    for thread in [*rounds, hold]:
        thread.join(120)
    back(scene)
    return was(scene, "restart", "WEDGED")


@fault(
    "smtp",
    "check, kill and deploy at the same moment",
    "child killed, one restart, deploy passes its gate; no two at once",
    "fleet",
    host="mx2",
)
def deploy_meanwhile(scene: Scene) -> Generator[None, None, str]:
    """A stuck child that is due, a frozen master, three rounds of checks, site.yml with a changed setting, all at once.

    Maintenance keeps the checks from acting until everything is there.
    """
    scene.undo("/mf/bin/maintenance off")
    scene.host.run("/mf/bin/maintenance on --ttl 10m --reason 'fault suite'")
    stuck = child_of(scene, scene.sessions(), "stuck", "mail")
    scene.undo(f"kill -CONT {stuck}")
    scene.host.run(f"kill -STOP {stuck}")
    scene.until(
        "the stuck child is due",
        lambda: bool(scene.decided(action="kill", target=str(stuck), outcome="refused")),
        LIMIT,
        lambda: scene.host.check("processes"),
        KEPT,
    )
    pid = scene.host.master()
    scene.undo(f"kill -CONT {pid}")
    scene.host.run(f"kill -STOP {pid}")
    scene.broken()
    before = scene.host.run("readlink /mf/current").strip()
    yield
    scene.host.run("/mf/bin/maintenance off")
    rounds = [threading.Thread(target=checks_quietly, args=(scene.host,), daemon=True) for _ in range(3)]
    for thread in rounds:
        thread.start()
    # A deploy that comes first keeps the checks from acting, and its gate then finds the frozen master.
    scene.until(
        "check-smtp restarts it", lambda: bool(scene.decided(check="smtp", action="restart", outcome="begun")), LIMIT
    )
    # the same setting again later, so that the next run of the suite finds a change as well
    deploying = subprocess.Popen(
        site_command("mx2", mf_checks_session_limit=61 if limit_of(scene.host) == 60 else 60),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    scene.later(deploying.kill)
    try:
        output = deploying.communicate(timeout=240)[0]
    except subprocess.TimeoutExpired:
        raise Deviation("the deploy did not end within 240 s") from None
    for thread in rounds:
        thread.join(120)
    must(deploying.returncode == 0, f"the deploy ended with {deploying.returncode}: {output[-300:]}")
    must(scene.host.run("readlink /mf/current").strip() != before, "nothing was released")
    back(scene)
    kills = scene.decided(check="processes", action="kill", target=str(stuck), outcome="done")
    must(len(kills) == 1, f"the stuck child was killed by {len(kills)} checks")
    done = scene.decided(check="smtp", action="restart", outcome="done")
    must(len(done) == 1, f"{len(done)} restarts by check-smtp")
    overlap = overlapping(scene.decided())
    must(not overlap, overlap)
    must(scene.host.ask("/mf/bin/maintenance status")[0] == 0, "maintenance is still on")
    return "killed once, restarted once, released, gate passed"


def overlapping(decisions: Sequence[Mapping[str, Any]]) -> str:
    """What in a decision log was begun while something else was under way, in words; nothing when all is in order."""
    under_way: dict[tuple[str, str], str] = {}
    for decision in decisions:
        key = (str(decision["action"]), str(decision["target"]))
        if decision["outcome"] == "begun":
            # kills of one run are one act
            others = [f"{action} {target}" for action, target in under_way if (action, key[0]) != ("kill", "kill")]
            if others:
                return f"{' '.join(key)} was begun during {others[0]}"
            under_way[key] = str(decision["time"])
        elif decision["outcome"] != "refused":
            under_way.pop(key, None)
    return ""


def limit_of(host: Host) -> int:
    """The session limit that is deployed."""
    return int(json.loads(host.run("cat /mf/etc/mf.json"))["checks"]["processes"]["session_limit"])


def checks_quietly(host: Host) -> None:
    """A round of checks in a thread."""
    host.checks()
