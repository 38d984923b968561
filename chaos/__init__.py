"""The fault suite: breaks real lab hosts on purpose and holds what happens against what was promised."""

import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "lab"))  # mflab: containers, faked load, mail


def site_command(limit: str, **settings: object) -> list[str]:
    """The command that deploys `limit` with sessions that count as stuck after a minute, so that a test can see it."""
    extra = json.dumps({"mf_checks_session_limit": 60, "mf_checks_session_cpu": 10, **settings})
    return ["ansible-playbook", str(ROOT / "playbooks/site.yml"), "--limit", f"localhost,{limit}", "-e", extra]
