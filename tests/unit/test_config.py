from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest
from config_support import DOCUMENTS, STRUCTS
from hypothesis import example, given, settings
from hypothesis import strategies as st

from poolscope import config
from poolscope.config import PoolSettings, Settings
from poolscope.errors import ConfigError
from poolscope.model import Thresholds
from poolscope.probe.startup import handover

SHIPPED = Path(__file__).parents[2] / "config" / "poolscope.yaml"


def refused(text: str) -> str:
    """The one line that `text` is refused with."""
    with pytest.raises(ConfigError) as caught:
        config.parse(text, "pools.yaml")
    message = str(caught.value)
    assert message.splitlines() == [message]
    assert message.isprintable()
    assert message.startswith("pools.yaml")
    return message


# --- the defaults


def test_shipped_file_holds_the_defaults() -> None:
    assert config.load(SHIPPED) == Settings()


def test_shipped_file_names_every_key() -> None:
    text = SHIPPED.read_text()
    missing = [
        f"{struct.__name__}.{key}"
        for struct in STRUCTS
        for key in struct.__struct_fields__
        # A rule for pools shows two of the detection keys and says that all of them are allowed.
        if struct is not PoolSettings or key not in Thresholds.__struct_fields__
        if not re.search(rf"^[ #-]*{key}:", text, re.MULTILINE)
    ]
    assert missing == []


def test_the_examples_of_the_shipped_file_are_valid() -> None:
    text = SHIPPED.read_text().replace("pools: []", "pools:").replace("mappings: []", "mappings:")
    settings = config.parse(re.sub(r"^#  ", "  ", text, flags=re.MULTILINE), "example")
    assert [mapping.anchor.metric for mapping in settings.mappings] == ["ants_running"]
    (pool,) = settings.pools
    expected = PoolSettings(
        match="db-*", kind="process", name="database", max_workers=16, sustain_seconds=5.0, min_amplification=3.0
    )
    assert pool == expected


@pytest.mark.parametrize("text", ["", "\n# only a comment\n", "---\n", "{}", "null", "\ufeff", "detection:\npools:\n"])
def test_nothing_said_means_the_defaults(text: str) -> None:
    assert config.parse(text, "pools.yaml") == Settings()


def test_a_rule_can_override_every_detection_key() -> None:
    assert set(Thresholds.__struct_fields__) <= set(PoolSettings.__struct_fields__)


def test_every_key_has_an_expectation() -> None:
    # An unlisted key would be a KeyError in the face of whoever uses it.
    for struct in STRUCTS:
        for key in struct.__struct_fields__:
            text = f"{key}: {{unlikely: 1}}"
            section = {config.TlsSettings: "endpoint: {tls: {%s}}", config.EndpointSettings: "endpoint: {%s}"}
            section |= {PoolSettings: "pools: [{%s}]", Thresholds: "detection: {%s}"}
            section |= {config.MetricsSettings: "metrics: {%s}", Settings: "%s"}
            assert key in refused(section[struct] % text)


# --- what is said is what is meant


def test_all_keys_are_read() -> None:
    text = """
listen: "0.0.0.0:9464"
endpoint: {insecure: true, tls: {certificate: a.pem, key: b.pem}, bearer_token_file: t, basic_auth_file: u}
per_process: true
sample_interval: 1
keep_tasks: 0
pools:
  - {match: "db-*", name: database, max_workers: 16, ignore: true, ordered: true, long_running: true,
     stall_seconds: 3}
  - match: 2030-01-02
detection: {sustain_seconds: 2, min_amplification: 1, stall_seconds: 3e0, stuck_task_seconds: 4.5,
            loop_blocked_seconds: .25}
metrics: {wait_buckets: [1, 2.5], run_buckets: [0.5], functions: false, max_functions: 7}
"""
    assert config.parse(text, "pools.yaml") == Settings(
        listen="0.0.0.0:9464",
        endpoint=config.EndpointSettings(
            insecure=True,
            tls=config.TlsSettings(certificate="a.pem", key="b.pem"),
            bearer_token_file="t",
            basic_auth_file="u",
        ),
        per_process=True,
        sample_interval=1.0,
        keep_tasks=0,
        pools=(
            PoolSettings(
                match="db-*",
                name="database",
                max_workers=16,
                ignore=True,
                ordered=True,
                long_running=True,
                stall_seconds=3.0,
            ),
            PoolSettings(match="2030-01-02"),
        ),
        detection=Thresholds(2.0, 1.0, 3.0, 4.5, 0.25),
        metrics=config.MetricsSettings((1.0, 2.5), (0.5,), False, 7),
    )


def test_numbers_of_the_settings_are_floats_where_a_float_is_meant() -> None:
    settings = config.parse("sample_interval: 1\nmetrics: {wait_buckets: [1, 2]}", "pools.yaml")
    assert [type(value) for value in (settings.sample_interval, *settings.metrics.wait_buckets)] == [float] * 3


def test_anchors_may_repeat_a_list() -> None:
    settings = config.parse("metrics: {wait_buckets: &b [1, 2], run_buckets: *b}", "pools.yaml")
    assert settings.metrics.run_buckets == (1.0, 2.0)


# --- what cannot be is refused, with place, expectation and find

NUMBER = "expected a whole number from 1 to 1000000000"
SECONDS = "expected a number of seconds from 0.001 to 1000000"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("detection:\n  sustain_seconds: -1\n", f"line 2: detection.sustain_seconds: {SECONDS}, found -1"),
        ("detection:\n  stall_seconds: 0\n", f"line 2: detection.stall_seconds: {SECONDS}, found 0"),
        ("sample_interval: .nan", f"line 1: sample_interval: {SECONDS}, found nan"),
        ("sample_interval: .inf", f"line 1: sample_interval: {SECONDS}, found inf"),
        ("sample_interval: true", f"line 1: sample_interval: {SECONDS}, found true"),
        ("sample_interval:", f"line 1: sample_interval: {SECONDS}, found nothing"),
        ('sample_interval: "0.1"', f"line 1: sample_interval: {SECONDS}, found '0.1'"),
        ("keep_tasks: -1", "line 1: keep_tasks: expected a whole number from 0 to 1000000000, found -1"),
        ("keep_tasks: 1.5", "line 1: keep_tasks: expected a whole number from 0 to 1000000000, found 1.5"),
        ("per_process: 1", "line 1: per_process: expected true or false, found 1"),
        ("pools: [{match: a, max_workers: 0}]", f"line 1: pools[0].max_workers: {NUMBER}, found 0"),
        (
            "pools:\n- match: a\n- match: b\n  max_workers: many",
            f"line 4: pools[1].max_workers: {NUMBER}, found 'many'",
        ),
        ("pools: [{match: a, max_workers: true}]", f"line 1: pools[0].max_workers: {NUMBER}, found true"),
        (
            "pools:\n- name: x",
            "line 2: pools[0]: expected the key match (a shell pattern of pool names), found keys with values",
        ),
        ("pools: [a]", "line 1: pools[0]: expected a rule (match: PATTERN, and what differs), found 'a'"),
        ("pools: {match: a}", "line 1: pools: expected a list of rules, found keys with values"),
        ("pools: [{match: a, name: ''}]", "line 1: pools[0].name: expected a name, or null, found ''"),
        (
            "detection: {min_amplification: 0.9}",
            "line 1: detection.min_amplification: expected a number from 1 to 1000000, found 0.9",
        ),
        (
            "metrics:\n  run_buckets: []",
            "line 2: metrics.run_buckets: expected a list of 1 to 200 numbers, found an empty list",
        ),
        (
            "metrics:\n  run_buckets: [1,\n    1]",
            "line 3: metrics.run_buckets[1]: expected a number of seconds above 1 (the one before) and up to "
            "1000000, found 1",
        ),
        (
            "metrics: {wait_buckets: [true]}",
            "line 1: metrics.wait_buckets[0]: expected a number of seconds above 0 and up to 1000000, found true",
        ),
        (
            "metrics: {wait_buckets: [1, .inf]}",
            "line 1: metrics.wait_buckets[1]: expected a number of seconds above 1 (the one before) and up "
            "to 1000000, found inf",
        ),
        ("metrics: {wait_buckets: 1}", "line 1: metrics.wait_buckets: expected a list of numbers, found 1"),
        ("metrics: {max_functions: 0}", f"line 1: metrics.max_functions: {NUMBER}, found 0"),
        ("- a", "line 1: expected keys with values (key: value), found a list of 1"),
        ("just words", "line 1: expected keys with values (key: value), found 'just words'"),
        ("detection: [1]", "line 1: detection: expected keys with values (key: value), found a list of 1"),
        (
            "endpoint: {tls: {certificate: 3}}",
            "line 1: endpoint.tls.certificate: expected the path of a file, or null",
        ),
        # keys
        (
            "detection:\n  sustain_second: 1",
            "line 2: detection.sustain_second: unknown key 'sustain_second'; did you mean \"sustain_seconds\"?",
        ),
        ("\npool: []", "line 2: pool: unknown key 'pool'; did you mean \"pools\"?"),
        ("stall_seconds: 1", "unknown key 'stall_seconds'; did you mean \"detection.stall_seconds\"?"),
        ("zzz: 1", "unknown key 'zzz'; known here: listen, endpoint, per_process, "),
        ("listen: '1'\nlisten: '2'", "line 2: listen: expected each key once, found it a second time"),
        ("? [a]\n: b", "line 1: expected a word as key, found a list or a mapping"),
        ("<<: {listen: null}", 'line 1: expected plain keys, found the merge key "<<"'),
        ("on: 1", "line 1: on: unknown key 'on'"),
        # YAML itself
        ("listen: [", "line 1: expected YAML, found a mistake in it: expected the node content"),
        ("a: b: c", "line 1: expected YAML, found a mistake in it: mapping values are not allowed here"),
        (
            "listen: 1\n---\nlisten: 2",
            "line 2: expected YAML, found a mistake in it: but found another document",
        ),
        ("listen: \x01", "expected YAML, found a mistake in it: unacceptable character #x0001"),
        ('listen: "\\UFFFFFFFF"', "expected YAML, found a mistake in it: "),
        ("%YAML 1" + "1" * 5000 + ".1\n---\n", "expected YAML, found a mistake in it: "),
        (
            "listen: !!python/object/apply:os.system [ls]",
            "line 1: listen: expected a plain value, found the tag 'tag:yaml.org,2002:python/object/apply:",
        ),
        ("listen: !mine x", "line 1: listen: expected a plain value, found the tag '!mine'"),
        ("listen: !!binary aGk=", "line 1: listen: expected a plain value, found the tag"),
        ("keep_tasks: !!int many", "line 1: keep_tasks: expected a value, found 'many'"),
        ("per_process: !!bool many", "line 1: per_process: expected a value, found 'many'"),
        ("keep_tasks: 0b_", "line 1: keep_tasks: expected a value, found '0b_'"),
        ("keep_tasks: " + "9" * 5000, "line 1: keep_tasks: expected a value, found '999"),
        ("keep_tasks: 0x" + "f" * 5000, "found a huge number"),
        # bombs
        ("pools: &a [*a]", "expected at most 12 levels of nesting, found more"),
        ("[" * 1000 + "]" * 1000, "expected at most 12 levels of nesting, found more"),
        ("#" * 70_000, "expected at most 65536 characters of settings, found more"),
    ],
)
def test_what_cannot_be_is_refused(text: str, message: str) -> None:
    assert message in refused(text)


def test_an_alias_bomb_is_refused_before_it_goes_off() -> None:
    levels = "\n".join(f"x{level}: &x{level} [{', '.join([f'*x{level - 1}'] * 10)}]" for level in range(1, 10))
    assert "expected at most 20000 values, found more" in refused(f"x0: &x0 [1, 1]\n{levels}")


def test_long_values_are_cut() -> None:
    assert len(refused("sample_interval: " + "x" * 10_000)) < 200
    assert len(refused("x" * 1000 + ": 1")) < 600


def test_a_name_of_several_lines_stays_on_one() -> None:
    with pytest.raises(ConfigError) as caught:
        config.parse("listen: 'a\u2028b'", "dir\n\udcff\u2028/pools.yaml")
    assert len(str(caught.value).splitlines()) == 1
    str(caught.value).encode()


# --- files


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    path = tmp_path / "pools.yaml"
    with pytest.raises(ConfigError, match=re.escape(f"{path}: this settings file cannot be read: No such file")):
        config.load(path)


def test_a_directory(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot be read: Is a directory$"):
        config.load(tmp_path)


def test_a_file_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # As root every file can be read, so the refusal is the one a closed file gives.
    def closed(*args: object) -> None:
        raise PermissionError(13, os.strerror(13))

    monkeypatch.setattr("builtins.open", closed)
    with pytest.raises(ConfigError, match=r"cannot be read: Permission denied$"):
        config.load(tmp_path / "pools.yaml")


def test_a_name_that_is_none() -> None:
    with pytest.raises(ConfigError, match="cannot be read: embedded null"):
        config.load("a\0b")


def test_text_that_is_no_utf8(tmp_path: Path) -> None:
    path = tmp_path / "pools.yaml"
    path.write_bytes(b"# one\nlisten: \xff\n")
    with pytest.raises(ConfigError, match=r"pools\.yaml, line 2: expected text in UTF-8, found byte 0xff$"):
        config.load(path)


def test_a_byte_order_mark_and_windows_lines(tmp_path: Path) -> None:
    path = tmp_path / "pools.yaml"
    path.write_bytes(b"\xef\xbb\xbfkeep_tasks: 5\r\nper_process: true\r\n")
    assert config.load(path) == Settings(keep_tasks=5, per_process=True)


def test_a_file_that_is_too_large(tmp_path: Path) -> None:
    path = tmp_path / "pools.yaml"
    path.write_bytes(b"#" * 10_000_000)
    with pytest.raises(ConfigError, match="expected at most 65536 characters of settings, found more"):
        config.load(path)


def test_an_empty_file(tmp_path: Path) -> None:
    path = tmp_path / "pools.yaml"
    path.touch()
    assert config.load(str(path)) == Settings()


# --- listen


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:9464", ("127.0.0.1", 9464)),
        ("localhost:0", ("localhost", 0)),
        (":9464", ("127.0.0.1", 9464)),
        ("9464", ("127.0.0.1", 9464)),
        ("[::1]:9464", ("::1", 9464)),
        ("[fe80::1%eth0]:65535", ("fe80::1%eth0", 65535)),
    ],
)
def test_listen_addresses(text: str, address: tuple[str, int]) -> None:
    assert config.listen_address(text) == address
    assert config.parse(f'listen: "{text}"', "pools.yaml").listen == text
    assert Settings().with_listen(text).listen == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":",
        "host",
        "host:",
        "host:65536",
        "host:-1",
        "::1:80",
        "a b:80",
        "http://h:80",
        "h:80/x",
        "٣",
        "1\n",
    ],
)
def test_what_is_no_address(text: str) -> None:
    assert config.listen_address(text) is None
    with pytest.raises(ConfigError, match=r"^POOLSCOPE_LISTEN: listen: expected HOST:PORT or PORT, such as "):
        Settings().with_listen(text, "POOLSCOPE_LISTEN")
    refused(f"listen: {json.dumps(text)}")


def test_a_port_alone_may_be_a_number() -> None:
    assert config.parse("listen: 9464", "pools.yaml").listen == "9464"
    assert "found 70000" in refused("listen: 70000")
    assert "found true" in refused("listen: true")
    assert config.parse("listen: 1:30", "pools.yaml").listen == "1:30"  # 90 in the eyes of YAML


# --- rules for pools

RULES = config.parse(
    """
pools:
  - {match: "db-*", name: database, max_workers: 16, sustain_seconds: 5, ordered: true}
  - {match: "DB-*", ignore: true}
  - {match: "*", stall_seconds: 60}
detection: {min_amplification: 3}
""",
    "pools.yaml",
)


def test_the_first_rule_that_matches_wins() -> None:
    assert RULES.rule_for("db-1") is RULES.pools[0]
    assert RULES.rule_for("DB-1") is RULES.pools[1]
    assert RULES.rule_for("mail") is RULES.pools[2]
    assert Settings().rule_for("mail") is None


def test_a_renamed_pool_finds_its_rule_again() -> None:
    assert RULES.rule_for("database") is RULES.pools[0]
    assert RULES.detection_for("database") == RULES.detection_for("db-7")


def test_detection_is_overridden_key_by_key() -> None:
    assert RULES.detection_for("db-1") == Thresholds(sustain_seconds=5.0, min_amplification=3.0)
    assert RULES.detection_for("mail") == Thresholds(stall_seconds=60.0, min_amplification=3.0)
    assert Settings().detection_for("mail") == Thresholds()


def test_what_the_probe_is_told() -> None:
    told = RULES.for_probe()
    assert told["sample_interval"] == 0.1
    assert told["loop_blocked_seconds"] == 0.1
    assert told["pools"][0] == {"match": "db-*", "name": "database", "max_workers": 16, "ignore": False, "kind": None}
    assert set(told) == {"connections", "limits", "sample_interval", "loop_blocked_seconds", "pools"}
    assert len(told["pools"]) == 3


def test_another_size_for_a_pool_without_a_rule() -> None:
    changed = Settings().with_max_workers("mail", 8)
    assert changed.pools == (PoolSettings(match="mail", max_workers=8),)


def test_another_size_keeps_what_else_the_rule_says() -> None:
    changed = RULES.with_max_workers("db-1", 8)
    assert changed.pools == (
        msgspec.structs.replace(RULES.pools[0], match="db-1", max_workers=8),
        *RULES.pools,
    )
    assert changed.detection_for("db-1") == RULES.detection_for("db-1")
    assert changed.detection_for("database") == RULES.detection_for("database")


def test_another_size_for_a_renamed_pool_reaches_the_pools_of_that_name() -> None:
    changed = RULES.with_max_workers("database", 8)
    for name in ("database", "db-1"):
        rule = changed.rule_for(name)
        assert rule is not None
        assert (rule.max_workers, rule.name, rule.sustain_seconds) == (8, "database", 5.0)


def test_another_size_of_one_kind_leaves_the_others() -> None:
    changed = RULES.with_max_workers("database:process", 8)
    for name in ("database", "db-1"):
        sizes = [(rule := changed.rule_for(name, kind)) and rule.max_workers for kind in ("process", "thread", None)]
        assert sizes == [8, 16, 16]
    assert changed.detection_for("db-1", "process") == RULES.detection_for("db-1")
    fresh = Settings().with_max_workers("mail:process", 8)
    assert fresh.rule_for("mail") is fresh.rule_for("mail", "thread") is None
    assert fresh.rule_for("mail", "process") == PoolSettings(match="mail", kind="process", max_workers=8)


def test_a_pool_whose_name_ends_like_a_kind_is_found() -> None:
    changed = Settings().with_max_workers("app:process", 8)
    rule = changed.rule_for("app:process", "thread")
    assert rule is not None
    assert rule.max_workers == 8


@pytest.mark.parametrize("name", ["a[b]*?", "module:<lambda>", "[!x]", "*", "ü\n"])
def test_another_size_is_for_exactly_that_name(name: str) -> None:
    changed = Settings().with_max_workers(name, 8)
    rule = changed.rule_for(name)
    assert rule is not None
    assert rule.max_workers == 8
    assert changed.rule_for(f"{name}x") is None
    assert changed.rule_for("ab") is None


@pytest.mark.parametrize("workers", [0, -1, True, 2.0, "4", None])
def test_an_impossible_size(workers: Any) -> None:
    with pytest.raises(ConfigError, match=r"^--set: mail\.max_workers: expected a whole number from 1 "):
        Settings().with_max_workers("mail", workers, "--set")


# --- other ways in


def test_python_values_are_judged_like_a_file() -> None:
    made = config.from_mapping({"detection": {"stall_seconds": 3}, "pools": [{"match": "a"}]})
    assert made == Settings(detection=Thresholds(stall_seconds=3.0), pools=(PoolSettings(match="a"),))
    with pytest.raises(ConfigError, match=r"^profile\(\): unknown key 'x'; known here: listen, |profile\(\): x: "):
        config.from_mapping({"x": 1}, "profile()")
    with pytest.raises(ConfigError, match=r"found a object$"):
        config.from_mapping({"keep_tasks": object()})
    with pytest.raises(ConfigError, match="unknown key"):
        config.from_mapping({3: 1})  # type: ignore[dict-item]  # the error is the point


def test_the_environment(tmp_path: Path) -> None:
    path = tmp_path / "pools.yaml"
    path.write_text("listen: 1\nkeep_tasks: 5\n")
    read = config.environment_settings
    assert read({}) == read({"POOLSCOPE_CONFIG": "", "POOLSCOPE_LISTEN": ""}) == Settings()
    assert read({"POOLSCOPE_CONFIG": str(path)}) == Settings(listen="1", keep_tasks=5)
    both = {"POOLSCOPE_CONFIG": str(path), "POOLSCOPE_LISTEN": ":2"}
    assert read(both) == Settings(listen=":2", keep_tasks=5)
    with pytest.raises(ConfigError, match="POOLSCOPE_LISTEN"):
        read({"POOLSCOPE_LISTEN": "nowhere"})


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        Settings().listen = "1"  # type: ignore[misc]  # the error is the point


# --- no text does harm


@pytest.mark.slow
@given(st.one_of(st.text(), st.text("[]{}:,-?*&!|>%@`'\"# \n\tab01.", max_size=60), DOCUMENTS))
@example('"\\U00110000"')
@example("%TAG ! %ff\n---\n! x")
@example("pools: [&a {match: a}, *a]")
@settings(deadline=None, derandomize=True, max_examples=500)
def test_no_text_causes_anything_but_a_config_error(text: str) -> None:
    try:
        found = config.parse(text, "pools.yaml")
    except ConfigError as error:
        message = str(error)
        assert len(message.splitlines()) == 1
        assert message.isprintable()
        assert message.startswith("pools.yaml")
    else:
        # What is accepted is complete: it can be told to the probe, and read again.
        assert handover.unpack(handover.pack("/s", found.for_probe(), None))[1] == found.for_probe()
        assert config.from_mapping(msgspec.to_builtins(found)) == found
