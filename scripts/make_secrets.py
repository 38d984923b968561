#!/usr/bin/env python3
"""Make the secrets of a fleet: ssh keys for one purpose each, the canary's key, passphrases.

They are written to one new file that only you can read; an existing file is never touched. Only its name is printed.
For a real fleet, write it into the inventory and encrypt it before you commit it:

    scripts/make_secrets.py inventory/production/group_vars/fleet/secrets.yml
    ansible-vault encrypt inventory/production/group_vars/fleet/secrets.yml

Exit codes: 0 made, 1 not made (one line has the reason), 2 usage.
"""

from __future__ import annotations

import argparse
import os
import secrets
import subprocess
import sys
import tempfile
from pathlib import Path

# key -> the one thing that it allows
SSH_KEYS = {
    "pull": "control fetches rejected mail from the MXs",
    "release": "control hands a released message to an MX",
    "health": "the monitor reads each host's health",
    "backup": "control appends to its repository off-site",
}


def ssh_key(comment: str) -> tuple[str, str]:
    """Make a new Ed25519 key pair (private, public) in OpenSSH's formats, without a passphrase."""
    with tempfile.TemporaryDirectory(prefix="mf-secrets-") as folder:
        path = Path(folder) / "key"
        subprocess.run(
            ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", comment, "-f", str(path)],
            check=True,
            stdin=subprocess.DEVNULL,
            capture_output=True,
        )
        return path.read_text(encoding="ascii"), path.with_suffix(".pub").read_text(encoding="ascii").strip()


def password_hash(password: str) -> str:
    """Return a password's SHA-512 crypt(5) hash, as nginx takes it; the password goes through a pipe."""
    done = subprocess.run(
        ["openssl", "passwd", "-6", "-stdin"], input=password + "\n", check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


def text() -> str:
    """Return the whole file: YAML, one variable ``mf_secrets``."""
    lines = [
        "---",
        "# Secrets of the fleet, made by scripts/make_secrets.py. Encrypt this file: ansible-vault encrypt FILE.",
        "mf_secrets:",
        "  # HMAC key of the end-to-end canary.",
        f'  canary_key: "{secrets.token_hex(32)}"',
        "  # Of the off-site repository. Keep a copy where the fleet is not: without it no backup can be read.",
        f'  borg_passphrase: "{secrets.token_hex(32)}"',
        "  # For the details of the status page.",
    ]
    password = secrets.token_hex(12)
    lines += ["  page:", "    user: operator", f'    password: "{password}"', f'    hash: "{password_hash(password)}"']
    lines += ["  ssh:"]
    for purpose, comment in SSH_KEYS.items():
        private, public = ssh_key(f"mf-{purpose}")
        lines += [f"    # {comment}", f"    {purpose}:", f'      public: "{public}"', "      private: |"]
        lines += [f"        {line}" for line in private.splitlines()]
    return "\n".join(lines) + "\n"


def write(path: Path) -> None:
    """Write a new file of secrets in one step, mode 0600. Raises FileExistsError when the path exists."""
    part = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with open(descriptor, "w", encoding="utf-8") as file:
            file.write(text())
        os.link(part, path)
    finally:
        part.unlink()


def main() -> int:
    """Run the command; return its exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, metavar="FILE", help="where to write them; must not exist yet")
    path = parser.parse_args().file
    try:
        write(path)
    except FileExistsError:
        print(f"make_secrets: {path} is there already and was not touched", file=sys.stderr)
        return 1
    except (OSError, subprocess.CalledProcessError) as error:
        print(f"make_secrets: {error}", file=sys.stderr)
        return 1
    print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
