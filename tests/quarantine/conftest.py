"""Stands in for python3-pymysql, which Debian brings and the tests' environment hasn't: no test connects."""

from __future__ import annotations

import sys
import types
from typing import Any

driver: Any = types.ModuleType("pymysql")
driver.cursors = types.ModuleType("pymysql.cursors")
driver.MySQLError = driver.ProgrammingError = type("MySQLError", (Exception,), {})
sys.modules.setdefault("pymysql", driver)
sys.modules.setdefault("pymysql.cursors", driver.cursors)
