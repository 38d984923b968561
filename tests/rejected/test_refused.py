"""A message that a customer's server refuses for good is kept whole, reported to an operator, and sent again once."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
from pathlib import Path

import pytest
from mf import run, state
from mf_quarantine import envelope, layout
from mf_rejected import check_refused as check
from mf_rejected import deliver, keeper, purge, purge_record, refused
from mf_rejected import keeper_command as program
from mf_rejected import purge_command as purging
from mf_rejected import refused_command as command

QUEUED = "1xXjgd-0000WL-1H"
LONG = "20261129T183148.028033Z-mx1-customer-1xXjgd.0000WL.1H-070bdfa20dd752e8"
RAW = (
    b"Received: by mx1\n\tfor gone@customer.example\nSubject: t\n\n"
    + b"z" * 5000
    + b"\n.dots\n. \xe9\xff \x00 8bit\n\n\n"
)
SAID = "550 5.1.1 no such user"

# as Exim 4.96 writes one
BOUNCE = b"""\
Received: from Debian-exim by mx1 with local (Exim 4.96)
\tid 1xXjgd-0000WL-1H
\tfor a@world.example;
\tSun, 29 Nov 2026 18:31:43 +0000
X-Failed-Recipients: %(first)s
Auto-Submitted: auto-replied
From: Mail Delivery System <Mailer-Daemon@mx1>
To: a@world.example
References: <x@world.example>
Content-Type: multipart/report; report-type=delivery-status; boundary=1795977103-eximdsn-142172802
MIME-Version: 1.0
Subject: Mail delivery failed: returning message to sender
Message-Id: <E1xXjgd-0000WL-1H@mx1>
Date: Sun, 29 Nov 2026 18:31:43 +0000

--1795977103-eximdsn-142172802
Content-type: text/plain; charset=us-ascii

This message was created automatically by mail delivery software.

A message that you sent could not be delivered to one or more of its
recipients. This is a permanent error. The following address(es) failed:

  %(first)s
    host mail.customer.example [192.0.2.5]
    retry timeout exceeded

--1795977103-eximdsn-142172802
Content-type: message/delivery-status

Reporting-MTA: dns; mx1

%(report)s
--1795977103-eximdsn-142172802
Content-type: %(kind)s

%(path)s%(raw)s
--1795977103-eximdsn-142172802--
"""


def failed(address: str, said: str = SAID) -> str:
    told = f"Remote-MTA: dns; mail.customer.example\nDiagnostic-Code: smtp; {said}\n" if said else ""
    return f"Action: failed\nFinal-Recipient: rfc822;{address}\nStatus: 5.0.0\n{told}"


def bounce(
    raw: bytes = RAW, *reports: str, path: bytes = b"Return-path: <a@world.example>\n", kind: bytes = b"message/rfc822"
) -> bytes:
    found = "\n".join(reports or (failed("gone@customer.example"),)).encode("latin-1")
    return BOUNCE % {b"first": b"gone@customer.example", b"report": found, b"kind": kind, b"path": path, b"raw": raw}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "rejected"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "refused"
    path.mkdir()
    return path


@pytest.fixture
def places(places: state.Places, tmp_path: Path, root: Path, folder: Path) -> state.Places:
    own = {"root": str(root), "keep_days": 5, "free_percent": 0}
    own |= {"releases": str(tmp_path / "releases"), "refused": str(folder)}
    Path(places.settings).write_text(json.dumps({"generation": "g", "host": "mx1", "checks": {}, "rejected": own}))
    return places


def files(root: Path) -> list[Path]:
    return sorted(path for path in root.rglob("*") if path.is_file())


def keep(root: Path, folder: Path, report: bytes | bytearray | None = None) -> list[str]:
    return keeper.keep(bounce() if report is None else report, str(root), str(folder), "mx1")


# --- what is written


def test_a_refused_message_is_kept_byte_for_byte_and_the_quarantine_reads_it(root: Path, folder: Path) -> None:
    (ident,) = keep(root, folder)
    (path,) = files(root)
    assert layout.kept_file(str(path.relative_to(root))) == ("customer.example", ident)
    assert path.read_bytes().partition(b"\n")[2] == RAW
    found = envelope.read(str(path), "customer.example", ident)
    assert (found.sender, found.recipients, found.plugin) == ("a@world.example", "gone@customer.example", "customer")
    assert (found.reason, found.truncated, found.size, found.kept) == (SAID, False, len(RAW), len(RAW))
    assert found.sha256 == hashlib.sha256(RAW).digest()
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


def test_an_underscore_in_the_sender_s_domain_is_one_again(root: Path, folder: Path) -> None:
    keep(root, folder, bounce(path=b"Return-path: <a0-.0b@em0-.01.news0-.0x.example>\n"))
    with files(root)[0].open("rb") as file:
        assert deliver.read(file).sender == "<a0-.0b@em_1.news_x.example>"


def test_a_file_for_each_domain_with_the_refused_recipients_only(root: Path, folder: Path) -> None:
    reports = (
        failed("a@Customer.Example", "550 5.1.1 a"),
        failed("b@customer.example", "550 5.1.1 b"),
        failed("c@shop.example", ""),
        "Action: delayed\nFinal-Recipient: rfc822;later@shop.example\nStatus: 4.0.0\n",
    )
    idents = keep(root, folder, bounce(RAW, *reports))
    found = [json.loads(path.read_bytes().partition(b"\n")[0]) for path in files(root)]
    assert [(one["recipients"], one["reason"]) for one in found] == [
        (["a@Customer.Example", "b@customer.example"], "550 5.1.1 a; 550 5.1.1 b"),
        (["c@shop.example"], "host mail.customer.example [192.0.2.5] retry timeout exceeded"),
    ]
    assert len({one["message"] for one in found}) == 1
    assert len(set(idents)) == 2


def test_a_second_try_writes_the_same_file_again(root: Path, folder: Path) -> None:
    first = keep(root, folder)
    assert keep(root, folder) == first
    assert [path.name for path in files(root)] == first == refused.noted(str(folder))
    # the same message, accepted and refused twice, is two messages
    again = bounce().replace(QUEUED.encode(), b"1xXjgd-0000WM-1H")
    assert keep(root, folder, again) != first
    assert len(files(root)) == 2


def test_the_server_s_words_are_shown_harmless_and_short(root: Path, folder: Path) -> None:
    said = "550-\x1b[2J one\n 550 two\tAction: failed " + "x" * 900
    keep(root, folder, bounce(RAW, failed("gone@customer.example", said), failed("x@/../..", "550 no")))
    found = [json.loads(path.read_bytes().partition(b"\n")[0]) for path in files(root)]
    assert found[0]["reason"].startswith("550 no")
    assert found[1]["reason"].startswith("550-\\x1b[2J one 550 two")
    assert len(found[1]["reason"]) <= 250
    assert {path.parent.parent.name for path in files(root)} == {"_invalid", "customer.example"}


@pytest.mark.parametrize(
    ("report", "why"),
    [
        (bounce(kind=b"text/rfc822-headers"), "doesn't hold the whole message"),
        (bounce(path=b""), "doesn't say who sent"),
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


def session(places: state.Places, message: bytes, ending: bytes = b"QUIT\r\n") -> list[str]:
    settings = json.loads(Path(places.settings).read_text())["rejected"]
    start = b"LHLO mx1\r\nMAIL FROM:<>\r\nRCPT TO:<refused@keep.mf.invalid>\r\nDATA\r\n"
    source = io.BytesIO(start + message)
    sink = io.BytesIO()
    keeper.serve(source, sink, settings["root"], settings["refused"], "mx1")
    return sink.getvalue().decode().splitlines()


def test_yes_is_said_when_it_is_on_disk(places: state.Places, root: Path) -> None:
    said = session(places, stuffed(bounce()))
    assert said[-1] == "250 2.0.0 kept"
    assert files(root)[0].read_bytes().partition(b"\n")[2] == RAW


def test_an_unkept_message_stays_with_exim(places: state.Places, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert session(places, stuffed(b"Subject: no bounce\n\nx\n"))[-1].startswith("451 4.3.0 not kept: not a bounce")
    # gone before the dot: no answer, and nothing kept
    assert session(places, stuffed(bounce())[:-3])[-1] == "354 go on"
    root.write_text("no directory")
    assert session(places, stuffed(bounce()))[-1].startswith("451 4.3.0 not kept:")
    root.unlink()

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    assert session(places, stuffed(bounce()))[-1] == "451 4.3.0 not kept: the disk: No space left on device"
    assert [path for path in files(root) if path.parent.name == "new"] == []


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


# --- ids


def test_ids_tell_accepted_mail_apart_from_rejected_mail() -> None:
    assert refused.is_refused(LONG)
    for other in (
        "20261129T183148.028033Z-mx1-4711-0-070bdfa20dd752e8",
        "20261129T183148.028033Z-mx-customer-1-4711-0-070bdfa20dd752e8",
        "../x-customer-y-z",
        "customer",
        "",
    ):
        assert not refused.is_refused(other)


def test_accepted_mail_is_the_last_to_go_when_the_disk_is_full(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [LONG, "20261129T190000.000000Z-mx1-1-0-aa", "20261129T200000.000000Z-mx1-1-0-bb"]
    for name in names:
        path = root / "2026-11-29/customer.example/new" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x" * 100)
    order: list[str] = []

    def sacrifice(kept: list[purge.Kept], *_: object) -> tuple[list[purge.Kept], bool]:
        order.extend(one.path[3] for one in kept)
        return [], True

    monkeypatch.setattr(purge, "sacrifice", sacrifice)
    with purge.Store(str(root)) as store:
        purge.purge(store, 5, 101.0, 1796000000.0)
    assert order == [*names[1:], names[0]]


# --- a person is told, and decides


def values(places: state.Places) -> run.Values:
    settings = json.loads(Path(places.settings).read_text())["rejected"]
    return {"folder": settings["refused"], "releases": settings["releases"]}


def test_the_check_reports_until_an_operator_has_decided(
    places: state.Places, root: Path, folder: Path, tmp_path: Path
) -> None:
    assert check.probe(places, values(places)).status == state.OK
    (first,) = keep(root, folder)
    keep(root, folder, bounce(b"Subject: 2\n\n", failed("a@shop.example", "500 Line too long")))
    (third,) = keep(root, folder, bounce(b"Subject: 3\n\n"))
    found = check.probe(places, values(places))
    assert (found.status, found.metrics) == (state.CRITICAL, {"waiting": 3, "domains": 2})
    assert found.summary.startswith(
        "3 messages refused for good by customers' servers, kept: customer.example 2 since "
    )
    assert "(550 5.1.1 no such user), shop.example 1 since " in found.summary
    assert "(500 Line too long)" in found.summary
    # control has released one here, somebody has forgotten the other
    (tmp_path / "releases").mkdir()
    (tmp_path / "releases" / first).write_text("accepted OK id=1\n")
    (tmp_path / "releases" / third).write_text("refused 550 no\n")
    assert check.probe(places, values(places)).metrics == {"waiting": 2, "domains": 2}
    assert command.main(["forget", third], places) == 0
    assert command.main(["forget", "--domain", "Shop.Example"], places) == 0
    assert check.probe(places, values(places)).status == state.OK
    assert len(files(root)) == 3


def test_a_nonsensical_note_is_harmless(places: state.Places, folder: Path) -> None:
    for number, words in enumerate(
        (b"", b"[]", b'{"domain": "../../etc", "reason": 5}', b'{"domain": "a", "reason": "\\u001b[2J"}')
    ):
        (folder / LONG.replace("070b", f"{number:04d}")).write_bytes(words)
    found = check.probe(places, values(places))
    assert found.metrics == {"waiting": 4, "domains": 2}
    assert "\x1b" not in found.summary
    assert refused.read(str(folder), LONG.replace("070b", "0002")) == {"domain": "", "reason": "", "recipients": ""}


def test_notes_go_with_their_messages(places: state.Places, root: Path, folder: Path, tmp_path: Path) -> None:
    (ident,) = keep(root, folder)
    assert refused.settle(str(root), str(folder), "/nowhere") == []
    Path(refused.path(str(root), "customer.example", ident)).unlink()
    (tmp_path / "log").touch()
    assert refused.settle(str(root), str(folder), "/nowhere") == [ident]
    assert refused.noted(str(folder)) == []
    assert purging.main(["--json"], places) == 0
    assert purge_record.read(places)["ran"]


@pytest.mark.parametrize(
    "words", [["release"], ["release", LONG], ["forget", "--all", LONG], ["forget", "--all", "--domain", "x"], ["x"]]
)
def test_a_selection_is_required(places: state.Places, words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    try:
        code = command.main(words, places)
    except SystemExit as end:
        code = int(end.code or 0)
    assert code == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_list_for_people_and_for_programs(
    places: state.Places, root: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (ident,) = keep(root, folder)
    assert command.main(["list"], places) == 0
    assert capsys.readouterr().out.endswith(f"  gone@customer.example  550 5.1.1 no such user  {ident}\n")
    assert command.main(["list", "--json"], places) == 0
    assert json.loads(capsys.readouterr().out)["id"] == ident


def test_settings_that_lack_something_are_named(places: state.Places, capsys: pytest.CaptureFixture[str]) -> None:
    Path(places.settings).write_text(json.dumps({"generation": "g", "host": "mx1", "checks": {}, "rejected": {}}))
    assert command.main(["list"], places) == 1
    assert program.main([], places) == 1
    assert capsys.readouterr().err.count("rejected.root is missing; deploy again with playbooks/site.yml") == 2
