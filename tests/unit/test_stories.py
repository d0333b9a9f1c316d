"""One story is one warning while the program runs."""

from __future__ import annotations

from typing import Any

import report_support

from poolscope.engine.stories import Stories, Whose
from poolscope.model import Advice, Finding, Frame

CRAWLER = Whose("pool", "crawler", 7, False)


def found(**changed: Any) -> Finding:
    return report_support.finding(**{"summary": "It is full.", "until_seconds": None, **changed})


def pointing(pool: str, **changed: Any) -> Finding:
    return found(advice=Advice("see_pool", "See the other pool.", pool=pool), **changed)


def test_a_finding_is_told_once_when_it_begins_and_once_when_it_ends() -> None:
    stories = Stories()
    line = "warning: pool 'crawler': async_then_serial (blocking_io): It is full."
    assert stories.began(CRAWLER, found()) == line
    assert stories.began(CRAWLER, found(summary="It is fuller.")) is None
    ended = found(since_seconds=4.0, until_seconds=204.0)
    over = "over: pool 'crawler': async_then_serial (blocking_io), from 4.0 s to 3 min 24 s"
    assert stories.ended(CRAWLER, ended) == over


def test_a_cause_that_is_found_later_is_no_second_warning() -> None:
    stories = Stories()
    stories.began(CRAWLER, found(cause="unknown"))
    line = "update: pool 'crawler': async_then_serial (shared_resource): A lock."
    assert stories.began(CRAWLER, found(cause="shared_resource", summary="A lock.")) == line
    assert stories.began(CRAWLER, found(cause="unknown")) is None
    assert stories.began(CRAWLER, found(cause="shared_resource")) is None


def test_what_becomes_worse_is_told_again() -> None:
    stories = Stories()
    stories.began(CRAWLER, found())
    worse = stories.began(CRAWLER, found(pattern="stalled", cause="stuck_tasks", severity="critical"))
    assert worse == "critical: pool 'crawler': stalled (stuck_tasks): It is full."


def test_pools_of_one_name_are_one_story() -> None:
    stories = Stories()
    assert stories.began(CRAWLER, found()) is not None
    assert stories.began(CRAWLER, found(since_seconds=4.5)) is None
    assert stories.ended(CRAWLER, found()) is None, "the other one goes on"
    assert stories.ended(CRAWLER, found(since_seconds=4.5)) is not None
    assert stories.began(CRAWLER, found(since_seconds=90.0)) is not None, "another story"


def test_processes_with_the_same_trouble_take_a_few_words_each() -> None:
    stories = Stories()
    first, second = (Whose("pool", "crawler", pid, True) for pid in (7, 8))
    assert stories.began(first, found()) is not None
    assert stories.began(second, found()) == "also: pool 'crawler' of process 8: async_then_serial (blocking_io)"
    assert stories.began(second, found(since_seconds=5.0)) is None


def test_a_deadlock_is_one_story_in_each_of_its_pools() -> None:
    stories = Stories()
    lines = []
    for name, next_pool in (("a", "b"), ("b", "c"), ("c", "a")):
        deadlock = pointing(next_pool, pattern="deadlock", cause="nested_wait", severity="critical")
        lines.append(stories.began(Whose("pool", name, 7, False), deadlock))
    assert [line is not None for line in lines] == [True, False, False]


def test_a_pool_that_waits_for_a_full_one_is_the_same_story() -> None:
    waits = pointing("database", cause="downstream_pool")
    web, database = Whose("pool", "web", 7, False), Whose("pool", "database", 7, False)
    stories = Stories()
    assert stories.began(database, found()) is not None
    assert stories.began(web, waits) is None
    stories = Stories()
    assert stories.began(web, waits) is not None
    line = stories.began(database, found())
    assert line is not None
    assert line.startswith("update: pool 'database': "), "what is behind it comes later"


def test_a_pool_of_another_process_is_another_story() -> None:
    stories = Stories()
    stories.began(Whose("pool", "database", 7, False), found())
    waits = pointing("database", cause="downstream_pool")
    assert stories.began(Whose("pool", "web", 8, False), waits) is not None


def test_each_line_of_a_loop_is_a_story() -> None:
    stories = Stories()
    loop = Whose("loop", "main", 7, False)
    blocks = [
        found(pattern="loop_blocked", cause="blocking_call", frames=(Frame("app.py", line, "f"),)) for line in (3, 9)
    ]
    assert all(stories.began(loop, block) is not None for block in blocks)
    assert stories.ended(loop, blocks[0]) is not None


def test_findings_that_never_end_are_not_kept_for_ever() -> None:
    stories = Stories()
    for number in range(3_000):
        assert stories.began(Whose("pool", f"pool-{number}", 7, False), found()) is not None
    assert len(stories._lasting) == 1_000
    assert stories.ended(Whose("pool", "pool-0", 7, False), found()) is not None
