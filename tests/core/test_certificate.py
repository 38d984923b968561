"""The end of a certificate: as openssl reads it, and None for all that is no certificate."""

from __future__ import annotations

import calendar
import ssl
import subprocess
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mf import certificate as certificates


@pytest.fixture
def der(certificate: Path) -> bytes:
    return ssl.PEM_cert_to_DER_cert(Path(f"{certificate}.crt").read_text())


def test_when_a_certificate_ends(certificate: Path, der: bytes) -> None:
    output = subprocess.run(
        ["openssl", "x509", "-in", f"{certificate}.crt", "-noout", "-enddate"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    end = calendar.timegm(time.strptime(output.partition("=")[2], "%b %d %H:%M:%S %Y GMT"))
    assert certificates.not_after(der) == end


def element(tag: int, content: bytes) -> bytes:
    size = len(content)
    return bytes([tag, size] if size < 0x80 else [tag, 0x82, *size.to_bytes(2, "big")]) + content


def made(*fields: bytes, tag: int = 0x30) -> bytes:
    """A certificate of the fields after serial number, signature and issuer; ``tag`` is that of the inner sequence."""
    return element(0x30, element(tag, b"".join([element(2, b"\x07"), element(0x30, b""), element(0x30, b""), *fields])))


def validity(tag: int, end: bytes) -> bytes:
    return element(0x30, element(0x17, b"260101000000Z") + element(tag, end))


@pytest.mark.parametrize(
    ("tag", "end", "expected"),
    [
        (0x17, b"491231235959Z", 2524607999),
        (0x17, b"500101000000Z", -631152000),
        (0x18, b"20500101000000Z", 2524608000),
        (0x13, b"20500101000000Z", None),  # a text, no time
        (0x18, b"20500101000000+0100", None),
        (0x18, b"20501301000000Z", None),
        (0x18, b"", None),
    ],
)
def test_both_kinds_of_time(tag: int, end: bytes, expected: int | None) -> None:
    assert certificates.not_after(made(validity(tag, end))) == expected


@pytest.mark.parametrize(
    "der",
    [
        made(),
        made() + validity(0x17, b"491231235959Z"),  # after the certificate, not in it
        made(validity(0x17, b"491231235959Z"), tag=0x31),
        b"\x30\x80" + made(validity(0x17, b"491231235959Z"))[2:] + b"\0\0",  # of indefinite length
    ],
)
def test_anything_but_a_certificate_has_no_end(der: bytes) -> None:
    assert certificates.not_after(der) is None


@given(st.binary(max_size=300))
def test_any_bytes_for_a_certificate(data: bytes) -> None:
    end = certificates.not_after(data)
    assert end is None or isinstance(end, float)


def test_no_cut_of_a_certificate_is_an_error(der: bytes) -> None:
    assert all(certificates.not_after(der[:end]) is None for end in range(len(der)))
