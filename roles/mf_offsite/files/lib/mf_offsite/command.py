"""/mf/bin/offsite: the repository of the backups, on the machine that keeps it. It can't decrypt anything."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from typing import Any

from mf import Failure, cli, config, decisions, state

from . import prune, rewind, segment_log
from .check import ATTENDED, KEPT_CONFIG, REMEMBERED, keep_config, remembered

DONE = 0
LEFT = "offsite-left.json"  # see prune.Left

_EPILOG = """\
Exit codes: 0 done, 1 failed (with one line about the reason), 2 wrong command line, 4 a backup is under way, 5 prune
refused

Examples
  offsite history                 every transaction: time, bytes, and number of deleted objects
  offsite rewind --to 41          restore the repository as of transaction 41; the current one is kept beside it
  offsite compact                 finish an interrupted prune: make its deletions final, free their room
"""


def main(argv: Sequence[str] | None = None, places: state.Places | None = None) -> int:
    """The command; returns its exit code."""
    return _parser().main(argv, places)


def _repository(places: state.Places) -> str:
    """Its path, from the settings. Raises config.SettingsError."""
    return str(config.load(places).section("offsite")["repository"])


@contextmanager
def _locked(places: state.Places, wait: float = 30.0) -> Iterator[str]:
    """The repository, under its lock, without check-offsite counting our deletions. Raises rewind.BusyError."""
    section = config.load(places).section("offsite")
    with rewind.repository_lock(section["lock"], wait), places.lock(ATTENDED, 5.0) as held:
        if not held:
            raise rewind.BusyError("another offsite command is under way; try again when it has ended")
        with places.lock("offsite", 120.0):
            pass  # wait for a check that is running
        yield str(section["repository"])


def _transactions(repository: str) -> list[dict[str, Any]]:
    """Each transaction, as ``history --json`` prints it. Raises segment_log.LogError."""
    numbers = segment_log.segments(repository)
    rows: list[dict[str, Any]] = []
    before, listed = -1, 0
    for transaction in segment_log.transactions(repository):
        last = transaction.segment
        inside = [segment_log.read(number, path) for number, path in numbers.items() if before < number <= last]
        manifest = next((segment.manifest for segment in reversed(inside) if segment.manifest), listed)
        rows.append(
            {
                "transaction": last,
                "time": transaction.time,
                "bytes": sum(segment.size for segment in inside),
                "written": sum(segment.written for segment in inside),
                # the first begins the repository, or is that of a prune, and may still hold its deletions
                "deleted": sum(segment.deleted for segment in inside) if rows else 0,
                "list_bytes": manifest,
                "list_shorter": manifest <= listed - segment_log.ARCHIVE_ID,
            }
        )
        before, listed = last, manifest
    return rows


def _history(chosen: argparse.Namespace, places: state.Places) -> int:
    repository = _repository(places)
    rows = _transactions(repository)
    if chosen.json:
        print(json.dumps({"repository": repository, "transactions": rows}))
        return DONE
    for row in rows:
        deleted = f"  DELETED {row['deleted']}" if row["deleted"] else ""
        deleted += "  LIST SHORTER" if row["list_shorter"] else ""
        print(f"{row['transaction']:>8}  {row['time']}Z  {row['bytes']:>14,} B  {row['written']:>8} objects{deleted}")
    print(f"{len(rows)} transactions in {repository}")
    return DONE


def _rewind(chosen: argparse.Namespace, places: state.Places) -> int:
    with _locked(places) as repository:
        if chosen.dry_run:
            going = [number for number in segment_log.segments(repository) if number > chosen.to]
            print(f"would leave out {len(going)} segments after transaction {chosen.to}, and keep them beside")
            return DONE
        config_file = state.read_bytes(f"{places.persistent}/{KEPT_CONFIG}")
        if config_file is None:
            raise Failure("check-offsite has not seen this repository yet; run it once, then again this")
        stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
        kept = rewind.rewind(repository, chosen.to, stamp, config_file)
        _forget(places, repository)
    decisions.record(places, "offsite", "rewind", repository, f"to transaction {chosen.to}", "done")
    print(f"{repository} is as it was at transaction {chosen.to}; what was there is kept in {kept}")
    print("on control: /mf/bin/backup adopt")
    return DONE


def _prune(chosen: argparse.Namespace, places: state.Places) -> int:
    left = f"{places.persistent}/{LEFT}"
    order = prune.read(sys.stdin.buffer.read(1 << 28))
    if order.approved is None and not chosen.dry_run:
        raise Failure("the order has no list of the archives that may be deleted", cli.MISUSE)
    with _locked(places, chosen.wait) as repository, prune.Repository(repository, order) as account:
        known = remembered(state.read_bytes(f"{places.persistent}/{REMEMBERED}"))
        prune.untouched(repository, known, same_key=keep_config(places, repository, dry_run=True))
        plan = account.plan(time.time(), prune.Left.load(left))
        lines = plan.lines()
        print(json.dumps({"going": list(plan.going), "lines": lines}) if chosen.json else "\n".join(lines))
        prune.refuse(plan, order)
        if chosen.dry_run:
            return DONE
        before = segment_log.size(repository)
        account.prune(plan.going)
        prune.begin_anew(repository)
        prune.Left.of(archive for name, archive in plan.archives.items() if name not in plan.going).save(left)
        _forget(places, repository)
    freed = before - segment_log.size(repository)
    decisions.record(places, "offsite", "prune", repository, f"{len(plan.going)} archives, {freed} bytes freed", "done")
    if not chosen.json:
        print(f"{len(plan.going)} archives gone, {freed / 1e6:.1f} MB freed")
    return DONE


def _compact(chosen: argparse.Namespace, places: state.Places) -> int:
    repository = _repository(places)
    before = segment_log.size(repository)
    if chosen.dry_run:
        print(f"would compact {repository} ({before / 1e6:.1f} MB)")
        return DONE
    with _locked(places):
        done = subprocess.run(
            ["/usr/sbin/runuser", "-u", prune.ACCOUNT, "--", "/usr/bin/borg", "compact", repository],
            env={"PATH": "/usr/bin:/bin", "HOME": os.path.dirname(repository), "LC_ALL": "C.UTF-8"},
            stdin=subprocess.DEVNULL,
            check=False,
        )
        if done.returncode:
            raise Failure(f"borg compact ended with {done.returncode}")
        prune.begin_anew(repository)
        _forget(places, repository)
    after = segment_log.size(repository)
    decisions.record(places, "offsite", "compact", repository, f"{before - after} bytes freed", "done")
    print(f"{(before - after) / 1e6:.1f} MB freed, {after / 1e6:.1f} MB left")
    return DONE


def _accept(_: argparse.Namespace, places: state.Places) -> int:
    with _locked(places) as repository:
        _forget(places, repository)
        with suppress(FileNotFoundError):
            os.unlink(f"{places.persistent}/{LEFT}")
    decisions.record(places, "offsite", "accept", repository, "deletions so far are known to an operator", "done")
    print("deletions up to now are accepted")
    return DONE


def _forget(places: state.Places, repository: str) -> None:
    """Count deletions from now on; the list of archives may only grow from the next backup on.

    A prune packs that list with lz4, and a backup with zstd: so the first list after a prune may be shorter although it
    has an archive more.
    """
    numbers = segment_log.segments(repository)
    last = max(numbers, default=-1)
    sizes = (segment_log.read(number, path).manifest for number, path in reversed(numbers.items()))
    scan = segment_log.Scan(baseline=last, scanned=last, manifest=-next((size for size in sizes if size), 0))
    state.write_atomic(f"{places.persistent}/{REMEMBERED}", (json.dumps(asdict(scan)) + "\n").encode(), durable=True)


def _parser() -> cli.Command:
    top = cli.Command("offsite", "The repository of the backups, where it is kept.", _EPILOG)
    top.add("history", _history, "list every transaction with its deletions", json="as one JSON object")
    back = top.add("rewind", _rewind, "restore the repository as of a transaction, keep the current one", dry_run=True)
    back.add_argument("--to", type=int, required=True, metavar="N", help="the last transaction to keep")
    attended = "(attended: playbooks/prune_offsite.yml)"
    as_json = "the archives to delete, as one JSON object"
    old = top.add("prune", _prune, f"delete old archives {attended}", dry_run=True, json=as_json)
    old.add_argument("--wait", type=cli.duration, default=30.0, metavar="TIME", help="wait for a backup's end")
    top.add("compact", _compact, f"make deletions final {attended}", dry_run=True)
    top.add("accept", _accept, "accept the deletions up to now: no alarm for them")
    return top
