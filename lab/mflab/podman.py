"""Podman, as one machine has to call it."""

from __future__ import annotations

import json
import subprocess
import threading
import time
from typing import Any

from mflab.machine import Machine
from mflab.spec import LabError

POLL = 0.25  # s; how soon an interrupt is noticed while a command runs


class PodmanError(LabError):
    """A podman command failed; the message is its last line."""


class Podman:
    """Runs podman commands on `machine`, from any thread.

    Each command has a session of its own, so that Ctrl-C in the terminal doesn't cut a creation in two. Once
    `cancelled` is set, commands inside containers are given up, those that change containers still run to their end.
    """

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.cancelled = threading.Event()

    def command(self, *arguments: str) -> list[str]:
        """Return the whole command line for `podman WORDS`."""
        return [*self.machine.prefix, "podman", *arguments]

    def run(self, *arguments: str, text: str = "", check: bool = True, limit: float = 120.0) -> tuple[int, str]:
        """Run `podman WORDS` with `text` on its stdin; return its exit status and stdout.

        PodmanError if it fails (unless `check` is off), takes longer than `limit` seconds or is cancelled.
        """
        name = arguments[0]
        deadline = time.monotonic() + limit
        pending: str | None = text
        with subprocess.Popen(
            self.command(*arguments),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            env=self.machine.env,
            start_new_session=True,
        ) as process:
            while True:
                try:
                    out, err = process.communicate(pending, timeout=POLL)
                    break
                except subprocess.TimeoutExpired:
                    pending = None  # communicate() has kept what it hasn't written yet
                late = time.monotonic() > deadline
                if late or (name == "exec" and self.cancelled.is_set()):
                    process.kill()
                    process.communicate()
                    raise PodmanError(f"podman {name}: {f'no end within {limit:.0f} s' if late else 'cancelled'}")
        if check and process.returncode:
            lines = err.strip().splitlines() or out.strip().splitlines()
            raise PodmanError(f"podman {name}: {lines[-1] if lines else f'exit status {process.returncode}'}")
        return process.returncode, out

    def json(self, *arguments: str) -> list[dict[str, Any]]:
        """Run a listing command and return its JSON output, a list of objects."""
        objects = json.loads(self.run(*arguments, "--format", "json")[1] or "[]")
        return objects if isinstance(objects, list) else []

    def call(self, *arguments: str) -> int:
        """Run `podman WORDS` on the caller's own terminal and return its exit status."""
        return subprocess.run(self.command(*arguments), env=self.machine.env, check=False).returncode
