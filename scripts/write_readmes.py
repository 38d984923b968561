#!/usr/bin/env python3
"""Write the generated parts of the roles' READMEs: variables from argument_specs, modules from their docstrings.

A generated part stands between ``<!-- generated: variables, by make readmes -->`` (or ``modules``) and
``<!-- end -->``. With ``--check`` nothing is written. Exit codes: 0 all current, 1 one wasn't (with --check), 2 usage.
"""

from __future__ import annotations

import argparse
import ast
import re
import sys
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]
WIDTH = 118
PART = re.compile(r"(<!-- generated: (\w+), by make readmes -->\n).*?(<!-- end -->\n)", re.DOTALL)


def item(text: str, level: int = 0) -> str:
    """Return an item of a list, wrapped; texts in backticks stay whole."""
    whole = re.sub(r"`[^`]*`", lambda code: code[0].replace(" ", "\0"), " ".join(text.split()))
    indent = "  " * level
    lines = textwrap.wrap(
        whole,
        WIDTH,
        initial_indent=f"{indent}- ",
        subsequent_indent=f"{indent}  ",
        break_long_words=False,
        break_on_hyphens=False,
    )
    return "\n".join(lines).replace("\0", " ") + "\n"


def plain(description: str | list[str]) -> str:
    """Convert Ansible's markup to Markdown: C(x), O(x) and V(x) become `x`."""
    text = description if isinstance(description, str) else " ".join(description)
    return re.sub(r"\b[COVP]\(([^)]*)\)", r"`\1`", text)


def default(value: object) -> str:
    """The default of an option as YAML in one line; an expression has no value that could be shown."""
    if isinstance(value, str) and "{{" in value:
        return "from the inventory"
    dumped = yaml.safe_dump(value, default_flow_style=True, width=10**6)
    return f"`{dumped.partition(chr(10))[0]}`"


def options(specs: Mapping[str, Any], level: int = 0) -> Iterator[str]:
    """Yield an item for each option, followed by the items of its own options."""
    for name, spec in specs.items():
        kind = spec["type"] + (f" of {spec['elements']}" if "elements" in spec else "")
        facts = [kind, *(["required"] if spec.get("required") else [])]
        if "default" in spec:
            facts.append(f"default {default(spec['default'])}")
        if "choices" in spec:
            facts.append("one of " + ", ".join(f"`{choice}`" for choice in spec["choices"]))
        yield item(f"`{name}` ({'; '.join(facts)}): {plain(spec['description'])}", level)
        yield from options(spec.get("options", {}), level + 1)


def variables(role: Path) -> str:
    """Return the list of the role's variables."""
    main = yaml.safe_load((role / "meta/argument_specs.yml").read_text())["argument_specs"]["main"]
    return "".join(options(main["options"])) or "None.\n"


def modules(role: Path) -> str:
    """Return the modules of the role's package, each with the first sentence of its docstring."""
    lib = role / "files/lib"
    items = []
    for path in sorted(lib.rglob("*.py")):
        docstring = ast.get_docstring(ast.parse(path.read_text())) or ""
        subject = re.split(r"(?<=[.?!])\s|\n\n", docstring, maxsplit=1)[0]
        if path.name != "__init__.py":
            items.append(item(f"`{path.relative_to(lib)}`: {re.sub('::$', '.', subject.replace('``', '`'))}"))
    return "".join(items)


PARTS = {"variables": variables, "modules": modules}


def current(readme: Path) -> str:
    """Return the current text of a README."""
    return PART.sub(lambda part: part[1] + PARTS[part[2]](readme.parent) + part[3], readme.read_text())


def main(arguments: list[str] | None = None, root: Path = ROOT) -> int:
    """Write the READMEs that aren't current; with --check only name them."""
    parser = argparse.ArgumentParser(description="Write the generated parts of the roles' READMEs.")
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 when something isn't current")
    check = parser.parse_args(arguments).check
    stale = [readme for readme in sorted(root.glob("roles/*/README.md")) if current(readme) != readme.read_text()]
    for readme in stale:
        print(f"{readme.relative_to(root)}: {'run make readmes' if check else 'written'}")
        if not check:
            readme.write_text(current(readme))
    return int(check and bool(stale))


if __name__ == "__main__":
    sys.exit(main())
