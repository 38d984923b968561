"""A lab's containers: bringing them up, mending what is broken, taking them down."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from mflab import machine, world
from mflab.podman import Podman, PodmanError
from mflab.spec import REPOSITORY, Host, Lab, LabError

T = TypeVar("T")

# CAP_SYS_PTRACE: root on a real machine may read every process's /proc/PID/io; NET_RAW: ping.
CAPABILITIES = "NET_ADMIN,NET_RAW,SYS_ADMIN,SYS_PTRACE"
PARALLEL = 4
BOOT_LIMIT = 90.0  # s; a boot takes 2 s, on a machine that builds at the same time much longer

# Run in a container with the operator's public key on stdin: waits until it has booted, lets that key in, tells the
# host key. Harmless when run again.
SETTLE = """\
set -eu
waited=0
until [ -S /run/systemd/private ] && [ -S /run/dbus/system_bus_socket ]; do
    waited=$((waited + 1))
    [ $waited -lt 600 ] || { echo 'systemd does not start' >&2; exit 1; }
    sleep 0.1
done
state=$(timeout 60 systemctl is-system-running --wait) || :
case $state in running | degraded) ;; *) echo "the system is ${state:-not answering}" >&2; exit 1 ;; esac
umask 077
mkdir -p ~root/.ssh
cat > ~root/.ssh/authorized_keys.part
mv ~root/.ssh/authorized_keys.part ~root/.ssh/authorized_keys
cat /etc/ssh/ssh_host_ed25519_key.pub
"""


def create_arguments(lab: Lab, host: Host, image: str) -> list[str]:
    """Return the arguments after `podman run` for `host`, without the labels that are computed from them."""
    place = f"{lab.network}:ip={host.address},mac={host.mac}"
    network = ",".join([place, *(f"alias={name}" for name in (host.name, *host.aliases))])
    return [
        "--name",
        host.container,
        "--hostname",
        host.name,
        "--systemd",
        "always",
        "--cap-add",
        CAPABILITIES,
        # A profile of the machine's would forbid the mounts that systemd makes for hardened services.
        "--security-opt",
        "apparmor=unconfined",
        "--security-opt",
        "label=disable",
        "--network",
        network,
        "--publish",
        f"127.0.0.1:{host.ssh_port}:22",
        "--label",
        lab.label,
        "--label",
        f"mf.lab.home={lab.home}",
        image,
        "/sbin/init",
    ]


def made_of(arguments: Sequence[str]) -> str:
    """Return a short hash of what a container is made of; a container with another one is out of date."""
    return hashlib.sha256("\0".join(arguments).encode()).hexdigest()[:12]


def decide(container: dict[str, Any] | None, wanted: str) -> str:
    """Return what `up` does with a container as `podman ps` lists it: "create", "recreate", "start" or "keep".

    Anything that isn't plainly running or stopped (an interrupted creation, say) is made anew.
    """
    if container is None:
        return "create"
    if (container.get("Labels") or {}).get("mf.lab.made-of") != wanted:
        return "recreate"
    return {"running": "keep", "exited": "start", "stopped": "start"}.get(str(container.get("State")), "recreate")


def listed(podman: Podman, lab: Lab) -> dict[str, dict[str, Any]]:
    """Return the lab's containers as `podman ps` lists them, by name."""
    return {entry["Names"][0]: entry for entry in podman.json("ps", "--all", "--filter", f"label={lab.label}")}


def refuse_foreign(lab: Lab, containers: Iterable[dict[str, Any]]) -> None:
    """LabError if any of `containers` belongs to another checkout that still exists."""
    for entry in containers:
        owner = (entry.get("Labels") or {}).get("mf.lab.home", "")
        if owner and owner != str(lab.home) and Path(owner).exists():
            raise LabError(
                f"lab {lab.number} is in use by another checkout, {Path(owner).parents[1]}: run its `lab.py down`"
                f" there, or choose another number here, say MF_LAB={lab.number + 2}"
            )


@contextmanager
def locked(folder: Path, task: str) -> Iterator[None]:
    """Hold the directory `folder` for this process alone; waits, and prints `task`, while another lab.py has it."""
    while True:
        folder.mkdir(mode=0o755, parents=True, exist_ok=True)
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                print(f"waiting for another lab.py that is working on {task}", flush=True)
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            if os.fstat(descriptor).st_nlink:  # else `down` removed it while we waited
                yield
                return
        finally:
            os.close(descriptor)


def running(podman: Podman, lab: Lab, host: Host) -> Host:
    """Return `host`; LabError with what to do unless it is running."""
    entry = listed(podman, lab).get(host.container)
    if entry is None or entry.get("State") != "running":
        state = entry["State"] if entry else "not there"
        raise LabError(f"{host.name} of lab {lab.number} is {state}: run `lab.py --lab {lab.number} start {host.name}`")
    return host


def make_key(lab: Lab) -> str:
    """Make the lab's ssh key unless it is there; return its public half."""
    public = lab.key.with_suffix(".pub")
    if not (lab.key.exists() and public.exists()):
        lab.key.unlink(missing_ok=True)
        made = subprocess.run(
            ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", lab.network, "-f", str(lab.key)],
            capture_output=True,
            text=True,
            check=False,
        )
        if made.returncode:
            raise LabError(f"ssh-keygen: {made.stderr.strip()}")
    return public.read_text(encoding="utf-8")


def make_secrets(lab: Lab) -> None:
    """Make the secrets of the lab's fleet unless they are there."""
    path = lab.home / "secrets.yml"
    if path.exists():
        return
    script = REPOSITORY / "scripts/make_secrets.py"
    made = subprocess.run([sys.executable, str(script), str(path)], capture_output=True, text=True, check=False)
    if made.returncode:
        raise LabError(made.stderr.strip() or f"{script.name} ended with {made.returncode}")


def make_network(podman: Podman, lab: Lab) -> None:
    """Make the lab's network unless it is there."""
    if podman.run("network", "exists", lab.network, check=False)[0] == 0:
        return
    try:
        podman.run("network", "create", "--subnet", lab.subnet, "--label", lab.label, lab.network)
    except PodmanError as error:
        raise LabError(f"no network {lab.subnet} for lab {lab.number}: {error}; another MF_LAB may do") from error


def each(podman: Podman, work: Callable[[T], None], items: Iterable[T]) -> list[tuple[T, LabError]]:
    """Do `work` for all of `items`, some at a time; return those that failed with their errors.

    An interrupt lets running podman commands finish and begins no new ones.
    """
    failed = []
    with ThreadPoolExecutor(PARALLEL) as pool:
        futures = [(item, pool.submit(work, item)) for item in items]
        try:
            for item, future in futures:
                try:
                    future.result()
                except LabError as error:
                    failed.append((item, error))
        except BaseException:
            podman.cancelled.set()
            pool.shutdown(wait=True, cancel_futures=True)
            raise
    return failed


class Fleet:
    """The containers of one lab, brought to where they should be."""

    def __init__(self, podman: Podman, lab: Lab, image: str, hosts: Sequence[Host]) -> None:
        self.podman = podman
        self.lab = lab
        self.hosts = list(hosts)
        self.arguments = {host.name: create_arguments(lab, host, image) for host in hosts}
        self.done: dict[str, str] = {}  # host -> what was done to it
        self.host_keys: dict[str, str] = {}
        self.public_key = ""
        self.note = ""  # what else had to be done

    def up(self) -> dict[str, str]:
        """Bring all hosts up; return what was done, by host. LabError names those that don't come up."""
        containers = listed(self.podman, self.lab)
        refuse_foreign(self.lab, containers.values())
        self.public_key = make_key(self.lab)
        make_secrets(self.lab)
        make_network(self.podman, self.lab)
        plans = {
            host.name: decide(containers.get(host.container), made_of(self.arguments[host.name])) for host in self.hosts
        }
        self.note = machine.make_room(self.podman.machine, sum(plan != "keep" for plan in plans.values()))
        failed = self.settle(self.hosts, plans)
        # What was there and doesn't answer is broken: made anew, once. What is new and fails, fails.
        again = [host for host, _ in failed if plans[host.name] in ("keep", "start")]
        hopeless = [(host, error) for host, error in failed if host not in again]
        if again:
            hopeless += self.settle(again, {host.name: "recreate" for host in again})
        if hopeless:
            raise LabError("\n".join(f"{host.name} doesn't come up: {error}" for host, error in hopeless))
        return self.done

    def settle(self, hosts: Sequence[Host], plans: dict[str, str]) -> list[tuple[Host, LabError]]:
        """Carry out `plans` for `hosts` and see that each answers over ssh; return those that don't, with reasons."""

        def bring(host: Host) -> None:
            self.bring(host, plans[host.name])

        failed = each(self.podman, bring, hosts)
        good = [host for host in hosts if host not in [bad for bad, _ in failed]]
        self.pin(good)
        return failed + each(self.podman, self.check, good)

    def bring(self, host: Host, plan: str) -> None:
        """Bring one container to running and booted."""
        if plan in ("create", "recreate"):
            remove(self.podman, [host.container])
            made = self.arguments[host.name]
            self.podman.run("run", "--detach", "--label", f"mf.lab.made-of={made_of(made)}", *made)
        elif plan == "start":
            self.podman.run("start", host.container)
        command = ("exec", "--interactive", host.container, "sh", "-c", SETTLE)
        try:
            self.host_keys[host.name] = self.podman.run(*command, text=self.public_key, limit=BOOT_LIMIT)[1].strip()
        except PodmanError as error:
            if self.podman.run("inspect", "--format", "{{.State.Running}}", host.container)[1].strip() == "true":
                raise
            raise LabError(f"its systemd has ended by itself; see: podman logs {host.container}") from error
        if host.name == "world":
            world.equip(self.podman, self.lab, host)
        self.done[host.name] = {"create": "created", "recreate": "recreated", "start": "started", "keep": "kept"}[plan]

    def pin(self, hosts: Sequence[Host]) -> None:
        """Write the host keys of `hosts` to the lab's known_hosts, in place of former ones."""
        path = self.lab.known_hosts
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        entries = {line.split(" ", 1)[0]: line for line in lines if line}
        for host in hosts:
            name = f"[127.0.0.1]:{host.ssh_port}"
            kind, key = self.host_keys[host.name].split()[:2]
            entries[name] = f"{name} {kind} {key}"
        text = "".join(f"{line}\n" for line in entries.values())
        part = path.with_name("known_hosts.part")
        part.write_text(text, encoding="utf-8")
        part.replace(path)

    def check(self, host: Host) -> None:
        """LabError unless `host` lets us in over ssh, by the keys that are on file."""
        done = subprocess.run(
            [*ssh_command(self.lab, host), "true"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            start_new_session=True,
            timeout=60,
            check=False,
        )
        if done.returncode:
            lines = done.stderr.strip().splitlines()
            raise LabError(f"ssh: {lines[-1] if lines else f'exit status {done.returncode}'}")


def ssh_command(lab: Lab, host: Host) -> list[str]:
    """Return the ssh command for `host`, that of the inventory too: pinned host key, the lab's own key."""
    return [
        "ssh",
        "-F",
        "none",
        "-p",
        str(host.ssh_port),
        "-i",
        str(lab.key),
        "-o",
        "IdentitiesOnly=yes",
        "-o",
        "BatchMode=yes",
        "-o",
        f"UserKnownHostsFile={lab.known_hosts}",
        "-o",
        "StrictHostKeyChecking=yes",
        "-o",
        "ConnectTimeout=20",
        "root@127.0.0.1",
    ]


def remove(podman: Podman, containers: Sequence[str]) -> None:
    """Remove `containers`, also half-made ones; those that aren't there are no error."""
    if containers:
        podman.run("rm", "--force", "--ignore", "--time", "0", "--volumes", *containers)


def down(podman: Podman, lab: Lab) -> dict[str, int]:
    """Remove what lab number N made, and nothing else; return how many of each."""
    containers = listed(podman, lab)
    refuse_foreign(lab, containers.values())
    names = sorted({*containers, *(host.container for host in lab.hosts())})
    failed = each(podman, lambda name: remove(podman, [name]), names)
    if failed:
        raise LabError("\n".join(f"{name} can't be removed: {error}" for name, error in failed))
    network = podman.run("network", "exists", lab.network, check=False)[0] == 0
    if network:
        podman.run("network", "rm", "--force", lab.network)
    shutil.rmtree(lab.home, ignore_errors=True)
    return {"containers": len(containers), "networks": int(network)}


def ssh_answers(host: Host) -> bool:
    """Does an ssh server answer on the host's published port?"""
    try:
        with socket.create_connection(("127.0.0.1", host.ssh_port), timeout=2) as connection:
            connection.settimeout(2)
            return connection.recv(4) == b"SSH-"
    except OSError:
        return False


def status(podman: Podman, lab: Lab) -> list[dict[str, Any]]:
    """Return one object for each host of the lab: host, address, ssh_port, state, ssh, up_seconds."""
    containers = listed(podman, lab)
    rows = []
    for host in lab.hosts():
        entry = containers.get(host.container)
        state = str(entry["State"]) if entry else "absent"
        running = state == "running"
        rows.append(
            {
                "host": host.name,
                "address": host.address,
                "ssh_port": host.ssh_port,
                "state": state,
                "ssh": running and ssh_answers(host),
                "up_seconds": int(time.time() - int(entry["StartedAt"])) if entry and running else None,
            }
        )
    return rows
