"""The sender of canaries."""

from __future__ import annotations

import json
import time
from pathlib import Path

import jinja2
import pytest
from mf import canary, state
from mf_canary import send
from mf_canary import sink_command as command

from tests.canary.conftest import KEY, Listener, message


def test_a_message_carries_its_tag_and_only_spam_is_spam() -> None:
    for kind in (canary.SPAM, canary.HAM):
        raw = message(kind)
        assert canary.verify(KEY, canary.find(raw) or b"", time.time()) is not None
        assert (b"GTUBE" in raw) is (kind == canary.SPAM)
        assert b"\n" not in raw.replace(b"\r\n", b"")


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
    output = capsys.readouterr()
    assert json.loads(output.out) == {"spam": "accepted", "ham": "accepted"}
    assert output.err == "send-canary: spam: accepted\n"
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
