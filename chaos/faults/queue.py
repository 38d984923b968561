"""Faults of the queue behind: dead, frozen, without room. An MX that can't hand mail on greets no client."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
from collections.abc import Generator
from pathlib import Path
from typing import Any

from mflab import mail
from mflab.reconcile import reconcile
from mflab.spec import open_lab

from chaos import ROOT
from chaos.faults.smtp import LANE, untouched
from chaos.scene import MXS, Scene, fault, must

LETTERS = 4  # messages of a sender that tries until they are taken


def turned_away(scene: Scene, why: str, master: int) -> str:
    """Wait until the queue's fault shows: senders get a 421, the canary gets the reason, nothing is restarted."""
    scene.until("a sender outside gets a 421", lambda: scene.sees() == "421", 30)
    result: dict[str, Any] = {}

    def reported() -> bool:
        result.update(scene.host.result("smtp"))
        return bool(re.search(f"^BUSY: 451 at message: .*takes no mail: {why}", str(result.get("summary"))))

    # one of cron's that is under way keeps ours from looking
    scene.until("check-smtp hears the reason", reported, 60, scene.host.checks)
    untouched(scene, master)
    must(result["status"] == "WARNING", f"check-smtp reports {result['status']}")
    must(json.loads(scene.host.ask("/mf/bin/health --json")[1])["accepting"] is False, "health reports that it accepts")
    return str(result["summary"])


@fault(
    "queue", "Exim dead", "421 instead of a greeting; senders keep their mail, delivered when it runs", LANE, seconds=45
)
def exim_dead(scene: Scene) -> Generator[None, None, str]:
    """SIGKILL to the queue behind, and it can't be started: systemd tries, until the program is there again."""
    master = scene.host.master()
    clients = scene.sessions()
    clients.open("person", scene.host.address, "data")
    must(clients.answer("person").startswith("354"), "no session")
    scene.undo("umount /usr/sbin/exim4")
    scene.host.run(
        "mount --bind /bin/false /usr/sbin/exim4; kill -9 $(systemctl show --value --property MainPID mf-exim.service)"
    )
    scene.broken()
    mailer = mail.Mailer(scene.host.podman, open_lab(None), show=False)
    mailer.run.mxs = [scene.host.place]
    sending = threading.Thread(target=mailer.send, args=(LETTERS, 0.0, 0.0, 300.0), daemon=True)
    scene.later(lambda: scene.world.ask(f"systemctl stop {mailer.unit}"))
    yield
    answer = clients.finish("person")
    must(answer.startswith("451"), f"a sender whose session was open got: {answer}")
    scene.until("a sender outside gets a 421", lambda: scene.sees() == "421", 30)
    sending.start()
    turned_away(scene, "connect: Connection refused", master)
    queue = scene.host.check("queue")
    must(queue.get("status") == "CRITICAL", f"check-queue reports {queue.get('status')}: {queue.get('summary')}")
    must(not mailer.run.ends, f"decided though Exim is dead: {mailer.run.ends[:1]}")
    scene.host.run("umount /usr/sbin/exim4")
    scene.until("check-queue is OK again", lambda: scene.host.check("queue").get("status") == "OK", 60)
    scene.until("a sender outside is greeted", lambda: scene.sees() == "220", 10)
    scene.healed()
    sending.join(120)
    ends = mailer.run.ends
    must(len(ends) == LETTERS, f"{len(ends)} of {LETTERS} messages were decided")
    for end in ends:
        why = end["deferred"]
        must(why and all("421" in reply for reply in why), f"a sender that keeps its mail got {why}")
    account = reconcile(ends, mailer.wait(120))
    must(account.delivered == LETTERS and not account.faults(), f"{account.delivered} delivered; {account.faults()}")
    untouched(scene, master)
    return f"421 to each; check-queue CRITICAL, then OK; {LETTERS} of {LETTERS} delivered afterwards; qpsmtpd untouched"


@fault("queue", "Exim frozen", "421 instead of a greeting, BUSY, no restart; greeted again at once", LANE)
def exim_frozen(scene: Scene) -> Generator[None, None, str]:
    """SIGSTOP: the kernel goes on to accept connections, and no greeting comes."""
    master = scene.host.master()
    pid = scene.host.run("systemctl show --value --property MainPID mf-exim.service").strip()
    scene.undo(f"kill -CONT {pid}")
    scene.host.run(f"kill -STOP {pid}")
    yield
    summary = turned_away(scene, "greeting: timeout", master)
    scene.host.run(f"kill -CONT {pid}")
    scene.broken()
    scene.until("a sender outside is greeted", lambda: scene.sees() == "220", 10, None, 0.2)
    scene.healed()
    return summary[:80]


@fault("queue", "Exim's spool full", "421 instead of a greeting, CRITICAL, no restart", LANE)
def spool_full(scene: Scene) -> Generator[None, None, str]:
    """A small full file system over the spool."""
    master = scene.host.master()
    spool = "/var/spool/exim4"
    scene.undo(
        f"systemctl stop mf-exim.service; umount {spool}; umount /run/chaos-spool; rmdir /run/chaos-spool; "
        "systemctl start mf-exim.service"
    )
    scene.host.run(
        "mkdir -p /run/chaos-spool && mount -t tmpfs -o size=256k,mode=0750 chaos /run/chaos-spool && "
        "cd /run/chaos-spool && mkdir input msglog db && chown -R Debian-exim:Debian-exim . && "
        "{ dd if=/dev/zero of=full bs=4k 2>/dev/null || :; } && cd / && systemctl stop mf-exim.service && "
        f"mount --bind /run/chaos-spool {spool} && systemctl start mf-exim.service"
    )
    yield
    summary = turned_away(scene, "MAIL: 452", master)
    queue = scene.host.check("queue")
    must(queue.get("status") == "CRITICAL", f"check-queue reports {queue.get('status')}: {queue.get('summary')}")
    return f"{queue['summary'][:60]}; {summary[:80]}"


@fault(
    "queue",
    "Exim's spool read-only",
    "421 instead of a greeting, no peer counts it, no restart; greeted again",
    "fleet",
)
def spool_read_only(scene: Scene) -> Generator[None, None, str]:
    """A file system of the spool's own, remounted read-only as a disk error does it, and writable again."""
    master = scene.host.master()
    spool = "/var/spool/exim4"
    scene.undo(f"systemctl stop mf-exim.service; umount {spool}; systemctl start mf-exim.service")
    scene.host.run(
        "systemctl stop mf-exim.service && "
        f"mount -t tmpfs -o size=100m,mode=0750,uid=Debian-exim,gid=Debian-exim chaos {spool} && "
        f"systemctl start mf-exim.service && mount -o remount,ro {spool}"
    )
    yield
    summary = turned_away(scene, "MAIL: 451 .*Read-only file system", master)
    peer = scene.fleet[next(name for name in MXS if name != scene.host.name)]
    scene.undo("/mf/bin/throttle off", peer)
    code, refusal = peer.ask("/mf/bin/throttle on --ttl 1m --reason 'fault suite' 2>&1")
    must(
        code != 0 and "1 of 2 peers accept mail" in refusal, f"throttle on of a peer ended with {code}: {refusal[:150]}"
    )
    must(not peer.refused_ports(), "the peer refuses")
    scene.host.run(f"mount -o remount,rw {spool}")
    scene.broken()
    scene.until("a sender outside is greeted", lambda: scene.sees() == "220", 10, None, 0.2)
    scene.healed()
    untouched(scene, master)
    return f"{summary}; throttle on of a peer refused: 1 of 2 peers accept mail"


@fault(
    "queue", "Exim stopped on all MXs", "421 from all, no MX counts as accepting, no throttle; greeted again", "fleet"
)
def exim_stopped_everywhere(scene: Scene) -> Generator[None, None, str]:
    """Senders, the table, the budgets of throttle and deploy must all find that no MX takes mail."""
    mxs = [scene.fleet[name] for name in MXS]
    for host in mxs:
        scene.undo("systemctl start mf-exim.service", host)
        host.run("systemctl stop mf-exim.service")
    yield
    scene.until("all say 421", lambda: all(scene.sees(host) == "421" for host in mxs), 30)
    code, output = scene.host.ask("/mf/bin/throttle on --ttl 1m --reason 'fault suite' 2>&1")
    scene.undo("/mf/bin/throttle off")
    must(code != 0 and "0 of 2 peers accept mail" in output, f"throttle on ended with {code}: {output[:150]}")
    must(not scene.host.refused_ports(), "it refuses")
    for host in mxs:
        host.checks()
    table = ansible("playbooks/check_fleet.yml", "--limit", "mx")
    must(table.count("not accepted") == len(mxs), f"the table: {table[:600]}")
    spared = ansible("-m", "mf_budget", scene.host.name)
    must("accepts no mail now" in spared, f"mf_budget: {spared[:300]}")
    for host in mxs:
        host.run("systemctl start mf-exim.service")
    scene.broken()
    scene.until("all greet", lambda: all(scene.sees(host) == "220" for host in mxs), 15, None, 0.2)
    scene.healed()
    return "421 from all; throttle on refused: 0 of 2 peers accept mail; not accepted in the table; may be mended"


def ansible(*arguments: str) -> str:
    """The output of ansible-playbook, or of ansible where the first word is an option."""
    program = "ansible" if arguments[0].startswith("-") else "ansible-playbook"
    command = [str(Path(sys.executable).with_name(program)), *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120).stdout
