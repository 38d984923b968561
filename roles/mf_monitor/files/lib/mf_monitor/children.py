"""End processes that the monitor starts: none outlives the attempt it was started for."""

from __future__ import annotations

import asyncio
import os
import signal


async def end(process: asyncio.subprocess.Process) -> None:
    """Kill what still runs of a process started in a session of its own, with its children, and wait for it."""
    if process.returncode is not None:
        return
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    await process.wait()
