"""What live views show: series of snapshots, the board, its lines, the feed. In a browser: cli/test_live_page.py."""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import UTC

import live_support
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from live_support import BEGAN, BOUNDS, a_finding, full, history, medium, shown, snapshot
from metrics_support import loop, pool
from msgspec.structs import replace

from poolscope.live.board import MOST_POOLS, Board, board, status
from poolscope.live.feed import Feed, pages
from poolscope.live.history import ALL_POINTS, FEWEST_POINTS, MOST_POINTS, History, percentile
from poolscope.live.lines import layout
from poolscope.metrics.merge import merged
from poolscope.rendering.text import cells, line_cells, plain

HISTORIES = [live_support.hard_limit, live_support.batch, live_support.hostile, History]
WIDTHS = [1, 2, 10, 12, 20, 29, 30, 40, 60, 80, 200]


def text_of(seen: History, width: int, **how: object) -> str:
    lines = layout(shown(seen), medium(width), zone=UTC, **how)  # type: ignore[arg-type]
    return "\n".join(map(plain, lines))


class TestHistory:
    def test_means_are_of_all_that_was_between_two_looks(self) -> None:
        """The gauges at the looks say 0 and 4."""
        busy = full(2, active=0, queue_depth=0, busy_seconds=4.0, queued_seconds=3.0, oldest_queued_seconds=0.0)
        seen = history(snapshot(full(0, active=0, queue_depth=0)), snapshot(busy), snapshot(busy))
        first, second, third = seen.pools["fetch", "thread"].points
        assert (first.active, first.queued) == (0, 0)
        assert (second.active, second.queued) == (4, 3)
        assert (third.active, third.queued) == (0, 0)

    def test_rates_and_percentiles_are_of_lately(self) -> None:
        """Waits were short for a minute, and long for the ten seconds after it."""
        seen = History()
        for second in range(71):
            short, long = 20 * min(second, 60), 20 * max(0, second - 60)
            row = full(second, wait_buckets=(short, 0, long, 0), succeeded=short + long // 2)
            seen.look(snapshot(row), BEGAN + second)
        series = seen.pools["fetch", "thread"]
        assert series.wait_p95(BOUNDS) == pytest.approx(1 + 9 * 0.95)
        assert series.per_second == 10

    def test_what_is_not_known_is_not_told(self) -> None:
        series = history(snapshot(full(0))).pools["fetch", "thread"]
        assert series.per_second is None
        assert series.wait_p95(BOUNDS) is None
        assert series.wait_p95((1.0,)) is None
        assert series.batch is None

    def test_rows_of_one_name_and_kind_are_one(self) -> None:
        rows = full(3, pid=1), full(3, pid=2), full(3, pid=3, kind="process")
        seen = history(snapshot(*rows))
        assert list(seen.pools) == [("fetch", "thread"), ("fetch", "process")]
        assert seen.pools["fetch", "thread"].row.queue_depth == 60

    def test_what_is_gone_is_forgotten(self) -> None:
        seen = history(snapshot(full(1)), snapshot())
        assert seen.pools == {}
        assert list(seen.loops) == [("MainThread", "asyncio")]

    def test_loops_share_their_blocked_time(self) -> None:
        def rows(second: int) -> tuple[object, ...]:
            return tuple(loop("w", pid=pid, blocked_seconds=0.5 * second, lag_buckets=(0,) * 4) for pid in (1, 2))

        seen = history(*(snapshot(loops=rows(second)) for second in range(3)))
        assert [share for _, share in seen.loops["w", "asyncio"].points] == [0, 0.5, 0.5]

    def test_points_are_bounded(self) -> None:
        seen = History()
        for second in range(MOST_POINTS + 50):
            seen.look(snapshot(full(second)), BEGAN + second)
        assert len(seen.pools["fetch", "thread"].points) == MOST_POINTS
        many = [full(1, f"pool {number}") for number in range(2 * ALL_POINTS // FEWEST_POINTS)]
        for second in range(FEWEST_POINTS + 5):
            seen.look(snapshot(*many), BEGAN + 10_000 + second)
        assert {len(series.points) for series in seen.pools.values()} == {FEWEST_POINTS}

    def test_a_batch_has_its_progress(self) -> None:
        series = live_support.batch(5).pools["crawl", "thread"]
        assert series.batch == (250, 1000, 50, 15)

    def test_tasks_that_keep_coming_are_no_batch(self) -> None:
        assert live_support.hard_limit().pools["fetch", "thread"].batch is None

    def test_a_batch_begins_when_the_queue_does(self) -> None:
        before = [snapshot(full(0, queue_depth=0, active=0, submitted=500, succeeded=500, queued_seconds=0.0))] * 3
        after = [
            snapshot(full(0, submitted=600, succeeded=500 + 10 * second, queue_depth=96 - 10 * second))
            for second in range(6)
        ]
        batch = history(*before, *after).pools["fetch", "thread"].batch
        assert batch is not None
        assert (batch.done, batch.total) == (50, 100)

    @given(st.lists(st.integers(0, 1000), min_size=4, max_size=4), st.floats(0.01, 1))
    def test_a_percentile_lies_within_its_bucket(self, counts: list[int], share: float) -> None:
        value = percentile(BOUNDS, counts, share)
        if not sum(counts):
            assert value is None
            return
        assert value is not None
        below = sum(count for bound, count in zip(BOUNDS, counts, strict=False) if bound <= value)
        assert below <= share * sum(counts) + 1e-6
        upto = sum(count for low, count in zip((0, *BOUNDS), counts, strict=True) if low <= value)
        assert upto >= share * sum(counts) - 1e-6

    def test_a_percentile_beyond_all_bounds(self) -> None:
        assert percentile(BOUNDS, (0, 0, 0, 5), 0.95) == math.inf


class TestBoard:
    def test_a_finding_that_lasts_is_the_verdict_with_its_line(self) -> None:
        board = shown(live_support.hard_limit())
        assert (board.word, board.look) == ("async then serial", "warning")
        assert board.headline.startswith("Pool 'fetch' turned serial")
        [told] = board.findings
        assert (told.subject, told.lasted, told.since) == ("pool fetch", "for 4.00 s", BEGAN + 4)
        assert told.places[0].where == "jobs.py:31"
        assert ("wait p50", "2.40 s") in told.evidence
        assert [(line.group, line.state) for line in board.pools] == [
            ("pool", "warning"),
            ("limit", "full"),
            ("queue", "busy"),
        ]
        assert board.pools[0].bands == (("warning", BEGAN + 4, None),)

    def test_a_finding_that_is_over_is_told_after_that(self) -> None:
        over = a_finding(until_seconds=6.0)
        board = shown(history(snapshot(full(8), second=8, findings=(over,))))
        assert (board.word, board.look) == ("concurrent now", "good")
        assert board.headline.startswith("Nothing is wrong now. Before: Pool 'fetch'")
        assert board.findings[0].lasted == "lasted 2.00 s"
        assert board.pools[0].state == "full"

    def test_before_anything_is_known(self) -> None:
        assert (shown(History()).word, shown(History()).look) == ("insufficient data", "unknown")
        few = snapshot(full(0), loops=())
        assert shown(history(few)).word == "insufficient data"

    def test_notes_are_no_verdict(self) -> None:
        note = a_finding(severity="info", pattern="burst")
        board = shown(history(snapshot(full(8), second=8, findings=(note,))))
        assert board.word == "concurrent"
        assert board.pools[0].state == "info"

    def test_what_goes_on_in_turn_is_not_called_concurrent(self) -> None:
        note = a_finding(severity="info", pattern="not_concurrent", cause="awaited_in_turn")
        board = shown(history(snapshot(full(8), second=8, findings=(note,))))
        assert (board.word, board.look) == ("not concurrent", "info")
        assert board.headline == note.summary

    def test_how_much_went_on_at_once(self) -> None:
        board = shown(history(snapshot(full(8, occupied_seconds=10.0))))
        assert ("ran at once, on average", "3.20") in board.pools[0].facts

    def test_lines_of_code_are_not_for_everyone(self) -> None:
        board = shown(live_support.hard_limit(), frames=False)
        assert board.command == ""
        assert board.findings[0].places == ()
        assert "jobs.py" not in msgspec.json.encode(board).decode()

    def test_only_later_points_are_told_again(self) -> None:
        seen = live_support.hard_limit(8)
        assert len(shown(seen).pools[0].points) == 9
        assert [point[0] for point in shown(seen, since=BEGAN + 6).pools[0].points] == [BEGAN + 7, BEGAN + 8]

    def test_many_pools_are_counted_the_worst_first(self) -> None:
        rows = [pool(f"idle {number}", wait_buckets=(0,) * 4) for number in range(MOST_POOLS + 7)]
        board = shown(history(snapshot(*rows, full(8), second=8, findings=(a_finding(),))))
        assert len(board.pools) == MOST_POOLS
        assert board.pools[0].name == "fetch"
        assert board.notes == ("and 8 more pools",)

    def test_ended_pools_leave_unless_something_was_wrong(self) -> None:
        ended = [full(8, name, alive=False, active=0, queue_depth=0) for name in ("fetch", "other")]
        over = a_finding(until_seconds=6.0)
        board = shown(history(*[snapshot(*ended, second=8, findings=(over,))] * 2))
        assert [(line.name, line.state) for line in board.pools] == [("fetch", "ended")]

    def test_findings_of_a_peer_of_another_version_have_no_subject(self) -> None:
        board = shown(history(snapshot(full(8), second=8, findings=(a_finding(),), subjects=())))
        assert board.findings[0].subject == "the program"

    def test_findings_of_several_processes_have_their_own_begins(self) -> None:
        young, old = (snapshot(full(8), second=second, findings=(a_finding(),)) for second in (8, 100))
        board = shown(history(merged([young, old], [])))
        assert sorted(told.since for told in board.findings) == [BEGAN - 100 + 4, BEGAN - 8 + 4]

    @pytest.mark.parametrize("made", HISTORIES)
    def test_all_of_it_is_plain_and_bounded(self, made: Callable[[], History]) -> None:
        encoded = Feed(lambda: made().snapshot or snapshot(), "app.py").json()
        assert len(encoded) < 20_000
        msgspec.json.decode(encoded, type=Board)

    def test_the_status_line_says_what_is_wrong_and_where(self) -> None:
        line = status(shown(live_support.hard_limit()), medium())
        assert line.startswith(
            "WARNING async_then_serial (blocking_io) of pool fetch at jobs.py:31, for 4.00 s; fetch 4/4, 80"
        )
        assert "250 of 1,000 done, 50 a second, 15.0 s left" in status(shown(live_support.batch()), medium())
        assert status(shown(History()), medium()) == "Too few tasks have finished yet to say anything."


class TestLines:
    @pytest.mark.parametrize("width", WIDTHS)
    @pytest.mark.parametrize("encoding", [None, "ascii"])
    @pytest.mark.parametrize("made", HISTORIES)
    def test_no_line_is_too_wide_or_obeyed(self, made: Callable[[], History], encoding: str | None, width: int) -> None:
        to = medium(width, encoding)
        lines = layout(board(made(), to, command="app.py"), to, trouble="no answer " * 9, zone=UTC)
        for line in lines:
            assert line_cells(line) <= max(width, 1) or any(cells(text) == 1 for text, _ in line)
            assert plain(line).isprintable()
            if encoding is not None:
                plain(line).encode(encoding)

    def test_a_wide_terminal_has_all_of_it(self) -> None:
        text = text_of(live_support.hard_limit(), 120)
        [row] = [line for line in text.splitlines() if line.startswith("fetch")]
        assert row.split()[1:4] == ["██████████", "4/4", "80"]
        assert row.endswith(" 20/s")
        for part in ("ASYNC THEN SERIAL", "POOLS", "LIMITS", "WORK QUEUES", "EVENT LOOPS", "25 %", "03:12:08"):
            assert part in text
        assert "jobs.py:31 in fetch" in text
        assert "Give 'fetch' max_workers=11" in text

    def test_a_narrow_terminal_keeps_the_numbers(self) -> None:
        text = text_of(live_support.hard_limit(), 12)
        assert "fetch\n4/4 80" in text

    def test_progress_of_a_batch(self) -> None:
        text = text_of(live_support.batch(), 80)
        assert "██────────" in text.replace("███───────", "██────────")
        assert "250 of 1,000 done, 50 a second, 15.0 s left" in text

    def test_trouble_is_told(self) -> None:
        assert "no answer" in text_of(live_support.hard_limit(), 80, trouble="no answer")


class TestFeed:
    def test_many_views_cost_one_look_a_second(self) -> None:
        now, looks = [100.0], []

        def look() -> object:
            looks.append(now[0])
            return snapshot(full(1))

        feed = Feed(look, "app.py", clock=lambda: now[0], now=lambda: BEGAN)  # type: ignore[arg-type]
        for _ in range(5):
            feed.board()
        assert feed.board().at == BEGAN
        now[0] += 1.0
        feed.look()
        assert feed.board().at == BEGAN + 1
        assert looks == [100.0, 101.0]

    def test_a_name_that_is_half_a_character_is_told(self) -> None:
        row = replace(full(1), name="\ud800")
        assert b"\\\\ud800" in Feed(lambda: snapshot(row), "app.py").json()

    @pytest.mark.parametrize(
        "query", ["", "since=", "since=x", "since=nan", "since=1&since=2", "&" * 30, "since=-1e999"]
    )
    def test_any_query_is_answered(self, query: str) -> None:
        board = msgspec.json.decode(pages(Feed(lambda: snapshot(full(1)), ""))["/live"].make(True, query), type=Board)
        assert len(board.pools[0].points) == 1
