"""A message that a customer's server refuses for good is kept whole, reported to an operator, and sent again once."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import re
from pathlib import Path

import pytest
from mf import Failure, run, state
from mf_quarantine import envelope, layout
from mf_rejected import check as rejected_check
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


@pytest.mark.parametrize(
    ("queued", "sender"),
    [
        ("a=em_1.News_x.example@0", "<a@em_1.News_x.example>"),
        ("SRS0=f=b.example=a_=em_1.example@0", "<SRS0=f=b.example=a_@em_1.example>"),
        (r'"john \"@= doe=em_1.example"@0', r'<"john \"@= doe"@em_1.example>'),
        ("a=b=0@0", "<a=b@0>"),
        ("a=em_1.example@10", "<a=em_1.example@10>"),
    ],
)
def test_a_sender_in_exim_s_form_is_the_real_one_again(root: Path, folder: Path, queued: str, sender: str) -> None:
    keep(root, folder, bounce(path=f"Return-path: <{queued}>\n".encode()))
    line, _, _ = files(root)[0].read_bytes().partition(b"\n")
    assert f"<{json.loads(line)['sender']}>" == sender


TWO = (
    failed("a@Customer.Example", "550 5.1.1 a"),
    failed("b@customer.example", "550 5.1.1 b"),
    failed("c@shop.example", ""),
    "Action: delayed\nFinal-Recipient: rfc822;later@shop.example\nStatus: 4.0.0\n",
)


def test_one_body_for_all_domains_with_the_refused_recipients_only(root: Path, folder: Path) -> None:
    idents = keep(root, folder, bounce(RAW, *TWO))
    (path,) = files(root)
    assert idents == [path.name, path.name[:-1] + "1"] == refused.noted(str(folder))
    assert layout.kept_file(str(path.relative_to(root))) == (layout.SHARED, idents[0])
    found = envelope.copies(str(path), path.name)
    assert [(one.id, one.domain, one.recipients, one.reason) for one in found] == [
        (idents[0], "customer.example", "a@Customer.Example b@customer.example", "550 5.1.1 a; 550 5.1.1 b"),
        (idents[1], "shop.example", "c@shop.example", "host mail.customer.example [192.0.2.5] retry timeout exceeded"),
    ]
    assert path.read_bytes().partition(b"\n")[2] == RAW
    assert {refused.path(str(root), domain, ident) for domain, ident in zip("xy", idents, strict=True)} == {str(path)}
    # a second try is the same file, whichever notes are left
    refused.forget(str(folder), idents[0])
    assert keep(root, folder, bounce(RAW, *TWO)) == idents
    assert files(root) == [path]


def test_each_domain_s_copy_is_sent_again_alone(places: state.Places, root: Path, folder: Path) -> None:
    idents = keep(root, folder, bounce(RAW, *TWO)) + keep(root, folder)
    kept = command.Kept(places)
    to = []
    for ident in idents:
        with kept.open(ident) as file:
            # as a child reads it: at the descriptor's own position
            line, _, raw = os.pread(file.fileno(), 1 << 20, os.lseek(file.fileno(), 0, os.SEEK_CUR)).partition(b"\n")
        assert raw == RAW
        to.append(deliver.parse(line, raw).recipients)
        assert json.loads(line)["id"] == ident
    assert to == [["<a@Customer.Example>", "<b@customer.example>"], ["<c@shop.example>"], ["<gone@customer.example>"]]


@pytest.mark.parametrize("line", [b"", b"[]", b"{}", b'{"copies": [1, 2]}', b'{"copies": []}', b'{"copies": {"1": 2}}'])
def test_a_damaged_shared_file_is_not_sent(line: bytes) -> None:
    with pytest.raises(Failure, match="no envelope"):
        keeper.alone(line, LONG + ".1")


def test_a_thousand_domains_have_one_body_and_a_line_that_all_readers_take(root: Path, folder: Path) -> None:
    said = "550 " + "\\" * 400
    reports = [failed("\\" * 200 + f"@d{number}.{'x' * 200}.example", said) for number in range(1000)]
    assert len(keep(root, folder, bounce(RAW, *reports))) == 1000
    (path,) = files(root)
    found = envelope.copies(str(path), path.name)
    assert (len(found), {one.reason for one in found}) == (1000, {"refused by the servers of several domains"})
    assert refused.read(str(folder), found[7].id)["reason"].startswith("550 ")


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


def test_a_second_try_writes_the_same_file_again(root: Path, folder: Path) -> None:
    first = keep(root, folder)
    assert keep(root, folder) == first
    assert [path.name for path in files(root)] == first == refused.noted(str(folder))
    # the same message, accepted and refused twice, is two messages
    again = bounce().replace(QUEUED.encode(), b"1xXjgd-0000WM-1H")
    assert keep(root, folder, again) != first
    assert len(files(root)) == 2


def test_the_server_s_reply_is_shown_harmless_and_short(root: Path, folder: Path) -> None:
    said = "550-\x1b[2J one\n 550 two\tAction: failed " + "x" * 900
    keep(root, folder, bounce(RAW, failed("gone@customer.example", said), failed("x@/../..", "550 no")))
    (path,) = files(root)
    found = json.loads(path.read_bytes().partition(b"\n")[0])["copies"]
    assert [one["domain"] for one in found] == ["_invalid", "customer.example"]
    assert found[0]["reason"].startswith("550 no")
    assert found[1]["reason"].startswith("550-\\x1b[2J one 550 two")
    assert len(found[1]["reason"]) <= 250


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


# --- nothing goes without a decision

OLD = "20200102T030405.000000Z"


def aged(root: Path, folder: Path) -> None:
    """All refused mail and its notes are of a day that is long over."""
    for path in [*files(root), *files(folder)]:
        box = root / "2020-01-02" / path.parent.parent.name / "new" if root in path.parents else folder
        box.mkdir(parents=True, exist_ok=True)
        path.rename(box / (OLD + path.name[len(OLD) :]))


def test_a_day_that_is_over_keeps_what_waits_until_each_domain_is_decided(
    places: state.Places, root: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    keep(root, folder)
    keep(root, folder, bounce(RAW, *TWO).replace(QUEUED.encode(), b"1xXjgd-0000WM-1H"))
    aged(root, folder)
    spam = root / "2020-01-02/customer.example/new/20200102T030405.000000Z-mx1-1-0-aa"
    spam.touch()
    single, first, second = refused.noted(str(folder))
    shared = Path(refused.path(str(root), "", first))
    assert purging.main(["--dry-run"], places) == purging.main([], places) == 0
    sentence = "1 messages of 2020-01-02 removed: their time was over\n"
    assert capsys.readouterr().out == f"would: {sentence}{sentence}"
    assert len(files(root)) == 2
    assert check.probe(places, values(places)).metrics["waiting"] == 3
    # a run with nothing to do is silent, and check-rejected doesn't expect the day to go
    assert purging.main([], places) == 0
    assert capsys.readouterr().out == ""
    own = {"root": str(root), "refused": str(folder), "keep_days": 5, "free_percent": 0}
    days = rejected_check.probe(places, own)
    assert isinstance(days, state.Result)
    assert days.summary.startswith("2 days kept")
    assert "still here" not in days.summary
    # one domain of two is released by control, and the other one waits
    (tmp_path / "releases").mkdir()
    (tmp_path / "releases" / first).write_text("accepted OK id=1\n")
    assert command.main(["forget", single], places) == 0
    assert purging.main([], places) == 0
    assert files(root) == [shared]
    assert refused.noted(str(folder)) == [second]
    assert command.main(["forget", "--dry-run", "--all"], places) == 0
    assert purging.main([], places) == 0
    assert files(root) == [shared]
    assert command.main(["forget", "--all"], places) == 0
    assert purging.main([], places) == 0
    assert files(root) == []
    assert not (root / "2020-01-02").exists()


def test_all_refused_mail_stays_while_its_notes_cannot_be_read(places: state.Places, root: Path, folder: Path) -> None:
    keep(root, folder)
    aged(root, folder)
    (note,) = files(folder)
    note.unlink()
    folder.rmdir()
    assert purging.main([], places) == 0
    assert len(files(root)) == 1
    assert check.probe(places, values(places)).status == state.CRITICAL
    assert command.main(["list"], places) == 1


def test_a_full_disk_costs_no_mail_that_waits(root: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [LONG, "20261129T190000.000000Z-mx1-1-0-aa", LONG.replace("070b", "0000")]
    for name in names:
        path = root / "2026-11-29/customer.example/new" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x" * 100)
    (folder / LONG).touch()
    order: list[str] = []

    def sacrifice(kept: list[purge.Kept], *_: object) -> tuple[list[purge.Kept], bool]:
        order.extend(one.path[3] for one in kept)
        return [], True

    monkeypatch.setattr(purge, "sacrifice", sacrifice)
    with purge.Store(str(root)) as store:
        purge.purge(store, 5, 101.0, 1796000000.0, waits=purge.undecided(str(folder), "/nowhere"))
        assert order == [names[2], names[1]]
        order.clear()
        purge.purge(store, 5, 101.0, 1796000000.0)
    assert order == [names[1]]


# --- an operator is told, and decides


def values(places: state.Places) -> run.Values:
    settings = json.loads(Path(places.settings).read_text())["rejected"]
    return {"root": settings["root"], "folder": settings["refused"], "releases": settings["releases"]}


def test_the_check_reports_until_an_operator_has_decided(
    places: state.Places, root: Path, folder: Path, tmp_path: Path
) -> None:
    assert check.probe(places, values(places)).status == state.OK
    (first,) = keep(root, folder)
    keep(root, folder, bounce(b"Subject: 2\n\n", failed("a@shop.example", "500 Line too long")))
    (third,) = keep(root, folder, bounce(b"Subject: 3\n\n"))
    found = check.probe(places, values(places))
    stored = sum(path.stat().st_blocks * 512 for path in files(root))
    assert (found.status, found.metrics) == (
        state.CRITICAL,
        {"waiting": 3, "domains": 2, "bytes": stored, "missing": 0},
    )
    assert found.summary.endswith(f"(500 Line too long); 1 MiB, the oldest of {refused.day(first)}; see refused list")
    assert found.summary.startswith(
        "3 messages refused for good by customers' servers, kept: customer.example 2 since "
    )
    assert "(550 5.1.1 no such user), shop.example 1 since " in found.summary
    # control has released one here, somebody has forgotten the other
    (tmp_path / "releases").mkdir()
    (tmp_path / "releases" / first).write_text("accepted OK id=1\n")
    (tmp_path / "releases" / third).write_text("refused 550 no\n")
    assert check.probe(places, values(places)).metrics["waiting"] == 2
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
    assert found.metrics == {"waiting": 4, "domains": 2, "bytes": 0, "missing": 4}
    assert "\x1b" not in found.summary
    assert refused.read(str(folder), LONG.replace("070b", "0002")) == {"domain": "", "reason": "", "recipients": ""}


def test_a_message_whose_file_is_gone_is_reported_until_it_is_forgotten(
    places: state.Places, root: Path, folder: Path, tmp_path: Path
) -> None:
    idents = keep(root, folder, bounce(RAW, *TWO))
    (tmp_path / "releases").mkdir()
    (tmp_path / "releases" / idents[1]).write_text("accepted OK id=1\n")
    files(root)[0].unlink()
    assert purging.main(["--json"], places) == 0
    assert purge_record.read(places)["ran"]
    assert refused.noted(str(folder)) == idents[:1]
    found = check.probe(places, values(places))
    assert (found.status, found.metrics["missing"]) == (state.CRITICAL, 1)
    assert "; 1 without a file; " in found.summary


def test_a_shared_file_counts_once_and_a_crowd_is_counted_in_part(
    places: state.Places, root: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep(root, folder, bounce(b"Subject: large\n\n" + b"x" * (3 << 20), *TWO))
    assert "; 4 MiB, the oldest of " in check.probe(places, values(places)).summary
    monkeypatch.setattr(check, "READ", 1)
    found = check.probe(places, values(places))
    assert (found.metrics["waiting"], found.metrics["domains"]) == (2, 1)
    assert "; at least 4 MiB, the oldest of " in found.summary


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
