"""Probes of HTTP and HTTPS: one GET, redirects counted and never to another host."""

from __future__ import annotations

import asyncio
import ipaddress
import ssl
import urllib.parse
from collections.abc import Sequence
from dataclasses import dataclass

from mf import text

from ..judging.states import EXPIRED, WARNING, WRONG
from ..settings import Service
from . import addresses, certificate, wire
from .wire import EndedError
from .world import Outcome, World

MOST_REDIRECTS = 5
CAP = 262144  # bytes of header and body that are read


async def probe(service: Service, world: World) -> Outcome:
    """Probe a service; raises what ``probes.probe`` makes a result of."""
    give_up = asyncio.get_running_loop().time() + world.settings.timeout
    places = await addresses.in_time(service, world.settings.timeout)
    async with asyncio.timeout_at(give_up):
        return await _fetch_service(service, world, places)


async def _fetch_service(service: Service, world: World, places: Sequence[str]) -> Outcome:
    options = service.options
    secure = service.kind == "https"
    name = (options["host_header"] or service.address).strip("[]")
    target = Target(secure, service.address, service.port, name, options["path"])
    verify = secure and options["verify"]
    expires: float | None = None
    for _ in range(MOST_REDIRECTS + 1):
        status, where, body, der = await fetch(target, world.strict if verify else world.context, places)
        dated = certificate.outcome(der, world, "") if der else Outcome("")
        if dated.reason == EXPIRED:
            raise EndedError(EXPIRED, dated.message)
        expires = dated.expires if expires is None else expires
        wanted = options["status"]
        if status == wanted if wanted else 200 <= status < 300:
            if options["contains"].encode() not in body:
                raise EndedError(WRONG, f"{status}, but without the expected text")
            return dated if dated.state == WARNING else Outcome(f"HTTP {status}", expires=expires)
        if not (300 <= status < 400 and where):
            raise EndedError(WRONG, f"HTTP {status}")
        target = target.redirected(where)
    raise EndedError(WRONG, f"more than {MOST_REDIRECTS} redirects")


@dataclass(frozen=True, slots=True)
class Target:
    """Address and path of a request."""

    secure: bool
    address: str
    port: int
    name: str
    path: str

    @property
    def authority(self) -> str:
        """The name as it stands in an address (RFC 3986, 3.2.2): IPv6 in brackets."""
        return f"[{self.name}]" if ":" in self.name else self.name

    def redirected(self, where: str) -> Target:
        """Target of a redirect. Raises EndedError unless it is an HTTP address."""
        try:
            joined = urllib.parse.urljoin(
                f"http{'s' if self.secure else ''}://{self.authority}:{self.port}{self.path}", where
            )
            parts = urllib.parse.urlsplit(joined)
            port = parts.port or (443 if parts.scheme == "https" else 80)
        except ValueError:
            raise EndedError(WRONG, f"redirects to {text.clean(where, 60)}") from None
        if parts.scheme not in ("http", "https") or not parts.hostname or any(letter in joined for letter in "\r\n "):
            raise EndedError(WRONG, f"redirects to {text.clean(where, 60)}")
        if _same(parts.hostname) != _same(self.name):
            # a page of the fleet must not send the monitor to its own neighbours
            raise EndedError(WRONG, f"redirects to another host: {text.clean(where, 60)}")
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        return Target(parts.scheme == "https", self.address, port, self.name, path)


def _same(name: str) -> str:
    """A host's name or address in a form that can be compared."""
    try:
        return str(ipaddress.ip_address(name))
    except ValueError:
        return name.lower()


async def fetch(target: Target, context: ssl.SSLContext, places: Sequence[str]) -> tuple[int, str, bytes, bytes]:
    """One GET (RFC 9112) at one of these addresses: status, Location, the beginning of the body, the certificate.

    Raises EndedError, OSError."""
    last: Exception | None = None
    for address in places:
        try:
            async with asyncio.timeout(3 if len(places) > 1 else None):
                reader, writer = await asyncio.open_connection(
                    address,
                    target.port,
                    ssl=context if target.secure else None,
                    server_hostname=target.name if target.secure else None,
                    limit=wire.CAP,
                )
            break
        except ssl.SSLError:
            raise
        except OSError as error:  # TimeoutError, too
            last = error
    else:
        raise last or EndedError(WRONG, "the name has no address")
    try:
        request = f"GET {target.path} HTTP/1.1\r\nHost: {target.authority}\r\n"
        request += "User-Agent: mf-monitor\r\nConnection: close\r\n\r\n"
        writer.write(request.encode("ascii", "replace"))
        data = b""
        while len(data) < CAP and (chunk := await reader.read(16384)):
            data += chunk
            head, blank, body = data.partition(b"\r\n\r\n")
            if not blank and len(data) > wire.CAP:
                raise EndedError(WRONG, "a header without end")
            if blank and _complete(head, body):
                break
        secured = writer.get_extra_info("ssl_object")
        der = secured.getpeercert(binary_form=True) if secured is not None else b""
    finally:
        writer.transport.abort()
    head, _, body = data.partition(b"\r\n\r\n")
    first, *lines = head.split(b"\r\n")
    message = first.split(None, 2)
    if len(message) < 2 or not message[0].startswith(b"HTTP/1.") or not message[1].isdigit() or len(message[1]) != 3:
        raise EndedError(WRONG, f"no HTTP: {text.clean(first, 60)}" if data else "connection closed without an answer")
    location = next((line.partition(b":")[2] for line in lines if line.lower().startswith(b"location:")), b"")
    return int(message[1]), location.strip().decode("latin-1"), body, der or b""


def _complete(head: bytes, body: bytes) -> bool:
    for line in head.split(b"\r\n"):
        if line.lower().startswith(b"content-length:"):
            size = line.partition(b":")[2].strip()
            return size.isdigit() and len(size) < 10 and len(body) >= int(size)
    return False
