"""A small SMTP client (RFC 5321) that a broken server can't hang, flood or crash. Fast path.

One monotonic deadline for the whole dialogue, a cap on the bytes read, raw non-blocking sockets. smtplib has neither:
a dripped greeting holds it far beyond its timeout, an endless ``220-`` fills the memory. Nothing here raises because
of what a server sends or does.
"""

from __future__ import annotations

import _socket
import posix
import select
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    Address = tuple[str, int]

CAP = 65536  # bytes read in one dialogue
NO_REPLY = 0  # the code when there was no reply

# outcomes of a dialogue
ACCEPTED = "accepted"  # 250 after the final dot
TEMPORARY = "temporary"  # a 4xx
REFUSED = "refused"  # a 5xx, or another code that has no place there
GARBAGE = "garbage"  # not SMTP, or more than CAP
CLOSED = "closed"  # the server closed or reset the connection
SILENT = "silent"  # the deadline passed
UNREACHABLE = "unreachable"  # nothing listens there
UNTRIED = "untried"  # this end failed (no descriptors, ports, memory; no route): no evidence on the server

# errors that a server can cause here
_REMOTE = (ConnectionRefusedError, ConnectionResetError, BrokenPipeError, TimeoutError)

_GOOD = {"greeting": 220, "ehlo": 250, "mail": 250, "rcpt": 250, "data": 354, "message": 250}


class Dialogue:
    """One dialogue: ``outcome`` at ``stage`` with the reply's ``code`` (0: none) and ``text`` (safe to show).

    ``timings`` maps each stage that was begun to its seconds; ``starttls``: whether the server offers it.
    ``session``: for a dialogue that ended in silence after the greeting, whether a process of the server still held it;
    None when unknown.
    """

    __slots__ = ("code", "outcome", "session", "stage", "starttls", "text", "timings")

    def __init__(self, stage: str = "connect", outcome: str = SILENT, code: int = NO_REPLY, text: str = "") -> None:
        self.stage = stage
        self.outcome = outcome
        self.code = code
        self.text = text
        self.starttls = False
        self.session: bool | None = None
        self.timings: dict[str, float] = {}

    def seconds(self) -> float:
        """Length of the dialogue up to where it ended."""
        return sum(self.timings.values())

    def stall(self) -> float:
        """Seconds spent in the stage it ended in."""
        return self.timings.get(self.stage, 0.0)

    def describe(self) -> str:
        """The outcome as text, for example ``450 at rcpt: try later``."""
        if self.outcome in (TEMPORARY, REFUSED):
            return f"{self.code} at {self.stage}: {self.text}"
        return {
            ACCEPTED: "accepted",
            GARBAGE: f"no SMTP at {self.stage}: {self.text}",
            CLOSED: f"the connection was closed at {self.stage}",
            SILENT: f"silence at {self.stage}",
            UNREACHABLE: f"nothing answers: {self.text}",
            UNTRIED: f"this host can't ask at {self.stage}: {self.text}",
        }[self.outcome]


class EndedError(Exception):
    """A dialogue ended early: its outcome, the reply's code, and a text that is safe to show."""

    def __init__(self, outcome: str, code: int = NO_REPLY, text: str = "") -> None:
        self.outcome = outcome
        self.code = code
        self.text = text


class Line:
    """A connection with a deadline (monotonic seconds) and a cap on bytes; raises EndedError and nothing else."""

    __slots__ = ("_buffer", "_give_up", "_left", "_poll", "_socket")

    def __init__(self, address: str, port: int, give_up: float) -> None:
        self._buffer = b""
        self._give_up = give_up
        self._left = CAP
        self._poll = select.poll()
        self._socket: _socket.socket | None = None
        try:
            self._socket = dial(address, port)
            self._wait(select.POLLOUT)
            failure = self._socket.getsockopt(_socket.SOL_SOCKET, _socket.SO_ERROR)
            if failure:
                raise OSError(failure, posix.strerror(failure))
        except OSError as error:
            self.close()
            raise EndedError(UNREACHABLE if isinstance(error, _REMOTE) else UNTRIED, text=str(error.strerror)) from None

    def close(self) -> None:
        """End the connection, if there is one."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def extend(self, give_up: float) -> None:
        """Set another deadline."""
        self._give_up = give_up

    def local(self) -> str:
        """The local address and port: ``127.0.0.1:25000``."""
        assert self._socket is not None
        name = self._socket.getsockname()
        return f"[{name[0]}]:{name[1]}" if ":" in name[0] else f"{name[0]}:{name[1]}"

    def send(self, data: bytes) -> None:
        """Send all of it; the next reply shows a server that has closed."""
        assert self._socket is not None
        while data:
            try:
                data = data[self._socket.send(data) :]
            except BlockingIOError:
                self._wait(select.POLLOUT)
            except OSError as error:
                # the server's reply before it closed is worth more than the broken pipe
                self._raise_local(error)
                return

    def reply(self) -> tuple[int, list[bytes]]:
        """One reply, RFC 5321 4.2: its code and the texts of its lines."""
        texts: list[bytes] = []
        while True:
            line = self._line()
            code = line[:3]
            if not (len(code) == 3 and code.isdigit() and b"2" <= code[:1] <= b"5" and line[3:4] in (b"", b" ", b"-")):
                raise EndedError(GARBAGE, text=_clean(line, 60))
            texts.append(line[4:])
            if line[3:4] != b"-":
                return int(code), texts

    def chunk(self) -> bytes:
        """The next bytes, at least one."""
        assert self._socket is not None
        while True:
            self._wait(select.POLLIN)
            try:
                chunk = self._socket.recv(4096)
            except BlockingIOError:
                continue
            except OSError as error:
                self._raise_local(error)
                chunk = b""
            if not chunk:
                raise EndedError(CLOSED)
            self._left -= len(chunk)
            if self._left < 0:
                raise EndedError(GARBAGE, text=f"more than {CAP} bytes")
            return chunk

    def _raise_local(self, error: OSError) -> None:
        """Raise EndedError for an error that a server can't cause."""
        if not isinstance(error, _REMOTE):
            raise EndedError(UNTRIED, text=str(error.strerror))

    def _line(self) -> bytes:
        while (end := self._buffer.find(b"\n")) < 0:
            if len(self._buffer) > 4096:
                raise EndedError(GARBAGE, text=f"a line without end: {_clean(self._buffer, 60)}")
            self._buffer += self.chunk()
        line, self._buffer = self._buffer[:end], self._buffer[end + 1 :]
        return line.rstrip(b"\r")

    def _wait(self, event: int) -> None:
        assert self._socket is not None
        self._poll.register(self._socket.fileno(), event)
        left = self._give_up - time.monotonic()
        if left <= 0 or not self._poll.poll(left * 1000):
            raise EndedError(SILENT)


def dial(address: str, port: int) -> _socket.socket:
    """A non-blocking TCP socket that is connecting to a numeric IPv4 or IPv6 address. Raises OSError."""
    family = _socket.AF_INET6 if ":" in address else _socket.AF_INET
    channel = _socket.socket(family, _socket.SOCK_STREAM | _socket.SOCK_NONBLOCK | _socket.SOCK_CLOEXEC)
    try:
        channel.connect((address, port))
    except BlockingIOError:
        pass
    except BaseException:
        channel.close()
        raise
    return channel


def transaction(
    address: str,
    port: int,
    limit: float,
    recipient: str,
    message: bytes,
    *,
    sender: str = "",
    patience: float = 0.0,
    silence: Callable[[str], bool | None] | None = None,
) -> Dialogue:
    """A full dialogue with one message to one recipient, in at most ``limit`` seconds. Never raises.

    With ``patience`` the limit is that of the greeting, and after it the dialogue may take so many seconds in all: a
    filter is slow after the final dot. ``silence``, called with the local address while the connection is still open,
    gives the dialogue's ``session``. ``address`` is numeric; ``message`` as on the wire, final dot included. Of a
    message from the null sender no bounce is ever made.
    """
    steps = (
        ("greeting", b""),
        ("ehlo", b"EHLO localhost\r\n"),
        ("mail", b"MAIL FROM:<%s>\r\n" % sender.encode()),
        ("rcpt", b"RCPT TO:<%s>\r\n" % recipient.encode()),
        ("data", b"DATA\r\n"),
        ("message", message),
    )
    return _dialogue(address, port, limit, steps, patience, silence)


def greeting(address: str, port: int, limit: float) -> Dialogue:
    """Only the greeting and QUIT; ACCEPTED means a 220. Never raises."""
    return _dialogue(address, port, limit, (("greeting", b""),))


def _dialogue(
    address: str,
    port: int,
    limit: float,
    steps: Sequence[tuple[str, bytes]],
    patience: float = 0.0,
    silence: Callable[[str], bool | None] | None = None,
) -> Dialogue:
    end = Dialogue()
    first = begun = time.monotonic()
    line: Line | None = None
    try:
        line = Line(address, port, begun + limit)
        end.timings["connect"] = time.monotonic() - begun
        for stage, data in steps:
            end.stage = stage
            begun = time.monotonic()
            line.send(data)
            code, texts = line.reply()
            end.timings[stage] = time.monotonic() - begun
            if code != _GOOD[stage]:
                raise EndedError(TEMPORARY if 400 <= code < 500 else REFUSED, code, _clean(b" ".join(texts), 100))
            end.code = code
            if stage == "greeting" and patience:
                line.extend(first + patience)
            if stage == "ehlo":
                end.starttls = any(line_text.strip().upper() == b"STARTTLS" for line_text in texts)
        end.outcome = ACCEPTED
        # accepted is accepted: a server that is slow or rude at QUIT has still done its work
        begun = time.monotonic()
        line.send(b"QUIT\r\n")
        line.reply()
        end.timings["quit"] = time.monotonic() - begun
    except EndedError as ended:
        if end.outcome != ACCEPTED:
            greeted = end.code != NO_REPLY
            end.outcome, end.code, end.text = ended.outcome, ended.code, ended.text
            end.timings[end.stage] = time.monotonic() - begun
            if line is not None and silence is not None and greeted and end.outcome == SILENT:
                end.session = silence(line.local())
    finally:
        if line is not None:
            line.close()
    return end


def _clean(text: bytes, limit: int) -> str:
    from .text import clean

    return clean(text, limit)


def greeting_many(servers: Iterable[Address], limit: float) -> dict[Address, bool]:
    """By server, whether it greets with a 220 within ``limit`` seconds; all in one poll loop. Never raises.

    Only the first bytes count (``220`` and a space or hyphen); each connection is closed as soon as they are there.
    Any failure (no answer, no route, not a numeric address) is False.
    """
    give_up = time.monotonic() + limit
    answers: dict[Address, bool] = {}
    open_: dict[int, tuple[Address, _socket.socket, bytes]] = {}
    poll = select.poll()
    try:
        for server in servers:
            answers[server] = False
            try:
                channel = dial(*server)
            except (OSError, OverflowError):
                continue
            open_[channel.fileno()] = (server, channel, b"")
            poll.register(channel.fileno(), select.POLLIN)
        while open_ and (left := give_up - time.monotonic()) > 0:
            for descriptor, _ in poll.poll(left * 1000):
                server, channel, received = open_[descriptor]
                try:
                    chunk = channel.recv(4 - len(received))
                except BlockingIOError:
                    continue
                except OSError:
                    chunk = b""
                received += chunk
                if chunk and len(received) < 4:
                    open_[descriptor] = (server, channel, received)
                    continue
                answers[server] = received in (b"220 ", b"220-")
                poll.unregister(descriptor)
                del open_[descriptor]
                channel.close()
    finally:
        for _, channel, _ in open_.values():
            channel.close()
    return answers
