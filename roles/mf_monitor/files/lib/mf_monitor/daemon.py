"""The process of ``mf-monitor.service``: settings, signals, the engine; or only a check of its settings."""

from __future__ import annotations

import argparse
import asyncio
import gc
import signal
import sys
from collections.abc import Sequence

from mf import cli

from . import engine, journal, settings
from .notifying import outbox

UNUSABLE = 3  # exit code

_EPILOG = """\
Exit codes
  0  ended by SIGTERM or SIGINT; with --check: the settings are right
  1  an error of the system; one line on stderr gives the reason
  2  wrong command line
  3  the settings or the database can't be used; one line on stderr gives the reason
"""


def main(argv: Sequence[str] | None = None, sender: tuple[str, ...] = ()) -> int:
    """The program; returns its exit code. ``sender``: the command that sends one message, Apprise's unless given."""
    command = cli.Command(
        "monitord",
        "The external monitor; mf-monitor.service runs it.",
        _EPILOG,
        work=lambda options, _: _serve(options, sender),
        failure=UNUSABLE,
    )
    command.add_argument("--check", action="store_true", help="only check the settings")
    command.add_argument("file", nargs="?", default=settings.DEFAULT_PATH, metavar="FILE", help="default: %(default)s")
    return command.main(argv)


def _serve(options: argparse.Namespace, sender: tuple[str, ...]) -> int:
    chosen = settings.load(options.file)
    if options.check:
        services = sum(len(host.services) for host in chosen.hosts)
        print(f"{options.file}: right; {len(chosen.hosts)} hosts, {services} services")
        return 0
    return asyncio.run(work(chosen, sender))


async def work(chosen: settings.Settings, sender: tuple[str, ...]) -> int:
    """Run the engine until SIGTERM or SIGINT."""
    send = outbox.Sender(f"{chosen.name} monitor", sender)
    monitor = engine.Engine(chosen, ready=journal.sd_notify, send=send)
    # these objects live as long as the process; a full collection over them would only pause it
    gc.freeze()
    task = asyncio.current_task()
    assert task is not None
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    try:
        await monitor.run()
    except asyncio.CancelledError:
        journal.log("stopped")
    return 0


if __name__ == "__main__":
    sys.exit(main())
