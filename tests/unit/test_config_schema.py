"""The JSON Schema that editors use: what the code generates, and of one mind with the code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from poolscope import config
from poolscope.config import EndpointSettings, MetricsSettings, PoolSettings, Settings, TlsSettings, schema
from poolscope.errors import ConfigError
from poolscope.model import Thresholds

FOLDER = Path(__file__).parents[2] / "config"
SCHEMA = schema.schema()
VALIDATOR = Draft202012Validator(SCHEMA)

#: Where each section's keys are, in the settings and in the schema.
HOMES: dict[type[msgspec.Struct], tuple[str, ...]] = {
    Settings: (),
    EndpointSettings: ("endpoint",),
    TlsSettings: ("endpoint", "tls"),
    Thresholds: ("detection",),
    MetricsSettings: ("metrics",),
}


def is_accepted(values: Any) -> bool:
    try:
        config.from_mapping(values)
    except ConfigError:
        return False
    return True


def test_the_file_is_what_the_code_generates() -> None:
    made = "python -m poolscope.config.schema > config/poolscope.schema.json"
    assert (FOLDER / "poolscope.schema.json").read_text() == schema.text(), f"run {made}"


def test_it_is_a_schema() -> None:
    Draft202012Validator.check_schema(SCHEMA)


def test_the_shipped_settings_are_valid_by_it_and_lead_to_it() -> None:
    text = (FOLDER / "poolscope.yaml").read_text()
    VALIDATOR.validate(yaml.safe_load(text))
    first, _, _ = text.partition("\n")
    assert first == "# yaml-language-server: $schema=poolscope.schema.json"


def test_its_defaults_are_those_of_the_code() -> None:
    for kind, home in HOMES.items():
        place = SCHEMA
        for name in home:
            place = place["properties"][name]
        made = json.loads(msgspec.json.encode(kind()))
        assert set(place["properties"]) == set(made)
        for name, said in place["properties"].items():
            assert said["description"]
            if "default" in said:
                assert json.loads(json.dumps(said["default"])) == made[name]
            else:
                assert said["additionalProperties"] is False  # a section
    assert set(SCHEMA["properties"]["pools"]["items"]["properties"]) == set(PoolSettings.__struct_fields__)


VALUES: list[Any] = [
    None, True, False, 0, 1, -1, 0.5, 1.5, 65535, 65536, 10**9, 10**9 + 1, 10**6, 10**6 + 0.5, 0.001, 0.0009,
    "", "a", "db-*", "9464", ":9464", "127.0.0.1:9464", "[::1]:1", "host:65536", "host:99999", "nowhere:", "0.0.0.0:0",
    "a b:1", "65535", "059999", [], [1], [0], [1, 2], [1, 1], ["a"], [1e9], {}, {"a": 1}, [{}], [{"match": "a"}],
]  # fmt: skip


@pytest.mark.parametrize("kind", [*HOMES, PoolSettings])
def test_it_accepts_what_the_code_accepts_and_nothing_else(kind: type[msgspec.Struct]) -> None:
    different = []
    for key in kind.__struct_fields__:
        for value in VALUES:
            values: Any = {key: value}
            if kind is PoolSettings:
                values = {"pools": [{"match": "x"} | values]}
            for name in reversed(HOMES.get(kind, ())):
                values = {name: values}
            if VALIDATOR.is_valid(values) != is_accepted(values):
                different.append((key, value))
    # A schema cannot say that the key of a certificate needs the certificate; nor, of numbers, 1.0 from 1.
    assert different == ([("key", "a"), *(("key", it) for it in VALUES if isinstance(it, str) and it not in ("", "a"))]
                         if kind is TlsSettings else [])  # fmt: skip


KINDS: list[type[msgspec.Struct]] = [*HOMES, PoolSettings]
KEYS = sorted({key for kind in KINDS for key in kind.__struct_fields__} | {"pool"})
NESTED = st.recursive(
    st.sampled_from(VALUES),
    lambda inner: st.one_of(st.lists(inner, max_size=2), st.dictionaries(st.sampled_from(KEYS), inner, max_size=3)),
    max_leaves=5,
)


@pytest.mark.slow
@given(st.dictionaries(st.sampled_from(KEYS), NESTED, max_size=3))
@settings(deadline=None, derandomize=True, max_examples=300)
def test_what_the_code_accepts_is_valid(values: dict[str, Any]) -> None:
    if is_accepted(values):
        VALIDATOR.validate(values)
