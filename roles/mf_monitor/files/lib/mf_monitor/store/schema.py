"""The tables of the database; the package's docstring describes each."""

VERSION = 1
TABLES = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE subjects (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE);
CREATE TABLE current (
  subject INTEGER PRIMARY KEY REFERENCES subjects, state TEXT NOT NULL, since REAL NOT NULL, checked REAL NOT NULL,
  latency REAL, words TEXT NOT NULL, memory TEXT NOT NULL);
CREATE TABLE health (
  host TEXT PRIMARY KEY, tried REAL NOT NULL, read REAL, ok INTEGER NOT NULL, words TEXT NOT NULL, record TEXT
) WITHOUT ROWID;
CREATE TABLE buckets (
  subject INTEGER NOT NULL, start INTEGER NOT NULL, looks INTEGER NOT NULL, bad INTEGER NOT NULL,
  timed INTEGER NOT NULL, ms REAL NOT NULL, ms_max REAL NOT NULL, PRIMARY KEY (subject, start)) WITHOUT ROWID;
CREATE INDEX buckets_start ON buckets (start);
CREATE TABLE days (
  subject INTEGER NOT NULL, day INTEGER NOT NULL, up REAL NOT NULL, warning REAL NOT NULL, throttled REAL NOT NULL,
  maintenance REAL NOT NULL, down REAL NOT NULL, unknown REAL NOT NULL, timed INTEGER NOT NULL, ms REAL NOT NULL,
  ms_max REAL NOT NULL, PRIMARY KEY (subject, day)) WITHOUT ROWID;
CREATE INDEX days_day ON days (day);
CREATE TABLE incidents (
  id INTEGER PRIMARY KEY AUTOINCREMENT, key TEXT NOT NULL, kind TEXT NOT NULL, host TEXT NOT NULL,
  service TEXT NOT NULL, severity TEXT NOT NULL, title TEXT NOT NULL, opened REAL NOT NULL, closed REAL,
  acked REAL, acked_by TEXT NOT NULL DEFAULT '', ack_until REAL, alert TEXT NOT NULL DEFAULT '{}');
CREATE INDEX incidents_opened ON incidents (opened);
CREATE UNIQUE INDEX incidents_one_open ON incidents (key) WHERE closed IS NULL;
CREATE TABLE events (
  id INTEGER PRIMARY KEY, incident INTEGER NOT NULL REFERENCES incidents, at REAL NOT NULL, what TEXT NOT NULL,
  words TEXT NOT NULL);
CREATE INDEX events_incident ON events (incident, at);
CREATE TABLE messages (
  id INTEGER PRIMARY KEY AUTOINCREMENT, created REAL NOT NULL, channel TEXT NOT NULL, kind TEXT NOT NULL,
  severity TEXT NOT NULL, text TEXT NOT NULL, incidents TEXT NOT NULL, status TEXT NOT NULL, attempts INTEGER NOT NULL,
  next_try REAL NOT NULL, finished REAL, repeat INTEGER NOT NULL, error TEXT NOT NULL, stand_in_for INTEGER);
CREATE INDEX messages_status ON messages (status, next_try);
CREATE INDEX messages_created ON messages (created);
CREATE TABLE silences (
  id INTEGER PRIMARY KEY, pattern TEXT NOT NULL, until REAL NOT NULL, reason TEXT NOT NULL, by TEXT NOT NULL,
  created REAL NOT NULL);
"""
