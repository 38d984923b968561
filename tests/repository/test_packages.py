"""The packages of the roles: which may import which, and what a host's release has of them.

`pytest -s tests/repository/test_packages.py -k graph` prints the graph.
"""

from __future__ import annotations

import ast
import functools
import importlib
import re
import sys
import tomllib
import types
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
CORE = "mf"
FOLDERS = sorted(path for path in ROOT.glob("roles/*/files/lib/*/") if any(path.rglob("*.py")))
PACKAGES = {path.name: path for path in FOLDERS}
ROLES = {path.name: path.parents[2].name for path in FOLDERS}
CALLED = re.compile(r"(?:^|; )from (mf[a-z_.]*) import (\w+)", re.MULTILINE)
FILES = sorted(path for folder in PACKAGES.values() for path in folder.rglob("*.py"))
# What a Debian package of a role's `__<role>_packages` lets its code import.
LIBRARIES = {
    "apprise": {"apprise"},
    "borgbackup": {"borg"},
    "python3-aiosmtpd": {"aiosmtpd"},
    "python3-dnspython": {"dns"},
    "python3-jinja2": {"jinja2", "markupsafe"},
    "python3-psutil": {"psutil"},
    "python3-pymysql": {"pymysql"},
}


def name(path: Path) -> str:
    """A readable test id: mf_monitor/engine.py."""
    return str(path.relative_to(path.parents[len(path.parts) - path.parts.index("lib") - 2]))


def package_of(path: Path) -> str:
    """The top package of a file."""
    return path.parts[path.parts.index("lib") + 1]


@functools.cache
def imports(path: Path) -> set[str]:
    """Dotted names that a role's file imports, relative ones resolved; names of a module's contents are among them."""
    return imports_of(path, path.parts[path.parts.index("lib") + 1 : -1])


@functools.cache
def imports_of(path: Path, parents: tuple[str, ...] = ()) -> set[str]:
    """Dotted names that a file in the package ``parents`` imports."""
    modules: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            modules.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = parents[: len(parents) - node.level + 1] if node.level else ()
            base = ".".join((*above, *([node.module] if node.module else [])))
            modules.add(base)
            modules.update(f"{base}.{alias.name}" for alias in node.names)
    return modules


@functools.cache
def named(path: Path) -> set[str]:
    """Dotted names of modules in a file's texts: what a program in one imports, and what importlib is asked for."""
    modules: set[str] = set()
    package = ".".join(Path(name(path)).parts[:-1])
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            modules.update(f"{module}.{function}" for module, function in CALLED.findall(node.value))
        elif isinstance(node, ast.Call) and ast.unparse(node.func) == "importlib.import_module":
            asked = node.args[0]
            if isinstance(asked, ast.Constant) and str(asked.value).startswith("."):
                modules.add(package + str(asked.value))
            elif isinstance(asked, ast.JoinedStr) and isinstance(asked.values[0], ast.Constant):
                # any module of a folder: f".commands.{name}"
                folder = path.parent.joinpath(*str(asked.values[0].value).split("."))
                modules.update(f"{package}.{folder.name}.{source.stem}" for source in folder.glob("[!_]*.py"))
    return modules


@functools.cache
def dependencies(role: str) -> set[str]:
    """Roles that come with a role, itself among them."""
    meta = yaml.safe_load((ROOT / "roles" / role / "meta/main.yml").read_text())
    return {role}.union(*(dependencies(dependency["role"]) for dependency in meta["dependencies"]))


@functools.cache
def debian(role: str) -> set[str]:
    """Debian packages that a role may bring (the words of a template, when it isn't a list)."""
    path = ROOT / "roles" / role / "vars/main.yml"
    listed = (yaml.safe_load(path.read_text()) or {}).get(f"__{role}_packages", []) if path.exists() else []
    return set(re.findall(r"[a-z0-9][a-z0-9+.-]+", listed if isinstance(listed, str) else " ".join(listed)))


def graph() -> dict[str, set[str]]:
    """Which of our packages each package imports, itself left out."""
    return {
        package: {
            imported.partition(".")[0] for path in folder.rglob("*.py") for imported in imports(path)
        }.intersection(PACKAGES)
        - {package}
        for package, folder in PACKAGES.items()
    }


def test_a_role_brings_one_package_of_its_name() -> None:
    """mf_tree brings the core; and no role puts a module into another's package, or beside the packages."""
    pairs = [(path.parents[2].name, path.name) for path in FOLDERS]
    assert [(role, package) for role, package in pairs if role != package] == [("mf_tree", CORE)]
    assert len(pairs) == len(PACKAGES)
    assert list(ROOT.glob("roles/*/files/lib/*.py")) == []


def test_every_folder_of_a_package_has_its_init() -> None:
    """Ansible's module_utils can't carry a namespace package."""
    assert [path for path in {path.parent for path in FILES} if not (path / "__init__.py").exists()] == []


def test_mypy_reads_the_packages_of_all_roles() -> None:
    paths = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["mypy"]["mypy_path"]
    listed = [path for path in paths if path.startswith("roles/")]
    assert listed == [str(folder.parent.relative_to(ROOT)) for folder in PACKAGES.values()]


def test_the_graph_of_imports_is_that_of_the_roles() -> None:
    package_imports = graph()
    for package, used in package_imports.items():
        print(f"{package:<14} -> {' '.join(sorted(used)) or '-'}")
    brought = {package: dependencies(ROLES[package]) for package in PACKAGES}
    expected = {
        package: {other for other in PACKAGES if ROLES[other] in roles and other != package}
        for package, roles in brought.items()
    }
    assert package_imports == expected


def test_nothing_imports_in_a_circle() -> None:
    """Modules, not only packages; what is only for types counts as well."""
    modules = {".".join(Path(name(path)).with_suffix("").parts): path for path in FILES}
    uses = {module: imports(path) & set(modules) - {module} for module, path in modules.items()}
    done: set[str] = set()

    def visit(module: str, way: tuple[str, ...]) -> None:
        assert module not in way, " -> ".join((*way[way.index(module) :], module))
        if module not in done:
            for other in uses[module]:
                visit(other, (*way, module))
            done.add(module)

    for module in modules:
        visit(module, ())


@pytest.mark.parametrize("path", FILES, ids=name)
def test_libraries_are_those_that_the_role_brings(path: Path) -> None:
    role = ROLES[package_of(path)]
    here = set().union(
        *(LIBRARIES.get(package, set()) for dependency in dependencies(role) for package in debian(dependency))
    )
    tops = {imported.partition(".")[0] for imported in imports(path)} - set(PACKAGES)
    assert tops <= set(sys.stdlib_module_names) | here


def every_check() -> list[types.ModuleType]:
    """The modules of the checks, of all roles."""
    return [
        importlib.import_module(".".join(Path(name(path)).with_suffix("").parts))
        for path in FILES
        if "\nCHECK = run.Check(" in path.read_text()
    ]


def test_checks_do_not_import_each_other() -> None:
    """A check may have a half of its own, loaded when something is wrong; what is shared isn't a check."""
    checks = {check.__name__: Path(str(check.__file__)) for check in every_check()}
    assert {"mf_checks.load", "mf_checks.smtp", "mf_rejected.check", "mf_rejected.check_refused"} <= set(checks)
    for module, path in checks.items():
        assert not imports(path) & (set(checks) - {module}), module


def test_modules_that_are_named_in_texts_exist() -> None:
    """What a program in a text imports, what importlib is asked for, and what a launcher calls."""
    named_modules = set().union(*map(named, FILES))
    for launcher in ROOT.glob("roles/*/templates/bin/*.j2"):
        named_modules.update(f"{module}.{function}" for module, function in CALLED.findall(launcher.read_text()))
    modules = {".".join(Path(name(path)).with_suffix("").parts) for path in FILES}
    assert {"mf_checks.due", "mf_monitor.notifying.send"} <= named_modules
    assert named_modules <= modules


# What the core shares with a role by name: the keys of the health record, the lease's owner, a failure's kind. In
# smtp.py it is the same word by chance.
SHARED = {
    "mf/borg.py": {"offsite"},
    "mf/claims.py": {"load"},
    "mf/health.py": {"load", "queue", "smtp"},
    "mf/health_record.py": {"queue"},
    "mf/smtp.py": {"refused"},
}


def test_the_core_names_no_role_and_no_check() -> None:
    """No name of either in its code, beyond those; and no text about a service that a role brings."""
    checks = {check.CHECK.name for check in every_check()}
    assert {"canary", "load", "smtp"} <= checks
    for path in FILES:
        if package_of(path) != CORE:
            continue
        tree = ast.parse(path.read_text())
        documents = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        texts = {
            node.value
            for node in ast.walk(tree)
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in documents
        }
        assert (checks | set(ROLES.values())) & texts == SHARED.get(name(path), set()), path
        assert [text for text in texts if re.search("qpsmtpd|exim|mariadb", text, re.IGNORECASE)] == []


def test_every_check_has_a_purpose_of_its_own() -> None:
    purposes = [check.CHECK.purpose for check in every_check()]
    assert len(set(purposes)) == len(purposes)
    assert all(re.fullmatch(r"[A-Z].{30,100}\.", purpose) for purpose in purposes)


def test_every_check_of_a_role_names_its_module() -> None:
    modules = []
    for path in sorted(ROOT.glob("roles/*/vars/main.yml")):
        variables = yaml.safe_load(path.read_text()) or {}
        tables = [value for value in variables.values() if isinstance(value, dict)]
        tables += [inner for table in tables for inner in table.values() if isinstance(inner, dict)]
        checks = [table for table in tables if {"period", "deadline"} <= set(table)]
        for check in checks:
            assert (path.parents[1] / f"files/lib/{check['module'].replace('.', '/')}.py").exists(), path
            modules.append(check["module"])
    assert sorted(modules) == sorted(check.__name__ for check in every_check())


def test_every_check_has_its_tests_in_the_folder_of_its_package() -> None:
    for check in every_check():
        package = check.__name__.partition(".")[0]
        folder = ROOT / "tests" / package.removeprefix("mf_")
        tested = set().union(*(imports_of(path) for path in folder.glob("test_*.py")))
        assert check.__name__ in tested, f"no test of {check.__name__} in {folder.name}/"
