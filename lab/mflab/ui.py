"""Output while a lab command works: phases with their times, tables."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

INDENT = 2


def clean(text: str) -> str:
    """Return `text` from outside with everything a terminal might obey made visible."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def duration(seconds: int) -> str:
    """Return `seconds` in the unit that reads best: 59 s, 119 min, 47 h, 3 d."""
    for size, unit in ((172_800, "d"), (7200, "h"), (120, "min")):
        if seconds >= size:
            return f"{seconds // {'d': 86_400, 'h': 3600, 'min': 60}[unit]} {unit}"
    return f"{seconds} s"


class Phase:
    """One step that is being shown: `note` records its outcome."""

    def __init__(self, title: str, live: bool) -> None:
        self.title = title
        self.live = live  # on a terminal, where a line can be written over
        self.outcome = "done"

    def update(self, status: str) -> None:
        """Show the progress of a step that takes long."""
        line = f"{self.title:<12} {status} ..."
        print(f"\r\033[K{line}" if self.live else line, end="" if self.live else "\n", flush=True)

    def note(self, outcome: str) -> None:
        """Record the outcome of the step."""
        self.outcome = outcome


@contextmanager
def phase(title: str) -> Iterator[Phase]:
    """Show `title`, then what came of it and how long it took (seconds). Nothing but the title if it fails."""
    live = sys.stdout.isatty()
    if live:
        print(f"{title:<12} ...", end="", flush=True)
    started = time.monotonic()
    current = Phase(title, live)
    try:
        yield current
    except BaseException:
        print("" if live else f"{title:<12} not finished", flush=True)
        raise
    line = f"{title:<12} {current.outcome} ({time.monotonic() - started:.1f} s)"
    print(f"\r\033[K{line}" if live else line, flush=True)


def table(header: Sequence[str], rows: Sequence[Sequence[object]], right: Sequence[int] = ()) -> str:
    """Return `rows` under `header` in aligned columns; columns whose index is in `right` are set to the right."""
    cells = [list(header), *([str(cell) for cell in row] for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(header))]
    return "\n".join(
        (" " * INDENT)
        .join(
            cell.rjust(width) if column in right else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        .rstrip()
        for row in cells
    )
