"""The machine that runs the lab: what it lacks, what it forbids, and how podman has to be called there."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from mflab.spec import EXIT_PREREQUISITES, LabError

CAP_SYS_RESOURCE = 24  # capability.h
# Podman's own upper bounds would need CAP_SYS_RESOURCE to be raised to; these are ample for a lab's host.
NOFILE = 16_000
NPROC = 30_000
# A container with systemd, dbus and cron holds six inotify instances.
INSTANCES = 6
INOTIFY_LIMIT = 1024
PROC = Path("/proc")

HELPERS = ("/usr/lib/podman", "/usr/libexec/podman", "/usr/local/libexec/podman")
SBIN = ("/usr/sbin", "/sbin", "/usr/local/sbin")


def capabilities(status: str, kind: str) -> int:
    """Return the capability set `kind` (CapEff, CapBnd …) as the bit mask in `status`, a /proc/PID/status text.

    A text without that line counts as "all": such a kernel has nothing to restrict.
    """
    for line in status.splitlines():
        name, _, value = line.partition(":")
        if name == kind:
            return int(value, 16)
    return ~0


def restrictions(status: str, mounts: str, uid: int) -> list[str]:
    """Return why podman's defaults can't work here, in words; an empty list on an ordinary machine.

    `status` is the text of /proc/self/status, `mounts` that of /proc/self/mounts, `uid` the effective user id
    (an ordinary user has no effective capability anyway; for him the bounding set decides).
    """
    reasons = []
    kinds = ("CapBnd", "CapEff") if uid == 0 else ("CapBnd",)
    if any(not capabilities(status, kind) >> CAP_SYS_RESOURCE & 1 for kind in kinds):
        reasons.append("no CAP_SYS_RESOURCE")
    fields = [line.split() for line in mounts.splitlines()]
    if ["/sys/fs/cgroup", "cgroup2"] not in [parts[1:3] for parts in fields]:
        hybrid = any(parts[2:3] == ["cgroup2"] for parts in fields)
        reasons.append("cgroup v1/v2 hybrid" if hybrid else "no unified cgroup v2")
    return reasons


def containers_conf(nofile: int, nproc: int) -> str:
    """Return the containers.conf for a restricted machine whose hard limits are `nofile` and `nproc` (-1: none)."""
    files = NOFILE if nofile < 0 else min(nofile, NOFILE)
    processes = NPROC if nproc < 0 else min(nproc, NPROC)
    return f"""\
# Written by lab.py: podman's defaults don't work on this machine.
[containers]
default_ulimits = ["nofile={files}:{files}", "nproc={processes}:{processes}"]
pids_limit = 0

[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
"""


@dataclass(frozen=True)
class Need:
    """A program the lab calls: found as any of `programs` in PATH or `folders`, brought by Debian's `package`."""

    package: str
    programs: tuple[str, ...]
    folders: tuple[str, ...] = SBIN

    def met(self) -> bool:
        """Is one of the programs there?"""
        path = os.pathsep.join((os.environ.get("PATH", os.defpath), *self.folders))
        return any(shutil.which(program, path=path) for program in self.programs)


def needs(restricted: bool, rootless: bool) -> list[Need]:
    """Return what a lab needs on such a machine."""
    runtimes = ("runc",) if restricted else ("crun", "runc")
    needed = [
        Need("podman", ("podman",)),
        Need(runtimes[0], runtimes),
        Need("netavark", ("netavark",), HELPERS),
        Need("aardvark-dns", ("aardvark-dns",), HELPERS),
        Need("iptables", ("iptables",)),
        Need("nftables", ("nft",)),
        Need("mmdebstrap", ("mmdebstrap",)),
        Need("openssh-client", ("ssh",)),
    ]
    if rootless:
        needed += [
            Need("uidmap", ("newuidmap",)),
            Need("slirp4netns", ("slirp4netns",)),
            Need("fuse-overlayfs", ("fuse-overlayfs",)),
        ]
    return needed


def run_quietly(command: list[str], env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run `command` to its end and return it with its output; a terminal's password prompt still works."""
    return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=env, check=False)


def as_root() -> list[str] | None:
    """Return what to put before a command to run it as root; None when this user can't."""
    if os.geteuid() == 0:
        return []
    if not shutil.which("sudo"):
        return None
    quiet = [] if sys.stdin.isatty() else ["-n"]
    if subprocess.run(["sudo", *quiet, "-v"], stderr=subprocess.DEVNULL, check=False).returncode:
        return None
    return ["sudo", *quiet]


def install(packages: Iterable[str]) -> None:
    """Install Debian `packages`; LabError (prerequisites) with what to do when that is not possible."""
    names = list(packages)
    by_hand = f"as root, run: apt-get install --no-install-recommends {' '.join(names)}"
    if not shutil.which("apt-get"):
        raise LabError(
            f"the lab needs {', '.join(names)}, and this isn't a Debian machine: install them", EXIT_PREREQUISITES
        )
    prefix = as_root()
    if prefix is None:
        raise LabError(f"the lab needs {', '.join(names)}; {by_hand}", EXIT_PREREQUISITES)
    get = [*prefix, "env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-qq", "-y"]
    command = [*get, "install", "--no-install-recommends", *names]
    # The package lists may well be fresh enough; only if not are they fetched.
    if run_quietly(command).returncode == 0:
        return
    updated = run_quietly([*get, "update"])
    done = run_quietly(command)
    if done.returncode:
        lines = (done.stdout.strip() or updated.stdout.strip()).splitlines()
        raise LabError(
            f"could not install {', '.join(names)}: {lines[-1] if lines else 'apt-get failed'}; {by_hand}",
            EXIT_PREREQUISITES,
        )


@dataclass(frozen=True)
class Machine:
    """How to call podman here: `prefix` goes before each command, `env` is its environment."""

    restricted: tuple[str, ...]
    rootless: bool
    prefix: tuple[str, ...] = ()
    env: dict[str, str] = field(default_factory=dict)


def inspect(state: Path) -> Machine:
    """Look at this machine; on a restricted one leave a containers.conf in the directory `state`.

    A CONTAINERS_CONF that the caller has set himself is respected. LabError when the user's rights don't suffice.
    """
    uid = os.geteuid()
    proc = Path("/proc/self")
    reasons = restrictions(
        (proc / "status").read_text(encoding="utf-8"), (proc / "mounts").read_text(encoding="utf-8"), uid
    )
    env = dict(os.environ)
    if not reasons:
        return Machine((), rootless=uid != 0, env=env)
    # Without cgroup v2 no ordinary user can start a container with systemd in it.
    prefix = as_root()
    if prefix is None:
        raise LabError(
            f"on this machine ({', '.join(reasons)}) the lab needs root: run it as root or with sudo",
            EXIT_PREREQUISITES,
        )
    if "CONTAINERS_CONF" not in env:
        path = state / "containers.conf"
        text = containers_conf(
            resource.getrlimit(resource.RLIMIT_NOFILE)[1], resource.getrlimit(resource.RLIMIT_NPROC)[1]
        )
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            state.mkdir(mode=0o755, parents=True, exist_ok=True)
            part = path.with_name(f"{path.name}.{os.getpid()}")
            part.write_text(text, encoding="utf-8")
            part.replace(path)
        env["CONTAINERS_CONF"] = str(path)
    if prefix:
        prefix = [*prefix, f"CONTAINERS_CONF={env['CONTAINERS_CONF']}"]
    return Machine(tuple(reasons), rootless=False, prefix=tuple(prefix), env=env)


def instances(proc: Path = PROC) -> int:
    """Return how many inotify instances are in use, as far as this user may see."""
    count = 0
    for folder in proc.glob("[0-9]*/fd"):
        with suppress(OSError):  # ended, or not ours
            for entry in folder.iterdir():
                with suppress(OSError):
                    count += os.readlink(entry) == "anon_inode:inotify"
    return count


def make_room(machine: Machine, containers: int, proc: Path = PROC) -> str:
    """See that `containers` more of them can start; return what had to be done for it ("" if nothing).

    Each systemd needs a few inotify instances (inotify(7)), and at the kernel's usual limit of 128 for a user the
    next container just exits. The limit is raised until the machine's next boot; LabError if that isn't allowed.
    """
    path = proc / "sys/fs/inotify/max_user_instances"
    limit = int(path.read_text(encoding="ascii"))
    used = instances(proc)
    if used + containers * INSTANCES <= limit:
        return ""
    wanted = max(INOTIFY_LIMIT, 2 * limit)
    setting = f"fs.inotify.max_user_instances={wanted}"
    prefix = as_root() if machine.rootless else list(machine.prefix)
    if prefix is None or run_quietly([*prefix, "sh", "-c", f"echo {wanted} > {path}"]).returncode:
        raise LabError(
            f"{used} of {limit} inotify instances are in use, too many for {containers} more containers;"
            f" as root, run: sysctl {setting}",
            EXIT_PREREQUISITES,
        )
    return f"{setting} set until the next boot (it was {limit})"


def provide(machine: Machine) -> list[str]:
    """Install what the lab needs and this machine lacks; return the packages that were installed."""
    missing = [need.package for need in needs(bool(machine.restricted), machine.rootless) if not need.met()]
    if missing:
        install(missing)
    return missing
