"""Scripted SMTP servers on loopback: a good one, and every kind of bad one."""

from __future__ import annotations

import contextlib
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator

Behaviour = Callable[[socket.socket], None]

STAGES = ("connect", "greeting", "ehlo", "mail", "rcpt", "data", "message", "quit")  # of a whole dialogue, in order
GOOD = {
    b"EHLO": b"250-here\r\n250-STARTTLS\r\n250 PIPELINING\r\n",
    b"MAIL": b"250 sender\r\n",
    b"RCPT": b"250 recipient\r\n",
    b"DATA": b"354 go ahead\r\n",
    b".": b"250 kept\r\n",
    b"QUIT": b"221 bye\r\n",
}


def talking(greeting: bytes = b"220 ready\r\n", late: tuple[str, float] = ("", 0.0), **replies: bytes) -> Behaviour:
    """A server that sends ``greeting`` and then the good replies, or those given by verb (``dot`` for the final dot).

    An empty reply closes the connection. ``late``: before the reply to this verb it thinks for so many seconds, or
    until the client has gone.
    """
    slow, seconds = b"." if late[0] == "dot" else late[0].encode(), late[1]
    table = {**GOOD, **{(b"." if verb == "dot" else verb.encode()): reply for verb, reply in replies.items()}}

    def serve(connection: socket.socket) -> None:
        connection.sendall(greeting)
        in_data = False
        for line in connection.makefile("rb"):
            word = line.strip()
            if in_data and word != b".":
                continue
            in_data = word == b"DATA"
            reply = table.get(word.split(b" ")[0], b"500 what?\r\n")
            if not reply:
                return
            if word.split(b" ")[0] == slow:
                select.select([connection], [], [], seconds)
            connection.sendall(reply)
            if word == b"QUIT":
                return

    return serve


def endless(chunk: bytes, pause: float = 0.0) -> Behaviour:
    """A server that never stops saying the same."""

    def serve(connection: socket.socket) -> None:
        while True:
            connection.sendall(chunk)
            time.sleep(pause)

    return serve


def silent(connection: socket.socket) -> None:
    """Accept, and stay silent until the client has gone."""
    connection.recv(1)


@contextlib.contextmanager
def server(behaviour: Behaviour, family: int = socket.AF_INET) -> Iterator[int]:
    """A server in threads; gives its port."""
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.bind(("::1" if family == socket.AF_INET6 else "127.0.0.1", 0))
    listener.listen(64)
    open_: list[socket.socket] = []

    def handle(connection: socket.socket) -> None:
        with contextlib.suppress(OSError), connection:
            behaviour(connection)

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listener.accept()
                open_.append(connection)
                threading.Thread(target=handle, args=(connection,), daemon=True).start()

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    try:
        yield int(listener.getsockname()[1])
    finally:
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(2)
        for connection in open_:
            connection.close()
