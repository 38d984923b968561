"""Rejected mail on an MX: kept, watched, purged, delivered on demand; and mail that a customer's server refuses."""
