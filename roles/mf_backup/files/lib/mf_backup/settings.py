"""Settings of the backups: section ``backup`` of /mf/etc/mf.json, read whole or refused."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mf import borg, config, state

JOBS = ("dump", "full", "verify", "drill")
"""In the order in which they go when several are due: what loses most by waiting comes first."""


@dataclass(frozen=True)
class Job:
    """How often a job runs, and where in its period: seconds."""

    period: int
    offset: int


@dataclass(frozen=True)
class Settings:
    """What the jobs need. Times are seconds. ``newest``: ``database.table`` to the column that tells a row's age."""

    prefix: str
    repository: str
    path: str
    databases: tuple[str, ...]
    socket: str
    newest: Mapping[str, str]
    restore_paths: tuple[str, ...]
    after_restore: tuple[str, ...]
    throttle_wait: int
    jobs: Mapping[str, Job]

    def archive(self, job: str, sequence: int, stamp: str) -> str:
        """The name of an archive: ``control1-dump-00000012-2026-11-25T02:00:01Z``."""
        return f"{self.prefix}-{job}-{sequence:08d}-{stamp}"

    def parse(self, name: str) -> tuple[str, int] | None:
        """The same as ``borg.parse``, for our own archives."""
        return borg.parse(self.prefix, name)


def load(places: state.Places) -> Settings:
    """The settings. Raises config.SettingsError in one line."""
    return read(config.load(places))


def read(settings: Mapping[str, Any]) -> Settings:
    """The settings from what mf.json holds. Raises config.SettingsError."""
    section = settings.get("backup")
    if not isinstance(section, dict):
        raise config.SettingsError("this host makes no backups: mf.json has no section backup")
    try:
        return Settings(
            prefix=str(section["prefix"]),
            repository=str(section["repository"]),
            path=str(section["path"]),
            databases=tuple(str(name) for name in section["databases"]),
            socket=str(section["socket"]),
            newest={str(table): str(column) for table, column in section["newest"].items()},
            restore_paths=tuple(str(path) for path in section["restore_paths"]),
            after_restore=tuple(str(command) for command in section["after_restore"]),
            throttle_wait=int(section["throttle_wait"]),
            jobs={
                job: Job(int(values["period"]), int(values["offset"]))
                for job, values in section["jobs"].items()
                if job in JOBS
            },
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise config.SettingsError(
            f"section backup of mf.json is not whole ({error}); deploy again with playbooks/site.yml"
        ) from None
