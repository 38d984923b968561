"""What the roles of a play make together: collisions, order, one generation for one meaning, clear messages."""

from __future__ import annotations

import datetime as dt
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible.errors import AnsibleActionFail
from ansible.module_utils.mf_deploy import manifest
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar, trust_as_template
from hypothesis import given
from hypothesis import strategies as st
from mf_monitor import settings
from mf_plugins import content, gather

from tests.deploy.conftest import ROOT, find_plugins, make


class Play:
    """Roles in a directory, and the variables of a host."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.roles: list[Any] = []
        self.variables: dict[str, Any] = {"ansible_managed": "Ansible managed"}

    def role(self, name: str, tree: dict[str, str], /, **contributions: Any) -> None:
        """``tree``: content by path inside the role; ``contributions``: settings, files, units."""
        for path, text in tree.items():
            target = self.root / name / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text)
        self.roles.append(content.Role(name, str(self.root / name)))
        for what, value in contributions.items():
            self.variables[f"__{name}_{what}"] = _trusted(value)

    def gather(self) -> Any:
        """The release, as the plugin makes it."""
        loader = DataLoader()
        reader = gather.Gatherer(sorted(self.roles), self.variables, Templar(loader, self.variables), loader)
        return reader.release("mx1", "mx")

    def text(self, path: str) -> str:
        release = self.gather()
        return str(release.tokens[path].decode())


def _trusted(value: Any) -> Any:
    if isinstance(value, str):
        return trust_as_template(value)
    if isinstance(value, dict):
        return {key: _trusted(item) for key, item in value.items()}
    return [_trusted(item) for item in value] if isinstance(value, list) else value


@pytest.fixture
def play(tmp_path: Path) -> Play:
    return Play(tmp_path)


def files(release: Any) -> dict[str, dict[str, Any]]:
    return {file["path"]: file for file in release.manifest["files"]}


def test_the_house_rule(play: Play) -> None:
    play.role(
        "one",
        {
            "files/bin/a": "#!/bin/sh\n",
            "files/lib/pkg/b.py": "",
            "files/root/etc/cron.d/mf": "",
            "templates/etc/c.conf.j2": "{{ ansible_managed }} {{ role_name }}\n",
            "templates/root/etc/d.j2": "",
            "files/lib/pkg/__pycache__/b.cpython-311.pyc": "",
            "files/lib/.ruff_cache/x": "",
            "files/bin/.a.swp": "",
            "files/bin/a~": "",
            "files/notes.txt": "",
            "tasks/main.yml": "",
        },
    )
    release = play.gather()
    assert sorted(files(release)) == ["/etc/cron.d/mf", "/etc/d", "bin/a", "etc/c.conf", "etc/mf.json", "lib/pkg/b.py"]
    assert files(release)["bin/a"]["mode"] == "0755"
    assert files(release)["lib/pkg/b.py"]["mode"] == "0644"
    assert release.tokens["etc/c.conf"] == b"Ansible managed one\n"
    assert manifest.Manifest(release.manifest).as_data() == release.manifest


def test_exceptions(play: Play) -> None:
    options = {"/etc/x": {"mode": "0640", "group": "{{ who }}", "validate": "check %s"}, "etc/off": {"present": False}}
    play.variables["who"] = "adm"
    play.role("one", {"files/root/etc/x": "", "files/etc/off": ""}, files=options)
    release_files = files(play.gather())
    assert (release_files["/etc/x"]["mode"], release_files["/etc/x"]["group"], release_files["/etc/x"]["validate"]) == (
        "0640",
        "adm",
        "check %s",
    )
    assert "etc/off" not in release_files


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"/etc/y": {"mode": "0640"}}, "names what the role doesn't bring: /etc/y"),
        ({"/etc/x": {"mod": "0640"}}, "takes group, mode, owner, present, secret, validate"),
        ({"/etc/x": {"mode": "u=rw"}}, "mode must be an octal text"),
        ({"/etc/x": {"mode": 640}}, "mode must be an octal text"),
        ({"/etc/x": {"validate": "check"}}, "validate must have %s"),
        (["/etc/x"], "must be a dict"),
    ],
)
def test_wrong_exceptions_are_refused(play: Play, options: Any, message: str) -> None:
    play.role("one", {"files/root/etc/x": ""}, files=options)
    with pytest.raises(AnsibleActionFail, match=message) as error:
        play.gather()
    assert "roles/one/vars/main.yml: __one_files" in str(error.value)


def test_a_missing_variable_names_the_file_and_itself(play: Play) -> None:
    play.role("one", {"templates/root/etc/x.j2": "a\n{{ nobody_sets_this }}\n"})
    with pytest.raises(AnsibleActionFail) as error:
        play.gather()
    text = str(error.value)
    assert "roles/one/templates/root/etc/x.j2" in text
    assert "'nobody_sets_this' is undefined" in text
    assert "Nothing was changed" in text


def test_a_missing_variable_in_settings_names_the_file(play: Play) -> None:
    play.role("one", {}, settings={"a": {"b": "{{ nobody_sets_this }}"}})
    with pytest.raises(
        AnsibleActionFail, match=r"roles/one/vars/main.yml: __one_settings: 'nobody_sets_this' is undef"
    ):
        play.gather()


def test_a_broken_template_names_the_file(play: Play) -> None:
    play.role("one", {"templates/etc/x.j2": "{% if %}"})
    with pytest.raises(AnsibleActionFail, match=r"roles/one/templates/etc/x\.j2: "):
        play.gather()


def test_a_template_without_its_ending_is_refused(play: Play) -> None:
    play.role("one", {"templates/etc/x": ""})
    with pytest.raises(AnsibleActionFail, match=r"roles/one/templates/etc/x: the name of a template ends in \.j2"):
        play.gather()


def test_two_roles_may_not_bring_the_same_path(play: Play) -> None:
    play.role("one", {"files/root/etc/x": "1"})
    play.role("two", {"templates/root/etc/x.j2": "2"})
    with pytest.raises(AnsibleActionFail, match="/etc/x is brought twice, by role one and role two"):
        play.gather()


def test_two_roles_may_not_bring_the_same_package(play: Play) -> None:
    play.role("one", {"files/lib/pkg/__init__.py": "", "files/lib/pkg/a.py": ""})
    play.role("two", {"files/lib/pkg/__init__.py": "", "files/lib/pkg/b.py": ""})
    with pytest.raises(AnsibleActionFail) as error:
        play.gather()
    assert str(error.value) == "lib/pkg/__init__.py is brought twice, by role one and role two; rename or remove one"


def test_a_role_puts_no_module_into_the_package_of_another(play: Play) -> None:
    play.role("two", {"files/lib/pkg/__init__.py": "", "files/lib/pkg/a.py": ""})
    play.role("one", {"files/lib/pkg/more/b.py": "", "files/lib/other/c.py": ""})
    with pytest.raises(AnsibleActionFail) as error:
        play.gather()
    assert str(error.value) == (
        "lib/pkg is a package of role two (lib/pkg/__init__.py) and of role one (lib/pkg/more/b.py); rename one"
    )


@pytest.mark.parametrize("options", [{"module": "one.check", "period": 60}, {"period": 60}, "one.check"])
def test_a_check_whose_module_no_role_brings_is_refused(play: Play, options: Any) -> None:
    play.role("one", {"files/lib/one/__init__.py": ""}, checks={"spare": options})
    with pytest.raises(
        AnsibleActionFail, match=r"__one_checks: the check spare names the module .*no role brings lib/"
    ):
        play.gather()


def test_the_module_of_a_check_may_come_from_another_role(play: Play) -> None:
    play.role("one", {}, checks={"spare": {"module": "two.check"}})
    play.role("two", {"files/lib/two/check.py": ""})
    assert "lib/two/check.py" in files(play.gather())


def test_no_role_brings_the_settings_file(play: Play) -> None:
    play.role("one", {"files/etc/mf.json": "{}"})
    with pytest.raises(AnsibleActionFail, match=r"etc/mf\.json is brought twice"):
        play.gather()


def test_a_file_is_no_directory(play: Play) -> None:
    play.role("one", {"files/etc/x": "1"})
    play.role("two", {"files/etc/x/y": "2"})
    with pytest.raises(AnsibleActionFail, match="etc/x of role one is a file, and a directory for etc/x/y of role two"):
        play.gather()


def test_settings_are_merged_deeply(play: Play) -> None:
    play.variables["port"] = 25
    play.role("one", {}, settings={"checks": {"smtp": {"port": "{{ port | int }}"}}})
    play.role("two", {}, settings={"checks": {"smtp": {"period": 60}, "load": {"high": 5.0}}})
    text = play.text("etc/mf.json")
    assert json.loads(text) == {
        "generation": "@generation@",
        "host": "mx1",
        "type": "mx",
        "checks": {"smtp": {"port": 25, "period": 60}, "load": {"high": 5.0}},
    }
    assert text.index('"checks"') < text.index('"generation"')


@pytest.mark.parametrize("other", [{"a": {"b": 2}}, {"a": 1}, {"a": {"b": {"c": 1}}}, {"a": {"b": [1]}}])
def test_two_roles_that_disagree_about_a_setting_are_refused(play: Play, other: dict[str, Any]) -> None:
    play.role("one", {}, settings={"a": {"b": 1}})
    play.role("two", {}, settings=other)
    with pytest.raises(
        AnsibleActionFail, match=r"setting a(.b)? comes from role one and, with another value, from role two"
    ):
        play.gather()


def test_no_role_sets_the_generation(play: Play) -> None:
    play.role("one", {}, settings={"generation": "mine"})
    with pytest.raises(AnsibleActionFail, match="setting generation comes from role mf_tree and"):
        play.gather()


@pytest.mark.parametrize("value", [dt.date(2026, 1, 1), float("nan")])
def test_settings_that_have_no_json_form_are_refused(play: Play, value: Any) -> None:
    play.role("one", {}, settings={"a": value})
    with pytest.raises(AnsibleActionFail, match=r"roles/one/vars/main\.yml: __one_settings"):
        play.gather()


def test_units_know_their_roles(play: Play) -> None:
    play.role("one", {}, units=["a.service"])
    play.role("two", {}, units=["a.service", "b.timer"])
    assert play.gather().manifest["units"] == {"a.service": ["one", "two"], "b.timer": ["two"]}


BASE = {"bin/a": "#!/bin/sh\n", "/etc/x": "1\n"}


@pytest.mark.parametrize(
    "change",
    [
        {"files": {**BASE, "/etc/x": "2\n"}},
        {"files": {**BASE, "/etc/y": ""}},
        {"files": {"bin/a": BASE["bin/a"]}},
        {"modes": {"/etc/x": 0o600}},
        {"parts": {"/etc/x": "two"}},
        {"validate": {"/etc/x": "true %s"}},
        {"units": {"a.service": ["one"]}},
        {"settings": {"one": {"a": 1}}},
    ],
)
def test_the_generation_is_a_hash_of_all_that_a_release_means(change: dict[str, Any]) -> None:
    arguments = {"files": BASE, **change}
    names = arguments.pop("files")
    first, again, other = make(BASE), make(dict(reversed(BASE.items()))), make(names, **arguments)
    assert first == again
    assert first.manifest["generation"] != other.manifest["generation"]


def test_the_generation_is_filled_in_everywhere() -> None:
    release = make({"bin/a": "#!/bin/sh\n# @generation@ @generation@\n"})
    (content,) = release.contents.values()
    generation = release.manifest["generation"]
    assert content.decode() == f"#!/bin/sh\n# {generation} {generation}\n"


@given(st.lists(st.binary(max_size=50), max_size=5, unique=True))
def test_contents_travel_unharmed(blobs: list[bytes]) -> None:
    contents = {f"{number:064x}": blob for number, blob in enumerate(blobs)}
    assert manifest.unpack_content(content.pack_content(contents)) == contents


def test_a_diff_hides_what_not_everybody_may_read() -> None:
    release = make({"/etc/secret": "s3cret", "/etc/open": "new\n", "lib/a.py": "x"}, modes={"/etc/secret": 0o640})
    shown = content.diff(
        {"/etc/open": "old\n", "/etc/gone": "g\n"}, ["/etc/gone", "/etc/open", "/etc/secret", "lib/a.py"], release
    )
    texts = {diff["after_header"]: (diff["before"], diff["after"]) for diff in shown}
    assert texts["/etc/gone"] == ("g\n", "")
    assert texts["/etc/open"] == ("old\n", "new\n")
    assert "s3cret" not in str(texts["/etc/secret"])
    assert texts["lib/a.py"] == ("", "(new, 1 bytes)\n")


def monitor_settings(**chosen: Any) -> dict[str, Any]:
    """The settings that role mf_monitor renders from its defaults and other values."""
    find_plugins()
    role = content.Role("mf_monitor", str(ROOT / "roles/mf_monitor"))
    path = "etc/monitor/settings.json"
    source = content.Source(path, f"{role.path}/templates/{path}.j2", True)
    loader = DataLoader()
    variables = {
        **_trusted(yaml.safe_load(Path(role.path, "defaults/main.yml").read_text())),
        "inventory_hostname": "monitor1",
        "mf_min_accepting": 2,
        "mf_tree__generation": "0" * 12,
        "mf_monitor_canary_key": "",
        "__mf_monitor_hosts": [],
        "__mf_monitor_urgent_checks": [],
        **chosen,
    }
    reader = gather.Gatherer([role], variables, Templar(loader, variables), loader)
    values: dict[str, Any] = json.loads(reader.content(source, role))
    return values


def test_the_monitor_gets_only_what_differs_from_its_record() -> None:
    """Its settings are a secret, so a release from before cert_notice_days, gone back to, gets the file of now."""
    assert "cert_notice_days" not in monitor_settings()
    assert settings.parse(monitor_settings()).cert_notice_days == (10, 3)
    assert monitor_settings(mf_monitor_cert_notice_days=[5])["cert_notice_days"] == [5.0]
    assert monitor_settings(mf_monitor_cert_notice_days=[])["cert_notice_days"] == []


def test_every_variable_of_the_monitor_reaches_its_settings() -> None:
    defaults = yaml.safe_load((ROOT / "roles/mf_monitor/defaults/main.yml").read_text())
    elsewhere = {"mf_monitor_check_dns", "mf_monitor_memory_max"}  # as ``domains``, and in the unit
    lists = {name: [1] for name, default in defaults.items() if isinstance(default, list)}
    written = {f"mf_monitor_{key}" for key in monitor_settings(**lists)}
    assert set(defaults) - written == elsewhere


def test_ranges_of_the_monitor_are_those_that_it_takes() -> None:
    ranges = yaml.safe_load((ROOT / "roles/mf_monitor/vars/main.yml").read_text())["__mf_monitor_ranges"]
    for name, (low, high) in ranges.items():
        for value in (low, high):
            settings.parse(monitor_settings(**{name: value}))
        for value in (low - 0.1, low - 1, high + 1):
            with pytest.raises(settings.MonitorSettingsError):
                settings.parse(monitor_settings(**{name: value}))
