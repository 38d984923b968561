"""The probes, one for each kind of service. Whatever a target says or does becomes a result; nothing is raised.

``probe(service, world)`` is all a caller needs. Hostile targets: every probe has one deadline and a cap on bytes,
redirects are counted, names with many addresses are tried at a few of them, and no text leaves here uncleaned.
"""

from __future__ import annotations

import asyncio
import hashlib
import ipaddress
import secrets
import socket
import ssl
import time
import urllib.parse
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from mf import canary, text

from ..judging.states import DOWN, EXPIRED, REFUSED, SILENT, UNKNOWN, UP, WARNING, WRONG, ProbeResult
from ..settings import Service, Settings
from . import certificate, wire
from .wire import Ended, Script

T = TypeVar("T")

MOST_ADDRESSES = 4  # of a name, so that one with fifty can't take the whole deadline
MOST_REDIRECTS = 5
HTTP_CAP = 262144  # bytes of header and body that are read
DAY = 86400
OWN = "own"
# what a resolver says of a name; everything else it says of itself
NO_NAME = (socket.EAI_NONAME, socket.EAI_NODATA)


@dataclass(frozen=True, slots=True)
class World:
    """What probes need besides the service."""

    settings: Settings
    context: ssl.SSLContext  # believes any certificate: its dates are looked at, and mail servers have what they have
    strict: ssl.SSLContext  # for https with verify
    clock: Callable[[], float] = time.time

    @staticmethod
    def of(settings: Settings) -> World:
        """With the system's certificates."""
        lax = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        lax.check_hostname = False
        lax.verify_mode = ssl.CERT_NONE
        return World(settings, lax, ssl.create_default_context())


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a probe found when it came to its end."""

    message: str
    state: str = UP
    reason: str = ""
    expires: float | None = None


async def probe(service: Service, world: World) -> ProbeResult:
    """One probe. Never raises, except for cancellation."""
    began, started = world.clock(), time.perf_counter()
    try:
        found = await PROBES[service.kind](service, world)
        state, message, reason, expires = found.state, found.message, found.reason, found.expires
    except Ended as end:
        state, message, reason, expires = DOWN, end.message, end.reason, None
    except TimeoutError:
        state, message, reason, expires = DOWN, "no answer in time", SILENT, None
    except OSError as error:
        broken = of_error(error)
        state, message, reason, expires = DOWN, broken.message, broken.reason, None
    except Exception as error:  # noqa: BLE001  (a bug in a probe must not stop the others; it is shown as unknown)
        state, message, reason, expires = (
            UNKNOWN,
            f"a bug: {type(error).__name__}: {text.clean(str(error), 60)}",
            OWN,
            None,
        )
    if reason == OWN:
        state = UNKNOWN
    latency = None if state in (DOWN, UNKNOWN) else round((time.perf_counter() - started) * 1000, 3)
    return ProbeResult(service.subject, began, world.clock(), state, text.clean(message, 100), reason, latency, expires)


def of_error(error: OSError) -> Ended:
    """An operating system's error as the end of a conversation."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return Ended(WRONG, f"certificate: {text.clean(error.verify_message, 60)}")
    if isinstance(error, ssl.SSLError):
        return Ended(WRONG, f"broken TLS: {text.clean(error.reason or str(error), 60)}")
    if isinstance(error, ConnectionRefusedError):
        return Ended(REFUSED, "connection refused")
    if isinstance(error, socket.gaierror):
        said = text.clean(error.strerror or "", 60)
        if error.errno in NO_NAME:
            return Ended(WRONG, f"name can't be resolved: {said}")
        return Ended(OWN, f"the monitor's resolver: {said.lower()}")
    if isinstance(error, (ConnectionResetError, BrokenPipeError)):
        return Ended(WRONG, "connection broken")
    return Ended(SILENT, f"no answer: {text.clean(error.strerror or str(error), 60).lower()}")


async def addresses(name: str, port: int) -> list[str]:
    """A few numeric addresses of a name, both families in turn; a numeric one is itself. Raises OSError."""
    try:
        return [str(ipaddress.ip_address(name))]
    except ValueError:
        pass
    try:
        found = await asyncio.get_running_loop().getaddrinfo(name, port, type=socket.SOCK_STREAM)
    except UnicodeError:
        raise socket.gaierror(socket.EAI_NONAME, "not a name") from None
    six = [str(place[4][0]) for place in found if place[0] == socket.AF_INET6]
    four = [str(place[4][0]) for place in found if place[0] == socket.AF_INET]
    mixed = [one for pair in zip(six, four, strict=False) for one in pair]
    rest = [*six, *four]
    return list(dict.fromkeys([*mixed, *rest]))[:MOST_ADDRESSES]


async def _in_time(service: Service, limit: float) -> list[str]:
    """A service's addresses; a resolver that is silent is no fault of the service's."""
    try:
        async with asyncio.timeout(limit):
            return await addresses(service.address, service.port)
    except TimeoutError:
        raise Ended(OWN, "the monitor's resolver doesn't answer in time") from None


async def _each(service: Service, limit: float, act: Callable[[str, float], Awaitable[T]]) -> T:
    """``act(address, seconds)`` at a service's addresses in turn, all within ``limit``; the last error counts."""
    give_up = time.monotonic() + limit
    try:
        places = [str(ipaddress.ip_address(service.address))]
    except ValueError:
        places = await _in_time(service, limit)
    for number, address in enumerate(places):
        left = give_up - time.monotonic()
        try:
            return await act(address, left / (len(places) - number))
        except (Ended, OSError):
            if number == len(places) - 1:
                raise
    raise Ended(WRONG, "the name has no address")


# --- TCP and ssh


async def _tcp(service: Service, world: World) -> Outcome:
    async def act(address: str, limit: float) -> Outcome:
        loop = asyncio.get_running_loop()
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        with socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC) as channel:
            async with asyncio.timeout(limit):
                await loop.sock_connect(channel, (address, service.port))
        return Outcome("connects")

    return await _each(service, world.settings.timeout, act)


def _ssh_script() -> Script:
    # RFC 4253, 4.2: other lines may come first
    for _ in range(20):
        line = yield ("greeting", b"")
        if line.startswith((b"SSH-2.0-", b"SSH-1.99-")):
            return Outcome(text.clean(line, 60))
        if line.startswith(b"SSH-"):
            raise Ended(WRONG, f"old ssh: {text.clean(line, 40)}")
    raise Ended(WRONG, "no ssh banner")


async def _ssh(service: Service, world: World) -> Outcome:
    async def act(address: str, limit: float) -> Outcome:
        found: Outcome
        found, _ = await wire.converse(address, service.port, limit, _ssh_script(), wire.line)
        return found

    return await _each(service, world.settings.timeout, act)


# --- SMTP


def smtp_script(
    hello: bytes,
    *,
    starttls: str = "off",
    context: ssl.SSLContext | None = None,
    name: str = "",
    message: tuple[bytes, bytes, bytes] | None = None,
) -> Script:
    """An SMTP dialogue (RFC 5321, 3207): greeting, EHLO, STARTTLS if it is offered, a whole transaction, QUIT.

    ``starttls`` is ``off``, ``optional`` or ``required``; ``message`` is sender, recipient and the message itself, dot
    included. Returns ``(greeting, STARTTLS offered, certificate in DER or b"", reply to the final dot or b"")``.
    """
    code, said = yield ("greeting", b"")
    if code != 220:
        raise _refused("greeting", code, said)
    greeting = said
    code, said = yield ("EHLO", b"EHLO %b\r\n" % hello)
    if code != 250:
        raise _refused("EHLO", code, said)
    offered = b"STARTTLS" in said.upper()
    der = b""
    if starttls != "off" and offered and context is not None:
        code, said = yield ("STARTTLS", b"STARTTLS\r\n")
        if code != 220:
            raise _refused("STARTTLS", code, said)
        der = yield wire.StartTls(context, name)
        code, said = yield ("EHLO", b"EHLO %b\r\n" % hello)
        if code != 250:
            raise _refused("EHLO", code, said)
    elif starttls == "required":
        raise Ended(WRONG, "offers no STARTTLS")
    answer = b""
    if message is not None:
        sender, recipient, body = message
        for stage, data, wanted in (
            ("MAIL", b"MAIL FROM:<%b>\r\n" % sender, 250),
            ("RCPT", b"RCPT TO:<%b>\r\n" % recipient, 250),
            ("DATA", b"DATA\r\n", 354),
            ("message", body, 250),
        ):
            code, said = yield (stage, data)
            if code != wanted:
                raise _refused(stage, code, said)
        answer = said
    # a server that is rude at QUIT has done its work, but one that says nothing at all holds the connection
    yield ("QUIT", b"QUIT\r\n")
    return greeting, offered, der, answer


def relay_script(hello: bytes, sender: bytes, recipient: bytes) -> Script:
    """Ask whether strangers may send mail to strangers (an open relay). Returns the code and text of the refusal."""
    for stage, data, wanted in (
        ("greeting", b"", 220),
        ("EHLO", b"EHLO %b\r\n" % hello, 250),
        ("MAIL", b"MAIL FROM:<%b>\r\n" % sender, 250),
    ):
        code, said = yield (stage, data)
        if code != wanted:
            raise _refused(stage, code, said)
    answer = yield ("RCPT", b"RCPT TO:<%b>\r\n" % recipient)
    # never DATA: nothing is sent even where it could be
    yield ("QUIT", b"RSET\r\nQUIT\r\n")
    return answer


def _refused(stage: str, code: int, said: bytes) -> Ended:
    return Ended(WRONG, f"{code} at {stage}: {_first(said)}")


def _first(said: bytes, limit: int = 60) -> str:
    return text.clean(said.partition(b"\n")[0], limit)


async def _smtp(service: Service, world: World) -> Outcome:
    options = service.options
    hello = world.settings.host.encode()

    async def act(address: str, limit: float) -> Outcome:
        script = smtp_script(
            hello,
            starttls=options["starttls"],
            context=world.strict if options["verify"] else world.context,
            name=service.tls_name or service.host,
            message=_canary(options["canary"], world) if options["canary"] else None,
        )
        (_, offered, der, _), _ = await wire.converse(address, service.port, limit, script, wire.reply)
        said = "accepts mail" if options["canary"] else "greets"
        if not offered or options["starttls"] == "off":
            return Outcome(said)
        return _dated(der, world, f"{said}, STARTTLS")

    return await _each(service, world.settings.timeout, act)


def _canary(recipient: str, world: World) -> tuple[bytes, bytes, bytes]:
    """A message to ``recipient``, tagged when there is a key, as only who has it can (``mf.canary``)."""
    now, host = world.clock(), world.settings.host
    date = time.strftime("%a, %d %b %Y %H:%M:%S +0000", time.gmtime(now))
    lines = [f"Date: {date}", f"From: <{recipient}>", f"To: <{recipient}>", "Subject: monitor canary"]
    lines.append(f"Message-ID: <{secrets.token_hex(8)}@{host}>")
    if world.settings.canary_key:
        tag = canary.make(bytes.fromhex(world.settings.canary_key), host.lower(), canary.HAM, now)
        lines.append(f"{canary.HEADER}: {tag}")
    body = "\r\n".join([*lines, "", f"Sent by the monitor {host}.", ".", ""])
    return b"", recipient.encode(), body.encode()


def relay_senders(chosen: str, domains: Sequence[str]) -> tuple[str, ...]:
    """Who the stranger says to be: what was chosen, or nobody (RFC 5321, 4.5.5) and somebody whose domain exists."""
    return (chosen,) if chosen else ("", *(f"postmaster@{domain}" for domain in domains[:1]))


async def _relay(service: Service, world: World) -> Outcome:
    """Strangers' mail to strangers must be refused, whoever they say to be. Unknown when that couldn't be asked."""
    recipient = service.options["recipient"] or world.settings.relay_recipient
    hello = world.settings.host.encode()
    senders = relay_senders(service.options["sender"] or world.settings.relay_sender, world.settings.domains)
    give_up = time.monotonic() + world.settings.timeout
    refused, trouble = "", ""
    for number, sender in enumerate(senders):

        async def act(address: str, limit: float, sender: str = sender) -> tuple[int, bytes]:
            script = relay_script(hello, sender.encode(), recipient.encode())
            answer: tuple[int, bytes]
            answer, _ = await wire.converse(address, service.port, limit, script, wire.reply)
            return answer

        left = (give_up - time.monotonic()) / (len(senders) - number)
        try:
            code, said = await _each(service, left, act)
        except (Ended, OSError) as error:
            end = error if isinstance(error, Ended) else of_error(error)
            if end.reason == OWN:
                raise end from None
            # whether mail is accepted at all is the business of the smtp service
            trouble = f"not asked: {text.clean(end.message, 60)}"
            continue
        if 200 <= code < 300:
            raise Ended(WRONG, f"OPEN RELAY: takes mail for {recipient} from anybody")
        if code // 100 == 5:
            refused = f"refuses: {code} {_first(said, 40)}"
        else:
            trouble = f"not answered: {code} {_first(said, 40)}"  # not now is not never
    return Outcome(refused) if refused else Outcome(trouble, UNKNOWN)


def _dated(der: bytes, world: World, said: str) -> Outcome:
    """A certificate's date: expired or about to."""
    now = world.clock()
    expires = certificate.not_after(der)
    if expires is None:
        return Outcome(f"{said}, a certificate that can't be read", WARNING, WRONG)
    left = expires - now
    if left <= 0:
        return Outcome(f"certificate expired {text.span(-left)} ago", WARNING, EXPIRED, expires)
    if left < world.settings.cert_warning_days * DAY:
        return Outcome(f"certificate expires in {text.span(left)}", WARNING, "", expires)
    return Outcome(said, expires=expires)


# --- HTTP


async def _http(service: Service, world: World) -> Outcome:
    give_up = asyncio.get_running_loop().time() + world.settings.timeout
    places = await _in_time(service, world.settings.timeout)
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
        if der:
            found = _dated(der, world, "")
            if found.reason == EXPIRED:
                raise Ended(EXPIRED, found.message)
            expires = found.expires if expires is None else expires
            warning = found if found.state == WARNING else None
        else:
            warning = None
        wanted = options["status"]
        if (wanted and status == wanted) or (not wanted and 200 <= status < 300):
            if options["contains"] and options["contains"].encode() not in body:
                raise Ended(WRONG, f"{status}, but without the expected text")
            if warning is not None:
                return warning
            return Outcome(f"HTTP {status}", expires=expires)
        if not (300 <= status < 400 and where):
            raise Ended(WRONG, f"HTTP {status}")
        target = target.redirected(where)
    raise Ended(WRONG, f"more than {MOST_REDIRECTS} redirects")


@dataclass(frozen=True, slots=True)
class Target:
    """What a request asks, and where."""

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
        """Where a redirect leads. Raises Ended for what is no HTTP address."""
        try:
            joined = urllib.parse.urljoin(
                f"http{'s' if self.secure else ''}://{self.authority}:{self.port}{self.path}", where
            )
            parts = urllib.parse.urlsplit(joined)
            port = parts.port or (443 if parts.scheme == "https" else 80)
        except ValueError:
            raise Ended(WRONG, f"redirects to {text.clean(where, 60)}") from None
        if parts.scheme not in ("http", "https") or not parts.hostname or any(letter in joined for letter in "\r\n "):
            raise Ended(WRONG, f"redirects to {text.clean(where, 60)}")
        if _same(parts.hostname) != _same(self.name):
            # a page of the fleet must not send the monitor to its own neighbours
            raise Ended(WRONG, f"redirects to another host: {text.clean(where, 60)}")
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        return Target(parts.scheme == "https", self.address, port, self.name, path)


def _same(name: str) -> str:
    """A host's name or address in the one way it is compared in."""
    try:
        return str(ipaddress.ip_address(name))
    except ValueError:
        return name.lower()


async def fetch(target: Target, context: ssl.SSLContext, places: Sequence[str]) -> tuple[int, str, bytes, bytes]:
    """One GET (RFC 9112) at one of these addresses: status, Location, the beginning of the body, the certificate.

    Raises Ended, OSError."""
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
        except OSError as error:  # TimeoutError is one
            last = error
    else:
        raise last or Ended(WRONG, "the name has no address")
    try:
        request = f"GET {target.path} HTTP/1.1\r\nHost: {target.authority}\r\n"
        request += "User-Agent: mf-monitor\r\nConnection: close\r\n\r\n"
        writer.write(request.encode("ascii", "replace"))
        data = b""
        while len(data) < HTTP_CAP and (chunk := await reader.read(16384)):
            data += chunk
            head, blank, body = data.partition(b"\r\n\r\n")
            if not blank and len(data) > wire.CAP:
                raise Ended(WRONG, "a header without end")
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
        raise Ended(WRONG, f"no HTTP: {text.clean(first, 60)}" if data else "connection closed without an answer")
    location = next((one.partition(b":")[2] for one in lines if one.lower().startswith(b"location:")), b"")
    return int(message[1]), location.strip().decode("latin-1"), body, der or b""


def _complete(head: bytes, body: bytes) -> bool:
    for one in head.split(b"\r\n"):
        if one.lower().startswith(b"content-length:"):
            size = one.partition(b":")[2].strip()
            return size.isdigit() and len(size) < 10 and len(body) >= int(size)
    return False


# --- DNS


async def _mx(service: Service, world: World) -> Outcome:
    """MX records of a domain agree with the inventory: these names, and each has the address it should have."""
    import dns.asyncresolver
    import dns.exception
    import dns.resolver

    domain, limit = service.options["domain"], world.settings.timeout
    resolver = dns.asyncresolver.Resolver(configure=not world.settings.resolvers)
    if world.settings.resolvers:
        resolver.nameservers = list(world.settings.resolvers)
    resolver.lifetime = limit
    try:
        async with asyncio.timeout(limit):
            return await _records(resolver, domain, service.options["expect"])
    except dns.resolver.NXDOMAIN:
        raise Ended(WRONG, "the domain or a mail server's name doesn't exist") from None
    except dns.resolver.NoAnswer:
        raise Ended(WRONG, f"{domain} has no MX records") from None
    except (dns.exception.Timeout, dns.resolver.NoNameservers, TimeoutError) as error:
        failed = isinstance(error, dns.resolver.NoNameservers)
    # is it the domain or the resolvers? These are at work when they know the root's servers.
    try:
        resolver.lifetime = limit = min(limit, 3.0)
        async with asyncio.timeout(limit):
            await resolver.resolve(".", "NS")
    except (dns.exception.DNSException, OSError, TimeoutError):
        raise Ended(OWN, "the resolvers don't answer") from None
    raise Ended(WRONG, f"{domain}: its name servers {'fail' if failed else 'do not answer in time'}")


async def _records(resolver: Any, domain: str, expect: Mapping[str, Sequence[str]]) -> Outcome:
    """The comparison. Raises Ended and what the resolver raises."""
    import dns.resolver

    names = {str(one.exchange).rstrip(".").lower() for one in await resolver.resolve(domain, "MX")}
    missing, foreign = sorted(set(expect) - names), sorted(names - set(expect))
    if missing or foreign:
        said = [f"{name} is missing" for name in missing] + [f"{name} is not ours" for name in foreign]
        raise Ended(WRONG, f"MX of {domain}: {', '.join(said)}")
    for name in sorted(expect):
        found: set[str] = set()
        for kind in ("A", "AAAA"):
            try:
                found |= {str(one) for one in await resolver.resolve(name, kind)}
            except dns.resolver.NoAnswer:
                pass
        if found != {str(ipaddress.ip_address(one)) for one in expect[name]}:
            said_ = ", ".join(sorted(found)[:MOST_ADDRESSES]) or "no address"
            raise Ended(WRONG, f"{name} has {said_}, not {', '.join(expect[name])}")
    return Outcome(f"{len(expect)} MX records as in the inventory")


PROBES: dict[str, Callable[[Service, World], Awaitable[Outcome]]] = {
    "tcp": _tcp,
    "ssh": _ssh,
    "smtp": _smtp,
    "relay": _relay,
    "http": _http,
    "https": _http,
    "mx": _mx,
}


def share(name: str) -> float:
    """Where in the interval a subject has its place, 0 to 1: spread evenly, the same after each start."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big") / 2**32
