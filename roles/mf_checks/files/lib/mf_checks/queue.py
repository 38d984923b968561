"""check-queue: Exim and its queue behind qpsmtpd. It takes no action.

Exim's spool is read without Exim (specification, chapter "Format of spool files"): each message has a file
``input/[X/]ID-H``, X being one character when the spool is split. The first six characters of an ID are its time of
arrival, seconds since the epoch in base 62, in the short IDs of old as in the long ones since Exim 4.97. A frozen
message has a line ``-frozen TIME`` among the options at the start of its -H file. A bounce of Exim's own that lies
there for minutes holds a message that a customer's server refused and that couldn't be kept (``mf_rejected.keeper``).

That time is the wall clock's, which may be set. So each result stores the oldest message with its arrival on the
boot-time clock (see ``age``): it ages by that clock, and no message counts as older. Two limits remain: a message
whose date lies in the future when it becomes the oldest counts from its first sight; and at the first run after a boot
only the wall clock is known.
"""

from __future__ import annotations

import posix
import time

from mf import run, smtp, state

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

NAME = "queue"
PURPOSE = "Watch Exim behind qpsmtpd: running, oldest and frozen messages, room in its spool."
RULES: run.Rules = {
    "unit": str,
    "spool": str,
    "address": str,  # where Exim listens for qpsmtpd, numeric
    "port": (1, 65535),
    "age_warning": (60, 30 * 86400),  # seconds in the queue
    "age_critical": (60, 30 * 86400),
    "frozen_critical": (1, 1000000),  # messages
    "free_warning": (0, 100),  # percent of the spool's bytes, and of its inodes
    "free_critical": (0, 100),
}

READ = 1000  # -H files read in one run to count the frozen and the unkept
GREETING = 10.0  # seconds
UNKEPT = 600.0  # seconds after which a refused message should have been kept; a failure is tried again in a minute


class Queue:
    """The spool's content: ``arrivals`` (epoch seconds, oldest first); of ``read`` messages ``frozen``, ``unkept``."""

    __slots__ = ("arrivals", "frozen", "read", "unkept")

    def __init__(self, arrivals: Sequence[int] = (), frozen: int = 0, read: int = 0, unkept: int = 0) -> None:
        self.arrivals = arrivals
        self.frozen = frozen
        self.read = read
        self.unkept = unkept


def arrival(name: str) -> int | None:
    """Epoch seconds from a message ID or a spool file's name; None when it is none."""
    if len(name) < 16 or name[6] != "-":
        return None
    value = 0
    for letter in name[:6]:
        if "0" <= letter <= "9":
            digit = ord(letter) - 48
        elif "A" <= letter <= "Z":
            digit = ord(letter) - 55
        elif "a" <= letter <= "z":
            digit = ord(letter) - 61
        else:
            return None
        value = value * 62 + digit
    return value


def is_frozen(head: bytes) -> bool:
    """Whether the beginning of a -H file marks its message as frozen.

    The options follow the envelope, each on a line that begins with a hyphen; a header or an address further down that
    looks like one doesn't count.
    """
    lines = head.split(b"\n")
    for line in lines[4:]:
        if line.startswith(b"-frozen"):
            return True
        if not line.startswith(b"-"):
            return False
    return False


def is_unkept(head: bytes) -> bool:
    """Whether the beginning of a -H file is that of a bounce made here whose message wasn't kept yet.

    With a route for bounces it may wait for that only: then the keeper's address is among the delivered ones, lines of
    a binary tree such as ``NN refused@keep.mf.invalid``.
    """
    lines = head.partition(b"\n\n")[0].split(b"\n")
    return (
        lines[2:3] == [b"<>"]
        and b"-received_protocol local" in lines
        and not any(line[:2].isalpha() and line[2:] == b" refused@keep.mf.invalid" for line in lines)
    )


def survey(spool: str, limit: int = READ, now: float = 0.0) -> Queue:
    """Read a spool; ``now``: epoch seconds. Raises OSError when there is none."""
    folder = spool + "/input"
    names = posix.listdir(folder)
    heads = [f"{folder}/{name}" for name in names if name.endswith("-H")]
    for name in names:
        if len(name) == 1 and name.isalnum():
            try:
                heads += [
                    f"{folder}/{name}/{entry}" for entry in posix.listdir(f"{folder}/{name}") if entry.endswith("-H")
                ]
            except OSError:
                continue
    dated = [(when, path) for path in heads if (when := arrival(path.rpartition("/")[2])) is not None]
    if not dated:
        return Queue()
    dated.sort()
    frozen = read = unkept = 0
    for when, path in _chosen(dated, limit, now):
        try:
            head = state.read_bytes(path, 4096)
        except OSError:
            continue
        if head is not None:  # otherwise it was delivered meanwhile
            read += 1
            frozen += is_frozen(head)
            unkept += now - when >= UNKEPT and is_unkept(head)
    return Queue([when for when, _ in dated], frozen, read, unkept)


def _chosen(dated: list[tuple[int, str]], limit: int, now: float) -> list[tuple[int, str]]:
    """The messages to read, oldest first: of a crowd the oldest, and the newest that can be unkept by now. Pure."""
    if len(dated) <= limit:
        return dated
    end = max(limit, sum(when <= now - UNKEPT for when, _ in dated))
    half = limit // 2
    return dated[:half] + dated[end - limit + half : end]


def age(arrivals: Sequence[int], before: object, epoch: float, boottime: float) -> tuple[float, str]:
    """``(seconds the oldest message has waited, the metric ``oldest`` for the next run)``. Pure.

    ``before`` is the former result's metric ``oldest``, ``ARRIVAL@BOOTTIME``: the arrival in epoch seconds of the
    message that was the oldest, -1 for none, and since when on the boot-time clock none can have waited longer.
    """
    former, _, since = str(before).partition("@")
    try:
        known, first = int(former), float(since)
    except ValueError:
        known, first = -1, -1e12
    if not -1e12 < first <= boottime:
        known, first = -1, -1e12
    if not arrivals:
        return 0.0, f"-1@{boottime // 1:.0f}"
    if known not in arrivals:
        known = arrivals[0]
        first = max(first, boottime - max(0.0, epoch - known))
    return boottime - first, f"{known}@{first // 1:.0f}"


def decide(queue: Queue, waited: float, free: float, inodes: float, values: run.Values) -> tuple[str, list[str]]:
    """``(status, problems)``. Pure."""
    problems: list[tuple[str, str]] = []
    if waited >= values["age_warning"]:
        from mf.text import span

        status = state.CRITICAL if waited >= values["age_critical"] else state.WARNING
        problems.append((status, f"oldest message {span(waited)}"))
    if queue.unkept:
        problems.append((state.CRITICAL, f"{queue.unkept} refused by a customer's server can't be kept"))
    if queue.frozen >= values["frozen_critical"]:
        problems.append((state.CRITICAL, f"{queue.frozen} frozen"))
    for amount, of in ((free, "space"), (inodes, "inodes")):
        if amount < values["free_warning"]:
            status = state.CRITICAL if amount < values["free_critical"] else state.WARNING
            problems.append((status, f"{amount:.0f}% of the spool's {of} free"))
    return state.worst([status for status, _ in problems]), [problem for _, problem in problems]


def probe(places: state.Places, values: run.Values) -> state.Result | run.Diagnosis:
    """Exim's greeting, its spool and the room it has."""
    greeting = smtp.greeting(values["address"], values["port"], GREETING)
    boottime, epoch = state.boottime(), time.time()
    try:
        queue = survey(values["spool"], now=epoch)
        free, inodes = state.free_percent(values["spool"])
    except OSError as error:
        return state.Result(NAME, state.CRITICAL, f"Exim's spool {values['spool']} can't be read: {error.strerror}")
    waited, oldest = age(queue.arrivals, run.former(places, NAME)["metrics"].get("oldest"), epoch, boottime)
    status, problems = decide(queue, waited, free, inodes, values)
    messages = len(queue.arrivals)
    counted = f"{messages} message{'' if messages == 1 else 's'}" + (f" ({READ} read)" if messages > READ else "")
    result = state.Result(NAME, status, ", ".join([counted, *problems]))
    result.metrics = {
        "messages": messages,
        "oldest_seconds": round(waited),
        "oldest": oldest,
        "frozen": queue.frozen,
        "unkept": queue.unkept,
        "free_percent": round(free, 1),
        "free_inodes_percent": round(inodes, 1),
        "greeting_seconds": round(greeting.seconds(), 6),
    }
    if queue.read < messages:
        result.metrics["read"] = queue.read
    if waited >= values["age_warning"]:
        result.metrics[state.BUT_FOR_TIME] = decide(queue, 0.0, free, inodes, values)[0]
    if greeting.outcome == smtp.ACCEPTED:
        return result
    return lambda dry_run: _without_exim(values, result, greeting)


def _without_exim(values: run.Values, result: state.Result, greeting: smtp.Dialogue) -> state.Result:
    """The result when Exim doesn't answer, with the state of its unit."""
    from . import systemd

    try:
        unit = systemd.show(values["unit"])
        how = f"{values['unit']} is {unit.active}" if unit.known else f"there is no unit {values['unit']}"
    except systemd.ServiceError as error:
        how = str(error)
    result.status = state.CRITICAL
    result.metrics.pop(state.BUT_FOR_TIME, None)
    result.summary = f"Exim doesn't answer ({greeting.describe()}), {how}; {result.summary}"
    return result


CHECK = run.Check(NAME, probe, RULES, PURPOSE)
