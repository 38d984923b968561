"""A thousand hostile inputs of each kind: no traceback, no hang past the deadline + 0.1 s, no more than 20 MiB."""

from __future__ import annotations

import random
import socket
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
from smtp_support import GOOD, server

HERE = Path(__file__).resolve().parent
PACKAGE = HERE.parent / "roles/mf_tree/files/lib"
MEMORY = 20.0  # MiB
LATE = 0.1  # s
ATTEMPTS = 3  # a machine that is busy with other things is late now and then, a hang is each time


def anything(seeds: random.Random, connection: socket.socket) -> None:
    """A server that answers with what it should, with garbage, with too much, too late, or not at all."""
    dice = random.Random(seeds.random())
    kinds = ("good", "bytes", "endless", "drip", "silent", "close", "codes", "torn")
    replies = [b"220 ready\r\n", *GOOD.values()]
    for turn in range(12):
        kind = dice.choice(kinds) if turn or dice.random() < 0.7 else "good"
        if kind == "close":
            return
        if kind == "bytes":
            connection.sendall(dice.randbytes(dice.randrange(1, 3000)))
        elif kind == "endless":
            line = dice.choice((b"220-", b"250-x\r\n", b"\0", b"250-" + b"y" * 4000 + b"\r\n"))
            for _ in range(200000 // len(line)):
                connection.sendall(line)
        elif kind == "drip":
            for byte in b"250-slowly\r\n250 done\r\n":
                connection.sendall(bytes([byte]))
                time.sleep(0.02)
        elif kind == "silent":
            connection.recv(100)
            continue
        elif kind == "codes":
            connection.sendall(b"%03d%c%s\r\n" % (dice.randrange(1000), dice.choice(b" -\t"), dice.randbytes(9)))
        elif kind == "torn":
            whole = dice.choice(replies)
            connection.sendall(whole[: dice.randrange(len(whole))])
        else:
            connection.sendall(replies[min(turn, len(replies) - 1)])
        if not connection.recv(4096):
            return


def fed(kind: str, folder: Path, port: int = 0) -> tuple[int, float, float]:
    """How many inputs, the slowest (seconds beyond its limit), and the peak of memory (MiB)."""
    feed = [sys.executable, "-I", "-S", str(HERE / "bounds_feed.py"), str(PACKAGE), kind, str(folder), str(port)]
    done = subprocess.run(feed, capture_output=True, text=True, check=False, timeout=400)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stderr == ""
    count, slowest, peak = done.stdout.split()
    return int(count), float(slowest), float(peak)


@pytest.mark.parametrize("kind", ["dialogues", "names", "files"])
def test_hostile_input_by_the_thousand(kind: str, tmp_path: Path) -> None:
    found = []
    for attempt in range(ATTEMPTS):
        seeds = random.Random(0)  # the same each time: what hangs on one input hangs again
        with server(partial(anything, seeds)) as port:
            found.append(fed(kind, tmp_path / str(attempt), port))
        count, slowest, peak = found[-1]
        assert count >= 1000
        assert peak <= MEMORY
        if slowest <= LATE:
            return
    pytest.fail(f"each time something was late: {found}")
