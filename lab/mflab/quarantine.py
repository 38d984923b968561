"""What the quarantine on `control1` has of a run of mail: rows of its index, held against the files they name."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from mflab.podman import Podman, PodmanError
from mflab.spec import Lab

HOST = "control1"

# $1 is the run: its time is where the index is read from, and its name is in the header of each message.
READ = """
import json, re, subprocess, sys
run = sys.argv[1]
query = "SELECT id, path FROM mf_quarantine.message WHERE id >= '%s'" % run[:15]
rows = subprocess.run(["mariadb", "--batch", "--skip-column-names", "--execute", query],
                      check=True, capture_output=True, text=True).stdout
found = {"ids": [], "missing": []}
for row in rows.splitlines():
    kept, path = row.split("\\t")
    try:
        with open("/mf/var/quarantine/mail/" + path, "rb") as source:
            head = source.read(65536)
    except OSError:
        found["missing"].append(kept)
        continue
    name = re.search(rb"^X-Lab-Id: (\\S+)\\r?$", head, re.MULTILINE)
    if name and name[1].decode("latin-1").startswith(run):
        found["ids"].append(name[1].decode("latin-1"))
print(json.dumps(found))
"""
# As cron does each minute; here it needn't be waited for. A pull that is under way makes this one leave at once.
PULL = (
    "exec setpriv --reuid mf-quarantine --regid mf-quarantine --init-groups"
    " /mf/bin/throttle run --max 2m -- /mf/bin/quarantine pull"
)


@dataclass(frozen=True)
class Kept:
    """`ids`: the lab's ids of the run's messages there, one for each copy. `missing`: rows without their file."""

    ids: list[str]
    missing: list[str]


def deployed(podman: Podman, lab: Lab) -> bool:
    """Whether `control1` runs, with a quarantine."""
    command = ("exec", lab.host(HOST).container, "test", "-x", "/mf/bin/quarantine")
    return podman.run(*command, check=False)[0] == 0


def kept(podman: Podman, lab: Lab, run: str) -> Kept:
    """Return what the quarantine has of `run`. PodmanError when it can't be asked (MariaDB is stopped)."""
    command = ("exec", lab.host(HOST).container, "/usr/bin/python3", "-c", READ, run)
    answer: dict[str, Any] = json.loads(podman.run(*command)[1])
    return Kept(answer["ids"], answer["missing"])


def kept_or_none(podman: Podman, lab: Lab, run: str) -> Kept | None:
    """Return the same, or None while it can't be asked."""
    try:
        return kept(podman, lab, run)
    except (PodmanError, ValueError):
        return None


def pull(podman: Podman, lab: Lab) -> None:
    """Fetch and import now, whatever comes of it."""
    podman.run("exec", lab.host(HOST).container, "sh", "-c", PULL, check=False, limit=300)
