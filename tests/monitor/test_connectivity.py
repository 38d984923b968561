"""The connectivity check."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable

from mf_monitor import settings
from mf_monitor.clocks import Clocks
from mf_monitor.probing import connectivity

from tests.monitor.servers import LIMIT, Target, says


def verdict(make: Callable[[Target], list[str]]) -> bool:
    async def go() -> bool:
        target = await Target(says(b"")).start()
        chosen = settings.parse({"timeout": LIMIT, "references": make(target)})
        verdict = await connectivity.ConnectivityCheck(chosen, Clocks()).after(time.monotonic())
        await target.stop()
        return verdict.up

    return asyncio.run(go())


def test_one_reference_that_answers_or_refuses_is_enough() -> None:
    with socket.socket() as full:
        # nothing accepts here, and its queue is full: silence
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        dead = f"127.0.0.1:{full.getsockname()[1]}"
        fillers = [socket.socket() for _ in range(4)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(full.getsockname())
        assert verdict(lambda target: [dead, f"127.0.0.1:{target.port}"])
        assert verdict(lambda target: [dead, "127.0.0.1:1"])
        assert not verdict(lambda target: [dead])
        for filler in fillers:
            filler.close()
