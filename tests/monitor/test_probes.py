"""Probes against targets that lie, drip, flood, loop and break: every one ends within its deadline, as a look."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import ssl
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import monitor_support
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mf import health_record
from mf_monitor import settings
from mf_monitor.clocks import Clocks
from mf_monitor.judging.states import DOWN, EXPIRED, REFUSED, SILENT, UNKNOWN, UP, WARNING, WRONG, ProbeResult
from mf_monitor.probing import addresses, certificate, connectivity, hosthealth, probes
from mf_monitor.probing.world import World
from monitor_targets import Talk, Target, says, smtp

LIMIT = 1.0
SLACK = 6.0  # seconds; a probe without a deadline never ends, and a busy machine is slow
HOSTILE = b"220 <script>alert(1)</script> \x1b[2J\x07 \xff\xfe\r\n"


def probe(
    talk: Talk, entry: dict[str, Any], limit: float = LIMIT, address: str = "127.0.0.1"
) -> tuple[ProbeResult, float]:
    """One look at such a target, and how long it took."""

    async def go() -> tuple[ProbeResult, float]:
        target = await Target(talk, address).start()
        try:
            service = {"port": target.port, **entry}
            raw = {"timeout": limit, "hosts": [{"name": "mx1", "address": address, "services": [service]}]}
            chosen = settings.parse(raw)
            started = time.monotonic()
            result = await probes.probe(chosen.hosts[0].services[0], World.of(chosen, Clocks()))
            return result, time.monotonic() - started
        finally:
            await target.stop()

    return asyncio.run(go())


async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while True:
        writer.write(b"2")
        await writer.drain()
        await asyncio.sleep(0.05)


async def flood(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    for _ in range(160):
        writer.write(b"x" * 65536)
        await writer.drain()


async def lines_without_end(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while True:
        writer.write(b"220-more\r\n" * 1000)
        await writer.drain()


def http(*lines: str, body: str = "") -> Talk:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(("\r\n".join(lines) + "\r\n\r\n" + body).encode("latin-1"))
        await writer.drain()

    return talk


# --- what is well


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
    heard: list[bytes] = []

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 here\r\n")
        while line := await reader.readline():
            heard.append(line)
            writer.write(b"250 ok\r\n")

    result, _ = probe(relay, {"kind": "relay"})
    assert result.state == DOWN
    assert "OPEN RELAY" in result.message
    assert not [line for line in heard if line.startswith((b"DATA", b"BDAT"))]
    assert probe(smtp(), {"kind": "relay"})[0].message == "refuses: 550 relaying denied"
    assert probe(smtp(GREETING=b"421 busy\r\n"), {"kind": "relay"})[0].state == UNKNOWN


def test_a_relay_that_takes_only_recipients_that_exist_is_found() -> None:
    heard: list[bytes] = []

    async def verifies(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 here\r\n")
        while line := await reader.readline():
            heard.append(line)
            unknown = re.search(rb"^RCPT .*[@.](invalid|test|example(\.(com|net|org))?)>", line)
            writer.write(b"550 no such domain\r\n" if unknown else b"250 ok\r\n")

    result, _ = probe(verifies, {"kind": "relay"})
    assert (result.state, "OPEN RELAY: takes mail for postmaster@iana.org" in result.message) == (DOWN, True), (
        result.message
    )
    assert [line.strip() for line in heard][-2:] == [b"RSET", b"QUIT"]
    chosen = {"kind": "relay", "recipient": "postmaster@mail.example"}
    assert probe(verifies, chosen)[0].message == "refuses: 550 no such domain"


def test_relaying_that_could_not_be_asked_is_not_known() -> None:
    unresolvable = {"kind": "relay", "sender": "probe@nowhere.invalid"}
    result, _ = probe(smtp(MAIL=b"550 sender's domain does not resolve\r\n"), unresolvable)
    assert (result.state, result.message) == (UNKNOWN, "not asked: 550 at MAIL: sender's domain does not resolve")
    result, _ = probe(smtp(RCPT=b"451 come again\r\n"), {"kind": "relay"})
    assert (result.state, result.message) == (UNKNOWN, "not answered: 451 come again")


def test_relaying_is_asked_for_as_nobody_and_as_somebody_whose_domain_exists() -> None:
    heard: list[bytes] = []

    async def picky(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 here\r\n")
        while line := await reader.readline():
            heard.append(line)
            # relays for senders of its own domain only
            loose = b"MAIL FROM:<postmaster@customer.example>\r\n" in heard
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
    assert next(line for line in heard if line.startswith(b"MAIL")) == b"MAIL FROM:<>\r\n"


# --- what isn't


@pytest.mark.parametrize(
    ("talk", "kind", "reason", "said"),
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
def test_bad_targets_end_in_time_as_a_look(talk: Talk, kind: str, reason: str, said: str) -> None:
    result, took = probe(talk, {"kind": kind})
    assert result.state == DOWN
    assert said in result.message
    assert took < LIMIT + SLACK
    assert result.message.isascii()
    assert result.message.isprintable()
    if kind != "http":
        assert result.reason == reason


def test_nobody_listens() -> None:
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
    heard: list[bytes] = []

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        port = writer.get_extra_info("sockname")[1]
        heard.append(await reader.readuntil(b"\r\n\r\n"))
        moved = f"HTTP/1.1 302 Found\r\nLocation: {where.format(port=port)}\r\nContent-Length: 0\r\n\r\n"
        good = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
        writer.write((good if b"GET /sign-in " in heard[-1] else moved).encode())
        await writer.drain()

    assert probe(talk, {"kind": "http"}, address="::1")[0].message == "HTTP 200"
    assert [b"\r\nHost: [::1]\r\n" in request for request in heard] == [True, True]


def test_a_name_with_fifty_addresses_is_tried_at_a_few(monkeypatch: pytest.MonkeyPatch) -> None:
    many: list[Any] = [(socket.AF_INET, 1, 6, "", (f"127.8.0.{number}", 1)) for number in range(50)]
    many += [(socket.AF_INET6, 1, 6, "", ("::1", 1, 0, 0))]

    async def resolve(self: object, *argv: object, **named: object) -> list[Any]:
        return many

    monkeypatch.setattr(asyncio.base_events.BaseEventLoop, "getaddrinfo", resolve)
    found = asyncio.run(addresses.resolve("many.example", 1))
    assert len(found) == addresses.MOST
    assert found[0] == "::1"


@pytest.mark.parametrize("kind", ["tcp", "smtp", "relay", "http"])
@pytest.mark.parametrize(
    ("code", "state", "said"),
    [
        (socket.EAI_AGAIN, UNKNOWN, "the monitor's resolver: in these words"),
        (socket.EAI_FAIL, UNKNOWN, "the monitor's resolver: in these words"),
        (None, UNKNOWN, "the monitor's resolver doesn't answer in time"),
        (socket.EAI_NONAME, DOWN, "name can't be resolved: in these words"),
        (socket.EAI_NODATA, DOWN, "name can't be resolved: in these words"),
    ],
)
def test_a_resolver_that_fails_is_no_fault_of_the_target(
    monkeypatch: pytest.MonkeyPatch, kind: str, code: int | None, state: str, said: str
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
        state, said = UNKNOWN, f"not asked: {said}"
    assert (result.state, said in result.message) == (state, True), result.message


# --- TLS


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
    ("days", "state", "said"), [("400", UP, "greets, STARTTLS"), ("5", WARNING, "certificate expires in")]
)
def test_the_certificate_behind_starttls(tmp_path: Path, days: str, state: str, said: str) -> None:
    key, crt = certify(tmp_path, "-days", days)
    result, _ = probe(starttls(key, crt), {"kind": "smtp"}, limit=5)
    assert result.state == state
    assert said in result.message
    assert result.expires is not None
    assert abs(result.expires - time.time() - int(days) * 86400) < 120


@pytest.mark.parametrize("word", ["off", False])  # what YAML makes of off
def test_starttls_that_is_offered_and_not_wanted_is_no_warning(word: object) -> None:
    result, _ = probe(smtp(EHLO=b"250-here\r\n250 STARTTLS\r\n"), {"kind": "smtp", "starttls": word})
    assert (result.state, result.message) == (UP, "greets")


def test_an_expired_certificate(tmp_path: Path) -> None:
    key, crt = certify(tmp_path, "-days", "1")
    chosen = monitor_support.settings()
    later = World.of(chosen, Clocks(wall=lambda: time.time() + 2e5))
    der = ssl.PEM_cert_to_DER_cert(Path(crt).read_text())
    found = certificate.outcome(der, later, "greets")
    assert (found.state, found.reason) == (WARNING, EXPIRED)
    assert "expired" in found.message
    assert key


def test_broken_tls_is_a_look() -> None:
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


def test_what_is_said_before_tls_begins_is_not_believed() -> None:
    talk = smtp(EHLO=b"250-here\r\n250 STARTTLS\r\n", STAR=b"220 go\r\n250 injected\r\n")
    assert "before TLS began" in probe(talk, {"kind": "smtp"})[0].message


def test_starttls_may_be_required() -> None:
    assert "offers no STARTTLS" in probe(smtp(), {"kind": "smtp", "starttls": "required"})[0].message


@given(st.binary(max_size=300))
def test_a_certificate_that_is_none_is_no_error(der: bytes) -> None:
    certificate.not_after(der)


def test_no_cut_of_a_certificate_is_an_error(tmp_path: Path) -> None:
    _, crt = certify(tmp_path, "-days", "30")
    der = ssl.PEM_cert_to_DER_cert(Path(crt).read_text())
    assert certificate.not_after(der) is not None
    assert all(certificate.not_after(der[:end]) is None for end in range(len(der)))


# --- connectivity and health

WHOLE = (
    b'{"status": "OK", "throttled": false, "refusing": false, "leases": [], "problems": [], "checks": {}, '
    b'"held": false, "line": "", "maintenance": null}'
)


def verdict(make: Callable[[Target], list[str]]) -> bool:
    async def go() -> bool:
        target = await Target(says(b"")).start()
        chosen = settings.parse({"timeout": LIMIT, "references": make(target)})
        found = await connectivity.ConnectivityCheck(chosen, Clocks()).after(time.monotonic())
        await target.stop()
        return found.up

    return asyncio.run(go())


def test_one_reference_that_answers_or_refuses_is_enough() -> None:
    with socket.socket() as full:
        # nobody accepts here, and its queue is full: silence
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        dead = f"127.0.0.1:{full.getsockname()[1]}"
        fillers = [socket.socket() for _ in range(4)]
        for one in fillers:
            one.setblocking(False)
            one.connect_ex(full.getsockname())
        assert verdict(lambda target: [dead, f"127.0.0.1:{target.port}"])
        assert verdict(lambda target: [dead, "127.0.0.1:1"])
        assert not verdict(lambda target: [dead])
        for one in fillers:
            one.close()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"[" * 100000,
        b'{"status": "OK"}',
        WHOLE.replace(b'"OK"', b'"FINE"'),
        WHOLE.replace(b'"checks": {}', b'"checks": {"x": 1}'),
        WHOLE.replace(b"null", b"1"),
        WHOLE.replace(b"{", b'{"queue": 1e300, ', 1),
        WHOLE.replace(b"{", b'{"queue": true, ', 1),
        WHOLE + b" " * 300_000,
    ],
)
def test_health_that_is_none_is_refused(data: bytes) -> None:
    assert hosthealth.parse(data) is None


def test_health_that_is_whole_is_taken() -> None:
    assert hosthealth.parse(WHOLE) is not None


def test_health_is_cleaned() -> None:

    record = monitor_support.health_record("mx1", "mx", 0.0, problems=["\x1b[2J<b>"])
    record["checks"]["load"]["summary"] = "\x1b]0;title\x07" + "x" * 10000
    record["unexpected"] = {"deep": [1] * 1000}
    found = hosthealth.parse(json.dumps(record).encode())
    assert found is not None
    assert "\x1b" not in json.dumps(found.as_json()).encode().decode("unicode_escape")
    assert "unexpected" not in found.as_json()


def reading(record: dict[str, Any] | None) -> hosthealth.Reading:
    health = None if record is None else health_record.parse(record)
    return hosthealth.Reading("control1", 99.0, 100.0, health, "no")


def test_vital_checks_are_looks_of_their_own_and_bad_when_they_are_not_known() -> None:
    record = monitor_support.health_record("control1", "control", 0.0)
    record["checks"]["backup"]["status"] = "UNKNOWN"
    found = {result.subject: result.state for result in hosthealth.results(reading(record), ("backup",), ())}
    assert found == {"control1/check-backup": DOWN, "control1/health": WARNING}
    (unread,) = hosthealth.results(reading(None), ("backup",), ("backup",))
    assert (unread.subject, unread.state, unread.reason) == ("control1/health", WARNING, "unread")


@pytest.mark.parametrize(
    ("status", "metrics", "state"),
    [
        ("CRITICAL", {"mx": 3, "overdue": 3}, DOWN),
        ("CRITICAL", {"mx": 3, "overdue": 2}, WARNING),
        ("CRITICAL", {"mx": 0, "overdue": 0}, WARNING),
        ("CRITICAL", {"mx": "3", "overdue": True}, WARNING),
        ("CRITICAL", {"mx": 3, "overdue": 0, "delivered": 1}, DOWN),
        ("UNKNOWN", {}, DOWN),
        ("WARNING", {"mx": 3, "overdue": 0}, WARNING),
        ("OK", {"mx": 3, "overdue": 0}, UP),
    ],
)
def test_canaries_are_urgent_when_all_of_them_are_overdue(status: str, metrics: dict[str, Any], state: str) -> None:
    record = monitor_support.health_record("control1", "control", 0.0)
    record["checks"]["canary"] = {**record["checks"]["backup"], "status": status, "metrics": metrics}
    found = {result.subject: result.state for result in hosthealth.results(reading(record), ("canary",), ())}
    assert found["control1/check-canary"] == state


def test_a_host_that_does_not_know_its_checks_is_not_well() -> None:
    record = monitor_support.health_record("control1", "control", 0.0)
    lost = {**record, "checks": {}, "status": "UNKNOWN", "problems": ["/mf/etc/mf.json is damaged"]}
    found = {one.subject: one for one in hosthealth.results(reading(lost), ("backup",), ("backup",))}
    assert {name: one.state for name, one in found.items()} == {
        "control1/check-backup": DOWN,
        "control1/health": WARNING,
    }
    assert all("mf.json is damaged" in one.message for one in found.values())
    del record["checks"]["backup"]
    found = {one.subject: one for one in hosthealth.results(reading(record), ("backup",), ("backup",))}
    assert {name: one.state for name, one in found.items()} == {
        "control1/check-backup": WARNING,
        "control1/health": UP,
    }
    wrong = {**record, "status": "CRITICAL", "throttled": True, "problems": ["throttled, but NOT refusing new mail"]}
    assert hosthealth.results(reading(wrong), (), ())[-1].state == DOWN
    plain = {**record, "status": "WARNING", "throttled": True, "problems": ["throttled, accepting mail"]}
    assert hosthealth.results(reading(plain), (), ())[-1].state == UP


def test_the_ssh_command_believes_nothing_but_its_options() -> None:
    access = settings.HealthAccess("mf-health", "/key", "/known", "/run/x")
    message = hosthealth.command(access, monitor_support.settings().hosts[1], keep=True, limit=10)
    assert message[:3] == ["/usr/bin/ssh", "-F", "none"]
    assert {"StrictHostKeyChecking=yes", "KexAlgorithms=^curve25519-sha256"} <= set(message)
    assert message[-3:] == ["--", "mf-health@192.0.2.11", "health"]
