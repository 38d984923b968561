"""The fault suite: breaks real lab hosts on purpose and compares what happens with what is expected."""

import argparse
import json
import os
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "lab"))  # mflab: containers, faked load, mail

from mflab import spec

LAB = "4"


def open_lab(program: str) -> spec.Lab:
    """The lab that MF_LAB numbers, by default LAB; Ansible is set to it. Exits with one line for a wrong number."""
    os.environ.setdefault("MF_LAB", LAB)
    os.environ["ANSIBLE_CONFIG"] = str(ROOT / "ansible.cfg")
    try:
        return spec.open_lab(None)
    except spec.LabError as error:
        print(f"{program}: {error}", file=sys.stderr)
        raise SystemExit(error.code) from None


def expression(text: str) -> str:
    """A regular expression of the command line, checked."""
    try:
        re.compile(text)
    except re.error as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no regular expression: {error}") from None
    return text


def site_command(limit: str, **settings: object) -> list[str]:
    """The command that deploys `limit` with sessions that count as stuck after a minute, so that a test can see it."""
    extra = json.dumps({"mf_checks_session_limit": 60, "mf_checks_session_cpu": 10, **settings})
    return ["ansible-playbook", str(ROOT / "playbooks/site.yml"), "--limit", f"localhost,{limit}", "-e", extra]
