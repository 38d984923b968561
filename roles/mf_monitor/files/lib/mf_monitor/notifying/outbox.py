"""Deliver the queue on disk: one message at a time for each channel, tried again until the gateway accepts it.

A message is marked as being sent *before* it is handed over, so after a crash in between it is known that it may have
arrived: it is sent again, marked ``repeat``, as is a message whose attempt ended without an answer. Every other message
is sent exactly once. While a channel fails, its second channel gets everything that waits, each message once, and the
first goes on being tried.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from mf import text

from .. import children, texts
from ..clocks import awaken
from ..settings import Channel
from ..store import GIVEN_UP, QUEUED, SENDING, SENT, Message, Store, refuses
from . import send

LIMIT = 60.0  # seconds for one attempt; a busy machine needs many for Apprise alone
UNSURE = "no answer in time"
GIVE_UP = 86400.0  # seconds after which a message isn't news any more
LINGER = 15.0  # seconds for what is under way at the end; the unit's TimeoutStopSec is longer
RETRY = 1.0  # seconds until what couldn't be stored is tried again
BACKOFF = (5.0, 10.0, 20.0, 30.0, 60.0)  # seconds to the next attempt

Work: TypeAlias = Callable[[Callable[[Store], Any]], Awaitable[Any]]
Send: TypeAlias = Callable[[Channel, str], Awaitable[str]]  # what went wrong, or nothing


def launcher() -> list[str]:
    """The command that sends one message."""
    library = str(Path(__file__).resolve().parents[2])
    program = (
        f"import sys; sys.path.insert(0, {library!r}); from mf_monitor.notifying import send; sys.exit(send.main())"
    )
    return [sys.executable, "-I", "-c", program]


class Sender:
    """Sends through a child process, Apprise's unless another ``command`` is given; SMS get no title."""

    def __init__(self, title: str, command: Sequence[str] = ()) -> None:
        self._title = title
        self._command = list(command) or launcher()

    async def __call__(self, channel: Channel, message: str) -> str:
        """Send a message; the error, or an empty string."""
        order = json.dumps({"url": channel.url, "title": "" if channel.sms else self._title, "body": message}).encode()
        try:
            process = await asyncio.create_subprocess_exec(
                *self._command,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.PIPE,
                start_new_session=True,
            )
        except OSError as error:
            return f"can't be run: {error.strerror}"
        try:
            async with asyncio.timeout(LIMIT):
                _, errors = await process.communicate(order)
        except TimeoutError:
            return UNSURE
        finally:
            await children.end(process)
        if process.returncode == 0:
            return ""
        lines = errors.decode("utf-8", "replace").strip().splitlines()
        message = (
            text.clean(lines[-1].replace(channel.url, "URL"), 200) if lines else f"exit status {process.returncode}"
        )
        # broken off by the other side or by a signal: it may have it
        return f"{UNSURE}: {message}" if process.returncode == send.UNSURE or (process.returncode or 0) < 0 else message


class Outbox:
    """``stored(function)`` runs a function of the store in one transaction; ``send`` sends one message."""

    def __init__(
        self,
        channels: Sequence[Channel],
        stored: Work,
        clock: Callable[[], float],
        send: Send,
        note: Callable[[str], None] = lambda message: None,
    ) -> None:
        self._channels = {channel.name: channel for channel in channels}
        self._stored = stored
        self._clock = clock
        self._send = send
        self._note = note
        self.wake = asyncio.Event()

    async def run(self) -> None:
        """Deliver until cancelled. Then attempts under way may finish, so a planned restart repeats nothing."""
        busy: dict[str, asyncio.Task[None]] = {}
        try:
            await self._run(busy)
        finally:
            if busy:
                await asyncio.wait(busy.values(), timeout=LINGER)

    async def _run(self, busy: dict[str, asyncio.Task[None]]) -> None:
        while True:
            self.wake.clear()
            try:
                due = await self._stored(self._due)
            except Exception as error:
                if not refuses(error):
                    raise
                due = []  # the engine reports it
            for message in due:
                name = message.channel
                if name not in busy or busy[name].done():
                    if name in busy:
                        busy[name].result()  # a bug there is a bug here
                    busy[name] = asyncio.create_task(self._deliver(message))
                    busy[name].add_done_callback(lambda _: self.wake.set())
            await awaken(self.wake, 1.0)

    def _due(self, store: Store) -> list[Message]:
        """Messages to send now; those of a failing channel are queued for its second channel too."""
        for channel in self._channels.values():
            if channel.second:
                for message in store.messages.not_stood_in_for(channel.name):
                    store.messages.enqueue(
                        self._clock(),
                        channel.second,
                        message.kind,
                        message.severity,
                        message.text,
                        message.incidents,
                        stand_in_for=message.id,
                    )
        return store.messages.due(self._clock())

    async def direct(self, severity: str, message: str) -> None:
        """Send to the channels of a severity at once, past the queue: for when nothing can be stored."""
        for channel in self._channels.values():
            if severity in channel.severities and not channel.escalation:
                trouble = await self._send(channel, message)
                second = self._channels.get(channel.second)
                if trouble and second is not None:
                    trouble = await self._send(second, message)
                self._note(f"sent directly to {channel.name}: {trouble or 'taken'}")

    async def _deliver(self, message: Message) -> None:
        number, attempts = message.id, message.attempts + 1
        channel = self._channels.get(message.channel)
        now = self._clock()
        if channel is None:
            await self._settle(message, GIVEN_UP, attempts, "no such channel any more")
            return

        def mark(store: Store) -> None:
            store.messages.set(number, SENDING, attempts=attempts, next_try=now, finished=None, error=message.error)

        try:
            await self._stored(mark)
        except Exception as error:
            if not refuses(error):
                raise
            await asyncio.sleep(RETRY)
            return  # it still waits
        trouble = await self._send(channel, texts.REPEAT + message.text if message.repeat else message.text)
        if not trouble:
            await self._settle(message, SENT, attempts, "")
            return
        late = self._clock() - message.created > GIVE_UP
        await self._settle(message, GIVEN_UP if late else QUEUED, attempts, trouble)
        self._note(f"message {number} to {channel.name}: {trouble}")

    async def _settle(self, message: Message, status: str, attempts: int, error: str) -> None:
        number, now = message.id, self._clock()
        pause = BACKOFF[min(attempts, len(BACKOFF)) - 1]

        def work(store: Store) -> None:
            finished = now if status in (SENT, GIVEN_UP) else None
            known = store.messages.set(
                number,
                status,
                attempts=attempts,
                next_try=now + pause,
                finished=finished,
                error=text.clean(error, 200),
                # the gateway may have it
                unsure=error.startswith(UNSURE),
            )
            if not known:
                return  # the file was replaced meanwhile; what is wrong is notified anew
            for incident in message.incidents:
                if status == SENT:
                    again = " (repeat)" if message.repeat else ""
                    store.incidents.add_event(incident, now, "sent", f"{message.kind} to {message.channel}{again}")
                elif attempts == 1:
                    store.incidents.add_event(incident, now, "failed", f"{message.channel}: {text.clean(error, 100)}")

        while True:
            try:
                await self._stored(work)
                return
            except Exception as error_:
                if not refuses(error_):
                    raise
            await asyncio.sleep(RETRY)
