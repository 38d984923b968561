"""The checks of an MX that cron runs every minute, and what they heal."""
