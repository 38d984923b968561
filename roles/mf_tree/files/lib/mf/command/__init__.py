"""Commands that every host has: throttle, maintenance, health."""
