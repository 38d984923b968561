"""Batch text and listings of nft; what the kernel makes of them is for molecule."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mf.throttle import firewall

from tests.throttle.conftest import Clock, Kernel

# printed by nft 1.0.6 on Debian 12
RECORDED = b"""{"nftables": [{"metainfo":
{"version": "1.0.6", "release_name": "Lester Gooch #5", "json_schema_version": 1}},
{"table": {"family": "inet", "name": "mf", "handle": 1}},
{"set":
{"family": "inet", "name": "refused_ports", "table": "mf", "type": "inet_service", "handle": 1, "flags": ["timeout"],
 "elem": [{"elem": {"val": 25, "timeout": 3, "expires": 2}}, 587]}},
{"chain":
{"family": "inet", "table": "mf", "name": "smtp_in", "handle": 2, "type": "filter", "hook": "input", "prio": -10,
 "policy": "accept"}},
{"rule":
{"family": "inet", "table": "mf", "chain": "smtp_in", "handle": 3, "comment": "mf: loopback is exempt", "expr": [
 {"match": {"op": "==", "left": {"meta": {"key": "iifname"}}, "right": "lo"}}, {"accept": null}]}},
{"rule":
{"family": "inet", "table": "mf", "chain": "smtp_in", "handle": 4, "comment": "mf: refuse new connections", "expr": [
 {"match": {"op": "==", "left": {"payload": {"protocol": "tcp", "field": "dport"}}, "right": "@refused_ports"}},
 {"reject": {"type": "tcp reset"}}]}}]}"""


def test_a_recorded_listing() -> None:
    ruleset = firewall.parse(RECORDED)
    assert (ruleset.whole, ruleset.ports) == (True, {25: 2.0, 587: None})
    assert ruleset.refuses([25, 587])
    assert not ruleset.refuses([25, 465])
    assert not ruleset.refuses([])


@pytest.mark.parametrize(
    ("good", "bad"),
    [
        (b"mf: refuse new connections", b"something else"),
        (b'"prio": -10', b'"prio": 10'),
        (b'"hook": "input"', b'"hook": "forward"'),
        (b'"policy": "accept"', b'"policy": "drop"'),
        (b'"inet_service"', b'"ipv4_addr"'),
        (b'"chain": "smtp_in", "handle": 4', b'"chain": "other", "handle": 4'),
    ],
)
def test_a_changed_table_is_not_whole(good: bytes, bad: bytes) -> None:
    assert good in RECORDED
    ruleset = firewall.parse(RECORDED.replace(good, bad))
    assert not ruleset.whole
    assert not ruleset.refuses([25])


@given(
    st.binary(max_size=80)
    | st.recursive(
        st.none() | st.integers() | st.text(),
        lambda it: (
            st.lists(it)
            | st.dictionaries(st.sampled_from(["nftables", "set", "elem", "rule", "chain", "name", "val"]), it)
        ),
    ).map(lambda it: json.dumps({"nftables": it}).encode())
)
def test_garbage_from_nft_is_an_error_or_nothing(listing: bytes) -> None:
    message, whole = "", False
    try:
        whole = firewall.parse(listing).whole
    except firewall.FirewallError as error:
        message = str(error)
    assert "\n" not in message
    assert not whole


def test_the_batch_states_everything_and_touches_nothing_else() -> None:
    lines = firewall.batch({587: None, 25: 299.5}).splitlines()
    assert lines[-2:] == [
        "flush set inet mf refused_ports",
        "add element inet mf refused_ports { 25 timeout 299500ms, 587 }",
    ]
    assert all(" inet mf" in line for line in lines)
    assert not any("flush ruleset" in line or "policy drop" in line for line in lines)
    assert 'iifname "lo" accept' in lines[4]
    assert "tcp flags & (fin|syn|rst|ack) == syn tcp dport @refused_ports reject with tcp reset" in lines[5]
    assert "ct state" not in "".join(lines)


def test_an_empty_batch_refuses_nothing() -> None:
    assert "add element" not in firewall.batch({})


def test_a_lease_that_has_almost_ended_still_gets_a_valid_timeout() -> None:
    assert "25 timeout 1ms" in firewall.batch({25: 0.0001})


def test_a_set_of_another_shape_is_replaced_in_one_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    scripts = []

    def once(command: list[str], script: str) -> bytes:
        scripts.append(script)
        if len(scripts) == 1:
            raise firewall.RefusedError("nft: Error: Could not process rule: File exists")
        return b""

    monkeypatch.setattr(firewall, "_run", once)
    firewall.apply({25: 60})
    assert scripts[1] == "add table inet mf\ndelete table inet mf\n" + scripts[0]


def test_no_table_is_no_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = Kernel(Clock())
    monkeypatch.setattr(firewall, "_run", kernel.run)
    assert firewall.read() == firewall.Table()


def script(tmp_path: Path, text: str) -> str:
    path = tmp_path / "nft"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


def test_errors_are_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(firewall, "NFT", script(tmp_path, r"printf 'Error: \033[31mno\nsecond line\n' >&2; exit 1"))
    with pytest.raises(firewall.RefusedError) as error:
        firewall.apply({25: 60})
    assert str(error.value) == r"nft: Error: \x1b[31mno"


def test_nft_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(firewall, "NFT", str(tmp_path / "none"))
    for call in (firewall.read, firewall.remove, lambda: firewall.apply({})):
        with pytest.raises(firewall.FirewallError, match="missing; install the package nftables"):
            call()


def test_nft_that_hangs_is_given_up_and_not_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = tmp_path / "log"
    monkeypatch.setattr(firewall, "NFT", script(tmp_path, f"echo call >> {log}; exec sleep 30"))
    monkeypatch.setattr(firewall, "TIMEOUT", 0.2)
    with pytest.raises(firewall.FirewallError, match="did not finish"):
        firewall.apply({25: 60})
    assert log.read_text() == "call\n"
