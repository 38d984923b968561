"""The process ``mf-monitor.service`` runs: settings, signals, the engine."""

from __future__ import annotations

import asyncio
import gc
import signal
import sys
from collections.abc import Sequence

from . import engine, settings, store


def main(argv: Sequence[str] | None = None, sender: tuple[str, ...] = ()) -> int:
    """Run until SIGTERM. Exit code 0, or 3 when the settings or the database can't be used."""
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        chosen = settings.load(words[0] if words else settings.DEFAULT_PATH)
        return asyncio.run(work(chosen, sender))
    except (settings.MonitorSettingsError, store.StoreError) as error:
        print(f"mf-monitor: {error}", file=sys.stderr)
        return 3


async def work(chosen: settings.Settings, sender: tuple[str, ...]) -> int:
    """Run the engine until SIGTERM or SIGINT."""
    monitor = engine.Engine(chosen, sender=sender, ready=engine.notify)
    # what stands now stands for ever; a full collection over it would only stop the clock
    gc.freeze()
    task = asyncio.current_task()
    assert task is not None
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    try:
        await monitor.run()
    except asyncio.CancelledError:
        engine.say("stopped")
    return 0
