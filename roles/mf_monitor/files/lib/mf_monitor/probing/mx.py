"""Probe of the DNS: are a domain's MX records those of the inventory?"""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Mapping, Sequence
from typing import Any

from ..judging.states import WRONG
from ..settings import Service
from . import addresses
from .wire import EndedError
from .world import OWN, Outcome, World


async def probe(service: Service, world: World) -> Outcome:
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
        raise EndedError(WRONG, "the domain or a mail server's name doesn't exist") from None
    except dns.resolver.NoAnswer:
        raise EndedError(WRONG, f"{domain} has no MX records") from None
    except (dns.exception.Timeout, dns.resolver.NoNameservers, TimeoutError) as error:
        failed = isinstance(error, dns.resolver.NoNameservers)
    # is it the domain or the resolvers? These are at work when they know the root's servers.
    try:
        resolver.lifetime = limit = min(limit, 3.0)
        async with asyncio.timeout(limit):
            await resolver.resolve(".", "NS")
    except (dns.exception.DNSException, OSError, TimeoutError):
        raise EndedError(OWN, "the resolvers don't answer") from None
    raise EndedError(WRONG, f"{domain}: its name servers {'fail' if failed else 'do not answer in time'}")


async def _records(resolver: Any, domain: str, expect: Mapping[str, Sequence[str]]) -> Outcome:
    """Compare the records. Raises EndedError and the resolver's exceptions."""
    import dns.resolver

    names = {str(record.exchange).rstrip(".").lower() for record in await resolver.resolve(domain, "MX")}
    missing, foreign = sorted(set(expect) - names), sorted(names - set(expect))
    if missing or foreign:
        differences = [f"{name} is missing" for name in missing] + [f"{name} is not ours" for name in foreign]
        raise EndedError(WRONG, f"MX of {domain}: {', '.join(differences)}")
    for name in sorted(expect):
        answers: set[str] = set()
        for kind in ("A", "AAAA"):
            try:
                answers |= {str(record) for record in await resolver.resolve(name, kind)}
            except dns.resolver.NoAnswer:
                pass
        if answers != {str(ipaddress.ip_address(address)) for address in expect[name]}:
            listed = ", ".join(sorted(answers)[: addresses.MOST]) or "no address"
            raise EndedError(WRONG, f"{name} has {listed}, not {', '.join(expect[name])}")
    return Outcome(f"{len(expect)} MX records as in the inventory")
