"""The sentence that a finding tells at night, and the one thing to do."""

import msgspec
import pytest
from signals_support import BY_CHANCE, CHILDREN_BUSY, FULL_QUEUE, HALF_A_CORE, LOCK, LOCKS, ONE_CORE_BUSY, but

from poolscope.model import Frame
from poolscope.rules import burst
from poolscope.rules.reason import Criteria, Scene
from poolscope.rules.table import diagnose
from poolscope.rules.wording import counted, place, seconds
from poolscope.signals.contention import Hogs
from poolscope.signals.pool_signals import PoolSignals
from poolscope.signals.sizing import Sizing

NO_GIL = msgspec.structs.replace(ONE_CORE_BUSY, gil=False)
FRAMES = (Frame("/srv/app/tasks.py", 12, "resize", "image.resize(size)", 0.9),)


def told(signals: PoolSignals) -> tuple[str, str]:
    diagnosis = diagnose(signals, Criteria())
    scene = Scene(pool="images", since_seconds=12.0, frames=FRAMES)
    return diagnosis.sentence(scene), diagnosis.advice(scene).text


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
            {"worker_cores": 1.0, "worker_cpu_share": 0.25, "workers_ready": 2.6, "process": NO_GIL},
            "Pool 'images' reached the limit of the machine at 12.0 s: its 4 workers compute and get 1.0 of the 4 "
            "cores that they could use, as other programs take the rest, so a task now waits 1.0 s for 400 ms of its "
            "own work at tasks.py:12 (resize).",
            "other programs take part of them",
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
    scene = Scene(pool="images", since_seconds=12.0, sizing=Sizing(12))
    advice = diagnose(signals, Criteria()).advice(scene).text
    assert "the child process of a worker uses 50 % of a core, so about 6 of them use up the 4 they can have" in advice


def test_tasks_that_run_side_by_side_are_not_said_to_run_one_after_another() -> None:
    slow = but(finished=5, run_p50_seconds=1.6, run_mean_seconds=1.6, wait_p50_seconds=4.0)
    summary, _ = told(slow)
    assert summary.startswith(
        "Pool 'images' gets no more done than one worker would since 12.0 s: all 4 workers are busy"
    )
    summary, _ = told(msgspec.structs.replace(slow, growing=False))
    # What they wait for became slower: how long one takes now with nothing in its way is not known.
    assert summary.startswith("Pool 'images' turned serial at 12.0 s: all 4 workers are waiting")
    assert "which takes 4.0 times as long as before" in summary
    summary, _ = told(msgspec.structs.replace(slow, growing=True))
    assert summary.startswith(
        "Pool 'images' runs its tasks one after another since 12.0 s: its tasks hold each other up"
    )


def test_what_hardly_any_tasks_do_is_not_said_of_none() -> None:
    signals = but(hogs=Hogs((1,), 0.7, 0.0, 1.8e9, 4e7))
    scene = Scene(pool="images", since_seconds=12.0, name_of={1: "consume"}.get)
    summary = diagnose(signals, Criteria()).sentence(scene)
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
        (59.94, "59.9 s"),
        (59.96, "1 min"),
        (200, "3 min 20 s"),
        (250.4, "4 min 10 s"),
        (3599.7, "1 h"),
        (7500, "2 h 5 min"),
        (86_399.6, "1 day"),
        (100_000, "1 day 3 h"),
        (500_000, "5 days 18 h"),
    ],
)
def test_durations_as_people_say_them(value: float | None, text: str) -> None:
    assert seconds(value) == text


ONE_SECOND = "too short for a finding, which takes 1.0 s on end"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"stretch_seconds": 0.9}, ONE_SECOND),
        (
            {"wait_p50_seconds": 0.3, "queue_depth": 0},
            "half of the tasks waited 300 ms or less (the longest wait: 1.5 s) for 400 ms of their own work, less than "
            "makes a finding",
        ),
        (
            {"wait_p50_seconds": 0.3, "queue_depth": 1, "oldest_queued_seconds": 200.0},
            "half of the tasks waited 300 ms or less (the longest wait: 1.5 s) for 400 ms of their own work, less than "
            "makes a finding; 1 task is still queued, the oldest for 3 min 20 s",
        ),
        (
            {"crowd": BY_CHANCE},
            "half of the tasks waited 1.0 s or less (the longest wait: 1.5 s) for 400 ms of their own work, as happens "
            "now and then where tasks come at random",
        ),
        # a pool that stood still
        (
            {
                "wait_p50_seconds": None,
                "run_p50_seconds": None,
                "stretch_seconds": 16.0,
                "finished": 1,
                "wait_max_seconds": 15.4,
                "oldest_queued_seconds": 15.9,
            },
            "only 1 task finished in that time, too few to judge by; 30 tasks are still queued, the oldest for 15.9 s",
        ),
        (
            {"wait_p50_seconds": None, "run_p50_seconds": None, "finished": 0, "wait_max_seconds": None},
            "no task finished in that time, too few to judge by; 30 tasks are still queued, the oldest for 1.5 s",
        ),
        # those that waited were cancelled
        (
            {
                "wait_p50_seconds": None,
                "run_p50_seconds": None,
                "finished": 0,
                "queue_depth": 0,
                "wait_max_seconds": 7.4,
                "oldest_queued_seconds": 0.0,
            },
            "no task finished in that time, too few to judge by; the longest wait was 7.4 s",
        ),
    ],
)
def test_a_note_on_a_full_pool_gives_its_true_reason(changes: dict[str, object], reason: str) -> None:
    found, _ = told(but(**changes))
    assert found.endswith(f"): {reason}.")
    assert found.startswith("Pool 'images' was full with tasks queued once (")


def test_a_pool_from_which_nothing_came_back_is_not_called_harmless() -> None:
    assert burst.advice(but(), 1.0).text == burst.advice(but(stretch_seconds=0.5, finished=0), 1.0).text
    assert burst.advice(but(), 1.0).text == "Nothing needs doing."
    advice = burst.advice(but(finished=0), 1.0)
    assert (advice.action, advice.text) == (
        "none",
        "If that is not wanted, see what its workers were in: nothing came back in that time.",
    )


def test_one_worker_on_purpose_is_said_to_be_one() -> None:
    diagnosis = diagnose(but(max_workers=1), Criteria(ordered=True))
    said = diagnosis.sentence(Scene(pool="images", since_seconds=12.0))
    assert said.endswith("for 400 ms of their own work, in order on purpose, as the settings say (ordered: true).")


def test_the_reason_of_several_bursts_is_that_of_the_longest() -> None:
    said = burst.together("thread", "a): b", 3, 2.0, 4.0, "half of the tasks waited 300 ms")
    assert said == (
        "Pool 'a): b' was full with tasks queued 3 times, 4.0 s in all (longest 2.0 s): in the longest of them, half "
        "of the tasks waited 300 ms."
    )
    assert burst.together("thread", "c", 9, 2.0, 8.0, burst.reason_of(said)).endswith(
        "(longest 2.0 s): in the longest of them, half of the tasks waited 300 ms."
    )
    assert burst.together("thread", "c", 2, 0.4, 0.6, burst.short(1.0)).endswith(f"(longest 400 ms): {ONE_SECOND}.")
    assert burst.together("semaphore", "c", 1, 0.4, 0.4, burst.short(1.0)).startswith("Semaphore 'c' was full with")


def test_a_line_that_is_not_that_of_all_is_the_most_frequent_one() -> None:
    line = FRAMES[0]
    assert place((line,)) == " at tasks.py:12 (resize)"
    assert place((msgspec.structs.replace(line, share=None),)) == " in resize", "nothing was seen to be there"
    assert place((msgspec.structs.replace(line, share=0.4),)) == " most often at tasks.py:12 (resize)"
    assert place((msgspec.structs.replace(line, file="", share=0.4),)) == " most often in resize"
    less = (msgspec.structs.replace(line, share=0.3), msgspec.structs.replace(line, line=14, share=0.5))
    assert place(less) == " at tasks.py:12 (resize)", "it is the first for another reason"


@pytest.mark.parametrize(("count", "text"), [(0, "0 tasks"), (1, "1 task"), (1234, "1,234 tasks")])
def test_one_task_is_no_tasks(count: int, text: str) -> None:
    assert counted(count, "task") == text


def test_one_queued_task_is_no_tasks() -> None:
    summary, _ = told(but(seconds_since_finish=11.0, window_seconds=12.0, queue_depth=1))
    assert "all 4 workers busy, 1 task queued, and nothing finished" in summary
