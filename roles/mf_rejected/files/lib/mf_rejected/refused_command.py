"""/mf/bin/refused: list, send again or forget mail that customers' servers refused for good and this MX keeps."""

from __future__ import annotations

import argparse
import os
import pwd
import shutil
import subprocess
import sys
from collections.abc import Sequence
from typing import BinaryIO

from mf import Failure, cli, config, decisions, state, text

from . import keeper, refused

ACCOUNT = "mf-release"
HAND_OVER = "/mf/bin/release-message"
LIMIT = 400.0  # seconds for one message

_EPILOG = """\
What a customer's server refuses for good is kept whole, and check-refused reports it until an operator has decided:
it is sent again, or forgotten. Without a decision it is never removed. A message that several domains refused is
stored once; each domain is decided by itself.
Control has it, too: quarantine list --plugin customer, quarantine release. Sent again by both, it arrives once.

Exit codes: 0 done, 1 not done or not all of it (with one line that explains it), 2 wrong command line, 130 interrupted.

Examples
  refused list
  refused release --domain customer.example     the customer's server takes mail again
  refused forget --dry-run --domain customer.example
  refused forget ID                             it need not be sent again: it goes with its day's rejected mail
"""


class Kept:
    """The directories, and the ids of the notes that wait for a decision."""

    def __init__(self, host: state.Places) -> None:
        settings = config.load(host).section("rejected")
        self.root, self.folder, self.releases = (str(settings[key]) for key in ("root", "refused", "releases"))
        self.idents = refused.waiting(self.folder, self.releases)

    def chosen(self, options: argparse.Namespace) -> list[str]:
        """The ids that the options name. Raises Failure."""
        if bool(options.id) + bool(options.domain) + options.all != 1:
            raise Failure("use ids, or --domain, or --all", cli.MISUSE)
        if options.id:
            if unknown := [ident for ident in options.id if ident not in self.idents]:
                raise Failure(f"{text.clean(unknown[0], 160)} doesn't wait here; see refused list", cli.MISUSE)
            return list(dict.fromkeys(options.id))
        return [
            ident
            for ident in self.idents
            if options.all or refused.read(self.folder, ident)["domain"] == options.domain.lower()
        ]

    def path(self, ident: str) -> str:
        """The path of the message."""
        return refused.path(self.root, refused.read(self.folder, ident)["domain"] or "_invalid", ident)

    def open(self, ident: str) -> BinaryIO:
        """The message as release-message takes it: from a shared file with this copy alone. Raises OSError, Failure."""
        path = self.path(ident)
        file = open(path, "rb")  # noqa: SIM115
        if f"/{refused.SHARED}/" not in path.removeprefix(self.root):
            return file
        with file:
            line = keeper.alone(file.readline(keeper.MAX_ENVELOPE), ident)
            # in memory: the disk may be full
            whole = open(os.memfd_create(ident), "w+b")  # noqa: SIM115
            whole.write(line)
            shutil.copyfileobj(file, whole, 1 << 20)
        whole.seek(0)
        return whole


def main(argv: Sequence[str] | None = None, places: state.Places | None = None) -> int:
    """The command; returns its exit code."""
    return _parser().main(argv, places)


def _list(chosen: argparse.Namespace, host: state.Places) -> int:
    kept = Kept(host)
    for ident in kept.idents:
        note = refused.read(kept.folder, ident)
        if chosen.json:
            print(state.encode({"id": ident, **note}))
        else:
            recipients = text.clean(note["recipients"] or note["domain"], 80)
            print(f"{refused.moment(ident)}  {recipients}  {text.clean(note['reason'], 160)}  {ident}")
    return 0


def _release(chosen: argparse.Namespace, host: state.Places) -> int:
    kept = Kept(host)
    idents = kept.chosen(chosen)
    try:
        entry = pwd.getpwnam(ACCOUNT)
    except KeyError:
        raise Failure(f"there is no user {ACCOUNT} here; deploy with playbooks/site.yml") from None
    failed = False
    for ident in idents:
        if chosen.dry_run:
            print(f"{ident}: would be handed to Exim")
            continue
        try:
            with kept.open(ident) as file:
                # as for control's requests: the records of releases belong to that account
                done = subprocess.run(
                    [HAND_OVER, ident],
                    stdin=file,
                    capture_output=True,
                    text=True,
                    errors="replace",
                    timeout=LIMIT,
                    check=False,
                    user=entry.pw_uid,
                    group=entry.pw_gid,
                    extra_groups=os.getgrouplist(ACCOUNT, entry.pw_gid),
                    cwd="/",
                )
        except (OSError, Failure, subprocess.TimeoutExpired) as error:
            failed = True
            print(f"refused: {ident}: {text.clean(str(error), 200)}", file=sys.stderr)
            continue
        answer = text.clean((done.stdout or done.stderr).partition("\n")[0], 300)
        decisions.journal(f"refused: release of {ident}: {answer}", {"MF_ACTION": "release"})
        if done.returncode:
            failed = True
            print(f"refused: {ident}: {answer}", file=sys.stderr)
            continue
        refused.forget(kept.folder, ident)
        print(f"{ident}: {answer}")
    return cli.FAILED if failed else 0


def _forget(chosen: argparse.Namespace, host: state.Places) -> int:
    kept = Kept(host)
    for ident in kept.chosen(chosen):
        if not chosen.dry_run:
            refused.forget(kept.folder, ident)
            decisions.journal(f"refused: {ident} need not be sent again", {"MF_ACTION": "forget"})
        print(f"{ident}: {'would be forgotten' if chosen.dry_run else 'forgotten'}; it stays kept for its time")
    return 0


def _parser() -> cli.Command:
    top = cli.Command("refused", "What customers' servers refused for good, and this MX keeps.", _EPILOG)
    top.add("list", _list, "list what waits for a decision, oldest first", json="for programs")
    for name, work, purpose in (
        ("release", _release, "send messages again, each once"),
        ("forget", _forget, "messages need not be sent again: they are not reported any more"),
    ):
        parser = top.add(name, work, purpose, dry_run=True)
        parser.add_argument("id", nargs="*", metavar="ID")
        parser.add_argument("--domain", default="", help="all of this recipient domain")
        parser.add_argument("--all", action="store_true", help="all that wait")
    return top
