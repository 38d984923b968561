"""Numeric addresses of a service, tried in turn; an operating system's error as the end of a probe."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import ssl
from collections.abc import Awaitable, Callable
from typing import TypeVar

from mf import text

from ..clocks import Clocks
from ..judging.states import REFUSED, SILENT, WRONG
from ..settings import Service
from .wire import EndedError
from .world import OWN

T = TypeVar("T")

MOST = 4  # addresses of a name, so that a name with fifty can't take the whole deadline
# errors that concern the name; every other error is the resolver's own
NO_NAME = (socket.EAI_NONAME, socket.EAI_NODATA)


def of_error(error: OSError) -> EndedError:
    """An operating system's error as the end of a conversation."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return EndedError(WRONG, f"certificate: {text.clean(error.verify_message, 60)}")
    if isinstance(error, ssl.SSLError):
        return EndedError(WRONG, f"broken TLS: {text.clean(error.reason or str(error), 60)}")
    if isinstance(error, ConnectionRefusedError):
        return EndedError(REFUSED, "connection refused")
    if isinstance(error, socket.gaierror):
        message = text.clean(error.strerror or "", 60)
        if error.errno in NO_NAME:
            return EndedError(WRONG, f"name can't be resolved: {message}")
        return EndedError(OWN, f"the monitor's resolver: {message.lower()}")
    if isinstance(error, (ConnectionResetError, BrokenPipeError)):
        return EndedError(WRONG, "connection broken")
    return EndedError(SILENT, f"no answer: {text.clean(error.strerror or str(error), 60).lower()}")


async def resolve(name: str, port: int) -> list[str]:
    """A few numeric addresses of a name, both families in turn; a numeric address is itself. Raises OSError."""
    try:
        return [str(ipaddress.ip_address(name))]
    except ValueError:
        pass
    try:
        places = await asyncio.get_running_loop().getaddrinfo(name, port, type=socket.SOCK_STREAM)
    except UnicodeError:
        raise socket.gaierror(socket.EAI_NONAME, "not a name") from None
    six = [str(place[4][0]) for place in places if place[0] == socket.AF_INET6]
    four = [str(place[4][0]) for place in places if place[0] == socket.AF_INET]
    mixed = [address for pair in zip(six, four, strict=False) for address in pair]
    rest = [*six, *four]
    return list(dict.fromkeys([*mixed, *rest]))[:MOST]


async def in_time(service: Service, limit: float) -> list[str]:
    """A service's addresses; a resolver that is silent is no fault of the service's."""
    try:
        async with asyncio.timeout(limit):
            return await resolve(service.address, service.port)
    except TimeoutError:
        raise EndedError(OWN, "the monitor's resolver doesn't answer in time") from None


async def each(service: Service, clocks: Clocks, limit: float, act: Callable[[str, float], Awaitable[T]]) -> T:
    """``act(address, seconds)`` at a service's addresses in turn, all within ``limit``; the last error counts."""
    give_up = clocks.monotonic() + limit
    try:
        places = [str(ipaddress.ip_address(service.address))]
    except ValueError:
        places = await in_time(service, limit)
    for number, address in enumerate(places):
        left = give_up - clocks.monotonic()
        try:
            return await act(address, left / (len(places) - number))
        except (EndedError, OSError):
            if number == len(places) - 1:
                raise
    raise EndedError(WRONG, "the name has no address")
