"""The arguments of `poolscope fleet` and `observe`, and what is said while it takes long."""

from __future__ import annotations

import pytest

from poolscope import commands
from poolscope.commands.console import UsageError
from poolscope.commands.fleet import matchers, moments, progress
from poolscope.errors import PoolscopeError

NOW = 1_785_592_800.0


def test_the_time_that_is_looked_at() -> None:
    assert moments(None, None, None, NOW) == (NOW - 3600, NOW)
    assert moments("30m", None, None, NOW) == (NOW - 1800, NOW)
    assert moments("1.5d", None, None, NOW) == (NOW - 129_600, NOW)
    assert moments(None, "2026-08-01T12:00:00Z", "2026-08-01T13:00:00+00:00", NOW) == (NOW - 7200, NOW - 3600)
    assert moments(None, str(int(NOW) - 60), None, NOW) == (NOW - 60, NOW)
    # What is to come is not there yet.
    assert moments("1h", None, "2026-08-02T00:00:00Z", NOW) == (NOW - 3600, NOW)


@pytest.mark.parametrize(
    ("last", "begin", "end", "told"),
    [
        ("1 hour", None, None, "--last 1 hour: expected a time such as 30m, 6h or 2d"),
        ("0s", None, None, "--last 0s: expected"),
        ("1h", "2026-08-01", None, "both say where it begins"),
        (None, "yesterday", None, "--from yesterday: expected a time such as 2026-12-01T14:00"),
        (None, "2026-08-02", "2026-08-01", "--from is not before --to"),
        (None, "2027-01-01", None, "or lies in the future"),
        (None, None, "99999999999999", "--to 99999999999999: expected"),
    ],
)
def test_a_time_that_is_none(last: str | None, begin: str | None, end: str | None, told: str) -> None:
    with pytest.raises(UsageError) as raised:
        moments(last, begin, end, NOW)
    assert told in str(raised.value)


def test_labels() -> None:
    assert matchers(None) is None
    assert matchers('{job="orders"}') == 'job="orders"'
    assert matchers(' { job=~"a|b", pod!="c", } ') == 'job=~"a|b", pod!="c"'
    assert matchers('job="orders"') == 'job="orders"'
    for wrong in ("", "{}", "up", 'up{job="a"}', "1"):
        with pytest.raises(UsageError, match="expected labels, such as"):
            matchers(wrong)


def test_progress_goes_to_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    times = iter([0.0, 1.0, 4.0, 4.0])
    tell = progress(False, lambda: next(times))
    tell("early")
    tell("3 of 5 instances read")
    assert capsys.readouterr() == ("", "poolscope: 3 of 5 instances read\n")
    progress(True, iter([0.0, 9.0]).__next__)("nothing, as --quiet wants it")
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["fleet"], "the following arguments are required: URL"),
        (["fleet", "http://h", "--concurrency", "0"], "--concurrency 0: expected at least 1"),
        (["fleet", "http://h", "--timeout", "nan"], "--timeout nan: expected at least"),
        (["fleet", "ftp://h"], "is no address of an engine"),
        (["fleet", "http://h", "--trace", "a.json"], "unrecognized arguments: --trace"),
        (["observe", "9000", "--interval", "1"], "--interval 1: expected at least 5 s"),
        (["observe", "9000", "--seconds", "-1"], "expected a time"),
        (["observe", "9000", "--config", "/nowhere.yaml"], "/nowhere.yaml: this settings file cannot be read"),
    ],
)
def test_bad_arguments_are_one_line(words: list[str], told: str) -> None:
    with pytest.raises(PoolscopeError) as raised:
        commands.command(words)
    assert told in str(raised.value)
    assert "\n" not in str(raised.value)
