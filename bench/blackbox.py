"""Debian's blackbox_exporter beside the monitor's prober, and what starts and awaits servers on loopback."""

from __future__ import annotations

import contextlib
import http.client
import os
import socket
import subprocess
import threading
import time
from pathlib import Path

BLACKBOX = "prometheus-blackbox-exporter"
MODULE = r"""
modules:
  smtp:
    prober: tcp
    timeout: 10s
    tcp:
      query_response:
        - expect: "^220 "
        - send: "EHLO prober\r"
        - expect: "^250 "
        - send: "MAIL FROM:<>\r"
        - expect: "^250 "
        - send: "RCPT TO:<canary@target.invalid>\r"
        - expect: "^250 "
        - send: "DATA\r"
        - expect: "^354 "
        - send: "Subject: bench\r\n\r\nbench\r\n.\r"
        - expect: "^250 "
        - send: "QUIT\r"
        - expect: "^221 "
"""


def free_ports(count: int) -> list[int]:
    """Ports without a listener."""
    held = [socket.socket() for _ in range(count)]
    for listener in held:
        listener.bind(("127.0.0.1", 0))
    ports = [listener.getsockname()[1] for listener in held]
    for listener in held:
        listener.close()
    return ports


def wait_for(port: int, place: str = "127.0.0.1") -> None:
    """Wait until a server listens there."""
    give_up = time.monotonic() + 20
    while time.monotonic() < give_up:
        with contextlib.suppress(OSError), socket.create_connection((place, port), 1):
            return
        time.sleep(0.05)
    raise TimeoutError(f"no listener on port {port}")


def cpu_of(pid: int) -> float:
    """CPU seconds of a process so far, user and system (proc(5))."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Blackbox:
    """A blackbox_exporter on one core, and callers on another."""

    def __init__(self, folder: Path) -> None:
        self.port = free_ports(1)[0]
        configuration = folder / "blackbox.yml"
        configuration.write_text(MODULE)
        message = [BLACKBOX, f"--config.file={configuration}", f"--web.listen-address=127.0.0.1:{self.port}"]
        self.process = subprocess.Popen(
            ["taskset", "-c", "0", *message, "--log.level=error"],
            env={**os.environ, "GOMAXPROCS": "1"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        wait_for(self.port)

    def hold(self, port: int, count: int, at_once: int) -> tuple[int, float, float]:
        """Good dialogues, wall seconds and CPU seconds of blackbox_exporter."""
        good, left, guard = 0, count, threading.Lock()

        def walk() -> None:
            nonlocal good, left
            line = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
            while True:
                with guard:
                    if left <= 0:
                        break
                    left -= 1
                line.request("GET", f"/probe?module=smtp&target=127.0.0.1:{port}")
                answer = line.getresponse().read()
                with guard:
                    good += b"probe_success 1" in answer
            line.close()

        started, before = time.perf_counter(), cpu_of(self.process.pid)
        walkers = [threading.Thread(target=walk) for _ in range(at_once)]
        for walker in walkers:
            walker.start()
        for walker in walkers:
            walker.join()
        return good, time.perf_counter() - started, cpu_of(self.process.pid) - before

    def stop(self) -> None:
        """End it."""
        self.process.terminate()
        self.process.wait(10)
