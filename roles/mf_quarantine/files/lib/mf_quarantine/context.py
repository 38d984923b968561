"""Shared by the commands of the quarantine: their caller, settings, folders, the index, locks, and their output."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import pwd
import sys
from typing import Any

from mf import cli, state, text

from . import QuarantineError, layout, settings
from .database import USER
from .index import Index

DONE, FAILED, MISUSE = 0, cli.FAILED, cli.MISUSE
KEYS = "/mf/etc/quarantine"


def drop_root(account: str = USER) -> None:
    """Become the quarantine's own user, for good. Raises QuarantineError unless this is root or that user."""
    try:
        entry = pwd.getpwnam(account)
    except KeyError:
        raise QuarantineError(f"there is no user {account} here; deploy with playbooks/site.yml") from None
    if os.getuid() == 0:
        os.initgroups(account, entry.pw_gid)
        os.setgid(entry.pw_gid)
        os.setuid(entry.pw_uid)
        os.environ["HOME"] = entry.pw_dir
        os.chdir("/")
    elif os.getuid() != entry.pw_uid:
        raise QuarantineError(f"run this as root or as {account}")
    os.umask(0o027)


def caller() -> str:
    """The name of the user who called this command; call it before ``drop_root``."""
    uid = os.getuid()
    name = os.environ.get("SUDO_USER", "") if uid == 0 else ""
    with contextlib.suppress(KeyError):
        name = name or pwd.getpwuid(uid).pw_name
    return text.clean(name or str(uid), 64)


class Context:
    """Settings, folders and index of a command; the index is connected on first use. Raises config.SettingsError."""

    def __init__(self, host: state.Places, caller: str) -> None:
        self.host = host
        self.caller = caller
        self.settings = settings.load(host)
        self.layout = layout.Layout()
        self._index: dict[int, Index] = {}

    @property
    def index(self) -> Index:
        """This process's connection to the index, schema checked. Raises DatabaseError.

        A child has its own: on a shared connection, the statements of two processes would mix in one transaction.
        """
        process = os.getpid()
        if process not in self._index:
            self._index[process] = Index()
        return self._index[process]


def report(args: argparse.Namespace, record: dict[str, Any], message: str) -> int:
    """Print the outcome, as JSON or as text; returns the exit code."""
    print(json.dumps(record) if args.json else message)
    return DONE


def fail(message: str, code: int = FAILED) -> int:
    """Print one line on stderr; returns the exit code."""
    print(f"quarantine: {message}", file=sys.stderr)
    return code
