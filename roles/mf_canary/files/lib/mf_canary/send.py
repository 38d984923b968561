"""/mf/bin/send-canary: a tagged spam and a tagged ham, through this MX's own front door. See ``mf.canary``."""

from __future__ import annotations

import time

from mf import canary, cli, config, smtp, state

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

LIMIT = 60.0  # seconds for one dialogue: a busy MX may take its time
SENDER = f"canary@{canary.DOMAIN}"  # a bounce to it is dropped by the queue behind
# what has to become of each: a 5xx after the message, or a 250
EXPECTED = {canary.SPAM: (smtp.REFUSED, "message"), canary.HAM: (smtp.ACCEPTED, "message")}

_EPILOG = """\
It runs from cron every 10 minutes. Whether they arrived is for control to say: check-canary there.

Exit codes: 0 spam refused and ham accepted, as it should be; 1 not so, a line says what happened; 2 wrong command line
"""


def main(argv: Sequence[str] | None = None, places: state.Places | None = None) -> int:
    """The command; returns its exit code."""
    job = cli.Job(
        "send-canary",
        "Send a tagged spam and a tagged ham through this MX's own front door.",
        _EPILOG,
        dry_run="show the messages without tags, and send nothing",
        json="say what became of them as one JSON object",
    )
    chosen = job.parse_args(argv)
    if chosen.dry_run:
        for kind in EXPECTED:
            print(_message("v1 HOST KIND TIME NONCE MAC", kind).decode("ascii").replace("\r", ""))
        return 0
    host = places or state.Places()
    try:
        settings = config.load(host)
        where = settings["canary"]
        key = canary.read_key(where["key"])
        ends = {kind: send(settings["host"], where, key, kind) for kind in EXPECTED}
    except (config.SettingsError, canary.KeyFileError, ValueError) as error:
        return job.failed(str(error))
    except KeyError as error:
        return job.failed(cli.lacks(host, error.args[0]))
    if chosen.json:
        print(state.encode({kind: end.words() for kind, end in ends.items()}))
    wrong = [kind for kind, end in ends.items() if (end.outcome, end.stage) != EXPECTED[kind]]
    for kind in wrong:
        job.failed(f"{kind}: {ends[kind].words()}")
    return cli.FAILED if wrong else 0


def send(host: str, where: dict[str, Any], key: bytes, kind: str) -> smtp.Dialogue:
    """Send one of the two. ValueError when the host's name can't be in a tag."""
    data = _message(canary.make(key, host, kind), kind) + b".\r\n"
    return smtp.deliver(where["address"], where["port"], LIMIT, SENDER, f"{kind}@{canary.DOMAIN}", data)


def _message(tag: str, kind: str) -> bytes:
    date = time.strftime("%a, %d %b %Y %H:%M:%S +0000", time.gmtime())
    return canary.message(tag, kind, SENDER, f"{kind}@{canary.DOMAIN}", date)
