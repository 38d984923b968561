"""Backups of the control machine: jobs on control, what stands behind them off-site, and restoring.

May use what Debian packages for its hosts (python3-pymysql); the core imports nothing from here.
"""
