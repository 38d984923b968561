"""The garbage collector of the processes that Ansible forks."""

from __future__ import annotations

import gc
from unittest.mock import MagicMock

from callback_plugins import mf_freeze


def test_a_play_begins_with_its_objects_frozen() -> None:
    gc.unfreeze()
    try:
        mf_freeze.CallbackModule().v2_playbook_on_play_start(MagicMock())
        assert gc.get_freeze_count() > 1000
    finally:
        gc.unfreeze()
