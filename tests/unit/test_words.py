"""The sentence that a finding tells at night, and the one thing to do."""

import msgspec
import pytest
from signals_support import CHILDREN_BUSY, FULL_QUEUE, HALF_A_CORE, LOCK, LOCKS, ONE_CORE_BUSY, but

from poolscope.analysis.detection import Rules, diagnose
from poolscope.analysis.occupants import Hogs
from poolscope.analysis.signals import PoolSignals
from poolscope.analysis.sizing import Sizing
from poolscope.analysis.words import pool_advice, pool_summary, seconds
from poolscope.model import Frame

FRAMES = (Frame("/srv/app/tasks.py", 12, "resize", "image.resize(size)", 0.9),)


def told(signals: PoolSignals) -> tuple[str, str]:
    diagnosis = diagnose(signals, Rules())
    summary = pool_summary(diagnosis, "images", 12.0, signals, FRAMES)
    return summary, pool_advice(diagnosis, "images", signals, None, 1.0).text


@pytest.mark.parametrize(
    ("changes", "summary", "advice"),
    [
        (
            {"worker_cores": 0.97, "worker_cpu_share": 0.25, "process": ONE_CORE_BUSY},
            "Pool 'images' turned serial at 12.0 s: its 4 workers compute and have used up the CPU, so a task now "
            "waits 1.0 s for 400 ms of its own work at tasks.py:12 (resize).",
            "More threads cannot help",
        ),
        (
            {"worker_cores": 0.5, "worker_cpu_share": 0.13, "workers_ready": 0.45, "process": HALF_A_CORE},
            "Pool 'images' turned serial at 12.0 s: its 4 workers compute and get 0.5 of the one core that they could "
            "use, as other programs take the rest, so a task now waits 1.0 s for 400 ms of its own work at tasks.py:12 "
            "(resize).",
            "More threads cannot help",
        ),
        (
            {"worker_cores": 1.1, "worker_cpu_share": 0.28, "workers_ready": 2.8, "process": ONE_CORE_BUSY},
            "Pool 'images' reached the limit of the machine at 12.0 s: its 4 workers compute and get 1.0 of the 4 "
            "cores that they could use, as other programs take the rest, so a task now waits 1.0 s for 400 ms of its "
            "own work at tasks.py:12 (resize).",
            "other programs take part of them",
        ),
    ],
)
def test_what_is_said_of_workers_that_compute(changes: dict[str, object], summary: str, advice: str) -> None:
    found, text = told(but(**changes))
    assert found == summary
    assert advice in text


@pytest.mark.parametrize(
    ("changes", "summary", "advice"),
    [
        (
            {"held_up": FULL_QUEUE},
            "its 4 workers spend 70 % of their time waiting for room in a full queue at tasks.py:12 (resize)",
            "More workers in 'images' would only wait too: what takes out of that queue is slower",
        ),
        (
            {"held_up": LOCKS},
            "its 4 workers spend 70 % of their time waiting for a lock at tasks.py:12 (resize)",
            "More workers would only wait too: relieve what they wait for",
        ),
        # how many get past it says more
        (
            {"held_up": LOCKS, "contention": LOCK},
            "only one of its 4 workers goes on at a time, the others wait at tasks.py:12 (resize)",
            "More workers would only wait too: relieve what they wait for",
        ),
    ],
)
def test_what_is_said_of_workers_that_hold_each_other_up(changes: dict[str, object], summary: str, advice: str) -> None:
    found, text = told(but(**changes))
    assert found == (
        f"Pool 'images' turned serial at 12.0 s: {summary}, and a task now waits 1.0 s before it runs for 400 ms."
    )
    assert advice in text


def test_what_is_said_of_workers_whose_child_processes_compute() -> None:
    summary, advice = told(but(children_share=0.9, process=CHILDREN_BUSY))
    assert summary == (
        "Pool 'images' reached the limit of the machine at 12.0 s: its 4 workers wait for child processes, which "
        "compute and have used up the CPU, so a task now waits 1.0 s for 400 ms of its own work at tasks.py:12 "
        "(resize)."
    )
    assert "only more CPUs or less work make it faster" in advice


def test_a_size_that_child_processes_have_no_cpu_for_comes_with_a_warning() -> None:
    signals = but(children_share=0.9, process=msgspec.structs.replace(CHILDREN_BUSY, children_cores=2.0))
    advice = pool_advice(diagnose(signals, Rules()), "images", signals, Sizing(12), 1.0).text
    assert "the child process of a worker uses 50 % of a core, so about 6 of them use up the 4 they can have" in advice


def test_tasks_that_run_side_by_side_are_not_said_to_run_one_after_another() -> None:
    slow = but(finished=5, run_p50_seconds=1.6, run_mean_seconds=1.6, wait_p50_seconds=4.0)
    summary, _ = told(slow)
    assert summary.startswith(
        "Pool 'images' gets no more done than one worker would since 12.0 s: all 4 workers are busy"
    )
    summary, _ = told(msgspec.structs.replace(slow, growing=False))
    assert "gets no more done than one worker would since 12.0 s: all 4 workers are waiting" in summary
    assert "which takes 4.0 times as long as before" in summary
    summary, _ = told(msgspec.structs.replace(slow, growing=True))
    assert summary.startswith(
        "Pool 'images' runs its tasks one after another since 12.0 s: its tasks hold each other up"
    )


def test_what_hardly_any_tasks_do_is_not_said_of_none() -> None:
    signals = but(hogs=Hogs((1,), 0.7, 0.0, 1.8e9, 4e7))
    summary = pool_summary(diagnose(signals, Rules()), "images", 12.0, signals, FRAMES, hogs="consume")
    assert "consume takes 70 % of the workers' time with hardly any of the tasks, and the others wait 1.8 s" in summary


def test_who_stands_still_may_wait_for_what_is_queued() -> None:
    signals = but(seconds_since_finish=11.0, window_seconds=12.0)
    summary, advice = told(signals)
    assert summary.startswith("Pool 'images' has stood still: all 4 workers busy, 30 tasks queued")
    assert "what a task in the queue of 'images' would do" in advice


def test_what_is_said_where_few_tasks_hold_most_workers() -> None:
    found, text = told(but(suspected=True))
    assert found == (
        "Pool 'images' turned serial at 12.0 s: all 4 workers are busy at tasks.py:12 (resize), and a task now waits "
        "1.0 s for 400 ms of its own work; most of them are in tasks that take far longer than the others, and why is "
        "not established."
    )
    assert "why a few calls at the line shown take so much longer" in text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "an unknown time"),
        (12e-6, "12 µs"),
        (0.0042, "4.2 ms"),
        (0.085, "85 ms"),
        (2.31, "2.3 s"),
        (250, "4 min"),
    ],
)
def test_durations_as_people_say_them(value: float | None, text: str) -> None:
    assert seconds(value) == text
