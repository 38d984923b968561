"""ansible-lint as `make lint` runs it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_ansible_lint_knows_our_modules(tmp_path: Path) -> None:
    """Its args rule imports a module to check parameters, and is silent when it can't."""
    playbook = tmp_path / "wrong.yml"
    playbook.write_text(
        "---\n- name: Wrong\n  hosts: all\n  gather_facts: false\n  tasks:\n"
        "    - name: Use a parameter that doesn't exist\n      mf_throttle:\n        state: present\n        bogus: 1\n"
    )
    command = [sys.executable, str(ROOT / "scripts/lint_ansible.py"), "--format=pep8", "--nocolor", str(playbook)]
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, env=environment)
    assert "args[module]" in done.stdout
    assert "bogus" in done.stdout
    assert done.returncode != 0
