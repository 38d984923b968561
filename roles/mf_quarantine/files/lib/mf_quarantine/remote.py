"""rsync from one MX, over ssh: list its files, fetch some."""

from __future__ import annotations

import os
import re
import select
import subprocess
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from mf import message_id, state, text

from . import QuarantineError, layout

RSYNC = "/usr/bin/rsync"
SILENCE = 900
"""Seconds without a byte after which rsync gives up; the MX's end may wait ten minutes for its throttle."""
LONGEST = 1800.0
"""Seconds that one rsync may take, that wait included. Files that are complete by then are kept."""
LISTED = re.compile(rb"-[-rwxsStT]{9}[.+@]? +([0-9,.]+) \d{4}/\d\d/\d\d \d\d:\d\d:\d\d (.+)")


class PullError(QuarantineError):
    """An MX can't be read."""


class File(NamedTuple):
    """A file below an MX's folder of rejected mail: its path there and its bytes."""

    path: str
    size: int

    @property
    def name(self) -> str:
        """The last part of the path: a message's id, if the file is ours."""
        return self.path.rpartition("/")[2]


class Remote:
    """rsync from one MX. ``shell`` is what rsync's ``-e`` takes; ``held`` are descriptors that rsync inherits."""

    def __init__(self, address: str, shell: Sequence[str], held: Sequence[int] = ()) -> None:
        host = f"[{address}]" if ":" in address else address
        self._place = f"mf-pull@{host}:/"
        self._shell = " ".join(shell)
        self._held = tuple(held)

    def listing(self, filters: Sequence[str]) -> Iterator[File | None]:
        """Every file that the filters match; None for a line that isn't about a plain file.

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
            errors = bytearray()
            end = state.boottime() + LONGEST
            try:
                for line in _lines(process, errors, end):
                    if line.startswith(b"d"):
                        continue
                    match = LISTED.fullmatch(line)
                    yield File(match[2].decode("latin-1"), int(re.sub(rb"\D", b"", match[1]))) if match else None
                process.wait(max(0.0, end - state.boottime()))
            except subprocess.TimeoutExpired:
                process.kill()
                raise PullError(_LATE) from None
            except BaseException:
                process.kill()
                raise
        # 24: something was purged meanwhile
        if process.returncode not in (0, 24):
            raise PullError(_explain(process.returncode, errors))

    def fetch(self, paths: Sequence[str], target: str) -> None:
        """Copy some files into a folder, with their relative paths; those that have vanished are left out."""
        os.makedirs(target, 0o750, exist_ok=True)
        # each file is renamed into its place when it is whole
        command = [*self._rsync(), "--files-from=-", "--from0", "--chmod=D750,F640", self._place, target + "/"]
        try:
            done = subprocess.run(
                command,
                # The last name is terminated, too: otherwise, if the list is longer than one read, rsync 3.2.7 may
                # refuse the whole transfer: "rejecting unrequested file-list name".
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
        return [RSYNC, "--recursive", "--times", "--whole-file", f"--timeout={SILENCE}", "-e", self._shell]


_ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C"}
_LATE = f"rsync took longer than {LONGEST / 60:.0f} min and was ended; the next run goes on"


def _lines(process: subprocess.Popen[bytes], errors: bytearray, end: float) -> Iterator[bytes]:
    """The lines of a process's stdout. The beginning of its stderr is added to ``errors``, the rest is dropped, so
    neither pipe is ever full. Raises TimeoutExpired unless both are at their end by ``end``.
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
                errors += data[: max(0, 4096 - len(errors))]
            else:
                *lines, rest = (rest + data).split(b"\n")
                yield from lines
    if rest:
        yield rest


def _explain(code: int, errors: bytes | bytearray) -> str:
    lines = [line for line in errors.decode("latin-1").splitlines() if line.strip()]
    # ssh's message, or rsync's first, explains more than rsync's last
    message = text.clean(lines[0], 160) if lines else "no message"
    return f"rsync ended with {code}: {message}"


EVERYTHING = ("--include=/????-??-??/", "--include=/*/*/", "--include=/*/*/new/", "--include=/*/*/new/*", "--exclude=*")
"""Filters that match every complete file."""


def recent(since: float, now: float) -> list[str]:
    """Filters that match files of the hours from ``since`` until after ``now`` (epoch seconds)."""
    hours = range(int(since // 3600), int(now // 3600) + 2)
    stamps = [layout.bound(hour * 3600.0) for hour in hours]
    days = dict.fromkeys(map(message_id.day, stamps))
    folders = [f"--include=/{day}/{below}" for day in days for below in ("", "*/", "*/new/")]
    return [*folders, *(f"--include=/{message_id.day(stamp)}/*/new/{stamp[:11]}*" for stamp in stamps), "--exclude=*"]
