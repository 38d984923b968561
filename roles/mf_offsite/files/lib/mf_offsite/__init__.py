"""The repository of the backups, on the machine that keeps it; it can't decrypt anything."""
