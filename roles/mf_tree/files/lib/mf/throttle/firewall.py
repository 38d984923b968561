"""Refusing new SMTP connections with nftables, in table ``inet mf`` and nowhere else.

The ports to refuse lie in a set whose elements have timeouts, so the kernel itself ends a refusal that is not
renewed. Every change is one atomic ``nft -f -`` batch that states the whole table and flushes and refills the set: the
kernel carries out all of it or none, at once. That renews a timeout (re-adding an element need not, depending on the
kernel), doesn't stumble over an element that has just expired (a bare ``delete`` would), and mends a table that
another program changed. The chain runs before the usual filter chains (priority -10) and only rejects or passes:
``accept`` in one base chain doesn't overrule another's drop (man nft), so rules of ufw, firewalld and Docker still
apply.

A new connection is recognised by its TCP flags, not by connection tracking, which may lack sessions older than itself;
a session under way is never cut. Loopback alone is exempt.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from .. import Failure, state, text

NFT = "/usr/sbin/nft"  # cron's PATH has no sbin
SAME = 2.0  # seconds two deadlines may differ and still be the same (nft lists whole seconds)
TIMEOUT = 5.0  # seconds nft may take; two such fit into a check's deadline
LOOPBACK, REFUSE = "mf: loopback is exempt", "mf: refuse new connections"

_REJECT = f'reject with tcp reset comment "{REFUSE}"'
_TABLE = f"""\
add table inet mf
add set inet mf refused_ports {{ type inet_service; flags timeout; }}
add chain inet mf smtp_in {{ type filter hook input priority filter - 10; policy accept; }}
flush chain inet mf smtp_in
add rule inet mf smtp_in iifname "lo" accept comment "{LOOPBACK}"
add rule inet mf smtp_in tcp flags & (fin|syn|rst|ack) == syn tcp dport @refused_ports {_REJECT}
flush set inet mf refused_ports
"""
_REMOVE = "add table inet mf\ndelete table inet mf\n"


class FirewallError(Failure):
    """nft is missing or refused. Its text is one line."""


class RefusedError(FirewallError):
    """nft ran and failed."""


@dataclass(frozen=True)
class Table:
    """The table in the kernel: ``ports`` maps each refused port to its seconds left (None: no end); ``whole``: table,
    set, chain and both rules are as ``batch`` makes them (otherwise nothing is refused)."""

    whole: bool = False
    ports: Mapping[int, float | None] = field(default_factory=dict)

    def refuses(self, wanted: Iterable[int]) -> bool:
        """Whether every one of these ports is refused now (False for none)."""
        ports = list(wanted)
        return self.whole and bool(ports) and all(port in self.ports for port in ports)

    def agrees(self, refused: Mapping[int, float | None]) -> bool:
        """Whether exactly these ports are refused, each for the right time."""
        if not refused:
            return not self.ports
        if not self.whole or set(self.ports) != set(refused):
            return False
        pairs = [(self.ports[port], seconds) for port, seconds in refused.items()]
        return all((left is None) == (seconds is None) for left, seconds in pairs) and all(
            abs((left or 0) - (seconds or 0)) <= SAME for left, seconds in pairs
        )


def batch(refused: Mapping[int, float | None]) -> str:
    """The nft batch after which exactly these ports are refused, each for that many seconds (None: no end)."""
    elements = [
        f"{int(port)}" if seconds is None else f"{int(port)} timeout {max(1, round(seconds * 1000))}ms"
        for port, seconds in sorted(refused.items())
    ]
    return _TABLE + (f"add element inet mf refused_ports {{ {', '.join(elements)} }}\n" if elements else "")


def apply(refused: Mapping[int, float | None]) -> None:
    """Refuse exactly these ports from now on. Raises FirewallError; the kernel's table is then unchanged."""
    try:
        _run([NFT, "-f", "-"], batch(refused))
    except RefusedError:
        # a set or chain of another shape under our name: start again from nothing, still in one batch
        _run([NFT, "-f", "-"], _REMOVE + batch(refused))


def remove() -> None:
    """Delete the table, with everything in it. Raises FirewallError."""
    _run([NFT, "-f", "-"], _REMOVE)


def read() -> Table:
    """The table in force. Raises FirewallError."""
    try:
        return parse(_run([NFT, "-j", "list", "table", "inet", "mf"], ""))
    except RefusedError as error:
        if "No such file or directory" in str(error):
            return Table()
        raise


def parse(listing: bytes) -> Table:
    """The table in the output of ``nft -j list table inet mf``. Raises FirewallError when that isn't one."""
    answer = state.decode(listing)
    items = answer.get("nftables") if answer is not None else None
    if not isinstance(items, list):
        raise FirewallError("nft gave no JSON; is the package nftables complete?")
    hooked = timed = False
    ports: dict[int, float | None] = {}
    comments = []
    for item in items:
        if not isinstance(item, dict):
            continue
        part = item.get("set")
        if isinstance(part, dict) and part.get("name") == "refused_ports":
            flags = part.get("flags")
            timed = part.get("type") == "inet_service" and flags in ("timeout", ["timeout"])
            ports = dict(_elements(part.get("elem")))
        part = item.get("chain")
        if isinstance(part, dict) and part.get("name") == "smtp_in":
            hooked = (part.get("hook"), part.get("prio"), part.get("policy")) == ("input", -10, "accept")
        part = item.get("rule")
        if isinstance(part, dict) and part.get("chain") == "smtp_in":
            comments.append(part.get("comment"))
    return Table(hooked and timed and comments == [LOOPBACK, REFUSE], ports)


def _elements(listed: object) -> Iterable[tuple[int, float | None]]:
    for item in listed if isinstance(listed, list) else []:
        inner = item.get("elem") if isinstance(item, dict) else None
        if isinstance(inner, dict) and isinstance(inner.get("val"), int):
            left = inner.get("expires", inner.get("timeout"))
            yield inner["val"], float(left) if isinstance(left, (int, float)) else None
        elif isinstance(item, int):
            yield item, None


def _run(command: list[str], script: str) -> bytes:
    try:
        done = subprocess.run(
            command, input=script.encode(), capture_output=True, timeout=TIMEOUT, check=False, env={"LC_ALL": "C"}
        )
    except FileNotFoundError:
        raise FirewallError(f"{command[0]} can't be run: it is missing; install the package nftables") from None
    except OSError as error:
        raise FirewallError(f"{command[0]} can't be run: {error.strerror}") from None
    except subprocess.TimeoutExpired:
        raise FirewallError(f"nft did not finish within {TIMEOUT:g} s") from None
    if done.returncode:
        first = done.stderr.decode(errors="replace").strip().splitlines()
        raise RefusedError(f"nft: {text.clean(first[0] if first else f'exit code {done.returncode}', 160)}")
    return done.stdout
