"""check-processes' slow path: unit, evidence, verdicts, kills."""

from __future__ import annotations

import os
import pwd
from collections.abc import Sequence

from mf import run, state

from . import killer, orphans, procfs, systemd
from .process_evidence import collect, evidence

NAME = "processes"


class Diagnosis:
    """One judgement of all processes of qpsmtpd's user."""

    def __init__(self, places: state.Places, values: run.Values, dry_run: bool) -> None:
        self.places = places
        self.values = values
        self.dry_run = dry_run
        self.memory = Memory(places)
        self.limits = values["session_limit"], values["session_cpu"]
        self.scanned = 0  # processes on the host

    def result(self) -> state.Result:
        """The check's result, with everything that was done."""
        try:
            unit = systemd.show(self.values["unit"])
            uid = pwd.getpwnam(self.values["user"]).pw_uid
        except systemd.ServiceError as error:
            return state.Result(NAME, state.UNKNOWN, f"no process was judged: {error}")
        except KeyError:
            return state.Result(NAME, state.UNKNOWN, f"there is no user {self.values['user']} on this host")
        if unit.active in systemd.MOVING:
            # a stop lets sessions finish without a master's help; systemd ends what is left
            return state.Result(
                NAME, state.OK, f"{self.values['unit']} is {unit.active}: left to systemd", {"killed": 0}
            )
        master = self.master(unit)
        processes, self.scanned = collect(uid, self.values, self.places.proc)
        if master is not None and not orphans.recognised(processes, master) and self.master(unit) == master:
            if not self.dry_run:
                self.memory.forget_master()
            return state.Result(
                NAME,
                state.UNKNOWN,
                f"no process was judged: the main process of {self.values['unit']}, {unit.pid}, isn't"
                f" {self.values['script']} of user {self.values['user']}",
            )
        return self.judged(unit, processes, master, uid)

    def judged(
        self, unit: systemd.Unit, processes: Sequence[orphans.Process], master: tuple[int, int] | None, uid: int
    ) -> state.Result:
        """The result from the verdicts; kills included."""
        now = state.boottime()
        seen = self.memory.load()
        before = run.former(self.places, NAME)["metrics"].get("asleep")
        asleep = procfs.sleeping([process.stat for process in processes], before, now)
        lasting = {key for key, first in asleep.items() if now - first >= procfs.QUIET}
        verdicts = orphans.decide(processes, master, seen, now, self.limits, lasting)
        if not self.dry_run:
            self.memory.save(orphans.progress_of(processes, seen, now), (*master, uid) if master else None)
        watched = sum(not verdict.report and verdict.kind in orphans.SUSPECTS for verdict in verdicts)
        metrics = {"children": len(processes), "processes": self.scanned, "suspects": watched, "killed": 0}
        result = state.Result(NAME, state.OK, "", metrics)
        if asleep:
            result.metrics["asleep"] = procfs.sleepers(asleep)
        parts = [f"the unit is {unit.active}"] if unit.active != "active" else []
        if reported := [verdict for verdict in verdicts if verdict.report and not verdict.kill]:
            result.status = state.WARNING
            parts += [verdict.describe() for verdict in reported[:5]]
        if doomed := [verdict for verdict in verdicts if verdict.kill]:
            parts.append(self.kill(doomed, result))
        elif watched:
            parts.append(f"{watched} under watch")
        result.summary = "; ".join(parts) or "none orphaned or stuck"
        return result

    def kill(self, doomed: Sequence[orphans.Verdict], result: state.Result) -> str:
        """Kill up to the cap; returns the summary's part. A dry run only lists them."""
        cap = self.values["kill_cap"]
        if not self.dry_run:
            return killer.Killer(self.places, NAME, self.unchanged).kill(doomed, cap, result)
        result.actions += [f"would kill {killer.names([victim])}" for victim in doomed[:cap]]
        return f"would kill {killer.names(doomed[:cap])}"

    def master(self, unit: systemd.Unit) -> tuple[int, int] | None:
        """(pid, start ticks) of the unit's main process."""
        stat = procfs.read_stat(unit.pid, self.places.proc) if unit.pid else None
        return (stat.pid, stat.start) if stat is not None else None

    def unchanged(self, verdict: orphans.Verdict) -> bool:
        """Whether it is still the same process and still hasn't moved (one that burns: moved a byte; one that is
        greedy: begun a message).
        """
        process, proc = verdict.process, self.places.proc
        stat = procfs.read_stat(process.stat.pid, proc)
        if stat is None or stat.start != process.stat.start or stat.state in "ZX":
            return False
        now = evidence(stat, self.values, systemd.sessions(proc), proc)
        if now is None or verdict.kind == orphans.GREEDY:
            return now is not None and orphans.greedy(now, self.limits)
        return now.moved == process.moved and (verdict.kind == orphans.BURNING or now.progress == process.progress)


class Memory:
    """The files for the next run: the progress of each process, and for the fast path the master."""

    def __init__(self, places: state.Places) -> None:
        self.folder = places.results
        self.seen = places.results + "/processes.seen"
        self.master = places.results + procfs.MASTER

    def load(self) -> dict[str, object]:
        """The progress that the run before stored; empty when it is damaged."""
        return state.load(self.seen, 1 << 22)

    def save(self, seen: dict[str, state.Json], master: tuple[int, int, int] | None) -> None:
        """Store for the next run. Without it no lack of progress is ever noticed."""
        try:
            state.make_folder(self.folder)
            state.write_atomic(self.seen, state.encode(seen).encode())
            if master:
                state.write_atomic(self.master, b"%d %d %d\n" % master)
            else:
                self.forget_master()
        except OSError as error:
            run.complain(f"processes: {self.folder}: {error.strerror}")

    def forget_master(self) -> None:
        """Remove the master for the fast path: then the next run takes the slow path."""
        try:
            os.unlink(self.master)
        except FileNotFoundError:
            pass
