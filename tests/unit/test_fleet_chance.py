"""Scrapes of a healthy pool that look like trouble now and then."""

from __future__ import annotations

import msgspec
import pytest

from poolscope.fleet.chance import SampledLoad, UnknownRuns, giants, waiting
from poolscope.signals.significance import Before, Runs

#: Eight workers of half a second, saturated for ten scrapes.
SEEN = SampledLoad(
    workers=8,
    stretch_seconds=150.0,
    queue=200,
    arrivals=2600,
    seconds=150.0,
    runs=Runs(2400, 1200.0, 1200.0),
    scrapes=10,
    interval=15.0,
    queue_mean=100.0,
    queue_usual=100.0,
    unbroken=False,
)


def but(**changes: object) -> bool:
    """Whether it is no chance with these numbers changed."""
    test = msgspec.structs.replace(SEEN, **changes)
    assert test.surprise is not None
    return test.surprise >= test.surprise_needed


def test_erlang_s_formula() -> None:
    assert waiting(1, 0.8) == pytest.approx(0.8)
    assert waiting(2, 0.8) == pytest.approx(32 / 45)
    assert waiting(10, 0.5) == pytest.approx(0.0361, rel=0.01)
    assert waiting(10**9, 0.8) < 1e-6


def test_a_long_queue_all_along_is_no_chance() -> None:
    assert but()
    assert not but(queue=10, queue_mean=5.0, arrivals=2000)


def test_a_few_scrapes_far_apart_are_no_busy_period() -> None:
    """Of short tasks, once a minute: it may have been idle a hundred times in between."""
    short = {"runs": Runs(20_000, 400.0, 16.0), "interval": 60.0, "queue": 8, "queue_mean": 4.0, "arrivals": 19_000}
    assert not but(scrapes=4, stretch_seconds=180.0, **short)
    assert but(scrapes=4, stretch_seconds=180.0, unbroken=True, **short)
    assert but(scrapes=60, stretch_seconds=3600.0, seconds=3600.0, **{**short, "workers": 50})


def test_long_tasks_need_a_long_time() -> None:
    long = {"runs": Runs(40, 1200.0, 72_000.0), "arrivals": 45, "queue": 10, "queue_mean": 8.0}
    assert not but(**long)
    assert not but(unbroken=True, **long)


def test_without_runs_only_a_very_long_queue_speaks() -> None:
    names = {name: getattr(SEEN, name) for name in SEEN.__struct_fields__}
    few = UnknownRuns(**{**names, "runs": Runs(), "queue_usual": 50.0})
    many = UnknownRuns(**{**names, "runs": Runs(), "queue_usual": 500.0})
    assert (few.surprise or 0.0) < few.surprise_needed
    assert (many.surprise or 0.0) >= many.surprise_needed


# --- runs that scatter widely: what is healthy there is the load

#: A pool of one worker and runs of 200 ms that bears its load: 4 a second came before, and come now.
HEALTHY = {
    "workers": 1,
    "before": Before(1800.0, 7200, Runs(7200, 1300.0, 2200.0)),
    "interval": 15.0,
    "queue_usual": 60.0,
}


def test_one_very_long_run_is_no_overload() -> None:
    """It takes the only worker for 30 s, and 120 tasks queue behind it: they are worked off."""
    seen = {"scrapes": 11, "stretch_seconds": 150.0, "seconds": 30.0, "queue": 120, "queue_mean": 60.0, "arrivals": 120}
    slow = {"runs": Runs(450, 150.0, 1000.0)}
    assert not but(**HEALTHY, **seen, **slow)
    # Twice as many came: that is another load.
    assert but(**HEALTHY, **{**seen, "seconds": 150.0, "arrivals": 1500}, **slow)


def test_looks_that_are_far_apart_are_no_busy_period() -> None:
    """At four fifths of its time taken, each look finds it busy easily: once a minute says little."""
    seen = {"queue": 60, "queue_mean": 12.0, "seconds": 840.0, "arrivals": 3400, "runs": Runs(6000, 1500.0, 750.0)}
    hour = {"scrapes": 26, "stretch_seconds": 1500.0}
    assert not but(**{**HEALTHY, "interval": 60.0}, **seen, **hour)
    assert but(**{**HEALTHY, "interval": 15.0}, **seen, scrapes=800, stretch_seconds=12_000.0)


def test_what_was_not_seen_before_is_not_compared() -> None:
    """As all looks were saturated, as many ended as the workers bear: that is no more than came before."""
    seen = {
        "scrapes": 8,
        "stretch_seconds": 420.0,
        "interval": 60.0,
        "queue": 14,
        "queue_mean": 7.0,
        "queue_usual": 7.0,
    }
    assert not but(workers=2, **seen, arrivals=2800, seconds=360.0, runs=Runs(3360, 840.0, 420.0))


def test_giants() -> None:
    # One of one worker is likely, four of eight at a time are not, and neither is one that lasts for ever.
    assert giants(1, 0.8, 500.0, 80.0) < giants(8, 0.8, 500.0, 1000.0)
    assert giants(1, 0.8, 500.0, 80.0) < giants(1, 0.8, 50_000.0, 80.0)
    assert giants(2, 0.5, 0.0, 0.0) < 1
    assert giants(1000, 0.8, 100.0, 1e6) > 100
    assert giants(1, 0.8, 1e30, 0.0) > 100


def test_connections_that_are_only_counted_when_waited_for() -> None:
    """Two of 3 ms, for which 118 callers wait for 6 s: their load before is not known, and the queue speaks."""
    seen = {"scrapes": 13, "stretch_seconds": 6.0, "interval": 0.5, "queue": 118, "queue_mean": 115.0, "workers": 2}
    runs = {"runs": Runs(3900, 12.0, 0.08), "arrivals": 3900, "seconds": 6.0}
    assert but(**seen, **runs, lent=True)
    assert not but(**seen, **runs)
    assert not but(**{**seen, "queue": 4, "queue_mean": 2.0}, **runs, lent=True)
