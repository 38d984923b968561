"""The checks of every minute: of load, processes, SMTP and queue, their healing, and run-checks, which cron starts."""
