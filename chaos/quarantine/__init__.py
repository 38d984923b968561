"""Mail while the way to the quarantine is broken. See chaos/quarantine/__main__.py."""
