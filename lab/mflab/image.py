"""The base image: Debian 12 with systemd, and a shelf of packages that roles install from without a network.

Built with mmdebstrap from the machine's own package sources, since no container registry may be reachable.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

from mflab.podman import Podman
from mflab.spec import LabError

NAME = "localhost/mf-lab"
LABEL = "mf.lab.image=1"
SUITE = "bookworm"
RECIPE = Path(__file__).resolve().parents[1] / "image"
# They are of no use in a container; without them it is a third smaller.
UNREAD = ("bash-completion", "doc", "info", "lintian", "locale", "man")


def parse_packages(text: str) -> dict[str, list[str]]:
    """Return the packages of lab/image/packages by their kind ("installed", "shelf"); ValueError for anything else."""
    kinds: dict[str, list[str]] = {"installed": [], "shelf": []}
    for number, line in enumerate(text.splitlines(), start=1):
        fields = line.partition("#")[0].split()
        if not fields:
            continue
        if len(fields) != 2 or fields[1] not in kinds:
            raise ValueError(f"line {number}: expected a package and one of {', '.join(kinds)}: {line!r}")
        kinds[fields[1]].append(fields[0])
    return kinds


def package_sources(targets: str) -> list[str]:
    """Return one-line apt sources for Debian 12's main archives out of `targets`.

    `targets` has a line "URI RELEASE COMPONENT" for each index of apt on this machine. An empty list, when the
    machine doesn't run Debian 12, leaves the choice to mmdebstrap.
    """
    lines = []
    for line in targets.splitlines():
        fields = line.split()
        if len(fields) != 3 or fields[2] != "main":
            continue
        uri, release, component = fields
        folder = urlsplit(uri).path.rstrip("/").rpartition("/")[2]
        wanted = folder.startswith("debian") and release in (SUITE, f"{SUITE}-updates", f"{SUITE}-security")
        entry = f"deb {uri} {release} {component}"
        if wanted and entry not in lines:
            lines.append(entry)
    return lines if any(f" {SUITE} " in entry for entry in lines) else []


def machine_sources() -> list[str]:
    """Return the sources this machine's own apt uses for Debian 12."""
    if not shutil.which("apt-get"):
        return []
    known = subprocess.run(
        ["apt-get", "indextargets", "--format", "$(REPO_URI) $(RELEASE) $(COMPONENT)", "Created-By: Packages"],
        capture_output=True,
        text=True,
        check=False,
    )
    return package_sources(known.stdout)


def options() -> list[str]:
    """Return mmdebstrap's options, those that don't depend on the machine."""
    kinds = parse_packages((RECIPE / "packages").read_text(encoding="utf-8"))
    return [
        "--variant=apt",
        f"--include={','.join(kinds['installed'])}",
        '--aptopt=Acquire::Languages "none"',
        '--aptopt=APT::Install-Recommends "false"',
        "--dpkgopt=force-unsafe-io",
        *(f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in UNREAD),
        f"--customize-hook=LOADAVG=$(cat <<'PYTHON'\n{(RECIPE / 'loadavg.py').read_text(encoding='utf-8')}\nPYTHON\n)\n"
        f"SHELF='{' '.join(kinds['shelf'])}'\n" + (RECIPE / "customize.sh").read_text(encoding="utf-8"),
        "--skip=cleanup/apt",
    ]


def tag(recipe: Sequence[str], architecture: str) -> str:
    """Return the image's name for `recipe` (mmdebstrap's options): the same recipe, the same name."""
    digest = hashlib.sha256("\0".join([SUITE, architecture, *recipe]).encode()).hexdigest()
    return f"{NAME}:{digest[:12]}"


def wanted() -> str:
    """Return the name of the image that the present recipe makes."""
    return tag(options(), platform.machine())


def exists(podman: Podman, image: str) -> bool:
    """Is `image` there?"""
    return podman.run("image", "exists", image, check=False)[0] == 0


def build(podman: Podman, image: str) -> None:
    """Build `image`. Its tar goes straight from mmdebstrap into podman; an interrupted build leaves nothing."""
    machine = podman.machine
    mode = "auto" if machine.rootless else "root"
    make_command = [
        *machine.prefix,
        "mmdebstrap",
        f"--mode={mode}",
        "--format=tar",
        *options(),
        SUITE,
        "-",
        *machine_sources(),
    ]
    # Imported without a name first: a tar that ends too early must never be taken for the image.
    take_command = podman.command("import", "--quiet", "--change", f"LABEL {LABEL}", "-")
    identifier = ""
    complete = False
    with (
        tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as log,
        subprocess.Popen(
            make_command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            env=machine.env,
            start_new_session=True,
        ) as make,
        subprocess.Popen(
            take_command,
            stdin=make.stdout,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            env=machine.env,
            start_new_session=True,
        ) as take,
    ):
        if make.stdout is not None:
            make.stdout.close()  # the import's alone now
        try:
            identifier = take.communicate()[0].strip()
            complete = make.wait() == 0 and take.returncode == 0
        finally:
            if not complete:
                make.terminate()  # it removes what it has made
                identifier = identifier or take.communicate()[0].strip()
                make.wait()
                if identifier:
                    podman.run("rmi", "--force", identifier, check=False)
        if not complete:
            log.seek(0)
            raise LabError(f"the image could not be built:\n{problem(log.read())}")
        podman.run("tag", identifier, image)
    # What had this name before, unless a container still runs on it.
    for former in listed(podman, "--filter", "dangling=true"):
        podman.run("rmi", former, check=False)


def problem(log: str) -> str:
    """Return what an operator should see of a failed build's `log`: its errors, or else its end."""
    lines = log.splitlines()
    errors = [line for line in lines if line.startswith(("E:", "W:", "Error"))]
    return os.linesep.join((errors or lines)[-5:])


def listed(podman: Podman, *filters: str) -> list[str]:
    """Return the ids of the images that labs have built here."""
    return [str(entry["Id"]) for entry in podman.json("images", "--filter", f"label={LABEL}", *filters)]
