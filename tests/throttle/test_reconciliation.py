"""Marker, firewall and disk that differ: damaged, deleted, flushed, killed in between, booted."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mf import decisions, state
from mf.throttle import firewall, storage

from tests.throttle.conftest import DOWN, Clock, Host, controller, sound, status


def test_nft_flushed(host: Host) -> None:
    controller(host).on("operator", "", 900)
    host.clock.sleep(100)
    host.kernel.flush_ruleset()
    assert controller(host).reconcile().actions == ["refuse new connections to port 25 for 13 min"]
    sound(host)
    host.clock.sleep(799)
    assert host.kernel.refused == [25]
    host.clock.sleep(1)
    assert host.kernel.refused == []


def test_rules_flushed(host: Host) -> None:
    controller(host).on("operator", "", 900)
    host.kernel.rules = False
    controller(host).reconcile()
    sound(host)


def test_firewall_refuses_without_any_lease(host: Host) -> None:
    host.kernel.table = host.kernel.rules = True
    host.kernel.elements = {25: None, 587: host.clock.boot + 50}
    assert controller(host).reconcile().actions == ["accept new connections again"]
    assert not host.kernel.elements


def test_marker_deleted(host: Host) -> None:
    controller(host).on("operator", "r", 900)
    controller(host).on("load", "", 300)
    host.marker.unlink()
    host.clock.sleep(10)
    outcome = controller(host).reconcile()
    assert "put back the leases of operator" in outcome.actions
    assert [(lease.owner, lease.until) for lease in status(host).leases] == [("operator", 5900.0)]
    sound(host)


def garbage(path: Path) -> None:
    path.write_bytes(os.urandom(3000))


def huge(path: Path) -> None:
    path.write_bytes(b'{"leases": [' + b" " * (2 << 20) + b'], "refusing": false}')


def symlink(path: Path) -> None:
    victim = path.parent / "victim"
    victim.write_text("precious")
    path.unlink()
    path.symlink_to(victim)


def dangling(path: Path) -> None:
    path.unlink()
    path.symlink_to("/nonexistent/x")


def fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def folder(path: Path) -> None:
    path.unlink()
    path.mkdir()
    (path / "x").write_text("")


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:40])


DAMAGES = [garbage, huge, symlink, dangling, fifo, folder, truncated]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_marker_counts_as_absent_and_is_repaired(host: Host, damage: Callable[[Path], None]) -> None:
    controller(host).on("operator", "r", 900)
    damage(host.marker)
    assert not status(host).throttled
    outcome = controller(host).reconcile()
    assert any("replace the marker" in action for action in outcome.actions)
    assert [lease.owner for lease in status(host).leases] == ["operator"]
    assert not host.marker.is_symlink()
    sound(host)
    victim = host.marker.parent / "victim"
    assert not victim.exists() or victim.read_text() == "precious"


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_on_disk_is_replaced(host: Host, damage: Callable[[Path], None]) -> None:
    controller(host).on("operator", "r", 900)
    damage(host.disk)
    controller(host).reconcile()
    assert [record["owner"] for record in json.loads(host.disk.read_text())["leases"]] == ["operator"]
    damage(host.disk)
    controller(host).off("operator")
    sound(host)


@pytest.mark.parametrize("damage", DAMAGES)
def test_both_damaged_is_no_lease_and_mail_flows(host: Host, damage: Callable[[Path], None]) -> None:
    controller(host).on("operator", "r", 900)
    damage(host.disk)
    damage(host.marker)
    controller(host).reconcile()
    assert host.kernel.refused == []
    sound(host)


def test_a_reboot_puts_back_an_operators_lease(host: Host) -> None:
    controller(host).on("operator", "disk swap", 900)
    controller(host).on("load", "", 300)
    controller(host).on("deploy", "gate", None)
    host.reboot(seconds=100)
    outcome = controller(host).reconcile(ensure_table=True)
    assert [(lease.owner, lease.left(12.0)) for lease in outcome.after.leases] == [
        ("deploy", None),
        ("operator", pytest.approx(800)),
    ]
    sound(host)


def test_reboot_later_than_the_lease(host: Host) -> None:
    controller(host).on("operator", "", 900)
    host.reboot(seconds=901)
    controller(host).reconcile(ensure_table=True)
    assert host.kernel.table
    sound(host)


@pytest.mark.parametrize("step", [-86400, 86400])
def test_a_clock_step_changes_nothing(host: Host, step: float) -> None:
    controller(host).on("operator", "", 900)
    host.clock.epoch_offset += step
    assert not controller(host).reconcile().changed
    assert status(host).leases[0].left(host.clock.boot) == 900
    # not even when the marker is lost in that very moment, or the host reboots after one read
    host.marker.unlink()
    controller(host).reconcile()
    assert status(host).leases[0].left(host.clock.boot) == 900
    host.reboot(seconds=100)
    controller(host).reconcile()
    assert status(host).leases[0].left(host.clock.boot) == pytest.approx(800)


class KilledError(BaseException):
    """SIGKILL: nothing after it runs."""


@pytest.mark.parametrize("call", range(12))
@pytest.mark.parametrize("verb", ["on", "off"])
def test_killed_anywhere_the_next_run_completes_it(
    host: Host, monkeypatch: pytest.MonkeyPatch, verb: str, call: int
) -> None:
    """Dies before the n-th write, removal or nft call; then check-load reconciles."""
    if verb == "off":
        controller(host).on("operator", "", 900)
    calls = 0
    # the originals, for each is replaced below
    parts: list[tuple[Any, str, Any]] = [
        (storage, "_replace", storage._replace),
        (storage, "_unlink", storage._unlink),
        (firewall, "_run", firewall._run),
    ]

    def dying(function: Callable[..., Any]) -> Callable[..., Any]:
        def wrapper(*arguments: Any, **options: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls > call:
                raise KilledError
            return function(*arguments, **options)

        return wrapper

    for module, name, function in parts:
        monkeypatch.setattr(module, name, dying(function))
    died = False
    try:
        controller(host).on("operator", "", 900) if verb == "on" else controller(host).off("operator")
    except KilledError:
        died = True
    for module, name, function in parts:
        monkeypatch.setattr(module, name, function)
    controller(host).reconcile()
    sound(host)
    asked = [lease.owner for lease in status(host).leases] == (["operator"] if verb == "on" else [])
    # before the marker was written nothing had been promised; afterwards it is kept
    assert asked or (died and call == 0)


steps = st.lists(
    st.one_of(
        st.tuples(
            st.just("on"), st.sampled_from(["a", "b", "load"]), st.sampled_from([30.0, 300.0, None]), st.booleans()
        ),
        st.tuples(st.just("off"), st.sampled_from(["a", "b", "load"])),
        st.tuples(st.just("sleep"), st.sampled_from([1.0, 29.0, 31.0, 400.0])),
        st.tuples(st.sampled_from(["flush", "unmark", "garble", "reboot", "stuck", "step", "reconcile"])),
    ),
    max_size=12,
)


@settings(max_examples=200)
@given(steps)
def test_one_reconcile_mends_any_state(tmp_path_factory: pytest.TempPathFactory, plan: Sequence[Any]) -> None:
    clock = Clock()
    host = Host(tmp_path_factory.mktemp("host"), clock)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(state, "boottime", clock.now)
        patch.setattr(firewall, "_run", host.kernel.run)
        patch.setattr(decisions, "JOURNAL", "/nonexistent")
        for step in plan:
            match step:
                case ("on", owner, ttl, refuse):
                    controller(host).on(owner, "", ttl, refuse=refuse)
                case ("off", owner):
                    controller(host).off(owner)
                case ("sleep", seconds):
                    clock.sleep(seconds)
                case ("flush",):
                    host.kernel.flush_ruleset()
                case ("unmark",):
                    host.marker.unlink(missing_ok=True)
                case ("garble",):
                    host.marker.write_bytes(b'{"leases": [{"owner": 3')
                case ("reboot",):
                    host.reboot()
                case ("stuck",):
                    host.kernel.stuck = None if host.kernel.stuck else DOWN
                case ("step",):
                    clock.epoch_offset += 86400
                case _:
                    controller(host).reconcile()
            # whatever is broken, the kernel never refuses longer than some lease said, holds apart
            assert all(end is None or end <= clock.boot + 300 for end in host.kernel.elements.values())
        host.kernel.stuck = None
        controller(host).reconcile()
        sound(host)
