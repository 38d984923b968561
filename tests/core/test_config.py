"""Settings: read whole, checked whole, or refused in one line."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mf import config, state

GOOD: dict[str, Any] = {
    "generation": "0123456789ab",
    "host": "mx1",
    "type": "mx",
    "checks": {
        "smtp": {"period": 60, "offset": 0, "deadline": 20, "port": 25},
        "load": {"period": 120, "offset": 1, "deadline": 20, "high": 5.0, "low": 4.0, "mark": None},
    },
    "throttle": {"ports": [25], "lease_ttl": 300},
    "fleet": {"min_accepting": 2, "peers": [{"name": "mx2", "address": "10.111.0.12", "port": 25}]},
}


def changed(path: str, value: Any) -> dict[str, Any]:
    copy: dict[str, Any] = json.loads(json.dumps(GOOD))
    *folders, name = path.split(".")
    holder = copy
    for folder in folders:
        holder = holder[folder]
    if value is ...:
        del holder[name]
    else:
        holder[name] = value
    return copy


def test_good_settings() -> None:
    config.verify(GOOD)
    config.verify(changed("checks", {"load": GOOD["checks"]["load"]}))
    config.verify({"generation": "a", "host": "control1"})


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("generation", "", "generation must be a text"),
        ("host", 7, "host must be a text"),
        ("checks", [], "checks must be an object"),
        ("checks.load", None, "checks.load must be an object"),
        ("checks.load.deadline", "20", "checks.load.deadline must be a number from 1 to 3600, not '20'"),
        ("checks.load.deadline", True, "checks.load.deadline must be a number"),
        ("checks.load.deadline", float("nan"), "checks.load.deadline must be a number"),
        ("checks.load.deadline", ..., "checks.load.deadline is missing"),
        ("checks.load.period", 0, "checks.load.period"),
        ("checks.smtp.offset", 99999, "checks.smtp.offset must be a number from 0 to 1440, not 99999"),
        ("checks.smtp.offset", 2.5, "checks.smtp.offset"),
        ("throttle.ports", [99999], "throttle.ports must be a list of numbers from 1 to 65535"),
        ("throttle.ports", "25", "throttle.ports"),
        ("throttle.ports", [True], "throttle.ports"),
        ("throttle.lease_ttl", -5, "throttle.lease_ttl must be a number from 60 to 3600, not -5"),
        ("fleet.min_accepting", -1, "fleet.min_accepting"),
        ("fleet.peers", {}, "fleet.peers must be a list"),
        ("fleet.peers", [{"name": "mx2", "address": "192.0.2.1"}], "name, address and port"),
        ("fleet.peers", [{"name": "", "address": "192.0.2.1", "port": 25}], "name, address and port"),
    ],
)
def test_a_wrong_setting_is_reported_in_one_line(path: str, value: Any, message: str) -> None:
    with pytest.raises(config.SettingsError) as error:
        config.verify(changed(path, value), "/mf/etc/mf.json")
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert str(error.value).endswith("deploy again with playbooks/site.yml")


@pytest.fixture
def places(tmp_path: Path) -> state.Places:
    (tmp_path / "mf/etc").mkdir(parents=True)
    return state.Places(str(tmp_path))


def test_load(places: state.Places) -> None:
    Path(places.settings).write_text(json.dumps(GOOD, indent=4))
    assert config.load(places) == GOOD


@pytest.mark.parametrize("size", [0, 1, 10, 100, 300])
def test_half_written(places: state.Places, size: int) -> None:
    Path(places.settings).write_text(json.dumps(GOOD)[:size])
    with pytest.raises(config.SettingsError, match="not a whole JSON object"):
        config.load(places)


def test_missing_unreadable_folder(places: state.Places) -> None:
    with pytest.raises(config.SettingsError, match="is missing"):
        config.load(places)
    os.symlink("/etc/hostname", places.settings)
    with pytest.raises(config.SettingsError, match="can't be read"):
        config.load(places)
    os.unlink(places.settings)
    os.mkdir(places.settings)
    with pytest.raises(config.SettingsError, match="can't be read: Is a directory"):
        config.load(places)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)


SOMEWHERE = [*GOOD, *(f"checks.load.{key}" for key in GOOD["checks"]["load"]), "fleet.peers", "throttle.ports"]


@settings(max_examples=500)
@given(st.sampled_from(SOMEWHERE), json_values)
def test_anything_anywhere_is_settings_or_one_line(path: str, value: Any) -> None:
    message = ""
    try:
        config.verify(changed(path, value))
    except config.SettingsError as error:
        message = str(error)
    assert "\n" not in message
