"""What the documents say about states, commands and settings, held against the code that they speak of."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from types import ModuleType
from xml.etree import ElementTree as ET

import pytest
import write_readmes

from tests.repository.test_packages import every_check

ROOT = Path(__file__).resolve().parents[2]


def source_of(module: str) -> str:
    """The source of a file of a role's package: mf_checks/smtp.py."""
    (path,) = ROOT.glob(f"roles/*/files/lib/{module}")
    return path.read_text()


DOCUMENTS = [ROOT / path for path in subprocess.check_output(["git", "ls-files", "*.md"], cwd=ROOT, text=True).split()]
README = (ROOT / "README.md").read_text()
ARCHITECTURE = (ROOT / "docs/architecture.md").read_text()
RUNBOOK = (ROOT / "docs/runbook.md").read_text()
# as one line: the text that a summary is looked up in may be wrapped
RUNBOOK_TEXT = " ".join(RUNBOOK.split())
WIDTH = 120


def name(path: Path) -> str:
    """A readable test id."""
    return str(path.relative_to(ROOT))


def too_wide(text: str) -> list[str]:
    """The lines over 120 columns, but for those that are one word (an address, say)."""
    return [
        line
        for line in text.splitlines()
        if len(line) > WIDTH and len(re.sub(r"^\s*(?:[-*]|\d+\.)?\s+", "", line).split()) > 1
    ]


def test_a_line_is_too_wide_unless_it_is_one_word() -> None:
    assert too_wide("x " * 61) == ["x " * 61]
    assert too_wide("x" * 121 + "\n- " + "x" * 121 + "\n" + "x " * 60) == []


@pytest.mark.parametrize("path", DOCUMENTS, ids=name)
def test_documents_are_no_wider_than_120_columns(path: Path) -> None:
    assert not too_wide(path.read_text())


def anchors(text: str) -> set[str]:
    """The anchors GitHub makes of a document's headings."""
    heads = re.findall(r"^#+ (.+)$", re.sub(r"```.*?```", "", text, flags=re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


@pytest.mark.parametrize("path", DOCUMENTS, ids=name)
def test_links_lead_to_headings_that_exist(path: Path) -> None:
    text = path.read_text()
    wrong = []
    for target, anchor in re.findall(r"\]\(([^)#\s:]*)#([^)\s]+)\)", text):
        there = path.parent / target if target else path
        if not there.exists() or anchor not in anchors(there.read_text()):
            wrong.append(f"{target}#{anchor}")
    assert not wrong


def test_readme_names_the_two_commands_and_all_systems() -> None:
    assert re.search(r"^ +make demo\b", README, re.MULTILINE)
    assert re.search(r"^ +make test\b", README, re.MULTILINE)
    assert re.findall(r"^\| (S\d) \|", README, re.MULTILINE) == [f"S{number}" for number in range(1, 10)]


@pytest.mark.parametrize("path", DOCUMENTS, ids=name)
def test_documents_name_targets_and_files_that_exist(path: Path) -> None:
    text = path.read_text()
    code = re.findall(r"`([^`\n]+)`|^    (.+)$", text, re.MULTILINE) + [
        ("", block) for block in re.findall(r"```.*?```", text, re.DOTALL)
    ]
    commands = "\n".join(inline or block for inline, block in code)
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert set(re.findall(r"\bmake ([a-z][a-z-]*)", commands)) <= set(targets)
    linked = [link for link in re.findall(r"\]\(([^)#\s]+)", text) if "://" not in link]
    assert not [link for link in linked if not (path.parent / link).exists()]


@pytest.mark.parametrize("path", DOCUMENTS, ids=name)
def test_files_of_the_repository_that_are_named_exist(path: Path) -> None:
    named = set(
        re.findall(
            r"(?<!build/)(?<!\.)\b((?:playbooks|roles|lab|tests|library|inventory/example|inventory/lab)/[\w./-]*\w)",
            path.read_text(),
        )
    )
    # NAME, ROLE and X stand for a name of one's own
    assert not [
        named_path
        for named_path in named
        if not re.search(r"\b(NAME|ROLE|X)\b|_NAME", named_path) and not (ROOT / named_path).exists()
    ]


def test_variables_that_are_named_exist() -> None:
    known = "\n".join(
        path.read_text() for path in (*ROOT.glob("roles/*/defaults/main.yml"), *ROOT.glob("playbooks/**/*.yml"))
    )
    named = set(
        re.findall(
            r"\b((?:qpsmtpd|mf_(?:exim|checks|throttle|quarantine|rejected|canary))_[a-z_]+[a-z])\b", README + RUNBOOK
        )
    )
    assert named
    assert not [name for name in named if name not in known]


def test_runbook_has_every_class_of_the_smtp_check() -> None:
    source = source_of("mf_checks/smtp_verdict.py")
    match = re.search(r"^BUSY, .+? = (.+)$", source, re.MULTILINE)
    assert match
    assert not [word for word in re.findall(r'"([A-Z]+)"', match[1]) if f"`{word}" not in RUNBOOK_TEXT]


def test_runbook_has_every_verdict_on_a_process() -> None:
    source = source_of("mf_checks/orphans.py")
    match = re.search(r"^ORPHAN, .+? = \((.+?)\)$", source, re.MULTILINE | re.DOTALL)
    assert match
    assert not [word for word in re.findall(r'"([a-z ]+)"', match[1]) if word not in RUNBOOK_TEXT]


# Texts of a state, by the module that prints them. A change there belongs into the runbook as well.
TEXTS = {
    "mf_checks/smtp_report.py": ["slow: canary accepted in"],
    "mf_checks/smtp_diagnose.py": ["works again", "at the confirmation probe", "doesn't greet"],
    "mf_checks/healer.py": ["a restart did not cure it"],
    "mf_checks/smtp_verdict.py": [
        *("another program holds the port", "a filter is slow: silence", "deploy again"),
        *("TLS works", "STARTTLS is offered and broken", "STARTTLS isn't offered", "the certificate ends in"),
    ],
    "mf_checks/processes_diagnose.py": ["under watch"],
    "mf_checks/killer.py": [
        "survived KILL",
        "spared: moved or gone at the last moment",
        "investigate what creates them",
    ],
    "mf_checks/load.py": ["the throttle can't be set"],
    "mf_checks/queue.py": ["Exim doesn't answer", "oldest message", "refused by a customer's server can't be kept"],
    "mf_canary/check.py": [
        "none was due yet",
        "was sent",
        "no canary recorded yet",
        "a test spam was delivered instead of refused",
    ],
    "mf_rejected/check.py": [
        "the disk is nearly full",
        "messages removed before their time for lack of room",
        "messages couldn't be kept",
        "never purged",
    ],
    "mf_rejected/check_refused.py": [
        "waits for an operator",
        "refused for good by customers' servers, kept",
        "see refused list",
    ],
    "mf_checks/due.py": ["hung past its deadline and was killed"],
    "mf_quarantine/check.py": [
        "messages known there and not fetched",
        "no pull for",
        "has left the inventory",
        "nothing was ever fetched from it",
        "its state is not whole",
    ],
    "mf_backup/check.py": ["first backups are on their way", "never done in"],
    "mf_offsite/check.py": ["nothing was saved here yet", "of the quota used", "objects deleted, no prune recorded"],
    "mf_quarantine/pull.py": ["are listed and can't be fetched"],
    "mf/run.py": ["did not finish within", "internal error", "this launcher is of release", "no lock in"],
    "mf/throttle/marker.py": ["but NOT refusing new mail as it should", "not throttled, but STILL refusing new mail"],
    "mf/health.py": [
        "is cron running?",
        "its result is not whole",
        "never ran since the last boot",
        "comes from release",
    ],
    "mf/throttle/peers.py": ["peers accept mail"],
    "mf/throttle/budget.py": ["over budget"],
    "mf/throttle/storage.py": ["won't survive a reboot"],
}


@pytest.mark.parametrize(("module", "texts"), TEXTS.items(), ids=lambda value: value if isinstance(value, str) else "")
def test_runbook_has_the_texts_of_the_code(module: str, texts: list[str]) -> None:
    source = source_of(module)
    for text in texts:
        assert text in source, f"{module} no longer prints this; correct docs/runbook.md and this test"
        assert text in RUNBOOK_TEXT


@pytest.mark.parametrize("module", every_check(), ids=lambda module: module.CHECK.name)
def test_every_check_is_documented(module: ModuleType) -> None:
    """A section of the runbook, texts of it above, and a row of the architecture's table."""
    check, stem = module.CHECK.name, module.__name__.replace(".", "/")
    assert f"\n### check-{check}\n" in RUNBOOK
    assert TEXTS.keys() & {f"{stem}.py", f"{stem}_report.py", f"{stem}_diagnose.py"}
    assert re.search(rf"^\| `{check}` \| .+ \| \d+ min \| \d+ s \|$", ARCHITECTURE, re.MULTILINE)


def test_runbook_lists_every_command_of_a_host() -> None:
    launchers = {path.stem for path in ROOT.glob("roles/*/templates/bin/*.j2")}
    exits = RUNBOOK.partition("## Exit codes")[2].partition("\n## ")[0]
    assert launchers
    assert not [name for name in launchers if f"/mf/bin/{name}" not in exits and not name.startswith("check-")]
    assert "/mf/bin/check-*" in exits


DECISIONS = sorted((ROOT / "docs/decisions").glob("[0-9]*.md"))


def test_each_decision_has_a_number_of_its_own() -> None:
    numbers = [path.name[:4] for path in DECISIONS]
    assert numbers
    assert len(set(numbers)) == len(numbers)
    free = set(range(1, int(numbers[-1]) + 1)) - set(map(int, numbers))
    assert free == {66, 67, 68, 69, 79}, "the index names the numbers that were never given"


@pytest.mark.parametrize("path", DECISIONS, ids=name)
def test_a_decision_has_number_title_and_status_and_is_in_the_index(path: Path) -> None:
    head = re.match(r"# (\d+\. .+)\n\nStatus: (.+)\n", path.read_text())
    assert head
    title, status = head.groups()
    assert int(title.partition(".")[0]) == int(path.name[:4])
    line = f"- [{title}]({path.name})"
    if status != "accepted":
        by = re.fullmatch(r"superseded by \[(\d+)\]\((\d+)-\S+\.md\)", status)
        assert by
        assert int(by[1]) == int(by[2])
        assert path.name in next(path.parent.glob(f"{by[2]}-*.md")).read_text()
        line += f", superseded by {by[1]}"
    assert line in (ROOT / "docs/decisions/README.md").read_text().splitlines()


@pytest.mark.parametrize("path", DOCUMENTS, ids=name)
def test_a_decision_that_is_named_leads_there(path: Path) -> None:
    text = path.read_text()
    for number in re.findall(r"\bdecision\s+(\d+)\b", text):
        assert re.search(rf"\[decision\s+{number}\]\(\S*/?{int(number):04d}-\S+\.md\)", text)


def test_readme_leads_to_the_code() -> None:
    table = README.partition("## Where the code is\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| .+ \| \[\w+\]\((roles/\w+)/README.md\): (.+) \|$", table, re.MULTILINE)
    assert len(rows) > 5
    for role, named in rows:
        libs = [*ROOT.glob(f"{role}/files/lib/*"), ROOT / "roles/mf_tree/files/lib/mf"]
        paths = re.findall(r"`([\w/]+\.\w+)`(?:, function `(\w+)`)?", named)
        assert paths
        for path, function in paths:
            there = [lib / path for lib in libs if (lib / path).exists()]
            assert there, path
            assert f"def {function}" in there[0].read_text() or not function


def test_the_picture_is_well_formed_and_described() -> None:
    root = ET.parse(ROOT / "docs/fleet.svg").getroot()
    space = "{http://www.w3.org/2000/svg}"
    assert root.find(f"{space}title") is not None
    assert root.find(f"{space}desc") is not None
    assert "prefers-color-scheme: dark" in (root.findtext(f"{space}style") or "")
    assert re.search(r'<img src="docs/fleet.svg"[^>]* alt="[^"]{40,}"', README)


def test_architecture_has_every_module_of_ansible() -> None:
    text = (ROOT / "docs/architecture.md").read_text()
    assert not [path.stem for path in ROOT.glob("library/*.py") if f"| `{path.stem}` |" not in text]


# --- the roles' READMEs

ROLES = sorted(path.parent.parent for path in ROOT.glob("roles/*/tasks/main.yml"))


@pytest.mark.parametrize("role", ROLES, ids=name)
def test_every_role_has_a_readme_whose_generated_parts_are_current(role: Path) -> None:
    text = (role / "README.md").read_text()
    assert text.startswith(f"# {role.name}\n")
    parts = dict(re.findall(r"<!-- generated: (\w+), by make readmes -->\n(.*?)<!-- end -->\n", text, re.DOTALL))
    assert parts["variables"] == write_readmes.variables(role), "run make readmes"
    assert parts.get("modules", "") == write_readmes.modules(role), "run make readmes"


def test_readmes_are_written_and_with_check_only_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    role = tmp_path / "roles/mf_x"
    (role / "meta").mkdir(parents=True)
    (role / "files/lib/mf_x").mkdir(parents=True)
    (role / "files/lib/mf_x/a.py").write_text('"""What ``a`` is. And more."""\n')
    (role / "meta/argument_specs.yml").write_text(
        "argument_specs: {main: {options: {mf_x_list: {type: list, elements: dict, default: [],"
        " description: A C(list)., options: {name: {type: str, required: true, description: [One., Two.]}}}}}}\n"
    )
    readme = role / "README.md"
    parts = [f"<!-- generated: {part}, by make readmes -->\nold\n<!-- end -->\n" for part in ("variables", "modules")]
    readme.write_text("by hand\n".join(parts))
    assert write_readmes.main(["--check"], tmp_path) == 1
    assert "old" in readme.read_text()
    assert write_readmes.main([], tmp_path) == 0
    assert "- `mf_x_list` (list of dict; default `[]`): A `list`.\n  - `name` (str; required): One. Two.\n" in (
        readme.read_text()
    )
    assert "by hand\n" in readme.read_text()
    assert "- `mf_x/a.py`: What `a` is.\n" in readme.read_text()
    assert write_readmes.main(["--check"], tmp_path) == 0
    assert capsys.readouterr().out == "roles/mf_x/README.md: run make readmes\nroles/mf_x/README.md: written\n"


@pytest.mark.parametrize("role", ROLES, ids=name)
def test_a_readme_leads_to_code_that_exists(role: Path) -> None:
    head = re.search(r"^- \*\*Hosts:\*\* .+?\n\n", (role / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    assert head
    assert re.findall(r"^- \*\*(.+?):\*\*", head[0], re.MULTILINE) == ["Hosts", "Set first", "Code", "Read first"]
    places = [
        ROOT,
        role,
        ROOT / "roles/mf_tree/files/lib",
        ROOT / "roles/mf_tree/files/lib/mf",
        *role.glob("files/lib/*"),
    ]
    code = head[0].partition("**Code:**")[2]
    paths = re.findall(r"`([\w./]+(?:\.\w+|/))`", code)
    assert paths
    assert not [path for path in paths if not any((place / path).exists() for place in places)]
