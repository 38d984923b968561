#!/usr/bin/env python3
"""Print, as JSON, a systemd unit's properties (`show`), its main process as the kernel has it (`status`: the fields of
/proc/PID/status, `user`: its name) and all TCP listeners of the host (`listeners`: "address:port").

    unit.py UNIT
"""

from __future__ import annotations

import json
import pwd
import subprocess
import sys
from pathlib import Path


def lines(*command: str) -> list[str]:
    """Return the lines that a command prints."""
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()


def main(unit: str) -> None:
    """Print the unit's state."""
    show = dict(line.split("=", 1) for line in lines("systemctl", "show", unit))
    status: dict[str, str] = {}
    if show["MainPID"] != "0":
        text = Path("/proc", show["MainPID"], "status").read_text(encoding="utf-8")
        status = {name: value.strip() for name, _, value in (line.partition(":") for line in text.splitlines())}
    listening = lines("ss", "--no-header", "--listening", "--tcp", "--numeric")
    print(
        json.dumps(
            {
                "show": show,
                "status": status,
                "user": pwd.getpwuid(int(status["Uid"].split()[0])).pw_name if status else None,
                "listeners": [line.split()[3] for line in listening],
            }
        )
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
