#!/usr/bin/env python3
"""The lab: a whole fleet as system containers on this machine. `lab.py --help` lists the commands."""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import TypeVar

from mflab import hosts, image, load, machine, mail, ui, world
from mflab.podman import Podman
from mflab.reconcile import reconcile
from mflab.spec import (
    EXIT_INTERRUPTED,
    EXIT_USAGE,
    OCTETS,
    Host,
    Lab,
    LabError,
    open_lab,
    parse_hosts,
)

EPILOG = """\
Labs are numbered (--lab or MF_LAB, 0 to 249, default 0) and don't touch each other: lab N has the network
10.111.N.0/24, ssh ports from 2200 + 100 N on 127.0.0.1, and its keys in .lab/N.

exit status: 0 done; 1 failed; 2 wrong usage; 3 a program is missing and can't be installed, or the user's
rights don't suffice; 130 interrupted (the next `up` completes a half-made lab).
"""


def one_host(args: argparse.Namespace, lab: Lab) -> Host:
    """Return the host the command names; LabError (usage) for an unknown one."""
    names = parse_hosts(args.host)
    if len(names) != 1:
        raise LabError("name one host", EXIT_USAGE)
    return lab.host(names[0])


def prepare(lab: Lab, show: bool = True) -> Podman:
    """Check that this machine has everything a lab needs; return podman as it is called here."""
    if not show:
        host = machine.inspect(lab.home.parent)
        machine.provide(host)
        return Podman(host)
    with ui.phase("machine") as phase:
        host = machine.inspect(lab.home.parent)
        installed = machine.provide(host)
        properties = [f"restricted ({', '.join(host.restricted)})" if host.restricted else "ordinary"]
        properties += ["rootless"] if host.rootless else []
        properties += [f"installed {', '.join(installed)}"] if installed else []
        phase.note(", ".join(properties))
    return Podman(host)


def provide_image(podman: Podman, lab: Lab, rebuild: bool = False) -> str:
    """See that the image of the present recipe is there; return its name."""
    name = image.wanted()
    building = hosts.locked(lab.home.parent, "the image")
    with building, ui.phase("image") as phase:
        if not rebuild and image.exists(podman, name):
            phase.note(f"{name} re-used")
        else:
            phase.update("being built from Debian's packages, about a minute")
            image.build(podman, name)
            phase.note(f"{name} built")
    return name


def summary(done: dict[str, str]) -> str:
    """Return "created mx1 mx2, kept world" for what was done to each host."""
    parts = []
    for deed in ("created", "recreated", "started", "kept"):
        names = [name for name in OCTETS if done.get(name) == deed]
        if names:
            parts.append(f"{deed} {' '.join(names)}")
    return ", ".join(parts)


def bring_up(lab: Lab, names: list[str]) -> None:
    """Bring the hosts `names` up, whatever state they are in."""
    started = time.monotonic()
    lab.home.mkdir(mode=0o755, parents=True, exist_ok=True)
    podman = prepare(lab)
    name = provide_image(podman, lab)
    with hosts.locked(lab.home, f"lab {lab.number}"), ui.phase("hosts") as phase:
        fleet = hosts.Fleet(podman, lab, name, [lab.host(host) for host in names])
        phase.note(summary(fleet.up()))
    if fleet.note:
        print(fleet.note)
    print(f"lab {lab.number} is up ({time.monotonic() - started:.1f} s)")


def do_up(args: argparse.Namespace, lab: Lab) -> int:
    """Make, start or mend hosts."""
    bring_up(lab, parse_hosts(args.only) if args.only else list(OCTETS))
    return 0


def do_start(args: argparse.Namespace, lab: Lab) -> int:
    """Start hosts again."""
    bring_up(lab, parse_hosts(args.host))
    return 0


def do_image(args: argparse.Namespace, lab: Lab) -> int:
    """Build the base image."""
    provide_image(prepare(lab), lab, rebuild=args.rebuild)
    return 0


def do_down(args: argparse.Namespace, lab: Lab) -> int:
    """Remove the lab."""
    if not shutil.which("podman"):
        shutil.rmtree(lab.home, ignore_errors=True)
        print(f"lab {lab.number}: nothing to remove (podman isn't installed)")
        return 0
    podman = Podman(machine.inspect(lab.home.parent))
    with hosts.locked(lab.home, f"lab {lab.number}"), ui.phase("hosts") as phase:
        removed = hosts.down(podman, lab)
        phase.note(
            f"removed {removed['containers']} containers, {removed['networks']} network"
            if any(removed.values())
            else "nothing to remove"
        )
    if args.image:
        with ui.phase("image") as phase:
            images = image.listed(podman)
            kept = [name for name in images if podman.run("rmi", name, check=False)[0]]
            in_use = f", {len(kept)} still in use by another lab" if kept else ""
            phase.note(f"removed {len(images) - len(kept)}{in_use}")
    leave = lab.home.parent
    if leave.is_dir() and {entry.name for entry in leave.iterdir()} <= {"containers.conf"}:
        shutil.rmtree(leave, ignore_errors=True)
    return 0


def do_status(args: argparse.Namespace, lab: Lab) -> int:
    """Show the hosts; 1 unless all answer."""
    rows = hosts.status(prepare(lab, show=False), lab)
    if args.json:
        print(json.dumps({"lab": lab.number, "hosts": rows}, indent=2))
    else:
        print(
            ui.table(
                ("host", "address", "ssh port", "state", "ssh", "up"),
                [
                    (
                        row["host"],
                        row["address"],
                        row["ssh_port"],
                        row["state"],
                        "answers" if row["ssh"] else "-",
                        "-" if row["up_seconds"] is None else ui.duration(row["up_seconds"]),
                    )
                    for row in rows
                ],
                right=(2, 5),
            )
        )
    return 0 if all(row["ssh"] for row in rows) else 1


def do_exec(args: argparse.Namespace, lab: Lab) -> int:
    """Run a command on a host; its exit status."""
    host = one_host(args, lab)
    command = args.command[1:] if args.command[:1] == ["--"] else args.command
    if not command:
        raise LabError("name the command to run: lab.py exec HOST -- COMMAND", EXIT_USAGE)
    flags = ["--interactive", *(["--tty"] if sys.stdin.isatty() and sys.stdout.isatty() else [])]
    podman = prepare(lab, show=False)
    return podman.call("exec", *flags, hosts.running(podman, lab, host).container, *command)


def do_stop(args: argparse.Namespace, lab: Lab) -> int:
    """Shut hosts down, or cut their power."""
    podman = prepare(lab, show=False)
    chosen = [lab.host(name) for name in parse_hosts(args.host)]
    command = ("kill",) if args.kill else ("stop", "--time", "20")
    states = {name: entry.get("State") for name, entry in hosts.listed(podman, lab).items()}
    absent = [host.name for host in chosen if host.container not in states]
    if absent:
        raise LabError(f"{', '.join(absent)} of lab {lab.number} isn't there")
    chosen = [host for host in chosen if states[host.container] == "running"]
    failed = hosts.each(podman, lambda host: podman.run(*command, host.container) and None, chosen)
    if failed:
        raise LabError("\n".join(f"{host.name}: {error}" for host, error in failed))
    return 0


def do_restart(args: argparse.Namespace, lab: Lab) -> int:
    """Reboot hosts and wait until they answer."""
    podman = prepare(lab, show=False)
    for name in parse_hosts(args.host):
        podman.run("restart", "--time", "20", hosts.running(podman, lab, lab.host(name)).container)
    bring_up(lab, parse_hosts(args.host))
    return 0


def do_load(args: argparse.Namespace, lab: Lab) -> int:
    """Fake a host's load average."""
    host = one_host(args, lab)
    value = load.parse(args.value)
    podman = prepare(lab, show=False)
    load.fake(podman, hosts.running(podman, lab, host), value)
    return 0


def do_customer(args: argparse.Namespace, lab: Lab) -> int:
    """Set the behaviour of the customer's mail server."""
    podman = prepare(lab, show=False)
    world.set_customer(podman, hosts.running(podman, lab, lab.host("world")), args.mode)
    return 0


def do_sms(args: argparse.Namespace, lab: Lab) -> int:
    """Show the messages that reached operators, newest last."""
    podman = prepare(lab, show=False)
    hosts.running(podman, lab, lab.host("world"))
    lines = [
        (request["time"], name if request["path"] != "/boss" else "boss", request["text"])
        for name, port in (("sms", 8025), ("chat", 8026))
        for request in world.gateway_record(podman, lab, port)
        if request["text"]
    ]
    for moment, name, text in sorted(lines)[-args.last :]:
        stamp = time.strftime("%H:%M:%SZ", time.gmtime(moment))
        print(f"{stamp}  {name:<4}  {ui.clean(text)}")
    return 0


def do_mail(args: argparse.Namespace, lab: Lab) -> int:
    """Send mail and account for it; return 1 if any message went wrong."""
    stop = parse_hosts(args.stop) if args.stop else []
    mailer = mail.Mailer(prepare(lab, show=False), lab, stop, args.kill, show=not args.json)
    mailer.send(args.count, args.spam, args.strangers, args.deadline)
    record = mailer.wait(args.wait)
    mailer.wait_for_quarantine(args.wait)
    account = reconcile(mailer.run.ends, record, stopped=bool(stop), kept=mailer.run.kept)
    if args.json:
        print(json.dumps(mail.report(mailer.run, account), indent=2))
    else:
        print(("\r\033[K" if sys.stdout.isatty() else "") + mail.show(mailer.run, account))
    faults = account.faults()
    if mailer.run.missing:
        faults.append(f"{len(mailer.run.missing)} rows of the quarantine's index have no file")
    for fault in faults:
        print(f"lab.py: {fault}", file=sys.stderr)
    return 1 if faults else 0


Number = TypeVar("Number", int, float)


def number(kind: Callable[[str], Number], lowest: Number, highest: Number) -> Callable[[str], Number]:
    """Return argparse's type for a number (`kind`: int or float) from `lowest` to `highest`."""

    def parse(text: str) -> Number:
        with suppress(ValueError):
            value = kind(text)
            if lowest <= value <= highest:
                return value
        raise argparse.ArgumentTypeError(f"expected a number from {lowest} to {highest}, not {text!r}")

    return parse


def parser() -> argparse.ArgumentParser:
    """Return the command line of lab.py."""
    top = argparse.ArgumentParser(
        prog="lab.py",
        description="A whole fleet as system containers on this machine.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--lab", metavar="N", help="the lab's number (default: MF_LAB, or 0)")
    commands = top.add_subparsers(dest="verb", metavar="COMMAND", required=True)

    up = commands.add_parser("up", help="bring the lab up: make what is missing, start what is stopped, mend the rest")
    up.add_argument("--only", "--hosts", metavar="HOST,HOST", help=f"only these hosts, of {','.join(OCTETS)}")
    up.set_defaults(work=do_up)
    down = commands.add_parser("down", help="remove what this lab made, and nothing else")
    down.add_argument("--image", action="store_true", help="remove the base image too")
    down.set_defaults(work=do_down)
    status = commands.add_parser("status", help="show the hosts; exit 1 unless all answer")
    status.add_argument("--json", action="store_true", help="print the answer as JSON")
    status.set_defaults(work=do_status)
    build = commands.add_parser("image", help="build the base image unless it is there")
    build.add_argument("--rebuild", action="store_true", help="build it in any case (newer packages)")
    build.set_defaults(work=do_image)
    run = commands.add_parser("exec", help="run a command on a host: exec HOST -- COMMAND")
    run.add_argument("host", metavar="HOST")
    run.add_argument("command", nargs=argparse.REMAINDER, metavar="COMMAND")
    run.set_defaults(work=do_exec)
    stop = commands.add_parser("stop", help="shut hosts down")
    stop.add_argument("host", metavar="HOST[,HOST]")
    stop.add_argument("--kill", action="store_true", help="cut their power")
    stop.set_defaults(work=do_stop)
    start = commands.add_parser("start", help="start hosts again (up --only)")
    start.add_argument("host", metavar="HOST[,HOST]")
    start.set_defaults(work=do_start)
    restart = commands.add_parser("restart", help="reboot hosts")
    restart.add_argument("host", metavar="HOST[,HOST]")
    restart.set_defaults(work=do_restart)
    fake = commands.add_parser("load", help="fake a host's load average: load HOST 9.0; end that: load HOST off")
    fake.add_argument("host", metavar="HOST")
    fake.add_argument("value", metavar="NUMBER|off")
    fake.set_defaults(work=do_load)
    customer = commands.add_parser("customer", help="set the behaviour of the customer's mail server")
    customer.add_argument(
        "mode", choices=world.MODES, help="accept mail; 4xx; 5xx; 5xx to long lines; don't answer at all"
    )
    customer.set_defaults(work=do_customer)
    sms = commands.add_parser("sms", help="show the messages that the monitor sent to operators")
    sms.add_argument("--last", type=number(int, 1, 10000), default=30, metavar="N", help="the newest N (default: 30)")
    sms.set_defaults(work=do_sms)
    send = commands.add_parser(
        "mail",
        help="send real mail through the MXs and account for every message; exit 1 if "
        "any is lost, doubled without cause, undecided, misjudged, or refused and not in the quarantine",
    )
    send.add_argument(
        "count", nargs="?", type=number(int, 1, 100_000), default=100, metavar="N", help="messages (default 100)"
    )
    send.add_argument("--spam", type=number(float, 0.0, 1.0), default=0.3, help="share of spam (default 0.3)")
    send.add_argument(
        "--strangers",
        type=number(float, 0.0, 1.0),
        default=0.05,
        help="share of mail to a foreign domain (default 0.05)",
    )
    send.add_argument("--stop", metavar="HOST[,HOST]", help="stop these MXs half way, start them again at the end")
    send.add_argument("--kill", action="store_true", help="with --stop: cut their power")
    seconds = number(float, 0.0, 86_400.0)
    send.add_argument("--deadline", type=seconds, default=300, metavar="S", help="seconds for sending (default 300)")
    send.add_argument("--wait", type=seconds, default=180, metavar="S", help="seconds for deliveries (default 180)")
    send.add_argument("--json", action="store_true", help="print the answer as JSON")
    send.set_defaults(work=do_mail)
    return top


def main(argv: list[str] | None = None) -> int:
    """Run lab.py with the arguments `argv`; return its exit status."""

    def stop(_signal: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, stop)
    args = parser().parse_args(argv)
    try:
        return int(args.work(args, open_lab(args.lab)))
    except LabError as error:
        print(f"lab.py: {error}", file=sys.stderr)
        return error.code
    except KeyboardInterrupt:
        print("lab.py: interrupted; `lab.py up` carries on, `lab.py down` removes what is there", file=sys.stderr)
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        return 1


if __name__ == "__main__":
    sys.exit(main())
