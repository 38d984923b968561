#!/usr/bin/env python3
"""ansible-lint with our modules within reach.

Its `args` rule checks a task's parameters by importing the module, and is silent when that can't be done. So:

- our modules import `ansible.module_utils.mf…`, which exists by ansible.cfg's `module_utils` alone: it's added here;
- the rule takes an action plugin of the same name for the module, finds no parameters in it, and passes everything:
  here the module in library/ goes first.
"""

from __future__ import annotations

import sys
from functools import cache
from pathlib import Path

import ansible.module_utils
from ansible.plugins.loader import PluginLoadContext, module_loader
from ansiblelint import utils
from ansiblelint.__main__ import main

ROOT = Path(__file__).resolve().parent.parent
load_plugin = utils.load_plugin


@cache
def load_module(name: str) -> PluginLoadContext:
    """The module of this name if it is one of ours, otherwise whatever ansible-lint would find."""
    if (ROOT / "library" / f"{name}.py").exists():
        return module_loader.find_plugin_with_context(name, ignore_deprecated=True, check_aliases=True)
    return load_plugin(name)


if __name__ == "__main__":
    for folder in ("roles/mf_tree/files/lib", "module_utils"):
        ansible.module_utils.__path__.append(str(ROOT / folder))
    utils.load_plugin = load_module  # before the rules are imported, which take it from there
    sys.exit(main(["ansible-lint", "--strict", *sys.argv[1:]]))
