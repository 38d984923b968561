"""Backups of the control machine: the jobs, their record, and restoring. The repository is that of mf_offsite.

May use packages of its hosts (python3-pymysql); the core imports nothing from here.
"""
