"""Every query of every panel, asked of a real Prometheus that scraped a program that saturates and a healthy one."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from cli_support import environment, line
from prometheus_support import Prometheus, answered, free_port, until

ROOT = Path(__file__).parents[2]
APP = ROOT / "examples" / "monitoring" / "app.py"
#: Seconds of gentle load. Longer than what a rate looks back.
GENTLE, BUSY = 5.0, 600.0
STEP, RATE = 0.2, "2s"
#: The semaphore of the program.
GATE = "__main__:GATE"


def load(name: str) -> Any:
    """A script of dashboards/, which is no package."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "dashboards" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


ask = load("ask")


class Seen(NamedTuple):
    """What Prometheus knows after a while: from `start` to `end`, the load being heavy from `busy` on."""

    prometheus: Prometheus
    start: float
    busy: float
    end: float

    asked: dict[frozenset[tuple[str, str]], list[Any]]

    def answers(self, **chosen: str) -> list[Any]:
        """Asked once for each choice: what is past stays as it is."""
        key = frozenset(chosen.items())
        if key not in self.asked:
            self.asked[key] = ask.ask_all(self.prometheus.url, self.start, self.end, STEP, RATE, chosen)
        return self.asked[key]


def program(port: int, *options: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "poolscope", "run", "--quiet", "--listen", str(port), str(APP), *options]
    return subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, text=True)


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Seen]:
    ports = {"serial": free_port(), "healthy": free_port()}
    programs = [
        program(ports["serial"], "--gentle", str(GENTLE), "--busy", str(BUSY)),
        program(ports["healthy"], "--gentle", "600", "--busy", "0"),
    ]
    prometheus = Prometheus(ports, tmp_path_factory.mktemp("prometheus"), "200ms")
    try:
        line(programs[1])
        start = float(line(programs[0]).split()[0])
        busy = float(line(programs[0]).split()[0])
        for finding in (
            'kind="pool",name="crawler",pattern="async_then_serial"',
            f'kind="pool",name="{GATE}",pattern="async_then_serial"',
            'kind="loop",pattern="loop_blocked"',
        ):
            answered(prometheus, f'poolscope_finding{{{finding},instance="serial",severity="warning"}} == 1')
        answered(prometheus, "poolscope_pool_suggested_max_workers")
        # All that a rate looks back on is after the knee.
        until(lambda: time.time() > busy + 4)
        yield Seen(prometheus, start, busy, time.time(), {})
    finally:
        for each in programs:
            each.terminate()
        for each in programs:
            each.communicate(timeout=60)
        prometheus.close()


def test_every_query_of_every_panel_returns_data(seen: Seen) -> None:
    answers = seen.answers(pool="crawler")
    assert len(answers) > 60
    broken = {
        (answer.query.board, answer.query.panel, answer.query.name): answer.error
        for answer in answers
        if answer.error or not answer.values
    }
    # That a pool of any runtime is serial takes half an hour: fleet_test.yml has it.
    half_an_hour = {("poolscope / Fleet", "Findings"), ("poolscope / Fleet", "(annotation)")}
    assert {place: error for place, error in broken.items() if error or place[:2] not in half_an_hour} == {}


@pytest.mark.parametrize("instance", ["serial", "healthy"])
def test_each_instance_alone_has_data_but_for_what_only_trouble_brings(seen: Seen, instance: str) -> None:
    only_trouble = {"State", "Suggested size", "Findings", "(annotation)", "Sizing"} if instance == "healthy" else set()
    chosen = {"instance": instance, "job": "poolscope", "pool": "crawler", "loop": "requests"}
    found = [answer for answer in seen.answers(**chosen) if answer.query.board != "poolscope / Fleet"]
    empty = {answer.query.panel for answer in found if not answer.values}
    assert empty == only_trouble


def test_the_knee_is_where_the_load_grew(seen: Seen) -> None:
    (answer,) = [
        answer
        for answer in seen.answers(instance="serial", pool="crawler")
        if (answer.query.board, answer.query.panel) == ("poolscope / Pool", "Amplification")
    ]
    (points,) = answer.series.values()
    crossed = next(at for at, value in points if value >= 2)
    assert all(value < 2 for at, value in points if at < seen.busy)
    assert all(value >= 2 for at, value in points if at > crossed)
    # What the rate looks back on, and as much again for a machine that has other things to do.
    assert seen.busy <= crossed <= seen.busy + 2 * float(RATE[:-1])


def test_the_overview_tells_the_two_apart(seen: Seen) -> None:
    state = ("poolscope / Overview", "Every pool", "state")
    states = {
        (dict(labels)["instance"], dict(labels)["pool"]): points[-1][1]
        for answer in seen.answers()
        if answer.query[:3] == state
        for labels, points in answer.series.items()
    }
    assert states == {
        ("serial", GATE): 1,
        ("healthy", GATE): 0,
        ("serial", "crawler"): 1,
        ("serial", "mailer"): 0,
        ("healthy", "crawler"): 0,
        ("healthy", "mailer"): 0,
    }


@pytest.mark.parametrize(("instance", "state"), [("serial", "1"), ("healthy", "0")])
def test_a_number_has_the_colour_of_the_finding(seen: Seen, instance: str, state: str) -> None:
    answers = seen.answers(instance=instance, job="poolscope", pool="crawler", loop="requests")
    for panel in ("Utilisation", "Queued", "Drain time"):
        (answer,) = (
            answer
            for answer in answers
            if (answer.query.board, answer.query.panel, answer.query.instant) == ("poolscope / Pool", panel, True)
        )
        assert list(answer.series) == [(("state", state),)]


def test_the_overview_tells_limits_from_pools(seen: Seen) -> None:
    answers = seen.answers(instance="serial")
    kind = ("poolscope / Overview", "Every pool", "kind")
    (answer,) = (answer for answer in answers if answer.query[:3] == kind)
    kinds = {dict(labels)["pool"]: dict(labels)["kind"] for labels in answer.series}
    assert kinds == {"crawler": "thread", "mailer": "thread", GATE: "semaphore"}
    trouble = {
        answer.query.panel: points[-1][1]
        for answer in answers
        if answer.query.panel.endswith(" in trouble")
        for points in answer.series.values()
    }
    assert trouble == {"Pools in trouble": 1, "Limits in trouble": 1, "Loops in trouble": 1}


def test_the_recorded_series_are_there(seen: Seen) -> None:
    recorded = re.findall(r"record: (\S+)", (ROOT / "config" / "prometheus" / "recording.yml").read_text())
    # Those of the groups with an interval of their own come once a minute.
    often = [name for name in recorded if "_seconds:p" not in name or name.startswith("loop:")]
    for name in often:
        answered(seen.prometheus, name)
