"""Probes of SMTP: does it accept mail, and does it refuse to relay?"""

from __future__ import annotations

import secrets
import ssl
import time
from collections.abc import Sequence

from mf import canary, text

from ..judging.states import UNKNOWN, WRONG
from ..settings import Service
from . import addresses, certificate, wire
from .wire import EndedError, Script
from .world import OWN, Outcome, World


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
    included. Returns whether STARTTLS was offered, and the certificate in DER or b"".
    """
    yield from _expect("greeting", b"", 220)
    reply = yield from _expect("EHLO", b"EHLO %b\r\n" % hello, 250)
    offered = b"STARTTLS" in reply.upper()
    der = b""
    if starttls != "off" and offered and context is not None:
        yield from _expect("STARTTLS", b"STARTTLS\r\n", 220)
        der = yield wire.StartTls(context, name)
        yield from _expect("EHLO", b"EHLO %b\r\n" % hello, 250)
    elif starttls == "required":
        raise EndedError(WRONG, "offers no STARTTLS")
    if message is not None:
        sender, recipient, body = message
        yield from _expect("MAIL", b"MAIL FROM:<%b>\r\n" % sender, 250)
        yield from _expect("RCPT", b"RCPT TO:<%b>\r\n" % recipient, 250)
        yield from _expect("DATA", b"DATA\r\n", 354)
        yield from _expect("message", body, 250)
    # a server that is rude at QUIT has done its work, but a server that sends nothing at all holds the connection
    yield ("QUIT", b"QUIT\r\n")
    return offered, der


def relay_script(hello: bytes, sender: bytes, recipient: bytes) -> Script:
    """Ask whether the server relays mail from outside to outside. Returns the code and text of the reply to RCPT."""
    yield from _expect("greeting", b"", 220)
    yield from _expect("EHLO", b"EHLO %b\r\n" % hello, 250)
    yield from _expect("MAIL", b"MAIL FROM:<%b>\r\n" % sender, 250)
    answer = yield ("RCPT", b"RCPT TO:<%b>\r\n" % recipient)
    # never DATA: nothing is sent even where it could be
    yield ("QUIT", b"RSET\r\nQUIT\r\n")
    return answer


def _expect(stage: str, data: bytes, wanted: int) -> Script:
    """Send a command; returns the text of its reply. Another code than ``wanted`` raises EndedError."""
    code, reply = yield (stage, data)
    if code != wanted:
        raise EndedError(WRONG, f"{code} at {stage}: {_first(reply)}")
    return reply


def _first(reply: bytes, limit: int = 60) -> str:
    return text.clean(reply.partition(b"\n")[0], limit)


async def probe(service: Service, world: World) -> Outcome:
    """Probe a service; raises what ``probes.probe`` makes a result of."""
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
        offered, der = await wire.converse(address, service.port, limit, script, wire.reply)
        message = "accepts mail" if options["canary"] else "greets"
        if not offered or options["starttls"] == "off":
            return Outcome(message)
        return certificate.outcome(der, world, f"{message}, STARTTLS")

    return await addresses.each(service, world.clocks, world.settings.timeout, act)


def _canary(recipient: str, world: World) -> tuple[bytes, bytes, bytes]:
    """A message to ``recipient``, tagged when there is a key (``mf.canary``)."""
    now, host = world.clocks.wall(), world.settings.host
    date = time.strftime("%a, %d %b %Y %H:%M:%S +0000", time.gmtime(now))
    lines = [f"Date: {date}", f"From: <{recipient}>", f"To: <{recipient}>", "Subject: monitor canary"]
    lines.append(f"Message-ID: <{secrets.token_hex(8)}@{host}>")
    if world.settings.canary_key:
        tag = canary.make(bytes.fromhex(world.settings.canary_key), host.lower(), canary.HAM, now)
        lines.append(f"{canary.HEADER}: {tag}")
    body = "\r\n".join([*lines, "", f"Sent by the monitor {host}.", ".", ""])
    return b"", recipient.encode(), body.encode()


def relay_senders(chosen: str, domains: Sequence[str]) -> tuple[str, ...]:
    """Senders of the relay test: the chosen sender, or the null sender (RFC 5321, 4.5.5) and one of our domains."""
    return (chosen,) if chosen else ("", *(f"postmaster@{domain}" for domain in domains[:1]))


async def probe_relay(service: Service, world: World) -> Outcome:
    """Check that mail from outside to outside is refused, for each sender. Unknown when RCPT was never reached."""
    recipient = service.options["recipient"] or world.settings.relay_recipient
    hello = world.settings.host.encode()
    senders = relay_senders(service.options["sender"] or world.settings.relay_sender, world.settings.domains)
    give_up = world.clocks.monotonic() + world.settings.timeout
    refused, trouble = "", ""
    for number, sender in enumerate(senders):

        async def act(address: str, limit: float, sender: str = sender) -> tuple[int, bytes]:
            script = relay_script(hello, sender.encode(), recipient.encode())
            answer: tuple[int, bytes] = await wire.converse(address, service.port, limit, script, wire.reply)
            return answer

        left = (give_up - world.clocks.monotonic()) / (len(senders) - number)
        try:
            code, reply = await addresses.each(service, world.clocks, left, act)
        except (EndedError, OSError) as error:
            end = error if isinstance(error, EndedError) else addresses.of_error(error)
            if end.reason == OWN:
                raise end from None
            # whether mail is accepted at all is the business of the smtp service
            trouble = f"not asked: {text.clean(end.message, 60)}"
            continue
        if 200 <= code < 300:
            raise EndedError(WRONG, f"OPEN RELAY: relays mail for {recipient} from any sender")
        if code // 100 == 5:
            refused = f"refuses: {code} {_first(reply, 40)}"
        else:
            trouble = f"not answered: {code} {_first(reply, 40)}"  # not now is not never
    return Outcome(refused) if refused else Outcome(trouble, UNKNOWN)
