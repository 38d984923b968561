"""The time in a message's id, ``20261125T020001.123456Z-mx1-…``, in UTC. Fast path.

The format of ids is in roles/qpsmtpd/files/lib/qpsmtpd/lib/Mf/Rejected.pm. Nothing is verified here.
"""

from __future__ import annotations


def day(ident: str) -> str:
    """The day and its folder's name, ``2026-11-25``."""
    return f"{ident[:4]}-{ident[4:6]}-{ident[6:8]}"


def iso(ident: str) -> str:
    """The time in ISO 8601, ``2026-11-25T02:00:01.123456Z``."""
    return f"{day(ident)}T{ident[9:11]}:{ident[11:13]}:{ident[13:22]}Z"
