"""/mf/bin/canary-sink: the listener behind mf-canary-sink.service on control. See ``mf_canary.sink``."""

from __future__ import annotations

import argparse
import asyncio
import sys
import time

from mf import canary, config, state

from . import sink

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

MISUSE = 2


def main(argv: Sequence[str] | None = None, places: state.Places | None = None) -> int:
    """The command; runs until it is ended. Exit codes: 1 it can't listen or write, 2 wrong command line or settings."""
    parser = argparse.ArgumentParser(
        prog="canary-sink",
        description="Take the MXs' tagged ham by SMTP and note when it came (mf-canary-sink.service runs this).",
        epilog="Exit codes: 0 ended by Ctrl-C, 1 it can't listen or write its notes, 2 wrong command line or settings",
        allow_abbrev=False,
    )
    parser.parse_args(sys.argv[1:] if argv is None else argv)
    host = places or state.Places()
    try:
        settings = config.load(host)["canary"]
        key = canary.read_key(settings["key"])
        asyncio.run(_run(settings, key))
    except KeyboardInterrupt:
        return 0
    except (config.SettingsError, canary.KeyFileError) as error:
        return _failed(str(error), MISUSE)
    except KeyError as error:
        return _failed(
            f"{host.settings}: canary.{error.args[0]} is missing; deploy again with playbooks/site.yml", MISUSE
        )
    except OSError as error:
        return _failed(f"{error.filename or 'the listener'}: {error.strerror}", 1)
    return 0


async def _run(settings: dict[str, Any], key: bytes) -> None:
    hosts = settings["mx"]
    notes = sink.Notes(settings["folder"], list(hosts), time.time())
    server = await sink.Sink(key, notes, list(hosts.values())).serve(None, settings["port"])
    async with server:
        await server.serve_forever()


def _failed(message: str, code: int) -> int:
    print(f"canary-sink: {message}", file=sys.stderr)
    return code
