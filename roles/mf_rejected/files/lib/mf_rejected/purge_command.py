"""/mf/bin/purge-rejected: remove rejected mail whose time is over, or when the disk is nearly full."""

from __future__ import annotations

import argparse
import contextlib
import functools
from collections.abc import Sequence

from mf import cli, config, state

from . import deliver, purge, refused

LOCK = "purge-rejected"

_EPILOG = """\
It runs from cron every 10 minutes. Mail that a customer's server refused stays until an operator has decided (refused
list). What it did is in the decision log when it was out of the ordinary; check-rejected
shows the state.

Exit codes: 0 done, or another run is under way; 1 not done; 2 wrong command line
"""


def main(argv: Sequence[str] | None = None, places: state.Places | None = None) -> int:
    """The command; returns its exit code."""
    job = cli.Command(
        "purge-rejected",
        "Remove rejected mail that has been kept long enough, or the oldest when the disk is nearly full.",
        _EPILOG,
        work=_purge,
        dry_run=True,
        json="print it as one JSON object",
    )
    return job.main(argv, places)


def _purge(chosen: argparse.Namespace, host: state.Places) -> int:
    settings = config.load(host).section("rejected")
    root, keep_days, free_percent = (settings[key] for key in ("root", "keep_days", "free_percent"))
    with host.lock(LOCK) as held:
        if not held:
            return 0
        folder = settings.get("refused", refused.FOLDER)
        releases = settings.get("releases", deliver.RECORDS)
        waits = functools.partial(refused.waits, folder, releases)
        day_size = settings["refused_day_size"]
        sentences = purge.run(
            host, root, keep_days, free_percent, dry_run=chosen.dry_run, waits=waits, day_size=day_size
        )
        if not chosen.dry_run:
            # check-refused reports a folder that is missing
            with contextlib.suppress(FileNotFoundError):
                refused.settle(folder, releases)
            deliver.forget(releases)
    if chosen.json:
        print(state.encode({"dry_run": chosen.dry_run, "said": sentences}))
    else:
        for sentence in sentences:
            print(f"would: {sentence}" if chosen.dry_run else sentence)
        if chosen.dry_run and not sentences:
            print("would change nothing")
    return 0
