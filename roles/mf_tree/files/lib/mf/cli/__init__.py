"""Command lines: arguments in, exit codes out. No logic."""
