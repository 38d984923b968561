"""quarantine migrate: create database and account, bring the schema up to date. As root, and without settings."""

from __future__ import annotations

import argparse
import os

from .. import QuarantineError, migration, schema
from ..context import report


def run(args: argparse.Namespace) -> int:
    """Migrate, and report each step."""
    if os.getuid() != 0:
        raise QuarantineError("run this as root")
    steps = migration.migrate(dry_run=args.dry_run)
    message = "; ".join(f"would be done: {step}" if args.dry_run else step for step in steps)
    record = {"done": steps, "schema": schema.SCHEMA, "dry_run": args.dry_run}
    return report(args, record, message or f"schema {schema.SCHEMA}: nothing to do")
