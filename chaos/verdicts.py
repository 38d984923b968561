"""One fault in front of the monitor, played and judged by its messages; the table of all."""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from mflab import ui
from mflab.spec import LabError

from chaos.scene import Deviation
from chaos.stage import CALM, Fault, Stage

QUIET = 8.0  # seconds without a further message until a fault is over


@dataclass
class Outcome:
    """One row: expected messages, messages that came, seconds from the fault to the first."""

    name: str
    expected: tuple[str, ...]
    texts: list[str] = field(default_factory=list)
    seconds: float | None = None
    state: str = ""
    trouble: str = ""


def play(stage: Stage, fault_: Fault) -> Outcome:
    """Inject the fault, take it away, compare the messages with the expected ones."""
    outcome = Outcome(fault_.name, fault_.expected)
    stage.began = time.time()
    stage.state = ""
    try:
        running = fault_.story(stage)
        next(running)
        stage.stack.close()
        stage.well(300 + CALM)
        time.sleep(QUIET)
        stage.well(60)  # messages that were due are on their way by now; on a busy machine that takes its time
    except Deviation as error:
        outcome.trouble = str(error)
    except (LabError, KeyError, IndexError, ValueError, subprocess.SubprocessError) as error:
        outcome.trouble = f"{type(error).__name__}: {error}"
    finally:
        stage.stack.close()
    messages = stage.sms()
    outcome.texts = [message["text"] for message in messages]
    outcome.state = stage.state
    if messages:
        outcome.seconds = messages[0]["time"] - stage.broken_at
    if not outcome.trouble:
        outcome.trouble = judge(outcome, fault_)
    return outcome


def judge(outcome: Outcome, fault_: Fault) -> str:
    """What is wrong with the messages, or nothing."""
    if fault_.loose:
        for pattern in outcome.expected:
            many = sum(bool(re.search(pattern.removeprefix("?"), text)) for text in outcome.texts)
            if many != 1 and not pattern.startswith("?"):
                return f"{many} messages {pattern!r}"
        for text in outcome.texts:
            if not any(re.search(pattern.removeprefix("?"), text) for pattern in outcome.expected):
                return f"{text!r} was not expected"
    elif len(outcome.texts) != len(outcome.expected):
        return f"{len(outcome.texts)} messages instead of {len(outcome.expected)}"
    else:
        for pattern, text in zip(outcome.expected, outcome.texts, strict=True):
            if not re.search(pattern, text):
                return f"{text!r} instead of {pattern!r}"
    if outcome.seconds is not None and outcome.seconds > fault_.within:
        return f"the first message came after {outcome.seconds:.0f} s"
    return ""


def show(outcomes: Sequence[Outcome]) -> str:
    """The table: a line for each message."""
    rows = []
    for outcome in outcomes:
        texts = [ui.clean(text) for text in outcome.texts] or ["(none)"]
        seconds = "-" if outcome.seconds is None else f"{outcome.seconds:.0f} s"
        rows.append(
            (("ok" if not outcome.trouble else "DEVIATION"), outcome.name, seconds, outcome.state or "-", texts[0])
        )
        rows += [("", "", "", "", text) for text in texts[1:]]
        if outcome.trouble:
            rows.append(("", "", "", "", f"!! {ui.clean(outcome.trouble)}"))
    return ui.table(("", "fault", "first SMS", "state", "SMS that arrived"), rows, right=(2,))
