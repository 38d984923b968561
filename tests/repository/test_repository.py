"""The repository keeps its own promises: what is said twice is said alike, what must stay trivial stays trivial."""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
ROLES = sorted(path.parent.parent for path in ROOT.glob("roles/*/tasks/main.yml"))
MODULES = sorted(path.stem for path in ROOT.glob("library/*.py"))
LAUNCHERS = sorted(path for path in ROOT.glob("roles/*/*/bin/*") if path.parts[-3] in {"files", "templates"})
ARGUMENT_KEYS = ("type", "elements", "choices", "default", "required")


def load(path: Path) -> Any:
    """The YAML of a file; {} when there is none."""
    return yaml.safe_load(path.read_text()) if path.exists() else {}


def name(value: object) -> str:
    """A readable test id."""
    return value.name if isinstance(value, Path) else str(value)


# --- roles


@pytest.mark.parametrize("role", ROLES, ids=name)
def test_argument_specs_and_defaults_say_the_same(role: Path) -> None:
    options = load(role / "meta/argument_specs.yml")["argument_specs"]["main"].get("options", {})
    defaults = load(role / "defaults/main.yml") or {}
    assert set(defaults) == {option for option, spec in options.items() if not spec.get("required")}
    for option, default in defaults.items():
        # a default worked out from the inventory may be described instead
        if "default" in options[option] or "{{" not in str(default):
            assert options[option].get("default") == default, option


@pytest.mark.parametrize("role", ROLES, ids=name)
def test_argument_specs_describe_every_option(role: Path) -> None:
    main = load(role / "meta/argument_specs.yml")["argument_specs"]["main"]
    assert main["short_description"]
    for option, spec in main.get("options", {}).items():
        assert spec.get("type"), option
        assert spec.get("description"), option


@pytest.mark.parametrize("role", ROLES, ids=name)
def test_a_range_that_is_described_is_the_one_in_force(role: Path) -> None:
    ranges = (load(role / "vars/main.yml") or {}).get(f"__{role.name}_ranges", {})
    options = load(role / "meta/argument_specs.yml")["argument_specs"]["main"].get("options", {})
    for option, limits in ranges.items():
        described = re.findall(r"\b(\d[\d.]*) to (\d[\d.]*\d|\d)\b", str(options[option]["description"]))
        assert [[float(low), float(high)] for low, high in described] in ([], [limits]), option


@pytest.mark.parametrize("role", ROLES, ids=name)
def test_variables_carry_the_name_of_their_role(role: Path) -> None:
    for variable in load(role / "defaults/main.yml") or {}:
        assert variable.startswith(f"{role.name}_")
    for path in role.glob("vars/*.yml"):
        for variable in load(path) or {}:
            assert variable.startswith((f"__{role.name}_", f"{role.name}__"))


@pytest.mark.parametrize("role", ROLES, ids=name)
def test_every_default_has_a_comment(role: Path) -> None:
    path = role / "defaults/main.yml"
    lines = path.read_text().splitlines() if path.exists() else []
    for index, line in enumerate(lines):
        if re.match(r"[a-z_]+:", line):
            above = next((earlier for earlier in reversed(lines[:index]) if not re.match(r"[a-z_]+:", earlier)), "")
            assert above.startswith("#") or "  # " in line, f"{path}:{index + 1}"


@pytest.mark.parametrize("role", [role for role in ROLES if role.name != "mf_tree"], ids=name)
def test_roles_depend_on_the_tree(role: Path) -> None:
    needs = [
        entry if isinstance(entry, str) else entry["role"] for entry in load(role / "meta/main.yml")["dependencies"]
    ]
    assert "mf_tree" in needs


@pytest.mark.parametrize("role", ROLES, ids=name)
def test_every_role_has_a_scenario_that_verifies_it(role: Path) -> None:
    scenario = ROOT / "molecule" / role.name
    assert (scenario / "molecule.yml").exists()
    assert (scenario / "converge.yml").exists()
    assert (scenario / "verify.yml").exists()


# --- playbooks and scenarios


def plays() -> Iterator[tuple[Path, dict[str, Any]]]:
    """Every play of every playbook and scenario."""
    for path in sorted([*ROOT.glob("playbooks/*.yml"), *ROOT.glob("molecule/*/*.yml")]):
        document = load(path)
        if isinstance(document, list):
            yield from ((path, play) for play in document if "hosts" in play)


def test_no_play_gathers_facts() -> None:
    gathering = [
        f"{path.relative_to(ROOT)}: {play.get('name')}"
        for path, play in plays()
        if play.get("gather_facts") is not False
    ]
    assert not gathering


def test_the_fleet_scenario_converges_site_yml() -> None:
    settings = load(ROOT / "molecule/fleet/molecule.yml")
    assert settings["ansible"]["playbooks"]["converge"].endswith("playbooks/site.yml")


def test_linters_have_no_exceptions() -> None:
    settings = load(ROOT / ".ansible-lint")
    assert settings["profile"] == "production"
    assert settings["strict"] is True
    assert not settings.get("skip_list")
    assert not settings.get("warn_list")
    assert not (ROOT / ".ansible-lint-ignore").exists()


# --- modules


class Spec(Exception):
    """Carries what a module gave to AnsibleModule."""

    def __init__(self, **given: Any) -> None:
        self.given = given


@pytest.fixture
def module(request: pytest.FixtureRequest) -> ModuleType:
    return importlib.import_module(f"library.{request.param}")


every_module = pytest.mark.parametrize("module", MODULES, indirect=True)


def given(module: ModuleType, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the module gives to AnsibleModule."""

    def catch(**options: Any) -> None:
        raise Spec(**options)

    monkeypatch.setattr(module, "AnsibleModule", catch)
    with pytest.raises(Spec) as caught:
        module.main()
    return caught.value.given


@every_module
def test_documentation_and_argument_spec_say_the_same(module: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = given(module, monkeypatch)["argument_spec"]
    options = yaml.safe_load(module.DOCUMENTATION).get("options", {})
    assert set(options) == set(spec)
    for option, documented in options.items():
        assert documented["description"], option
        for key in ARGUMENT_KEYS:
            assert documented.get(key) == spec[option].get(key), f"{option}: {key}"


@every_module
def test_documentation_is_complete(module: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    documentation = yaml.safe_load(module.DOCUMENTATION)
    assert documentation["module"] == module.__name__.rpartition(".")[2]
    assert {"short_description", "description", "author", "attributes"} <= set(documentation)
    supports = documentation["attributes"]["check_mode"]["support"] == "full"
    assert given(module, monkeypatch)["supports_check_mode"] is supports
    for key, returned in yaml.safe_load(module.RETURN).items():
        assert {"description", "returned", "type"} <= set(returned), key


@every_module
def test_examples_use_documented_options(module: ModuleType) -> None:
    documentation = yaml.safe_load(module.DOCUMENTATION)
    options = set(documentation.get("options", {}))
    used = [
        task[documentation["module"]] or {}
        for task in yaml.safe_load(module.EXAMPLES)
        if documentation["module"] in task
    ]
    assert used
    for arguments in used:
        assert set(arguments) <= options


# --- launchers and the package


@pytest.mark.parametrize("launcher", LAUNCHERS, ids=name)
def test_launchers_are_trivial(launcher: Path) -> None:
    text = launcher.read_text()
    assert "{%" not in text
    assert len(text.splitlines()) < 20
    assert text.startswith(("#!/usr/bin/python3 -I", "#!{{"))
    code = ast.parse(re.sub(r"\{\{.*?\}\}", "0", re.sub(r"\A#!.*", "", text)))
    logic = (ast.If, ast.IfExp, ast.For, ast.While, ast.Try, ast.FunctionDef, ast.Lambda, ast.comprehension, ast.BoolOp)
    assert not [node for node in ast.walk(code) if isinstance(node, logic)]


def test_there_are_launchers() -> None:
    assert LAUNCHERS


# --- the toolchain


def targets() -> dict[str, str]:
    """Makefile target -> its line of help."""
    return dict(re.findall(r"^([a-z-]+):.*?## (.+)$", (ROOT / "Makefile").read_text(), re.MULTILINE))


def test_make_help_lists_every_target() -> None:
    text = (ROOT / "Makefile").read_text()
    phony = re.findall(r"^\.PHONY:(.*)$", text, re.MULTILINE)
    assert set(" ".join(phony).split()) == set(targets()) == set(re.findall(r"^([a-z-]+):", text, re.MULTILINE))


def test_the_lock_has_hashes_and_no_addresses() -> None:
    text = (ROOT / "requirements.lock").read_text()
    assert "://" not in text
    assert not re.search(r"^(-|--)", text, re.MULTILINE)
    entries = re.split(r"^(?=[a-z0-9])", text, flags=re.MULTILINE)[1:]
    assert all(re.match(r"\S+==\S+ \\\n +--hash=sha256:", entry) for entry in entries)
    locked = {re.split("==", entry)[0] for entry in entries}
    wanted = re.findall(r"^([A-Za-z][A-Za-z0-9-]*)", (ROOT / "requirements.in").read_text(), re.MULTILINE)
    assert {package.lower() for package in wanted} <= locked


def test_the_one_supported_ansible_core_is_the_locked_one() -> None:
    (locked,) = re.findall(r"^ansible-core==(\S+)", (ROOT / "requirements.lock").read_text(), re.MULTILINE)
    decision = (ROOT / "docs/decisions/0070-a-lost-host-ends-the-run.md").read_text()
    assert re.findall(r"ansible-core ([0-9.]+\d)", decision) == [locked]
    oldest = {load(path)["galaxy_info"]["min_ansible_version"] for path in (ROOT / "roles").glob("*/meta/main.yml")}
    assert oldest == {locked.rpartition(".")[0]}


def test_pre_commit_runs_the_linters_of_make_lint() -> None:
    hooks = {
        hook["id"] for repository in load(ROOT / ".pre-commit-config.yaml")["repos"] for hook in repository["hooks"]
    }
    listed = subprocess.run(
        [sys.executable, str(ROOT / "scripts/run_tests.py"), "--list", "lint"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert hooks == {line.split(maxsplit=1)[1].replace(" ", "-") for line in listed.stdout.splitlines()}


def test_no_file_names_a_place_of_its_author() -> None:
    listed = subprocess.run(
        ["git", "grep", "-nIE", r"(^|[^A-Za-z0-9_.*}>-])/home/[a-z]", "--", "."],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert listed.returncode in {0, 1}, listed.stderr
    assert not listed.stdout


# outside tests/integration, with what their program is
STARTERS = {
    "backup/test_schedule.py": "ansible prints a variable",
    "core/test_certificate.py": "openssl reads a certificate",
    "core/test_fast_path.py": "an interpreter lists the modules it has loaded",
    "core/test_state.py": "mount, for a full disk",
    "deploy/test_commit.py": "a fork for each call at which a deploy may be killed, and jobs beside a deploy",
    "deploy/test_example_inventory.py": "ansible reads an inventory",
    "deploy/test_secrets.py": "the script that makes secrets, and ssh-keygen reads a key",
    "lab/test_demo.py": "none: its result is a stub",
    "monitor/test_certificate.py": "openssl makes a certificate",
    "quarantine/test_remote.py": "none by itself: its result is a stub",
    "rejected/test_deliver.py": "a delivery, killed in the middle",
    "repository/test_docs.py": "git lists files",
    "repository/test_repository.py": "git lists files, a script lists its stages",
}


def test_processes_are_started_in_the_integration_tests() -> None:
    program = re.compile(r"^ *import subprocess$|= os\.fork\(\)$", re.MULTILINE)
    starting = set()
    for path in (ROOT / "tests").glob("*/test_*.py"):
        if path.parent.name not in {"integration", "browser"} and program.search(path.read_text()):
            starting.add(f"{path.parent.name}/{path.name}")
    assert starting == set(STARTERS)
