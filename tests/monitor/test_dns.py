"""MX records against the inventory: agreement, difference, and what follows when no server answers."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from mf_monitor import settings
from mf_monitor.clocks import Clocks
from mf_monitor.judging.states import DOWN, UNKNOWN, UP, ProbeResult
from mf_monitor.probing import probes
from mf_monitor.probing.world import World

pytest.importorskip("dns", reason="dnspython is missing; run: make venv")

import dns.asyncresolver
import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset


def ask(domain: str, *answers: str, root: bool = True) -> ProbeResult:
    """Probe a domain's MX records in such a DNS: lines of a zone file, or ``SERVFAIL``, or ``silence``."""

    class Server(asyncio.DatagramProtocol):
        def connection_made(self, transport: Any) -> None:
            self.transport = transport

        def datagram_received(self, data: bytes, address: Any) -> None:
            query = dns.message.from_wire(data)
            (question,) = query.question
            reply = dns.message.make_response(query)
            if question.name == dns.name.root:
                if not root:
                    return
                reply.answer.append(dns.rrset.from_text(".", 60, "IN", "NS", "a.root."))
            elif "silence" in answers:
                return
            elif "SERVFAIL" in answers:
                reply.set_rcode(dns.rcode.SERVFAIL)
            else:
                kind = dns.rdatatype.to_text(question.rdtype)
                records = [line.split(None, 2)[2] for line in answers if line.startswith(f"{question.name} {kind} ")]
                if records:
                    reply.answer.append(dns.rrset.from_text(question.name, 60, "IN", kind, *records))
            self.transport.sendto(reply.to_wire(), address)

    async def go() -> ProbeResult:
        loop = asyncio.get_running_loop()
        transport, _ = await loop.create_datagram_endpoint(Server, local_addr=("127.0.0.1", 0))
        resolver = dns.asyncresolver.Resolver(configure=False)
        resolver.port = transport.get_extra_info("sockname")[1]
        hosts = [{"name": "mx1", "role": "mx", "address": "192.0.2.1", "mx_name": "mx1.example"}]
        chosen = settings.parse({"timeout": 1.0, "domains": [domain], "resolvers": ["127.0.0.1"], "hosts": hosts})
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(dns.asyncresolver, "Resolver", lambda **_: resolver)
            result = await probes.probe(chosen.hosts[0].services[0], World.of(chosen, Clocks()))
        transport.close()
        return result

    return asyncio.run(go())


@pytest.mark.parametrize(
    ("answers", "state", "expected"),
    [
        (("x.example. MX 10 mx1.example.", "mx1.example. A 192.0.2.1"), UP, "1 MX records as in the inventory"),
        (("x.example. MX 10 mx1.example.", "mx1.example. A 192.0.2.9"), DOWN, "mx1.example has 192.0.2.9"),
        (("x.example. MX 10 mx9.example.",), DOWN, "mx1.example is missing, mx9.example is not ours"),
        ((), DOWN, "has no MX records"),
        (("SERVFAIL",), DOWN, "its name servers fail"),
        (("silence",), DOWN, "do not answer in time"),
    ],
)
def test_mx_records(answers: tuple[str, ...], state: str, expected: str) -> None:
    result = ask("x.example", *answers)
    assert (result.state, expected in result.message) == (state, True), result.message


@pytest.mark.parametrize("answer", ["SERVFAIL", "silence"])
def test_resolvers_that_know_nothing_at_all_say_nothing_of_a_domain(answer: str) -> None:
    result = ask("x.example", answer, root=False)
    assert (result.state, result.message) == (UNKNOWN, "the resolvers don't answer")
