"""Refused mail is reported to an operator, stays until that operator has decided, and is sent again once."""

from __future__ import annotations

import json
import os
import shutil
import time
from functools import partial
from pathlib import Path

import pytest
from mf import message_id, run, state
from mf_rejected import check as rejected_check
from mf_rejected import check_refused as check
from mf_rejected import deliver, purge, purge_record, refused
from mf_rejected import keeper_command as program
from mf_rejected import purge_command as purging
from mf_rejected import refused_command as command

from tests.rejected.conftest import LONG, QUEUED, RAW, TWO, bounce, failed, files, keep


@pytest.fixture
def places(places: state.Places, tmp_path: Path, root: Path, folder: Path) -> state.Places:
    own = {"root": str(root), "keep_days": 5, "free_percent": 0}
    own |= {"releases": str(tmp_path / "releases"), "refused": str(folder), "refused_day_size": 1 << 30}
    Path(places.settings).write_text(json.dumps({"generation": "g", "host": "mx1", "checks": {}, "rejected": own}))
    return places


def test_each_domain_s_copy_is_sent_again_alone(places: state.Places, root: Path, folder: Path) -> None:
    idents = keep(root, folder, bounce(RAW, *TWO)) + keep(root, folder)
    kept = command.Kept(places)
    to = []
    for ident in idents:
        with kept.open(ident) as file:
            # as a child reads it: at the descriptor's own position
            line, _, raw = os.pread(file.fileno(), 1 << 20, os.lseek(file.fileno(), 0, os.SEEK_CUR)).partition(b"\n")
        assert raw == RAW
        to.append(deliver.parse(line, raw).recipients)
        assert json.loads(line)["id"] == ident
    assert to == [["<a@Customer.Example>", "<b@customer.example>"], ["<c@shop.example>"], ["<gone@customer.example>"]]


# --- ids


def test_ids_tell_accepted_mail_apart_from_rejected_mail() -> None:
    assert refused.is_refused(LONG)
    for other in (
        "20261129T183148.028033Z-mx1-4711-0-070bdfa20dd752e8",
        "20261129T183148.028033Z-mx-customer-1-4711-0-070bdfa20dd752e8",
        "../x-customer-y-z",
        "customer",
        "",
    ):
        assert not refused.is_refused(other)


# --- nothing goes without a decision

OLD = "20200102T030405.000000Z"


def aged(root: Path, folder: Path) -> None:
    """All refused mail and its notes are of a day that is long over."""
    for path in [*files(root), *files(folder)]:
        box = root / "2020-01-02" / path.parent.parent.name / "new" if root in path.parents else folder
        box.mkdir(parents=True, exist_ok=True)
        path.rename(box / (OLD + path.name[len(OLD) :]))


def test_a_day_that_is_over_keeps_what_waits_until_each_domain_is_decided(
    places: state.Places, root: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    keep(root, folder)
    keep(root, folder, bounce(RAW, *TWO).replace(QUEUED.encode(), b"1xXjgd-0000WM-1H"))
    aged(root, folder)
    spam = root / "2020-01-02/customer.example/new/20200102T030405.000000Z-mx1-1-0-aa"
    spam.touch()
    single, first, second = refused.noted(str(folder))
    shared = Path(refused.path(str(root), "", first))
    assert purging.main(["--dry-run"], places) == purging.main([], places) == 0
    sentence = "1 messages of 2020-01-02 removed: their time was over\n"
    assert capsys.readouterr().out == f"would: {sentence}{sentence}"
    assert len(files(root)) == 2
    assert check.probe(places, values(places)).metrics["waiting"] == 3
    # a run with nothing to do is silent, and check-rejected doesn't expect the day to go
    assert purging.main([], places) == 0
    assert capsys.readouterr().out == ""
    own = {"root": str(root), "refused": str(folder), "keep_days": 5, "free_percent": 0}
    days = rejected_check.probe(places, own)
    assert isinstance(days, state.Result)
    assert days.summary.startswith("2 days kept")
    assert "still here" not in days.summary
    # one domain of two is released by control, and the other one waits
    (tmp_path / "releases").mkdir()
    (tmp_path / "releases" / first).write_text("accepted OK id=1\n")
    assert command.main(["forget", single], places) == 0
    assert purging.main([], places) == 0
    assert files(root) == [shared]
    assert refused.noted(str(folder)) == [second]
    assert command.main(["forget", "--dry-run", "--all"], places) == 0
    assert purging.main([], places) == 0
    assert files(root) == [shared]
    assert command.main(["forget", "--all"], places) == 0
    assert purging.main([], places) == 0
    assert files(root) == []
    assert not (root / "2020-01-02").exists()


def test_all_refused_mail_stays_while_its_notes_cannot_be_read(places: state.Places, root: Path, folder: Path) -> None:
    keep(root, folder)
    aged(root, folder)
    shutil.rmtree(folder)
    assert purging.main([], places) == 0
    assert len(files(root)) == 1
    assert check.probe(places, values(places)).status == state.CRITICAL
    assert command.main(["list"], places) == 1


def test_a_full_disk_costs_no_mail_that_waits(root: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [LONG, "20261129T190000.000000Z-mx1-1-0-aa", LONG.replace("070b", "0000")]
    for name in names:
        path = root / "2026-11-29/customer.example/new" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x" * 100)
    (folder / LONG).touch()
    order: list[str] = []

    def sacrifice(kept: list[purge.Kept], *_: object) -> tuple[list[purge.Kept], bool]:
        order.extend(message.path[3] for message in kept)
        return [], True

    monkeypatch.setattr(purge, "sacrifice", sacrifice)
    with purge.Store(str(root)) as store:
        purge.purge(store, 5, 101.0, 1796000000.0, waits=partial(refused.waits, str(folder), "/nowhere"))
        assert order == [names[2], names[1]]
        order.clear()
        purge.purge(store, 5, 101.0, 1796000000.0)
    assert order == [names[1]]


def change(places: state.Places, **values: object) -> None:
    settings = json.loads(Path(places.settings).read_text())
    settings["rejected"] |= values
    Path(places.settings).write_text(json.dumps(settings))


@pytest.mark.parametrize("domains", [(), TWO])
def test_a_full_disk_costs_no_mail_that_is_kept_during_the_purge(
    places: state.Places, root: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, domains: tuple[str, ...]
) -> None:
    """The keeper writes between the purge's first step and its last; Exim has the keeper's 250."""
    change(places, free_percent=1)
    root.mkdir()
    days = purge.Store.days

    def meanwhile(store: purge.Store) -> list[str]:
        if not files(root):
            keep(root, folder, bounce(b"Subject: x\n\n" + b"x" * (1 << 18), *domains))
        return days(store)

    monkeypatch.setattr(purge.Store, "days", meanwhile)
    monkeypatch.setattr(purge.Store, "room", lambda _: purge.Room(1 << 20, 0, 0, 0))
    assert purging.main([], places) == 0
    assert len(files(root)) == 1


def test_mail_that_waits_costs_other_mail_a_day_s_limit_at_most(
    places: state.Places, root: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    keep(root, folder, bounce(b"Subject: x\n\n" + b"x" * 500_000))
    spam = root / "2026-11-30/customer.example/new/20261130T190000.000000Z-mx1-1-0-aa"
    spam.parent.mkdir(parents=True)
    spam.write_bytes(b"x" * 500_000)
    now = 1796000000.0
    monkeypatch.setattr(time, "time", lambda: now)
    # 20,000 bytes are missing
    monkeypatch.setattr(purge.Store, "room", lambda _: purge.Room(1_000_000, 60_000, 0, 0))
    change(places, free_percent=8, refused_day_size=400_000)
    assert purging.main([], places) == 0
    assert capsys.readouterr().out.endswith("nothing was removed before its time\n")
    assert len(files(root)) == 2
    assert purge_record.read(places)["full"] == now
    change(places, refused_day_size=600_000)
    assert purging.main([], places) == 0
    assert not spam.exists()
    assert len(files(root)) == 1


def test_mail_is_spared_that_waits_when_its_turn_comes(root: Path, folder: Path) -> None:
    """A forgotten message that Exim hands over again waits again."""
    path = root / "2026-11-29/customer.example/new" / LONG
    path.parent.mkdir(parents=True)
    path.touch()
    waits = partial(refused.waits, str(folder), "/nowhere")
    with purge.Store(str(root)) as store:
        listed = list(store.files(["2026-11-29"]))
        (folder / LONG).touch()
        store.remove(listed, waits)
        assert files(root) == [path]
        (folder / LONG).unlink()
        store.remove(listed, waits)
    assert files(root) == []


# --- an operator is notified, and decides


def values(places: state.Places) -> run.Values:
    settings = json.loads(Path(places.settings).read_text())["rejected"]
    return {"root": settings["root"], "folder": settings["refused"], "releases": settings["releases"]}


def test_the_check_reports_until_an_operator_has_decided(
    places: state.Places, root: Path, folder: Path, tmp_path: Path
) -> None:
    assert check.probe(places, values(places)).status == state.OK
    (first,) = keep(root, folder)
    keep(root, folder, bounce(b"Subject: 2\n\n", failed("a@shop.example", "500 Line too long")))
    (third,) = keep(root, folder, bounce(b"Subject: 3\n\n"))
    result = check.probe(places, values(places))
    stored = sum(path.stat().st_blocks * 512 for path in files(root))
    assert (result.status, result.metrics) == (
        state.CRITICAL,
        {"waiting": 3, "domains": 2, "bytes": stored, "missing": 0},
    )
    assert result.summary.endswith(
        f"(500 Line too long); 1 MiB, the oldest of {message_id.day(first)}; see refused list"
    )
    assert result.summary.startswith(
        "3 messages refused for good by customers' servers, kept: customer.example 2 since "
    )
    assert "(550 5.1.1 no such user), shop.example 1 since " in result.summary
    # control has released one here, an operator has forgotten the other
    (tmp_path / "releases").mkdir()
    (tmp_path / "releases" / first).write_text("accepted OK id=1\n")
    (tmp_path / "releases" / third).write_text("refused 550 no\n")
    assert check.probe(places, values(places)).metrics["waiting"] == 2
    assert command.main(["forget", third], places) == 0
    assert command.main(["forget", "--domain", "Shop.Example"], places) == 0
    assert check.probe(places, values(places)).status == state.OK
    assert len(files(root)) == 3


def test_a_second_try_after_the_release_waits_for_no_decision(
    places: state.Places, root: Path, folder: Path, tmp_path: Path
) -> None:
    """The keeper died between its rename and its 250, and Exim comes again."""
    (ident,) = keep(root, folder)
    (tmp_path / "releases").mkdir()
    (tmp_path / "releases" / ident).write_text("accepted OK id=1\n")
    assert purging.main([], places) == 0
    assert refused.noted(str(folder)) == []
    assert keep(root, folder) == [ident]
    assert [path.name for path in files(root)] == [ident]
    assert command.Kept(places).idents == []
    assert check.probe(places, values(places)).status == state.OK


def test_a_nonsensical_note_is_harmless(places: state.Places, folder: Path) -> None:
    for number, content in enumerate(
        (b"", b"[]", b'{"domain": "../../etc", "reason": 5}', b'{"domain": "a", "reason": "\\u001b[2J"}')
    ):
        (folder / LONG.replace("070b", f"{number:04d}")).write_bytes(content)
    result = check.probe(places, values(places))
    assert result.metrics == {"waiting": 4, "domains": 2, "bytes": 0, "missing": 4}
    assert "\x1b" not in result.summary
    assert refused.read(str(folder), LONG.replace("070b", "0002")) == {"domain": "", "reason": "", "recipients": ""}


def test_a_message_whose_file_is_gone_is_reported_until_it_is_forgotten(
    places: state.Places, root: Path, folder: Path, tmp_path: Path
) -> None:
    idents = keep(root, folder, bounce(RAW, *TWO))
    (tmp_path / "releases").mkdir()
    (tmp_path / "releases" / idents[1]).write_text("accepted OK id=1\n")
    files(root)[0].unlink()
    assert purging.main(["--json"], places) == 0
    assert purge_record.read(places)["ran"]
    assert refused.noted(str(folder)) == idents[:1]
    result = check.probe(places, values(places))
    assert (result.status, result.metrics["missing"]) == (state.CRITICAL, 1)
    assert "; 1 without a file; " in result.summary


def test_a_shared_file_counts_once_and_a_crowd_is_counted_in_part(
    places: state.Places, root: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep(root, folder, bounce(b"Subject: large\n\n" + b"x" * (3 << 20), *TWO))
    assert "; 4 MiB, the oldest of " in check.probe(places, values(places)).summary
    monkeypatch.setattr(check, "READ", 1)
    result = check.probe(places, values(places))
    assert (result.metrics["waiting"], result.metrics["domains"]) == (2, 1)
    assert "; at least 4 MiB, the oldest of " in result.summary


@pytest.mark.parametrize(
    "arguments",
    [["release"], ["release", LONG], ["forget", "--all", LONG], ["forget", "--all", "--domain", "x"], ["x"]],
)
def test_a_selection_is_required(
    places: state.Places, arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        code = command.main(arguments, places)
    except SystemExit as end:
        code = int(end.code or 0)
    assert code == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_list_for_people_and_for_programs(
    places: state.Places, root: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (ident,) = keep(root, folder)
    assert command.main(["list"], places) == 0
    assert capsys.readouterr().out.endswith(f"  gone@customer.example  550 5.1.1 no such user  {ident}\n")
    assert command.main(["list", "--json"], places) == 0
    assert json.loads(capsys.readouterr().out)["id"] == ident


def test_settings_that_lack_something_are_named(places: state.Places, capsys: pytest.CaptureFixture[str]) -> None:
    Path(places.settings).write_text(json.dumps({"generation": "g", "host": "mx1", "checks": {}, "rejected": {}}))
    assert command.main(["list"], places) == 1
    assert program.main([], places) == 1
    assert capsys.readouterr().err.count("rejected.root is missing; deploy again with playbooks/site.yml") == 2
