"""The SMTP client against servers that behave badly."""

from __future__ import annotations

import errno
import os
import resource
import select
import socket
import time
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mf import smtp

from tests.core.conftest import STAGES, Behaviour, endless, server, silent, talking

RECIPIENT = "canary@mx1.mf.invalid"
MESSAGE = b"Subject: canary\r\n\r\nhere\r\n.\r\n"


def held(behaviour: Behaviour, limit: float = 0.5) -> smtp.Dialogue:
    with server(behaviour) as port:
        return smtp.transaction("127.0.0.1", port, limit, RECIPIENT, MESSAGE)


def test_a_good_server_accepts() -> None:
    dialogue = held(talking(), 3)
    assert (dialogue.outcome, dialogue.stage, dialogue.code) == (smtp.ACCEPTED, "message", 250)
    assert list(dialogue.timings) == list(STAGES)
    assert dialogue.starttls


def test_starttls_is_only_noted_when_offered() -> None:
    assert not held(talking(EHLO=b"250 here\r\n"), 3).starttls


def test_the_message_is_sent_whole() -> None:
    got: list[bytes] = []

    def keep(connection: socket.socket) -> None:
        connection.sendall(b"220 hi\r\n")
        while data := connection.recv(4096):
            got.append(data)
            connection.sendall(b"354 go\r\n" if data == b"DATA\r\n" else b"250 ok\r\n")

    held(keep, 3)
    assert MESSAGE in got
    assert b"MAIL FROM:<>\r\n" in got
    assert b"RCPT TO:<canary@mx1.mf.invalid>\r\n" in got


@pytest.mark.parametrize(
    ("behaviour", "outcome", "stage", "code"),
    [
        (talking(b"421 too busy\r\n"), smtp.TEMPORARY, "greeting", 421),
        (talking(b"554 go away\r\n"), smtp.REFUSED, "greeting", 554),
        (talking(b"250 wrong code\r\n"), smtp.REFUSED, "greeting", 250),
        (talking(b"SSH-2.0-OpenSSH_9.2\r\n"), smtp.GARBAGE, "greeting", 0),
        (talking(b"\r\n"), smtp.GARBAGE, "greeting", 0),
        (talking(b"22O hi\r\n"), smtp.GARBAGE, "greeting", 0),
        (talking(b"2200 hi\r\n"), smtp.GARBAGE, "greeting", 0),
        (talking(b"\xff\xfe\x00\x1b[2J\r\n"), smtp.GARBAGE, "greeting", 0),
        (talking(b""), smtp.SILENT, "greeting", 0),
        (lambda connection: connection.close(), smtp.CLOSED, "greeting", 0),
        (talking(EHLO=b"500 no\r\n"), smtp.REFUSED, "ehlo", 500),
        (talking(EHLO=b""), smtp.CLOSED, "ehlo", 0),
        (talking(MAIL=b"451 later\r\n"), smtp.TEMPORARY, "mail", 451),
        (talking(RCPT=b"550 unknown\r\n"), smtp.REFUSED, "rcpt", 550),
        (talking(DATA=b"250 not this\r\n"), smtp.REFUSED, "data", 250),
        (talking(DATA=b""), smtp.CLOSED, "data", 0),
        (talking(dot=b"452 disk full\r\n"), smtp.TEMPORARY, "message", 452),
        (talking(dot=b"552 no\r\n"), smtp.REFUSED, "message", 552),
        (talking(dot=b""), smtp.CLOSED, "message", 0),
        (silent, smtp.SILENT, "greeting", 0),
        (endless(b"2" * 700), smtp.GARBAGE, "greeting", 0),
        (endless(b"220-again\r\n" * 100), smtp.GARBAGE, "greeting", 0),
        (endless(b"220-slowly\r\n", 0.05), smtp.SILENT, "greeting", 0),
        (endless(b"2", 0.05), smtp.SILENT, "greeting", 0),
    ],
)
def test_outcomes(behaviour: Behaviour, outcome: str, stage: str, code: int) -> None:
    dialogue = held(behaviour)
    assert (dialogue.outcome, dialogue.stage, dialogue.code) == (outcome, stage, code)
    assert stage in dialogue.timings
    assert dialogue.describe().isascii()
    assert dialogue.describe().isprintable()


def test_without_a_listener_it_is_unreachable() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        dialogue = smtp.transaction("127.0.0.1", taken.getsockname()[1], 1, RECIPIENT, MESSAGE)
    assert (dialogue.outcome, dialogue.stage, dialogue.text) == (smtp.UNREACHABLE, "connect", "Connection refused")


@pytest.mark.parametrize("address", ["no-such-host", "300.1.1.1", "::g"])
def test_an_address_that_is_none_is_no_error(address: str) -> None:
    dialogue = smtp.transaction(address, 25, 0.2, RECIPIENT, MESSAGE)
    assert dialogue.outcome == smtp.UNTRIED


def test_a_client_without_descriptors_blames_no_server() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with server(talking()) as port:
        resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
        try:
            dialogue = smtp.transaction("127.0.0.1", port, 1, RECIPIENT, MESSAGE)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert (dialogue.outcome, dialogue.text) == (smtp.UNTRIED, "Too many open files")
    assert dialogue.describe() == "this host can't ask at connect: Too many open files"


class Failing:
    """A connection whose every step fails with one errno; nothing makes the kernel do so on demand."""

    def __init__(self, number: int) -> None:
        self.error = OSError(number, "")

    def send(self, _: bytes) -> int:
        raise self.error

    def recv(self, _: int) -> bytes:
        raise self.error


@pytest.mark.parametrize(
    ("number", "outcome"),
    [
        (errno.ECONNRESET, smtp.CLOSED),
        (errno.EPIPE, smtp.CLOSED),
        (errno.ETIMEDOUT, smtp.CLOSED),
        (errno.ENOMEM, smtp.UNTRIED),
        (errno.ENOBUFS, smtp.UNTRIED),
        (errno.EPERM, smtp.UNTRIED),
        (errno.EHOSTUNREACH, smtp.UNTRIED),
    ],
)
def test_an_error_is_the_servers_or_ours(number: int, outcome: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with server(silent) as port:
        line = smtp.Line("127.0.0.1", port, time.monotonic() + 5)
        line.close()
    monkeypatch.setattr(smtp.Line, "_wait", lambda *_: None)
    monkeypatch.setattr(line, "_socket", Failing(number))
    with pytest.raises(smtp.EndedError) as end:
        line.chunk()
    assert end.value.outcome == outcome
    if outcome == smtp.CLOSED:
        line.send(b"QUIT\r\n")  # the next reply says so
    else:
        with pytest.raises(smtp.EndedError):
            line.send(b"QUIT\r\n")


def test_a_drip_ends_at_the_deadline() -> None:
    begun = time.monotonic()
    assert held(endless(b"2", 0.02), 0.6).outcome == smtp.SILENT
    assert 0.55 < time.monotonic() - begun < 5


def test_a_flood_costs_no_memory() -> None:
    tracemalloc.start()
    begun = time.monotonic()
    dialogue = held(endless(b"220-" + b"x" * 1000 + b"\r\n"), 5)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert dialogue.outcome == smtp.GARBAGE
    assert time.monotonic() - begun < 3
    assert peak < 2_000_000


def test_rude_at_quit_is_still_accepted() -> None:
    for reply in (b"", b"500 no\r\n", b"\xff\r\n"):
        assert held(talking(QUIT=reply), 3).outcome == smtp.ACCEPTED


def test_bare_newlines_and_a_code_without_text_are_read() -> None:
    assert held(talking(b"220\n", EHLO=b"250-a\n250\n"), 3).outcome == smtp.ACCEPTED


def test_hostile_text_is_escaped() -> None:
    dialogue = held(talking(b"554 \x1b[31mred\x07|\xe2\x80\xae\r\n"))
    assert "\\x1b[31mred\\x07" in dialogue.text
    assert dialogue.text.isascii()


def test_no_descriptor_is_left_open() -> None:
    before = len(os.listdir("/proc/self/fd"))
    for behaviour in (talking(), silent, talking(b"oops\r\n"), talking(dot=b"")):
        held(behaviour, 0.3)
    smtp.transaction("127.0.0.1", 1, 0.2, RECIPIENT, MESSAGE)
    # a thread of the test before may have ended meanwhile
    assert len(os.listdir("/proc/self/fd")) <= before


@given(st.lists(st.binary(max_size=200), max_size=8))
@settings(max_examples=1000)
def test_any_bytes_make_a_result_in_time(chunks: list[bytes]) -> None:
    ours, peer = socket.socketpair()
    with ours, peer:
        ours.setblocking(False)
        for chunk in chunks:
            peer.send(chunk)
        peer.shutdown(socket.SHUT_WR)
        line = smtp.Line.__new__(smtp.Line)
        line._buffer, line._left, line._give_up = b"", smtp.CAP, time.monotonic() + 30
        line._poll = select.poll()
        line._socket = ours
        begun = time.monotonic()

        def read_all() -> None:
            while True:
                code, texts = line.reply()
                assert 200 <= code <= 599
                assert texts

        with pytest.raises(smtp.EndedError) as end:
            read_all()
        assert end.value.outcome in (smtp.CLOSED, smtp.GARBAGE)
        assert time.monotonic() - begun < 10  # and not at the deadline


@given(st.binary(max_size=300))
@settings(max_examples=60)
def test_any_greeting_over_the_wire(greeting: bytes) -> None:
    dialogue = held(lambda connection: connection.sendall(greeting), 0.3)
    assert dialogue.outcome != smtp.ACCEPTED
    assert dialogue.describe().isascii()


def test_greeting_only() -> None:
    with server(talking()) as port:
        dialogue = smtp.greeting("127.0.0.1", port, 2)
    assert (dialogue.outcome, dialogue.code) == (smtp.ACCEPTED, 220)
    assert list(dialogue.timings) == ["connect", "greeting", "quit"]


def test_many_are_asked_at_once() -> None:
    with (
        server(talking()) as good,
        server(talking(b"220-long\r\n220 greeting\r\n")) as long,
        server(talking(b"421 busy\r\n")) as busy,
        server(silent) as tarpit,
        server(lambda connection: connection.close()) as closing,
        server(endless(b"2", 0.2)) as dripping,
        socket.socket() as taken,
    ):
        taken.bind(("127.0.0.1", 0))
        ports = [good, long, busy, tarpit, closing, dripping, taken.getsockname()[1]]
        begun = time.monotonic()
        answers = smtp.greeting_many([("127.0.0.1", port) for port in ports] + [("nonsense", 25)], 0.5)
        took = time.monotonic() - begun
    assert [answers["127.0.0.1", port] for port in ports] == [True, True, False, False, False, False, False]
    assert answers["nonsense", 25] is False
    assert took < 0.8


def test_a_greeting_in_pieces_counts() -> None:
    def pieces(connection: socket.socket) -> None:
        for letter in b"220 hello\r\n":
            connection.sendall(bytes([letter]))
            time.sleep(0.01)

    with server(pieces) as port:
        assert smtp.greeting_many([("127.0.0.1", port)], 2) == {("127.0.0.1", port): True}


def test_a_survey_of_no_server() -> None:
    assert smtp.greeting_many([], 1) == {}


def test_ipv6() -> None:
    if not socket.has_dualstack_ipv6():
        pytest.skip("no IPv6 here")
    with server(talking(), socket.AF_INET6) as port:
        assert smtp.transaction("::1", port, 2, RECIPIENT, MESSAGE).outcome == smtp.ACCEPTED
        assert smtp.greeting_many([("::1", port)], 2) == {("::1", port): True}
