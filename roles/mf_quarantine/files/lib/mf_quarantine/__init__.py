"""The quarantine on control: fetch rejected mail from the MXs, keep it, index it, release it.

``layout`` names and paths, ``envelope`` one kept file, ``database`` ``index`` ``migration`` MariaDB, ``importer`` files
into index and store, ``remote`` ``pull`` MX to control, ``source`` how far a pull is, ``expire`` retention, ``release``
back to an MX, ``repair`` after a restore, ``cli`` ``context`` ``commands`` the command /mf/bin/quarantine.
"""

from mf import Failure


class QuarantineError(Failure):
    """A command can't be done now. Its text is one line: the problem, and what to do."""


class DuplicateError(QuarantineError):
    """A row with this key exists already; nothing of the transaction was done."""
