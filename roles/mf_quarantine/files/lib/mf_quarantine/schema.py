"""The schema of the index: its version and its migrations' files. Runs nothing: ``migration.migrate`` does."""

from __future__ import annotations

import os
import re

from . import QuarantineError

SCHEMA = 1
"""The version of the schema that this code works with: the number of the newest file in MIGRATIONS."""
MIGRATIONS = os.path.join(os.path.dirname(__file__), "schema")
COLUMNS = (
    "message.domain, message.id, message.received, message.mx, message.sender, message.recipients, message.subject,"
    " message.plugin, message.reason, message.size, message.kept, message.truncated, message.lost, message.path,"
    " message.sha256"
)
"""The columns of the table ``message``, for a SELECT."""


class SchemaError(QuarantineError):
    """The schema or its migrations aren't of this code's version."""


def judge(there: int, name: str) -> None:
    """Raise SchemaError unless a database's version is the one that this code works with."""
    if there > SCHEMA:
        raise SchemaError(
            f"the schema of {name} is version {there} and this release supports versions up to {SCHEMA}; nothing was "
            "done. Deploy the newer release again with playbooks/site.yml"
        )
    if there < SCHEMA:
        raise SchemaError(
            f"the schema of {name} is version {there}, {SCHEMA} is needed; run as root: /mf/bin/quarantine migrate"
        )


def migrations(folder: str) -> dict[int, str]:
    """Version -> text of its file ``NNNN_what.sql``. Raises SchemaError unless they are 1 to SCHEMA without a gap."""
    texts: dict[int, str] = {}
    try:
        for name in sorted(os.listdir(folder)):
            if match := re.fullmatch(r"(\d{4})_[a-z0-9_]+\.sql", name):
                with open(os.path.join(folder, name), encoding="utf-8") as file:
                    texts[int(match[1])] = file.read()
    except OSError as error:
        raise SchemaError(f"{folder}: {error.strerror}; deploy again with playbooks/site.yml") from None
    if sorted(texts) != list(range(1, SCHEMA + 1)):
        raise SchemaError(f"{folder} has versions {sorted(texts)}, this release needs 1 to {SCHEMA}; deploy again")
    return texts


def statements(text: str) -> list[str]:
    """The statements of a migration: each ends with a semicolon at the end of a line; lines of ``--`` are comments."""
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("--")]
    return [part.strip() for part in re.split(r";[ \t]*$", "\n".join(lines), flags=re.MULTILINE) if part.strip()]
