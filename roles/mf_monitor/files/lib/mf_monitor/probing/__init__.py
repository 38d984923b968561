"""Probes: dialogues with services, certificates, the connectivity check, a host's own health over ssh."""
