"""Command lines: subcommands, checked arguments, and the one place where an exception ends a command."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn, TypeAlias, TypeVar

from . import Failure, claims, state, text

Work: TypeAlias = Callable[[argparse.Namespace, state.Places], int]
Value = TypeVar("Value")

FAILED, MISUSE, INTERRUPTED = 1, 2, 130


class Command(argparse.ArgumentParser):
    """The command line of a command, or of one of its subcommands; ``work(chosen, places)`` carries it out.

    A wrong command line gets one line on stderr and exit code ``misuse``. ``failure`` is the exit code of a Failure,
    instead of the Failure's own. ``dry_run`` and ``json`` add these options; a text is the option's help.
    """

    def __init__(
        self,
        prog: str,
        description: str,
        epilog: str = "",
        *,
        work: Work | None = None,
        dry_run: bool | str = False,
        json: str = "",
        misuse: int = MISUSE,
        failure: int | None = None,
        **options: Any,
    ) -> None:
        super().__init__(
            prog=prog,
            description=description,
            epilog=epilog,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
            **options,
        )
        self._misuse = misuse
        self._failure = failure
        self._commands: argparse._SubParsersAction[Command] | None = None
        self.set_defaults(work=work)
        if dry_run:
            purpose = dry_run if isinstance(dry_run, str) else "print the plan, and do nothing"
            self.add_argument("--dry-run", action="store_true", help=purpose)
        if json:
            self.add_argument("--json", action="store_true", help=json)

    def add(self, name: str, work: Work, purpose: str, *, dry_run: bool = False, json: str = "") -> Command:
        """Add a subcommand."""
        if self._commands is None:
            self._commands = self.add_subparsers(title="commands", metavar="COMMAND", required=True)
        return self._commands.add_parser(name, help=purpose, description=purpose, work=work, dry_run=dry_run, json=json)

    def error(self, message: str) -> NoReturn:
        """End the process with one line on stderr."""
        self.fail(f"{message}; see {self.prog} --help")
        raise SystemExit(self._misuse)

    def fail(self, message: str, code: int = FAILED) -> int:
        """Print one line on stderr and return the exit code."""
        print(f"{self.prog}: {message}", file=sys.stderr)
        return code

    def main(self, argv: Sequence[str] | None = None, places: state.Places | None = None) -> int:
        """Parse and carry out; returns the exit code. A Failure, or an OSError, ends it with one line on stderr."""
        try:
            chosen = self.parse_args(sys.argv[1:] if argv is None else argv)
            work: Work = chosen.work
            code = work(chosen, places or state.Places())
            sys.stdout.flush()
            return code
        except KeyboardInterrupt:
            print(file=sys.stderr)
            return INTERRUPTED
        except BrokenPipeError:
            sys.stdout = None
            return FAILED
        except Failure as error:
            return self.fail(str(error), error.code if self._failure is None else self._failure)
        except OSError as error:
            where = text.clean(str(error.filename), 200) if error.filename else ""
            return self.fail(f"{where}: {error.strerror}" if where else str(error))


def checked(read: Callable[[str], Value]) -> Callable[[str], Value]:
    """An argparse type from a function that raises ValueError with a sentence for the operator."""

    def argument(value: str) -> Value:
        try:
            return read(value)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return argument


duration = checked(text.seconds)
ttl = checked(lambda value: claims.check_ttl(text.seconds(value)))
owner = checked(claims.check_owner)
any_owner = checked(lambda value: claims.check_owner(value, reserved=True))
reason = checked(claims.check_reason)
