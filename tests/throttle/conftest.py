"""A kernel with only the throttle's nft batches, a clock to set, and a host in a directory."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import strategies as st
from mf import decisions, state
from mf.throttle import control, firewall, lease, marker
from mf.throttle.lease import Lease

# what nft 1.0.6 on Debian 12 prints for our table, elements left out
TABLE: list[dict[str, Any]] = [
    {"metainfo": {"version": "1.0.6", "release_name": "Lester Gooch #5", "json_schema_version": 1}},
    {"table": {"family": "inet", "name": "mf", "handle": 1}},
    {
        "chain": {
            "family": "inet",
            "table": "mf",
            "name": "smtp_in",
            "handle": 2,
            "type": "filter",
            "hook": "input",
            "prio": -10,
            "policy": "accept",
        }
    },
]
SET = {
    "family": "inet",
    "name": "refused_ports",
    "table": "mf",
    "type": "inet_service",
    "handle": 1,
    "flags": ["timeout"],
}
RULES: list[dict[str, Any]] = [
    {
        "rule": {
            "family": "inet",
            "table": "mf",
            "chain": "smtp_in",
            "handle": 3,
            "comment": firewall.LOOPBACK,
            "expr": [],
        }
    },
    {
        "rule": {
            "family": "inet",
            "table": "mf",
            "chain": "smtp_in",
            "handle": 4,
            "comment": firewall.REFUSE,
            "expr": [],
        }
    },
]


class Clock:
    """Seconds since boot and of the epoch, apart from each other."""

    def __init__(self) -> None:
        self.boot = 5000.0
        self.epoch_offset = 1.7e9

    def now(self) -> float:
        return self.boot

    def epoch(self) -> float:
        return self.boot + self.epoch_offset

    def sleep(self, seconds: float) -> None:
        self.boot += seconds


class Kernel:
    """Stands for nft and what is behind it; ``broken`` is an error that every call raises, ``stuck`` every batch."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.table = False
        self.rules = False
        self.elements: dict[int, float | None] = {}
        self.broken: firewall.FirewallError | None = None
        self.stuck: firewall.FirewallError | None = None
        self.batches: list[str] = []

    @property
    def refused(self) -> list[int]:
        """Ports refused now."""
        if not (self.table and self.rules):
            return []
        return sorted(port for port, end in self.elements.items() if end is None or end > self.clock.boot)

    def flush_ruleset(self) -> None:
        self.table = self.rules = False
        self.elements = {}

    def run(self, command: list[str], script: str) -> bytes:
        assert command[0] == "/usr/sbin/nft"
        if self.broken:
            raise self.broken
        if command[1:] == ["-j", "list", "table", "inet", "mf"]:
            return self.listing()
        assert command[1:] == ["-f", "-"]
        if self.stuck:
            raise self.stuck
        self.batches.append(script)
        if "delete table" in script:
            self.flush_ruleset()
        if "add rule" in script:
            self.table = self.rules = True
        if "flush set" in script:
            self.elements = {}
        for line in re.findall(r"add element inet mf refused_ports { (.*) }", script):
            for element in line.split(", "):
                port, _, timeout = element.partition(" timeout ")
                self.elements[int(port)] = self.clock.boot + int(timeout.removesuffix("ms")) / 1000 if timeout else None
        return b""

    def listing(self) -> bytes:
        if not self.table:
            raise firewall.RefusedError("nft: Error: No such file or directory")
        elements: list[Any] = []
        for port in sorted(self.elements):
            end = self.elements[port]
            if end is None:
                elements.append(port)
            elif end > self.clock.boot:
                left = int(end - self.clock.boot)
                elements.append({"elem": {"val": port, "timeout": left + 1, "expires": left}})
        items = [*TABLE, {"set": {**SET, **({"elem": elements} if elements else {})}}, *(RULES if self.rules else [])]
        return json.dumps({"nftables": items}).encode()


class Host:
    """A host's directories, settings and kernel; ``peers`` is what its survey of the fleet finds (None: no peers)."""

    def __init__(
        self, root: Path, clock: Clock, name: str = "mx1", minimum: int = 0, ports: tuple[int, ...] = (25,)
    ) -> None:
        self.places = state.Places(str(root), str(root / "proc"))
        self.clock = clock
        self.kernel = Kernel(clock)
        self.settings: dict[str, Any] = {
            "generation": "0123456789ab",
            "host": name,
            "type": "mx",
            "checks": {
                "load": {
                    "period": 120,
                    "offset": 0,
                    "deadline": 20,
                    "high": 5.0,
                    "low": 4.0,
                    "mark": None,
                    "per_core": False,
                }
            },
            "throttle": {"ports": list(ports), "lease_ttl": 300},
            "fleet": {"min_accepting": minimum, "peers": []},
        }
        for folder in ("mf/etc", "mf/var/state", "mf/var/log", "run/mf/state", "proc"):
            (root / folder).mkdir(parents=True, exist_ok=True)
        self.root = root
        self.save()
        self.set_load(0.1)

    def save(self) -> None:
        (self.root / "mf/etc/mf.json").write_text(json.dumps(self.settings))

    def set_load(self, load: float) -> None:
        (self.root / "proc/loadavg").write_text(f"{load:.2f} {load:.2f} {load:.2f} 1/80 11206\n")
        (self.root / "proc/uptime").write_text("8123.40 9000.00\n")

    @property
    def marker(self) -> Path:
        return Path(self.places.marker)

    @property
    def disk(self) -> Path:
        return Path(self.places.persistent) / "leases.json"

    def reboot(self, seconds: float = 60) -> None:
        """/run is empty, the kernel has no table, the boot clock starts anew."""
        for path in sorted((self.root / "run/mf").rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
        self.kernel.flush_ruleset()
        epoch = self.clock.epoch() + seconds
        self.clock.boot = 12.0
        self.clock.epoch_offset = epoch - self.clock.boot

    def decisions(self) -> list[dict[str, Any]]:
        """The decision log."""
        path = Path(self.places.decisions)
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


DOWN = firewall.FirewallError("/usr/sbin/nft can't be run: it is missing; install the package nftables")


def controller(host: Host, **options: Any) -> control.Control:
    return control.Control(host.places, host.settings, epoch=host.clock.epoch, sleep=host.clock.sleep, **options)


def status(host: Host) -> marker.Status:
    return marker.current(host.places)


def sound(host: Host) -> None:
    """Marker, kernel and disk say the same."""
    now = status(host)
    assert host.kernel.refused == ([25] if now.should_refuse else [])
    assert now.refusing == now.should_refuse
    assert host.disk.exists() == any(held_lease.owner != "load" for held_lease in now.leases)
    assert host.marker.exists() == bool(now.leases)


def failing(monkeypatch: pytest.MonkeyPatch, where: str, error: int) -> None:
    real = state.write_atomic

    def write(path: str, data: bytes, mode: int = 0o644, *, durable: bool = False) -> None:
        if where in path:
            raise OSError(error, os.strerror(error))
        real(path, data, mode, durable=durable)

    monkeypatch.setattr(state, "write_atomic", write)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(state, "boottime", clock.now)
    return clock


@pytest.fixture
def host(tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> Host:
    host = Host(tmp_path, clock)
    monkeypatch.setattr(firewall, "_run", host.kernel.run)
    monkeypatch.setattr(decisions, "JOURNAL", str(tmp_path / "journal"))
    return host


def count_reads(host: Host, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A list that grows by one with each read of the marker."""
    reads: list[str] = []
    read_plain = state.read_plain

    def counted(path: str, limit: int = 65536) -> tuple[bytes | None, str]:
        if path == host.places.marker:
            reads.append(path)
        return read_plain(path, limit)

    monkeypatch.setattr(state, "read_plain", counted)
    return reads


NOW = 5000.0


owners = st.from_regex(r"[a-z][a-z0-9_.-]{0,31}", fullmatch=True).filter(lambda owner: owner != "load")


leases = st.builds(
    lease.make,
    owners,
    st.text(st.characters(categories=["L", "N", "P"]), max_size=60),
    st.just(NOW),
    st.none() | st.floats(1, 7 * 86400),
    st.booleans(),
)


def held(*some: Lease) -> tuple[Lease, ...]:
    held_leases: tuple[Lease, ...] = ()
    for new_lease in some:
        held_leases = lease.put(held_leases, new_lease, NOW)
    return held_leases


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
