"""Self-healing for a fleet of MX machines: checks, throttle, health.

One package behind two doors: installed below /mf/lib for the launchers in /mf/bin, and carried by Ansible as
``ansible.module_utils.mf`` for the modules in library/. Imports inside it are relative for that reason.
"""

from __future__ import annotations

VERSION = "0.1.0"
