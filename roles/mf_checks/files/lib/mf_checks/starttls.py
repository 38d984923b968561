"""A complete STARTTLS (RFC 3207): handshake, one command through it, end of the certificate. Slow path.

``import ssl`` alone costs more than a whole healthy check, so this is for every few minutes. Deadline and cap are those
of ``mf.smtp``. The certificate isn't verified: most senders don't either, and loopback isn't its name.
"""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable
from typing import Any

from mf import certificate, smtp
from mf.text import clean

FAILED = "no TLS"  # the outcome of a dialogue that broke in the handshake or after it


class Attempt:
    """The result: ``problem`` as a text that is safe to show, empty for a success.

    ``before`` is a dialogue that ended before STARTTLS: evidence on the server, none on TLS.
    ``timings`` maps the stages ``starttls`` (the command) and ``tls`` (handshake and one command through it), as far
    as they were begun, to seconds. ``expires`` is the end of the certificate in epoch seconds, None when unknown.
    """

    def __init__(self) -> None:
        self.problem = ""
        self.before: smtp.Dialogue | None = None
        self.expires: float | None = None
        self.timings: dict[str, float] = {}


def attempt(address: str, port: int, limit: float) -> Attempt:
    """Greeting, EHLO, STARTTLS, handshake, EHLO, QUIT in at most ``limit`` seconds. Never raises."""
    result = Attempt()
    line: _Line | None = None
    stage = "connect"
    begun = time.monotonic()
    ehlo = b"EHLO localhost\r\n"
    try:
        line = _Line(address, port, begun + limit)
        for stage, command, good in (
            ("greeting", b"", 220),
            ("ehlo", ehlo, 250),
            ("starttls", b"STARTTLS\r\n", 220),
            ("tls", ehlo, 250),
        ):
            begun = time.monotonic()
            if stage == "tls":
                result.expires = certificate.not_after(line.secure())
            line.send(command)
            code, texts = line.reply()
            result.timings[stage] = time.monotonic() - begun
            if code != good:
                outcome = smtp.TEMPORARY if 400 <= code < 500 else smtp.REFUSED
                raise smtp.EndedError(outcome, code, clean(b" ".join(texts), 100))
        line.send(b"QUIT\r\n")
    except smtp.EndedError as ended:
        end = smtp.Dialogue(stage, ended.outcome, ended.code, ended.text)
        result.problem = f"{ended.text} at {stage}" if ended.outcome == FAILED else end.describe()
        result.timings[stage] = time.monotonic() - begun
        if stage not in ("starttls", "tls"):
            end.timings = result.timings
            result.before = end
    finally:
        if line is not None:
            line.close()
    return result


class _Line(smtp.Line):
    """A Line that can be secured; from then on what is sent and read goes through TLS."""

    def __init__(self, address: str, port: int, give_up: float) -> None:
        self._tls: ssl.SSLObject | None = None
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        super().__init__(address, port, give_up)

    def secure(self) -> bytes:
        """The handshake; returns the certificate (DER)."""
        if self._buffer:
            # RFC 3207, 4.2: text before the handshake may be an attacker's
            raise smtp.EndedError(FAILED, text="more than a 220 before the handshake")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        tls = context.wrap_bio(self._incoming, self._outgoing)
        self._through(tls.do_handshake)
        self._tls = tls
        return tls.getpeercert(binary_form=True) or b""

    def send(self, data: bytes) -> None:
        """Send all of it."""
        if self._tls is None:
            super().send(data)
        else:
            tls = self._tls
            self._through(lambda: tls.write(data))

    def chunk(self) -> bytes:
        """The next bytes, at least one."""
        if self._tls is None:
            return super().chunk()
        tls = self._tls
        data: bytes = self._through(lambda: tls.read(4096))
        if not data:
            raise smtp.EndedError(smtp.CLOSED)
        return data

    def _through(self, step: Callable[[], Any]) -> Any:
        while True:
            try:
                done = step()
            except ssl.SSLWantReadError:
                super().send(self._outgoing.read())
                self._incoming.write(super().chunk())
            except ssl.SSLError as error:
                raise smtp.EndedError(FAILED, text=clean(error.reason or str(error), 80)) from None
            else:
                super().send(self._outgoing.read())
                return done
