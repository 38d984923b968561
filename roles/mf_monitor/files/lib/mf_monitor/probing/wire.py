"""Conversations of lines over TCP, thousands at a time in one event loop: raw sockets under asyncio.

A *script* is a generator: it yields ``(stage, bytes to be sent)`` and gets the peer's next item for it; what it returns
is the conversation's result. At the stage ``QUIT`` it has all it wants: whatever comes then, or doesn't, is no failure.
``parse`` cuts items off the bytes received. There is one deadline for the whole conversation, a cap on the bytes read,
and nothing a peer does raises anything but ``EndedError`` in its caller.

An asyncio stream costs some ten times the system calls' own time; this costs about as much as they do.
"""

from __future__ import annotations

import _socket
import asyncio
import errno
import os
import ssl
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any, TypeAlias

from mf import text

from ..judging.states import REFUSED, SILENT, WRONG

CAP = 65536  # bytes read in one conversation
LONGEST = 8192  # bytes without an item in them

Item: TypeAlias = Any
Script: TypeAlias = Generator[Any, Item, Any]
Parse: TypeAlias = Callable[[bytes], "tuple[Item, bytes] | None"]


class EndedError(Exception):
    """A conversation that did not end: ``reason`` as in ``states``, and a short text that is safe to show."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message


@dataclass(frozen=True, slots=True)
class StartTls:
    """Yielded by a script: speak TLS from here on. The script gets the peer's certificate (DER) for it."""

    context: ssl.SSLContext
    name: str


class Tls:
    """TLS between buffers: what the peer sent is fed, what is to be sent to it is returned."""

    def __init__(self, order: StartTls) -> None:
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        name = order.name or None
        self._object = order.context.wrap_bio(self._incoming, self._outgoing, server_hostname=name)
        self.shaking = True

    def feed(self, data: bytes) -> None:
        """Take what the peer has sent."""
        self._incoming.write(data)

    def shake(self) -> bytes:
        """Go on with the handshake; ``shaking``: whether it needs more. Raises ssl.SSLError."""
        try:
            self._object.do_handshake()
            self.shaking = False
        except ssl.SSLWantReadError:
            pass
        return self._outgoing.read()

    def certificate(self) -> bytes:
        """The peer's certificate in DER."""
        return self._object.getpeercert(binary_form=True) or b""

    def read(self) -> tuple[bytes, bytes]:
        """Plain bytes, and what TLS itself has to answer. Raises ssl.SSLError."""
        plain = []
        try:
            while data := self._object.read(16384):
                plain.append(data)
        except (ssl.SSLWantReadError, ssl.SSLZeroReturnError):
            pass
        return b"".join(plain), self._outgoing.read()

    def encrypt(self, data: bytes) -> bytes:
        """Encrypt plain bytes; returns the bytes to send."""
        self._object.write(data)
        return self._outgoing.read()


def _failure(error: OSError, where: str) -> EndedError:
    code = error.errno or 0
    if code == errno.ECONNREFUSED:
        return EndedError(REFUSED, "connection refused")
    if code in (errno.ETIMEDOUT, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EHOSTDOWN, errno.EADDRNOTAVAIL):
        return EndedError(SILENT, f"no answer: {os.strerror(code).lower()}")
    if code in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
        return EndedError("own", f"the monitor itself: {os.strerror(code).lower()}")
    return EndedError(WRONG, f"connection broken at {where}: {os.strerror(code).lower()}")


class Conversation:
    """One conversation. Make it, then await ``done``: the script's result, or EndedError."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        address: str,
        port: int,
        limit: float,
        script: Script,
        parse: Parse,
    ) -> None:
        self._loop = loop
        self._script = script
        self._parse = parse
        self._buffer = b""
        self._out = b""
        self._left = CAP
        self._tls: Tls | None = None
        self.where = "connect"
        self.done: asyncio.Future[Any] = loop.create_future()
        self._timer = loop.call_later(limit, self._expire)
        self._socket: _socket.socket | None = None
        try:
            family = _socket.AF_INET6 if ":" in address else _socket.AF_INET
            self._socket = _socket.socket(family, _socket.SOCK_STREAM | _socket.SOCK_NONBLOCK | _socket.SOCK_CLOEXEC)
            self._fd = self._socket.fileno()
            # an error of the connection makes it readable as well
            code = self._socket.connect_ex((address, port))
            if code not in (0, errno.EINPROGRESS):
                raise OSError(code, os.strerror(code))
            script.send(None)  # up to its first wish: the greeting
            loop.add_reader(self._fd, self._readable)
        except OSError as error:
            self._end(_failure(error, self.where))

    # --- what the loop calls

    def _expire(self) -> None:
        self._end(EndedError(SILENT, f"silence at {self.where}" if self.where != "connect" else "no answer"))

    def _readable(self) -> None:
        assert self._socket is not None
        try:
            chunk = self._socket.recv(16384)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self._end(_failure(error, self.where))
            return
        if not chunk:
            self._end(EndedError(WRONG, f"connection closed at {self.where}"))
            return
        self._left -= len(chunk)
        if self._left < 0:
            self._end(EndedError(WRONG, f"too many bytes at {self.where}"))
            return
        if self.where == "connect":
            self.where = "greeting"
        try:
            if self._tls is not None:
                chunk = self._decrypt(chunk)
            elif not self._buffer and (cut := self._parse(chunk)) is not None and not cut[1]:
                # nearly always: the packet is one whole reply
                self._step(cut[0])
                return
            self._buffer = self._buffer + chunk if self._buffer else chunk
            self._take()
        except EndedError as end:
            self._end(end)
        except ssl.SSLError as error:
            self._end(EndedError(WRONG, f"broken TLS: {text.clean(error.reason or str(error), 60)}"))

    def _writable(self) -> None:
        assert self._socket is not None
        try:
            self._out = self._out[self._socket.send(self._out) :]
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            self._out = b""  # what the peer sent before it closed is worth more than the broken pipe
        if not self._out:
            self._loop.remove_writer(self._fd)

    # --- the way through the script

    def _take(self) -> None:
        while self._buffer and self._socket is not None and not (self._tls is not None and self._tls.shaking):
            cut = self._parse(self._buffer)
            if cut is None:
                if len(self._buffer) > LONGEST:
                    raise EndedError(WRONG, f"a line without end at {self.where}: {text.clean(self._buffer, 40)}")
                return
            item, self._buffer = cut
            self._step(item)

    def _step(self, item: Item) -> None:
        try:
            answer = self._script.send(item)
        except StopIteration as end:
            self._finish(end.value)
            return
        if type(answer) is tuple:
            self.where, data = answer
            self._push(data if self._tls is None else self._tls.encrypt(data))
        else:
            self._secure(answer)

    def _push(self, data: bytes) -> None:
        if self._out or not data:
            self._out += data
            return
        assert self._socket is not None
        try:
            sent = self._socket.send(data)
        except (BlockingIOError, InterruptedError):
            sent = 0
        except OSError:
            return
        if sent < len(data):
            self._out = data[sent:]
            self._loop.add_writer(self._fd, self._writable)

    def _secure(self, order: StartTls) -> None:
        if self._buffer:
            # RFC 3207, 6: what came before the handshake is not trustworthy
            raise EndedError(WRONG, "data before TLS began")
        self._tls = Tls(order)
        self._shake()

    def _shake(self) -> None:
        assert self._tls is not None
        self._push(self._tls.shake())
        if not self._tls.shaking:
            self._step(self._tls.certificate())

    def _decrypt(self, chunk: bytes) -> bytes:
        assert self._tls is not None
        self._tls.feed(chunk)
        if self._tls.shaking:
            self._shake()
            if self._tls.shaking:
                return b""
        plain, answer = self._tls.read()
        self._push(answer)
        return plain

    # --- ends

    def _finish(self, result: Any) -> None:
        self._close()
        if not self.done.done():
            self.done.set_result(result)

    def _end(self, end: EndedError) -> None:
        if self.where == "QUIT" and not self.done.done():
            try:
                self._script.send((0, b""))
            except StopIteration as result:
                self._finish(result.value)
                return
        self._close()
        if not self.done.done():
            self.done.set_exception(end)

    def _close(self) -> None:
        self._timer.cancel()
        if self._socket is not None:
            self._loop.remove_reader(self._fd)
            if self._out:
                self._loop.remove_writer(self._fd)
            self._socket.close()
            self._socket = None
        self._script.close()

    def cancel(self) -> None:
        """Break it off."""
        self._close()
        self.done.cancel()


async def converse(address: str, port: int, limit: float, script: Script, parse: Parse) -> Any:
    """Hold one conversation with a numeric address; the script's result. Raises EndedError."""
    conversation = Conversation(asyncio.get_running_loop(), address, port, limit, script, parse)
    try:
        return await conversation.done
    except asyncio.CancelledError:
        conversation.cancel()
        raise


def reply(data: bytes) -> tuple[tuple[int, bytes], bytes] | None:
    """Cut one SMTP reply (RFC 5321, 4.2) off: its code and its lines' texts, joined by newlines. Raises EndedError."""
    # nearly every reply is one line in one packet
    if data[3:4] == b" " and data.find(b"\n") == len(data) - 1 and data[:3].isdigit():
        return (int(data[:3]), data[4:].rstrip()), b""
    start, texts = 0, []
    while (end := data.find(b"\n", start)) >= 0:
        line = data[start:end].rstrip(b"\r")
        code = line[:3]
        if not (len(code) == 3 and code.isdigit() and b"2" <= code[:1] <= b"5" and line[3:4] in (b"", b" ", b"-")):
            raise EndedError(WRONG, f"no SMTP: {text.clean(line, 60)}")
        texts.append(line[4:])
        start = end + 1
        if line[3:4] != b"-":
            return (int(code), b"\n".join(texts)), data[start:]
    return None


def line(data: bytes) -> tuple[bytes, bytes] | None:
    """Cut one line off."""
    end = data.find(b"\n")
    return None if end < 0 else (data[:end].rstrip(b"\r"), data[end + 1 :])
