"""check-load: take the throttle's lease ``load`` while this machine is overloaded, and give it back afterwards.

Load is the one-minute average in /proc/loadavg (man proc), the figure uptime shows. At or above ``high`` the lease
marks and refuses new mail (marks only on a host without SMTP, or when the fleet can't spare it); below ``low`` for two
runs it is given back; in between nothing changes. With ``mark``, a lower threshold, the lease first marks only.
``per_core`` counts thresholds per processor. The lease is renewed by each run and ends by itself if runs stop.

The fast path reads three facts and ends: load below every threshold, no marker and no leases on disk, marker and
firewall compared within the last ten minutes with nothing in force. A marker that is missing though something was in
force is lost: its leases are put back from the disk, or its refusal is ended, and the result reports it.
"""

from __future__ import annotations

import posix

from mf import run, state

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mf.throttle import control

RECONCILE_EVERY = 600.0  # seconds between two comparisons of marker and firewall while nothing is throttled
CALM_RUNS = 2  # runs below ``low`` before the lease is given back

NONE, MARK, REFUSE = "none", "mark", "refuse"  # the kinds of the lease of load


def probe(places: state.Places, values: run.Values) -> state.Result | run.Diagnosis:
    """The fast path; anything else is left to ``diagnose``."""
    try:
        load1, load5, load15 = parse(state.read_bytes(places.proc + "/loadavg", 128) or b"")
    except (OSError, ValueError):
        # no lease is touched: the check's own runs out by itself, an operator's goes on
        return state.Result("load", state.UNKNOWN, f"{places.proc}/loadavg can't be read")
    scale = (posix.cpu_count() or 1) if values.get("per_core") else 1
    high, mark = values["high"] * scale, values.get("mark")
    limit = min(high, mark * scale) if isinstance(mark, (int, float)) else high
    metrics = {"load1": load1, "load5": load5, "load15": load15}
    throttled = _exists(places.marker) or _exists(places.persistent + "/leases.json")
    if load1 < limit and not throttled and _reconciled(places):
        return state.Result("load", state.OK, f"load {load1:g}", metrics)
    return lambda dry_run: diagnose(places, values, scale, metrics, dry_run)


def parse(loadavg: bytes) -> tuple[float, float, float]:
    """The three averages in /proc/loadavg: ``0.20 0.18 0.12 1/80 11206``. Raises ValueError."""
    fields = loadavg.split(None, 3)
    if len(fields) < 4:
        raise ValueError("no load averages")
    load1, load5, load15 = float(fields[0]), float(fields[1]), float(fields[2])
    if not (0 <= load1 < 1e9 and 0 <= load5 < 1e9 and 0 <= load15 < 1e9):
        raise ValueError("no load averages")
    return load1, load5, load15


def decide(
    load: float, holding: str, calm_runs: int, *, high: float, low: float, mark: float | None
) -> tuple[str, int]:
    """The kind of lease to hold, and for how many runs in a row the load has been low enough to give it back.

    ``holding`` is its kind now. Hysteresis: a load that swings between ``low`` and ``high`` changes nothing.
    """
    if load >= high:
        return REFUSE, 0
    marks = mark is not None and load >= mark
    if holding == NONE:
        return (MARK, 0) if marks else (NONE, 0)
    floor = low if holding == REFUSE or mark is None else min(low, mark)
    if load >= floor:
        return holding, 0
    if calm_runs + 1 < CALM_RUNS:
        return holding, calm_runs + 1
    return (MARK, 0) if marks else (NONE, 0)


def diagnose(
    places: state.Places, values: run.Values, scale: float, metrics: dict[str, float], dry_run: bool
) -> state.Result:
    """The slow path: decide, take, renew or give back the lease, and reconcile the throttle."""
    from mf import Failure, claims, config
    from mf.throttle import control, lease, marker

    try:
        settings = config.load(places)
    except config.SettingsError as error:
        run.complain(f"load: {error}")
        return state.Result("load", state.UNKNOWN, str(error), metrics)
    load = metrics["load1"]
    high, low = values["high"] * scale, values["low"] * scale
    mark = values["mark"] * scale if isinstance(values.get("mark"), (int, float)) else None
    leases = marker.current(places).leases
    own = lease.find(leases, claims.LOAD)
    holding = NONE if own is None else REFUSE if own.refuse else MARK
    want, calm_runs = decide(load, holding, _calm_runs(places), high=high, low=low, mark=mark)
    # the work after the wait, nft above all, has to fit into the deadline too
    patience = values["deadline"] / 4
    throttle = control.Control(places, settings, check="load", dry_run=dry_run, patience=patience)
    reason = f"load {load:g}, limit {high:g}"
    figures: dict[str, float | str] = {**metrics, "calm_runs": calm_runs}
    try:
        if want == NONE:
            outcome = throttle.reconcile() if own is None else throttle.off(claims.LOAD)
        else:
            ttl = float(settings["throttle"]["lease_ttl"])
            outcome = throttle.on(claims.LOAD, reason, ttl, refuse=want == REFUSE, mark_instead=True, leases=leases)
    except Failure as error:
        status = state.CRITICAL if want == REFUSE else state.WARNING
        return state.Result("load", status, f"load {load:g}; the throttle can't be set: {error}", figures)
    return report(load, outcome, figures, can_refuse=throttle.can_refuse)


def report(
    load: float, outcome: control.Outcome, figures: dict[str, float | str], *, can_refuse: bool = True
) -> state.Result:
    """The result after the throttle was brought into line."""
    after = outcome.after
    parts = [f"load {load:g}"]
    status = state.OK
    if after.throttled:
        status = state.WARNING
        parts.append(after.describe())
    if outcome.over_budget:
        status = state.WARNING
        parts.append(outcome.over_budget)
    if outcome.warnings:
        status = state.WARNING
        parts.extend(outcome.warnings)
    if after.wrong and not after.throttled:
        parts.append(after.describe())
    if after.held or (after.wrong and can_refuse):
        status = state.CRITICAL
    figures = {**figures, "leases": len(after.leases), "refusing": int(after.refusing)}
    result = state.Result("load", status, "; ".join(parts), figures)
    result.actions.extend(outcome.actions)
    return result


def _calm_runs(places: state.Places) -> int:
    """The count in the former result; 0 when unknown."""
    count = run.former(places, "load")["metrics"].get("calm_runs")
    return count if isinstance(count, int) and 0 <= count < CALM_RUNS else 0


def _exists(path: str) -> bool:
    try:
        posix.lstat(path)
    except OSError as error:
        return not isinstance(error, (FileNotFoundError, NotADirectoryError))
    return True


def _reconciled(places: state.Places) -> bool:
    """Whether marker and firewall were compared lately and nothing was in force (see ``marker.stamp``)."""
    try:
        stamp = state.read_plain(places.marker.rpartition("/")[0] + "/reconciled", 64)[0] or b""
        in_force, _, moment = stamp.partition(b" ")
        age = state.boottime() - float(moment)
    except (OSError, ValueError):
        return False
    return in_force == b"nothing" and stamp.endswith(b"\n") and 0 <= age < RECONCILE_EVERY


PURPOSE = "Compare the load with its thresholds; refuse new SMTP connections while it is high."
RULES: run.Rules = {"high": (0.1, 10000), "low": (0.1, 10000)}
CHECK = run.Check("load", probe, RULES, PURPOSE)
