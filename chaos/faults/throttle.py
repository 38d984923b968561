"""Faults of the throttle: marker and firewall torn apart, killed in between, flushed, missing, without room."""

from __future__ import annotations

from collections.abc import Generator

from chaos.scene import Host, Scene, fault, must

LANE = "any"
NFT = "/usr/sbin/nft"
ON = "/mf/bin/throttle on --owner chaos --force --reason 'fault suite'"
OFF = "/mf/bin/throttle off --owner chaos"

# Bound over nft: at a change of the ruleset it kills its parent, the program that asked for it, before or after.
DEADLY_NFT = """\
#!/bin/sh
if [ "$1" = -f ]; then
    [ "$WHEN" = before ] && { kill -9 $PPID; exit 0; }
    /run/chaos-nft-real "$@"
    kill -9 $PPID
    exit 0
fi
exec /run/chaos-nft-real "$@"
"""
RELEASE_NFT = f"umount {NFT}; rm -f /run/chaos-nft /run/chaos-nft-real"


def deadly(scene: Scene, when: str) -> None:
    """From now on, a program that changes the ruleset dies: ``before`` or ``after`` the change."""
    scene.undo(RELEASE_NFT)
    scene.host.run("cat > /run/chaos-nft", text=DEADLY_NFT.replace("$WHEN", when))
    # /run may be mounted noexec; a copy beside nft isn't needed, since a bind mount keeps the original reachable
    scene.host.run(f"cp {NFT} /run/chaos-nft-real && chmod 755 /run/chaos-nft /run/chaos-nft-real")
    scene.host.run(f"mount --bind /run/chaos-nft {NFT} && mount -o remount,bind,exec {NFT} 2>/dev/null || :")


def refuse(scene: Scene, ttl: str = "5m") -> None:
    """An operator's lease that refuses."""
    scene.undo(OFF)
    scene.host.run(f"{ON} --ttl {ttl}")
    must(scene.host.refused_ports(), "nothing is refused after throttle on")


def agree(host: Host) -> bool:
    """Whether marker and firewall agree."""
    return bool(host.status().get("refusing")) == host.refused_ports()


def load_check(scene: Scene) -> None:
    """One run of check-load, which also reconciles."""
    scene.host.check("load")


@fault("throttle", "killed between marker and firewall", "marked at once, refusing after the next check", LANE)
def killed_before(scene: Scene) -> Generator[None, None, str]:
    """SIGKILL after the marker was written, before nft ran."""
    scene.undo(OFF)
    deadly(scene, "before")
    code, _ = scene.host.ask(f"{ON} --ttl 5m")
    scene.broken()
    must(code != 0, "the command wasn't killed")
    yield
    must(scene.host.ask("/mf/bin/throttle status")[0] == 2, "there is no marker: local work wouldn't back off")
    must(not scene.host.refused_ports(), "nft ran")
    scene.host.run(RELEASE_NFT)
    scene.until("it refuses", scene.host.refused_ports, 130, lambda: load_check(scene))
    scene.healed()
    must(agree(scene.host), "marker and firewall differ")
    return "marked; the next check-load made the firewall follow"


@fault("throttle", "killed between firewall and marker", "refusing; marker follows at the next check", LANE)
def killed_after(scene: Scene) -> Generator[None, None, str]:
    """SIGKILL after nft ran, before the marker records it. Without cron, whose check could write the marker first."""
    scene.undo("systemctl start cron.service")
    scene.host.run("systemctl stop cron.service; flock -w 60 /run/mf/lock/load.lock true")
    scene.undo(OFF)
    deadly(scene, "after")
    code, _ = scene.host.ask(f"{ON} --ttl 5m")
    scene.broken()
    must(code != 0, "the command wasn't killed")
    yield
    must(scene.host.refused_ports(), "nft did not run")
    must(not scene.host.status().get("refusing"), "the marker knew it already")
    scene.host.run(RELEASE_NFT)
    scene.until("marker and firewall agree", lambda: agree(scene.host), 130, lambda: load_check(scene))
    scene.healed()
    must(scene.host.refused_ports(), "the refusal was lost")
    return "refused; the next check-load wrote the marker"


@fault("throttle", "off killed half way", "accepting after the next check", LANE)
def off_killed(scene: Scene) -> Generator[None, None, str]:
    """The lease is gone from the marker, the firewall still refuses."""
    refuse(scene)
    deadly(scene, "before")
    code, _ = scene.host.ask(OFF)
    scene.broken()
    must(code != 0, "the command wasn't killed")
    yield
    must(scene.host.refused_ports(), "nft ran")
    scene.host.run(RELEASE_NFT)
    scene.until("it accepts", lambda: not scene.host.refused_ports(), 130, lambda: load_check(scene))
    scene.healed()
    must(scene.host.status().get("throttled") is False, "the lease came back")
    return "finished by the next check-load"


@fault("throttle", "cron dead while throttled", "mail flows when the lease ends, by itself", LANE)
def cron_dead(scene: Scene) -> Generator[None, None, str]:
    """Nothing of ours runs any more: the kernel ends the refusal."""
    scene.undo("systemctl start cron.service")
    scene.host.run("systemctl stop cron.service")
    refuse(scene, "15s")
    scene.broken()
    must(scene.sees() == "refused", "a sender outside isn't refused")
    yield
    scene.until("mail is accepted", lambda: scene.sees() == "220", 25, None, 0.5)
    scene.healed()
    must(scene.heal is not None and scene.heal > 10, "it ended too early")
    must(scene.host.ask("/mf/bin/throttle status")[0] == 0, "the marker still counts")
    return "lease of 15 s ended by the kernel"


@fault("throttle", "nft flushed", "refusing again after the next check", LANE)
def nft_flushed(scene: Scene) -> Generator[None, None, str]:
    """Another program loads a ruleset of its own."""
    refuse(scene)
    scene.host.run("nft flush ruleset")
    scene.broken()
    must(scene.sees() == "220", "it still refuses")
    yield
    scene.until("it refuses", lambda: scene.sees() == "refused", 130, lambda: load_check(scene))
    scene.healed()
    return "put back by check-load"


@fault("throttle", "nft missing", "only marked, and reported; refusing when it is back", LANE)
def nft_missing(scene: Scene) -> Generator[None, None, str]:
    """The package was removed."""
    scene.undo(OFF)
    scene.undo(f"[ ! -e {NFT}.away ] || mv {NFT}.away {NFT}")
    scene.host.run(f"mv {NFT} {NFT}.away")
    code, _ = scene.host.ask(f"{ON} --ttl 5m 2>&1")
    yield
    must(code == 1, f"throttle on ended with {code}")
    must(scene.host.status().get("throttled"), "there is no marker: local work wouldn't back off")
    result = scene.host.check("load")
    must(result.get("status") == "CRITICAL", f"check-load reports {result.get('status')}: {result.get('summary')}")
    scene.host.run(f"mv {NFT}.away {NFT}")
    scene.broken()
    scene.until("it refuses", scene.host.refused_ports, 130, lambda: load_check(scene))
    scene.healed()
    return "marked and CRITICAL; refusing as soon as nft was back"


@fault("throttle", "marker corrupt", "written anew, lease kept, refusing all the while", LANE)
def marker_corrupt(scene: Scene) -> Generator[None, None, str]:
    """Garbage, then nothing at all."""
    refuse(scene)
    yield
    for damage in ("head -c 300 /dev/urandom > /run/mf/throttled", ": > /run/mf/throttled", "rm /run/mf/throttled"):
        scene.host.run(damage)
        scene.broken()
        scene.until(
            "the marker is whole", lambda: bool(scene.host.status().get("throttled")), 130, lambda: load_check(scene)
        )
        scene.healed()
        must(scene.host.refused_ports(), "the refusal was lost")
    return "garbage, empty and deleted: each made good by check-load"


@fault("throttle", "marker a symlink", "replaced; where it points isn't touched", LANE)
def marker_symlink(scene: Scene) -> Generator[None, None, str]:
    """It points at a file that matters."""
    refuse(scene)
    scene.undo("rm -f /etc/chaos-precious")
    scene.host.run("echo precious > /etc/chaos-precious; ln -sf /etc/chaos-precious /run/mf/throttled")
    scene.broken()
    yield
    scene.until(
        "the marker is whole", lambda: bool(scene.host.status().get("throttled")), 130, lambda: load_check(scene)
    )
    scene.healed()
    must(scene.host.run("cat /etc/chaos-precious") == "precious\n", "the file it points at was changed")
    must(scene.host.run("stat -c %F /run/mf/throttled").strip() == "regular file", "it is still a symlink")
    return "replaced, its target untouched"


@fault("throttle", "no room for the marker", "refused by the firewall, reported; ends with the lease", LANE)
def marker_full_disk(scene: Scene) -> Generator[None, None, str]:
    """A full file system over /run/mf."""
    scene.undo("umount /run/mf")
    scene.undo(OFF)
    scene.host.run(
        "systemctl stop cron.service; mount -t tmpfs -o size=64k,mode=0755 chaos /run/mf; "
        "mkdir /run/mf/lock /run/mf/state; "
        "dd if=/dev/zero of=/run/mf/full bs=4k 2>/dev/null || :"
    )
    scene.undo("systemctl start cron.service")
    code, output = scene.host.ask(f"{ON} --ttl 10s 2>&1")
    scene.broken()
    yield
    must(code == 1 and "jobs don't see the change" in output, f"it passed for done: exit {code}, {output[-150:]}")
    must(scene.host.refused_ports() or scene.sees() == "refused", "it doesn't refuse")
    scene.until("mail is accepted", lambda: scene.sees() == "220", 25)
    scene.healed()
    return f"exit {code}, warned, refused until the lease ended"


@fault("throttle", "hold given back while /run/mf is full", "gone for good; the other lease stays", LANE)
def hold_full_disk(scene: Scene) -> Generator[None, None, str]:
    """No room for a new marker, and the old one still names the hold."""
    scene.undo("systemctl start cron.service")
    scene.undo("/mf/bin/throttle off --owner chaos-hold; " + OFF)
    scene.undo("umount /run/mf")
    scene.host.run(
        "systemctl stop cron.service; mount -t tmpfs -o size=64k,mode=0755 chaos /run/mf; "
        f"mkdir /run/mf/lock /run/mf/state; {ON} --ttl 5m --mark-only; "
        "/mf/bin/throttle on --owner chaos-hold --hold --reason 'fault suite'"
    )
    must(scene.host.refused_ports(), "the hold doesn't refuse")
    scene.host.run("dd if=/dev/zero of=/run/mf/full bs=4k 2>/dev/null || :")
    scene.broken()
    code, output = scene.host.ask("/mf/bin/throttle off --owner chaos-hold 2>&1")
    yield
    must(code == 0, f"off ended with {code}: {output[-150:]}")
    scene.host.run("/mf/bin/throttle reconcile")
    held = [held_lease["owner"] for held_lease in scene.host.status()["leases"]]
    must(held == ["chaos"], f"held by {held}")
    must(not scene.host.refused_ports(), "it still refuses")
    scene.healed()
    return "written over the old marker; a reconcile brought nothing back"


@fault("throttle", "marker and file of a hold deleted", "the refusal ends at the next check, reported", LANE)
def hold_deleted(scene: Scene) -> Generator[None, None, str]:
    """Only the kernel has it, and there it has no end."""
    scene.undo("systemctl start cron.service")
    scene.undo("/mf/bin/throttle off --owner chaos-hold")
    scene.host.run(
        "systemctl stop cron.service; /mf/bin/throttle on --owner chaos-hold --hold --reason 'fault suite'; "
        "rm /run/mf/throttled /mf/var/state/leases.json"
    )
    scene.broken()
    code, output = scene.host.ask("/mf/bin/health")
    yield
    must(code != 0 and "marker of the throttle is lost" in output, f"health ended with {code}: {output[:150]}")
    code, output = scene.host.ask("/mf/bin/check-load")
    must("was lost" in output, f"check-load ended with {code}: {output[:150]}")
    must(not scene.host.refused_ports(), "it still refuses")
    scene.healed()
    return "noticed by health, ended by check-load"


@fault("throttle", "/run/mf read-only", "nothing half done, reported; works when it is back", LANE)
def marker_read_only(scene: Scene) -> Generator[None, None, str]:
    """Neither lock nor marker can be written."""
    scene.undo("systemctl start cron.service")
    scene.undo(OFF)
    scene.undo("umount /run/mf")
    scene.host.run("systemctl stop cron.service; mount --bind /run/mf /run/mf && mount -o remount,ro,bind /run/mf")
    code, output = scene.host.ask(f"{ON} --ttl 5m 2>&1")
    checked, shown = scene.host.ask("/mf/bin/check-load")
    yield
    must(code == 1 and "Read-only file system" in output, f"throttle on ended with {code}: {output[-150:]}")
    must(not scene.host.refused_ports(), "it refuses without a marker")
    must(checked == 3, f"check-load ended with {checked}: {shown[:100]}")
    scene.host.run("umount /run/mf")
    scene.broken()
    scene.host.run(f"{ON} --ttl 5m")
    must(scene.host.refused_ports() and agree(scene.host), "marker and firewall differ")
    scene.healed()
    return "exit 1 and UNKNOWN, both with the reason; refused as soon as it could be written"


@fault("throttle", "/mf/var read-only", "refusing and given back; reports what won't survive", LANE)
def disk_read_only(scene: Scene) -> Generator[None, None, str]:
    """The lease can't be kept for a reboot."""
    scene.undo("umount /mf/var")
    scene.undo(OFF)
    scene.host.run("mount --bind /mf/var /mf/var && mount -o remount,ro,bind /mf/var")
    _, output = scene.host.ask(f"{ON} --ttl 5m 2>&1")
    yield
    must(scene.host.refused_ports(), f"nothing is refused: {output[-150:]}")
    must("survive" in output, f"no warning about the disk: {output[-150:]}")
    scene.host.ask(OFF)
    must(not scene.host.refused_ports(), "it still refuses after off")
    must(scene.sees() == "220", "mail isn't accepted after off")
    return "refused, warned, given back"


@fault("throttle", "sessions open while refusal begins", "none cut; new ones refused", LANE)
def open_sessions(scene: Scene) -> Generator[None, None, str]:
    """Three messages are in the middle of their DATA."""
    clients = scene.sessions()
    for number in range(3):
        clients.open(f"open{number}", scene.host.address, "data", 1.0)
    for number in range(3):
        must(clients.answer(f"open{number}").startswith("354"), "no session")
    refuse(scene)
    yield
    must(scene.sees() == "refused", "a new connection isn't refused")
    scene.wait(5)
    replies = [clients.finish(f"open{number}") for number in range(3)]
    must(all(reply.startswith("250") for reply in replies), f"an open session was cut: {replies}")
    return "three messages finished with 250, a new connection was refused"
