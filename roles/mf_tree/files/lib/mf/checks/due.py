"""run-checks: cron's one entry. Which checks are due this minute, all of them in one interpreter.

A start of Python costs 6 ms of CPU, a fork 1 ms: so the hot parts of all checks run one after the other in this
process, each with its own lock, deadline and result, and only a cold part gets a process of its own, which can be slow
or die without harm to the others. This process waits for those, and ends one that overruns its deadline.
"""

from __future__ import annotations

import posix
import select
import time

from .. import run, state

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any, NoReturn

# the order in which they run: what waits for others comes last
ORDER = ("load", "processes", "queue", "smtp")
MERCY = 3.0  # seconds a cold part may overrun its deadline before it is killed
SIGKILL = 9


def due(minute: int, offset: int, period: float) -> bool:
    """Whether a check with this period (seconds) and offset (minutes) has its turn in a minute since the epoch."""
    return (minute - offset) % max(1, round(period / 60)) == 0


def overdue(places: state.Places, name: str, boottime: float) -> bool:
    """Whether the last result is missing or past its time: cron missed it, the clock jumped, or it never ran."""
    try:
        data = state.read_bytes(f"{places.results}/{name}.json", 65536) or b""
        return boottime > float(data.partition(b'"next_due_boottime": ')[2].partition(b",")[0])
    except (OSError, ValueError):
        return True


def main(argv: Sequence[str], *, generation: str, checks: Mapping[str, Mapping[str, Any]]) -> NoReturn:
    """Entry of the launcher /mf/bin/run-checks. ``checks`` maps a check's name to its settings."""
    dry_run = everything = False
    if argv:
        from ..cli import checks as command

        dry_run, everything = command.due(argv)
    else:
        rest = posix.environ.get(b"MF_SPLAY", b"")
        if rest.isdigit():
            # only cron's file sets it: hosts of a fleet don't all begin at second 0
            time.sleep(min(50, int(rest)))
    posix._exit(round_of(checks, generation, state.Places(), dry_run=dry_run, everything=everything))


def round_of(
    checks: Mapping[str, Mapping[str, Any]],
    generation: str,
    places: state.Places,
    *,
    dry_run: bool = False,
    everything: bool = False,
) -> int:
    """Run what is due; returns the most urgent exit code."""
    minute = int(time.time()) // 60
    codes = [0]
    cold: dict[int, tuple[int, run.Run, float]] = {}
    for name in [*ORDER, *(name for name in checks if name not in ORDER)]:
        values = checks.get(name)
        if values is None:
            continue
        offset, period = values.get("offset", 0), values.get("period", 60)
        timed = isinstance(offset, int) and isinstance(period, (int, float)) and not everything
        if timed and not due(minute, offset, period) and not overdue(places, name, state.boottime()):
            continue
        one = run.Run(_check(name), values, generation, places, dry_run)
        try:
            if not one.start():
                continue
        except OSError as error:
            codes.append(one.publish(one.unknown(f"no lock in {places.locks}: {error.strerror}")))
            continue
        outcome = one.look()
        if isinstance(outcome, state.Result):
            codes.append(one.publish(outcome))
        else:
            try:
                child = posix.fork()
            except OSError as error:
                # no memory, no process numbers left: say so, and let the others run
                codes.append(one.publish(one.unknown(f"no process for the cold part: {error.strerror}")))
                one.release()
                continue
            if child == 0:
                code = 3
                try:
                    code = one.publish(one.rest(outcome))
                finally:
                    posix._exit(code)
            cold[posix.pidfd_open(child)] = (child, one, one.time_left())
        # a child that was forked still holds it
        one.release()
    codes += _wait(cold)
    return max(codes, key=_URGENCY.__getitem__)


_URGENCY = {code: state.SEVERITY[word] for word, code in state.EXIT_CODES.items()}


def _wait(cold: dict[int, tuple[int, run.Run, float]]) -> list[int]:
    """Wait for the cold parts; what doesn't end in time is killed and reported for it."""
    codes = []
    begun = time.monotonic()
    poll = select.poll()
    for descriptor in cold:
        poll.register(descriptor, select.POLLIN)
    while cold:
        limits = {descriptor: begun + left + MERCY for descriptor, (_, _, left) in cold.items()}
        ended = [descriptor for descriptor, _ in poll.poll(max(0.0, min(limits.values()) - time.monotonic()) * 1000)]
        late = [] if ended else [one for one, limit in limits.items() if limit <= time.monotonic()]
        for descriptor in ended + late:
            child, one, _ = cold.pop(descriptor)
            poll.unregister(descriptor)
            posix.close(descriptor)
            if descriptor in late:
                posix.kill(child, SIGKILL)
            _, status = posix.waitpid(child, posix.WNOHANG if descriptor in late else 0)
            code = posix.waitstatus_to_exitcode(status) if descriptor not in late else -SIGKILL
            if code in _URGENCY:
                codes.append(code)
                continue
            how = "hung past its deadline and was killed" if descriptor in late else f"was killed by signal {-code}"
            codes.append(one.publish(one.unknown(f"the check {how}")))
    return codes


def _check(name: str) -> run.Check:
    try:
        found: run.Check = __import__(f"{__package__}.{name}", fromlist=["CHECK"]).CHECK
    except Exception as error:  # noqa: BLE001  (whatever a broken module does when it is loaded)
        # a broken release: the other checks still run, and this one says so
        problem = f"check {name} can't be loaded: {error}"

        def broken(*_: object) -> state.Result:
            return state.Result(name, state.UNKNOWN, problem)

        return run.Check(name, broken, {})
    return found
