"""The sink: canaries that arrive are noted, and everything else is refused."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
from mf import canary, smtp, state

from tests.canary.conftest import NOW, Listener, message


def test_a_ham_is_noted_once(listener: Listener) -> None:
    assert set(listener.note("ham-mx1.json")) == {"since"}
    data = message()
    assert listener.deliver(data).outcome == smtp.ACCEPTED
    first = listener.note("ham-mx1.json")
    assert first["since"] == NOW
    assert listener.deliver(data).outcome == smtp.ACCEPTED  # Exim may come twice
    assert listener.note("ham-mx1.json") == first
    # an older one that comes later is no news
    assert listener.deliver(message(age=600)).outcome == smtp.ACCEPTED
    assert listener.note("ham-mx1.json")["sent"] == first["sent"]


def test_a_spam_that_was_delivered_is_noted_apart(listener: Listener) -> None:
    assert listener.deliver(message(canary.SPAM), f"spam@{canary.DOMAIN}").outcome == smtp.ACCEPTED
    assert "received" in listener.note("spam-mx1.json")
    assert "sent" not in listener.note("ham-mx1.json")


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (message(key=bytes(32)), 550),
        (message(age=5 * 3600), 550),
        (message(host="mx9"), 550),
        (message(host="etc"), 550),
        (b"Subject: x\r\n\r\n" + message(), 550),
        (b"\r\n", 550),
        (b"\0\xff\r\n", 550),
        (message() + b"x" * 1000 * 70 + b"\r\n", 0),  # a line without end: hung up
        (message() + b"xxxxxxxxx\r\n" * 10000, 552),
    ],
)
def test_everything_else_is_refused(listener: Listener, data: bytes, code: int) -> None:
    assert listener.deliver(data).code == code
    assert set(listener.note("ham-mx1.json")) == {"since"}
    assert sorted(path.name for path in listener.folder.iterdir()) == ["ham-mx1.json"]


def test_only_for_the_canarys_domain_and_only_from_the_mxs(listener: Listener, tmp_path: Path) -> None:
    assert listener.deliver(message(), "ham@customer.example").stage == "rcpt"
    folder = tmp_path / "other"
    folder.mkdir()
    stranger = Listener(folder, clients=("192.0.2.1",))
    assert stranger.deliver(message()).code == 554
    stranger.close()


def test_odd_dialogues_end(listener: Listener) -> None:
    for command, answer in (
        (b"DATA\r\n", b"503"),
        (b"\xff\x00\r\n", b"503"),
        (b"QUIT\r\n", b"221"),
        (b"NOOP\r\n" * 100, b"250"),
        (b"x" * 5000 + b"\r\n", b""),
        (b"EHLO half", b""),
    ):
        with socket.create_connection(("127.0.0.1", listener.port), 5) as line:
            line.settimeout(5)
            assert line.recv(100).startswith(b"220")
            line.sendall(command)
            line.shutdown(socket.SHUT_WR)
            reply = b""
            try:
                while chunk := line.recv(4096):
                    reply += chunk
            except ConnectionResetError:
                pass
            assert reply.startswith(answer)
    assert listener.deliver(message()).outcome == smtp.ACCEPTED


def test_notes_that_cannot_be_written_are_a_451(listener: Listener, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(state, "write_atomic", full)
    assert listener.deliver(message()).code == 451
