"""The probes, one for each kind of service. Whatever a target sends or does becomes a result; nothing is raised.

``probe(service, world)`` is all a caller needs. Hostile targets: every probe has one deadline and a cap on bytes,
redirects are counted, names with many addresses are tried at a few of them, and no text leaves here uncleaned.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from mf import text

from ..judging.states import DOWN, SILENT, UNKNOWN, ProbeResult
from ..settings import Service
from . import addresses, http, mx, smtp, tcp
from .wire import EndedError
from .world import OWN, Outcome, World

PROBES: dict[str, Callable[[Service, World], Awaitable[Outcome]]] = {
    "tcp": tcp.probe,
    "ssh": tcp.probe_ssh,
    "smtp": smtp.probe,
    "relay": smtp.probe_relay,
    "http": http.probe,
    "https": http.probe,
    "mx": mx.probe,
}


async def probe(service: Service, world: World) -> ProbeResult:
    """One probe. Never raises, except for cancellation."""
    started, before = world.clocks.wall(), world.clocks.monotonic()
    try:
        outcome = await PROBES[service.kind](service, world)
    except EndedError as end:
        outcome = Outcome(end.message, DOWN, end.reason)
    except TimeoutError:
        outcome = Outcome("no answer in time", DOWN, SILENT)
    except OSError as error:
        broken = addresses.of_error(error)
        outcome = Outcome(broken.message, DOWN, broken.reason)
    except Exception as error:  # noqa: BLE001  (a bug in a probe must not stop the others; it is shown as unknown)
        outcome = Outcome(f"a bug: {type(error).__name__}: {text.clean(str(error), 60)}", UNKNOWN, OWN)
    state = UNKNOWN if outcome.reason == OWN else outcome.state
    latency = None if state in (DOWN, UNKNOWN) else round((world.clocks.monotonic() - before) * 1000, 3)
    finished, message = world.clocks.wall(), text.clean(outcome.message, 100)
    return ProbeResult(service.subject, started, finished, state, message, outcome.reason, latency, outcome.expires)
