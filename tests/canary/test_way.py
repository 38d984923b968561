"""The canary's way: sent through the front door, taken at the sink, judged by its age on control."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import jinja2
import pytest
from mf import canary, run, smtp, state
from mf_canary import check, send, sink
from mf_canary import sink_command as command

KEY = bytes(range(32))
NOW = 1764036000.0
VALUES = {
    "mx": "mx1 MX2",
    "quarantine": "/q",
    "sink": "/s",
    "age_warning": 1500,
    "age_critical": 3600,
    "period": 300,
    "deadline": 20,
}


class Listener:
    """A sink that listens on loopback."""

    def __init__(self, folder: Path, clients: tuple[str, ...] = ("127.0.0.1",)) -> None:
        self.folder = folder
        self.loop = asyncio.new_event_loop()
        notes = sink.Notes(str(folder), ["mx1"], NOW)
        self.server = self.loop.run_until_complete(sink.Sink(KEY, notes, clients).serve("127.0.0.1", 0))
        self.port = self.server.sockets[0].getsockname()[1]
        self.thread = threading.Thread(target=self.loop.run_forever)
        self.thread.start()

    def close(self) -> None:
        asyncio.run_coroutine_threadsafe(self.end(), self.loop).result()
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()
        self.loop.close()

    async def end(self) -> None:
        self.server.close()
        sessions = asyncio.all_tasks() - {asyncio.current_task()}
        for session in sessions:
            session.cancel()
        await asyncio.gather(*sessions, return_exceptions=True)
        await asyncio.sleep(0)  # transports close in the loop's next turn

    def note(self, name: str) -> dict[str, object]:
        path = self.folder / name
        return dict(json.loads(path.read_text())) if path.exists() else {}

    def deliver(self, data: bytes, recipient: str = f"ham@{canary.DOMAIN}") -> smtp.Dialogue:
        return smtp.transaction("127.0.0.1", self.port, 10, recipient, data + b".\r\n", sender="a@b.example")


@pytest.fixture
def listener(tmp_path: Path) -> Iterator[Listener]:
    folder = tmp_path / "sink"
    folder.mkdir()
    server = Listener(folder)
    yield server
    server.close()


def message(kind: str = canary.HAM, key: bytes = KEY, host: str = "mx1", age: float = 0.0) -> bytes:
    tag = canary.make(key, host, kind, time.time() - age)
    return send.message(tag, kind)


def test_a_message_carries_its_tag_and_only_spam_is_spam() -> None:
    for kind in (canary.SPAM, canary.HAM):
        raw = message(kind)
        assert canary.verify(KEY, canary.find(raw) or b"", time.time()) is not None
        assert (b"GTUBE" in raw) is (kind == canary.SPAM)
        assert b"\n" not in raw.replace(b"\r\n", b"")


def test_a_ham_is_noted_once(listener: Listener) -> None:
    assert set(listener.note("ham-mx1.json")) == {"since"}
    data = message()
    assert listener.deliver(data).outcome == smtp.ACCEPTED
    first = listener.note("ham-mx1.json")
    assert first["since"] == NOW
    assert listener.deliver(data).outcome == smtp.ACCEPTED  # Exim may come twice
    assert listener.note("ham-mx1.json") == first
    # an older one that comes later is no news
    assert listener.deliver(message(age=600)).outcome == smtp.ACCEPTED
    assert listener.note("ham-mx1.json")["sent"] == first["sent"]


def test_a_spam_that_was_delivered_is_noted_apart(listener: Listener) -> None:
    assert listener.deliver(message(canary.SPAM), f"spam@{canary.DOMAIN}").outcome == smtp.ACCEPTED
    assert "received" in listener.note("spam-mx1.json")
    assert "sent" not in listener.note("ham-mx1.json")


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (message(key=bytes(32)), 550),
        (message(age=5 * 3600), 550),
        (message(host="mx9"), 550),
        (message(host="etc"), 550),
        (b"Subject: x\r\n\r\n" + message(), 550),
        (b"\r\n", 550),
        (b"\0\xff\r\n", 550),
        (message() + b"x" * 1000 * 70 + b"\r\n", 0),  # a line without end: hung up
        (message() + b"xxxxxxxxx\r\n" * 10000, 552),
    ],
)
def test_everything_else_is_refused(listener: Listener, data: bytes, code: int) -> None:
    assert listener.deliver(data).code == code
    assert set(listener.note("ham-mx1.json")) == {"since"}
    assert sorted(path.name for path in listener.folder.iterdir()) == ["ham-mx1.json"]


def test_only_for_the_canarys_domain_and_only_from_the_mxs(listener: Listener, tmp_path: Path) -> None:
    assert listener.deliver(message(), "ham@customer.example").stage == "rcpt"
    folder = tmp_path / "other"
    folder.mkdir()
    stranger = Listener(folder, clients=("192.0.2.1",))
    assert stranger.deliver(message()).code == 554
    stranger.close()


def test_odd_dialogues_end(listener: Listener) -> None:
    for said, answer in (
        (b"DATA\r\n", b"503"),
        (b"\xff\x00\r\n", b"503"),
        (b"QUIT\r\n", b"221"),
        (b"NOOP\r\n" * 100, b"250"),
        (b"x" * 5000 + b"\r\n", b""),
        (b"EHLO half", b""),
    ):
        with socket.create_connection(("127.0.0.1", listener.port), 5) as line:
            line.settimeout(5)
            assert line.recv(100).startswith(b"220")
            line.sendall(said)
            line.shutdown(socket.SHUT_WR)
            heard = b""
            try:
                while chunk := line.recv(4096):
                    heard += chunk
            except ConnectionResetError:
                pass
            assert heard.startswith(answer)
    assert listener.deliver(message()).outcome == smtp.ACCEPTED


def test_notes_that_cannot_be_written_are_a_451(listener: Listener, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(state, "write_atomic", full)
    assert listener.deliver(message()).code == 451


# --- the sender


def settings(tmp_path: Path, port: int) -> state.Places:
    (tmp_path / "mf/etc").mkdir(parents=True)
    key = tmp_path / "key"
    key.write_text(KEY.hex())
    places = state.Places(str(tmp_path))
    own = {"key": str(key), "address": "127.0.0.1", "port": port, "folder": str(tmp_path), "mx": {"mx1": "127.0.0.1"}}
    Path(places.settings).write_text(json.dumps({"generation": "g", "host": "mx1", "checks": {}, "canary": own}))
    return places


def test_a_front_door_that_takes_spam_is_reported(
    listener: Listener, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    places = settings(tmp_path, listener.port)
    assert send.main(["--json"], places) == 1  # the sink is no filter
    heard = capsys.readouterr()
    assert json.loads(heard.out) == {"spam": "accepted", "ham": "accepted"}
    assert heard.err == "send-canary: spam: accepted\n"
    assert "received" in listener.note("ham-mx1.json")
    assert "received" in listener.note("spam-mx1.json")


def test_missing_settings_are_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    places = settings(tmp_path, 1)
    assert send.main([], places) == 1
    assert "nothing answers" in capsys.readouterr().err
    (tmp_path / "key").unlink()
    assert send.main([], places) == 1
    assert command.main([], places) == 2
    Path(places.settings).write_text('{"generation": "g", "host": "mx1", "checks": {}}')
    assert send.main([], places) == 1
    assert command.main([], places) == 2
    assert "canary.key is missing" in capsys.readouterr().err
    assert send.main(["--dry-run"], places) == 0
    assert KEY.hex() not in capsys.readouterr().out


# --- the check


def arrival(
    sent: float | None = None, arrived: float | None = None, since: float | None = NOW - 60000
) -> check.Arrival:
    return check.Arrival({"sent": sent, "x": arrived}, "x", since, NOW)


def decide(spam: check.Arrival, ham: check.Arrival, delivered: dict[str, float] | None = None) -> state.Result:
    return check.decide({"mx1": (spam, ham)}, delivered or {}, NOW, VALUES)


def test_arrivals_are_judged_by_age() -> None:
    fresh = arrival(NOW - 300, NOW - 290)
    good = decide(fresh, arrival(NOW - 300, NOW - 299))
    assert (good.status, good.summary) == (state.OK, "1 MX, slowest way 10 s")
    assert good.metrics == {
        "mx": 1,
        "overdue": 0,
        "delivered": 0,
        "age_seconds": 300,
        "mx1_age_seconds": 300,
        "mx1_spam_seconds": 10,
        "mx1_ham_seconds": 1,
    }
    late = decide(arrival(NOW - 1500, NOW - 1490), fresh)
    assert late.status == state.WARNING
    assert late.summary == "mx1: the newest spam in the quarantine was sent 25 min ago"
    assert decide(fresh, arrival(NOW - 3600, NOW - 3599)).status == state.CRITICAL


def test_all_overdue_is_said_first_and_counted() -> None:
    late, fresh = arrival(NOW - 4000, NOW - 3990), arrival(NOW - 300, NOW - 290)
    every = check.decide({"mx1": (late, fresh), "mx2": (fresh, late)}, {}, NOW, VALUES)
    assert every.summary.startswith("no mail goes the whole way, of 2 MXs; mx1: the newest spam")
    assert (every.metrics["mx"], every.metrics["overdue"]) == (2, 2)
    one = check.decide({"mx1": (late, late), "mx2": (fresh, fresh)}, {}, NOW, VALUES)
    assert one.summary.startswith("mx1:")
    assert (one.status, one.metrics["overdue"]) == (state.CRITICAL, 1)
    never = arrival(since=None)
    assert check.decide({"mx1": (never, never)}, {}, NOW, VALUES).metrics["overdue"] == 0


def test_a_new_mx_has_time() -> None:
    assert decide(arrival(since=NOW - 600), arrival(since=NOW - 600)).summary == "1 MX, none was due yet"
    never = decide(arrival(since=NOW - 2000), arrival(NOW - 100, NOW - 99))
    assert (never.status, never.summary) == (state.WARNING, "mx1: no spam in the quarantine yet")
    unknown = decide(arrival(since=None), arrival(since=None))
    assert unknown.status == state.WARNING
    assert "mf-canary-sink" in unknown.summary


def test_delivered_spam_is_critical_for_an_hour() -> None:
    fresh = arrival(NOW - 300, NOW - 290)
    assert decide(fresh, fresh, {"mx1": NOW - 60}).status == state.CRITICAL
    assert decide(fresh, fresh, {"mx1": NOW - 4000}).status == state.OK


def test_many_mxs_stay_readable() -> None:
    found = {f"mx{number}": (arrival(NOW - 4000, NOW), arrival(NOW - number, NOW)) for number in range(1000)}
    result = check.decide(found, {}, NOW, VALUES)
    assert result.status == state.CRITICAL
    assert result.summary.endswith("and 995 more")
    assert len(result.metrics) < 100


def test_it_reads_the_notes_of_both(tmp_path: Path) -> None:
    values = {**VALUES, "quarantine": str(tmp_path), "sink": str(tmp_path)}
    assert run.wrong_setting(values, check.RULES) is None
    now = time.time()
    for name, record in (
        ("canary-mx1.json", {"sent": now - 9, "imported": now - 2}),
        ("ham-mx1.json", {"since": 5, "sent": now - 9, "received": now - 8}),
        ("ham-mx2.json", {"since": now - 10}),
    ):
        (tmp_path / name).write_text(json.dumps(record))
    result = check.probe(state.Places(), values)
    assert isinstance(result, state.Result)
    assert result.status == state.OK
    assert result.metrics["mx1_spam_seconds"] == 7
    for damage in ("", "[", '{"sent": "x"}', '{"sent": NaN}', '{"sent": true, "imported": -1}'):
        (tmp_path / "canary-mx1.json").write_text(damage)
        assert isinstance(check.probe(state.Places(), values), state.Result)


def test_every_host_sends_them_every_10_minutes() -> None:
    cron = Path(canary.__file__).parents[4] / "mf_canary/templates/root/etc/cron.d/mf-canary.j2"
    template = jinja2.Template(cron.read_text(), undefined=jinja2.StrictUndefined)
    for offset in range(60):
        line = template.render(ansible_managed="x", mf_tree__offset=str(offset)).splitlines()[-1]
        minute, *rest, command = line.split(None, 6)
        first, last, step = map(int, minute.replace("/", "-").split("-"))
        assert list(range(first, last + 1, step)) == list(range(offset % 10, 60, 10))
        assert rest == ["*", "*", "*", "*", "mf-canary"]
        assert command.startswith("/mf/bin/send-canary ")
