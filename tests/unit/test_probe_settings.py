import pytest

from poolscope.config import PoolSettings, Settings
from poolscope.probe.settings import PoolRule, ProbeSettings


def content(settings):
    rules = [(rule.match, rule.name, rule.max_workers, rule.ignore) for rule in settings.pools]
    return settings.sample_interval, settings.loop_blocked_seconds, rules


def test_defaults_are_those_of_the_settings_page():
    assert content(ProbeSettings()) == (0.1, 0.1, [])
    assert content(ProbeSettings.from_json("{}")) == (0.1, 0.1, [])


def test_the_first_rule_that_matches_counts():
    first, second = PoolRule("db-*", name="database"), PoolRule("*", max_workers=3)
    settings = ProbeSettings(pools=[first, second])
    assert settings.rule_for("db-read") is first
    assert settings.rule_for("DB-read") is second
    assert ProbeSettings(pools=[first]).rule_for("web") is None
    assert ProbeSettings().rule_for("db-read") is None


def test_json_keeps_everything():
    settings = ProbeSettings(0.5, 0.25, [PoolRule("a[*]", "name", 16, True), PoolRule("*")])
    assert content(ProbeSettings.from_json(settings.to_json())) == content(settings)


def test_reads_what_the_users_settings_hand_over():
    users = Settings(sample_interval=0.2, pools=(PoolSettings(match="db-*", max_workers=16),))
    assert content(ProbeSettings.from_json(users.probe_json())) == (0.2, 0.1, [("db-*", None, 16, False)])


def test_a_field_of_a_later_version_is_left_alone():
    assert content(ProbeSettings.from_json('{"later": {"a": 1}, "sample_interval": 1}')) == (1.0, 0.1, [])


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{", '{"sample_interval": "often"}', '{"pools": [{}]}', '{"pools": 3}', '{"pools": ["db"]}'],
)
def test_anything_else_is_refused(text):
    with pytest.raises(ValueError):  # noqa: PT011 - the message is for us, the user's settings were checked before
        ProbeSettings.from_json(text)
