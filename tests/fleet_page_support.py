"""What `poolscope fleet --html` shows of a made-up fleet."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC

from fleet_support import BEGIN, BY_NAME, HIKARI, INTERVAL, THREAD_POOL, judged, played, process, rising, series, shown

from poolscope.fleet.layout import Clock
from poolscope.fleet.report import Cost, Outcome, outcome
from poolscope.fleet.samples import Series
from poolscope.fleet.verdicts import Verdict

CLOCK = Clock(BEGIN, UTC)
FILLS = played(rising(3.5, 17, at=1205, until=2400))
BUSY = played(rising(3.5, 12, at=1205, until=2400))


def seen(verdicts: Iterable[Verdict], notices: Sequence[str] = ()) -> Outcome:
    """The outcome of these verdicts over an hour."""
    found = list(verdicts)
    met = {name: sum(each.key.mapping == name for each in found) for name in {each.key.mapping for each in found}}
    return outcome(
        found,
        met,
        BY_NAME,
        source="http://prometheus:9090",
        begin=BEGIN,
        end=BEGIN + 3600,
        interval=INTERVAL,
        notices=notices,
        cost=Cost(3, 1000, 10_000, 1.5),
    )


def loop(instance: str) -> list[Series]:
    """An event loop of Node.js that is blocked for 2.5 s once."""
    at = [BEGIN + INTERVAL * step for step in range(100)]
    late = [2.51 if step == 50 else 0.01 for step in range(100)]
    return [
        series("nodejs_eventloop_lag_max_seconds", at, late, instance=instance),
        series("nodejs_eventloop_lag_mean_seconds", at, [0.01] * 100, instance=instance),
        series("process_cpu_seconds_total", at, [0.3 * each for each in range(100)], instance=instance),
    ]


def a_fleet(pool: str = "db", instance: str = "orders") -> Outcome:
    """Three instances, two of them sick, one of those with a gap; an event loop; and a pool that is fine."""
    gap = [each for each in FILLS if not 1600 < each.at - BEGIN < 1900]
    verdicts: list[Verdict] = []
    for number, scrapes in enumerate((FILLS, gap, BUSY)):
        name = f"{instance}-{number}:8080"
        found = shown(scrapes, THREAD_POOL, name=pool, instance=name) + process(scrapes, 0.1, instance=name)
        found += shown(BUSY, HIKARI, pool="main", instance=name)
        verdicts += judged(found, points=200).values()
    verdicts += judged(loop("web:3000"), points=200).values()
    return seen(verdicts, ["one page does not answer"])


def healthy() -> Outcome:
    """One pool, with which nothing is wrong."""
    return seen(judged(shown(BUSY, THREAD_POOL, name="db")).values())


def hostile() -> Outcome:
    """Names that would be markup, or end the script's data."""
    return a_fleet("</script><img src=x onerror=alert(1)>", "<!--\u202e\x1b[31m&amp;")


def empty() -> Outcome:
    """Nothing was found at all."""
    return seen([])
