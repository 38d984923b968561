"""The monitor's clocks in one place: a test replaces them, and hours pass in a moment."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Clocks:
    """Seconds: ``wall`` since the epoch, may be set back; ``monotonic``; ``cpu`` that the running thread has used."""

    wall: Callable[[], float] = time.time
    monotonic: Callable[[], float] = time.monotonic
    cpu: Callable[[], float] = time.thread_time
