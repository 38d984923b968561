"""Probes against targets that lie, drip, flood, loop and break: each ends within its deadline, with a result."""

from __future__ import annotations

import asyncio
import re
import socket
from typing import Any

import pytest
from mf_monitor import settings
from mf_monitor.clocks import Clocks
from mf_monitor.judging.states import DOWN, REFUSED, SILENT, UNKNOWN, UP, WRONG, ProbeResult
from mf_monitor.probing import addresses, probes
from mf_monitor.probing.world import World

from tests.monitor.servers import (
    HOSTILE,
    LIMIT,
    SLACK,
    Talk,
    Target,
    drip,
    flood,
    http,
    lines_without_end,
    probe,
    says,
    smtp,
)


def test_smtp_that_greets() -> None:
    result, _ = probe(smtp(), {"kind": "smtp"})
    assert (result.state, result.message) == (UP, "greets")
    assert result.latency is not None
    assert 0 < result.latency < 1000


def test_a_whole_transaction() -> None:
    entry = {"kind": "smtp", "canary": "canary@mx1.mf.invalid"}
    assert probe(smtp(RCPT=b"250 ok\r\n"), entry)[0].message == "accepts mail"
    refused, _ = probe(smtp(RCPT=b"250 ok\r\n", DOT=b"554 no\r\n"), entry)
    assert (refused.state, refused.message) == (DOWN, "554 at message: no")


def test_ssh_and_tcp() -> None:
    assert probe(says(b"hello\r\nSSH-2.0-OpenSSH_9.2p1\r\n"), {"kind": "ssh"})[0].state == UP
    assert probe(says(b""), {"kind": "tcp"})[0].state == UP
    assert probe(says(b"SSH-1.5-old\r\n"), {"kind": "ssh"})[0].state == DOWN


def test_ipv6() -> None:
    result, _ = probe(smtp(), {"kind": "smtp"}, address="::1")
    assert result.state == UP


def test_http() -> None:
    good = http("HTTP/1.1 200 OK", "Content-Length: 7", body="Sign in")
    assert probe(good, {"kind": "http", "contains": "Sign in"})[0].state == UP
    assert probe(good, {"kind": "http", "contains": "Welcome"})[0].state == DOWN
    assert probe(http("HTTP/1.1 503 no", "Content-Length: 0"), {"kind": "http"})[0].message == "HTTP 503"
    assert probe(http("HTTP/1.1 401 no", "Content-Length: 0"), {"kind": "http", "status": 401})[0].state == UP


def test_a_server_that_is_rude_at_quit_has_done_its_work() -> None:
    async def rude(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 here\r\n")
        await reader.readline()
        writer.write(b"250 here\r\n")
        await reader.readline()

    assert probe(rude, {"kind": "smtp"})[0].state == UP


def test_an_open_relay_is_found_and_nothing_is_sent_through_it() -> None:
    lines: list[bytes] = []

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 here\r\n")
        while line := await reader.readline():
            lines.append(line)
            writer.write(b"250 ok\r\n")

    result, _ = probe(relay, {"kind": "relay"})
    assert result.state == DOWN
    assert "OPEN RELAY" in result.message
    assert not [line for line in lines if line.startswith((b"DATA", b"BDAT"))]
    assert probe(smtp(), {"kind": "relay"})[0].message == "refuses: 550 relaying denied"
    assert probe(smtp(GREETING=b"421 busy\r\n"), {"kind": "relay"})[0].state == UNKNOWN


def test_a_relay_that_takes_only_recipients_that_exist_is_found() -> None:
    lines: list[bytes] = []

    async def verifies(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 here\r\n")
        while line := await reader.readline():
            lines.append(line)
            unknown = re.search(rb"^RCPT .*[@.](invalid|test|example(\.(com|net|org))?)>", line)
            writer.write(b"550 no such domain\r\n" if unknown else b"250 ok\r\n")

    result, _ = probe(verifies, {"kind": "relay"})
    assert (result.state, "OPEN RELAY: relays mail for postmaster@iana.org" in result.message) == (DOWN, True), (
        result.message
    )
    assert [line.strip() for line in lines][-2:] == [b"RSET", b"QUIT"]
    chosen = {"kind": "relay", "recipient": "postmaster@mail.example"}
    assert probe(verifies, chosen)[0].message == "refuses: 550 no such domain"


def test_relaying_that_could_not_be_asked_is_not_known() -> None:
    unresolvable = {"kind": "relay", "sender": "probe@nowhere.invalid"}
    result, _ = probe(smtp(MAIL=b"550 sender's domain does not resolve\r\n"), unresolvable)
    assert (result.state, result.message) == (UNKNOWN, "not asked: 550 at MAIL: sender's domain does not resolve")
    result, _ = probe(smtp(RCPT=b"451 come again\r\n"), {"kind": "relay"})
    assert (result.state, result.message) == (UNKNOWN, "not answered: 451 come again")


def test_relaying_is_tried_with_an_empty_sender_and_with_an_existing_domain() -> None:
    lines: list[bytes] = []

    async def picky(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 here\r\n")
        while line := await reader.readline():
            lines.append(line)
            # relays for senders of its own domain only
            loose = b"MAIL FROM:<postmaster@customer.example>\r\n" in lines
            writer.write(b"550 no\r\n" if line.startswith(b"RCPT") and not loose else b"250 ok\r\n")

    async def go() -> ProbeResult:
        target = await Target(picky).start()
        services = [{"kind": "relay", "port": target.port}]
        raw = {"domains": ["customer.example"], "hosts": [{"name": "a", "address": "127.0.0.1", "services": services}]}
        chosen = settings.parse(raw)
        result = await probes.probe(chosen.hosts[1].services[0], World.of(chosen, Clocks()))
        await target.stop()
        return result

    assert "OPEN RELAY" in asyncio.run(go()).message
    assert next(line for line in lines if line.startswith(b"MAIL")) == b"MAIL FROM:<>\r\n"


@pytest.mark.parametrize(
    ("talk", "kind", "reason", "expected"),
    [
        (says(b"", hold=True), "smtp", SILENT, "no answer"),
        (drip, "smtp", SILENT, "silence at greeting"),
        (flood, "smtp", WRONG, "a line without end"),
        (flood, "ssh", WRONG, "a line without end"),
        (lines_without_end, "smtp", WRONG, ""),
        (says(b"SSH-2.0-x\r\n"), "smtp", WRONG, "no SMTP: SSH-2.0-x"),
        (says(HOSTILE.replace(b"220", b"554")), "smtp", WRONG, "554 at greeting: <script>"),
        (says(b""), "smtp", WRONG, "closed"),
        (says(b"x\r\n" * 30), "ssh", WRONG, "no ssh banner"),
        (says(b"\x00" * 100, hold=True), "http", WRONG, "no answer in time"),
        (flood, "http", WRONG, "a header without end"),
    ],
)
def test_bad_targets_end_in_time_with_a_result(talk: Talk, kind: str, reason: str, expected: str) -> None:
    result, took = probe(talk, {"kind": kind})
    assert result.state == DOWN
    assert expected in result.message
    assert took < LIMIT + SLACK
    assert result.message.isascii()
    assert result.message.isprintable()
    if kind != "http":
        assert result.reason == reason


def test_connection_refused() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    raw = {
        "timeout": LIMIT,
        "hosts": [{"name": "a", "address": "127.0.0.1", "services": [{"kind": "smtp", "port": port}]}],
    }
    chosen = settings.parse(raw)
    result = asyncio.run(probes.probe(chosen.hosts[0].services[0], World.of(chosen, Clocks())))
    assert (result.reason, result.message) == (REFUSED, "connection refused")


@pytest.mark.parametrize(
    "where", ["/", "//[::1", "ftp://elsewhere/", "http://127.0.0.1:1/", "x\tx", "http://" + "a" * 5000 + "/"]
)
def test_redirects_come_to_an_end(where: str) -> None:
    result, took = probe(http("HTTP/1.1 302 Found", f"Location: {where}", "Content-Length: 0"), {"kind": "http"})
    assert result.state == DOWN
    assert took < LIMIT + SLACK


@pytest.mark.parametrize("where", ["/sign-in", "http://[::1]:{port}/sign-in", "http://[0:0::1]:{port}/sign-in"])
def test_a_redirect_at_a_bare_ipv6_address(where: str) -> None:
    requests: list[bytes] = []

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        port = writer.get_extra_info("sockname")[1]
        requests.append(await reader.readuntil(b"\r\n\r\n"))
        moved = f"HTTP/1.1 302 Found\r\nLocation: {where.format(port=port)}\r\nContent-Length: 0\r\n\r\n"
        good = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
        writer.write((good if b"GET /sign-in " in requests[-1] else moved).encode())
        await writer.drain()

    assert probe(talk, {"kind": "http"}, address="::1")[0].message == "HTTP 200"
    assert [b"\r\nHost: [::1]\r\n" in request for request in requests] == [True, True]


def test_a_name_with_fifty_addresses_is_tried_at_a_few(monkeypatch: pytest.MonkeyPatch) -> None:
    many: list[Any] = [(socket.AF_INET, 1, 6, "", (f"127.8.0.{number}", 1)) for number in range(50)]
    many += [(socket.AF_INET6, 1, 6, "", ("::1", 1, 0, 0))]

    async def resolve(self: object, *argv: object, **named: object) -> list[Any]:
        return many

    monkeypatch.setattr(asyncio.base_events.BaseEventLoop, "getaddrinfo", resolve)
    resolved = asyncio.run(addresses.resolve("many.example", 1))
    assert len(resolved) == addresses.MOST
    assert resolved[0] == "::1"


@pytest.mark.parametrize("kind", ["tcp", "smtp", "relay", "http"])
@pytest.mark.parametrize(
    ("code", "state", "expected"),
    [
        (socket.EAI_AGAIN, UNKNOWN, "the monitor's resolver: in these words"),
        (socket.EAI_FAIL, UNKNOWN, "the monitor's resolver: in these words"),
        (None, UNKNOWN, "the monitor's resolver doesn't answer in time"),
        (socket.EAI_NONAME, DOWN, "name can't be resolved: in these words"),
        (socket.EAI_NODATA, DOWN, "name can't be resolved: in these words"),
    ],
)
def test_a_resolver_that_fails_is_no_fault_of_the_target(
    monkeypatch: pytest.MonkeyPatch, kind: str, code: int | None, state: str, expected: str
) -> None:
    async def resolve(self: object, *argv: object, **named: object) -> list[Any]:
        if code is None:
            await asyncio.sleep(60)
        raise socket.gaierror(code, "in these words")

    monkeypatch.setattr(asyncio.base_events.BaseEventLoop, "getaddrinfo", resolve)
    raw = {"timeout": 0.3, "hosts": [{"name": "a", "address": "mx1.example", "services": [{"kind": kind, "port": 1}]}]}
    chosen = settings.parse(raw)
    result = asyncio.run(probes.probe(chosen.hosts[0].services[0], World.of(chosen, Clocks())))
    if kind == "relay" and state == DOWN:  # that is for the smtp service to say
        state, expected = UNKNOWN, f"not asked: {expected}"
    assert (result.state, expected in result.message) == (state, True), result.message
