"""What the probe tells of workers that are in one task for long: real threads, real futures."""

from __future__ import annotations

import asyncio
import concurrent.futures
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import pytest

from poolscope.probe.executors import threadpool
from poolscope.probe.recording import given_up
from poolscope.probe.recording.pool_watch import _sizer
from poolscope.probe.runtime import Probe
from poolscope.probe.sampling.held import GIVEN_UP_NS, HELD_NS, HeldReader


@pytest.fixture
def probe() -> Iterator[Probe]:
    made = Probe()
    threadpool.patch(made)
    yield made
    threadpool.unpatch()
    made.stop()


def held(probe: Probe, reader: HeldReader, later_ns: int = 0) -> list[list[int]]:
    """Four numbers of each worker that is told."""
    probe._pools.read()
    messages = reader.sample(probe._pools.everyone(), probe.clock() + later_ns)
    flat = [number for message in messages for number in message[3]]
    return [flat[begin : begin + 4] for begin in range(0, len(flat), 4)]


def reader_of(probe: Probe) -> HeldReader:
    reader = HeldReader(probe._cpu)
    reader._rested_ns = -(1 << 62)
    return reader


def test_a_running_call_that_is_cancelled_is_given_up(probe: Probe) -> None:
    started, answered = threading.Event(), threading.Event()

    def call() -> None:
        started.set()
        answered.wait()

    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        future = pool.submit(call)
        started.wait()
        assert held(probe, reader_of(probe)) == []
        assert not future.cancel()
        assert [worker[3] for worker in held(probe, reader_of(probe))] == [1]
        answered.set()
    del future
    assert not given_up.any_noted()


def test_so_is_one_whose_wait_for_ended(probe: Probe) -> None:
    answered = threading.Event()

    async def main() -> list[list[int]]:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.to_thread(answered.wait), 0.05)
        found = held(probe, reader_of(probe))
        answered.set()
        return found

    assert [worker[3] for worker in asyncio.run(main())] == [1]


@pytest.mark.parametrize("called_back", [False, True])
def test_a_result_that_timed_out_is_given_up_unless_it_is_asked_for_again(probe: Probe, called_back: bool) -> None:
    """A thread waits for the result at the first reading, and not any more at the others, as after a timeout."""
    started, answered = threading.Event(), threading.Event()

    def call() -> None:
        started.set()
        answered.wait()

    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        future = pool.submit(call)
        started.wait()
        if called_back:
            future.add_done_callback(lambda _: None)
        asking = threading.Thread(target=future.result)
        asking.start()
        while not future._condition._waiters:  # type: ignore[attr-defined]
            pass
        reader, hidden = reader_of(probe), False
        everyone = reader._current_frames

        def frames() -> dict[int, FrameType]:
            seen = everyone()
            return {ident: frame for ident, frame in seen.items() if not (hidden and ident == asking.ident)}

        reader._current_frames = frames

        def given_up_after(seconds: float) -> bool:
            reader._rested_ns = 0
            [(_, _, cpu, gave_up)] = held(probe, reader, HELD_NS + round(seconds * GIVEN_UP_NS))
            assert cpu >= 0
            return bool(gave_up)

        assert not given_up_after(0)
        hidden = True
        assert given_up_after(20) is not called_back
        hidden = False
        assert not given_up_after(30)
        hidden = True
        assert not given_up_after(50)  # what has come back to it may do so again
        answered.set()
        asking.join()


@pytest.mark.parametrize("timeout", [0.01, None])
def test_a_call_that_as_completed_has_timed_out_on_is_given_up(probe: Probe, timeout: float | None) -> None:
    """Without a timeout the iterator is only dropped: who knows whether the result is wanted."""
    answered = threading.Event()
    with concurrent.futures.ThreadPoolExecutor(1) as pool, closing_with(answered):
        future = pool.submit(answered.wait)
        taken = concurrent.futures.as_completed([future, done()], timeout)
        next(taken)
        if timeout is not None:
            with pytest.raises(TimeoutError):
                next(taken)
        del taken
        found = held(probe, reader_of(probe), HELD_NS + 3 * GIVEN_UP_NS)
        assert [gave_up for _, _, _, gave_up in found] == [int(timeout is not None)]


def done() -> concurrent.futures.Future[None]:
    future: concurrent.futures.Future[None] = concurrent.futures.Future()
    future.set_result(None)
    return future


@contextmanager
def closing_with(event: threading.Event) -> Iterator[None]:
    try:
        yield
    finally:
        event.set()


def test_the_threads_of_an_executor_that_a_fork_left_behind_are_no_workers() -> None:
    class Executor:
        _threads = {threading.Thread(), threading.Thread()}  # as they are in the child: not alive
        _shutdown = _broken = False
        _max_workers = 2

    executor = Executor()
    size = _sizer(executor)  # type: ignore[arg-type]
    assert size() == (0, 2)
    executor._threads = {threading.current_thread()}
    assert size() == (1, 2)


def test_threads_that_stand_and_move() -> None:
    """Of the frames of threads: all where they were, or one elsewhere."""
    frames = {1: _frame(), 2: _frame()}
    probe = Probe()
    reader = HeldReader(probe._cpu, lambda: dict(frames))
    assert reader._moved(dict(frames), 0) is None
    reader._read_ns = 1
    assert reader._moved(dict(frames), 2) == set()
    frames[2] = _frame()
    assert reader._moved(dict(frames), 3) == {2}
    del frames[1]
    assert reader._moved(dict(frames), 4) == {1}


def _frame() -> FrameType:
    return sys._getframe()
