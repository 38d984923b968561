"""check-offsite, on the machine that keeps the backups: room, age, and deletions that no operator made.

It can't decrypt anything, and doesn't trust the machine that writes the backups.
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import asdict
from typing import Any

from mf import run, state
from mf.text import span

from . import segment_log

NAME = "offsite"
PURPOSE = "Watch the repository of the backups: room, age, and unexpected deletions."
RULES: run.Rules = {
    "repository": str,
    "lock": str,
    "quota_bytes": (1 << 20, 1 << 60),
    "quota_warning": (1, 100),  # percent of the quota
    "quota_critical": (1, 100),
    "free_warning": (0, 100),  # percent of the file system
    "free_critical": (0, 100),
    "quiet": (600, 90 * 86400),  # seconds without anything new
}
REMEMBERED = "offsite.json"
SKEW = 300.0  # seconds that the newest transaction may be in the future before that is a problem
ATTENDED = "offsite-attended"  # the lock of an operator's command that may delete
ATTENDED_SINCE = "attended_since_boottime"
LONG, TOO_LONG = 4 * 3600.0, 24 * 3600.0  # seconds that such a command may take, before a warning and an alarm
KEPT_CONFIG = "offsite-config"  # a copy of the repository's first config, out of the writer's reach


def decide(
    used: int,
    free: float,
    inodes: float,
    age: float,
    deleted: int,
    values: run.Values,
    *,
    same_key: bool = True,
    spent: bool = False,
) -> tuple[str, list[str]]:
    """The status, and its problems. Pure. ``age`` is that of the newest transaction, or of the account, in seconds.

    ``spent``: the cipher's counter is used up, so no further backup is possible.
    """
    statuses, problems = [state.OK], []
    share = 100.0 * used / values["quota_bytes"]
    if share >= values["quota_warning"]:
        statuses.append(state.CRITICAL if share >= values["quota_critical"] else state.WARNING)
        problems.append(f"{share:.0f}% of the quota used: prune with playbooks/prune_offsite.yml")
    for amount, of in ((free, "space"), (inodes, "inodes")):
        if amount < values["free_warning"]:
            statuses.append(state.CRITICAL if amount < values["free_critical"] else state.WARNING)
            problems.append(f"{amount:.0f}% of the file system's {of} free")
    if age > values["quiet"]:
        statuses.append(state.CRITICAL if age > 2 * values["quiet"] else state.WARNING)
        problems.append(f"nothing new for {span(age)}" if used else f"nothing was saved here in {span(age)}")
    elif age < -SKEW:
        statuses.append(state.WARNING)
        problems.append(f"the newest transaction is {span(-age)} in the future: was the clock set back?")
    if deleted:
        statuses.append(state.CRITICAL)
        problems.append(f"{deleted} objects deleted, no prune recorded: see /mf/bin/offsite history, docs/restore.md")
    if not same_key:
        statuses.append(state.CRITICAL)
        problems.append('the repository\'s key is another one: docs/restore.md, "Backups were deleted"')
    if spent:
        statuses.append(state.CRITICAL)
        problems.append("the cipher's counter is used up, so backups fail: see docs/restore.md")
    return state.worst(statuses), problems


def probe(places: state.Places, values: run.Values) -> state.Result | run.Diagnosis:
    """Skip the check during an attended command; all else is on the slow path, as it runs every ten minutes."""
    with places.lock(ATTENDED) as free:
        if not free:
            return _attended(places)
    return lambda dry_run: _diagnose(places, values, dry_run)


def _attended(places: state.Places) -> state.Result:
    """The result during an attended command. One that hangs would hide deletions, so its time is limited."""
    now = state.boottime()
    since = run.former(places, NAME)["metrics"].get(ATTENDED_SINCE)
    if not isinstance(since, (int, float)) or not 0 < since <= now:
        since = round(now, 1)
    took = now - since
    status = state.CRITICAL if took > TOO_LONG else state.WARNING if took > LONG else state.OK
    summary = "an attended prune, rewind or compaction is under way"
    if status != state.OK:
        summary += f" for {span(took)}, and nothing else is checked: end it if it hangs"
    return state.Result(NAME, status, summary, {ATTENDED_SINCE: since})


def _diagnose(places: state.Places, values: run.Values, dry_run: bool) -> state.Result:
    repository, path = values["repository"], f"{places.persistent}/{REMEMBERED}"
    end = time.monotonic() + values["deadline"] * 0.7
    known = remembered(state.read_bytes(path))
    try:
        free, inodes = state.free_percent(os.path.dirname(repository))
        numbers = segment_log.segments(repository) if os.path.isdir(f"{repository}/data") else {}
        if not numbers and state.read_bytes(f"{places.persistent}/{KEPT_CONFIG}") is not None:
            raise segment_log.LogError("it was here, and there is nothing in it")
        scan = segment_log.scan(repository, known, lambda: time.monotonic() < end) if numbers else known
        used = segment_log.size(repository) if numbers else 0
        # before the first backup: when the account was made
        same_key = not numbers or keep_config(places, repository, dry_run)
        spent = os.path.lexists(f"{repository}/nonce") and segment_log.nonce(repository) >= segment_log.NONCE_LIMIT
        # the newest by number, which no clock can change
        newest = os.stat(numbers[max(numbers)] if numbers else values["lock"]).st_mtime
    except (OSError, segment_log.LogError) as error:
        return state.Result(NAME, state.CRITICAL, f"{repository} can't be read: {error}")
    if not dry_run and scan != known:
        state.write_atomic(path, (json.dumps(asdict(scan)) + "\n").encode(), durable=True)
    age = time.time() - newest
    status, problems = decide(used, free, inodes, age, scan.deleted, values, same_key=same_key, spent=spent)
    behind = sum(number > scan.scanned for number in numbers)
    well = f"{used / 1e6:.1f} MB of {values['quota_bytes'] / 1e6:.0f}" if used else "nothing was saved here yet"
    result = state.Result(NAME, status, "; ".join(problems) or well)
    result.metrics = {
        "used_bytes": used,
        "quota_percent": round(100.0 * used / values["quota_bytes"], 2),
        "free_percent": round(free, 1),
        "free_inodes_percent": round(inodes, 1),
        "deleted": scan.deleted,
        "manifest_bytes": abs(scan.manifest),
        "same_key": int(same_key),
        "behind": behind,
    }
    if numbers:
        result.metrics["newest_age_seconds"] = max(0, round(age))
    return result


def keep_config(places: state.Places, repository: str, dry_run: bool = False) -> bool:
    """Keep the first id and key; returns whether they are the same now. Raises OSError, segment_log.LogError."""
    path = f"{places.persistent}/{KEPT_CONFIG}"
    kept, now = state.read_bytes(path), segment_log.identity(repository)
    if kept is None and now and not dry_run:
        state.write_atomic(path, state.read_bytes(f"{repository}/config") or b"", 0o600, durable=True)
    return kept is None or not now or segment_log.identity_of(kept.decode(errors="replace")) == now


def remembered(data: bytes | None) -> segment_log.Scan:
    """The last run's counts; an empty Scan if its file is damaged."""
    values = state.decode(data) or {}
    numbers: dict[str, Any] = {key: values.get(key) for key in ("baseline", "scanned", "deleted", "first", "manifest")}
    try:
        ahead = tuple(segment_log.Segment(**segment) for segment in values.get("ahead", ()))
    except TypeError:
        return segment_log.Scan()
    whole = {type(number) for number in numbers.values()} == {int}
    return segment_log.Scan(**numbers, ahead=ahead) if whole else segment_log.Scan()


CHECK = run.Check(NAME, probe, RULES, PURPOSE)
