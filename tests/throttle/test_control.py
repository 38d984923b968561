"""The throttle on a host with a stand-in kernel: order, reconciliation both ways, persistence, budget, commands."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mf import claims, decisions, state
from mf.command import throttle as command
from mf.throttle import control, firewall, marker, storage
from mf.throttle.budget import SPREAD, settle
from mf.throttle.peers import Survey
from throttle_support import Clock, Host

DOWN = firewall.FirewallError("/usr/sbin/nft can't be run: it is missing; install the package nftables")


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


def controller(host: Host, **options: Any) -> control.Control:
    return control.Control(host.places, host.settings, epoch=host.clock.epoch, sleep=host.clock.sleep, **options)


def status(host: Host) -> marker.Status:
    return marker.current(host.places)


def sound(host: Host) -> None:
    """Marker, kernel and disk say the same."""
    now = status(host)
    assert host.kernel.refused == ([25] if now.should_refuse else [])
    assert now.refusing == now.should_refuse
    assert host.disk.exists() == any(one.owner != "load" for one in now.leases)
    assert host.marker.exists() == bool(now.leases)


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
    assert [(one["action"], one["outcome"]) for one in host.decisions()] == [("throttle", "done"), ("release", "done")]


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


def test_the_kernel_ends_it_when_nobody_renews(host: Host) -> None:
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
    assert [one.owner for one in status(host).leases] == ["b", "c"]
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


def test_dry_run_says_what_it_would_do_and_does_nothing(host: Host) -> None:
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


# --- reconciliation


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
    assert [(one.owner, one.until) for one in status(host).leases] == [("operator", 5900.0)]
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
    assert [one.owner for one in status(host).leases] == ["operator"]
    assert not host.marker.is_symlink()
    sound(host)
    victim = host.marker.parent / "victim"
    assert not victim.exists() or victim.read_text() == "precious"


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_on_disk_is_replaced(host: Host, damage: Callable[[Path], None]) -> None:
    controller(host).on("operator", "r", 900)
    damage(host.disk)
    controller(host).reconcile()
    assert [one["owner"] for one in json.loads(host.disk.read_text())["leases"]] == ["operator"]
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


def test_reboot_puts_back_what_an_operator_asked_for(host: Host) -> None:
    controller(host).on("operator", "disk swap", 900)
    controller(host).on("load", "", 300)
    controller(host).on("deploy", "gate", None)
    host.reboot(seconds=100)
    outcome = controller(host).reconcile(ensure_table=True)
    assert [(one.owner, one.left(12.0)) for one in outcome.after.leases] == [
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
    asked = [one.owner for one in status(host).leases] == (["operator"] if verb == "on" else [])
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
def test_whatever_happens_one_look_makes_it_sound(
    tmp_path_factory: pytest.TempPathFactory, plan: Sequence[Any]
) -> None:
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


def test_off_that_the_firewall_does_not_hear_is_told_and_tried_again(host: Host) -> None:
    controller(host).on("operator", "", None)
    host.kernel.stuck = DOWN
    outcome = controller(host).off("operator")
    assert outcome.after.wrong
    assert status(host).describe() == "not throttled, but STILL refusing new mail"
    host.kernel.stuck = None
    assert controller(host).reconcile().actions == ["accept new connections again"]
    sound(host)


def failing(monkeypatch: pytest.MonkeyPatch, where: str, error: int) -> None:
    real = state.write_atomic

    def write(path: str, data: bytes, mode: int = 0o644, *, durable: bool = False) -> None:
        if where in path:
            raise OSError(error, os.strerror(error))
        real(path, data, mode, durable=durable)

    monkeypatch.setattr(state, "write_atomic", write)


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
    assert [one.owner for one in status(host).leases] == [other]
    assert host.kernel.refused == []
    sound(host)


def test_a_full_tmpfs_takes_what_fits_into_the_old_marker(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    controller(host).on("a", "", 900)
    failing(monkeypatch, "/run/mf/", 28)
    assert not controller(host).on("b", "", 900).unmarked
    assert [one.owner for one in status(host).leases] == ["a", "b"]
    for number in range(20):
        outcome = controller(host).on(f"c{number}", "x" * 200, 900)
    assert outcome.unmarked
    # what didn't fit has left a whole marker behind
    assert [one.owner for one in status(host).leases][:2] == ["a", "b"]


def test_a_spoilt_marker_that_fills_the_tmpfs_makes_room(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    host.marker.parent.mkdir(parents=True, exist_ok=True)
    host.marker.write_bytes(b"x" * 200_000)
    real = state.write_atomic

    def full(path: str, *words: Any, **options: Any) -> None:
        if path == host.places.marker and host.marker.exists() and host.marker.stat().st_size > 100_000:
            raise OSError(28, "No space left on device")
        real(path, *words, **options)

    monkeypatch.setattr(state, "write_atomic", full)
    assert not controller(host).on("operator", "", 900).unmarked
    assert [one.owner for one in status(host).leases] == ["operator"]
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


def test_somebody_else_at_work(host: Host) -> None:
    with host.places.lock(control.LOCK), pytest.raises(control.ThrottleError, match="try again"):
        controller(host, patience=0.1).on("operator", "", 60)


# --- the fleet's budget


class Fleet:
    """Peers as one host sees them: the surveys it gets, in order; the last one stays."""

    def __init__(self, *surveys: Collection[str], total: int = 2) -> None:
        self.surveys = list(surveys)
        self.total = total
        self.asked = 0

    def survey(self, fleet: Any, only: Collection[str] | None = None) -> Survey:
        self.asked += 1
        seen = self.surveys.pop(0) if len(self.surveys) > 1 else self.surveys[0]
        return Survey(self.total, [f"mx{number}" for number in range(2, self.total + 2)], seen)


BOTH, ONE, NOBODY = ("mx2", "mx3"), ("mx3",), ()


@pytest.fixture
def member(host: Host) -> Host:
    host.settings["fleet"]["min_accepting"] = 2
    return host


def test_budget_left(member: Host) -> None:
    fleet = Fleet(BOTH)
    start = member.clock.boot
    outcome = controller(member, survey=fleet.survey).on("load", "load 9", 300, mark_instead=True)
    assert outcome.after.refusing
    assert fleet.asked == 2
    assert member.clock.boot - start == settle({})


def test_load_waits_for_its_turn_and_a_renewal_does_not(member: Host) -> None:
    member.settings["host"] = "mx2"
    member.settings["fleet"]["peers"] = [{"name": name, "address": "192.0.2.1", "port": 25} for name in ("mx3", "mx1")]
    fleet = Fleet(BOTH)
    start = member.clock.boot
    controller(member, survey=fleet.survey).on("load", "load 9", 300, mark_instead=True)
    assert member.clock.boot - start == pytest.approx(SPREAD / 3 + settle({}))
    start = member.clock.boot
    controller(member, survey=fleet.survey).on("load", "load 9", 300, mark_instead=True)
    assert member.clock.boot == start


def test_over_budget_load_only_marks(member: Host) -> None:
    outcome = controller(member, survey=Fleet(ONE).survey).on("load", "load 9", 300, mark_instead=True)
    assert outcome.after.throttled
    assert not outcome.after.refusing
    assert outcome.over_budget == "over budget: 1 of 2 peers accept mail; 2 must"
    assert not member.kernel.batches


def test_over_budget_an_operator_is_told_and_nothing_changes(member: Host) -> None:
    with pytest.raises(control.OverBudgetError, match="--force"):
        controller(member, survey=Fleet(ONE).survey).on("operator", "", 900)
    assert not member.marker.exists()


@pytest.mark.parametrize("surveys", [(ONE,), (BOTH, ONE, ONE)])
def test_over_budget_an_operators_own_mark_stays_as_it_was(member: Host, surveys: tuple[Any, ...]) -> None:
    controller(member, survey=Fleet(NOBODY).survey).on("operator", "disk swap", 900, refuse=False)
    before = marker.current(member.places).leases
    with pytest.raises(control.OverBudgetError):
        controller(member, survey=Fleet(*surveys).survey).on("operator", "all of it", 60)
    assert [(one.owner, one.reason, one.refuse, one.until) for one in marker.current(member.places).leases] == [
        (one.owner, one.reason, one.refuse, one.until) for one in before
    ]
    assert member.kernel.refused == []
    sound(member)


@pytest.mark.parametrize("options", [{"force": True, "ttl": 900.0}, {"ttl": None}, {"refuse": False, "ttl": 900.0}])
def test_force_a_hold_and_a_mere_mark_ask_nobody(member: Host, options: dict[str, Any]) -> None:
    fleet = Fleet(NOBODY)
    controller(member, survey=fleet.survey).on("operator", "", **options)
    assert fleet.asked == 0


def test_two_at_once_the_lower_rank_yields(member: Host) -> None:
    fleet = Fleet(BOTH, ONE)
    outcome = controller(member, survey=fleet.survey).on("load", "load 9", 300, mark_instead=True)
    assert outcome.over_budget
    assert member.kernel.refused == []
    assert status(member).throttled
    sound(member)


def test_two_at_once_the_higher_rank_stays_when_the_other_has_yielded(member: Host) -> None:
    member.settings["host"] = "mx9"
    fleet = Fleet(BOTH, ONE, BOTH)
    assert controller(member, survey=fleet.survey).on("load", "load 9", 300, mark_instead=True).after.refusing
    assert fleet.asked == 3


def test_the_higher_rank_yields_when_the_other_has_died(member: Host) -> None:
    member.settings["host"] = "mx9"
    outcome = controller(member, survey=Fleet(BOTH, ONE, ONE).survey).on("load", "load 9", 300, mark_instead=True)
    assert outcome.over_budget
    assert member.kernel.refused == []


def test_an_operator_that_yields_gives_the_lease_back(member: Host) -> None:
    with pytest.raises(control.OverBudgetError):
        controller(member, survey=Fleet(BOTH, ONE).survey).on("operator", "", 900)
    sound(member)
    assert not status(member).throttled


def test_a_renewal_by_load_looks_once_and_yields_whatever_its_rank(member: Host) -> None:
    member.settings["host"] = "mx9"
    controller(member, survey=Fleet(BOTH).survey).on("load", "load 9", 300, mark_instead=True)
    fleet = Fleet(BOTH)
    controller(member, survey=fleet.survey).on("load", "load 9", 300, mark_instead=True)
    assert fleet.asked == 1
    outcome = controller(member, survey=Fleet(ONE).survey).on("load", "load 9", 300, mark_instead=True)
    assert outcome.over_budget
    assert member.kernel.refused == []


# --- the command


def run(host: Host, *words: str) -> int:
    try:
        return command.main(list(words), host.places)
    except SystemExit as ended:
        return int(str(ended.code))


def test_command_on_status_off(host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(host, "status") == 0
    assert run(host, "on", "--ttl", "2h", "--reason", "disk swap") == 0
    assert run(host, "status") == 2
    capsys.readouterr()
    assert run(host, "status", "--json") == 2
    assert json.loads(capsys.readouterr().out)["leases"][0]["left_seconds"] == 7200
    assert run(host, "on", "--mark-only") == 0
    assert run(host, "status") == 1
    assert run(host, "off") == 0
    assert run(host, "status") == 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["on", "--ttl", "-5"], "not a duration"),
        (["on", "--ttl", "abc"], "'abc' is not a duration; say for example 90s, 15m, 2h or 1d"),
        (["on", "--ttl", "8d"], "from 1 s to 7 d"),
        (["on", "--owner", "Bob"], "owner 'Bob' is not a name"),
        (["on", "--owner", "load"], "belongs to check-load"),
        (["on", "--reason", "a\nb"], "one line"),
        (["on", "--surprise"], "unrecognized arguments"),
        (["wait"], "--max"),
        ([], "COMMAND"),
        (["run"], "throttle run -- CMD"),
    ],
)
def test_misuse_is_one_clear_line(host: Host, capsys: pytest.CaptureFixture[str], words: list[str], said: str) -> None:
    assert run(host, *words) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


def test_broken_settings_are_one_line(host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    Path(host.places.settings).write_text('{"generation": "01234')
    assert run(host, "on") == 1
    error = capsys.readouterr().err
    assert "not a whole JSON object" in error
    assert error.count("\n") == 1


def test_off_of_what_nobody_holds(host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    run(host, "on")
    assert run(host, "off", "--owner", "bob") == 0
    assert "bob holds no lease here; held by: operator" in capsys.readouterr().out


def test_exit_code_when_refusal_is_not_in_force(host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    host.kernel.broken = DOWN
    assert run(host, "on") == 1
    assert "nft" in capsys.readouterr().err


def test_a_damaged_lease_on_disk_is_told_and_the_others_are_put_back(host: Host) -> None:
    controller(host).on("a", "", 900)
    controller(host).on("b", "", 900)
    kept = json.loads(host.disk.read_text())
    kept["leases"][0]["refuse"] = "yes"
    host.disk.write_text(json.dumps(kept))
    host.reboot()
    outcome = controller(host).reconcile()
    assert outcome.warnings == ["a lease on disk was left out: refuse must be true or false"]
    assert [one.owner for one in status(host).leases] == ["b"]
    sound(host)


def test_status_says_that_the_marker_is_lost(host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    controller(host).on("operator", "", 60)
    host.marker.unlink()
    assert run(host, "status") == 2
    assert "the marker is lost, the host was refusing" in capsys.readouterr().err
    assert run(host, "reconcile") == 0
    assert "was lost: put back the leases of operator" in capsys.readouterr().err
    assert run(host, "off") == 0
    assert run(host, "status") == 0


def test_without_room_for_its_stamp_every_run_compares(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    controller(host).reconcile()
    failing(monkeypatch, "/run/mf/reconciled", 28)
    assert "reconciled can't be written" in controller(host).on("operator", "", 60).warnings[0]
    assert not Path(marker.stamp(host.places)).exists()


def test_wait_ends_with_the_lease(host: Host) -> None:
    controller(host).on("backup", "", 60, refuse=False)
    start = host.clock.boot
    assert not command.wait(host.places, 600, sleep=host.clock.sleep, clock=host.clock.now).throttled
    assert 60 <= host.clock.boot - start <= 60 + command.POLL


def test_wait_gives_up(host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    controller(host).on("deploy", "gate", None)
    start = host.clock.boot
    assert command.wait(host.places, 600, sleep=host.clock.sleep, clock=host.clock.now).throttled
    assert host.clock.boot - start == 600


def test_wait_without_throttle_does_not_sleep(host: Host) -> None:
    command.wait(host.places, 600, sleep=lambda _: pytest.fail("nothing to wait for"), clock=host.clock.now)


def test_run_takes_the_command_as_it_is(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[list[str]] = []

    def execute(file: str, words: list[str]) -> None:
        started.append(words)
        raise FileNotFoundError

    monkeypatch.setattr(os, "execvp", execute)
    assert run(host, "run", "--max", "1s", "--", "rsync", "--max", "-a") == 127
    assert started == [["rsync", "--max", "-a"]]


def test_run_says_so_when_it_ran_throttled(
    host: Host, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    controller(host).on("deploy", "gate", None)
    monkeypatch.setattr(command, "wait", lambda places, *_, **__: marker.current(places))
    monkeypatch.setattr(os, "execvp", lambda *_: (_ for _ in ()).throw(PermissionError(13, "Permission denied")))
    assert run(host, "run", "--", "x") == 126
    assert "Running all the same after 10 min" in capsys.readouterr().err


def test_interrupted_waiting_is_quiet(
    host: Host, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    controller(host).on("deploy", "gate", None)

    def interrupt(_: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(command.wait, "__kwdefaults__", {**(command.wait.__kwdefaults__ or {}), "sleep": interrupt})
    assert run(host, "wait", "--max", "10m") == 130
    assert "Traceback" not in capsys.readouterr().err


def test_a_marker_that_cannot_be_written_is_a_failure_though_mail_is_refused(
    host: Host, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = state.write_atomic

    def full(path: str, *words: Any, **options: Any) -> None:
        if path == host.places.marker:
            raise OSError(28, "No space left on device")
        real(path, *words, **options)

    monkeypatch.setattr(state, "write_atomic", full)
    assert command.main(["on", "--force"], host.places) == 1
    assert host.kernel.refused == [25]
    assert "jobs don't know of it" in capsys.readouterr().err
    monkeypatch.undo()
