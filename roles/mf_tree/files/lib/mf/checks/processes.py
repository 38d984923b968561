"""check-processes: finds orphaned and stuck qpsmtpd processes, and kills those that make no progress.

The healthy path reads every /proc/PID/stat once: the master is the one known from before, its children are young, and
nobody looks like a stranger. Everything else is judged on evidence (``mf.processes.decide``): a process dies only when
it is a qpsmtpd, is orphaned or older than the session limit, and did nothing since the run before. The master of any
service, a process that can't be identified, zombies and processes blocked in the kernel are reported, never killed.
"""

from __future__ import annotations

import os
import posix
import time

from .. import processes, run, state

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import NoReturn

    from .. import service

NAME = "processes"
RULES: run.Rules = {
    "unit": str,
    "user": str,
    "script": str,  # the script that qpsmtpd runs
    "session_limit": (60, 86400),  # seconds
    "kill_cap": (1, 1000),  # kills in one run
}

GRACE = 3.0  # seconds between TERM and KILL
LAST = 2.0  # seconds a killed process has to be gone
LOCK_WAIT = 3.0
_MASTER = "/service.master"  # below places.results: what the hot path knows of the master


def look(places: state.Places, values: run.Values) -> state.Result | run.Rest:
    """One scan of /proc."""
    known = recall(places)
    if known is None:
        return lambda dry_run: Examination(places, values, dry_run).result()
    found, why = glance(places, values, known)
    if not why:
        return healthy(found)
    if why == "sleepers":
        return lambda dry_run: again(places, values, dry_run, known, found)
    return lambda dry_run: Examination(places, values, dry_run).result()


CHECK = run.Check(NAME, look, RULES)


def main(argv: Sequence[str], **release: object) -> NoReturn:
    """Entry of the launcher /mf/bin/check-processes."""
    run.main(CHECK, argv, **release)  # type: ignore[arg-type]


def recall(places: state.Places) -> tuple[int, int, int] | None:
    """The master's (pid, start ticks, uid) as a cold run last found it."""
    try:
        pid, start, uid = (state.read_bytes(places.results + _MASTER, 100) or b"").split()
        return int(pid), int(start), int(uid)
    except (OSError, ValueError):
        return None


def glance(places: state.Places, values: run.Values, known: tuple[int, int, int]) -> tuple[processes.Survey, str]:
    """What the scan shows, and why it needs a closer look: nothing, ``sleepers`` (zombie or D-state children), else."""
    pid, start, uid = known
    found = processes.survey(processes.lines(places.proc), pid)
    if found.master is None or found.master.start != start or found.master.state in "ZX":
        return found, "master"
    now = state.boottime()
    sleepers = False
    for child in found.children:
        if child.age(now) > values["session_limit"]:
            return found, "old"
        sleepers = sleepers or child.state in "DZ"
    for stranger in found.strangers:
        try:
            owner = posix.stat(f"{places.proc}/{stranger.pid}").st_uid
        except OSError:
            continue
        # a process that changed its user by itself is shown as root's
        if owner == uid or (owner == 0 and (b"qpsmtp" in stranger.comm or stranger.comm.startswith(b"perl"))):
            return found, "stranger"
    return found, "sleepers" if sleepers else ""


def healthy(found: processes.Survey) -> state.Result:
    """Nothing odd."""
    count = len(found.children)
    return state.Result(
        NAME,
        state.OK,
        f"master and {count} session{'' if count == 1 else 's'}, none orphaned or stuck",
        {"children": count, "processes": found.total, "killed": 0},
    )


def again(
    places: state.Places, values: run.Values, dry_run: bool, known: tuple[int, int, int], before: processes.Survey
) -> state.Result:
    """Zombies and D-state are normal for a moment (the master reaps each second): look once more, then worry."""
    time.sleep(1.3)
    found, why = glance(places, values, known)
    were = {(one.pid, one.start) for one in before.children if one.state in "DZ"}
    still = any((one.pid, one.start) in were for one in found.children if one.state in "DZ")
    if why in ("", "sleepers") and not still:
        return healthy(found)
    return Examination(places, values, dry_run).result()


class Examination:
    """The cold path: unit, evidence, verdicts, kills."""

    def __init__(self, places: state.Places, values: run.Values, dry_run: bool) -> None:
        self.places = places
        self.values = values
        self.dry_run = dry_run
        self.seen = places.results + "/processes.seen"

    def result(self) -> state.Result:
        """The check's result, with everything that was done."""
        import pwd

        from .. import service

        try:
            unit = service.show(self.values["unit"])
            uid = pwd.getpwnam(self.values["user"]).pw_uid
        except service.ServiceError as error:
            return state.Result(NAME, state.UNKNOWN, f"no process was judged: {error}")
        except KeyError:
            return state.Result(NAME, state.UNKNOWN, f"there is no user {self.values['user']} on this host")
        if unit.active in service.MOVING:
            # a stop lets sessions finish without a master's help; systemd ends what is left
            return state.Result(
                NAME, state.OK, f"{self.values['unit']} is {unit.active}: left to systemd", {"killed": 0}
            )
        master = self.master(unit)
        found = self.collect(uid)
        now = state.boottime()
        seen = self.before()
        verdicts = processes.decide(found, master, seen, now, self.values["session_limit"])
        if not self.dry_run:
            self.keep(found, seen, now, (*master, uid) if master else None)
        doomed = [one for one in verdicts if one.kill]
        others = [one for one in verdicts if one.report and not one.kill]
        waiting = sum(1 for one in verdicts if not one.report)
        result = state.Result(NAME, state.OK, "", {"children": len(found), "suspects": waiting, "killed": 0})
        words = [f"the unit is {unit.active}"] if unit.active != "active" else []
        if others:
            result.status = state.WARNING
            words += [
                f"{one.kind}: {one.process.stat.pid}" + (f" ({one.process.waits})" if one.process.waits else "")
                for one in others[:5]
            ]
        if doomed:
            words.append(self.kill(doomed, result))
        elif waiting:
            words.append(f"{waiting} under watch")
        result.summary = "; ".join(words) or f"{len(found)} processes, none orphaned or stuck"
        return result

    def master(self, unit: service.Unit) -> tuple[int, int] | None:
        """(pid, start ticks) of the unit's main process."""
        stat = processes.read_stat(unit.pid, self.places.proc) if unit.pid else None
        return (stat.pid, stat.start) if stat is not None else None

    def collect(self, uid: int) -> list[processes.Process]:
        """Every process of qpsmtpd's user, with its evidence."""
        from .. import service

        proc = self.places.proc
        sockets = service.session_states(proc)
        found = []
        for stat in processes.scan(proc):
            status = _text(f"{proc}/{stat.pid}/status")
            if status.partition("\nUid:")[2].split("\n")[0].split()[1:2] != [str(uid)]:
                continue
            found.append(evidence(stat, status, self.values, sockets, proc))
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
        found: Sequence[processes.Process],
        seen: dict[str, object],
        now: float,
        master: tuple[int, int, int] | None,
    ) -> None:
        """Remember for the next run; and tell its hot path who the master is."""
        try:
            state.make_folder(self.places.results)
            state.write_atomic(self.seen, state.encode(processes.remember(found, seen, now)).encode())
            if master:
                state.write_atomic(self.places.results + _MASTER, b"%d %d %d\n" % master)
            else:
                posix.unlink(self.places.results + _MASTER)
        except FileNotFoundError:
            pass
        except OSError as error:
            # without a memory nobody is ever seen without progress twice: nothing is killed, and that is said
            run.complain(f"processes: {self.places.results}: {error.strerror}")

    def kill(self, doomed: Sequence[processes.Verdict], result: state.Result) -> str:
        """Kill up to the cap, or say what forbids it; returns words for the summary."""
        from .. import decisions, maintenance

        cap = self.values["kill_cap"]
        victims = doomed[:cap]
        names = ", ".join(f"{one.kind} {one.process.stat.pid}" for one in victims)
        if self.dry_run:
            result.actions.extend(f"would kill {one.kind} {one.process.stat.pid}" for one in victims)
            return f"would kill {names}"
        marker = maintenance.active(self.places)
        with state.Lock(self.places, state.ACTION, LOCK_WAIT) as held:
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
        result.metrics["killed"] = len(gone)
        result.actions.extend(
            f"{outcome}: {one.kind} {one.process.stat.pid}, {one.process.age:.0f} s old, quiet for {one.quiet:.0f} s"
            for one, outcome in outcomes
        )
        result.status = state.worst([result.status, state.WARNING] if gone else [result.status])
        words = [f"killed {len(gone)} of {len(doomed)} orphaned or stuck"]
        if spared:
            words.append(f"{len(spared)} spared: moved or gone at the last moment")
        if failed:
            result.status = state.CRITICAL
            words.append(f"{len(failed)} survived KILL")
        if len(doomed) > cap:
            result.status = state.CRITICAL
            words.append(f"more than the cap of {cap} a run: look at what makes them")
        return ", ".join(words)

    def end(self, victims: Sequence[processes.Verdict]) -> list[tuple[processes.Verdict, str]]:
        """TERM, a grace period, KILL; all at once. Each is logged with its evidence before the first signal.

        A pidfd holds the process; then its identity and its progress are read again: whoever has changed is spared.
        """
        import select
        import signal

        from .. import decisions, service

        outcomes: list[tuple[processes.Verdict, str]] = []
        held: dict[int, processes.Verdict] = {}

        def log(one: processes.Verdict, outcome: str) -> None:
            reason = f"{one.kind}, no progress for {one.quiet:.0f} s"
            process = one.process
            decisions.record(self.places, NAME, "kill", str(process.stat.pid), reason, outcome, process.evidence())

        def send(descriptor: int, number: signal.Signals) -> None:
            try:
                signal.pidfd_send_signal(descriptor, number)
            except ProcessLookupError:
                pass

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
                os.close(descriptor)
                log(one, "failed: survived KILL" if outcome == "survived" else f"done: {outcome}")
                outcomes.append((one, outcome))

        try:
            for one in victims:
                try:
                    descriptor = os.pidfd_open(one.process.stat.pid)
                except OSError:
                    outcomes.append((one, "spared"))
                    continue
                held[descriptor] = one
                if not self.unchanged(one.process, service.session_states(self.places.proc)):
                    del held[descriptor]
                    os.close(descriptor)
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
                os.close(descriptor)
        return outcomes

    def unchanged(self, process: processes.Process, sockets: dict[int, tuple[str, int, int]]) -> bool:
        """Whether it is still the same process and still hasn't moved."""
        stat = processes.read_stat(process.stat.pid, self.places.proc)
        if stat is None or stat.start != process.stat.start or stat.state in "ZX":
            return False
        status = _text(f"{self.places.proc}/{stat.pid}/status")
        return evidence(stat, status, self.values, sockets, self.places.proc).progress == process.progress


def evidence(
    stat: processes.Stat,
    status: str,
    values: run.Values,
    sockets: dict[int, tuple[str, int, int]],
    proc: str,
) -> processes.Process:
    """Everything /proc tells of one process; what can't be read is None or ``unknown``, never guessed."""
    from ..text import clean

    folder = f"{proc}/{stat.pid}"
    arguments = _bytes(f"{folder}/cmdline").split(b"\0")
    in_unit = any(
        values["unit"] in line.split(":", 2)[-1].split("/") for line in _text(f"{folder}/cgroup").splitlines()
    )
    files = links(folder)
    script = values["script"]
    ours: bool | None
    listens: bool | None = None
    if files is not None:
        ours = _basename(folder + "/exe").startswith("perl") and script in {
            name.removesuffix(" (deleted)") for name in files
        }
        inodes = {int(name[8:-1]) for name in files if name.startswith("socket:[") and name[8:-1].isdigit()}
        mine = [sockets[inode] for inode in inodes if inode in sockets]
        listens = any(name == "listen" for name, _, _ in mine)
        sessions = [one for one in mine if one[0] != "listen"]
        peer = sessions[0][0] if sessions else "none"
    else:
        named = _named(arguments, script.encode())
        ours = True if named and in_unit else None if named else False
        sessions = []
        peer = "unknown"
    counters = dict(line.partition(":")[::2] for line in _text(f"{folder}/io").splitlines())
    if counters:
        moved = int(counters.get("rchar", 0)) + int(counters.get("wchar", 0))
    else:
        moved = _after(status, "\nvoluntary_ctxt_switches:")
    unsent = sum(sending for _, sending, _ in sessions)
    stack = _text(f"{folder}/stack").split("\n")[:1]
    waits = stack[0].rpartition(" ")[2] if stack[0] else _text(f"{folder}/wchan")
    return processes.Process(
        stat,
        age=stat.age(state.boottime()),
        ours=ours,
        in_unit=in_unit,
        listens=listens,
        progress=(stat.cpu, moved, unsent),
        peer=peer,
        title=clean(b" ".join(arguments).strip()),
        waits=clean(waits, 60),
    )


def _named(arguments: Sequence[bytes], script: bytes) -> bool:
    """Whether arguments look like the script's: run by perl, or renamed by the child as qpsmtpd does."""
    return script in arguments[1:3] or arguments[0].startswith(script + b" [")


def links(folder: str) -> list[str] | None:
    """What a process has open; None when that can't be read."""
    try:
        names = os.listdir(folder + "/fd")
        found = []
        for name in names:
            try:
                found.append(os.readlink(f"{folder}/fd/{name}"))
            except FileNotFoundError:
                continue
    except OSError:
        return None
    return found


def _basename(path: str) -> str:
    try:
        return os.readlink(path).rpartition("/")[2]
    except OSError:
        return ""


def _bytes(path: str) -> bytes:
    try:
        return state.read_bytes(path, 65536) or b""
    except OSError:
        return b""


def _text(path: str) -> str:
    return _bytes(path).decode("utf-8", "replace")


def _after(text: str, label: str) -> int:
    words = text.partition(label)[2].split(None, 1)
    return int(words[0]) if words and words[0].isdigit() else 0
