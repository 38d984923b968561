"""The attended prune: its refusals, and the repository afterwards."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from mf import borg, state
from mf_offsite import check, command, prune, segment_log

from tests.offsite.conftest import GONE, HOUR, NOW, PUT, archive, entry, made_repository, manifest

KEEP = {"dump": {"within": "7d", "daily": 31}, "full": {"daily": 14}}


def order(**changes: Any) -> prune.Order:
    lines = "".join(json.dumps(asdict(archive(number))) + "\n" for number in (1, 2, 3))
    given = {"passphrase": "secret words", "prefix": "control1", "keep": KEEP, "record": lines, **changes}
    return prune.read(json.dumps(given).encode())


def plan(*stored: borg.Archive, going: tuple[str, ...] = (), recorded: tuple[int, ...] = (1, 2, 3)) -> prune.Plan:
    there = {made.name: made for made in stored}
    known = {made.name: made for made in map(archive, recorded)}
    return prune.Plan(there, borg.compare(known, there), prune.doubts(there, NOW, prune.Left()), going)


def test_prune_takes_ids_from_borg_and_refuses_unknown_rules() -> None:
    lines = [
        f"Keeping archive (rule: daily #1):  a  x [{'1' * 64}]",
        f"Would prune:    {archive(1).name}  Wed, 2026 [{'2' * 64}]",
        # what borg's list hides, named so that its first word is a true archive
        f"Would prune:    {archive(3).name} [{'3' * 64}] x.checkpoint  Wed, 2026 [{'4' * 64}]",
        "",
    ]
    assert prune.pruned(lines) == ["2" * 64, "4" * 64]
    assert prune.arguments({"daily": "3", "within": "7d"}) == ["--keep-within=7d", "--keep-daily=3"]
    for rules in ({"hourlyy": "1"}, {}):
        with pytest.raises(prune.PruneError, match="mf_backup_keep"):
            prune.arguments(rules)


def test_an_order_is_read_whole_or_refused_and_never_shows_its_passphrase() -> None:
    given = order(approved=["a"])
    assert given.approved == frozenset({"a"})
    assert [made.sequence for made in given.recorded.values()] == [1, 2, 3]
    assert "secret words" not in repr(given)
    for wrong in (b"", b"[]", b'{"passphrase": "secret words"}', b'{"record": "{}", "passphrase": "secret words"'):
        with pytest.raises(prune.PruneError) as caught:
            prune.read(wrong)
        assert "secret" not in str(caught.value)
    with pytest.raises(prune.PruneError):
        order(keep={"dump": KEEP["dump"], "full": {}})


def test_a_prune_refuses_archives_other_than_on_controls_record() -> None:
    prune.refuse(plan(archive(1), archive(2), archive(3), archive(4)), order())  # a new one is no harm
    with pytest.raises(prune.PruneError, match=r"1 archives are missing.*00000002"):
        prune.refuse(plan(archive(1), archive(3)), order())
    with pytest.raises(prune.PruneError, match=r"others than control recorded.*00000003"):
        prune.refuse(plan(archive(1), archive(2), archive(3, ident="f" * 64)), order())


def test_only_approved_archives_go() -> None:
    all_three = (archive(1), archive(2), archive(3))
    first, second = archive(1).name, archive(2).name
    prune.refuse(plan(*all_three, going=(first,)), order(approved=[first, second]))
    with pytest.raises(prune.PruneError, match=r"1 more archives.*00000002"):
        prune.refuse(plan(*all_three, going=(first, second)), order(approved=[first]))


def test_names_that_pass_for_ours_are_doubted() -> None:
    mine = archive(1).name
    well = [mine, f"{mine}.checkpoint", f"{mine}.checkpoint.1", "control1-manual", "control11-dump-x", "other"]
    assert prune.foreign("control1", well) == []
    bad = [f"{mine} x.checkpoint", "control1-dump-evil", f"{mine}.part"]
    assert len(prune.foreign("control1", [*well, *bad])) == len(bad)


@pytest.mark.parametrize(
    ("times", "word"),
    [
        ((-3, -2, -1), ""),
        ((-3, -2, 0.5), ""),  # within the hour: a clock that isn't quite right
        ((-3, -2, 30), "of the future"),
        ((-300, -5, -20), "after one with a higher number"),  # a made-up one, or the one before it was
    ],
)
def test_archives_with_made_up_times_are_doubted(times: tuple[float, ...], word: str) -> None:
    stored = [replace(archive(number), time=NOW + hours * HOUR) for number, hours in enumerate(times, 1)]
    prune_plan = plan(*stored)
    assert bool(prune_plan.doubtful) == bool(word)
    if word:
        with pytest.raises(prune.PruneError, match=word):
            prune.refuse(prune_plan, order())


def test_archives_with_numbers_that_cannot_be_are_doubted(tmp_path: Path) -> None:
    """An attacker fills a gap that a prune left, to be the last of a day and push out the true one."""
    stored = {made.name: made for made in map(archive, (1, 4, 5))}
    path = str(tmp_path / "left.json")
    prune.Left.of(stored.values()).save(path)
    left = prune.Left.load(path)
    assert prune.doubts(stored, NOW, left) == []
    assert prune.doubts({**stored, archive(6).name: archive(6)}, NOW, left) == []
    (doubt,) = prune.doubts({**stored, archive(3).name: archive(3)}, NOW, left)
    assert "00000003" in doubt
    assert "wasn't there at the last prune" in doubt
    twin = replace(archive(5), name=f"{archive(5).name}0")
    (doubt,) = prune.doubts({**stored, twin.name: twin}, NOW, left)
    assert "there twice" in doubt
    (tmp_path / "left.json").write_text('{"highest": 3')
    with pytest.raises(prune.PruneError, match="not whole"):
        prune.Left.load(path)


def test_the_plan_shows_each_archive_and_whether_it_goes() -> None:
    prune_plan = plan(archive(1), archive(2, ident="e" * 64), archive(4), going=(archive(1).name,))
    ends = [line.partition("Z  ")[2] for line in prune_plan.lines()]
    assert ends[:4] == [
        "goes",
        "ANOTHER one than control recorded",
        "MISSING here, and on control's record",
        "NOT on control's record",
    ]
    assert prune_plan.lines()[-1] == "1 of 3 archives go"


def test_no_prune_after_deletions_by_another_client(tmp_path: Path) -> None:
    clean = made_repository(tmp_path / "one", entry(0, b"a" * 32), entry(2))
    prune.untouched(clean, segment_log.Scan(), same_key=True)
    with pytest.raises(prune.PruneError, match="key is another one"):
        prune.untouched(clean, segment_log.Scan(), same_key=False)
    touched = made_repository(tmp_path / "two", entry(0, b"a" * 32) + entry(2), entry(1, b"a" * 32) + entry(2))
    # counted afresh, whatever an earlier scan may have skipped
    for known in (segment_log.Scan(), segment_log.Scan(scanned=1), segment_log.Scan(baseline=0, scanned=1)):
        with pytest.raises(prune.PruneError, match="1 objects were deleted"):
            prune.untouched(touched, known, same_key=True)
    prune.untouched(touched, segment_log.Scan(baseline=1), same_key=True)


def test_after_a_prune_history_begins_anew(tmp_path: Path) -> None:
    where = made_repository(tmp_path, entry(0, b"a" * 32) + entry(2), entry(2))
    last = prune.begin_anew(where)
    assert last == max(segment_log.segments(where))
    assert [transaction.segment for transaction in segment_log.transactions(where)] == [last]


def test_what_a_prune_left_deletes_nothing_in_the_history(
    tmp_path: Path, places: state.Places, capsys: pytest.CaptureFixture[str]
) -> None:
    where = made_repository(tmp_path / "kept", PUT, GONE)
    settled = {"generation": "g", "host": "offsite1", "checks": {}, "offsite": {"repository": where, "lock": "none"}}
    Path(places.settings).write_text(json.dumps(settled))

    def rows() -> list[int]:
        assert command.main(["history", "--json"], places) == 0
        return [row["deleted"] for row in json.loads(capsys.readouterr().out)["transactions"]]

    assert rows() == [0, 1]
    prune.begin_anew(where)
    assert rows() == [0]
    (Path(where) / "data" / "0" / "2").write_bytes(segment_log.MAGIC + GONE)
    with (Path(where) / "transactions").open("a") as log:
        log.write("transaction 2, UTC time 2026-11-25T02:00:09.123\n")
    assert rows() == [0, 1]


def test_the_first_list_after_a_prune_is_packed_otherwise(tmp_path: Path, places: state.Places) -> None:
    folder = made_repository(tmp_path, manifest(400), GONE, manifest(390))
    command._forget(places, folder)
    known = check.remembered(state.read_bytes(f"{places.persistent}/{check.REMEMBERED}"))
    segment = made_repository(tmp_path / "more", manifest(340), manifest(380), manifest(300))
    for number, name in segment_log.segments(segment).items():
        shutil.copy(name, f"{folder}/data/0/{number + 10}")
    scan = segment_log.scan(folder, known)
    assert (scan.deleted, scan.first) == (1, 12)  # the last one alone has lost an archive
