"""What is read of the threads of a pool between its tasks: with real frames of threads that stand still."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, _base
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

from runtime_support import FakeCpu

from poolscope.probe.recording.recorder import PoolRecorder
from poolscope.probe.recording.results import Taken
from poolscope.probe.recording.worker_clocks import DELAY_INTERVAL_NS
from poolscope.probe.sampling.handover import HandoverSampler


class Standing:
    """A thread that stands still in a call until it may go on."""

    def __init__(self) -> None:
        self.reached, self.go_on = threading.Event(), threading.Event()

    def stand(self, *_: object) -> None:
        self.reached.set()
        self.go_on.wait(30)

    @contextmanager
    def __call__(self, function: Callable[..., object], *arguments: object) -> Iterator[threading.Thread]:
        thread = threading.Thread(target=function, args=arguments)
        thread.start()
        try:
            assert self.reached.wait(30)
            yield thread
        finally:
            self.go_on.set()
            thread.join()


def library_callback(standing: Standing) -> Callable[..., object]:
    """A callback of code in the standard library that stands still."""

    code = "def callback(_):\n    reached.set()\n    go_on.wait(30)\n"
    names: dict[str, Any] = {"reached": standing.reached, "go_on": standing.go_on}
    exec(compile(code, threading.__file__, "exec"), names)
    found: Callable[..., object] = names["callback"]
    return found


def watch() -> Any:
    recorder = PoolRecorder(1, name="p", kind="thread", executor="x", created_at="", size=lambda: (1, 1))
    return SimpleNamespace(recorder=recorder)


def called_back(callback: Callable[..., object]) -> None:
    future: Future[None] = Future()
    future.add_done_callback(callback)
    future.set_result(None)


def sampled(pool: Any, cpu: FakeCpu | None = None) -> Any:
    return HandoverSampler(cpu or FakeCpu()).sample([pool], 5)


def test_a_worker_in_a_callback_of_the_programs_is_seen_with_its_line() -> None:
    standing, pool = Standing(), watch()

    def report(_: object) -> None:
        standing.stand()

    with standing(called_back, report) as thread:
        pool.recorder.join(thread.ident, thread.native_id)
        [message] = sampled(pool)
    assert message[:3] == ("handover", 1, 5)
    [lines] = message[3]
    assert lines[0][0] == __file__
    assert lines[0][2].endswith("stand")
    assert message[4] is None


def test_a_worker_in_a_task_is_in_no_callback() -> None:
    """A task may give other futures their results."""
    standing, pool = Standing(), watch()
    with standing(called_back, standing.stand) as thread:
        pool.recorder.join(thread.ident, thread.native_id).running = (1, 0, 0)
        assert sampled(pool) == []


def test_a_callback_of_a_library_is_a_part_of_handing_over() -> None:
    """Nothing of the program's is at work below the method that calls back."""
    standing, pool = Standing(), watch()
    with standing(called_back, library_callback(standing)) as thread:
        pool.recorder.join(thread.ident, thread.native_id)
        assert sampled(pool) == []


def test_the_thread_that_takes_the_results_is_told_whether_it_is_in_a_callback_or_not() -> None:
    standing, pool = Standing(), watch()
    with standing(called_back, standing.stand) as thread:
        pool.recorder.hands = lambda: (None, thread)
        [message] = sampled(pool)
        assert message[4][0][2].endswith("stand")
    standing = Standing()
    with standing(standing.stand) as thread:
        pool.recorder.hands = lambda: (thread, thread)
        pool.recorder.returned = (3, 7)
        [message] = sampled(pool)
        assert message[3:5] == ([], [])
        assert message[7:10] == (3, 7, [])


def test_a_consumer_at_a_line_of_its_own_is_seen_while_results_wait() -> None:
    standing, pool = Standing(), watch()

    def consume() -> None:
        standing.stand()

    with standing(consume) as thread:
        pool.recorder.taking[1] = Taken(lambda: 7, thread.ident or 0, consume.__code__)
        [message] = sampled(pool)
        [(waiting, lines)] = message[9]
        assert (waiting, lines[0][0]) == (7, __file__)
        # The function that made the iterator has returned: another thread may take the results.
        pool.recorder.taking[1] = Taken(lambda: 7, thread.ident or 0, watch.__code__)
        assert sampled(pool)[0][9] == [(7, [])]


def test_a_consumer_that_waits_for_a_result_is_at_no_line_of_its_own() -> None:
    pool = watch()
    future: Future[None] = Future()
    thread = threading.Thread(target=future.result)
    thread.start()
    try:
        while not future._condition._waiters:  # type: ignore[attr-defined]
            pass
        pool.recorder.taking[1] = Taken(lambda: 7, thread.ident or 0, None)
        assert sampled(pool)[0][9] == [(7, [])]
    finally:
        future.set_result(None)
        thread.join()


def test_rests_in_proportion_to_what_it_costs() -> None:
    cpu, pool = FakeCpu(), watch()
    cpu.cost_ns = 500_000
    pool.recorder.hands = lambda: (None, threading.main_thread())
    sampler = HandoverSampler(cpu)
    seen = [at for at in range(0, 400_000_000, 10_000_000) if sampler.sample([pool], at)]
    assert seen == [0, 100_000_000, 200_000_000, 300_000_000]


def test_the_codes_are_those_of_the_module_in_use() -> None:
    sampler = HandoverSampler(FakeCpu())
    sampler.sample([watch()], 5)
    assert _base.Future._invoke_callbacks.__code__ in sampler._calling  # type: ignore[attr-defined]


def test_files_that_tell_who_was_ready_to_run_are_read_now_and_then() -> None:
    cpu, pool = FakeCpu(), watch()
    thread = threading.main_thread()
    pool.recorder.hands = lambda: (thread, None)
    sampler = HandoverSampler(cpu)
    seen = []
    for at in range(5):
        cpu.delays[thread.native_id] = at
        cpu.threads[thread.native_id] = at
        pool.recorder.taking[1] = Taken(lambda: 0, 0, None)
        [message] = sampler.sample([pool], at * DELAY_INTERVAL_NS // 2)
        seen.append(message[10:12])
    assert seen == [(0, 0), (0, 0), (2, 0), (2, 0), (4, 0)]
