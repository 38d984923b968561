"""Settings of the backups: section ``backup`` of /mf/etc/mf.json."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mf import borg, config, state

JOBS = ("dump", "full", "verify", "drill")
"""In the order in which they run when several are due: the job that loses most by waiting comes first."""


@dataclass(frozen=True)
class Job:
    """Period of a job, and its offset in that, in seconds."""

    period: int
    offset: int


@dataclass(frozen=True)
class Settings:
    """Times are seconds. ``newest``: ``database.table`` to the column with a row's age."""

    prefix: str
    repository: str
    path: str
    databases: Sequence[str]
    socket: str
    newest: Mapping[str, str]
    restore_paths: Sequence[str]
    after_restore: Sequence[str]
    throttle_wait: int
    jobs: Mapping[str, Job]

    def archive(self, job: str, sequence: int, stamp: str) -> str:
        """The name of an archive: ``control1-dump-00000012-2026-11-25T02:00:01Z``."""
        return f"{self.prefix}-{job}-{sequence:08d}-{stamp}"

    def parse(self, name: str) -> tuple[str, int] | None:
        """As ``borg.parse``, for our own archives."""
        return borg.parse(self.prefix, name)


def load(places: state.Places) -> Settings:
    """The settings. Raises config.SettingsError in one line."""
    return read(config.load(places))


def read(settings: Mapping[str, Any]) -> Settings:
    """The settings from mf.json's content. Raises config.SettingsError."""
    section = settings.get("backup")
    if not isinstance(section, dict):
        raise config.SettingsError("this host makes no backups: mf.json has no section backup")
    try:
        jobs = {job: Job(**values) for job, values in section["jobs"].items()}
        return Settings(**section | {"newest": dict(section["newest"]), "jobs": jobs})
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise config.SettingsError(
            f"section backup of mf.json is not whole ({error}); deploy again with playbooks/site.yml"
        ) from None
