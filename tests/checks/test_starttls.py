"""STARTTLS against servers that keep it, and servers that break it at every stage."""

from __future__ import annotations

import socket
import ssl
import time
from pathlib import Path

import pytest
from mf import smtp
from mf_checks import starttls

from tests.core.conftest import Behaviour, server, silent, talking

HELLO = b"250-here\r\n250 STARTTLS\r\n"


def offering(answer: bytes, then: Behaviour) -> Behaviour:
    """A server that sends ``answer`` to STARTTLS and then runs ``then``."""

    def serve(connection: socket.socket) -> None:
        connection.sendall(b"220 ready\r\n")
        while (word := connection.recv(4096)) and not word.startswith(b"STARTTLS"):
            connection.sendall(HELLO)
        connection.sendall(answer)
        then(connection)

    return serve


def secure(certificate: Path, answer: bytes = b"250 here\r\n") -> Behaviour:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)

    def shake(connection: socket.socket) -> None:
        with context.wrap_socket(connection, server_side=True) as inner:
            while word := inner.recv(4096):
                inner.sendall(answer if word.startswith(b"EHLO") else b"221 bye\r\n")

    return offering(b"220 go ahead\r\n", shake)


LIMIT = 5.0  # seconds; a busy machine answers within them
BRIEF = 0.5  # where silence is what is expected


def tried(behaviour: Behaviour, limit: float = LIMIT) -> starttls.Attempt:
    with server(behaviour) as port:
        return starttls.attempt("127.0.0.1", port, limit)


def test_a_good_handshake(certificate: Path) -> None:
    attempt = tried(secure(certificate), 5)
    assert attempt.problem == ""
    assert list(attempt.timings) == ["greeting", "ehlo", "starttls", "tls"]
    assert attempt.expires is not None
    assert 9.9 * 86400 < attempt.expires - time.time() <= 10 * 86400


def test_a_reply_through_tls_counts(certificate: Path) -> None:
    assert tried(secure(certificate, b"550 not here\r\n"), 5).problem == "550 at tls: not here"
    assert "no SMTP at tls" in tried(secure(certificate, b"\x1b[2J\r\n"), 5).problem


@pytest.mark.parametrize(
    ("answer", "then", "problem"),
    [
        (b"454 TLS not available\r\n", lambda _: None, "454 at starttls: TLS not available"),
        (b"", lambda _: None, "the connection was closed at starttls"),
        (b"220 go ahead\r\n", lambda _: None, "the connection was closed at tls"),
        (b"220 go ahead\r\n", lambda line: line.sendall(b"still plain text\r\n"), "at tls"),
        (b"220 go ahead\r\n250 injected\r\n", lambda line: line.recv(1), "more than a 220 before the handshake at tls"),
        (b"220 go ahead\r\n", lambda line: [line.recv(4096) for _ in range(9)], "silence at tls"),
        (b"220 go ahead\r\n", lambda line: line.sendall(b"\x16\x03\x01\xff\xff" + b"x" * 100000), "at tls"),
    ],
)
def test_broken_ones(answer: bytes, then: Behaviour, problem: str) -> None:
    begun = time.monotonic()
    attempt = tried(offering(answer, then), BRIEF if "silence" in problem else LIMIT)
    assert problem in attempt.problem
    assert attempt.problem.isascii()
    assert attempt.problem.isprintable()
    assert attempt.expires is None
    assert time.monotonic() - begun < 10


def test_without_a_listener_it_is_unreachable() -> None:
    attempt = starttls.attempt("127.0.0.1", 1, 0.5)
    assert "nothing answers" in attempt.problem
    assert attempt.before is not None
    assert attempt.before.outcome == smtp.UNREACHABLE


@pytest.mark.parametrize(
    ("behaviour", "stage", "outcome"),
    [
        (talking(b"421 too busy\r\n"), "greeting", smtp.TEMPORARY),
        (talking(EHLO=b"554 not you\r\n"), "ehlo", smtp.REFUSED),
        (silent, "greeting", smtp.SILENT),
        (lambda _: None, "greeting", smtp.CLOSED),
    ],
)
def test_an_end_before_starttls_is_no_evidence_on_tls(behaviour: Behaviour, stage: str, outcome: str) -> None:
    before = tried(behaviour, BRIEF if outcome == smtp.SILENT else LIMIT).before
    assert before is not None
    assert (before.stage, before.outcome) == (stage, outcome)
    assert stage in before.timings
    assert tried(offering(b"454 TLS not available\r\n", lambda _: None)).before is None


def test_no_version_and_no_cipher_in_common(certificate: Path) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers("ECDHE-RSA-AES128-GCM-SHA256")  # the key is no RSA key

    def shake(connection: socket.socket) -> None:
        context.wrap_socket(connection, server_side=True)

    assert "at tls" in tried(offering(b"220 go ahead\r\n", shake)).problem


def test_a_line_without_tls_is_plain() -> None:
    with server(offering(b"220 x\r\n", lambda _: None)) as port:
        line = starttls._Line("127.0.0.1", port, time.monotonic() + 1)
        assert line.reply() == (220, [b"ready"])
        line.close()
        with pytest.raises(smtp.EndedError):
            starttls._Line("127.0.0.1", 1, time.monotonic() + 1)
