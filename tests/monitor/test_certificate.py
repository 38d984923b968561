"""Probes of TLS: certificates, STARTTLS, and what is broken there."""

from __future__ import annotations

import asyncio
import ssl
import subprocess
import time
from pathlib import Path

import pytest
from mf_monitor.clocks import Clocks
from mf_monitor.judging.states import DOWN, EXPIRED, UP, WARNING
from mf_monitor.probing import certificate
from mf_monitor.probing.world import World

from tests.monitor import samples
from tests.monitor.servers import Talk, probe, smtp


def certify(folder: Path, *options: str) -> tuple[str, str]:
    """A self-signed certificate with such options of openssl."""
    key, crt = str(folder / "key.pem"), str(folder / "crt.pem")
    argv = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    subprocess.run(
        [*argv, "-keyout", key, "-out", crt, "-subj", "/CN=mx1", *options], check=True, capture_output=True, timeout=60
    )
    return key, crt


def starttls(key: str, crt: str) -> Talk:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(crt, key)
        writer.write(b"220 here\r\n")
        while line := await reader.readline():
            if line.startswith(b"STARTTLS"):
                writer.write(b"220 go\r\n")
                await writer.drain()
                await writer.start_tls(context)
            elif line.startswith(b"QUIT"):
                writer.write(b"221 bye\r\n")
            else:
                writer.write(b"250-here\r\n250 STARTTLS\r\n")

    return talk


@pytest.mark.parametrize(
    ("days", "state", "expected"), [("400", UP, "greets, STARTTLS"), ("5", WARNING, "certificate expires in")]
)
def test_the_certificate_behind_starttls(tmp_path: Path, days: str, state: str, expected: str) -> None:
    key, crt = certify(tmp_path, "-days", days)
    result, _ = probe(starttls(key, crt), {"kind": "smtp"}, limit=5)
    assert result.state == state
    assert expected in result.message
    assert result.expires is not None
    assert abs(result.expires - time.time() - int(days) * 86400) < 120


@pytest.mark.parametrize("word", ["off", False])  # what YAML makes of off
def test_starttls_that_is_offered_and_not_wanted_is_no_warning(word: object) -> None:
    result, _ = probe(smtp(EHLO=b"250-here\r\n250 STARTTLS\r\n"), {"kind": "smtp", "starttls": word})
    assert (result.state, result.message) == (UP, "greets")


def test_an_expired_certificate(tmp_path: Path) -> None:
    key, crt = certify(tmp_path, "-days", "1")
    chosen = samples.settings()
    later = World.of(chosen, Clocks(wall=lambda: time.time() + 2e5))
    der = ssl.PEM_cert_to_DER_cert(Path(crt).read_text())
    outcome = certificate.outcome(der, later, "greets")
    assert (outcome.state, outcome.reason) == (WARNING, EXPIRED)
    assert "expired" in outcome.message
    assert key


def test_broken_tls_is_a_result() -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 here\r\n")
        while line := await reader.readline():
            if line.startswith(b"STARTTLS"):
                writer.write(b"220 go\r\n")
                await reader.read(100)
                writer.write(b"\x00garbage\xff" * 50)
                await writer.drain()
                return
            writer.write(b"250-here\r\n250 STARTTLS\r\n")

    result, _ = probe(talk, {"kind": "smtp"})
    assert result.state == DOWN
    assert "TLS" in result.message


def test_what_is_said_before_tls_begins_is_not_trusted() -> None:
    talk = smtp(EHLO=b"250-here\r\n250 STARTTLS\r\n", STAR=b"220 go\r\n250 injected\r\n")
    assert "before TLS began" in probe(talk, {"kind": "smtp"})[0].message


def test_starttls_may_be_required() -> None:
    assert "offers no STARTTLS" in probe(smtp(), {"kind": "smtp", "starttls": "required"})[0].message
