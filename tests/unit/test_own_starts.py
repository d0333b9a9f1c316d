"""Threads and processes of no pool: what is counted together, and what a report says of them."""

from __future__ import annotations

import io

import msgspec
import pytest
import report_support

from poolscope.engine.own_starts import PLACES_KEPT, OwnStarts, texts
from poolscope.messages import Started, parse
from poolscope.model import OwnStart, ProcessReport
from poolscope.rendering.terminal import render


def started(where: str = "app/main.py:7", more: int = 1, **values: object) -> Started:
    fields: dict[str, object] = {"what": "thread", "where": where, "library": "", "more": more, "in_turn": True}
    return Started(**(fields | values))  # type: ignore[arg-type]


def told(*messages: Started, nothing_else: bool = False) -> list[str]:
    starts = OwnStarts()
    for message in messages:
        starts.add(message)
    return list(texts(starts.reports(), nothing_else=nothing_else))


def test_one_notice_for_each_place_of_all_processes_together() -> None:
    assert told(started(more=1), started(more=29), started("app/other.py:3", 4, in_turn=False)) == [
        "30 threads that the program started itself at app/main.py:7, one after the other, are not watched as a pool",
        "4 threads that the program started itself at app/other.py:3 are not watched as a pool",
    ]


def test_processes_are_told_from_threads() -> None:
    (text,) = told(started(more=2, what="process", in_turn=False))
    assert text == "2 processes that the program started itself at app/main.py:7 are not watched as a pool"


@pytest.mark.parametrize(("nothing_else", "number"), [(False, 0), (True, 1)])
def test_a_single_thread_is_told_of_only_where_there_is_nothing_else(nothing_else: bool, number: int) -> None:
    assert len(told(started(), nothing_else=nothing_else)) == number


def test_helpers_of_libraries_are_not_told_and_pools_of_theirs_are() -> None:
    helper = started("tqdm", 3, library="tqdm")
    pool = started("pebble", 8, library="pebble", in_turn=False, executor="pebble.pool.Pool")
    server = started("uvicorn", 4, what="process", library="uvicorn", in_turn=False)
    assert told(helper, pool, server, nothing_else=True) == [
        "8 threads that pebble started (pebble.pool.Pool, an executor of a kind that is not known) are not watched as "
        "a pool"
    ]


def test_places_are_bounded_and_none_is_lost() -> None:
    starts = OwnStarts()
    for line in range(3 * PLACES_KEPT):
        starts.add(started(f"app/main.py:{line}"))
    found = starts.reports()
    assert len(found) == PLACES_KEPT + 1
    assert sum(start.count for start in found) == 3 * PLACES_KEPT
    assert (found[0].where, found[0].count) == ("other lines", 2 * PLACES_KEPT)


def test_the_message_reads_as_the_probe_sends_it() -> None:
    assert parse(("started", "thread", "a.py:1", "", 3, True, "")) == started("a.py:1", 3)
    assert parse(("bye", 5)) == parse(("bye", 5, False))


def headline(**changes: object) -> str:
    session = report_support.empty()
    report = msgspec.structs.replace(session.report, **changes)
    file = io.StringIO()
    render(msgspec.structs.replace(session, report=report), file, width=100, color=False)
    return " ".join(file.getvalue().split())


def test_too_little_to_judge_says_what_was_there() -> None:
    threads = OwnStart("thread", "app/main.py:7", False, 30, True)
    assert headline(own_starts=(threads,)).startswith(
        "INSUFFICIENT DATA No pool and no event loop in 0 s, but 30 threads of no pool, one after the other. "
        "What these do is not watched."
    )
    processes = OwnStart("process", "app/main.py:9", False, 1, True)
    assert "but 30 threads and 1 process of no pool. What these do" in headline(own_starts=(threads, processes))


def test_a_program_of_one_thread_hears_that_it_could_not_do_two_things_at_once() -> None:
    alone = ProcessReport(7, 6, ("python", "app.py"), 0.0, 1.0, 0, 0.1, alone=True)
    says = "nothing here could run two things at once."
    assert says in headline(processes=(alone,))
    # Not where that is not known, nor where there was another process.
    assert says not in headline(processes=(msgspec.structs.replace(alone, alone=False),))
    assert says not in headline(processes=(alone, alone))
    assert says not in headline(processes=())


def test_beside_a_few_tasks_they_are_counted_too() -> None:
    threads = OwnStart("thread", "app/main.py:7", False, 30, True)
    pools = report_support.healthy_pools().report.pools
    text = headline(own_starts=(threads,), pools=pools, verdict="insufficient_data")
    assert "in 1 pool, at most 2 at once, and 30 threads of no pool in" in text


def test_an_executor_that_starts_nothing_is_told_by_its_line() -> None:
    inline = started("app/inline.py:4", 0, executor="app.Inline")
    assert told(inline) == [
        "app.Inline (app/inline.py:4) is an executor of a kind that is not known: what it runs is not seen"
    ]
    assert len(told(inline, started("app/inline.py:9", 4, executor="app.Inline", in_turn=False))) == 1
