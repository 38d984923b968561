"""Probes of TCP and ssh: does it connect, does it greet as ssh does?"""

from __future__ import annotations

import asyncio
import socket

from mf import text

from ..judging.states import WRONG
from ..settings import Service
from . import addresses, wire
from .wire import EndedError, Script
from .world import Outcome, World


async def probe(service: Service, world: World) -> Outcome:
    """Probe a service; raises what ``probes.probe`` makes a result of."""

    async def act(address: str, limit: float) -> Outcome:
        loop = asyncio.get_running_loop()
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        with socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC) as channel:
            async with asyncio.timeout(limit):
                await loop.sock_connect(channel, (address, service.port))
        return Outcome("connects")

    return await addresses.each(service, world.clocks, world.settings.timeout, act)


def _ssh_script() -> Script:
    # RFC 4253, 4.2: other lines may come first
    for _ in range(20):
        line = yield ("greeting", b"")
        if line.startswith((b"SSH-2.0-", b"SSH-1.99-")):
            return Outcome(text.clean(line, 60))
        if line.startswith(b"SSH-"):
            raise EndedError(WRONG, f"old ssh: {text.clean(line, 40)}")
    raise EndedError(WRONG, "no ssh banner")


async def probe_ssh(service: Service, world: World) -> Outcome:
    """Probe a service; raises what ``probes.probe`` makes a result of."""

    async def act(address: str, limit: float) -> Outcome:
        outcome: Outcome = await wire.converse(address, service.port, limit, _ssh_script(), wire.line)
        return outcome

    return await addresses.each(service, world.clocks, world.settings.timeout, act)
