"""The throttle on a host with a stand-in kernel: on, off, the end of a lease, what can break."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from mf import claims, state
from mf.throttle import control, firewall, storage

from tests.throttle.conftest import DOWN, Clock, Host, controller, failing, sound, status

# --- on, off, expiry


def test_on_and_off(host: Host) -> None:
    outcome = controller(host).on("operator", "disk swap", 900)
    assert outcome.changed
    assert outcome.actions == [
        "operator takes a lease that refuses mail",
        "refuse new connections to port 25 for 15 min",
    ]
    assert status(host).describe() == "throttled, refusing new mail: operator (disk swap, 15 min left)"
    sound(host)
    outcome = controller(host).off("operator")
    assert outcome.actions == ["operator gives its lease back", "accept new connections again"]
    sound(host)
    assert [(entry["action"], entry["outcome"]) for entry in host.decisions()] == [
        ("throttle", "done"),
        ("release", "done"),
    ]


def test_the_marker_of_a_contract(host: Host) -> None:
    controller(host).on("operator", "disk swap", 900)
    assert json.loads(host.marker.read_text()) == {
        "leases": [{"owner": "operator", "reason": "disk swap", "since": 5000.0, "until": 5900.0, "refuse": True}],
        "refusing": True,
        "written": 5000.0,
    }
    assert host.marker.stat().st_mode & 0o777 == 0o644
    kept = json.loads(host.disk.read_text())
    assert kept["leases"][0]["until_epoch"] == 1.7e9 + 5900


def test_the_kernel_ends_a_refusal_without_renewal(host: Host) -> None:
    controller(host).on("load", "", 300)
    host.clock.sleep(299)
    assert host.kernel.refused == [25]
    host.clock.sleep(1)
    assert host.kernel.refused == []
    assert not status(host).throttled
    assert not status(host).refusing
    assert controller(host).reconcile().actions == ["the lease of load has ended"]
    sound(host)


def test_a_renewal_prolongs_and_is_no_change(host: Host) -> None:
    controller(host).on("load", "load 9", 300)
    for _ in range(200):
        host.clock.sleep(120)
        assert not controller(host).on("load", "load 9.1", 300).changed
        assert host.kernel.refused == [25]
    assert len(host.decisions()) == 1
    host.clock.sleep(299)
    assert host.kernel.refused == [25]


def test_a_hold_has_no_end(host: Host) -> None:
    controller(host).on("deploy", "gate", None)
    host.clock.sleep(400 * 86400)
    assert host.kernel.refused == [25]
    assert status(host).held
    controller(host).off("deploy")
    sound(host)


def test_a_lease_that_only_marks(host: Host) -> None:
    controller(host).on("backup", "", 60, refuse=False)
    assert status(host).throttled
    assert not status(host).refusing
    sound(host)


def test_owners_do_not_disturb_each_other(host: Host) -> None:
    controller(host).on("a", "", 60)
    controller(host).on("b", "", 600, refuse=False)
    controller(host).on("c", "", 90)
    host.clock.sleep(70)
    assert [lease.owner for lease in status(host).leases] == ["b", "c"]
    assert host.kernel.refused == [25]
    controller(host).off("c")
    assert host.kernel.refused == []
    assert status(host).throttled


def test_a_host_without_smtp_is_only_marked(tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    host = Host(tmp_path, clock, ports=())
    monkeypatch.setattr(firewall, "_run", lambda *_: pytest.fail("nft has no business here"))
    outcome = controller(host).on("load", "load 9", 300)
    assert outcome.after.throttled
    assert not outcome.after.wrong


def test_nonsense_changes_nothing(host: Host) -> None:
    for owner, reason, ttl in (("Bob", "", 60.0), ("a", "x\ny", 60.0), ("a", "", -5.0)):
        with pytest.raises(claims.LeaseError):
            controller(host).on(owner, reason, ttl)
    assert not host.marker.exists()
    assert not host.kernel.batches


def test_a_dry_run_prints_its_plan_and_changes_nothing(host: Host) -> None:
    before = sorted(path for path in host.root.rglob("*"))
    outcome = controller(host, dry_run=True).on("operator", "", 60)
    assert outcome.actions == ["operator takes a lease that refuses mail", "refuse new connections to port 25 for 60 s"]
    assert sorted(path for path in host.root.rglob("*")) == before
    assert not host.kernel.batches
    controller(host).on("operator", "", 60)
    text = host.marker.read_text()
    assert controller(host, dry_run=True).off("operator").actions == [
        "operator gives its lease back",
        "accept new connections again",
    ]
    assert host.marker.read_text() == text


# --- what can break


def test_nft_missing_leaves_the_marker(host: Host) -> None:
    host.kernel.broken = DOWN
    outcome = controller(host).on("load", "load 9", 300)
    assert status(host).throttled
    assert outcome.after.wrong
    assert outcome.warnings == [str(DOWN)]
    assert host.decisions()[-1]["outcome"] == "failed"
    host.kernel.broken = None
    controller(host).reconcile()
    sound(host)


def test_an_off_that_the_firewall_fails_is_reported_and_repeated(host: Host) -> None:
    controller(host).on("operator", "", None)
    host.kernel.stuck = DOWN
    outcome = controller(host).off("operator")
    assert outcome.after.wrong
    assert status(host).describe() == "not throttled, but STILL refusing new mail"
    host.kernel.stuck = None
    assert controller(host).reconcile().actions == ["accept new connections again"]
    sound(host)


@pytest.mark.parametrize("error", [28, 30])
def test_a_full_or_read_only_disk_still_throttles(host: Host, monkeypatch: pytest.MonkeyPatch, error: int) -> None:
    failing(monkeypatch, "/mf/var/", error)
    outcome = controller(host).on("operator", "", 900)
    assert host.kernel.refused == [25]
    assert len(outcome.warnings) == 1
    assert "won't survive a reboot" in outcome.warnings[0]


def test_a_lease_that_cannot_be_removed_from_disk_does_not_come_back(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    controller(host).on("operator", "", 900)

    def read_only(path: str) -> None:
        if "/mf/var/" in path:
            raise OSError(30, os.strerror(30))
        os.unlink(path)

    monkeypatch.setattr(storage, "_unlink", read_only)
    assert "a reboot would put the lease back" in controller(host).off("operator").warnings[0]
    controller(host).reconcile()
    assert not status(host).throttled
    assert host.kernel.refused == []


@pytest.mark.parametrize("other", ["load", "backup"])
def test_a_hold_given_back_on_a_full_tmpfs_does_not_come_back(
    host: Host, monkeypatch: pytest.MonkeyPatch, other: str
) -> None:
    controller(host).on(other, "", 900, refuse=False)
    controller(host).on("deploy", "gate", None)
    failing(monkeypatch, "/run/mf/", 28)
    assert not controller(host).off("deploy").unmarked
    monkeypatch.undo()
    monkeypatch.setattr(state, "boottime", host.clock.now)
    monkeypatch.setattr(firewall, "_run", host.kernel.run)
    controller(host).reconcile()
    assert [lease.owner for lease in status(host).leases] == [other]
    assert host.kernel.refused == []
    sound(host)


def test_a_full_tmpfs_takes_a_marker_that_fits_into_the_old_one(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    controller(host).on("a", "", 900)
    failing(monkeypatch, "/run/mf/", 28)
    assert not controller(host).on("b", "", 900).unmarked
    assert [lease.owner for lease in status(host).leases] == ["a", "b"]
    for number in range(20):
        outcome = controller(host).on(f"c{number}", "x" * 200, 900)
    assert outcome.unmarked
    # what didn't fit has left a whole marker behind
    assert [lease.owner for lease in status(host).leases][:2] == ["a", "b"]


def test_a_spoilt_marker_that_fills_the_tmpfs_makes_room(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    host.marker.parent.mkdir(parents=True, exist_ok=True)
    host.marker.write_bytes(b"x" * 200_000)
    real = state.write_atomic

    def full(path: str, *arguments: Any, **options: Any) -> None:
        if path == host.places.marker and host.marker.exists() and host.marker.stat().st_size > 100_000:
            raise OSError(28, "No space left on device")
        real(path, *arguments, **options)

    monkeypatch.setattr(state, "write_atomic", full)
    assert not controller(host).on("operator", "", 900).unmarked
    assert [lease.owner for lease in status(host).leases] == ["operator"]
    sound(host)


def test_only_a_plain_marker_is_written_in_its_place(host: Host) -> None:
    os.mkfifo(host.marker)
    with pytest.raises(OSError, match=r"No space left|No such device"):
        storage._overwrite(str(host.marker), b"x")


def test_without_a_marker_the_firewall_still_works(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    failing(monkeypatch, "/run/mf/throttled", 28)
    outcome = controller(host).on("operator", "", 900)
    assert host.kernel.refused == [25]
    assert any("can't be written" in warning for warning in outcome.warnings)


def test_another_command_holds_the_lock(host: Host) -> None:
    with host.places.lock(control.LOCK), pytest.raises(control.ThrottleError, match="try again"):
        controller(host, patience=0.1).on("operator", "", 60)
