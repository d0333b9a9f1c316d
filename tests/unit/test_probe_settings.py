import pytest

from poolscope.config import PoolSettings, Settings
from poolscope.probe.settings import PoolRule, ProbeSettings
from poolscope.probe.startup.handover import pack, unpack


def content(settings):
    rules = [(rule.match, rule.name, rule.max_workers, rule.ignore) for rule in settings.pools]
    return settings.sample_interval, settings.loop_blocked_seconds, rules


def test_defaults_are_those_of_the_settings_page():
    assert content(ProbeSettings()) == (0.1, 0.1, [])
    assert content(ProbeSettings.from_values({})) == (0.1, 0.1, [])


def test_the_first_rule_that_matches_counts():
    first, second = PoolRule("db-*", name="database"), PoolRule("*", max_workers=3)
    settings = ProbeSettings(pools=[first, second])
    assert settings.rule_for("db-read") is first
    assert settings.rule_for("DB-read") is second
    assert ProbeSettings(pools=[first]).rule_for("web") is None
    assert ProbeSettings().rule_for("db-read") is None


def test_a_rule_may_be_for_one_kind_of_pool():
    settings = ProbeSettings.from_values(Settings().with_max_workers("db:process", 3).for_probe())
    rule = settings.rule_for("db", "process")
    assert rule is not None
    assert rule.max_workers == 3
    assert settings.rule_for("db", "thread") is None


def test_the_environment_keeps_everything():
    users = Settings(sample_interval=0.5, pools=(PoolSettings(match="ä:[*]", name="n", max_workers=16, ignore=True),))
    socket, values, served = unpack(pack("/tmp/a: b/s", users.for_probe(), ("::1", 9464, "http://[::1]:9464")))
    assert (socket, served) == ("/tmp/a: b/s", ("::1", 9464, "http://[::1]:9464"))
    assert content(ProbeSettings.from_values(values)) == (0.5, 0.1, [("ä:[*]", "n", 16, True)])


@pytest.mark.parametrize("text", ["", "/tmp/s", "zz:/tmp/s", ":/tmp/s", '{"socket":"/tmp/s"}'])
def test_a_variable_of_another_make_is_refused(text):
    with pytest.raises((ValueError, EOFError, TypeError)):
        unpack(text)


def test_reads_what_the_users_settings_hand_over():
    users = Settings(sample_interval=0.2, pools=(PoolSettings(match="db-*", max_workers=16),))
    assert content(ProbeSettings.from_values(users.for_probe())) == (0.2, 0.1, [("db-*", None, 16, False)])


def test_a_field_of_a_later_version_is_left_alone():
    assert content(ProbeSettings.from_values({"later": {"a": 1}, "sample_interval": 1})) == (1.0, 0.1, [])


@pytest.mark.parametrize(
    "values", [None, [], {"sample_interval": "often"}, {"pools": [{}]}, {"pools": 3}, {"pools": ["db"]}]
)
def test_anything_else_is_refused(values):
    with pytest.raises(ValueError):  # noqa: PT011 - the message is for us, the user's settings were checked before
        ProbeSettings.from_values(values)
