"""Request paths over TLS exactly as they are written, and print the answers: ``ask.py ADDRESS NAME CAFILE PATH…``.

The certificate must be for NAME; with an empty CAFILE any is trusted. Prints ``{path: {"status": 200, header: …}}``.
"""

from __future__ import annotations

import http.client
import json
import socket
import ssl
import sys


def main() -> int:
    """Request each path on a connection of its own."""
    address, name, cafile, *paths = sys.argv[1:]
    context = ssl.create_default_context(cafile=cafile or None)
    if not cafile:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    answers = {}
    for path in paths:
        connection = http.client.HTTPSConnection(name, context=context)
        connection.sock = context.wrap_socket(socket.create_connection((address, 443), 10), server_hostname=name)
        connection.request("HEAD", path)
        answer = connection.getresponse()
        answers[path] = {"status": answer.status, **{key.lower(): value for key, value in answer.getheaders()}}
        connection.close()
    print(json.dumps(answers))
    return 0


if __name__ == "__main__":
    sys.exit(main())
