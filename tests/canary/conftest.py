"""A sink that listens, and messages for it."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from mf import canary, smtp
from mf_canary import send, sink

NOW = 1764036000.0
KEY = bytes(range(32))


class Listener:
    """A sink that listens on loopback."""

    def __init__(self, folder: Path, clients: tuple[str, ...] = ("127.0.0.1",)) -> None:
        self.folder = folder
        self.loop = asyncio.new_event_loop()
        notes = sink.Notes(str(folder), ["mx1"], NOW)
        self.server = self.loop.run_until_complete(sink.Sink(KEY, notes, clients).serve("127.0.0.1", 0))
        self.port = self.server.sockets[0].getsockname()[1]
        self.thread = threading.Thread(target=self.loop.run_forever)
        self.thread.start()

    def close(self) -> None:
        asyncio.run_coroutine_threadsafe(self.end(), self.loop).result()
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()
        self.loop.close()

    async def end(self) -> None:
        self.server.close()
        sessions = asyncio.all_tasks() - {asyncio.current_task()}
        for session in sessions:
            session.cancel()
        await asyncio.gather(*sessions, return_exceptions=True)
        await asyncio.sleep(0)  # transports close in the loop's next turn

    def note(self, name: str) -> dict[str, object]:
        path = self.folder / name
        return dict(json.loads(path.read_text())) if path.exists() else {}

    def deliver(self, data: bytes, recipient: str = f"ham@{canary.DOMAIN}") -> smtp.Dialogue:
        return smtp.transaction("127.0.0.1", self.port, 10, recipient, data + b".\r\n", sender="a@b.example")


@pytest.fixture
def listener(tmp_path: Path) -> Iterator[Listener]:
    folder = tmp_path / "sink"
    folder.mkdir()
    server = Listener(folder)
    yield server
    server.close()


def message(kind: str = canary.HAM, key: bytes = KEY, host: str = "mx1", age: float = 0.0) -> bytes:
    tag = canary.make(key, host, kind, time.time() - age)
    return send.message(tag, kind)
