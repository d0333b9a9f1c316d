"""`poolscope fleet` on a real Prometheus, which has a fleet of the past in its blocks."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cli_support import Outcome, poolscope
from fleet_support import BEGIN, HIKARI, THREAD_POOL, played, process, rising, series, shown
from prometheus_support import Prometheus, needed, until

from poolscope.fleet.samples import Series

#: Instances of a job, and those of them whose pool fills.
INSTANCES, SICK = 12, 3
SECONDS = 3600


def openmetrics(found: Iterable[Series]) -> str:
    lines = []
    for each in found:
        labels = ",".join(f'{name}="{value}"' for name, value in each.labels.items() if name != "__name__")
        name = each.labels["__name__"]
        lines += [f"{name}{{{labels}}} {value:g} {at}" for at, value in zip(each.at, each.values, strict=True)]
    return "\n".join([*lines, "# EOF", ""])


def a_fleet() -> Iterator[Series]:
    fills, busy = played(rising(3.5, 17, at=1205, until=2400)), played(rising(3.5, 12, at=1205, until=2400))
    for number in range(INSTANCES):
        instance = f"orders-{number}:8080"
        scrapes = fills if number < SICK else busy
        yield from shown(scrapes, THREAD_POOL, name="db", instance=instance)
        yield from shown(busy, THREAD_POOL, name="mail", instance=instance)
        yield from shown(busy, HIKARI, pool="main", instance=instance)
        yield from process(scrapes, 0.1, instance=instance)
        at = [each.at for each in scrapes]
        yield series("tomcat_threads_config_max_threads", at, [200.0] * len(at), name="http", instance=instance)
        yield series("tomcat_threads_busy_threads", at, [5.0] * len(at), name="http", instance=instance)
    at = [each.at for each in busy]
    yield series("go_sched_gomaxprocs_threads", at, [4.0] * len(at), job="go", instance="go:1")


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    folder = tmp_path_factory.mktemp("prometheus")
    (folder / "samples.txt").write_text(openmetrics(a_fleet()))
    command = [needed("promtool"), "tsdb", "create-blocks-from", "openmetrics", "samples.txt", "data"]
    subprocess.run(command, cwd=folder, check=True, capture_output=True, timeout=60)
    running = Prometheus({}, folder)
    try:
        until(lambda: running.ask("query", query="vector(1)"))
        yield running
    finally:
        running.close()


def fleet(prometheus: Prometheus, *words: str, cwd: Path) -> Outcome:
    when = ("--from", str(BEGIN), "--to", str(BEGIN + SECONDS))
    return poolscope("fleet", prometheus.url, *when, *words, cwd=cwd)


def report(prometheus: Prometheus, *words: str, cwd: Path) -> dict[str, Any]:
    outcome = fleet(prometheus, "--json", "-", *words, cwd=cwd)
    assert (outcome.status, outcome.err) == (0, "")
    found: dict[str, Any] = json.loads(outcome.out)
    return found


def test_the_sick_are_found_and_none_else(prometheus: Prometheus, tmp_path: Path) -> None:
    found = report(prometheus, cwd=tmp_path)
    assert (found["schema"], found["verdict"]) == ("poolscope.fleet/1", "async_then_serial")
    (finding,) = found["findings"]
    assert (finding["pool"], finding["pattern"], finding["cause"]) == ("db", "async_then_serial", "blocking_io")
    assert (finding["instances"], finding["of"]) == (SICK, INSTANCES)
    assert {it["instance"] for it in finding["members"]} == {f"orders-{number}:8080" for number in range(SICK)}
    assert {(it["after"][11:19], it["by"][11:19]) for it in finding["members"]} == {("14:20:00", "14:20:15")}
    pools = {it["mapping"]: (it["tier"], it["pools"], it["healthy"], it["sick"]) for it in found["coverage"]}
    assert pools == {
        "micrometer-thread-pool": ("B", 2 * INSTANCES, 2 * INSTANCES - SICK, SICK),
        "hikaricp": ("A", INSTANCES, INSTANCES, 0),
        "tomcat": ("C", INSTANCES, INSTANCES, 0),
        "go-runtime": ("none", 1, 0, 0),
    }
    # The fine ones were only looked at.
    whole = INSTANCES * (2 * len(THREAD_POOL) + len(HIKARI) + 2) * (SECONDS // 15 + 1)
    assert found["cost"]["samples"] < whole * (SICK + 1) / INSTANCES


def test_a_small_budget_finds_the_same(prometheus: Prometheus, tmp_path: Path) -> None:
    one = report(prometheus, cwd=tmp_path)
    two = report(prometheus, "--samples", "1000", "--concurrency", "3", cwd=tmp_path)
    assert one["findings"] == two["findings"]
    assert two["cost"]["requests"] > one["cost"]["requests"]


def test_what_a_terminal_shows_and_the_exit_status(prometheus: Prometheus, tmp_path: Path) -> None:
    outcome = fleet(prometheus, "--fail-on", "warning", "--match", '{job="orders"}', cwd=tmp_path)
    assert outcome.status == 3
    assert outcome.err.startswith(
        "poolscope: exit status 3, as --fail-on warning wants it: 3 of 12 instances of orders"
    )
    text = " ".join(outcome.out.split())
    assert text.startswith("WARNING 3 pools of 48 turned serial")
    assert "3 of 12 instances of orders: 'db' async_then_serial, blocking io, since" in text
    assert "corePoolSize of 'db'" in text
    assert "and what is shorter is not seen" in text
    assert "scheduler" not in text


def test_reports_go_to_files(prometheus: Prometheus, tmp_path: Path) -> None:
    outcome = fleet(prometheus, "--markdown", "it.md", "--json", "it.json", "--html", "it.html", cwd=tmp_path)
    assert outcome == (0, "", "")
    page = (tmp_path / "it.html").read_text()
    assert page.count("<figure") == SICK
    assert "3 of 12 instances of orders" in page
    assert "poolscope fleet: async then serial" in (tmp_path / "it.md").read_text()
    assert json.loads((tmp_path / "it.json").read_text())["findings"]


def test_a_time_and_labels_without_anything(prometheus: Prometheus, tmp_path: Path) -> None:
    nothing = report(prometheus, "--match", 'job="nobody"', cwd=tmp_path)
    assert (nothing["verdict"], nothing["findings"]) == ("insufficient_data", [])
    assert "no metric of a pool that is known" in nothing["notices"][0]
    before = poolscope("fleet", prometheus.url, "--from", "2026-07-01", "--to", "2026-07-02", cwd=tmp_path)
    assert before.status == 0
    assert before.out.startswith("insufficient_data")


def test_a_selector_that_is_none_is_one_line(prometheus: Prometheus, tmp_path: Path) -> None:
    outcome = fleet(prometheus, "--match", 'job="a" or b', cwd=tmp_path)
    assert outcome.status == 2
    assert outcome.err.count("\n") == 1
    assert "refuses a query" in outcome.err


def test_a_large_fleet_is_asked_about_first(prometheus: Prometheus, tmp_path: Path) -> None:
    from poolscope.config.settings import Settings
    from poolscope.fleet.client import Engine
    from poolscope.fleet.judging import Range
    from poolscope.fleet.layout import Clock
    from poolscope.fleet.survey import Surveyor, TooMany

    when = Range(BEGIN, BEGIN + SECONDS, Clock(BEGIN))
    surveyor = Surveyor(Engine(prometheus.url), when, Settings())
    with pytest.raises(TooMany, match=r"61 series match: name fewer with --match, .* or add --yes"):
        surveyor.run(20)
    assert len(surveyor.run(None).verdicts) == 4 * INSTANCES
