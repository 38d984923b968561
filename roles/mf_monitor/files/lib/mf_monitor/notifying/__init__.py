"""From problems to messages that reach people."""
