#!/usr/bin/env python3
"""Run ansible-lint so that it finds our modules.

Its `args` rule checks a task's parameters by importing the module, and passes silently if that fails. Therefore:

- our modules import `ansible.module_utils.mf…`, which only ansible.cfg's `module_utils` provides: it is added here;
- the rule takes an action plugin of the same name for the module, finds no parameters in it, and passes everything:
  here the module in library/ comes first;
- a templated value isn't compared with a parameter's choices, but a templated list is ("one or more of"): here neither.
"""

from __future__ import annotations

import importlib
import re
import sys
from functools import cache
from pathlib import Path
from typing import Any

import ansible.module_utils
import ansiblelint.rules
from ansible.plugins.loader import PluginLoadContext, module_loader
from ansiblelint import utils
from ansiblelint.__main__ import main

ROOT = Path(__file__).resolve().parent.parent
load_plugin = utils.load_plugin


@cache
def load_module(name: str) -> PluginLoadContext:
    """Return our module of this name, or else the one that ansible-lint would find."""
    if (ROOT / "library" / f"{name}.py").exists():
        return module_loader.find_plugin_with_context(name, ignore_deprecated=True, check_aliases=True)
    return load_plugin(name)


def mend_args_rule() -> None:
    """Change the rule as described above. ansible-lint imports its rules by their bare names, so this one is `args`."""
    for folder in ("roles/mf_tree/files/lib", "module_utils"):
        ansible.module_utils.__path__.append(str(ROOT / folder))
    sys.path.append(str(Path(ansiblelint.rules.__file__).parent))
    args: Any = importlib.import_module("args")
    args.load_plugin = load_module
    args.ArgsRule.RE_VALUE_OF = re.compile(r"value of (?P<name>.*) must be one (?:or more )?of:")


if __name__ == "__main__":
    mend_args_rule()
    sys.exit(main(["ansible-lint", "--strict", *sys.argv[1:]]))
