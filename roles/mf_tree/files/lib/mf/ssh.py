"""The ssh command with which a host of the fleet reaches another one."""

from __future__ import annotations


def command(key: str, known_hosts: str, **options: str) -> list[str]:
    """``ssh`` without its destination: one key, pinned host keys, no prompt, an end when the other end is gone.

    Configuration, agent and known hosts of the account and the machine are ignored. ``options`` (ssh_config(5)) are
    added to the others, or replace them.
    """
    everything = {
        "BatchMode": "yes",
        "IdentitiesOnly": "yes",
        "IdentityAgent": "none",
        "PreferredAuthentications": "publickey",
        "StrictHostKeyChecking": "yes",
        "UserKnownHostsFile": known_hosts,
        "GlobalKnownHostsFile": "/dev/null",
        "UpdateHostKeys": "no",
        "ConnectTimeout": "10",
        "ServerAliveInterval": "15",
        "ServerAliveCountMax": "3",
        "LogLevel": "ERROR",
        **options,
    }
    arguments = ["/usr/bin/ssh", "-F", "none", "-T", "-i", key]
    for name, value in everything.items():
        arguments += ["-o", f"{name}={value}"]
    return arguments
