"""/mf/bin/canary-sink: the listener behind mf-canary-sink.service on control. See ``mf_canary.sink``."""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import Sequence

from mf import canary, cli, config, state

from . import sink


def main(argv: Sequence[str] | None = None, places: state.Places | None = None) -> int:
    """The command; runs until it is ended. Exit codes: 1 it can't listen or write, 2 wrong command line or settings."""
    parser = cli.Command(
        "canary-sink",
        "Take the MXs' tagged ham by SMTP and note when it came (mf-canary-sink.service runs this).",
        "Exit codes: 0 ended by Ctrl-C, 1 it can't listen or write its notes, 2 wrong command line or settings",
        work=_listen,
        failure=cli.MISUSE,
    )
    return parser.main(argv, places)


def _listen(_: argparse.Namespace, places: state.Places) -> int:
    try:
        settings = config.load(places).section("canary")
        key = canary.read_key(settings["key"])
        asyncio.run(_run(settings, key))
    except KeyboardInterrupt:
        return 0
    return 0


async def _run(settings: config.Section, key: bytes) -> None:
    hosts = settings["mx"]
    notes = sink.Notes(settings["folder"], list(hosts), time.time())
    server = await sink.Sink(key, notes, list(hosts.values())).serve(None, settings["port"])
    async with server:
        await server.serve_forever()
