"""run-checks: cron's one entry. It runs the checks that are due this minute in one interpreter.

A start of Python costs 6 ms of CPU, a fork 1 ms: so the fast paths of all checks run one after the other in this
process, each with its own lock, deadline and result, and only a diagnosis gets a process of its own, which can be slow
or die without harm to the others. This process waits for those, and ends one that overruns its deadline.
"""

from __future__ import annotations

import posix
import time

from mf import run, state

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as _signal
    from collections.abc import Mapping, Sequence
    from typing import Any, NoReturn
else:
    import _signal

# the order in which they run: a check that waits for other programs comes last
ORDER = ("load", "processes", "queue", "smtp")
MERCY = 3.0  # seconds a diagnosis may overrun its deadline before it is killed
SIGKILL = 9
SILENT = 4  # exit code of a diagnosis that ended without a result
_ENDED = (_signal.SIGCHLD,)


def due(minute: int, offset: int, period: float) -> bool:
    """Whether a check with this period (seconds) and offset (minutes) is due in a minute since the epoch."""
    return (minute - offset) % max(1, round(period / 60)) == 0


def main(argv: Sequence[str], *, generation: str, checks: Mapping[str, Mapping[str, Any]]) -> NoReturn:
    """Entry of the launcher /mf/bin/run-checks. ``checks``: a check's name to its settings, ``module`` among them."""
    dry_run = everything = False
    if argv:
        from mf import arguments

        purpose = "Run the checks that are due this minute (cron does, every minute)."
        command = arguments.command("run-checks", purpose, " Of several checks, the most urgent.")
        command.add_argument("--all", action="store_true", help="every check of this host, due or not")
        chosen = command.parse_args(argv)
        dry_run, everything = chosen.dry_run, chosen.all
    else:
        splay = posix.environ.get(b"MF_SPLAY", b"")
        if splay.isdigit():
            # only cron's file sets it: hosts of a fleet don't all begin at second 0
            time.sleep(min(50, int(splay)))
    posix._exit(round_of(checks, generation, state.Places(), dry_run=dry_run, everything=everything))


def round_of(
    checks: Mapping[str, Mapping[str, Any]],
    generation: str,
    places: state.Places,
    *,
    dry_run: bool = False,
    everything: bool = False,
) -> int:
    """Run the checks that are due; returns the most urgent exit code."""
    minute = int(time.time()) // 60
    codes = [0]
    diagnoses: dict[int, tuple[run.Run, float]] = {}
    for name in [*ORDER, *(name for name in checks if name not in ORDER)]:
        values = checks.get(name)
        if values is None:
            continue
        offset, period = values.get("offset", 0), values.get("period", 60)
        timed = isinstance(offset, int) and isinstance(period, (int, float)) and not everything
        if timed and not due(minute, offset, period) and not run.overdue(places, name):
            continue
        check_run = run.Run(_check(name, values), values, generation, places, dry_run)
        try:
            if not check_run.start():
                codes.append(check_run.left_alone())
                continue
        except OSError as error:
            codes.append(check_run.publish(check_run.unknown(f"no lock in {places.locks}: {error.strerror}")))
            continue
        outcome = check_run.probe()
        if isinstance(outcome, state.Result):
            codes.append(check_run.publish(outcome))
        else:
            # blocked, so that _wait can take it as the sign of a child's end without a descriptor for it
            _signal.pthread_sigmask(_signal.SIG_BLOCK, _ENDED)
            try:
                child = posix.fork()
            except OSError as error:
                # no memory, no process numbers left: report it, and let the others run
                codes.append(check_run.publish(check_run.unknown(f"no process for the diagnosis: {error.strerror}")))
                check_run.release()
                continue
            if child == 0:
                code = SILENT
                try:
                    _signal.pthread_sigmask(_signal.SIG_UNBLOCK, _ENDED)
                    code = check_run.publish(check_run.diagnose(outcome))
                except BaseException as error:  # noqa: BLE001  (nothing may get past the fork; the parent reports it)
                    run.complain(f"{name}: the result can't be published: {type(error).__name__}: {error}")
                finally:
                    posix._exit(code)
            diagnoses[child] = (check_run, check_run.time_left())
        # a forked child still holds the lock
        check_run.release()
    codes += _wait(diagnoses)
    return max(codes, key=_URGENCY.__getitem__)


_URGENCY = {code: state.SEVERITY[status] for status, code in state.EXIT_CODES.items()}


def _wait(diagnoses: dict[int, tuple[run.Run, float]]) -> list[int]:
    """Wait for the diagnoses; kill the ones that don't end in time, and report for them."""
    codes = []
    begun = time.monotonic()
    limits = {child: begun + left + MERCY for child, (_, left) in diagnoses.items()}
    while diagnoses:
        for child, (check_run, _) in list(diagnoses.items()):
            ended, status = posix.waitpid(child, posix.WNOHANG)
            late = not ended and limits[child] <= time.monotonic()
            if late:
                posix.kill(child, SIGKILL)
            elif not ended:
                continue
            del diagnoses[child]
            code = -SIGKILL if late else posix.waitstatus_to_exitcode(status)
            if code in _URGENCY:
                codes.append(code)
                continue
            end = "ended without a result" if code >= 0 else f"was killed by signal {-code}"
            end = "hung past its deadline and was killed" if late else end
            codes.append(check_run.publish(check_run.unknown(f"the check {end}")))
        if diagnoses:
            _signal.sigtimedwait(_ENDED, max(0.0, min(limits[child] for child in diagnoses) - time.monotonic()))
    return codes


def _check(name: str, values: Mapping[str, Any]) -> run.Check:
    try:
        check: run.Check = __import__(values["module"], fromlist=["CHECK"]).CHECK
    except Exception as error:  # noqa: BLE001  (whatever a broken module does when it is loaded)
        # a broken release: the other checks still run, and this one reports it
        problem = f"check {name} can't be loaded: {error}"

        def broken(*_: object) -> state.Result:
            return state.Result(name, state.UNKNOWN, problem)

        return run.Check(name, broken, {}, "")
    return check
