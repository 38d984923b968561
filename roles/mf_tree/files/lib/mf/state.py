"""State of a host, written so that a reader never sees half of it: places, clocks, files, JSON, locks,
results.

Fast path: every check imports this module each minute, on machines that may be struggling. It uses C modules only
(``posix`` instead of ``os`` saves about 1 ms of CPU a run), of json its C half. It is one file on purpose: see
docs/decisions/0089-one-module-for-a-hosts-state.md.

Clocks: freshness and leases are judged on CLOCK_BOOTTIME (man clock_gettime: seconds since boot, counting suspend,
never stepped), so setting the wall clock changes nothing. Epoch seconds are kept beside it for display.
"""

from __future__ import annotations

import _json
import fcntl
import posix
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any, TypeAlias

    Json: TypeAlias = "bool | int | float | str | Sequence[Json] | Mapping[str, Json] | None"

OK, WARNING, CRITICAL, UNKNOWN = "OK", "WARNING", "CRITICAL", "UNKNOWN"
EXIT_CODES = {OK: 0, WARNING: 1, CRITICAL: 2, UNKNOWN: 3}
SEVERITY = {OK: 0, WARNING: 1, UNKNOWN: 2, CRITICAL: 3}
# a metric: the status without what time alone brings (the end of a certificate, the age of a message); only beside that
BUT_FOR_TIME = "status_but_for_time"


class Places:
    """Directories and files of one host. ``root`` and ``proc`` let a test use a directory of its own."""

    __slots__ = (
        "boot",
        "current",
        "decisions",
        "etc",
        "locks",
        "maintenance",
        "marker",
        "parts",
        "persistent",
        "proc",
        "results",
        "settings",
    )

    def __init__(self, root: str = "", proc: str = "/proc") -> None:
        self.proc = proc
        self.current = root + "/mf/current"
        self.etc = root + "/mf/etc"
        self.settings = root + "/mf/etc/mf.json"
        self.persistent = root + "/mf/var/state"
        self.decisions = root + "/mf/var/log/decisions.jsonl"
        self.results = root + "/run/mf/state"
        self.locks = root + "/run/mf/lock"
        self.marker = root + "/run/mf/throttled"
        self.boot = root + "/run/mf/boot"
        self.maintenance = root + "/run/mf/maintenance"
        self.parts = root + "/run/mf/parts.json"  # when files of a role last changed here, by the deploy

    def lock(self, name: str, wait: float = 0.0) -> Lock:
        """A lock of this host. The *action lock*, ``ACTION``, is shared by restarts, kills, deploys and maintenance."""
        return Lock(f"{self.locks}/{name}.lock", wait, parents=True)


def boottime() -> float:
    """Seconds since boot (CLOCK_BOOTTIME), unaffected by clock steps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def worst(statuses: Sequence[str]) -> str:
    """The most urgent of some status words; OK for none. UNKNOWN ranks between WARNING and CRITICAL."""
    return max(statuses, key=SEVERITY.__getitem__, default=OK)


def read_bytes(path: str, limit: int = 1 << 20) -> bytes | None:
    """Up to ``limit`` bytes of a file, or None when there is none. Other errors are raised as OSError.

    Files in /proc have no size, hence the loop. A symbolic link as last component is refused (ELOOP): everything
    read by it lies in directories that only root writes to.
    """
    try:
        descriptor = posix.open(path, posix.O_RDONLY | posix.O_CLOEXEC | posix.O_NOFOLLOW)
    except FileNotFoundError:
        return None
    try:
        chunks = []
        step = 4096  # most files are small, and a large buffer costs page faults
        while limit > 0 and (chunk := posix.read(descriptor, min(limit, step))):
            chunks.append(chunk)
            limit -= len(chunk)
            step = 65536
        return b"".join(chunks)
    finally:
        posix.close(descriptor)


def content(path: str, limit: int = 65536) -> bytes:
    """Up to ``limit`` bytes of a file; empty when there is none or it can't be read."""
    try:
        return read_bytes(path, limit) or b""
    except OSError:
        return b""


def load(path: str, limit: int = 65536) -> dict[str, Any]:
    """The JSON object in a file; empty when there is none, or it is damaged or can't be read."""
    return decode(content(path, limit)) or {}


def free_percent(path: str) -> tuple[float, float]:
    """Percent of a file system's bytes and of its inodes that are free, root's reserve left out. Raises OSError.

    100 where a file system counts none.
    """
    figures = posix.statvfs(path)
    space = 100.0 * figures.f_bavail / figures.f_blocks if figures.f_blocks else 100.0
    return space, 100.0 * figures.f_favail / figures.f_files if figures.f_files else 100.0


def write_atomic(path: str, data: bytes, mode: int = 0o644, *, durable: bool = False) -> None:
    """Replace a file in one step: temporary file beside it, then rename. ``durable`` survives a power cut (fsync).

    Raises OSError, and then the old file is untouched and the temporary one is gone.
    """
    temporary = f"{path}.{posix.getpid()}.tmp"
    descriptor = posix.open(
        temporary, posix.O_WRONLY | posix.O_CREAT | posix.O_TRUNC | posix.O_CLOEXEC | posix.O_NOFOLLOW, mode
    )
    try:
        try:
            view = memoryview(data)
            while view:
                view = view[posix.write(descriptor, view) :]
            posix.fchmod(descriptor, mode)
            if durable:
                posix.fsync(descriptor)
        finally:
            posix.close(descriptor)
        posix.rename(temporary, path)
    except BaseException:
        try:
            posix.unlink(temporary)
        except FileNotFoundError:
            pass
        raise
    if durable:
        folder = posix.open(path.rpartition("/")[0] or "/", posix.O_RDONLY | posix.O_CLOEXEC)
        try:
            posix.fsync(folder)
        finally:
            posix.close(folder)


def put(path: str, data: bytes, mode: int = 0o644, *, durable: bool = False) -> None:
    """As ``write_atomic``; makes the directory when it is missing (/run is empty after a boot). Raises OSError."""
    try:
        write_atomic(path, data, mode, durable=durable)
    except FileNotFoundError:
        make_folder(path.rpartition("/")[0])
        write_atomic(path, data, mode, durable=durable)


def read_plain(path: str, limit: int = 65536) -> tuple[bytes | None, str]:
    """The bytes of a plain file, one more than ``limit`` at most, and what is wrong with it. (None, "") for none."""
    try:
        # this also keeps us from waiting for ever on a FIFO
        if posix.lstat(path).st_mode & 0o170000 != 0o100000:
            return None, "not a plain file"
        return read_bytes(path, limit + 1), ""
    except (FileNotFoundError, NotADirectoryError):
        return None, ""
    except OSError as error:
        return None, f"unreadable ({error.strerror})"


def boot_token(places: Places, *, make: bool = True) -> str:
    """A token of this boot: 16 letters on tmpfs, made when missing; "" when it can't be made."""
    token = (read_plain(places.boot)[0] or b"").strip().decode("ascii", "replace")
    if len(token) == 16 and token.isalnum():
        return token
    token = posix.urandom(8).hex() if make else ""
    try:
        if make:
            put(places.boot, token.encode() + b"\n")
    except IsADirectoryError:
        posix.rename(places.boot, f"{places.boot}.aside-{token}")
        return boot_token(places)
    except OSError:
        return ""
    return token


def make_folder(path: str, mode: int = 0o755) -> None:
    """Make a directory and those above it, when they are missing."""
    try:
        posix.mkdir(path, mode)
    except FileExistsError:
        return
    except FileNotFoundError:
        make_folder(path.rpartition("/")[0], mode)
        make_folder(path, mode)


class _Scanning:
    """The options that json.JSONDecoder gives its scanner."""

    strict = True
    object_hook = object_pairs_hook = None
    parse_float, parse_int, parse_constant = float, int, float


def _plain(value: Any) -> Json:
    """A mapping or a sequence of another type as a dict or a list, which the encoder accepts."""
    return dict(value) if hasattr(value, "items") else list(value)


def _finite(value: Any) -> Json:
    """The value with null for every inf and nan, which have no JSON form."""
    if isinstance(value, float):
        return value if value - value == 0 else None
    if hasattr(value, "items"):
        return {key: _finite(item) for key, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, (list, tuple)) else value


# the C half of json, whose Python half would load re: 0.3 ms instead of 5
_scanning: Any = _Scanning
_scan = _json.make_scanner(_scanning)
_write = _json.make_encoder(None, _plain, _json.encode_basestring_ascii, None, ": ", ", ", False, False, False)


def encode(value: Json) -> str:
    """JSON text of a value, pure ASCII (RFC 8259); inf and nan become null."""
    try:
        return "".join(_write(value, 0))
    except ValueError:
        return "".join(_write(_finite(value), 0))


def decode(data: bytes | None) -> dict[str, Any] | None:
    """The JSON object in some bytes, or None for anything else: absent, torn, not an object, nested too deep."""
    try:
        text = (data or b"").decode().strip(" \t\r\n")
        value, end = _scan(text, 0)
    except (StopIteration, ValueError, RecursionError, SystemError):
        # SystemError: the scanner's JSONDecodeError, which it can't raise while json isn't imported
        return None
    return value if isinstance(value, dict) and end == len(text) else None


class Lock:
    """An exclusive flock(2) on a file, which the kernel ends with its last holder, however that dies.

    ``with places.lock("smtp") as held:`` — ``held`` is False when another process has it and ``wait`` (seconds) has
    passed. ``create``: make the file; ``parents``: and the directories above it. Raises OSError.
    """

    __slots__ = ("_create", "_descriptor", "_parents", "_path", "_wait")

    def __init__(self, path: str, wait: float = 0.0, *, create: bool = True, parents: bool = False) -> None:
        self._path = path
        self._wait = wait
        self._create = posix.O_CREAT if create else 0
        self._parents = parents
        self._descriptor = -1

    def __enter__(self) -> bool:
        flags = posix.O_RDWR | posix.O_CLOEXEC | posix.O_NOFOLLOW | self._create
        try:
            self._descriptor = posix.open(self._path, flags, 0o600)
        except FileNotFoundError:
            if not self._parents:
                raise
            make_folder(self._path.rpartition("/")[0])
            self._descriptor = posix.open(self._path, flags, 0o600)
        give_up = time.monotonic() + self._wait
        while True:
            try:
                fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return True
            except BlockingIOError:
                left = give_up - time.monotonic()
            except BaseException:
                self.__exit__()
                raise
            if left <= 0:
                self.__exit__()
                return False
            time.sleep(min(0.05, left))

    def fileno(self) -> int:
        """The descriptor, for a child to inherit: then the lock ends with the last of both. -1 while it isn't held."""
        return self._descriptor

    def __exit__(self, *_: object) -> None:
        if self._descriptor >= 0:
            posix.close(self._descriptor)
            self._descriptor = -1


ACTION = "action"


class Result:
    """The result of one run of a check: status, one line for the operator, numbers for graphs, actions taken.

    ``metrics`` maps names to numbers or short strings. The last word of a name is its unit: ``_seconds``,
    ``_bytes``, ``_percent``; all others are counts. ``actions`` are short sentences, newest last.
    """

    __slots__ = ("actions", "check", "metrics", "status", "summary")

    def __init__(self, check: str, status: str, summary: str, metrics: Mapping[str, float | str] | None = None) -> None:
        self.check = check
        self.status = status
        self.summary = summary
        self.metrics: dict[str, float | str] = dict(metrics) if metrics else {}
        self.actions: list[str] = []

    def line(self) -> str:
        """One Nagios plugin line with performance data (Monitoring Plugins Development Guidelines, 2.6)."""
        figures = [
            f"{name}={round(value, 6):g}{_UNITS.get(name.rpartition('_')[2], '')}"
            for name, value in self.metrics.items()
            if not isinstance(value, str)
        ]
        text = f"{self.check.upper()} {self.status} - {self.summary}".replace("|", "/")
        return text + (" | " + " ".join(figures) if figures else "")


_UNITS = {"seconds": "s", "bytes": "B", "percent": "%"}


def write_result(
    places: Places, result: Result, *, generation: str, started: float, period: float, slack: float
) -> dict[str, Json]:
    """Store a result as ``/run/mf/state/<check>.json`` and return what was stored.

    ``started`` is epoch seconds. ``since`` is carried over while the status stays the same. The next result is due
    within ``period + slack`` seconds; a reader judges that on CLOCK_BOOTTIME.
    """
    path = f"{places.results}/{result.check}.json"
    finished = time.time()
    record: dict[str, Json] = {
        "check": result.check,
        "status": result.status,
        "summary": result.summary,
        "metrics": result.metrics,
        "since": _since(path, result.status, started),
        "started": round(started, 3),
        "finished": round(finished, 3),
        "next_due": round(finished + period + slack, 3),
        "next_due_boottime": round(boottime() + period + slack, 3),
        "actions": result.actions,
        "generation": generation,
    }
    put(path, (encode(record) + "\n").encode())
    return record


def _since(path: str, status: str, now: float) -> float:
    """Since when the status holds, in epoch seconds: carried over from the former result."""
    before = load(path)
    since = before.get("since")
    if before.get("status") == status and isinstance(since, (int, float)) and 0 < since <= now:
        return since
    return round(now, 3)
