"""The repository of the backups, on the machine that keeps it and can't decrypt it."""
