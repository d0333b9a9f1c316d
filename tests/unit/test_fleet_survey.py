"""A whole look at an engine whose samples are as bad as can be: no wrong verdict, and one line where it ends."""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from email.utils import format_datetime
from pathlib import Path

import pytest
from fleet_engine_support import NAMES, Answer, engine_that, having
from fleet_support import BEGIN, HIKARI, THREAD_POOL, Scrape, played, process, rising, series, shown

from poolscope import commands
from poolscope.config.settings import Settings
from poolscope.fleet.judging import Range
from poolscope.fleet.layout import Clock
from poolscope.fleet.samples import Series
from poolscope.fleet.survey import Surveyor, TooMany
from poolscope.fleet.verdicts import Knee, Verdict

FILLS = played(rising(3.5, 17, at=1205, until=2400))
BUSY = played(rising(3.5, 14, at=1205, until=2400))
WHEN = Range(BEGIN, BEGIN + 3600, Clock(BEGIN, UTC))


def surveyed(found: Sequence[Series]) -> dict[str, Verdict]:
    """The verdict on each pool of an engine that has these series."""
    with engine_that(having(found)) as (engine, _, _):
        verdicts = Surveyor(engine, WHEN, Settings()).run().verdicts
    return {verdict.key.name: verdict for verdict in verdicts}


def pools(
    fills: Callable[[Series], Series] = lambda it: it, busy: Callable[[Series], Series] | None = None
) -> list[Series]:
    """Two pools, one of which fills, each series changed."""
    whole = shown(FILLS, THREAD_POOL, name="fills") + process(FILLS, 0.1)
    return [*map(fills, whole), *map(busy or fills, shown(BUSY, THREAD_POOL, name="busy"))]


def are_told_apart(found: dict[str, Verdict], knee: Knee = Knee(BEGIN + 1200, BEGIN + 1215)) -> bool:  # noqa: B008
    filled = found["fills"]
    seen = (filled.state, filled.pattern, filled.severity, filled.knee)
    return seen == ("finding", "async_then_serial", "warning", knee) and found["busy"].state == "healthy"


def changed(it: Series, at: Sequence[float] | None = None, values: Sequence[float] | None = None) -> Series:
    return Series(
        it.labels, array("d", it.at if at is None else at), array("d", it.values if values is None else values)
    )


def test_samples_as_they_should_be() -> None:
    assert are_told_apart(surveyed(pools()))


def test_samples_that_are_no_numbers() -> None:
    """A staleness marker here and there is nothing; a pool of them alone has no verdict."""
    holes = [math.nan if place % 20 == 7 else 1.0 for place in range(len(FILLS))]
    some = surveyed(pools(lambda it: changed(it, values=[a * b for a, b in zip(it.values, holes, strict=True)])))
    assert some["fills"].pattern == "async_then_serial"
    assert some["busy"].severity == "info"
    none = surveyed(pools(lambda it: changed(it, values=[math.nan] * len(it.at))))
    assert all(each.state == "insufficient" for each in none.values())


def test_series_that_are_there_twice() -> None:
    """Copies of a Prometheus scraped at other times."""
    copies = [
        Series({**each.labels, "prometheus_replica": name}, array("d", [t + late for t in each.at]), each.values)
        for each in pools()
        for name, late in (("a", 0.0), ("b", 7.0))
    ]
    assert are_told_apart(surveyed(copies))


def test_counters_that_start_anew() -> None:
    def restarted(it: Series) -> Series:
        if not it.labels["__name__"].endswith("_total"):
            return it
        return changed(it, values=[value if value < 3000 else value - 3000 for value in it.values])

    found = surveyed(pools(restarted))
    assert are_told_apart(found)
    assert found["fills"].evidence["restarts"] == 1
    assert 0 < found["fills"].evidence["throughput_per_second"] < 17


@pytest.mark.parametrize("late", [0.01, 3.0, 7.0])
def test_metrics_that_bear_times_of_their_own(late: float) -> None:
    """The numbers of one pool are not of the same moment: they are those of the same scrape."""
    names = list(THREAD_POOL)

    def shifted(it: Series) -> Series:
        name = it.labels["__name__"]
        by = late * (names.index(name) % 2) if name in names else late
        return changed(it, at=[time + by for time in it.at])

    assert are_told_apart(surveyed(pools(shifted)))


@pytest.mark.parametrize("ahead", [-7200.0, 7200.0])
def test_a_process_whose_clock_is_another(ahead: float) -> None:
    """When it says that it started is no reason to take what is soon over for its warm-up."""
    short = played(rising(3.5, 40, at=1205, until=1270))
    at = [each.at for each in short]
    started = series("process_start_time_seconds", at, [BEGIN + 1200 + ahead] * len(at))
    (verdict,) = surveyed([*shown(short, THREAD_POOL, name="db"), started]).values()
    assert (verdict.pattern, verdict.severity) == ("async_then_serial", "warning")


@pytest.mark.parametrize(("ahead", "told"), [(-600, "600 s behind"), (600, "600 s ahead of"), (0, None)])
def test_an_engine_whose_clock_is_another(ahead: float, told: str | None) -> None:
    from poolscope.commands.fleet import _notices

    date = format_datetime(datetime.fromtimestamp(BEGIN + ahead, UTC), usegmt=True)
    answer = Answer(200, NAMES, {"Date": date})
    with engine_that(lambda _n, _request: answer, now=lambda: BEGIN) as (engine, _, _):
        engine.names(0, 1, None)
    assert engine.ahead == ahead
    notices = _notices(engine)
    assert notices == [] if told is None else f"has a clock that is {told} this machine's" in notices[0]


def test_milliseconds_and_nanoseconds() -> None:
    ours: dict[str, Callable[[Scrape], float]] = {
        "hikaricp_max_connections": lambda it: it.limit,
        "hikaricp_active_connections": lambda it: it.active,
        "hikaricp_pending_threads": lambda it: it.queued,
        "hikaricp_connection_acquired_nanos_sum": lambda it: it.waited * 1e9,
        "hikaricp_connection_usage_millis_count": lambda it: it.done,
        "hikaricp_connection_usage_millis_sum": lambda it: it.busy * 1e3,
    }
    in_their_units = surveyed(shown(FILLS, ours, pool="main"))["main"]
    assert in_their_units.evidence == surveyed(shown(FILLS, HIKARI, pool="main"))["main"].evidence
    assert in_their_units.evidence["run_seconds"] == pytest.approx(0.5, rel=0.01)


def test_a_million_series_are_asked_about_first() -> None:
    with engine_that(having(pools(), many=1_000_000)) as (engine, asked, _):
        surveyor = Surveyor(engine, WHEN, Settings())
        with pytest.raises(TooMany, match=r"^1,000,000 series match: name fewer with --match"):
            surveyor.run()
        # Their names and their number were asked for, and nothing else.
        assert len(asked) == 3
        assert are_told_apart({verdict.key.name: verdict for verdict in surveyor.run(None).verdicts})


def test_a_command_that_nobody_answers_reads_no_million(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", None)
    times = ["--from", str(BEGIN), "--to", str(BEGIN + 3600)]
    with engine_that(having(pools(), many=1_000_000)) as (engine, _, _):
        with pytest.raises(TooMany):
            commands.command(["fleet", engine.url, *times, "--json", str(tmp_path / "it.json")])
        assert not (tmp_path / "it.json").exists()
        assert commands.command(["fleet", engine.url, *times, "--json", str(tmp_path / "it.json"), "--yes"]) == 0


def test_an_engine_that_fails_in_the_midst_leaves_no_report(tmp_path: Path) -> None:
    healthy = having(pools())
    page = "<!DOCTYPE html>"

    def script(n: int, request: object) -> Answer:
        return healthy(n, request) if n < 5 else Answer(200, page.encode())  # type: ignore[arg-type]

    with engine_that(script) as (engine, _, _), pytest.raises(Exception, match="does its address need") as raised:
        commands.command(["fleet", engine.url, "--from", str(BEGIN), "--json", str(tmp_path / "it.json"), "--yes"])
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "it.json").exists()


def test_a_time_in_which_nothing_was_scraped_is_no_health() -> None:
    gap = [each for each in BUSY if not 1000 < each.at - BEGIN < 2000]
    found = surveyed([*shown(gap, THREAD_POOL, name="db"), *shown(BUSY, THREAD_POOL, name="whole")])
    assert {name: verdict.state for name, verdict in found.items()} == {"db": "insufficient", "whole": "healthy"}
