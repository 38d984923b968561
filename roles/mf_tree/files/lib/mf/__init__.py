"""The core: what every host of the fleet has. A run of a check, throttle, maintenance, health, and what roles share.

One package behind two doors: installed below /mf/lib for the launchers in /mf/bin, and carried by Ansible as
``ansible.module_utils.mf`` for the modules in library/. Imports inside it are relative for that reason.
"""

from __future__ import annotations

VERSION = "0.1.0"


class Failure(Exception):
    """An error that ends a command, or becomes a check's or a module's message. Its text is one line for the operator.

    ``code`` is the exit code of the command that it ends (see ``cli.Command.main``); a class may have its own.
    """

    code = 1

    def __init__(self, message: str, code: int | None = None) -> None:
        super().__init__(message)
        if code is not None:
            self.code = code
