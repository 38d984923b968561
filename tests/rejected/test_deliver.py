"""Delivering a message: handed to Exim once, whatever dies in between, and nothing else can be done with it."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from mf import state
from mf_rejected import deliver

ID = "20251125T020000.000001Z-mx1-1-0-0011223344556677.0"
RAW = b"Subject: x\n\n.dot\nbare\rcr\n"
NOW = 1764036000.0
ROLES = Path(deliver.__file__).parents[4]


class Exim:
    """A scripted listener: reply by command, None hangs up. ``got`` has the received data."""

    def __init__(self, **replies: str | None) -> None:
        self.replies = {
            "greeting": "220 x",
            "EHLO": "250 x",
            "MAIL": "250 x",
            "RCPT": "250 x",
            "DATA": "354 go",
            **replies,
        }
        self.dot = replies.get("dot", "250 OK id=1abc")
        self.after_dot: Callable[[], None] = lambda: None
        self.got: list[bytes] = []
        self.messages: list[bytes] = []
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.thread = threading.Thread(target=self.serve, daemon=True)
        self.thread.start()

    def close(self) -> None:
        """Nobody listens any more."""
        with contextlib.suppress(OSError):
            self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        self.thread.join()

    def serve(self) -> None:
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            with connection, connection.makefile("rwb") as stream:
                self.talk(stream)

    def talk(self, stream: Any) -> None:
        def say(reply: str | None) -> bool:
            if reply is None:
                return False
            stream.write(reply.encode() + b"\r\n")
            stream.flush()
            return True

        if not say(self.replies["greeting"]):
            return
        for line in stream:
            self.got.append(line)
            word = line.split()[0].decode()
            if word == "QUIT" or not say(self.replies.get(word, "500 what")):
                return
            if word == "DATA" and str(self.replies["DATA"]).startswith("354"):
                body = []
                for text in stream:
                    if text == b".\r\n":
                        break
                    body.append(text)
                else:
                    return
                self.messages.append(b"".join(body))
                self.after_dot()
                if not say(self.dot):
                    return


@pytest.fixture
def exim() -> Iterator[Exim]:
    server = Exim()
    yield server
    server.close()


@pytest.fixture
def where(tmp_path: Path) -> dict[str, str]:
    places = {"records": str(tmp_path / "records"), "logs": str(tmp_path / "logs")}
    for path in places.values():
        Path(path).mkdir()
    Path(places["logs"], "mainlog").write_text(logline(NOW - 60, "exim 4.96 daemon started"))
    return places


def logline(when: float, text: str) -> str:
    """A line of Exim's log, which has local time."""
    return f"{time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(when))} {text}\n"


def taken(when: float = NOW) -> str:
    """What Exim writes when it takes the release."""
    return logline(when, f"1xW2k4-0000Ox-0x <= a@b.example H=({deliver.helo(ID)}) [127.0.0.1] P=esmtp S=1 id=x")


def kept(raw: bytes = RAW, **changes: object) -> io.BytesIO:
    envelope = {
        "sender": "a@b.example",
        "recipients": ["u@ours.example", "v+w=x@ours.example"],
        "sha256": hashlib.sha256(raw).hexdigest(),
        "size": len(raw),
        "truncated": False,
        **changes,
    }
    return io.BytesIO(json.dumps(envelope).encode() + b"\n" + raw)


def ask(exim: Exim, where: dict[str, str], source: io.BytesIO | None = None, name: str = ID) -> deliver.Answer:
    return deliver.deliver(name, source or kept(), port=exim.port, now=NOW, **where)


def test_a_message_is_handed_over_once(exim: Exim, where: dict[str, str]) -> None:
    assert ask(exim, where) == ("accepted", "OK id=1abc")
    assert exim.messages == [b"Subject: x\r\n\r\n..dot\r\nbare cr\r\n"]
    assert exim.got[1:4] == [
        b"MAIL FROM:<a@b.example>\r\n",
        b"RCPT TO:<u@ours.example>\r\n",
        b"RCPT TO:<v+w=x@ours.example>\r\n",
    ]
    assert ask(exim, where) == ("known", "OK id=1abc")
    assert len(exim.messages) == 1
    assert ask(exim, where, name="another").word == "accepted"


def test_a_bounce_has_no_sender(exim: Exim, where: dict[str, str]) -> None:
    assert ask(exim, where, kept(sender="")).word == "accepted"
    assert b"MAIL FROM:<>\r\n" in exim.got


def test_a_message_of_nothing_is_handed_over(exim: Exim, where: dict[str, str]) -> None:
    assert ask(exim, where, kept(b"")).word == "accepted"
    assert exim.messages == [b""]


@pytest.mark.parametrize(
    ("source", "why"),
    [
        (io.BytesIO(b""), "no envelope"),
        (io.BytesIO(b"[" * 5000 + b"\n"), "no envelope"),
        (io.BytesIO(b"[1, 2]\nx"), "no envelope"),
        (io.BytesIO(b"x" * (deliver.MAX_ENVELOPE + 2)), "too large"),
        (kept(sha256="0" * 64), "damaged"),
        (kept(truncated=True, size=99), "of 99"),
        (kept(recipients=[]), "1 to 1000 recipients"),
        (kept(recipients=["a@b.example"] * 1001), "1 to 1000 recipients"),
        (kept(recipients=["a@b.example>\r\nRCPT TO:<c@d.example"]), "no address"),
        (kept(recipients=["a@b c.example"]), "no address"),
        (kept(recipients=["x" * 245 + "@c.example"]), "no address"),
        (kept(recipients=["a@[1.2.3.4]>"]), "no address"),
        (kept(recipients=["a@../../etc"]), "no address"),
        (kept(recipients=[""]), "no address"),
        (kept(recipients=[7]), "no address"),
        (kept(sender="a@b\n.example"), "no address"),
        (kept(sender=None), "no address"),
    ],
)
def test_a_malformed_message_is_refused(exim: Exim, where: dict[str, str], source: io.BytesIO, why: str) -> None:
    answer = ask(exim, where, source)
    assert answer.word == "refused"
    assert why in answer.detail
    assert exim.got == []


@pytest.mark.parametrize("name", ["", "../../etc/passwd", ".", "a/b", "-x", "a b", "x" * 151, "a\n"])
def test_an_id_that_is_none_is_refused(exim: Exim, where: dict[str, str], name: str) -> None:
    assert ask(exim, where, name=name).word == "refused"
    assert os.listdir(where["records"]) == []


@pytest.mark.parametrize(
    ("replies", "word"),
    [
        ({"RCPT": "550 5.1.2 no route"}, "refused"),
        ({"RCPT": "451 later"}, "later"),
        ({"greeting": "421 busy"}, "later"),
        ({"EHLO": None}, "later"),
        ({"DATA": "452 no room"}, "later"),
        ({"dot": "552 too big"}, "refused"),
        ({"dot": "451 not now"}, "later"),
        ({"dot": None}, "unclear"),
    ],
)
def test_exims_answers_are_distinguished(where: dict[str, str], replies: dict[str, str | None], word: str) -> None:
    exim = Exim(**replies)
    assert ask(exim, where).word == word
    exim.close()
    again = Exim()
    # in doubt Exim's log is asked; this one says nothing, so the message was not taken
    assert ask(again, where).word == "accepted"
    again.close()


def test_without_exim_it_is_later(exim: Exim, where: dict[str, str]) -> None:
    exim.close()
    assert ask(exim, where).word == "later"
    # without its records it can't know of an earlier try
    assert deliver.deliver(ID, kept(), port=exim.port, records="/nonexistent").word == "unclear"


def test_an_unclear_end_is_settled_by_exims_log(where: dict[str, str]) -> None:
    exim = Exim(dot=None)
    assert ask(exim, where).word == "unclear"
    Path(where["logs"], "mainlog").write_text(logline(NOW, "other") + taken())
    answer = ask(exim, where)
    assert answer == ("known", "1xW2k4-0000Ox-0x (found in Exim's log)")
    Path(where["logs"], "mainlog").unlink()
    assert ask(exim, where) == ("known", "1xW2k4-0000Ox-0x")
    assert len(exim.messages) == 1
    exim.close()


def test_text_after_a_records_line_is_ignored(exim: Exim, where: dict[str, str]) -> None:
    for left in ("begun 1764036000\nds of a longer answer\n", "begun \n", "begun x\n"):
        Path(where["records"], ID).write_text(left)
        Path(where["logs"], "mainlog").write_text(taken())
        assert ask(exim, where).word == "known"
    assert exim.messages == []


@pytest.mark.parametrize("begins", [1, None])
def test_logs_that_begin_later_prove_nothing(where: dict[str, str], begins: float | None) -> None:
    exim = Exim(dot=None)
    assert ask(exim, where).word == "unclear"
    log = Path(where["logs"], "mainlog")
    log.unlink()
    if begins is not None:
        log.write_text(logline(NOW + begins, "exim 4.96 daemon started"))
    exim.dot = "250 OK id=2"
    for _ in range(2):
        answer = ask(exim, where)
        assert answer.word == "unclear"
        assert f"{where['records']}/{ID}" in answer.detail
    assert len(exim.messages) == 1
    # one older log is enough, rotated and packed as it may be
    with gzip.open(log.with_name("mainlog.2.gz"), "wt") as old:
        old.write(logline(NOW, "other"))
    assert ask(exim, where) == ("accepted", "OK id=2")
    exim.close()


def test_logs_are_searched_for_the_right_thing(tmp_path: Path) -> None:
    name = deliver.helo(ID)
    right = f"2025-11-25 02:00:01 [77] 1a-2b-3c <= <> H=({name}) [127.0.0.1] P=esmtp\n"
    # a sender who names it in a header or an address makes no such line
    forged = f"2025-11-25 02:00:01 1f-2f-3f <= a@b.example H=(x) [127.0.0.1] P=esmtp id=H=({name})\n"
    rejected = f"2025-11-25 02:00:01 H=({name}) [127.0.0.1] F=<a@b.example> rejected RCPT <x@y.example>\n"
    (tmp_path / "mainlog").write_text(forged + rejected)
    (tmp_path / "rejectlog").write_text(right)
    assert deliver.logged(str(tmp_path), name, NOW + 86400) == ""
    assert deliver.logged(str(tmp_path), name, 0) is None
    with gzip.open(tmp_path / "mainlog.2.gz", "wt") as log:
        log.write(right)
    assert deliver.logged(str(tmp_path), name, 0) == "1a-2b-3c"
    os.utime(tmp_path / "mainlog.2.gz", (NOW, NOW))
    assert deliver.logged(str(tmp_path), name, NOW + 3600) == ""
    (tmp_path / "mainlog").write_text("torn\n")
    assert deliver.logged(str(tmp_path), name, NOW + 3600) == ""
    (tmp_path / "mainlog.2.gz").unlink()
    assert deliver.logged(str(tmp_path), name, NOW + 3600) is None


@pytest.mark.parametrize("logs", [True, False])
def test_killed_between_the_dot_and_its_record(exim: Exim, where: dict[str, str], logs: bool) -> None:
    """A real process, killed when Exim has the final dot; with ``logs`` Exim took it, otherwise it saw the end."""
    script = (
        "import sys\nfrom mf_rejected import deliver\n"
        f"print(deliver.deliver({ID!r}, sys.stdin.buffer, records={where['records']!r}, logs={where['logs']!r},"
        f" port={exim.port}).line())"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script],
        env={"PYTHONPATH": os.pathsep.join(path for path in sys.path if path.endswith("/files/lib"))},
        cwd="/",
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as child:

        def kill() -> None:
            if logs:
                with open(f"{where['logs']}/mainlog", "a") as log:
                    log.write(taken(time.time()))
            child.send_signal(signal.SIGKILL)
            child.wait()

        exim.after_dot = kill
        output, _ = child.communicate(kept().getvalue(), timeout=30)
    assert (output, child.returncode) == (b"", -signal.SIGKILL)
    assert Path(where["records"], ID).read_text().startswith("begun ")
    exim.after_dot = lambda: None
    again = ask(exim, where)
    assert again.word == ("known" if logs else "accepted")
    assert len(exim.messages) == (1 if logs else 2)
    assert ask(exim, where).word == "known"


def test_a_full_disk_after_the_dot_is_no_reason_to_say_later(
    exim: Exim, where: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    store = deliver._store

    def full(record: int, text: str) -> None:
        if text.startswith("accepted"):
            raise OSError(28, "No space left on device")
        store(record, text)

    monkeypatch.setattr(deliver, "_store", full)
    assert ask(exim, where).word == "accepted"


def test_a_second_try_beside_the_first_waits_for_it(
    exim: Exim, where: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deliver, "BUSY", 0.0)
    with state.Lock(f"{where['records']}/{ID}") as held:
        assert held
        # never "later": control would go on to another MX, and the first try may be taken yet
        assert ask(exim, where) == ("unclear", "another try of this release is under way")
    assert exim.messages == []


def test_unreadable_logs_are_no_proof_that_nothing_was_taken(
    exim: Exim, where: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreadable(*_words: object) -> str:
        raise OSError(5, "Input/output error")

    Path(where["records"], ID).write_text(f"begun {NOW}\n")
    monkeypatch.setattr(deliver, "logged", unreadable)
    assert ask(exim, where).word == "unclear"
    monkeypatch.setattr(deliver, "logged", lambda *_words: "1a-2b-3c")
    monkeypatch.setattr(deliver, "_store", unreadable)
    assert ask(exim, where).word == "known"
    assert exim.messages == []


def test_records_outlive_every_quarantine(where: dict[str, str]) -> None:
    folder = Path(where["records"])
    roles = yaml.safe_load((ROLES / "mf_quarantine/vars/main.yml").read_text())
    longest = roles["__mf_quarantine_ranges"]["mf_quarantine_retention_days"][1]
    for name, days in (("needed", longest + 1), ("old", longest + 60)):
        (folder / name).write_text("accepted\n")
        os.utime(folder / name, (NOW - days * 86400, NOW - days * 86400))
    assert deliver.forget(str(folder), NOW) == 1
    assert os.listdir(folder) == ["needed"]
    assert deliver.forget(str(folder / "none"), NOW) == 0


def test_the_answer_is_one_clean_line() -> None:
    line = deliver.Answer("refused", "550 evil\r\n\x1b[31m" + "x" * 1000).line()
    assert line.isprintable()
    assert len(line) < 320
