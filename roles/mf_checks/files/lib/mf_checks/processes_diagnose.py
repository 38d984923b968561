"""check-processes' cold path: unit, evidence, verdicts, kills."""

from __future__ import annotations

import posix
import pwd
import select
import signal
import time

from mf import decisions, maintenance, run, state

from . import orphans, procfs, systemd
from . import processes as hot

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

NAME = hot.NAME
GRACE = 3.0  # seconds between TERM and KILL
LAST = 2.0  # seconds a killed process has to be gone
LOCK_WAIT = 3.0


class Examination:
    """The cold path: unit, evidence, verdicts, kills."""

    def __init__(self, places: state.Places, values: run.Values, dry_run: bool) -> None:
        self.places = places
        self.values = values
        self.dry_run = dry_run
        self.seen = places.results + "/processes.seen"
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
        found = self.collect(uid)
        now = state.boottime()
        if master is not None and not orphans.recognised(found, master) and self.master(unit) == master:
            self.forget()
            return state.Result(
                NAME,
                state.UNKNOWN,
                f"no process was judged: the main process of {self.values['unit']}, {unit.pid}, isn't"
                f" {self.values['script']} of user {self.values['user']}",
            )
        seen = self.before()
        asleep = hot.sleeping([one.stat for one in found], hot.former(self.places), now)
        lasting = {key for key, first in asleep.items() if now - first >= procfs.QUIET}
        limits = self.values["session_limit"], self.values["session_cpu"]
        verdicts = orphans.decide(found, master, seen, now, limits, lasting)
        if not self.dry_run:
            self.keep(found, seen, now, (*master, uid) if master else None)
        doomed = [one for one in verdicts if one.kill]
        others = [one for one in verdicts if one.report and not one.kill]
        waiting = sum(1 for one in verdicts if not one.report and one.kind in orphans.SUSPECTS)
        metrics = {"children": len(found), "processes": self.scanned, "suspects": waiting, "killed": 0}
        result = state.Result(NAME, state.OK, "", metrics)
        if asleep:
            result.metrics["asleep"] = hot.words(asleep)
        said = [f"the unit is {unit.active}"] if unit.active != "active" else []
        if others:
            result.status = state.WARNING
            said += [
                f"{one.kind}: {one.process.stat.pid}"
                + (f" (in {one.process.waits})" if one.kind == orphans.BLOCKED and one.process.waits else "")
                for one in others[:5]
            ]
        if doomed:
            said.append(self.kill(doomed, result))
        elif waiting:
            said.append(f"{waiting} under watch")
        result.summary = "; ".join(said) or "none orphaned or stuck"
        return result

    def master(self, unit: systemd.Unit) -> tuple[int, int] | None:
        """(pid, start ticks) of the unit's main process."""
        stat = procfs.read_stat(unit.pid, self.places.proc) if unit.pid else None
        return (stat.pid, stat.start) if stat is not None else None

    def collect(self, uid: int) -> list[orphans.Process]:
        """Every process of qpsmtpd's user, with its evidence."""
        proc = self.places.proc
        sockets = systemd.sessions(proc)
        found = []
        for stat in procfs.scan(proc):
            self.scanned += 1
            status = orphans.text_of(f"{proc}/{stat.pid}/status")
            if status.partition("\nUid:")[2].split("\n")[0].split()[1:2] != [str(uid)]:
                continue
            found.append(orphans.evidence(stat, status, self.values, sockets, proc))
        return found

    def before(self) -> dict[str, object]:
        """What the run before remembered; empty when it can't be understood."""
        try:
            stored = state.decode(state.read_bytes(self.seen, 1 << 22)) or {}
        except OSError:
            return {}
        return stored

    def keep(
        self,
        found: Sequence[orphans.Process],
        seen: dict[str, object],
        now: float,
        master: tuple[int, int, int] | None,
    ) -> None:
        """Remember for the next run; and tell its hot path who the master is."""
        try:
            state.make_folder(self.places.results)
            state.write_atomic(self.seen, state.encode(orphans.remember(found, seen, now)).encode())
            if master:
                state.write_atomic(self.places.results + hot.MASTER, b"%d %d %d\n" % master)
            else:
                self.forget()
        except OSError as error:
            # without a memory nobody is ever seen without progress twice: nothing is killed, and that is said
            run.complain(f"processes: {self.places.results}: {error.strerror}")

    def forget(self) -> None:
        """Tell the hot path nothing of a master: then it leaves the next run to the cold one."""
        if not self.dry_run:
            try:
                posix.unlink(self.places.results + hot.MASTER)
            except FileNotFoundError:
                pass

    def kill(self, doomed: Sequence[orphans.Verdict], result: state.Result) -> str:
        """Kill up to the cap, or say what forbids it; returns words for the summary."""
        cap = self.values["kill_cap"]
        victims = doomed[:cap]
        names = ", ".join(f"{one.kind} {one.process.stat.pid}" for one in victims)
        if self.dry_run:
            result.actions.extend(f"would kill {one.kind} {one.process.stat.pid}" for one in victims)
            return f"would kill {names}"
        with state.Lock(self.places, state.ACTION, LOCK_WAIT) as held:
            marker = maintenance.active(self.places)  # it may have begun during the wait
            if marker is not None or not held:
                why = "maintenance" if marker is not None else "another action is under way on this host"
                for one in victims:
                    decisions.record(
                        self.places, NAME, "kill", str(one.process.stat.pid), why, "refused", one.process.evidence()
                    )
                result.status = state.worst([result.status, state.WARNING])
                result.actions.append(f"refused to kill {names}: {why}")
                return f"not killed ({why}): {names}"
            outcomes = self.end(victims)
        gone = [one for one, outcome in outcomes if outcome in ("TERM", "KILL")]
        failed = [one for one, outcome in outcomes if outcome == "survived"]
        spared = [one for one, outcome in outcomes if outcome == "spared"]
        out_of_reach = [one for one, outcome in outcomes if outcome == "out of reach"]
        result.metrics["killed"] = len(gone)
        result.actions.extend(
            f"{outcome}: {one.kind} {one.process.stat.pid}, {one.process.age:.0f} s old, {one.why()}"
            for one, outcome in outcomes
        )
        result.status = state.worst([result.status, state.WARNING] if gone else [result.status])
        words = ["killed " + (", ".join(f"{one.kind} {one.process.stat.pid}" for one in gone) or "none")]
        if spared:
            words.append(f"{len(spared)} spared: moved or gone at the last moment")
        if out_of_reach:
            result.status = state.CRITICAL
            words.append(f"{len(out_of_reach)} out of reach: the kernel gives no pidfd")
        if failed:
            result.status = state.CRITICAL
            words.append(f"{len(failed)} survived KILL")
        if len(doomed) > cap:
            result.status = state.CRITICAL
            words.append(f"{len(doomed) - cap} more than the cap of {cap} a run: look at what makes them")
        return ", ".join(words)

    def end(self, victims: Sequence[orphans.Verdict]) -> list[tuple[orphans.Verdict, str]]:
        """TERM, a grace period, KILL; all at once. Each is logged with its evidence before the first signal.

        A pidfd holds the process; then its identity and its progress are read again: whoever has changed is spared.
        """
        outcomes: list[tuple[orphans.Verdict, str]] = []
        held: dict[int, orphans.Verdict] = {}

        def log(one: orphans.Verdict, outcome: str) -> None:
            reason = f"{one.kind}, {one.why()}"
            process = one.process
            decisions.record(self.places, NAME, "kill", str(process.stat.pid), reason, outcome, process.evidence())

        def send(descriptor: int, number: signal.Signals) -> None:
            try:
                signal.pidfd_send_signal(descriptor, number)
            except OSError:
                pass  # it has just ended, or it shows as a survivor

        def gone(seconds: float) -> list[int]:
            ended: list[int] = []
            poll = select.poll()
            for descriptor in held:
                poll.register(descriptor, select.POLLIN)
            give_up = time.monotonic() + seconds
            while len(ended) < len(held) and (left := give_up - time.monotonic()) > 0:
                for descriptor, _ in poll.poll(left * 1000):
                    poll.unregister(descriptor)
                    ended.append(descriptor)
            return ended

        def finish(descriptors: Sequence[int], outcome: str) -> None:
            for descriptor in descriptors:
                one = held.pop(descriptor)
                posix.close(descriptor)
                log(one, "failed: survived KILL" if outcome == "survived" else f"done: {outcome}")
                outcomes.append((one, outcome))

        try:
            for one in victims:
                try:
                    descriptor = posix.pidfd_open(one.process.stat.pid)
                except ProcessLookupError:
                    outcomes.append((one, "spared"))
                    continue
                except OSError as error:
                    log(one, f"failed: no pidfd ({error.strerror})")
                    outcomes.append((one, "out of reach"))
                    continue
                held[descriptor] = one
                if not self.unchanged(one, systemd.sessions(self.places.proc)):
                    del held[descriptor]
                    posix.close(descriptor)
                    log(one, "spared: it moved or was replaced")
                    outcomes.append((one, "spared"))
                    continue
                log(one, "begun")
            for descriptor in held:
                send(descriptor, signal.SIGTERM)
                # a stopped process takes its TERM only when it runs again
                send(descriptor, signal.SIGCONT)
            finish(gone(GRACE), "TERM")
            for descriptor in held:
                send(descriptor, signal.SIGKILL)
            finish(gone(LAST), "KILL")
            finish(list(held), "survived")
        finally:
            for descriptor in held:
                posix.close(descriptor)
        return outcomes

    def unchanged(self, verdict: orphans.Verdict, sockets: Mapping[int, systemd.Session]) -> bool:
        """Whether it is still the same process and still hasn't moved (one that burns: moved a byte)."""
        process = verdict.process
        stat = procfs.read_stat(process.stat.pid, self.places.proc)
        if stat is None or stat.start != process.stat.start or stat.state in "ZX":
            return False
        status = orphans.text_of(f"{self.places.proc}/{stat.pid}/status")
        now = orphans.evidence(stat, status, self.values, sockets, self.places.proc)
        return now.moved == process.moved and (verdict.kind == orphans.BURNING or now.progress == process.progress)
