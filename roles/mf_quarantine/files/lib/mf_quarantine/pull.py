"""MX to control: what an MX has and the ledger doesn't know is fetched by rsync over ssh, then imported.

One process for each MX under a flock of its own that rsync inherits, so a dead or slow MX delays nobody, and a lock
ends with the last process that works under it. The key may only read the MX's folder of rejected mail; the MX's end
waits for the MX's own throttle. How far it is stands in ``state/<mx>.json``, written at every step::

    {"mx", "since": first attempt, "attempted", "error": "" or one line, "listed": last complete listing or null,
     "swept": last listing of all days or null, "unpulled": known and not imported yet, there or fetched already,
     "oldest": the oldest of those or null, "imported": in all, "foreign": names that aren't ours, in the last listing,
     "ahead": dated more than a day ahead and left there, in the last listing of all days}

Times are epoch seconds. The MX's lag is the age of ``oldest``, or of ``listed`` when nothing is missing.
"""

from __future__ import annotations

import json
import os
import re
import select
import signal
import subprocess
import sys
import time
import traceback

from mf import state, text
from mf.throttle import marker

from . import QuarantineError, layout, store
from .settings import DAY

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from typing import Any

    from .database import Database
    from .importer import Counts, Importer
    from .settings import Settings

RSYNC = "/usr/bin/rsync"
FETCH = 2000
"""Messages of one rsync; while the host is throttled as many as are imported in a minute."""
FETCH_BYTES = 256 << 20
OVERLAP = 2 * 3600.0
"""Seconds before the last listing that are listed again: an MX's clock may be wrong, a message may take long to
arrive.
"""
SWEEP = 3600.0
"""Seconds after which all days are listed again, not only the last hours."""
RUN_LIMIT = 900.0
"""Seconds after which a run ends between two batches; the next minute's goes on."""
AHEAD = DAY
"""Seconds that an id may be ahead of this host's clock. A later one stays on its MX, for it would never expire here."""
SILENCE = 900
"""Seconds without a byte after which rsync gives up; the MX's end may wait ten minutes for its throttle."""
LONGEST = 1800.0
"""Seconds that one rsync may take, that wait included. What came whole by then stays."""
SIDE_BY_SIDE = 50
LISTED = re.compile(rb"-[-rwxsStT]{9}[.+@]? +([0-9,.]+) \d{4}/\d\d/\d\d \d\d:\d\d:\d\d (.+)")


class PullError(QuarantineError):
    """An MX can't be read."""


class Source:
    """How far the fetching from one MX is; ``save`` writes it."""

    def __init__(self, places: layout.Layout, mx: str, now: float) -> None:
        self.path = f"{places.state}/{mx}.json"
        self.mx = mx
        found = state.decode(state.read_bytes(self.path)) or {}
        self.since = _number(found, "since") or now
        self.attempted = _number(found, "attempted") or now
        error = found.get("error")
        # of the last run, until this one knows better
        self.error = error if isinstance(error, str) else ""
        self.listed = _number(found, "listed")
        self.swept = _number(found, "swept")
        self.unpulled = int(_number(found, "unpulled") or 0)
        self.oldest = _number(found, "oldest")
        self.imported = int(_number(found, "imported") or 0)
        self.foreign = int(_number(found, "foreign") or 0)
        self.ahead = int(_number(found, "ahead") or 0)

    def save(self, now: float) -> None:
        """Write it down; readers never see half of it."""
        self.attempted = now
        state.write_atomic(self.path, json.dumps(self.as_json()).encode() + b"\n", 0o644)

    def note(self, counts: Counts) -> None:
        """Count what an import took out of ``incoming`` when no listing follows: the MX is gone."""
        self.imported += counts.imported
        self.unpulled = max(0, self.unpulled - counts.files - counts.damaged)
        if not self.unpulled:
            self.oldest = None

    def as_json(self) -> dict[str, Any]:
        """What is written."""
        return {key: value for key, value in vars(self).items() if key != "path"}


def _number(record: dict[str, Any], key: str) -> float | None:
    value = record.get(key)
    return value if isinstance(value, (int, float)) and not isinstance(value, bool) else None


class Remote:
    """rsync to one MX. ``shell`` is what rsync's ``-e`` takes; ``address`` may be "" in tests: a folder of this
    host.
    """

    def __init__(self, address: str, shell: Sequence[str], held: Sequence[int] = (), root: str = "/") -> None:
        host = f"[{address}]" if ":" in address else address
        self._place = f"mf-pull@{host}:{root}" if address else root.rstrip("/") + "/"
        self._shell = " ".join(shell)
        self._held = tuple(held)

    def listing(self, filters: Sequence[str]) -> Iterator[tuple[str, int] | None]:
        """``(path, bytes)`` of every file that passes the filters; None for a line that is no file of ours.

        Raises PullError when the listing isn't complete.
        """
        command = [*self._rsync(), "--list-only", "--no-human-readable", *filters, self._place]
        with subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            pass_fds=self._held,
            env=_ENVIRONMENT,
        ) as process:
            said = bytearray()
            end = state.boottime() + LONGEST
            try:
                for line in _lines(process, said, end):
                    if line.startswith(b"d"):
                        continue
                    found = LISTED.fullmatch(line)
                    yield (found[2].decode("latin-1"), int(re.sub(rb"\D", b"", found[1]))) if found else None
                process.wait(max(0.0, end - state.boottime()))
            except subprocess.TimeoutExpired:
                process.kill()
                raise PullError(_LATE) from None
            except BaseException:
                process.kill()
                raise
        # 24: something was purged meanwhile
        if process.returncode not in (0, 24):
            raise PullError(_explain(process.returncode, said))

    def fetch(self, paths: Sequence[str], target: str) -> None:
        """Copy some files into a folder, their relative names kept. What has vanished meanwhile is left out."""
        os.makedirs(target, 0o750, exist_ok=True)
        # each file is renamed into its place when it is whole
        command = [*self._rsync(), "--files-from=-", "--from0", "--chmod=D750,F640", self._place, target + "/"]
        try:
            done = subprocess.run(
                command,
                # The last name is ended, too: otherwise rsync 3.2.7 may forget that it asked for it (if the list is
                # longer than one read) and refuse the whole transfer: "rejecting unrequested file-list name".
                input=b"".join(path.encode("latin-1") + b"\0" for path in paths),
                capture_output=True,
                pass_fds=self._held,
                env=_ENVIRONMENT,
                check=False,
                timeout=LONGEST,
            )
        except subprocess.TimeoutExpired:
            raise PullError(_LATE) from None
        if done.returncode not in (0, 23, 24):
            raise PullError(_explain(done.returncode, done.stderr))

    def _rsync(self) -> list[str]:
        shell = ["-e", self._shell] if self._shell else []
        return [RSYNC, "--recursive", "--times", "--whole-file", f"--timeout={SILENCE}", *shell]


_ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C"}
_LATE = f"rsync took longer than {LONGEST / 60:.0f} min and was ended; the next run goes on"


def _lines(process: subprocess.Popen[bytes], said: bytearray, end: float) -> Iterator[bytes]:
    """The lines of a process's stdout; the beginning of its stderr goes into ``said``, the rest nowhere, so neither
    pipe is ever full. Raises TimeoutExpired when both aren't at their end by ``end``.
    """
    pipes = [pipe for pipe in (process.stdout, process.stderr) if pipe is not None]
    rest = b""
    while pipes:
        left = end - state.boottime()
        ready = select.select(pipes, [], [], left)[0] if left > 0 else []
        if not ready:
            raise subprocess.TimeoutExpired(process.args, LONGEST)
        for pipe in ready:
            data = os.read(pipe.fileno(), 1 << 16)
            if not data:
                pipes.remove(pipe)
            elif pipe is process.stderr:
                said += data[: max(0, 4096 - len(said))]
            else:
                *lines, rest = (rest + data).split(b"\n")
                yield from lines
    if rest:
        yield rest


def _explain(code: int, said: bytes | bytearray) -> str:
    lines = [line for line in said.decode("latin-1").splitlines() if line.strip()]
    # ssh's or rsync's own first words say more than rsync's last
    words = text.clean(lines[0], 160) if lines else "no word"
    return f"rsync ended with {code}: {words}"


EVERYTHING = ("--include=/????-??-??/", "--include=/*/*/", "--include=/*/*/new/", "--include=/*/*/new/*", "--exclude=*")
"""Filters that pass every file that is complete."""


def recent(since: float, now: float) -> list[str]:
    """Filters that pass files of the hours from ``since`` until after ``now`` (epoch seconds)."""
    rules: list[str] = []
    days: dict[str, None] = {}
    hour = int(since // 3600)
    while hour * 3600 < now + 3600:
        stamp = layout.bound(hour * 3600.0)
        date = layout.day(stamp)
        days[date] = None
        rules.append(f"--include=/{date}/*/new/{stamp[:11]}*")
        hour += 1
    folders = [
        rule for date in days for rule in (f"--include=/{date}/", f"--include=/{date}/*/", f"--include=/{date}/*/new/")
    ]
    return [*folders, *rules, "--exclude=*"]


def missing(
    remote: Remote, index: Database, filters: Sequence[str], also: frozenset[str] = frozenset()
) -> tuple[list[tuple[str, int]], int]:
    """What an MX has and the ledger doesn't know, ``[(path, bytes)]`` oldest first, and how many names aren't ours.

    ``also`` are ids to fetch although they are known (repair).
    """
    found: list[tuple[str, int]] = []
    foreign = 0
    chunk: dict[str, tuple[str, int]] = {}

    def sift() -> None:
        known = index.known(list(chunk)) - also
        found.extend(entry for ident, entry in chunk.items() if ident not in known)
        chunk.clear()

    for entry in remote.listing(filters):
        kept = layout.kept_file(entry[0]) if entry is not None else None
        if entry is None or kept is None:
            foreign += 1
            continue
        chunk[kept[1]] = entry
        if len(chunk) >= 1000:
            sift()
    sift()
    found.sort(key=lambda one: one[0].rpartition("/")[2])
    return found, foreign


class Puller:
    """One run for one MX; its lock is held."""

    def __init__(
        self,
        remote: Remote,
        index: Database,
        places: layout.Layout,
        settings: Settings,
        importer: Importer,
        source: Source,
        *,
        host: state.Places | None = None,
        clock: Callable[[], float] = time.time,
        limit: float = RUN_LIMIT,
    ) -> None:
        self._remote = remote
        self._index = index
        self._layout = places
        self._settings = settings
        self._importer = importer
        self._source = source
        self._host = host or state.Places()
        self._clock = clock
        self._end = state.boottime() + limit

    def run(self, *, sweep: bool = False) -> None:
        """Import what waits, list, then fetch and import what was missing. Raises QuarantineError, OSError.

        What arrives meanwhile is for the next run, within a minute: a run ends however fast the MX rejects.
        """
        source = self._source
        store.sweep_temporary(self._layout.incoming(source.mx))
        if not self._import(fresh=False):
            return
        names = self._look(sweep=sweep)
        asked = [path.rpartition("/")[2] for path, _ in names]
        if not self._fetch(names):
            return
        left = set(asked) - self._index.known(asked)
        # purged there meanwhile, or can't be read: another listing tells
        if left and (count := sum(path.rpartition("/")[2] in left for path, _ in self._look(sweep=sweep))):
            raise PullError(f"{count} messages are listed and can't be fetched; may mf-pull read them on the MX?")

    def _look(self, *, sweep: bool) -> list[tuple[str, int]]:
        """List what is missing, and write that down."""
        source = self._source
        began = self._clock()
        # what is missing from an earlier listing may be older than its hours
        start = min(source.listed or 0.0, source.oldest or began, began) - OVERLAP
        # a clock that was ahead may have written a time to come
        full = sweep or not 0 <= began - (source.swept or 0.0) < SWEEP or began - start > DAY
        names, foreign = missing(self._remote, self._index, EVERYTHING if full else recent(start, began))
        source.listed = began
        source.error = ""
        limit = layout.bound(began + AHEAD)
        near = [entry for entry in names if entry[0].rpartition("/")[2] < limit]
        if full:
            source.swept = began
            source.ahead = len(names) - len(near)
        names = near
        source.foreign = foreign
        self._left(names)
        return names

    def _fetch(self, names: list[tuple[str, int]]) -> bool:
        """Fetch and import what is missing, a batch at a time; False when time is up."""
        while names:
            if store.free_percent(self._layout.root) < self._settings.free_percent:
                raise PullError(
                    f"less than {self._settings.free_percent:g}% of space or inodes is free at {self._layout.root}; "
                    "nothing is fetched until there is more (the MXs keep it for some days)"
                )
            batch = self._portion(names)
            self._remote.fetch([path for path, _ in batch], self._layout.incoming(self._source.mx))
            del names[: len(batch)]
            if not self._import(fresh=True, left=names):
                return False
        return True

    def _portion(self, names: list[tuple[str, int]]) -> list[tuple[str, int]]:
        most = FETCH
        if marker.current(self._host).throttled:
            most = max(1, int(60 / max(self._settings.import_throttle_sleep, 0.03)))
        room = FETCH_BYTES
        batch: list[tuple[str, int]] = []
        for entry in names[:most]:
            room -= entry[1]
            if batch and room < 0:
                break
            batch.append(entry)
        return batch

    def _import(self, *, fresh: bool, left: list[tuple[str, int]] | None = None) -> bool:
        """Import what is in ``incoming``; False when time is up."""
        counts = self._importer.counts
        imported, files = counts.imported, counts.files

        def tick() -> bool:
            nonlocal imported, files
            self._source.imported += counts.imported - imported
            self._source.unpulled = max(0, self._source.unpulled - (counts.files - files))
            imported, files = counts.imported, counts.files
            self._source.save(self._clock())
            return state.boottime() < self._end

        self._importer.run(fresh=fresh, tick=tick, patience=lambda: max(0.0, self._end - state.boottime()))
        if left is not None:
            self._left(left)
        return tick()

    def _left(self, names: list[tuple[str, int]]) -> None:
        """``names`` are missing, and what was fetched and not imported is, too."""
        missed = [path.rpartition("/")[2] for path, _ in names[:1]]
        here = [ident for _, _, ident in layout.waiting(self._layout.incoming(self._source.mx))]
        self._source.unpulled = len(names) + len(here)
        self._source.oldest = layout.received(min(missed + here)) if missed or here else None
        self._source.save(self._clock())


def side_by_side(names: Sequence[str], work: Callable[[str], int], most: int = SIDE_BY_SIDE) -> dict[str, int]:
    """Run ``work`` for each name in a process of its own, at most ``most`` at once; returns the exit codes."""
    waiting = list(names)
    running: dict[int, str] = {}
    codes: dict[str, int] = {}
    try:
        while waiting or running:
            while waiting and len(running) < most:
                name = waiting.pop(0)
                sys.stdout.flush()
                sys.stderr.flush()
                child = os.fork()
                if child == 0:
                    code = 1
                    try:
                        code = work(name)
                    except BaseException:  # noqa: BLE001  (this process is ours; it must not go on as its parent)
                        traceback.print_exc()
                    finally:
                        sys.stdout.flush()
                        sys.stderr.flush()
                        os._exit(code)
                running[child] = name
            child, status = os.wait()
            if child in running:
                codes[running.pop(child)] = os.waitstatus_to_exitcode(status)
    except BaseException:
        for child in running:
            os.kill(child, signal.SIGTERM)
        raise
    return codes
