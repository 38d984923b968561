"""Forgetting old archives, attended. Through the append-only account nothing is final until offsite compacts."""

from __future__ import annotations

from .jobs import Context

OPTIONS = ("within", "daily", "weekly", "monthly", "yearly")


def arguments(rules: dict[str, str]) -> list[str]:
    """borg prune's options for one job's retention. Pure; what isn't an option of ours is refused with KeyError."""
    unknown = set(rules) - set(OPTIONS)
    if unknown:
        raise KeyError(", ".join(sorted(unknown)))
    return [f"--keep-{name}={rules[name]}" for name in OPTIONS if name in rules]


def prune(context: Context, *, dry_run: bool) -> list[str]:
    """Delete what the retention no longer keeps; returns the names of what went, or would. Raises BorgError.

    The newest archive of a job is never deleted, whatever the rules say.
    """
    going: list[str] = []
    for job, rules in context.settings.keep.items():
        keep = arguments(dict(rules))
        if not keep:
            continue
        going += _one(context, job, keep)
    if not dry_run and going:
        # the record first: what is struck there and still in the repository, after a crash, is learned anew
        left = {name: one for name, one in context.record.archives.items() if name not in going}
        context.record.replace(left)
        context.borg.run("delete", "::", *going)
    return going


def _one(context: Context, job: str, keep: list[str]) -> list[str]:
    pattern = f"{context.settings.prefix}-{job}-*"
    done = context.borg.run("prune", "--dry-run", "--list", f"--glob-archives={pattern}", *keep)
    newest = max(
        (name for name in context.record.archives if name.startswith(f"{context.settings.prefix}-{job}-")), default=""
    )
    return [name for name in pruned(done.logged) if context.settings.parse(name) and name != newest]


def pruned(logged: list[str]) -> list[str]:
    """Names that ``borg prune --dry-run --list`` would delete."""
    return [line.removeprefix("Would prune:").split()[0] for line in logged if line.startswith("Would prune:")]
