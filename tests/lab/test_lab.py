"""The lab's decisions: what a machine allows, what `up` does with a container, wrong usage."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from mflab import hosts, image, load, machine, spec, ui

import lab as command

FULL = "CapEff:\t000001ffffffffff\nCapBnd:\t000001ffffffffff\n"
CUT = "CapEff:\t000001fffeffffff\nCapBnd:\t000001fffeffffff\n"
ORDINARY_USER = "CapEff:\t0000000000000000\nCapBnd:\t000001ffffffffff\n"
UNIFIED = "proc /proc proc rw 0 0\ncgroup2 /sys/fs/cgroup cgroup2 rw,nsdelegate 0 0\n"
HYBRID = "tmpfs /sys/fs/cgroup tmpfs rw 0 0\ncgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n"
V1 = "tmpfs /sys/fs/cgroup tmpfs rw 0 0\ncgroup /sys/fs/cgroup/cpu cgroup rw,cpu 0 0\n"


@pytest.mark.parametrize(
    ("status", "mounts", "uid", "expected"),
    [
        (FULL, UNIFIED, 0, []),
        (CUT, UNIFIED, 0, ["no CAP_SYS_RESOURCE"]),
        (FULL, HYBRID, 0, ["cgroup v1/v2 hybrid"]),
        (CUT, V1, 0, ["no CAP_SYS_RESOURCE", "no unified cgroup v2"]),
        (ORDINARY_USER, UNIFIED, 1000, []),
        (ORDINARY_USER, UNIFIED, 0, ["no CAP_SYS_RESOURCE"]),
        (CUT, UNIFIED, 1000, ["no CAP_SYS_RESOURCE"]),
        ("Name:\tx\n", UNIFIED, 0, []),
    ],
)
def test_restrictions(status: str, mounts: str, uid: int, expected: list[str]) -> None:
    assert machine.restrictions(status, mounts, uid) == expected


def test_containers_conf_stays_within_the_hard_limits() -> None:
    low = machine.containers_conf(4096, 500)
    assert '"nofile=4096:4096"' in low
    assert '"nproc=500:500"' in low
    unlimited = machine.containers_conf(-1, 1_000_000)
    assert '"nofile=16000:16000", "nproc=30000:30000"' in unlimited
    assert 'runtime = "runc"' in unlimited


def test_needs_follow_the_machine() -> None:
    restricted = {need.package: need for need in machine.needs(restricted=True, rootless=False)}
    assert restricted["runc"].programs == ("runc",)
    assert "uidmap" not in restricted
    ordinary = {need.package: need for need in machine.needs(restricted=False, rootless=True)}
    assert ordinary["crun"].programs == ("crun", "runc")
    assert "uidmap" in ordinary


def test_a_need_is_met_by_a_program_in_its_folder(tmp_path: Path) -> None:
    need = machine.Need("netavark", ("netavark-for-tests",), (str(tmp_path),))
    assert not need.met()
    program = tmp_path / "netavark-for-tests"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    assert need.met()


def fake_proc(folder: Path, limit: int, used: int) -> Path:
    (folder / "sys/fs/inotify").mkdir(parents=True)
    (folder / "sys/fs/inotify/max_user_instances").write_text(f"{limit}\n")
    (folder / "7/fd").mkdir(parents=True)
    for number in range(used):
        (folder / "7/fd" / str(number)).symlink_to("anon_inode:inotify")
    (folder / "7/fd/x").symlink_to("/dev/null")
    return folder


def test_room_for_more_containers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = machine.Machine((), rootless=False)
    roomy = fake_proc(tmp_path / "roomy", limit=128, used=20)
    assert machine.instances(roomy) == 20
    assert machine.make_room(here, 7, roomy) == ""
    tight = fake_proc(tmp_path / "tight", limit=128, used=100)
    assert machine.make_room(here, 0, tight) == ""
    assert "was 128" in machine.make_room(here, 7, tight)
    assert (tight / "sys/fs/inotify/max_user_instances").read_text() == "1024\n"
    monkeypatch.setattr(machine, "as_root", lambda: None)
    with pytest.raises(spec.LabError, match="as root, run: sysctl fs"):
        machine.make_room(machine.Machine((), rootless=True), 7, fake_proc(tmp_path / "mine", limit=128, used=100))


@pytest.mark.parametrize("text", ["", "250", "-1", "1.0", "0x1", "seven", "٣"])
def test_bad_lab_numbers(text: str) -> None:
    with pytest.raises(spec.LabError, match="0 to 249") as caught:
        spec.parse_number(text)
    assert caught.value.code == spec.EXIT_USAGE


def test_labs_never_share_a_port_or_an_address() -> None:
    every = [host for n in range(spec.HIGHEST_NUMBER + 1) for host in spec.Lab(n, Path("/x")).hosts()]
    for attribute in ("address", "ssh_port", "mac", "container"):
        assert len({getattr(host, attribute) for host in every}) == len(every)
    assert max(host.ssh_port for host in every) < 32768  # below the ports that Linux gives to clients


def test_hosts_and_groups() -> None:
    assert spec.parse_hosts("mx3, mx1") == ["mx1", "mx3"]
    assert spec.parse_hosts("control,mx,mx1") == ["mx1", "mx2", "mx3", "control1"]
    for text in ("mx9", "mx1,nonsense", "", ","):
        with pytest.raises(spec.LabError, match="unknown host"):
            spec.parse_hosts(text)


def test_the_lab_is_named_by_option_then_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MF_LAB", "5")
    assert spec.open_lab(None, tmp_path).home == tmp_path / ".lab" / "5"
    assert spec.open_lab("6", tmp_path).number == 6
    monkeypatch.setenv("MF_LAB", "")
    assert spec.open_lab(None, tmp_path).number == 0


def container(state: str, made_of: str = "abc") -> dict[str, Any]:
    return {"State": state, "Labels": {"mf.lab.made-of": made_of}}


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        (None, "create"),
        (container("running"), "keep"),
        (container("exited"), "start"),
        (container("created"), "recreate"),
        (container("configured"), "recreate"),
        (container("running", "other"), "recreate"),
        ({"State": "running", "Labels": None}, "recreate"),
        ({}, "recreate"),
    ],
)
def test_what_up_does_with_a_container(entry: dict[str, Any] | None, expected: str) -> None:
    assert hosts.decide(entry, "abc") == expected


def test_a_foreign_lab_is_left_alone(tmp_path: Path) -> None:
    mine, other = tmp_path / "a/.lab/7", tmp_path / "b/.lab/7"
    lab = spec.Lab(7, mine)
    entries = [{"Labels": {"mf.lab.home": str(other)}}]
    hosts.refuse_foreign(lab, entries)  # that checkout is gone: its lab is nobody's
    other.mkdir(parents=True)
    with pytest.raises(spec.LabError, match="another checkout"):
        hosts.refuse_foreign(lab, entries)
    hosts.refuse_foreign(lab, [{"Labels": {"mf.lab.home": str(mine)}}])


def test_a_container_is_remade_when_its_arguments_change() -> None:
    lab = spec.Lab(7, Path("/x"))
    first, second = (hosts.made_of(hosts.create_arguments(lab, lab.host("mx1"), name)) for name in ("i:1", "i:2"))
    assert first != second
    assert first == hosts.made_of(hosts.create_arguments(lab, lab.host("mx1"), "i:1"))


def test_packages() -> None:
    text = "# prose installed shelf\n\nsystemd installed  # why\nrsync shelf\n"
    assert image.parse_packages(text) == {"installed": ["systemd"], "shelf": ["rsync"]}
    for line in ("rsync", "rsync later", "rsync shelf twice"):
        with pytest.raises(ValueError, match="line 1"):
            image.parse_packages(line)


def test_the_recipe_names_the_image() -> None:
    name = image.tag(["--include=a"], "x86_64")
    assert name == image.tag(["--include=a"], "x86_64")
    assert name != image.tag(["--include=b"], "x86_64")
    assert name != image.tag(["--include=a"], "aarch64")
    assert any(option.startswith("--include=") and "systemd" in option for option in image.options())


def test_package_sources() -> None:
    targets = (
        "http://mirror.example/debian/ bookworm main\n"
        "http://mirror.example/debian/ bookworm main\n"
        "http://mirror.example/debian-security/ bookworm-security main\n"
        "http://mirror.example/debian/ bookworm contrib\n"
        "http://other.example/node nodistro main\n"
        "http://other.example/tools bookworm main\n"
    )
    assert image.package_sources(targets) == [
        "deb http://mirror.example/debian/ bookworm main",
        "deb http://mirror.example/debian-security/ bookworm-security main",
    ]
    assert image.package_sources("http://mirror.example/debian/ trixie main\n") == []
    assert image.package_sources("") == []


@pytest.mark.parametrize("text", ["high", "-1", "nan", "inf", ""])
def test_bad_loads(text: str) -> None:
    with pytest.raises(spec.LabError, match="a load is a number"):
        load.parse(text)


def test_loads() -> None:
    assert load.parse("off") is None
    assert load.line(load.parse("9") or 0) == "9.00 9.00 9.00"


def test_table_and_text_from_outside() -> None:
    assert ui.table(("a", "n"), [("xyz", 5), ("x", 15)], right=(1,)) == "a     n\nxyz   5\nx    15"
    assert "\x1b" not in ui.clean("\x1b[2J")
    assert [ui.duration(n) for n in (5, 600, 7200, 400_000)] == ["5 s", "10 min", "2 h", "4 d"]


# --- the command line


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--lab", "999", "up"], "0 to 249"),
        (["up", "--only", "mx9"], "unknown host mx9"),
        (["exec", "mx1"], "name the command to run"),
        (["exec", "mx", "--", "true"], "name one host"),
        (["load", "mx1", "high"], "a load is a number"),
    ],
)
def test_wrong_usage_is_one_line(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(arguments) == spec.EXIT_USAGE
    err = capsys.readouterr().err
    assert message in err
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize(
    "arguments", [[], ["fly"], ["mail", "0"], ["mail", "many"], ["mail", "5", "--spam", "1.5"], ["customer", "sleep"]]
)
def test_argparse_refuses(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        command.main(arguments)
    assert caught.value.code == spec.EXIT_USAGE
    assert "error:" in capsys.readouterr().err


def test_missing_rights_are_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(machine, "needs", lambda *_: [machine.Need("no-such-package", ("no-such-program",))])
    monkeypatch.setattr(machine, "restrictions", lambda *_: [])
    monkeypatch.setattr(machine, "as_root", lambda: None)
    monkeypatch.setattr(spec, "REPOSITORY", tmp_path)
    assert command.main(["status"]) == spec.EXIT_PREREQUISITES
    err = capsys.readouterr().err.splitlines()
    assert len(err) == 1
    assert "no-such-package" in err[0]
