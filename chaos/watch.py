"""Greetings of several hosts at once, many times a second, so that a fall of a moment shows as well."""

from __future__ import annotations

import subprocess
import threading
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from chaos.scene import Host

# One thread for each address: a dialogue up to the greeting, again and again. Each line: ADDRESS BEGUN REPLY.
PROBER = r"""
import socket, sys, threading, time
def probe(address):
    while True:
        begun, reply = time.monotonic(), "closed"
        try:
            with socket.create_connection((address, 25), 6) as line:
                line.settimeout(6)
                reply = line.recv(100)[:3].decode("ascii", "replace") or reply
                line.sendall(b"QUIT\r\n")
                line.recv(100)
        except ConnectionRefusedError:
            reply = "refused"
        except OSError as error:
            reply = reply if reply == "220" else type(error).__name__
        sys.stdout.write(f"{address} {begun:.3f} {reply}\n")
        sys.stdout.flush()
        time.sleep(0.15)
for address in sys.argv[1:]:
    threading.Thread(target=probe, args=(address,), daemon=True).start()
sys.stdin.read()
"""


def fewest(probes: Sequence[tuple[float, str, bool]], minimum: int) -> tuple[int, float]:
    """How few accepted at the worst moment, and for how many seconds in all fewer than `minimum` did.

    `probes`: (time, host, whether it accepted), in order; what a host showed holds until its next probe.
    Judged from the moment when each has been probed.
    """
    shown: dict[str, bool] = {}
    names = {name for _, name, _ in probes}
    worst, below, since = len(names), 0.0, None
    for moment, name, accepts in probes:
        shown[name] = accepts
        if len(shown) < len(names):
            continue
        count = sum(shown.values())
        worst = min(worst, count)
        if since is not None:
            below += moment - since
        since = moment if count < minimum else None
    return worst, below


class Watch:
    """Probes `hosts` from `world` until `end`."""

    def __init__(self, world: Host, hosts: Sequence[Host]) -> None:
        self.probes: list[tuple[float, str, bool]] = []
        self.ended = 0.0
        self._process = subprocess.Popen(
            world.podman.command(
                *("exec", "-i", world.place.container, "/usr/bin/python3", "-u", "-c", PROBER),
                *(host.address for host in hosts),
            ),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=world.podman.machine.env,
            start_new_session=True,
        )
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            address, begun, reply = line.split()
            self.probes.append((float(begun), address, reply == "220"))

    def end(self) -> list[tuple[float, str, bool]]:
        """End the probes; return all of them in the order in which they began."""
        self.ended = self.ended or time.monotonic()  # the containers' clock too
        if self._process.stdin is not None and not self._process.stdin.closed:
            self._process.stdin.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._thread.join(5)
        return sorted(self.probes)


def steady(probes: Sequence[tuple[float, str, bool]], ended: float) -> float:
    """The longest time without a probe of one of the hosts: a fall that lasts longer is certain to be seen."""
    last: dict[str, float] = {}
    longest = 0.0
    for moment, name, _ in probes:
        longest = max(longest, moment - last.get(name, moment))
        last[name] = moment
    return max(longest, *(ended - moment for moment in last.values()))
