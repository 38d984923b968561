"""The canary of check-smtp, its result, and the metrics for later runs; both paths use them. Fast path."""

from __future__ import annotations

import posix
import time

from mf import smtp, state

NAME = "smtp"
OK = "OK"  # the class; the other classes are the slow path's
TLS_EVERY = 900.0  # seconds between two handshakes, while they succeed
# the metrics that a good handshake leaves for the runs after it: until when, and for which start of the service
TLS_GOOD, TLS_START = "tls_good_until_boottime", "tls_start"
STARTS = "/run/systemd/units/invocation:"  # and the unit's name: a link to the id of its latest start, by systemd


def canary(recipient: str) -> bytes:
    """The message that check-smtp sends (RFC 5322), its final dot included."""
    date = time.strftime("%a, %d %b %Y %H:%M:%S +0000", time.gmtime())
    return (
        f"Date: {date}\r\nFrom: <{recipient}>\r\nTo: <{recipient}>\r\nSubject: check-smtp canary\r\n"
        f"Message-ID: <{time.time_ns()}@localhost>\r\n\r\nSent by check-smtp; discarded by qpsmtpd.\r\n.\r\n"
    ).encode()


def service_start(unit: str) -> str:
    """The id of a unit's latest start; empty when systemd has none."""
    try:
        return posix.readlink(STARTS + unit)
    except OSError:
        return ""


def accepted(limit: float, dialogue: smtp.Dialogue, more: str = "") -> state.Result:
    """The result of an accepted canary: a warning when it took longer than ``limit``, which the greeting may."""
    seconds = dialogue.seconds()
    if seconds <= limit:
        return report(state.OK, OK, f"canary accepted in {seconds:.3f} s{more}", dialogue)
    stage = max(dialogue.timings, key=dialogue.timings.__getitem__)
    slow = f"slow: canary accepted in {seconds:.1f} s, {dialogue.timings[stage]:.1f} s of it at {stage}{more}"
    return report(state.WARNING, OK, slow, dialogue)


def report(status: str, kind: str, summary: str, dialogue: smtp.Dialogue) -> state.Result:
    """A result with the time of every stage as performance data."""
    result = state.Result(NAME, status, summary)
    metrics = result.metrics
    metrics["class"] = kind
    metrics["total_seconds"] = round(dialogue.seconds(), 6)
    for stage, seconds in dialogue.timings.items():
        metrics[stage + "_seconds"] = round(seconds, 6)
    metrics["code"] = dialogue.code
    metrics["starttls"] = int(dialogue.starttls)
    return result
