"""Feeds the parsers COUNT of one kind of hostile input, in a bare process whose memory is measured.

Started by bounds.py as ``python -I -S bounds_feed.py PATHS KIND FOLDER PORT COUNT``, as the checks are by cron.
Writes one line: ``COUNT SLOWEST PEAK``, the longest that one input took beyond its own limit in seconds, and MiB of
memory.

Time during which the kernel let others run though this process could have counts for nothing: so a machine that is busy
with other things makes nobody late, and a single wait past a deadline shows.
"""

from __future__ import annotations

import os
import random
import sys
import time

sys.path[:0] = sys.argv[1].split(os.pathsep)

from collections.abc import Iterator

from mf import state

COUNT = int(sys.argv[5])
LIMIT = 0.03  # s that a dialogue may take
PATIENCE = 0.06  # the same with TLS, for most must get as far as the handshake
NASTY = (
    *(b"\0", b"\n", b"\r", b"\x1b[2J", b")", b"(", b" ", b"\xff\xfe", b'"', b"\\", b"{", b"[", b"]" * 9, b"-1"),
    *(b"1e999", b"NaN", b"9" * 400, b"null", b"true", b"\\ud800", b"220-", b"250 "),
    *(b"[[" * 600, b'{"a":' * 600, b"x" * 5000),
)


class Stopwatch:
    """Seconds since it was made, less those that this process waited for a CPU, or its CPU for the hypervisor.

    The kernel keeps both: the second number in /proc/self/schedstat (sched-stats.rst), steal in /proc/stat (proc(5)).
    """

    def __init__(self) -> None:
        self.kept = self.waited()
        self.begun = time.monotonic()

    @staticmethod
    def waited() -> float:
        """Seconds waited so far; a kernel that doesn't count them gives 0, and the wall clock decides."""
        try:
            mine = (state.read_bytes("/proc/self/schedstat", 256) or b"").split()
            steal = (state.read_bytes("/proc/stat", 256) or b"").split()[8]
            return int(mine[1]) / 1e9 + int(steal) / 100
        except (OSError, IndexError):
            return 0.0

    def seconds(self) -> float:
        """What this process had for itself."""
        return time.monotonic() - self.begun - (self.waited() - self.kept)


def mangled(dice: random.Random, sample: bytes, most: int = 65536) -> bytes:
    """The sample with some of it cut, doubled, or replaced by something nasty; sometimes nothing of it is left."""
    if dice.random() < 0.1:
        return dice.randbytes(dice.randrange(300))
    data = sample
    for _ in range(dice.randrange(1, 6)):
        at, end = sorted((dice.randrange(len(data) + 1), dice.randrange(len(data) + 1)))
        part = dice.choice((b"", data[at:end] * 2, dice.choice(NASTY), dice.randbytes(4)))
        data = (data[:at] + part + data[end if dice.random() < 0.5 else at :])[:most]
    if dice.random() < 0.02:
        data = dice.choice((b"[[],", b'{"a":[],"b":', b'{"leases": [{}],', b"0,")) * (most // 4)
    return data


def dialogues(_folder: str, port: int) -> Iterator[float]:
    """Servers that say anything: test_bounds.py runs them and has a new one for each connection."""
    from mf import smtp
    from mf_checks import starttls

    for number in range(COUNT):
        call = smtp.transaction if number % 10 else starttls.attempt
        arguments = ("canary@mx1.mf.invalid", b".\r\n") if number % 10 else ()
        watch = Stopwatch()
        call("127.0.0.1", port, LIMIT, *arguments)
        yield watch.seconds() - LIMIT


def handshakes(_folder: str, port: int) -> Iterator[float]:
    """Servers that are well-behaved up to their go-ahead for TLS."""
    from mf_checks import starttls

    reached = 0
    for _ in range(COUNT):
        watch = Stopwatch()
        handshake = starttls.attempt("127.0.0.1", port, PATIENCE)
        yield watch.seconds() - PATIENCE
        assert handshake.problem.isascii()
        assert handshake.problem.isprintable()
        reached += "tls" in handshake.timings
    assert reached > COUNT / 2, reached


def names(folder: str, _port: int) -> Iterator[float]:
    """A /proc of a thousand processes with names, stat lines and files that lie."""
    from mf_checks import orphans, process_evidence, procfs, systemd

    dice = random.Random(1)
    proc = f"{folder}/proc"
    stat = b"%d (qpsmtpd-forkser) S 1 1 1 0 -1 4194560 9 9 9 9 7 3 0 0 20 0 1 0 4711 9 9 9 9 9 9 9"
    files = {
        "status": b"Name:\tqpsmtpd\nUid:\t105\t105\t105\t105\nvoluntary_ctxt_switches:\t7\n",
        "cmdline": b"/usr/bin/perl\0/usr/bin/qpsmtpd-forkserver\0",
        "cgroup": b"0::/system.slice/qpsmtpd.service\n",
        "io": b"rchar: 1\nwchar: 2\n",
        "stack": b"[<0>] wait_woken+0x63/0x80\n",
        "wchan": b"do_select",
        "syscall": b"7 0x1 0x2\n",
    }
    for pid in range(2, COUNT + 2):
        state.make_folder(f"{proc}/{pid}")
        state.write_atomic(f"{proc}/{pid}/stat", mangled(dice, stat % pid, 640))
        for name, sample in files.items():
            state.write_atomic(f"{proc}/{pid}/{name}", mangled(dice, sample))
    state.make_folder(f"{proc}/net")
    row = b"  0: 0100007F:0019 0B146F0A:1F90 01 00000000:00000000 00:00000000 00000000 105 0 99 1 0 20 4 30 10 -1\n"
    with open(f"{proc}/net/tcp", "wb") as table:
        table.write(b"head\n")
        table.writelines(mangled(dice, row) + b"\n" for _ in range(COUNT))
    begun = time.process_time()
    stat_lines = procfs.lines(proc)
    assert len(stat_lines) == COUNT
    procfs.survey(stat_lines, 7)
    sockets = systemd.sessions(proc)
    remotes = [session.remote() for session in sockets.values()]
    assert all(remote.isascii() and remote.isprintable() for remote in remotes)
    yield time.process_time() - begun - 1.0  # all of them at once
    values = {"unit": "qpsmtpd.service", "script": "/usr/bin/qpsmtpd-forkserver"}
    processes = []
    for line in stat_lines:
        begun = time.process_time()
        process_stat = procfs.parse_stat(line)
        if process_stat is not None:
            process = process_evidence.evidence(process_stat, values, sockets, proc)
            if process is not None:
                processes.append(process)
                state.encode(process.evidence())
        yield time.process_time() - begun
    orphans.decide(processes, (7, 1), orphans.progress_of(processes, {}, 1.0), 100.0, (60.0, 60.0))


def files(folder: str, _port: int) -> Iterator[float]:
    """Markers, leases, breakers, maintenance, results and settings: torn, forged, nested, endless."""
    from mf import config, health, maintenance
    from mf.throttle import lease, marker
    from mf_checks import breaker

    dice = random.Random(2)
    places = state.Places(folder, f"{folder}/proc")
    for place in (places.results, places.persistent, places.etc, places.locks):
        state.make_folder(place)
    now = state.boottime()
    held = marker.Marker((lease.make("operator", "disk swap", now, 900, True),), True).encode(now)
    kept = state.encode(lease.to_disk([lease.make("operator", "x", now, 900, True)], now, time.time(), "b")).encode()
    shut = state.encode({"q.service": breaker.form(breaker.Breaker((1.0, 2.0), 1, 9.0), "b", now, 1e9)}).encode()
    work = state.encode({"owner": "operator", "reason": "x", "since": now, "until": now + 900}).encode()
    result = state.Result("smtp", state.OK, "canary accepted", {"messages": 3, "asleep": "7:8@9"})
    state.write_result(places, result, generation="0123456789ab", started=1.0, period=60, slack=9)
    stored = state.read_bytes(f"{places.results}/smtp.json") or b""
    made = b'{"generation": "0123456789ab", "host": "mx1", "type": "mx", "checks": {}, "throttle": {"ports": [25]}}'
    for _ in range(COUNT):
        for path, sample in (
            (places.marker, held),
            (f"{places.persistent}/breaker.json", shut),
            (places.maintenance, work),
            (f"{places.results}/smtp.json", stored),
            (places.settings, made),
        ):
            state.write_atomic(path, mangled(dice, sample))
        disk = mangled(dice, kept)
        begun = time.process_time()
        status = marker.current(places)
        assert status.describe().isascii()
        lease.from_disk(disk, now, 1e9, "b")
        breaker.load(places, "q.service")
        maintenance.active(places)
        entry = health.judge_file(places, "smtp", "0123456789ab", now)
        assert entry["status"] in state.SEVERITY
        try:
            config.load(places)
        except config.SettingsError as error:
            assert "\n" not in str(error)  # noqa: PT017  (a program, not a test)
        yield time.process_time() - begun


slowest, count = -9.0, 0
for late in {"dialogues": dialogues, "handshakes": handshakes, "names": names, "files": files}[sys.argv[2]](
    sys.argv[3], int(sys.argv[4])
):
    slowest, count = max(slowest, late), count + 1
# not getrusage(2): that begins with the peak of the process that forked this one
peak = int((state.read_bytes("/proc/self/status", 65536) or b"").partition(b"VmHWM:")[2].split()[0]) / 1024
print(count, round(slowest, 3), round(peak, 1))
