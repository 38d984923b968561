"""Canaries: test messages of an MX, their way through the quarantine, and the sink for those that get through."""
