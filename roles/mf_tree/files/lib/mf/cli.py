"""What the commands throttle and maintenance share: subcommands, arguments that are checked, the way a command ends."""

from __future__ import annotations

import argparse
import sys

from . import state, text
from .throttle import lease

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import NoReturn, TypeAlias, TypeVar

    Command: TypeAlias = Callable[[argparse.Namespace, state.Places], int]
    Value = TypeVar("Value")

FAILED, MISUSE, INTERRUPTED = 1, 2, 130


class Commands(argparse.ArgumentParser):
    """A parser with subcommands; a wrong command line gets one line on stderr and exit code 2."""

    def __init__(self, prog: str, description: str, epilog: str) -> None:
        super().__init__(
            prog=prog,
            description=description,
            epilog=epilog,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        self._commands = self.add_subparsers(
            title="commands", metavar="COMMAND", required=True, parser_class=_Subparser
        )

    def add(self, name: str, command: Command, purpose: str, *, dry_run: bool = False) -> argparse.ArgumentParser:
        """A subcommand; ``dry_run`` gives it that option."""
        parser = self._commands.add_parser(name, help=purpose, description=purpose, allow_abbrev=False)
        parser.set_defaults(command=command)
        if dry_run:
            parser.add_argument("--dry-run", action="store_true", help="say what would be done, and do nothing")
        return parser

    def error(self, message: str) -> NoReturn:
        """One line, exit code 2."""
        _misuse(self.prog, message)

    def main(self, argv: Sequence[str] | None, places: state.Places | None) -> int:
        """Parse and carry out; returns the exit code."""
        try:
            chosen = self.parse_args(sys.argv[1:] if argv is None else argv)
            command: Command = chosen.command
            code = command(chosen, places or state.Places())
            sys.stdout.flush()
            return code
        except KeyboardInterrupt:
            print(file=sys.stderr)
            return INTERRUPTED
        except BrokenPipeError:
            sys.stdout = None
            return FAILED


class _Subparser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        _misuse(self.prog, message)


class Job(argparse.ArgumentParser):
    """The parser of a job of cron's, with the options that all of them have."""

    def __init__(self, prog: str, description: str, epilog: str, *, dry_run: str, json: str) -> None:
        super().__init__(
            prog=prog,
            description=description,
            epilog=epilog,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        self.add_argument("--dry-run", action="store_true", help=dry_run)
        self.add_argument("--json", action="store_true", help=json)

    def error(self, message: str) -> NoReturn:
        """One line, exit code 2."""
        _misuse(self.prog, message)

    def failed(self, message: str) -> int:
        """Say so in one line; returns the exit code."""
        print(f"{self.prog}: {message}", file=sys.stderr)
        return FAILED


def lacks(places: state.Places, name: str) -> str:
    """What to say when the settings lack something."""
    return f"{places.settings}: {name} is missing; deploy again with playbooks/site.yml"


def _misuse(prog: str, message: str) -> NoReturn:
    print(f"{prog}: {message}; see {prog} --help", file=sys.stderr)
    raise SystemExit(MISUSE)


def checked(read: Callable[[str], Value]) -> Callable[[str], Value]:
    """An argument's type from a function that raises ValueError with a sentence for people."""

    def argument(word: str) -> Value:
        try:
            return read(word)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return argument


duration = checked(text.seconds)
ttl = checked(lambda word: lease.check_ttl(text.seconds(word)))
owner = checked(lease.check_owner)
any_owner = checked(lambda word: lease.check_owner(word, reserved=True))
reason = checked(lease.check_reason)
