"""Names of kept files, and the parser of one, for any content."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from mf import message_id
from mf_quarantine import envelope, layout

from tests.quarantine.conftest import NOON, ident, kept


@pytest.mark.parametrize(
    "path",
    [
        "2026-11-25/../../etc/new/" + ident(),
        "2026-11-25/.../new/" + ident(),
        "2026-11-25/a..b/new/" + ident(),
        "2026-11-25/UPPER.example/new/" + ident(),
        "2026-11-25/customer.example/tmp/" + ident(),
        "2026-11-25/customer.example/new/../x",
        "2026-11-25/customer.example/new/" + ident().replace("20261125", "20261345"),
        "2026-11-25/customer.example/new/" + ident() + "\n",
        "2026-11-25/customer.example/new/20261125T120000.000000Z-" + "x" * 200,
        "customer.example/new/" + ident(),
    ],
)
def test_a_hostile_path_is_no_kept_file(path: str) -> None:
    assert layout.kept_file(path) is None


def test_a_kept_files_path_has_domain_and_id() -> None:
    name = ident()
    assert layout.kept_file(f"2026-11-25/customer.example/new/{name}") == ("customer.example", name)
    assert layout.kept_file(f"2026-11-25/_invalid/new/{name}") == ("_invalid", name)
    assert layout.received(name) == NOON


def read(folder: Path, data: bytes) -> envelope.Message:
    path = folder / ident()
    path.write_bytes(data)
    return envelope.read(str(path), "customer.example", ident())


def test_the_index_gets_envelope_and_subject(tmp_path: Path) -> None:
    body = b"Received: x\nSUBJECT: =?utf-8?q?caf=C3=A9?=\n and more\nTo: y\n\nSubject: not this\n"
    message = read(tmp_path, kept(ident(), body, recipients=["a@customer.example", "b@customer.example"]))
    assert (message.id, message.domain, message.mx) == (ident(), "customer.example", "mx1")
    assert message.subject == "café and more"
    assert message.recipients == "a@customer.example b@customer.example"
    assert (message.size, message.kept, message.truncated) == (len(body), len(body), False)


@pytest.mark.parametrize(
    ("body", "subject"),
    [
        (b"", ""),
        (b"\nSubject: in the body\n", ""),
        (b"no header at all", ""),
        (b"Subject:", ""),
        (b"X-Subject : no\nSubject \t: a\n \n b\n\n", "a b"),
        (b"Subject not\nSubject" + b" " * 60000 + b"x: no\n\n", ""),
        (b"Subject: a\0b\x1b[2J\n\n", "a\0b\x1b[2J"),
        (b"Subject: \xff\xfe\n\n", "\xff\xfe"),
        (b"Subject: =?no-such-charset?q?x?= y\n\n", "=?no-such-charset?q?x?= y"),
        (b"Subject: =?utf-8?b?!!!?=\n\n", None),
        (b"Subject: =?utf-7?q?+2AA-?=\n\n", None),
        (b"Subject: " + b"x" * 100000 + b"\n\n", "x" * 250),
        (b"Subject: a" + b"\n " * 50000 + b"\n\n", "a"),
    ],
)
def test_odd_messages_are_read(tmp_path: Path, body: bytes, subject: str | None) -> None:
    message = read(tmp_path, kept(ident(), body))
    message.subject.encode("utf-8")
    if subject is not None:
        assert message.subject == subject


def test_values_of_any_length_fit_into_their_columns(tmp_path: Path) -> None:
    schema = (Path(envelope.__file__).parent / "schema/0001_index.sql").read_text()
    columns = {
        name: int(size)
        for name, size in re.findall(
            r"^  (\w+) +VARCHAR\((\d+)\)", schema.partition("TABLE IF NOT EXISTS ledger")[0], re.MULTILINE
        )
    }
    assert {"sender", "recipients", "subject", "plugin", "reason"} < set(columns)
    domain = ".".join(["d" * 63] * 4)[:253]
    name = ident(host="m" * 64)[:24] + "x" * 120
    long = "\U0001f4e7" * 2000
    path = tmp_path / name
    path.write_bytes(
        kept(
            name,
            b"Message-ID: <" + b"i" * 2000 + b"@a.example>\nSubject: " + long.encode() + b"\n\nx\n",
            **(
                dict.fromkeys(("sender", "plugin", "reason", "helo"), long)
                | {"recipients": [long] * 3, "host": "m" * 64}
            ),
        )
    )
    assert layout.is_id(name)
    assert layout.is_domain(domain)
    message = envelope.read(str(path), domain, name)
    lengths = {column: len(getattr(message, column)) for column in columns if column != "path"}
    assert lengths == {column: columns[column] for column in lengths} | {"id": len(name)}
    assert len(f"{message_id.day(name)}/{domain}/{name}") <= columns["path"]


def test_a_long_address_is_not_cut(tmp_path: Path) -> None:
    # longer than an MX takes one (256 bytes with its brackets)
    sender, recipient = (f"{'l' * 256}@{'d' * 55}.example" for _ in range(2))
    message = read(tmp_path, kept(ident(), sender=sender, recipients=[recipient] * 3))
    assert (message.sender, message.recipients) == (sender, " ".join([recipient] * 3))


def test_a_large_message_is_streamed(tmp_path: Path) -> None:
    body = b"Subject: large\n\n" + b"0123456789abcdef" * (1 << 18)
    message = read(tmp_path, kept(ident(), body))
    assert message.kept == len(body)
    assert len(message.head) == envelope.HEAD_MAX


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "empty"),
        (b"\0" * 5000, "no envelope"),
        (b"{\n", "no envelope"),
        (b"[]\n", "no envelope"),
        (b"[" * 100000 + b"\n", "no envelope"),
        (b'{"id": 1}\n', "no proper id"),
        (kept(ident(1)), "another message"),
        (kept(ident(), host="../x"), "no proper host"),
        (kept(ident(), size=True), "no proper size"),
        (kept(ident(), size=-1), "no proper size"),
        (kept(ident(), recipients=[1]), "no proper recipients"),
        (kept(ident())[:-3], "sha256"),
        (kept(ident())[:40], "no envelope"),
        (b"x" * (1 << 21), "no envelope"),
    ],
)
def test_damaged_files_are_refused(tmp_path: Path, data: bytes, why: str) -> None:
    with pytest.raises(envelope.DamagedError, match=why):
        read(tmp_path, data)


def test_half_a_surrogate_pair_can_be_stored(tmp_path: Path) -> None:
    data = kept(ident(), sender="\ud800@world.example")
    assert read(tmp_path, data).sender == "?@world.example"
