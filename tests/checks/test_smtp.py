"""check-smtp's fast path, and STARTTLS."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from mf import state
from mf.smtp import Dialogue
from mf_checks import smtp as smtp_check
from mf_checks import smtp_diagnose, smtp_report, starttls
from mf_checks.smtp_evidence import Evidence
from mf_checks.smtp_report import OK

from tests.checks.conftest import (
    PLAIN,
    VALUES,
    attempt,
)
from tests.core.conftest import STAGES, server, silent, talking


def test_the_fast_path(places: state.Places) -> None:
    with server(PLAIN) as port:
        result = smtp_check.probe(places, {**VALUES, "port": port})
    assert isinstance(result, state.Result)
    assert result.status == state.OK
    assert result.metrics["starttls"] == 0
    assert {stage + "_seconds" for stage in STAGES} <= set(result.metrics)
    with server(silent) as port:
        rest = smtp_check.probe(places, {**VALUES, "port": port, "dialogue": 0.3})
    assert not isinstance(rest, state.Result)


def test_the_canary_is_whole_and_its_end_is_found() -> None:
    message = smtp_report.canary("canary@mx1.mf.invalid")
    assert message.startswith(b"Date: ")
    assert b"\r\nTo: <canary@mx1.mf.invalid>\r\n" in message
    assert message.endswith(b"\r\n.\r\n")
    assert b"\r\n\r\n" in message
    assert message.count(b"\n") == message.count(b"\r\n")


def test_a_slow_filter_is_waited_for_and_only_a_warning(places: state.Places) -> None:
    values = {**VALUES, "dialogue": 0.3, "patience": 20.0}
    with server(talking(late=("dot", 0.6), EHLO=b"250 here\r\n")) as port:
        result = smtp_check.probe(places, {**values, "port": port})
    assert isinstance(result, state.Result)
    assert (result.status, result.metrics["class"]) == (state.WARNING, OK)
    assert result.summary.startswith("slow: canary accepted in ")
    assert result.summary.endswith("s of it at message")


def test_starttls_that_is_configured_must_be_offered(places: state.Places) -> None:
    with server(PLAIN) as port:
        result = smtp_check.probe(places, {**VALUES, "port": port})
        assert isinstance(result, state.Result)
        assert result.status == state.OK
        rest = smtp_check.probe(places, {**VALUES, "port": port, "starttls": 1})
    assert not isinstance(rest, state.Result)
    assert rest(False).status == state.CRITICAL


def test_a_good_handshake_counts_for_a_while(
    places: state.Places, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries: list[int] = []

    def shake(_: object) -> starttls.Attempt:
        tries.append(1)
        return attempt()

    monkeypatch.setattr(Evidence, "handshake", shake)
    monkeypatch.setattr(smtp_report, "STARTS", f"{tmp_path}/start:")
    os.symlink("first", f"{tmp_path}/start:qpsmtpd.service")
    with server(talking()) as port:
        values = {**VALUES, "port": port}

        def run_check() -> state.Result:
            outcome = smtp_check.probe(places, values)
            result = outcome if isinstance(outcome, state.Result) else outcome(False)
            state.write_result(places, result, generation="a", started=1.0, period=60, slack=70)
            return result

        first = run_check()
        assert (first.status, len(tries)) == (state.OK, 1)
        assert first.summary.endswith("; TLS works")
        assert (first.metrics["starttls_seconds"], first.metrics["tls_seconds"]) == (0.2, 0.3)
        until = first.metrics[smtp_report.TLS_GOOD]
        assert run_check().metrics[smtp_report.TLS_GOOD] == until
        assert len(tries) == 1
        os.unlink(f"{tmp_path}/start:qpsmtpd.service")
        os.symlink("second", f"{tmp_path}/start:qpsmtpd.service")
        run_check()
        run_check()
        assert len(tries) == 2  # the service was started again in between
        later = state.boottime() + smtp_report.TLS_EVERY + 1
        monkeypatch.setattr(state, "boottime", lambda: later)
        run_check()
        assert len(tries) == 3


def test_a_broken_handshake_is_tried_again_each_run(places: state.Places, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Evidence, "handshake", lambda _: attempt("silence at tls"))
    with server(talking()) as port:
        for _ in range(2):
            outcome = smtp_check.probe(places, {**VALUES, "port": port})
            assert not isinstance(outcome, state.Result)
            result = outcome(False)
            assert result.status == state.CRITICAL
            assert smtp_report.TLS_GOOD not in result.metrics
            state.write_result(places, result, generation="a", started=1.0, period=60, slack=70)


def test_the_deadline_counts_from_the_first_dialogue(places: state.Places) -> None:
    with server(silent) as port:
        begun = time.monotonic()
        rest = smtp_check.probe(places, {**VALUES, "port": port, "dialogue": 0.3})
        assert not isinstance(rest, state.Result)
    diagnosed: list[smtp_diagnose.Diagnosis] = []

    def result(self: smtp_diagnose.Diagnosis, first: Dialogue) -> state.Result:
        diagnosed.append(self)
        return state.Result("smtp", state.OK, first.describe())

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(smtp_diagnose.Diagnosis, "result", result)
        rest(False)
    assert diagnosed[0].give_up - VALUES["deadline"] + smtp_diagnose.SPARE == pytest.approx(begun, abs=0.1)
