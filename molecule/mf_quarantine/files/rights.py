#!/usr/bin/env python3
"""Try to reach the quarantine's data as its own user, as another user and over the network. As root.

Prints the exit codes as JSON; `tcp` is the error number of a connection to MariaDB's port.
"""

from __future__ import annotations

import json
import socket
import subprocess

CLIENT = ("mariadb", "-u", "mf-quarantine", "mf_quarantine", "-e")


def run_as(user: str, *command: str) -> int:
    """Run a command as a user; return its exit code."""
    return subprocess.run(["runuser", "-u", user, "--", *command], capture_output=True, check=False).returncode


def main() -> None:
    """Try everything and print the results."""
    with socket.socket() as probe:
        tcp = probe.connect_ex(("127.0.0.1", 3306))
    results = {
        "select": run_as("mf-quarantine", *CLIENT, "SELECT 1 FROM message LIMIT 1"),
        "create": run_as("mf-quarantine", *CLIENT, "CREATE TABLE x (y INT)"),
        "drop": run_as("mf-quarantine", *CLIENT, "DROP TABLE message"),
        "other databases": run_as("mf-quarantine", *CLIENT, "SELECT * FROM mysql.user"),
        "another user": run_as("nobody", *CLIENT, "SELECT 1"),
        "another user's command": run_as("nobody", "/mf/bin/quarantine", "list"),
        "tcp": tcp,
    }
    print(json.dumps(results))


if __name__ == "__main__":
    main()
