"""A message that a customer's server refuses for good is kept whole, from the bounce that Exim hands over."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import posix
import re
import time
from pathlib import Path

import pytest
from mf import Failure, state
from mf_quarantine import envelope, layout
from mf_rejected import deliver, keeper, purge_record, refused

from tests.rejected.conftest import LONG, QUEUED, RAW, REPLY, TWO, bounce, failed, files, keep

# --- what is written


def test_a_refused_message_is_kept_byte_for_byte_and_the_quarantine_reads_it(root: Path, folder: Path) -> None:
    (ident,) = keep(root, folder)
    (path,) = files(root)
    assert layout.kept_file(str(path.relative_to(root))) == ("customer.example", ident)
    assert path.read_bytes().partition(b"\n")[2] == RAW
    message = envelope.read(str(path), "customer.example", ident)
    assert (message.sender, message.recipients, message.plugin) == (
        "a@world.example",
        "gone@customer.example",
        "customer",
    )
    assert (message.reason, message.truncated, message.size, message.kept) == (REPLY, False, len(RAW), len(RAW))
    assert message.sha256 == hashlib.sha256(RAW).digest()
    # and so does the MX's end of a release
    with path.open("rb") as file:
        assert deliver.read(file) == deliver.Message("<a@world.example>", ["<gone@customer.example>"], RAW)


def test_no_size_is_cut(root: Path, folder: Path) -> None:
    large = b"Subject: large\n\n" + b"x" * 98 + b"\n" + os.urandom(1 << 20).replace(b"\r", b"\n") * 52 + b"\n"
    report = bounce(large)
    wire = io.BytesIO(stuffed(report))
    received = keeper.receive(wire)
    assert received == report
    (ident,) = keep(root, folder, received)
    path = refused.path(str(root), "customer.example", ident)
    assert Path(path).read_bytes().partition(b"\n")[2] == large
    with open(path, "rb") as file:
        assert deliver.read(file).raw == large


def test_a_bounce_from_outside_has_no_sender(root: Path, folder: Path) -> None:
    keep(root, folder, bounce(path=b"Return-path: <>\n"))
    assert json.loads(files(root)[0].read_bytes().partition(b"\n")[0])["sender"] == ""


@pytest.mark.parametrize(
    ("queued", "sender"),
    [
        ("a=em_1.News_x.example@0", "<a@em_1.News_x.example>"),
        ("SRS0=f=b.example=a_=em_1.example@0", "<SRS0=f=b.example=a_@em_1.example>"),
        (r'"john\ \"\@= doe=em_1.example"@0', '<john "@= doe@em_1.example>'),
        ("a=b=0@0", "<a=b@0>"),
        ("a=em_1.example@10", "<a=em_1.example@10>"),
    ],
)
def test_a_sender_in_exim_s_form_is_the_real_one_again(root: Path, folder: Path, queued: str, sender: str) -> None:
    keep(root, folder, bounce(path=f"Return-path: <{queued}>\n".encode()))
    line, _, _ = files(root)[0].read_bytes().partition(b"\n")
    assert f"<{json.loads(line)['sender']}>" == sender


@pytest.mark.parametrize(
    "local", ["a,b", "john doe", r"a\b", 'a"b', "a@b", '"', "\\", "a=b", "''", "SRS0=f=b.example=a"]
)
def test_what_is_sent_again_has_the_very_same_addresses(root: Path, folder: Path, local: str) -> None:
    sender, recipient = deliver.path(f"{local}@world.example"), deliver.path(f"{local}@customer.example")
    keep(root, folder, bounce(RAW, failed(recipient[1:-1]), path=f"Return-path: {sender}\n".encode()))
    with files(root)[0].open("rb") as file:
        assert deliver.read(file) == deliver.Message(sender, [recipient], RAW)


def test_one_body_for_all_domains_with_the_refused_recipients_only(root: Path, folder: Path) -> None:
    idents = keep(root, folder, bounce(RAW, *TWO))
    (path,) = files(root)
    assert idents == [path.name, path.name[:-1] + "1"] == refused.noted(str(folder))
    assert layout.kept_file(str(path.relative_to(root))) == (layout.SHARED, idents[0])
    copies = envelope.copies(str(path), path.name)
    assert [(copy.id, copy.domain, copy.recipients, copy.reason) for copy in copies] == [
        (idents[0], "customer.example", "a@Customer.Example b@customer.example", "550 5.1.1 a; 550 5.1.1 b"),
        (idents[1], "shop.example", "c@shop.example", "host mail.customer.example [192.0.2.5] retry timeout exceeded"),
    ]
    assert path.read_bytes().partition(b"\n")[2] == RAW
    assert {refused.path(str(root), domain, ident) for domain, ident in zip("xy", idents, strict=True)} == {str(path)}
    # a second try is the same file, whichever notes are left
    refused.forget(str(folder), idents[0])
    assert keep(root, folder, bounce(RAW, *TWO)) == idents
    assert files(root) == [path]


@pytest.mark.parametrize("line", [b"", b"[]", b"{}", b'{"copies": [1, 2]}', b'{"copies": []}', b'{"copies": {"1": 2}}'])
def test_a_damaged_shared_file_is_not_sent(line: bytes) -> None:
    with pytest.raises(Failure, match="no envelope"):
        keeper.alone(line, LONG + ".1")


def test_a_thousand_domains_have_one_body_and_a_line_that_all_readers_take(root: Path, folder: Path) -> None:
    reply = "550 " + "\\" * 400
    reports = [failed("\\" * 200 + f"@d{number}.{'x' * 200}.example", reply) for number in range(1000)]
    assert len(keep(root, folder, bounce(RAW, *reports))) == 1000
    (path,) = files(root)
    copies = envelope.copies(str(path), path.name)
    assert (len(copies), {copy.reason for copy in copies}) == (1000, {"refused by the servers of several domains"})
    assert refused.read(str(folder), copies[7].id)["reason"].startswith("550 ")


def test_an_id_of_the_longest_names_is_one_for_all_readers(root: Path, folder: Path) -> None:
    reports = [failed(f"a@d{number}.example") for number in range(1000)]
    report = re.sub(rb"(?i)(message-id: <E)[^@]+", rb"\g<1>1xXw0A-0000N4Abcde-0Qab", bounce(RAW, *reports))
    idents = keeper.keep(report, str(root), str(folder), "m" * 64)
    assert max(map(len, idents)) > 135
    for ident in idents:
        assert layout.is_id(ident)
        assert refused.is_refused(ident)
        assert deliver._ID.fullmatch(ident)
    (path,) = files(root)
    assert len(envelope.copies(str(path), path.name)) == 1000


def test_a_second_try_writes_the_same_file_again(root: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = keep(root, folder)
    assert keep(root, folder) == first
    assert [path.name for path in files(root)] == first == refused.noted(str(folder))
    # nor does it depend on the note, or on the time of the try
    monkeypatch.setattr(time, "time", lambda: 2e9)
    refused.forget(str(folder), first[0])
    assert keep(root, folder) == first
    assert first[0].startswith("20261129T183143.000000Z-mx1-customer-1xXjgd.0000WL.1H-")
    # the same message, accepted and refused twice, is two messages
    again = bounce().replace(QUEUED.encode(), b"1xXjgd-0000WM-1H")
    assert keep(root, folder, again) != first
    assert len(files(root)) == 2


def test_the_keeper_lists_no_folder(root: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Or each message would cost more than the one before."""

    def listed(*_: object) -> list[str]:
        raise AssertionError

    monkeypatch.setattr(posix, "listdir", listed)
    assert len(keep(root, folder, bounce(RAW, *TWO))) == 2


def test_the_server_s_reply_is_shown_harmless_and_short(root: Path, folder: Path) -> None:
    reply = "550-\x1b[2J one\n 550 two\tAction: failed " + "x" * 900
    keep(root, folder, bounce(RAW, failed("gone@customer.example", reply), failed("x@/../..", "550 no")))
    (path,) = files(root)
    copies = json.loads(path.read_bytes().partition(b"\n")[0])["copies"]
    assert [copy["domain"] for copy in copies] == ["_invalid", "customer.example"]
    assert copies[0]["reason"].startswith("550 no")
    assert copies[1]["reason"].startswith("550-\\x1b[2J one 550 two")
    assert len(copies[1]["reason"]) <= 250


@pytest.mark.parametrize(
    ("report", "why"),
    [
        (bounce(kind=b"text/rfc822-headers"), "doesn't hold the whole message"),
        (bounce(path=b""), "doesn't name the sender"),
        (bounce(RAW, "Action: delayed\n"), "names no recipient"),
        (bounce()[:-30], "has no end"),
        (bounce().replace(b"multipart/report", b"multipart/mixed"), "not a bounce"),
        (bounce().replace(b"message/delivery-status", b"message/x").replace(b"\n--17", b"\n-17"), "a part"),
        (b"", "no end of its header"),
    ],
)
def test_an_incomplete_bounce_is_not_taken(root: Path, folder: Path, report: bytes, why: str) -> None:
    with pytest.raises(keeper.ReportError, match=why):
        keep(root, folder, report)
    assert files(root) == files(folder) == []


def test_an_original_that_looks_like_a_bounce_is_no_boundary(root: Path, folder: Path) -> None:
    inner = b"Subject: x\n\n" + bounce() + b"--1795977103-eximdsn-142172802\nContent-type: message/rfc822\n\n"
    keep(root, folder, bounce(inner))
    assert files(root)[0].read_bytes().partition(b"\n")[2] == inner


# --- the session with Exim


def stuffed(message: bytes) -> bytes:
    return (
        b"".join(
            (b"." if line.startswith(b".") else b"") + line + b"\r\n"
            for line in message.removesuffix(b"\n").split(b"\n")
        )
        + b".\r\n"
    )


def session(root: Path, folder: Path, message: bytes, day_size: int = 1 << 30) -> list[str]:
    start = b"LHLO mx1\r\nMAIL FROM:<>\r\nRCPT TO:<refused@keep.mf.invalid>\r\nDATA\r\n"
    source = io.BytesIO(start + message)
    sink = io.BytesIO()
    keeper.serve(source, sink, str(root), str(folder), "mx1", day_size)
    return sink.getvalue().decode().splitlines()


def test_a_250_follows_once_the_message_is_on_disk(root: Path, folder: Path) -> None:
    replies = session(root, folder, stuffed(bounce()))
    assert replies[-1] == "250 2.0.0 kept"
    assert files(root)[0].read_bytes().partition(b"\n")[2] == RAW


def test_an_unkept_message_stays_with_exim(root: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert session(root, folder, stuffed(b"Subject: no bounce\n\nx\n"))[-1].startswith(
        "451 4.3.0 not kept: not a bounce"
    )
    # gone before the dot: no answer, and nothing kept
    assert session(root, folder, stuffed(bounce())[:-3])[-1] == "354 go on"
    root.write_text("no directory")
    assert session(root, folder, stuffed(bounce()))[-1].startswith("451 4.3.0 not kept:")
    root.unlink()

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    assert session(root, folder, stuffed(bounce()))[-1] == "451 4.3.0 not kept: the disk: No space left on device"
    assert [path for path in files(root) if path.parent.name == "new"] == []


def test_beyond_a_day_s_limit_mail_stays_with_exim_until_the_next_day(
    root: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = 1796000000.0
    monkeypatch.setattr(time, "time", lambda: now)
    limit = len(RAW) + 1

    def answer(number: int) -> str:
        report = bounce().replace(QUEUED.encode(), b"1xXjgd-0000W%d-1H" % number)
        return session(root, folder, stuffed(report), limit)[-1]

    # a message that isn't kept takes nothing of it
    assert session(root, folder, stuffed(b"Subject: no bounce\n\nx\n"), limit)[-1].startswith("451 ")
    assert [answer(number) for number in (1, 2)] == ["250 2.0.0 kept"] * 2
    capsys.readouterr()
    # the answer to MAIL
    assert session(root, folder, b"", limit)[2] == f"451 4.3.0 not kept: a day takes {limit} bytes and no more"
    assert "stays in Exim's queue: a day takes" in capsys.readouterr().err
    now += 86400
    assert answer(3) == "250 2.0.0 kept"
    assert len(files(root)) == len(refused.noted(str(folder))) == 3
    assert purge_record.today(str(folder), now)["used"] == len(RAW)


def test_a_message_that_cannot_be_counted_is_tried_again(
    root: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeper, "LOCKED", 0.0)
    with state.Lock(f"{folder}/.day"):
        assert session(root, folder, stuffed(bounce()))[-1] == f"451 4.3.0 not kept: {folder}/.day: locked"
    assert session(root, folder, stuffed(bounce()))[-1] == "250 2.0.0 kept"
    assert len(files(root)) == 1


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64, 4096])
def test_bytes_survive_pieces_of_any_size(size: int) -> None:
    message = bounce(b"\n..\n.\n\n.x\r.\n" + b"y" * 300 + b"\n.")

    class Pieces(io.BytesIO):
        def read1(self, _: int | None = -1, /) -> bytes:
            return self.read(size)

    assert keeper.receive(Pieces(stuffed(message + b"\n"))) == message + b"\n"


# --- a bounce for the sender


def test_of_a_bounce_for_the_sender_only_the_header_goes_back() -> None:
    short = keeper.trim(bounce())
    assert b"550 5.1.1 no such user" in short
    assert short.endswith(b"\nSubject: t\n\n--1795977103-eximdsn-142172802--\n")
    assert b"Content-type: text/rfc822-headers\n\nReturn-path: <a@world.example>\nReceived: by mx1\n" in short
