"""From problems to messages to operators."""
