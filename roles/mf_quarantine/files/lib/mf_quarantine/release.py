"""Hand a message back to an MX, whose Exim delivers it, once, and record the operator who released it.

The row in ``handover`` is committed as ``begun``, with the MX's name, before the first byte is sent. The MX records
the release id (the message's own id) as well. So a message whose answer was lost, or whose row was lost with a
restored database, isn't delivered twice by asking that MX again. A message that is ``begun`` without an answer is never
handed to another MX, except by force.

The MX's end answers with one line: ``accepted``, ``known``, ``refused``, ``later`` or ``unclear``, then a text (see
docs/architecture.md)."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO

from mf import decisions, text

from . import QuarantineError, envelope
from .database import Database

LIMIT = 120.0  # seconds for one message to be handed over
PORT = 22
CUSTOMER = "customer"  # in place of a plugin: accepted, then refused by the customer's server (mf_rejected/refused.py)
CONNECT = 3.0  # seconds for a connection to an MX's ssh

ACCEPTED, KNOWN, REFUSED, LATER, LOST = "accepted", "known", "refused", "later", "lost"
UNSENT = "unsent"
"""There was no session with the MX, so nothing was sent this time."""

# ssh's messages (with exit code 255) when it ends before there is a session; openssh-client, ssh.c and sshconnect2.c.
_NO_SESSION = re.compile(
    r"ssh: (?:connect to host|Could not resolve hostname) .*|Host key verification failed\."
    r"|\S+@\S+: Permission denied \([a-z0-9,-]+\)\.|kex_exchange_identification: .*"
)


class ReleaseError(QuarantineError):
    """The message can't be released, or not now."""


class LaterError(ReleaseError):
    """This MX didn't take the message, so another may be asked."""


@dataclass(frozen=True)
class Answer:
    """An MX's answer: one of the words above, and the rest of its line, safe to print."""

    word: str
    detail: str


def over_ssh(command: Sequence[str], address: str, ident: str, path: str) -> Answer:
    """Hand a kept file to one MX. ``UNSENT`` if nothing can have arrived, ``LOST`` for any other unclear end."""
    try:
        source = _source(ident, path)
    except OSError as error:
        return Answer(UNSENT, f"{path}: {error.strerror}")
    try:
        with source:
            done = subprocess.run(
                [*command, f"mf-release@{address}", ident],
                stdin=source,
                capture_output=True,
                timeout=LIMIT,
                check=False,
            )
    except subprocess.TimeoutExpired:
        return Answer(LOST, f"no answer within {LIMIT:g} s")
    line = done.stdout.decode("latin-1").partition("\n")[0]
    word, _, rest = line.partition(" ")
    expected = {ACCEPTED: 0, KNOWN: 0, REFUSED: 1, LATER: 75, "unclear": 70}
    if expected.get(word) == done.returncode:
        return Answer(word if word != "unclear" else LOST, text.clean(rest, 200))
    lines = [line.strip() for line in (done.stderr or done.stdout).decode("latin-1").strip().splitlines()] or [""]
    reason = next((line for line in lines if _NO_SESSION.fullmatch(line)), None)
    if reason is not None and done.returncode == 255 and not done.stdout:
        return Answer(UNSENT, text.clean(reason, 160))
    return Answer(LOST, f"ssh ended with {done.returncode}: {text.clean(lines[0], 160)}")


def _source(ident: str, path: str) -> BinaryIO:
    """A kept file, at its beginning; of a file with copies for several domains, a file with this copy alone."""
    with contextlib.ExitStack() as opened:
        file: BinaryIO = opened.enter_context(open(path, "rb"))
        first = os.pread(file.fileno(), envelope.LINE_MAX, 0).partition(b"\n")[0] + b"\n"
        own = envelope.alone(first, ident)
        if own is not first:
            # without a name, on the disk of the file: it may be large
            whole = opened.enter_context(tempfile.TemporaryFile(dir=os.path.dirname(path)))
            whole.write(own)
            file.seek(len(first))
            shutil.copyfileobj(file, whole, 1 << 20)
            whole.flush()
            # ssh reads from the descriptor's position
            os.lseek(whole.fileno(), 0, os.SEEK_SET)
            file.close()
            file = whole
        opened.pop_all()
        return file


def answers(address: str) -> bool:
    """Whether a connection to an MX's ssh can be made."""
    try:
        socket.create_connection((address, PORT), CONNECT).close()
    except OSError:
        return False
    return True


def choose(
    row: Mapping[str, Any],
    handover: Mapping[str, Any] | None,
    mx: Mapping[str, str],
    wanted: str | None,
    force: bool,
    reachable: Callable[[str], bool] = answers,
    asked: Sequence[str] = (),
) -> str:
    """The MX to hand a message to. Raises ReleaseError if it was released, can't be, or its only MX can't be asked.

    Pure but for ``reachable``. ``asked``: MXs that didn't take it just now. The MX that rejected it comes first: it has
    a record of an earlier handover, even if there is none here; if it had accepted the message, it is the only one. By
    force, the MX that may have it comes last: it never delivers twice.
    """
    if wanted is not None and wanted not in mx:
        raise ReleaseError(f"no MX is called {text.clean(wanted, 64)}; there are {', '.join(sorted(mx))}")
    if handover is not None and handover["state"] == "accepted":
        raise ReleaseError(f"released before: {when(handover)}; it isn't released twice")
    if row["state"] != "kept":
        raise ReleaseError(f"nothing is left to release: {row['state']}")
    if row["lost"]:
        raise ReleaseError("its file is gone")
    if row["truncated"]:
        raise ReleaseError(
            f"only the first {row['kept']} of {row['size']} bytes were kept; half a message isn't released"
        )
    only = str(handover["mx"]) if handover is not None and handover["state"] == "begun" else ""
    if handover is not None and only and not force:
        if wanted not in (None, only):
            raise ReleaseError(f"{only} may have it already ({when(handover)}); ask that one, or use --force")
        if only not in mx:
            raise ReleaseError(
                f"{only} may have delivered it and is no longer there ({when(handover)}); to risk a second copy use"
                " --force"
            )
        return only
    origin = str(row["mx"])
    if row.get("plugin") == CUSTOMER and origin in mx and not force:
        # it was accepted there, so it may also be sent again from there (/mf/bin/refused)
        if wanted in (None, origin) and origin not in asked and reachable(mx[origin]):
            return origin
        raise ReleaseError(
            f"{origin} accepted it and may send it again as well, so that one is to release it; it "
            + ("isn't the one asked" if wanted not in (None, origin) else "doesn't take it now")
            + ": run this again later, or use --force and run /mf/bin/refused forget there"
        )
    if wanted is not None:
        return wanted
    for name in sorted(mx, key=lambda name: (name == only, name != origin, name)):
        if name not in asked and reachable(mx[name]):
            return name
    raise ReleaseError("no MX answers on its ssh port; nothing was done")


def when(handover: Mapping[str, Any]) -> str:
    """By whom, when and to which MX a message was released, as text."""
    return f"by {text.clean(handover['who'], 64)} at {handover['began']:%Y-%m-%d %H:%M:%S} UTC to {handover['mx']}"


def hand_over(
    index: Database, ident: str, name: str, who: str, send: Callable[[], Answer], *, before: Mapping[str, Any] | None
) -> Answer:
    """Record operator and MX, send, record the answer. Raises ReleaseError unless the MX has it now.

    ``before``: an earlier handover, which wasn't ``accepted``. The caller holds the message's lock.
    """
    pinned = before is not None and before["state"] == "begun"
    began = time.time()
    index.retried(
        lambda: index.run(
            "INSERT INTO handover (id, state, mx, who, began) VALUES (%s, 'begun', %s, %s, FROM_UNIXTIME(%s))"
            + (
                " ON DUPLICATE KEY UPDATE state = 'begun', mx = VALUES(mx), who = VALUES(who), began = VALUES(began),"
                " answered = NULL, answer = '', tries = tries + 1"
                if before is not None
                else ""
            ),
            (ident, name, who, began),
        )
    )
    answer = send()
    # nothing was sent this time, but an earlier handover without an answer may have arrived
    unsent = "begun" if pinned else "later"
    state = {ACCEPTED: "accepted", KNOWN: "accepted", REFUSED: "refused", LATER: "later", UNSENT: unsent}.get(
        answer.word, "begun"
    )
    index.retried(
        lambda: index.run(
            "UPDATE handover SET state = %s, answer = %s, answered = IF(%s = 'begun', NULL, UTC_TIMESTAMP(3))"
            " WHERE id = %s",
            (state, answer.detail[:255], state, ident),
        )
    )
    decisions.journal(
        f"quarantine: release of {ident} by {text.clean(who, 64)} to {name}: {answer.word} {answer.detail}",
        {"MF_ACTION": "release"},
    )
    if state == "refused":
        raise ReleaseError(f"{name} refused it: {answer.detail}")
    if state == "later":
        raise LaterError(f"{name} can't take it now: {answer.detail}; nothing was delivered, run this again later")
    if state == "begun":
        raise ReleaseError(
            f"{name} gave no clear answer: {answer.detail}; whether it has the message isn't known. Run this again: "
            f"{name} is asked once more, and delivers it at most once; --force gives it to another MX, and a second"
            " copy may arrive"
        )
    return answer
