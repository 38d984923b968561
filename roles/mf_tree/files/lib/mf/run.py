"""One run of a check: lock, deadline, generation, settings, result, Nagios line, exit code. Fast path.

A check is a module of a role's package with these::

    RULES = {"high": (0.1, 10000), "address": str}      # its own settings: lowest and highest number, or str
    def probe(places, values):                          # the fast path: reads, acts on nothing
        ...
        return Result("load", OK, "0.12 ...", {...})    # healthy: that was all
        return lambda dry_run: diagnose(...)            # anything odd: the slow path, which may import any module
    CHECK = run.Check("load", probe, RULES, "Compare the load with its thresholds.")

and a launcher that calls ``run.main(load.CHECK, sys.argv[1:], generation="...", period=120, high=5.0, ...)``.
``probe`` finds its settings in ``values`` (complete, of the right kind, in range; ``period`` and ``deadline`` too).
The slow path gets ``dry_run`` and returns a Result; with ``dry_run`` it lists in ``actions`` what it would do, does
nothing, stores nothing. It may run until the deadline, then ``DeadlinePassed`` is raised in it.
Under run-checks the fast paths of all checks share one process and each slow path gets a process of its own.
"""

from __future__ import annotations

import posix
import time

from . import state

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as _signal
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any, NoReturn, TypeAlias

    Values: TypeAlias = Mapping[str, Any]
    Diagnosis: TypeAlias = Callable[[bool], state.Result]
    Probe: TypeAlias = Callable[[state.Places, Values], "state.Result | Diagnosis"]
    Rules: TypeAlias = Mapping[str, "tuple[float, float] | type[str]"]
else:
    import _signal

SLACK = 15.0  # seconds a result may be later than period + deadline: cron's own delay, splay, a slow start
_EVERY: Rules = {"period": (60, 86400), "deadline": (1, 3600)}


class DeadlinePassed(BaseException):
    """The run's time is up. Not an Exception, so that no ``except Exception`` on the way swallows it."""


class Check:
    """A check's name, its fast path, the rules for its settings and, for ``--help``, its purpose."""

    __slots__ = ("name", "probe", "purpose", "rules")

    def __init__(self, name: str, probe: Probe, rules: Rules, purpose: str) -> None:
        self.name = name
        self.probe = probe
        self.rules = rules
        self.purpose = purpose


class Run:
    """One run of one check. Use in this order: ``start``, ``probe``, then ``diagnose`` if need be, then ``publish``."""

    __slots__ = (
        "_give_up",
        "_lock",
        "_started",
        "_store",
        "as_json",
        "check",
        "dry_run",
        "generation",
        "places",
        "values",
    )

    def __init__(
        self,
        check: Check,
        values: Values,
        generation: str,
        places: state.Places,
        dry_run: bool = False,
        as_json: bool = False,
    ) -> None:
        self.check = check
        self.values = values
        self.generation = generation
        self.places = places
        self.dry_run = dry_run
        self.as_json = as_json
        self._store = not dry_run
        self._started = time.time()
        self._give_up = 0.0
        self._lock = places.lock(check.name)

    def start(self) -> bool:
        """Take the check's lock. False when another run of it is under way. Raises OSError when /run is unusable."""
        return self._lock.__enter__()

    def left_alone(self) -> int:
        """The exit code when ``start`` found another run under way: that run reports, unless it hangs."""
        if not overdue(self.places, self.check.name):
            return 0
        # printed, not stored: the run under way may still store its result
        self._store = False
        return self.publish(self.unknown("another run is under way, and the last result is missing or past its time"))

    def release(self) -> None:
        """Give the lock back, here; a forked child that shares it still holds it."""
        self._lock.__exit__()

    def probe(self) -> state.Result | Diagnosis:
        """The fast path. Every failure becomes a result."""
        problem = self._problem()
        if problem is not None:
            return problem
        self._give_up = time.monotonic() + self.values["deadline"]
        return self._guarded(lambda: self.check.probe(self.places, self.values))

    def diagnose(self, function: Diagnosis) -> state.Result:
        """The slow path, in the rest of the deadline."""
        outcome = self._guarded(lambda: function(self.dry_run))
        return outcome if isinstance(outcome, state.Result) else self.unknown("a bug: the diagnosis gave no result")

    def publish(self, result: state.Result) -> int:
        """Store the result, print it, return the exit code. A result that can't be stored is still printed."""
        record: Mapping[str, state.Json] | None = None
        if self._store:
            try:
                record = state.write_result(
                    self.places,
                    result,
                    generation=self.generation,
                    started=self._started,
                    period=_number(self.values.get("period"), 60),
                    slack=_number(self.values.get("deadline"), 60) + SLACK,
                )
            except OSError as error:
                complain(f"{self.check.name}: the result can't be stored in {self.places.results}: {error.strerror}")
        if self.as_json:
            record = record or {
                "check": result.check,
                "status": result.status,
                "summary": result.summary,
                "metrics": result.metrics,
                "actions": result.actions,
            }
            write_line(1, state.encode(record))
        else:
            write_line(1, result.line())
            if self.dry_run:
                for action in result.actions:
                    write_line(1, action)
        return state.EXIT_CODES[result.status]

    def unknown(self, summary: str) -> state.Result:
        """An UNKNOWN result with its reason."""
        return state.Result(self.check.name, state.UNKNOWN, summary)

    def time_left(self) -> float:
        """Seconds until the deadline."""
        return self._give_up - time.monotonic()

    def _guarded(self, function: Callable[[], state.Result | Diagnosis]) -> state.Result | Diagnosis:
        try:
            _signal.signal(_signal.SIGALRM, _alarm)
            # again each second, in case the first signal arrives where its exception is swallowed
            _signal.setitimer(_signal.ITIMER_REAL, max(0.001, self.time_left()), 1.0)
            try:
                return function()
            finally:
                _signal.setitimer(_signal.ITIMER_REAL, 0)
        except DeadlinePassed:
            return self.unknown(f"did not finish within {self.values['deadline']:g} s")
        except Exception as error:  # noqa: BLE001  (the last line of defence: it becomes a result)
            return self.unknown(_explain(self.check.name, error))

    def _problem(self) -> state.Result | None:
        """The obstacle to this run: settings of another release, torn or out of range. None without any."""
        problem = wrong_setting(self.values, _EVERY) or wrong_setting(self.values, self.check.rules)
        if problem is not None:
            problem = f"setting {problem}; deploy again with playbooks/site.yml"
            complain(f"{self.check.name}: {problem}")
            return self.unknown(problem)
        if stamped(self.places, self.generation):
            return None
        from . import config

        try:
            current = config.load(self.places)["generation"]
        except config.SettingsError as error:
            complain(f"{self.check.name}: {error}")
            return self.unknown(str(error))
        problem = f"this launcher is of release {self.generation}, {self.places.settings} of {current}"
        if overtaken(self.places, self.generation):
            # a deploy finished while this run began: the next run, of the new release, reports the state
            self._store = False
            return self.unknown(f"{problem}: a deploy overtook this run")
        return self.unknown(f"{problem}; deploy again with playbooks/site.yml")


def main(check: Check, argv: Sequence[str], *, generation: str, **values: Any) -> NoReturn:
    """Run one check and end the process with its exit code: 0 1 2 3.

    While another run is under way: 0 and no output, as long as the last result is in time.
    """
    dry_run = as_json = False
    if argv:
        from . import arguments

        dry_run, as_json = arguments.check(check.name, check.purpose, argv)
    posix._exit(execute(Run(check, values, generation, state.Places(), dry_run, as_json)))


def execute(run: Run) -> int:
    """A whole run in this process; returns the exit code."""
    try:
        if not run.start():
            return run.left_alone()
    except OSError as error:
        return run.publish(run.unknown(f"no lock in {run.places.locks}: {error.strerror}"))
    outcome = run.probe()
    if not isinstance(outcome, state.Result):
        outcome = run.diagnose(outcome)
    code = run.publish(outcome)
    run.release()
    return code


def wrong_setting(values: Values, rules: Rules) -> str | None:
    """A message on the first setting that is missing, of the wrong kind or out of range; None when there is none."""
    for name, rule in rules.items():
        value = values.get(name)
        if isinstance(rule, tuple):
            lowest, highest = rule
            if type(value) not in (int, float) or not lowest <= value <= highest:  # type: ignore[operator]
                return f"{name} must be a number from {lowest:g} to {highest:g}, not {value!r:.40}"
        elif not isinstance(value, str):
            return f"{name} must be a text, not {value!r:.40}"
    return None


def overdue(places: state.Places, name: str) -> bool:
    """Whether a check's last result is missing or past its time: cron missed it, a run hangs, or none ever ended."""
    due = former(places, name).get("next_due_boottime")
    return not isinstance(due, (int, float)) or state.boottime() > due


def former(places: state.Places, name: str) -> dict[str, Any]:
    """A check's former result, as ``state.write_result`` stored it; without one its ``metrics`` alone, empty."""
    record = state.load(f"{places.results}/{name}.json")
    if not isinstance(record.get("metrics"), dict):
        record["metrics"] = {}
    return record


def stamped(places: state.Places, generation: str) -> bool:
    """Whether mf.json is whole and of this generation.

    A positive answer is kept, because a round of checks asks several times within milliseconds.
    """
    if _stamped == [places.settings, generation]:
        return True
    if state.load(places.settings, 1 << 20).get("generation") != generation:
        return False
    _stamped[:] = [places.settings, generation]
    return True


_stamped: list[str] = []


def overtaken(places: state.Places, generation: str) -> bool:
    """Whether /mf/current already names another release than the one this run belongs to."""
    try:
        return posix.readlink(places.current).rpartition("/")[2] != generation
    except OSError:
        return False


def write_line(descriptor: int, line: str) -> None:
    """Write a line to stdout (1) or stderr (2); a closed descriptor is no error."""
    try:
        posix.write(descriptor, (line + "\n").encode(errors="backslashreplace"))
    except OSError:
        pass


def complain(line: str) -> None:
    """One line on stderr."""
    write_line(2, f"mf: {line}")


def _number(value: object, otherwise: float) -> float:
    return value if isinstance(value, (int, float)) and 0 < value <= 86400 else otherwise


def _alarm(*_: object) -> None:
    raise DeadlinePassed


def _explain(name: str, error: Exception) -> str:
    """An unexpected exception in one line; its traceback goes to the journal only."""
    import traceback

    from . import decisions, text

    summary = text.clean(f"{type(error).__name__}: {error}", 200)
    decisions.journal(
        f"{name}: {summary}",
        {"PRIORITY": "3", "MF_CHECK": name, "MF_TRACEBACK": "".join(traceback.format_exception(error))},
    )
    return f"internal error: {summary}"
