"""The story told from real JVMs with Micrometer, scraped by us and by a real Prometheus: into saturation and back."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from prometheus_support import Prometheus, until
from story_support import Service

from poolscope.config.settings import Settings
from poolscope.fleet.client import Access, Engine
from poolscope.fleet.judging import Range
from poolscope.fleet.layout import Clock
from poolscope.fleet.pages import Watch
from poolscope.fleet.survey import Surveyor
from poolscope.fleet.verdicts import Verdict

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / ".venvs" / "jvm"
#: Between two scrapes (s), and how many there are while all is calm, the database alone is overloaded (for long beside
#: the second that the gauges of HikariCP may be old), both are, and all is calm again.
INTERVAL = 0.4
CALM, DATABASE, BOTH, AGAIN = 6, 11, 7, 6
#: A scrape may take this long on a busy machine, and HikariCP's gauges be this old (s).
LATE = 2.0


#: What runs Story.java.
JAVA = ("java", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-cp", f"{FOLDER}/classes:{FOLDER}/lib/*", "Story")


class Told(NamedTuple):
    """What is said of two services, when each was overloaded, and by whom they were scraped."""

    verdicts: dict[str, Verdict]
    overload: dict[str, float]
    by: str
    #: What the recording rules say was full while tasks waited.
    saturated: frozenset[str]


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Told]]:
    made = subprocess.run([ROOT / ".ci" / "jars"], capture_output=True, text=True, timeout=110, check=False)
    assert made.returncode == 0, made.stderr
    services = pools, database = [Service(kind, JAVA, stderr=subprocess.DEVNULL) for kind in ("pools", "database")]
    folder = tmp_path_factory.mktemp("prometheus")
    prometheus = Prometheus({f"{each.port}": each.port for each in services}, folder, f"{round(INTERVAL * 1000)}ms")
    watch = Watch([str(each.port) for each in services], Access(), Settings())
    try:
        for each in services:
            each.await_ready()
        until(lambda: [value for _, value in prometheus.values("up")] == [1, 1])
        begin = time.time()
        scrape(watch, CALM)
        overload = {"database": database.say("overload")}
        scrape(watch, DATABASE)
        overload["pools"] = pools.say("overload")
        scrape(watch, BOTH)
        for each in services:
            each.say("calm")
        scrape(watch, AGAIN)
        end = time.time()
        clock = Clock(begin)
        when = Range(begin, end, clock, CALM * INTERVAL)
        asked = Surveyor(Engine(prometheus.url), when, Settings()).run().verdicts
        recorded = prometheus.values("max_over_time(pool:fleet_saturated:bool[1m]) == 1")
        saturated = frozenset(labels["pool"] for labels, _ in recorded)
        yield [
            Told(by_name(watch.judge(clock)[0]), overload, "observe", saturated),
            Told(by_name(asked), overload, "fleet", saturated),
        ]
    finally:
        prometheus.close()
        for each in services:
            each.close()


def scrape(watch: Watch, times: int) -> None:
    for _ in range(times):
        watch.scrape(time.time())
        time.sleep(INTERVAL)


def by_name(verdicts: Iterable[Verdict]) -> dict[str, Verdict]:
    return {verdict.key.name: verdict for verdict in verdicts}


@pytest.mark.parametrize("by", ["observe", "fleet"])
def test_the_story(told: list[Told], by: str) -> None:
    (verdicts, overload, _, _) = next(each for each in told if each.by == by)
    sick = {name: verdict for name, verdict in verdicts.items() if verdict.severity != "info"}
    assert {name: verdict.pattern for name, verdict in sick.items()} == dict.fromkeys(
        ("crawler", "boot", "web", "main"), "async_then_serial"
    )
    causes = {name: verdict.cause for name, verdict in sick.items()}
    assert (causes["web"], causes["main"]) == ("shared_resource", "limit_reached")
    # On a busy machine the process may use more CPU than workers that wait do.
    assert {causes["crawler"], causes["boot"]} <= {"blocking_io", "unknown"}
    assert sick["web"].advice.pool == "main"
    assert "corePoolSize" in sick["boot"].advice.text or sick["boot"].cause == "unknown"
    for name, verdict in sick.items():
        truth = overload["database" if name in ("web", "main") else "pools"]
        assert verdict.knee is not None
        assert verdict.knee.after is not None
        assert verdict.knee.after <= truth + LATE
        assert truth - LATE <= verdict.knee.by
    assert not sick["crawler"].lasting


@pytest.mark.parametrize("by", ["observe", "fleet"])
def test_no_alarm_on_the_twins(told: list[Told], by: str) -> None:
    (verdicts, _, _, _) = next(each for each in told if each.by == by)
    assert {verdicts[name].severity for name in ("twin", "timers", "forks")} == {"info"}
    # Tasks that are not due are no backlog.
    assert verdicts["timers"].state == "healthy"


def test_the_recording_rules_see_the_same(told: list[Told]) -> None:
    assert {"crawler", "boot", "web", "main"} <= told[0].saturated
    assert not {"timers", "forks"} & told[0].saturated
