"""What borg writes: lists, messages, times."""

from __future__ import annotations

import pytest
from mf import borg

from tests.backup.conftest import archive


def test_lists_are_compared_by_name_and_id() -> None:
    recorded = {made.name: made for made in map(archive, (1, 2, 3))}
    stored = {made.name: made for made in (archive(2, ident="other"), archive(3), archive(4))}
    difference = borg.compare(recorded, stored)
    assert difference.missing == (archive(1).name,)
    assert difference.unknown == (archive(4).name,)
    assert difference.changed == (archive(2).name,)
    assert not difference.same
    assert borg.compare(recorded, recorded | {archive(9).name: archive(9)}).same


@pytest.mark.parametrize(
    ("message", "kind"),
    [
        ("Host key verification failed.", "host_key"),
        ("mf-offsite@192.0.2.22: Permission denied (publickey).", "key"),
        (
            "passphrase supplied in BORG_PASSPHRASE, by BORG_PASSCOMMAND or via BORG_PASSPHRASE_FD is incorrect.",
            "passphrase",
        ),
        ("Failed to create/acquire the lock /x/lock.exclusive (timeout).", "lock"),
        ("Repository /x does not exist.", "absent"),
        ("ssh: connect to host 192.0.2.22 port 22: Connection refused", "unreachable"),
        ("Connection closed by remote host. Is borg working on the server?", "cut"),
        ("OSError: [Errno 28] No space left on device", "full"),
        (
            "The storage quota (1.00 MB) has been exceeded (1.10 MB). Try deleting some archives. StorageQuotaExceeded",
            "quota",
        ),
        ("Data integrity error: Segment entry checksum mismatch", "corrupt"),
        ("3 orphaned objects found!", "hidden"),
        ("ensure_reservation\n    assert reservation_end < MAX_REPRESENTABLE_NONCE\nAssertionError", "counter"),
        ("Command '/mf/bin/backup' exited with status 1", "dump"),
        ('  File "/usr/lib/python3/dist-packages/borg/remote.py", line 240, in serve', "offsite"),
        ("something new", "failed"),
    ],
)
def test_failures_have_different_kinds(message: str, kind: str) -> None:
    error = borg.explain(["noise", message, "CRITICAL Need some help? https://torsion.org/borgmatic/#issues"], 2)
    assert error.kind == kind
    assert "\n" not in str(error)
    assert kind != "failed" or str(error).endswith(message)


def test_messages_of_borg_are_made_safe() -> None:
    assert "\x1b" not in str(borg.explain(["\x1b[2Jevil"], 2))
    assert "killed by signal 9" in str(borg.explain([], -9))


def test_times_of_borg_are_utc() -> None:
    assert borg.epoch("2026-11-25T02:09:41.000000") == 1795572581.0
