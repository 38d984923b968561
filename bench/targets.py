"""Simulated targets for the monitor's benchmarks: SMTP, ssh, HTTP and plain TCP on every address of 127/8, one process.

Raw sockets and epoll, because a target that costs more than the prober would be what is measured. As a program:
``targets.py CORE SMTP SSH HTTP TCP`` serves on these ports until its standard input ends. ``dead`` makes addresses at
which connections are never answered: sockets whose queue is full.
"""

from __future__ import annotations

import os
import select
import socket
import sys
from collections.abc import Iterable

REPLIES = {
    b"EHLO": b"250-target\r\n250-SIZE 1000000\r\n250 HELP\r\n",
    b"MAIL": b"250 ok\r\n",
    b"RCPT": b"250 ok\r\n",
    b"DATA": b"354 go on\r\n",
    b"RSET": b"250 ok\r\n",
    b"QUIT": b"221 bye\r\n",
}
PAGE = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok"
GREETINGS = {"smtp": b"220 target ESMTP\r\n", "ssh": b"SSH-2.0-OpenSSH_9.2p1\r\n", "http": b"", "tcp": b""}


def listen(address: str, port: int, backlog: int) -> socket.socket:
    """A listening socket."""
    listener = socket.socket()
    # an address of its own beside the one for all
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    listener.bind((address, port))
    listener.listen(backlog)
    return listener


def dead(addresses: Iterable[str], ports: Iterable[int]) -> list[socket.socket]:
    """Sockets that keep these addresses and ports from ever answering, for as long as they are kept."""
    kept = []
    wanted = list(ports)
    for address in addresses:
        for port in wanted:
            full = listen(address, port, 0)
            kept.append(full)
            for _ in range(2):
                filler = socket.socket()
                filler.setblocking(False)
                filler.connect_ex((address, port))
                kept.append(filler)
    return kept


def serve(ports: dict[str, int]) -> None:
    """Serve until standard input ends."""
    poll = select.epoll()
    poll.register(0, select.EPOLLIN | select.EPOLLHUP)
    listeners = {}
    for kind, port in ports.items():
        listener = listen("0.0.0.0", port, 4096)
        listener.setblocking(False)
        listeners[listener.fileno()] = (listener, kind)
        poll.register(listener.fileno(), select.EPOLLIN)
    open_: dict[int, tuple[socket.socket, str]] = {}
    while True:
        for descriptor, _ in poll.poll():
            if descriptor == 0:
                return
            if descriptor in listeners:
                listener, kind = listeners[descriptor]
                for _ in range(64):
                    try:
                        client, _ = listener.accept()
                    except BlockingIOError:
                        break
                    greeting = GREETINGS[kind]
                    if greeting:
                        client.send(greeting)
                    client.setblocking(False)
                    open_[client.fileno()] = (client, kind)
                    poll.register(client.fileno(), select.EPOLLIN)
                continue
            client, kind = open_[descriptor]
            try:
                data = client.recv(4096)
                if data and kind == "smtp":
                    answer = REPLIES.get(data[:4]) or (b"250 taken\r\n" if data.endswith(b".\r\n") else b"")
                    client.send(answer)
                elif data and kind == "http":
                    client.send(PAGE)
            except OSError:
                data = b""
            if not data or kind == "http":
                del open_[descriptor]
                client.close()


def main(argv: list[str]) -> None:
    """The program."""
    if argv[0] != "-":
        os.sched_setaffinity(0, {int(argv[0])})
    serve(dict(zip(("smtp", "ssh", "http", "tcp"), map(int, argv[1:5]), strict=True)))


if __name__ == "__main__":
    main(sys.argv[1:])
