"""/mf/bin/backup: the backups of this machine, for cron and for operators."""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict

from mf import Failure, borg, cli, state, text

from . import jobs, record, repository, restore, schedule, settings, stream

DONE, FAILED, BUSY, DIFFERENT = 0, cli.FAILED, 4, 5
_CONTENT = {"full": "files", "dump": "database"}  # of a job's archives
JOB_WAIT = "2h"  # a scheduled job waits so long for one that an operator began

_EPILOG = """\
Jobs
  dump     the databases, streamed into the repository, with row counts and checksums of the same moment
  full     files: the tree, quarantine, configuration, crontabs, and those of mf_backup_paths
  verify   the repository's own check, and all data of the newest archive and of an older one
  drill    restore the newest dump into a database server of its own, and compare

Exit codes
  0 done, 1 failed (one line: reason, and what to do), 2 wrong command line, 4 another job holds the repository lock,
  5 differences from the record

Examples
  backup run dump                   now, whenever it is due
  backup list                       compare the repository's archives with this machine's record
  backup restore --database         restore the newest dump into the real server (docs/restore.md)
"""


def main(argv: Sequence[str] | None = None, places: state.Places | None = None) -> int:
    """The command; returns its exit code."""
    # raise SystemExit: a scratch server and held commits must be ended in order
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    return _parser().main(argv, places)


def _context(places: state.Places, lock: int | None = None) -> jobs.Context:
    configured = settings.load(places)
    state.make_folder(jobs.VAR, 0o711)
    return jobs.Context(configured, places, record.Record(places), repository.Borg(configured, places, lock=lock))


@contextmanager
def _locked(chosen: argparse.Namespace, places: state.Places) -> Iterator[jobs.Context]:
    """Hold the repository lock. Raises Failure if another job holds it for longer than ``chosen.wait``."""
    lock = places.lock(jobs.LOCK, chosen.wait)
    with lock as held:
        if not held:
            raise Failure("another job holds the repository lock; try again later, or use --wait 2h", BUSY)
        yield _context(places, lock.fileno())


def _due(chosen: argparse.Namespace, places: state.Places) -> int:
    configured = settings.load(places)
    due = schedule.chosen(time.time(), record.Record(places).jobs, configured.jobs)
    if chosen.dry_run:
        print(json.dumps({"due": due}) if chosen.json else "due: " + (", ".join(due) or "nothing"))
        return DONE
    if not due:
        return DONE
    codes = [DONE]
    with places.lock("backup-due") as first:
        if not first:
            return DONE  # jobs are under way, or wait for the throttle to end
        for job in due:
            # take the lock after the wait: until then an operator's command can have it
            gently = ["/usr/bin/nice", "-n", "19", "/usr/bin/ionice", "-c", "3"]
            work = [jobs.PROGRAM, "run", job, "--wait", JOB_WAIT]
            wait = ["/mf/bin/throttle", "run", "--max", f"{configured.throttle_wait}s", "--"]
            codes.append(subprocess.run([*wait, *gently, *work], check=False).returncode)
    return max(codes)


def _run(chosen: argparse.Namespace, places: state.Places) -> int:
    if chosen.dry_run:
        return _plan(chosen, places)
    with _locked(chosen, places) as context:
        past = jobs.perform(chosen.job, context)
    print(json.dumps(asdict(past)) if chosen.json else _outcome(chosen.job, past))
    return FAILED if past.failures else DONE


def _plan(chosen: argparse.Namespace, places: state.Places) -> int:
    context = _context(places)
    past = context.record.past(chosen.job)
    if chosen.json:
        print(json.dumps({"would_run": chosen.job, **asdict(past)}))
        return DONE
    print(f"would run {chosen.job} into {context.settings.repository}; it last succeeded {_ago(past)}")
    return DONE


def _ago(past: record.Past) -> str:
    return f"{text.span(max(0.0, time.time() - past.succeeded))} ago" if past.succeeded else "never"


def _outcome(job: str, past: record.Past) -> str:
    if past.failures:
        return f"{job}: FAILED after {text.span(past.seconds)}: {past.error}"
    figures = past.figures
    parts = [f"{job}: {past.archive or 'done'}", f"took {text.span(past.seconds)}"]
    if "stored_bytes" in figures:
        parts.append(f"{figures['original_bytes'] / 1e6:.1f} MB, {figures['stored_bytes'] / 1e6:.1f} MB of it new")
    if "rto_seconds" in figures:
        against = (
            "recorded here" if figures.get("apart") else "recorded in the dump itself (this machine has no record)"
        )
        parts.append(f"{figures['rows']:.0f} rows came back as {against}")
        parts.append(f"recoverable data is {text.span(figures['rpo_seconds'])} old (RPO)")
        parts.append(f"restored in {text.span(figures['rto_seconds'])} (RTO)")
    return ", ".join(parts)


def _list(chosen: argparse.Namespace, places: state.Places) -> int:
    with _locked(chosen, places) as context:
        stored = context.borg.archives()
    recorded = context.record.archives
    difference = borg.compare(recorded, stored)
    marks = {
        **dict.fromkeys(difference.missing, "MISSING in the repository"),
        **dict.fromkeys(difference.unknown, "not on record here"),
        **dict.fromkeys(difference.changed, "ANOTHER one than recorded"),
    }
    ordered = sorted({**recorded, **stored}.values(), key=lambda archive: (archive.sequence, archive.name))
    if chosen.json:
        archives = [{**asdict(archive), "mark": marks.get(archive.name, "")} for archive in ordered]
        print(json.dumps({"repository": context.settings.repository, "archives": archives, **asdict(difference)}))
    else:
        for archive in ordered:
            print(f"{archive.name}  {text.clean(archive.id[:12])}  {marks.get(archive.name, '')}".rstrip())
        print(f"{len(stored)} archives in the repository, {len(recorded)} on record here")
    return DONE if difference.same else DIFFERENT


def _status(chosen: argparse.Namespace, places: state.Places) -> int:
    context = _context(places)
    if chosen.json:
        print(json.dumps({name: asdict(past) for name, past in context.record.jobs.items()}))
        return DONE
    for name in context.settings.jobs:
        past = context.record.past(name)
        print(f"{name:7} last success {_ago(past)}" + (f"; since then: {past.error}" if past.failures else ""))
    return DONE


def _restore(chosen: argparse.Namespace, places: state.Places) -> int:
    wanted = [job for job, asked in (("full", chosen.files), ("dump", chosen.database)) if asked]
    if not wanted:
        raise Failure("use --database, --files, or both", cli.MISUSE)
    with _locked(chosen, places) as context:
        if not (chosen.dry_run or (context.record.adopted and not context.record.restoring)):
            jobs.forget(context)
        archives = restore.choose(context, wanted, chosen.archive)
        taken = restore.in_use(context) if "dump" in archives else []
        taken += restore.overwritten(context, archives["full"]) if "full" in archives else []
        if chosen.dry_run:
            names = [archive.name for archive in archives.values()]
            if chosen.json:
                print(json.dumps({"would_restore": names, "would_replace": taken}))
                return DONE
            print("\n".join(f"would restore {name}" for name in names))
            print("\n".join(f"would replace: {loss}" for loss in taken) or "nothing would be replaced")
            return DONE
        if taken and not chosen.replace:
            raise Failure(f"{'; '.join(taken)}: a restore replaces them. Use --replace to confirm")
        restored = restore.perform(context, archives)
    same = not any(result.differences for result in restored.values())
    if chosen.json:
        print(json.dumps({_CONTENT[job]: asdict(result) for job, result in restored.items()}))
        return DONE if same else DIFFERENT
    for job in wanted:
        if (result := restored.get(job)) is None:
            print(f"{_CONTENT[job]}: passed over, for no archive has any, or no setting names any")
            continue
        rows = f", {result.rows} rows" if job == "dump" else ""
        old, took = text.span(result.age), text.span(result.seconds)
        print(f"{_CONTENT[job]}: {result.archive}, {old} old{rows}, restored in {took}")
        for difference in result.differences:
            print(f"backup: {difference}", file=sys.stderr)
    if not same:
        raise Failure(
            "no job runs here until a restore is without a difference, or /mf/bin/backup adopt accepts this one",
            DIFFERENT,
        )
    return DONE


def _after(_: argparse.Namespace, places: state.Places) -> int:
    done = restore.afterwards(_context(places))
    for command, code in done:
        print(f"{command}: {'done' if not code else f'ended with {code}'}")
    return FAILED if any(code for _, code in done) else DONE


def _adopt(chosen: argparse.Namespace, places: state.Places) -> int:
    with _locked(chosen, places) as context:
        if chosen.dry_run:
            archives = context.borg.archives()
            change = borg.compare(context.record.archives, archives)
        else:
            change = jobs.adopt(context)
            archives = context.record.archives
    new, missing, changed = len(change.unknown), len(change.missing), len(change.changed)
    if chosen.json:
        print(json.dumps({"archives": len(archives), **asdict(change)}))
    elif chosen.dry_run:
        print(f"would take over {len(archives)} archives: {new} new, {missing} there no longer, {changed} others")
    else:
        print(
            f"{len(archives)} archives are on record now: {new} were new, {missing} are there no longer,"
            f" {changed} are others"
        )
    return DONE


def _forget(chosen: argparse.Namespace, places: state.Places) -> int:
    with _locked(chosen, places) as context:
        struck = context.record.forget(sys.stdin.read().split())
    print(f"{struck} archives are on record here no longer")
    return DONE


def _key(_: argparse.Namespace, places: state.Places) -> int:
    print(_context(places).borg.run("key", "export", "--paper", "::", limit=120).out, end="")
    return DONE


def _stream(chosen: argparse.Namespace, places: state.Places) -> int:
    configured = settings.load(places)
    taken = stream.dump(configured.socket, configured.databases, configured.newest, sys.stdout.buffer)
    if chosen.facts:
        state.make_folder(chosen.facts.rpartition("/")[0], 0o755)
        state.write_atomic(chosen.facts, (json.dumps(taken) + "\n").encode(), durable=True)
    return DONE


def _parser() -> cli.Command:
    top = cli.Command("backup", "The backups of this machine, and restoring them.", _EPILOG)
    as_json = "the answer as one JSON object"
    top.add("due", _due, "run the jobs that are due (run by cron every 10 minutes)", dry_run=True, json=as_json)
    run = top.add("run", _run, "run one job now", dry_run=True, json=as_json)
    run.add_argument("job", choices=settings.JOBS, metavar="JOB", help=", ".join(settings.JOBS))
    listing = top.add("list", _list, "compare the repository's archives with this machine's record", json=as_json)
    top.add("status", _status, "show the last outcome of each job", json=as_json)
    back = top.add("restore", _restore, "restore databases or files", dry_run=True, json=as_json)
    back.add_argument("--database", action="store_true", help="the databases of the newest dump")
    back.add_argument("--files", action="store_true", help="the files of the newest full archive")
    back.add_argument("--archive", default="", metavar="NAME", help="this archive instead of the newest")
    back.add_argument("--replace", action="store_true", help="even if databases have rows, or files exist")
    top.add("after-restore", _after, "run the commands of mf_backup_after_restore (run by restore_control.yml)")
    adopt = top.add(
        "adopt",
        _adopt,
        "record the repository as it is: on a rebuilt machine, or after a rewind off-site",
        dry_run=True,
        json=as_json,
    )
    forget = top.add("forget", _forget, "remove the archives on stdin from the record (run by prune_offsite.yml)")
    for parser in (run, listing, back, adopt, forget):
        parser.add_argument(
            "--wait",
            type=cli.duration,
            default=60.0,
            metavar="TIME",
            help="wait for another job's end (default: 1m)",
        )
    top.add("key", _key, "print the repository's key for the safe (useless without the passphrase)")
    dump = top.add("stream", _stream, "write the dump to stdout (run by borg)")
    dump.add_argument("--facts", default="", metavar="FILE", help="write rows and checksums of that moment to a file")
    return top
