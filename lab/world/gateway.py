#!/usr/bin/env python3
"""An SMS gateway, a chat and a dead man's switch, as far as the lab needs them: takes HTTP, writes down what came.

``gateway.py PORT``: each request is one JSON line in /var/lib/world/gateway-PORT.jsonl: time (epoch seconds), path,
text (the message of Apprise's json://, or ""). The line is on disk before the answer is given. While the file MODE has
"refuse" it answers 503 and writes nothing; a gateway that is down is a stopped service.
"""

from __future__ import annotations

import json
import os
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

STATE = Path("/var/lib/world")
MODE = STATE / "gateway-mode"
LARGEST = 65536


class Handler(BaseHTTPRequestHandler):
    """Takes a message or a heartbeat."""

    record = -1
    timeout = 10

    def do_GET(self) -> None:
        """A heartbeat."""
        self.take("")

    def do_POST(self) -> None:
        """A message."""
        size = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(min(size, LARGEST))
        try:
            self.take(str(json.loads(body).get("message", "")))
        except (ValueError, AttributeError):
            self.send_error(400)

    def take(self, text: str) -> None:
        """Write it down, then answer."""
        if MODE.exists() and MODE.read_text(encoding="ascii").strip() == "refuse":
            self.send_error(503)
            return
        line = {"time": round(time.time(), 3), "path": self.path, "text": text}
        os.write(self.record, json.dumps(line).encode() + b"\n")
        os.fsync(self.record)
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  (the base class calls it so)
        """Nothing: the record has everything."""


def main() -> None:
    """Serve for ever."""
    port = int(sys.argv[1])
    STATE.mkdir(parents=True, exist_ok=True)
    path = STATE / f"gateway-{port}.jsonl"
    Handler.record = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
    with ThreadingHTTPServer(("0.0.0.0", port), Handler) as server:
        server.serve_forever()


if __name__ == "__main__":
    main()
