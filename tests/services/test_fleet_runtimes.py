"""Real services of Node.js, Go and PHP, scraped by us and by a real Prometheus: into saturation and back, and twins."""

from __future__ import annotations

import pytest
from story_support import INTERVAL, Told, play

from poolscope.fleet.verdicts import Verdict

#: A scrape may take this long on a busy machine (s).
LATE = 2 * INTERVAL


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Told:
    return play(tmp_path_factory.mktemp("prometheus"))


def sick(told: Told, by: str, story: str) -> dict[str, Verdict]:
    """What is worse than a note in this story, by pool."""
    return {
        pool: verdict
        for (of, pool), verdict in told.verdicts[by].items()
        if of == story and verdict.state == "finding" and verdict.severity != "info"
    }


def check_knee(told: Told, story: str, verdict: Verdict) -> None:
    """Whether the interval that is given holds the moment when too much began to come."""
    knee, truth = verdict.knee, told.overload[story]
    assert knee is not None
    assert knee.after is not None
    assert knee.after - LATE <= truth <= knee.by + LATE
    assert knee.by - knee.after <= 6 * INTERVAL


both = pytest.mark.parametrize("by", ["observe", "fleet"])


@both
def test_a_loop_that_a_call_blocks(told: Told, by: str) -> None:
    found = sick(told, by, "blocked")
    assert list(found) == ["event loop"]
    assert (found["event loop"].pattern, found["event loop"].cause) == ("loop_blocked", "blocking_call")
    check_knee(told, "blocked", found["event loop"])
    assert not found["event loop"].lasting


@both
def test_more_hold_connections_than_the_pool_of_a_database_has(told: Told, by: str) -> None:
    found = sick(told, by, "database")
    assert "web" in found
    assert found.keys() <= {"web", "main"}
    assert (found["web"].pattern, found["web"].cause) == ("async_then_serial", "shared_resource")
    assert found["web"].advice.pool == "main"
    # So short a time is close to what chance brings to a pool that counts only what has waited: then it is a note.
    main = told.verdicts[by]["database", "main"]
    assert main.cause == "limit_reached"
    assert main.pattern in ("async_then_serial", "burst")
    for verdict in (found["web"], main):
        check_knee(told, "database", verdict)


@both
def test_a_pool_of_goroutines_at_its_limit(told: Told, by: str) -> None:
    found = sick(told, by, "waiting")
    assert list(found) == ["crawler"]
    assert found["crawler"].pattern == "async_then_serial"
    # On a busy machine the process may use more CPU than workers that wait do.
    assert found["crawler"].cause in ("blocking_io", "unknown")
    check_knee(told, "waiting", found["crawler"])
    assert not found["crawler"].lasting


@both
def test_goroutines_that_share_one_cpu(told: Told, by: str) -> None:
    render = told.verdicts[by]["computing", "render"]
    assert render.pattern == "async_then_serial"
    # A busy machine gives it less than that one.
    assert render.cause in ("cpu_bound", "unknown")
    check_knee(told, "computing", render)


@both
def test_more_requests_than_workers_of_php(told: Told, by: str) -> None:
    found = sick(told, by, "requests")
    assert [verdict.pattern for verdict in found.values()] == ["async_then_serial"]
    [verdict] = found.values()
    # PHP-FPM does not show what its processes use.
    assert verdict.cause == "unknown"
    assert "request_slowlog_timeout" in verdict.advice.text
    check_knee(told, "requests", verdict)
    assert not verdict.lasting


@both
def test_no_alarm_on_what_is_well(told: Told, by: str) -> None:
    # Three that overlap, and pools beside those that turn serial.
    assert not sick(told, by, "overlap")
    verdicts = told.verdicts[by]
    assert verdicts["overlap", "event loop"].state == "healthy"
    assert {verdicts[story, "twin"].severity for story in ("database", "waiting")} == {"info"}


@both
def test_nothing_is_said_of_a_pool_that_has_no_metrics(told: Told, by: str) -> None:
    # The four threads of libuv, all of which wait for a pipe: the loop goes on, and that is all there is to see.
    assert {pool: verdict.state for (of, pool), verdict in told.verdicts[by].items() if of == "threads"} == {
        "event loop": "healthy"
    }
