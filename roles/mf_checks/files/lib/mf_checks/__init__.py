"""What cron runs every minute: the checks of load, processes, SMTP and queue, what they heal, and run-checks."""
