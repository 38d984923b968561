"""/mf/bin/backup: the backups of this machine, for cron and for people."""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
import time
from dataclasses import asdict

from mf import borg, cli, config, state, text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from . import jobs
    from .record import Past

DONE, FAILED, BUSY, DIFFERENT = 0, cli.FAILED, 4, 5
_WHAT = {"full": "files", "dump": "database"}  # what a job saves
TURN_WAIT = "2h"  # a job of the plan waits so long for one that a person began

_EPILOG = """\
Jobs
  dump     the databases, streamed into the repository, with row counts and checksums of the same moment
  full     files: the tree, quarantine, configuration, crontabs, and what mf_backup_paths adds
  verify   the repository's own check, and all data of the newest archive and of an older one
  drill    restore the newest dump into a database server of its own, and compare

Exit codes
  0 done, 1 failed (one line says why and what to do), 2 wrong command line, 4 another job has its turn,
  5 something isn't as it was recorded

Examples
  backup run dump                   now, whatever the plan says
  backup list                       what the repository has, beside what this machine recorded
  backup restore --database         the newest dump into the real server (docs/restore.md)
"""


def main(argv: Sequence[str] | None = None, places: state.Places | None = None) -> int:
    """The command; returns its exit code."""
    # so that what was begun (a scratch server, a held commit) is ended in order
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    return _parser().main(argv, places)


def _context(places: state.Places, turn: int | None = None) -> jobs.Context:
    from . import jobs, record, repository, settings

    found = settings.load(places)
    state.make_folder(jobs.VAR, 0o711)
    return jobs.Context(found, places, record.Record(places), repository.Borg(found, places, turn=turn))


def _failures() -> tuple[type[Exception], ...]:
    from . import facts, jobs, load, scratch

    return (
        borg.BorgError,
        jobs.JobError,
        facts.DatabaseError,
        scratch.ScratchError,
        load.LoadError,
        config.SettingsError,
        OSError,
    )


def _due(chosen: argparse.Namespace, places: state.Places) -> int:
    from . import jobs, record, schedule, settings

    try:
        found = settings.load(places)
    except config.SettingsError as error:
        return _fail(str(error))
    due = schedule.chosen(time.time(), record.Record(places).jobs, found.jobs)
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
            # the turn comes after the wait: a person who lists or restores meanwhile finds it free
            gently = ["/usr/bin/nice", "-n", "19", "/usr/bin/ionice", "-c", "3"]
            work = [jobs.PROGRAM, "run", job, "--wait", TURN_WAIT]
            wait = ["/mf/bin/throttle", "run", "--max", f"{found.throttle_wait}s", "--"]
            codes.append(subprocess.run([*wait, *gently, *work], check=False).returncode)
    return max(codes)


def _run(chosen: argparse.Namespace, places: state.Places) -> int:
    from . import jobs

    if chosen.dry_run:
        return _plan(chosen, places)
    with jobs.Turn(places, chosen.wait) as turn:
        if turn is None:
            return _fail("another job has its turn; try again later, or say --wait 2h", BUSY)
        return _perform(chosen, places, turn.descriptor)


def _plan(chosen: argparse.Namespace, places: state.Places) -> int:
    context = _context(places)
    past = context.record.past(chosen.job)
    if chosen.json:
        print(json.dumps({"would_run": chosen.job, **asdict(past)}))
        return DONE
    ago = f"{text.span(time.time() - past.succeeded)} ago" if past.succeeded else "never"
    print(f"would run {chosen.job} into {context.settings.repository}; it last succeeded {ago}")
    return DONE


def _perform(chosen: argparse.Namespace, places: state.Places, turn: int) -> int:
    from . import jobs

    try:
        past = jobs.perform(chosen.job, _context(places, turn))
    except _failures() as error:
        return _fail(str(error))
    print(json.dumps(asdict(past)) if chosen.json else _words(chosen.job, past))
    return FAILED if past.failures else DONE


def _words(job: str, past: Past) -> str:
    if past.failures:
        return f"{job}: FAILED after {text.span(past.seconds)}: {past.error}"
    figures = past.figures
    words = [f"{job}: {past.archive or 'done'}", f"took {text.span(past.seconds)}"]
    if "stored_bytes" in figures:
        words.append(f"{figures['original_bytes'] / 1e6:.1f} MB, {figures['stored_bytes'] / 1e6:.1f} MB of it new")
    if "rto_seconds" in figures:
        against = (
            "recorded here" if figures.get("apart") else "recorded in the dump itself (this machine has no record)"
        )
        words.append(f"{figures['rows']:.0f} rows came back as {against}")
        words.append(f"recoverable data is {text.span(figures['rpo_seconds'])} old (RPO)")
        words.append(f"restored in {text.span(figures['rto_seconds'])} (RTO)")
    return ", ".join(words)


def _list(chosen: argparse.Namespace, places: state.Places) -> int:
    from . import jobs

    try:
        with jobs.Turn(places, chosen.wait) as turn:
            if turn is None:
                return _fail("another job has its turn; try again later, or say --wait 2h", BUSY)
            context = _context(places, turn.descriptor)
            found = context.borg.archives()
    except _failures() as error:
        return _fail(str(error))
    difference = borg.compare(context.record.archives, found)
    everything = {**context.record.archives, **found}
    marks = {
        **dict.fromkeys(difference.missing, "MISSING in the repository"),
        **dict.fromkeys(difference.unknown, "not on record here"),
        **dict.fromkeys(difference.changed, "ANOTHER one than recorded"),
    }
    ordered = sorted(everything.values(), key=lambda one: (one.sequence, one.name))
    if chosen.json:
        print(
            json.dumps(
                {
                    "repository": context.settings.repository,
                    "archives": [{**asdict(one), "mark": marks.get(one.name, "")} for one in ordered],
                    "missing": difference.missing,
                    "unknown": difference.unknown,
                    "changed": difference.changed,
                }
            )
        )
    else:
        for one in ordered:
            print(f"{one.name}  {text.clean(one.id[:12])}  {marks.get(one.name, '')}".rstrip())
        print(f"{len(found)} archives in the repository, {len(context.record.archives)} on record here")
    return DONE if difference.same else DIFFERENT


def _status(chosen: argparse.Namespace, places: state.Places) -> int:
    try:
        context = _context(places)
    except _failures() as error:
        return _fail(str(error))
    if chosen.json:
        print(json.dumps({name: asdict(past) for name, past in context.record.jobs.items()}))
        return DONE
    now = time.time()
    for name in context.settings.jobs:
        past = context.record.past(name)
        ago = f"{text.span(max(0.0, now - past.succeeded))} ago" if past.succeeded else "never"
        print(f"{name:7} last success {ago}" + (f"; since then: {past.error}" if past.failures else ""))
    return DONE


def _restore(chosen: argparse.Namespace, places: state.Places) -> int:
    from . import jobs, restore

    wanted = [job for job, asked in (("full", chosen.files), ("dump", chosen.database)) if asked]
    if not wanted:
        return _fail("say what: --database, --files, or both", cli.MISUSE)
    try:
        with jobs.Turn(places, chosen.wait) as turn:
            if turn is None:
                return _fail("another job has its turn; try again later, or say --wait 2h", BUSY)
            context = _context(places, turn.descriptor)
            if not (chosen.dry_run or (context.record.adopted and not context.record.restoring)):
                jobs.forget(context)
            archives = restore.choose(context, wanted, chosen.archive)
            taken = restore.in_use(context) if "dump" in archives else []
            taken += restore.overwritten(context, archives["full"]) if "full" in archives else []
            if chosen.dry_run:
                names = [one.name for one in archives.values()]
                if chosen.json:
                    print(json.dumps({"would_restore": names, "would_replace": taken}))
                    return DONE
                print("\n".join(f"would restore {name}" for name in names))
                print("\n".join(f"would replace: {one}" for one in taken) or "nothing would be replaced")
                return DONE
            if taken and not chosen.replace:
                return _fail(f"{'; '.join(taken)}: a restore replaces them. Say --replace if that is what you want")
            found = restore.perform(context, archives)
    except _failures() as error:
        return _fail(str(error))
    same = not any(one.differences for one in found.values())
    if chosen.json:
        print(json.dumps({_WHAT[job]: asdict(one) for job, one in found.items()}))
        return DONE if same else DIFFERENT
    for job in wanted:
        if (one := found.get(job)) is None:
            print(f"{_WHAT[job]}: passed over, for no archive has any, or no setting names any")
            continue
        rows = f", {one.rows} rows" if job == "dump" else ""
        print(f"{_WHAT[job]}: {one.archive}, {text.span(one.age)} old{rows}, restored in {text.span(one.seconds)}")
        for difference in one.differences:
            print(f"backup: {difference}", file=sys.stderr)
    if not same:
        _fail("no job runs here until a restore is without a difference, or /mf/bin/backup adopt accepts this one")
    return DONE if same else DIFFERENT


def _after(_: argparse.Namespace, places: state.Places) -> int:
    from . import restore

    done = restore.afterwards(_context(places))
    for command, code in done:
        print(f"{command}: {'done' if not code else f'ended with {code}'}")
    return FAILED if any(code for _, code in done) else DONE


def _adopt(chosen: argparse.Namespace, places: state.Places) -> int:
    from . import jobs

    try:
        with jobs.Turn(places, chosen.wait) as turn:
            if turn is None:
                return _fail("another job has its turn; try again later, or say --wait 2h", BUSY)
            context = _context(places, turn.descriptor)
            if chosen.dry_run:
                found = context.borg.archives()
                change = borg.compare(context.record.archives, found)
            else:
                change = jobs.adopt(context)
                found = context.record.archives
    except _failures() as error:
        return _fail(str(error))
    if chosen.json:
        print(json.dumps({"archives": len(found), **asdict(change)}))
        return DONE
    if chosen.dry_run:
        print(
            f"would take over {len(found)} archives: {len(change.unknown)} new, {len(change.missing)} there no longer,"
            f" {len(change.changed)} others"
        )
        return DONE
    print(
        f"{len(context.record.archives)} archives are on record now: {len(change.unknown)} were new,"
        f" {len(change.missing)} are there no longer, {len(change.changed)} are others"
    )
    return DONE


def _forget(chosen: argparse.Namespace, places: state.Places) -> int:
    from . import jobs

    try:
        with jobs.Turn(places, chosen.wait) as turn:
            if turn is None:
                return _fail("another job has its turn; try again later, or say --wait 2h", BUSY)
            struck = _context(places, turn.descriptor).record.forget(sys.stdin.read().split())
    except _failures() as error:
        return _fail(str(error))
    print(f"{struck} archives are on record here no longer")
    return DONE


def _key(_: argparse.Namespace, places: state.Places) -> int:
    try:
        done = _context(places).borg.run("key", "export", "--paper", "::", limit=120)
    except _failures() as error:
        return _fail(str(error))
    print(done.out, end="")
    return DONE


def _stream(chosen: argparse.Namespace, places: state.Places) -> int:
    from . import settings, stream

    try:
        found = settings.load(places)
        taken = stream.dump(found.socket, found.databases, dict(found.newest), sys.stdout.buffer)
        if chosen.facts:
            state.make_folder(chosen.facts.rpartition("/")[0], 0o755)
            state.write_atomic(chosen.facts, (json.dumps(taken) + "\n").encode(), durable=True)
    except _failures() as error:
        return _fail(str(error))
    return DONE


def _fail(message: str, code: int = FAILED) -> int:
    print(f"backup: {message}", file=sys.stderr)
    return code


def _parser() -> cli.Command:
    top = cli.Command("backup", "The backups of this machine, and restoring them.", _EPILOG)
    due = top.add("due", _due, "run the jobs that are due (cron does, every 10 minutes)", dry_run=True)
    run = top.add("run", _run, "run one job now", dry_run=True)
    run.add_argument(
        "job", choices=("dump", "full", "verify", "drill"), metavar="JOB", help="dump, full, verify, drill"
    )
    listing = top.add("list", _list, "the repository's archives beside this machine's record")
    status = top.add("status", _status, "how each job went last")
    restore = top.add("restore", _restore, "get back what was saved", dry_run=True)
    restore.add_argument("--database", action="store_true", help="the databases of the newest dump")
    restore.add_argument("--files", action="store_true", help="the files of the newest full archive")
    restore.add_argument("--archive", default="", metavar="NAME", help="not the newest but this one")
    restore.add_argument("--replace", action="store_true", help="even if databases have rows or files are there now")
    top.add("after-restore", _after, "run what mf_backup_after_restore lists (restore_control.yml does)")
    adopt = top.add(
        "adopt",
        _adopt,
        "take the repository as it is: on a rebuilt machine, or after a rewind off-site",
        dry_run=True,
    )
    forget = top.add("forget", _forget, "strike the archives named on stdin off the record (prune_offsite.yml does)")
    for one in (due, run, listing, status, restore, adopt):
        one.add_argument("--json", action="store_true", help="the answer as one JSON object")
    for one in (run, listing, restore, adopt, forget):
        one.add_argument(
            "--wait", type=cli.duration, default=60.0, metavar="TIME", help="for another job's end (default: 1m)"
        )
    top.add("key", _key, "print the repository's key for the safe (useless without the passphrase)")
    stream = top.add("stream", _stream, "the dump itself, on stdout (borg runs this)")
    stream.add_argument(
        "--facts", default="", metavar="FILE", help="where to keep what the databases held at that moment"
    )
    return top
