"""Real event loops, watched by a thread that stands in for the probe's.

What is asserted never depends on how fast the machine is: a block is as long as the test makes it, and who is to blame
is decided by what the test does, not by when.
"""

import asyncio
import contextlib
import gc
import inspect
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
import types
import weakref
from concurrent.futures import ThreadPoolExecutor

import pytest
import uvloop
from loop_support import Driver, FakeProbe, as_judged, new_loop, run
from probe_support import mistake

import poolscope
from poolscope.messages import parse
from poolscope.probe.interpreter.shapes import SETS, TABLE, task_register
from poolscope.probe.loops import kernel_clocks, monitor
from poolscope.probe.loops import patch as eventloop
from poolscope.probe.loops import tasks as loop_tasks
from poolscope.probe.loops.blocks import Observation
from poolscope.probe.loops.meter import Counters
from poolscope.probe.loops.tasks import COPIED_AT_MOST, PAUSE_PER_TASK_NS, TASKS_LOOKED_AT, TaskCount

KINDS = ["asyncio", "uvloop"]
BLOCKED = 0.1


@pytest.fixture
def probe():
    probe = FakeProbe(loop_blocked_seconds=BLOCKED, sample_interval=0.01)
    eventloop.patch(probe)
    yield probe
    eventloop.unpatch()
    assert probe.faults == []
    assert probe.notices == []


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


def seconds(message):
    return (message[4] - message[3]) / 1e9


def line_of(function, text):
    """(file, line, name) of the line of a function that contains the text."""
    lines, first = inspect.getsourcelines(function)
    number = next(first + index for index, line in enumerate(lines) if text in line)
    return (function.__code__.co_filename, number, function.__code__.co_qualname)


async def seen_idle(probe):
    """Returns once the loop has been looked at, and is known to be alive."""
    # several wake-ups, so that the driver's first look lies before what the test does next
    for _ in range(5):
        await asyncio.sleep(0.02)


def spin(until):
    while time.perf_counter() < until:
        pass


# -- what a block is, and why ----------------------------------------------------------------------------------


async def sleeper(probe):
    await seen_idle(probe)
    time.sleep(0.4)  # blocks
    await asyncio.sleep(0)


def test_a_sleep_in_a_coroutine(probe, kind):
    with Driver(probe):
        run(kind, sleeper(probe))
    (block,) = probe.own_blocks()
    assert block[5] == "blocking_call"
    assert block[6] == [line_of(sleeper, "# blocks")]
    assert seconds(block) > 0.3
    # it was told while it lasted, under the same number
    assert [message[2] for message in probe.tagged("loop_block") if not message[4]][:1] == [block[2]]


async def prepares(probe, seen):
    await seen_idle(probe)
    while not seen:
        time.sleep(0.001)  # short enough that it is not known to sleep
    time.sleep(0.4)  # blocks
    await asyncio.sleep(0)


def test_a_sleep_after_a_moment_without_a_cpu(probe, kind, monkeypatch):
    """As of a client that is made for one request, on a busy machine: it was ready to run as it began."""
    seen = []

    def kernel_wait(native_id):
        seen.append("run" if len(seen) < 2 else kernel_clocks.kernel_wait(native_id))
        return seen[-1]

    monkeypatch.setattr(monitor, "kernel_wait", kernel_wait)
    with Driver(probe):
        run(kind, prepares(probe, seen))
    block = max(probe.ended_blocks(), key=seconds)
    assert block[5] == "blocking_call"
    assert block[6] == [line_of(prepares, "# blocks")]


async def through_a_library(probe):
    await seen_idle(probe)
    subprocess.run([sys.executable, "-c", "import time; time.sleep(0.4)"], check=True)  # blocks


def test_the_line_that_the_user_called_comes_second(probe, kind):
    with Driver(probe):
        run(kind, through_a_library(probe))
    block = max(probe.ended_blocks(), key=seconds)
    assert block[5] == "blocking_call"
    assert block[6][0] == line_of(through_a_library, "# blocks")
    assert os.path.basename(block[6][1][0]) == "subprocess.py"


async def computer(probe):
    await seen_idle(probe)
    start = time.thread_time()
    # by the thread's own clock: on a busy machine it takes longer, and stays computing
    while time.thread_time() < start + 0.5:
        sum(range(1000))
    await asyncio.sleep(0)


def test_computing(probe, kind):
    with Driver(probe):
        run(kind, computer(probe))
    block = max(probe.ended_blocks(), key=seconds)
    if block[5] == "host_descheduled":
        assert block[7] < 0.2  # it got next to nothing of the machine
    else:
        assert block[5] == "cpu_bound"
        assert block[6][0][2] == "computer"


async def holder(probe):
    await seen_idle(probe)
    sum(range(20_000_000))  # never gives the GIL away
    await asyncio.sleep(0)


def test_a_c_function_that_keeps_the_gil(probe, kind):
    with Driver(probe):
        run(kind, holder(probe))
    (block,) = probe.own_blocks()
    assert block[5] == "cpu_bound"
    assert block[6] == [line_of(holder, "# never")]


async def waiter(probe, lock):
    await seen_idle(probe)
    lock.acquire()  # blocks


def test_a_lock_that_another_thread_holds(probe, kind):
    lock = threading.Lock()
    lock.acquire()
    release = threading.Event()

    def owner():
        release.wait()
        time.sleep(0.4)
        lock.release()

    async def main():
        release.set()
        await waiter(probe, lock)

    other = threading.Thread(target=owner)
    other.start()
    with Driver(probe):
        run(kind, main())
    other.join()
    block = max(probe.ended_blocks(), key=seconds)
    assert block[5] == "blocking_call"
    assert block[6] == [line_of(waiter, "# blocks")]


def burn(stop):
    while not stop.is_set():
        pass


async def late(stop, until):
    # gives the GIL away and wants it back, all the time
    while time.perf_counter() < until:
        await asyncio.sleep(0.001)
        os.stat("/")
    stop.set()


def test_threads_that_hold_the_gil(probe, kind):
    stop = threading.Event()
    others = [threading.Thread(target=burn, args=[stop]) for _ in range(8)]
    with Driver(probe):

        async def main():
            await seen_idle(probe)
            for other in others:
                # start() waits for the thread's first line: that would be a block of its own
                await asyncio.to_thread(other.start)
            await late(stop, time.perf_counter() + 3)

        run(kind, main())
    for other in others:
        other.join()
    blocks = probe.ended_blocks()
    assert blocks
    assert "gil_contention" in {block[5] for block in blocks}
    for block in blocks:
        # on a machine that is busy with other things as well, the cause may be that; the loop's lines are innocent
        assert block[5] in ("gil_contention", "host_descheduled", "unknown"), block
    lines = {block[6][0][2] for block in blocks if block[5] == "gil_contention" and block[6]}
    assert lines <= {"burn", "Event.is_set"}
    assert lines


def test_a_c_function_of_another_thread_that_keeps_the_gil(probe, kind):
    def other():
        sum(range(20_000_000))

    async def main():
        await seen_idle(probe)
        done = asyncio.get_running_loop().run_in_executor(None, other)
        while not done.done():
            await asyncio.sleep(0.005)
        await seen_idle(probe)

    with Driver(probe):
        run(kind, main())
    blocks = probe.own_blocks()
    assert {block[5] for block in blocks} == {"gil_contention"}
    assert {line[2] for block in blocks for line in block[6][:1]} <= {other.__qualname__}


def test_a_collection(probe, kind):
    garbage = [[index] for index in range(3_000_000)]
    gc.freeze()
    gc.unfreeze()

    async def main():
        await seen_idle(probe)
        until = time.perf_counter() + 0.5
        while time.perf_counter() < until:
            gc.collect()

    with Driver(probe):
        run(kind, main())
    block = max(probe.ended_blocks(), key=seconds)
    assert block[5] == "gc"
    assert block[6] == []
    del garbage


def test_a_process_that_is_stopped(probe, kind):
    program = (
        "import os, signal, sys, time\n"
        "pid = int(sys.argv[1])\n"
        "os.kill(pid, signal.SIGSTOP); time.sleep(0.5); os.kill(pid, signal.SIGCONT)\n"
    )

    async def main():
        await seen_idle(probe)
        stopper = subprocess.Popen([sys.executable, "-c", program, str(os.getpid())])
        while stopper.poll() is None:
            await asyncio.sleep(0.005)
        await asyncio.sleep(0.1)

    with Driver(probe):
        run(kind, main())
    block = max(probe.ended_blocks(), key=seconds)
    assert block[5] == "host_descheduled"
    assert block[6] == []
    assert seconds(block) > 0.4


@pytest.mark.parametrize("gil", [True, False])
def test_what_there_is_no_gil_to_explain(probe, monkeypatch, gil):
    """Of a free-threaded interpreter: what other threads compute does not hold the loop up."""
    monkeypatch.setattr(sys, "_is_gil_enabled", lambda: gil, raising=False)

    async def main():
        (watch,) = eventloop._state.monitor._running.values()
        at = watch.counters.at_ns
        watch.tracker.look(Observation(Counters(at + 1, 0), "callback"))
        (told,) = watch.tracker.look(Observation(Counters(at + 400_000_001, 4_000_000, 390_000_000), "callback"))
        assert as_judged(told)[5] == ("gil_contention" if gil else "unknown")

    asyncio.run(main())


# -- one long callback, or many short ones ---------------------------------------------------------------------


def short(duration=0.01):
    time.sleep(duration)


async def short_task():
    short()


async def many_callbacks():
    loop = asyncio.get_running_loop()
    for _ in range(40):
        loop.call_soon(short)


async def many_tasks():
    await asyncio.gather(*[short_task() for _ in range(40)])


@pytest.mark.parametrize("many", [many_callbacks, many_tasks])
def test_many_short_callbacks_are_lag_but_no_block(probe, kind, many):
    async def main():
        await seen_idle(probe)
        await many()
        await asyncio.sleep(0)

    with Driver(probe):
        run(kind, main())
    assert probe.own_blocks() == []
    assert max(probe.lags_ns()) > 0.2e9


def test_one_long_callback_among_short_ones(probe, kind):
    stamps = []

    def stamp():
        stamps.append(time.perf_counter())

    async def main():
        await seen_idle(probe)
        loop = asyncio.get_running_loop()
        for _ in range(10):
            loop.call_soon(short)
        loop.call_soon(stamp)
        loop.call_soon(short, 0.4)
        loop.call_soon(stamp)
        for _ in range(10):
            loop.call_soon(short)
        await asyncio.sleep(0)

    with Driver(probe):
        run(kind, main())
    (block,) = probe.own_blocks()
    begun, ended = stamps
    # each end is known to within half the time between two looks
    assert 0.3 < seconds(block) < ended - begun + 0.15
    assert block[6][0][2] == "short"


def test_three_long_callbacks_in_one_turn_are_three_blocks(probe, kind):
    async def block(duration):
        time.sleep(duration)

    async def main():
        await seen_idle(probe)
        await asyncio.gather(block(0.3), block(0.2), block(0.4))

    with Driver(probe):
        run(kind, main())
    blocks = probe.own_blocks()
    assert len(blocks) == 3
    assert len({message[6][0] for message in blocks}) == 1
    # each border between two of them is known to within half a look
    assert sum(map(seconds, blocks)) > 0.8


# -- lag, tasks, idleness --------------------------------------------------------------------------------------


def test_tasks_are_counted(probe, kind):
    async def main():
        stop = asyncio.Event()
        waiting = [asyncio.ensure_future(stop.wait()) for _ in range(30)]
        done = asyncio.ensure_future(asyncio.sleep(0))
        await done
        while not any(message[4] == 31 for message in probe.tagged("loop_tick")):
            await asyncio.sleep(0.01)
        stop.set()
        await asyncio.gather(*waiting)

    with Driver(probe):
        run(kind, main())


def test_many_tasks_are_estimated():
    async def main():
        stop = asyncio.Event()
        waiting = [asyncio.ensure_future(stop.wait()) for _ in range(3 * TASKS_LOOKED_AT)]
        done = [asyncio.ensure_future(asyncio.sleep(0)) for _ in range(3 * TASKS_LOOKED_AT)]
        await asyncio.gather(*done)
        counted = count_now(TaskCount(task_register(asyncio.tasks)))
        stop.set()
        await asyncio.gather(*waiting)
        return counted

    unfinished = 3 * TASKS_LOOKED_AT + 1
    # Those looked at come in the order of their addresses, not drawn by lot.
    assert 0.2 * unfinished < asyncio.run(main()) < 1.9 * unfinished


needs_table = pytest.mark.skipif(
    task_register(asyncio.tasks) != TABLE, reason="from 3.14 on tasks are in a table of asyncio's C code"
)
needs_eager_tasks = pytest.mark.skipif(
    not hasattr(asyncio, "eager_task_factory"), reason="from 3.12 on tasks may be eager"
)


def be_eager(kind):
    if kind == "uvloop" and "eager_start" not in inspect.signature(asyncio.eager_task_factory).parameters:
        pytest.skip("uvloop 0.23 makes no eager tasks before 3.14")
    asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)


def count_now(count, now_ns=0):
    noted = {}
    next(count.ask(asyncio.get_running_loop(), noted, now_ns))
    return count.take(noted)


async def waiting(number, stop):
    tasks = [asyncio.ensure_future(stop.wait()) for _ in range(number)]
    await asyncio.sleep(0)
    return tasks


@needs_table
def test_a_table_of_many_tasks_is_not_copied(monkeypatch):
    copied = []
    all_tasks = asyncio.tasks.all_tasks

    def copy(loop):
        copied.append(all_tasks(loop))
        return copied[-1]

    monkeypatch.setattr(asyncio.tasks, "all_tasks", copy)

    async def main():
        stop, count = asyncio.Event(), TaskCount(TABLE)
        tasks = await waiting(TASKS_LOOKED_AT // 4, stop)
        # What a task holds is known from a few.
        assert count_now(count) == TASKS_LOOKED_AT // 4 + 1
        tasks += await waiting(5 * TASKS_LOOKED_AT, stop)
        copied.clear()
        soon = 5 * TASKS_LOOKED_AT * PAUSE_PER_TASK_NS // 2
        assert 0.8 * len(tasks) < count_now(count, soon) < 1.2 * len(tasks)
        assert copied == []
        assert count_now(count, 3 * soon) == len(tasks) + 1
        assert len(copied) == 1
        stop.set()
        await asyncio.gather(*tasks)
        # The collector has yet to see that they are gone.
        assert count_now(count, 6 * soon) == 1
        tasks += await waiting(2 * COPIED_AT_MOST, stop)
        copied.clear()
        assert COPIED_AT_MOST < count_now(count, 10**6 * soon) < 4 * COPIED_AT_MOST
        assert copied == []

    asyncio.run(main())


@needs_table
def test_tasks_of_a_class_that_is_not_asyncios_are_not_asked(monkeypatch):
    class Task:
        def done(self):
            raise AssertionError("this is the program's")

        get_loop = done

    task = Task()
    tasks = weakref.WeakSet([task])
    monkeypatch.setattr(asyncio.tasks, "_scheduled_tasks", tasks)

    async def main():
        assert count_now(TaskCount(TABLE)) is None
        tasks.clear()
        assert count_now(TaskCount(TABLE)) is not None

    asyncio.run(main())


@needs_eager_tasks
def test_eager_tasks_are_counted_once_they_wait(probe, kind):
    async def main():
        be_eager(kind)
        stop = asyncio.Event()
        tasks = [asyncio.ensure_future(stop.wait()) for _ in range(30)]
        done = [asyncio.ensure_future(answer()) for _ in range(30)]
        # uvloop begins them with its next turn.
        assert all(task.done() for task in done) or kind == "uvloop"
        await asyncio.gather(*done)
        while not any(message[4] == 31 for message in probe.tagged("loop_tick")):
            await asyncio.sleep(0.01)
        stop.set()
        await asyncio.gather(*tasks)

    async def answer():
        return 42

    with Driver(probe):
        run(kind, main())


@needs_eager_tasks
def test_a_block_in_an_eager_task(probe, kind):
    async def main():
        be_eager(kind)
        await seen_idle(probe)
        await asyncio.gather(*[holds() for _ in range(2)])

    async def holds():
        time.sleep(0.3)  # blocks
        await asyncio.sleep(0)

    with Driver(probe):
        run(kind, main())
    # asyncio begins both in the one step of the task that made them.
    blocks = probe.own_blocks()
    assert len(blocks) == (1 if kind == "asyncio" else 2)
    assert sum(map(seconds, blocks)) > 0.5
    for block in blocks:
        assert block[5] == "blocking_call"
        assert block[6] == [line_of(holds, "# blocks")]


def test_an_idle_loop_is_left_asleep(probe, kind, monkeypatch):
    from poolscope.probe.loops import watch as loopwatch

    posted = []
    post = loopwatch._post
    monkeypatch.setattr(loopwatch, "_post", lambda *args: (posted.append(time.perf_counter()), post(*args)))
    started = time.perf_counter()
    with Driver(probe):
        run(kind, asyncio.sleep(1.2))
    # one each quarter of a second, and three short runs of the loop
    assert len(posted) <= 4 * (time.perf_counter() - started) + 4
    assert probe.lags_ns()


def test_a_busy_loop_that_lets_go_of_the_gil_often_is_no_block(probe, kind):
    # our thread wakes up each time, and comes too late each time: it may not see anything for long
    ours, theirs = socket.socketpair()

    async def main():
        await seen_idle(probe)
        until = time.perf_counter() + 1
        while time.perf_counter() < until:
            for _ in range(2):
                spin(time.perf_counter() + 0.001)
                ours.send(b"x")
                theirs.recv(1)
            await asyncio.sleep(0)

    with Driver(probe):
        run(kind, main())
    ours.close()
    theirs.close()
    assert probe.own_blocks() == []


# -- loops come and go -----------------------------------------------------------------------------------------


def test_a_loop_is_seen_from_start_to_end(probe, kind):
    loop = new_loop(kind)
    for _ in range(2):
        loop.run_until_complete(asyncio.sleep(0))
    loop.close()
    other = new_loop(kind)
    other.run_until_complete(asyncio.sleep(0))
    other.close()
    tags = [message[:2] for message in probe.messages if message[0] != "loop_tick"]
    first, second = tags[0][1], tags[-1][1]
    assert first != second
    opened_closed = [("loop_opened", first), ("loop_closed", first)]
    assert tags == [*opened_closed, *opened_closed, ("loop_opened", second), ("loop_closed", second)]
    assert {message[2:4] for message in probe.tagged("loop_opened")} == {("MainThread", kind)}
    assert probe.wakes == 3
    assert probe.jobs == []


def test_loops_in_several_threads(probe, kind):
    together = threading.Barrier(3)

    async def main():
        together.wait()  # a block, which nobody looks at
        await asyncio.sleep(0)

    threads = [threading.Thread(target=run, args=[kind, main()], name=f"loop-{index}") for index in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    opened = probe.tagged("loop_opened")
    assert {message[2] for message in opened} == {"loop-0", "loop-1", "loop-2"}
    assert len({message[1] for message in opened}) == 3
    assert len(opened) == len(probe.tagged("loop_closed"))
    assert probe.jobs == []


def test_only_the_blocked_one_of_two_loops_is_blocked(probe, kind):
    done = threading.Event()

    async def well():
        while not done.is_set():
            await asyncio.sleep(0.005)

    healthy = threading.Thread(target=run, args=[kind, well()], name="healthy")
    with Driver(probe):
        healthy.start()
        run(kind, sleeper(probe))
        done.set()
        healthy.join()
    (block,) = probe.own_blocks()
    (loop,) = {message[1] for message in probe.tagged("loop_opened") if message[2] == "MainThread"}
    assert block[1] == loop


def test_a_loop_that_already_runs_is_picked_up(kind):
    probe = FakeProbe(loop_blocked_seconds=BLOCKED, sample_interval=0.01)

    async def main():
        eventloop.patch(probe)
        await sleeper(probe)

    with Driver(probe):
        try:
            run(kind, main())
            # asyncio.run goes on to run the same loop twice, through the patch
            assert len(probe.tagged("loop_opened")) == 3
        finally:
            eventloop.unpatch()
    assert len({message[1] for message in probe.tagged("loop_opened")}) == 1
    (block,) = probe.own_blocks()
    assert block[5] == "blocking_call"
    assert block[6] == [line_of(sleeper, "# blocks")]
    assert [message[0] for message in probe.messages if message[0] in ("loop_opened", "loop_closed")] == [
        "loop_opened",
        "loop_closed",
    ] * 3


def test_a_loop_that_stops_with_a_beat_under_way(probe, kind):
    loop = new_loop(kind)

    async def main():
        probe.look()
        time.sleep(0.01)
        probe.look()  # a coroutine runs, so a beat is posted, which the loop will not come to
        loop.stop()

    task = loop.create_task(main())
    loop.run_forever()
    loop.run_until_complete(task)
    probe.look()
    loop.close()
    assert probe.jobs == []
    # the beat of the first run was answered in the second: that is no lag of either
    assert all(lag < 1e9 for lag in probe.lags_ns())


def test_a_loop_that_is_closed_as_a_beat_is_posted(probe, kind):
    loop = new_loop(kind)
    loop.run_until_complete(asyncio.sleep(0))
    watch = None

    async def main():
        nonlocal watch
        (watch,) = eventloop._state.monitor._running.values()

    loop.run_until_complete(main())
    loop.close()
    watch.post(time.perf_counter_ns(), asked=True)
    assert watch.pending_ns is None


def test_a_block_that_still_lasts_is_told_when_asked(probe, kind):
    entered, leave = threading.Event(), threading.Event()

    async def main():
        await seen_idle(probe)
        entered.set()
        leave.wait()

    with Driver(probe):
        thread = threading.Thread(target=run, args=[kind, main()])
        thread.start()
        entered.wait()
        while not probe.blocks():
            time.sleep(0.01)
        told = len(probe.tagged("loop_block"))
        eventloop.flush()
        assert len(probe.tagged("loop_block")) > told
        assert not probe.tagged("loop_block")[-1][4]
        leave.set()
        thread.join()
    assert len(probe.own_blocks()) == 1


def test_a_collected_loop_leaves_nothing(probe, kind):
    loop = new_loop(kind)
    with Driver(probe):
        loop.run_until_complete(asyncio.sleep(0.1))
    loop.close()
    gone = weakref.ref(loop)
    del loop
    gc.collect()
    assert gone() is None


def test_nothing_of_a_callback_is_kept(probe, kind):
    class Thing:
        pass

    kept = []

    async def main():
        await seen_idle(probe)
        thing = Thing()
        reference = weakref.ref(thing)

        def callback(thing):
            probe.look()
            probe.look()

        loop = asyncio.get_running_loop()
        loop.call_soon(callback, thing)
        del thing
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        kept.append(reference())

    run(kind, main())
    assert kept == [None]


# -- the program stays as it was -------------------------------------------------------------------------------


def test_patching_is_undone_exactly():
    classes = [asyncio.BaseEventLoop, uvloop.Loop]
    before = [dict(vars(cls)) for cls in classes]
    order = [list(vars(cls)) for cls in classes]
    hooks = list(gc.callbacks)
    for _ in range(2):
        probe = FakeProbe()
        eventloop.patch(probe)
        eventloop.patch(probe)
        for cls, old in zip(classes, before, strict=True):
            new = vars(cls)["run_forever"]
            original = old.get("run_forever", cls.__mro__[1].__dict__.get("run_forever"))
            assert new is not original
            assert new.__doc__ == original.__doc__
            assert new.__name__ == original.__name__
            assert new.__qualname__ == original.__qualname__
            assert new.__module__ == original.__module__
            assert list(inspect.signature(new).parameters) == ["self"]
        eventloop.unpatch()
        eventloop.unpatch()
        assert [dict(vars(cls)) for cls in classes] == before
        assert [list(vars(cls)) for cls in classes] == order
    assert gc.callbacks == hooks


def test_a_patch_over_ours_is_left_alone(monkeypatch):
    probe = FakeProbe()
    eventloop.patch(probe)
    ours = asyncio.BaseEventLoop.run_forever

    def theirs(self):
        return ours(self)

    original = ours.__wrapped__
    asyncio.BaseEventLoop.run_forever = theirs
    try:
        eventloop.unpatch()
        assert asyncio.BaseEventLoop.run_forever is theirs
        asyncio.run(asyncio.sleep(0))
        assert probe.messages == []
    finally:
        asyncio.BaseEventLoop.run_forever = original


def test_another_probe_takes_over(probe):
    other = FakeProbe()
    eventloop.patch(other)
    asyncio.run(asyncio.sleep(0))
    assert probe.messages == []
    assert other.tagged("loop_opened")


def test_unpatching_closes_what_runs(probe, kind):
    async def main():
        eventloop.unpatch()
        assert probe.jobs == []
        await asyncio.sleep(0)

    run(kind, main())
    assert [message[0] for message in probe.messages] == ["loop_opened", "loop_closed"]


def test_results_and_errors_are_the_programs(probe, kind):
    async def answer():
        return 42

    async def fail():
        raise KeyError("mine")

    assert run(kind, answer()) == 42
    with pytest.raises(KeyError, match="mine"):
        run(kind, fail())


@pytest.mark.parametrize("how", ["closed", "interrupt", "exit"])
def test_tracebacks_do_not_show_us(probe, kind, how):
    loop = new_loop(kind)

    def leave():
        raise KeyboardInterrupt if how == "interrupt" else SystemExit(3)

    if how == "closed":
        loop.close()
    else:
        loop.call_soon(leave)
    try:
        with pytest.raises((RuntimeError, KeyboardInterrupt, SystemExit)) as caught:
            loop.run_forever()
    finally:
        loop.close()
    files = [frame.filename for frame in traceback.extract_tb(caught.value.__traceback__)]
    assert not [name for name in files if os.path.join("loops", "patch.py") in name]
    assert files[0] == __file__
    assert len(probe.tagged("loop_opened")) == len(probe.tagged("loop_closed"))


def test_a_loop_in_debug_mode_does_not_log_our_beats(probe, kind, caplog):
    async def main():
        loop = asyncio.get_running_loop()
        loop.set_debug(True)
        # uvloop runs our beat as any callback: a slow one is at least this long
        loop.slow_callback_duration = 0 if kind == "asyncio" else 0.05
        for _ in range(60):
            await asyncio.sleep(0.01)
            spin(time.perf_counter() + 0.001)

    with caplog.at_level(logging.DEBUG, "asyncio"), Driver(probe):
        run(kind, main())
    assert probe.lags_ns()
    logged = [record.getMessage() for record in caplog.records]
    # A message names callables and the places of their code. The checkout may have any name, so that places are
    # compared with ours and taken out before our names are looked for.
    ours = os.path.join(os.path.dirname(poolscope.__file__), "")
    place = re.compile(r"\bat (/.*?):\d+")
    assert not [text for text in logged if any(path.startswith(ours) for path in place.findall(text))]
    assert not [text for text in logged if re.search("poolscope|partial|stamp", place.sub("", text))]


def test_an_interrupt_during_a_collection_arrives(probe):
    # a collector's callback in Python would swallow it
    garbage = [[index] for index in range(500_000)]

    async def main():
        for _ in range(5):
            pid = os.getpid()
            killer = threading.Thread(target=os.kill, args=[pid, signal.SIGUSR1])
            killer.start()
            gc.collect()
            killer.join()

    arrived = []

    def handler(number, frame):
        arrived.append(frame.f_code.co_filename if frame else None)

    old = signal.signal(signal.SIGUSR1, handler)
    try:
        asyncio.run(main())
    finally:
        signal.signal(signal.SIGUSR1, old)
    assert len(arrived) == 5
    assert not [
        name for name in arrived if name and name.endswith(("kernel_clocks.py", os.path.join("loops", "watch.py")))
    ]
    del garbage


def test_our_failure_does_not_reach_the_loop(kind):
    probe = FakeProbe()
    probe.add_job = mistake(ZeroDivisionError())
    eventloop.patch(probe)
    try:
        run(kind, asyncio.sleep(0))
    finally:
        eventloop.unpatch()
    assert {part for part, _ in probe.faults} == {"eventloop"}


@pytest.mark.parametrize("step", ["enter", "leave"])
def test_what_a_signal_handler_raises_is_the_programs(probe, kind, monkeypatch, step):
    """As an alarm does that goes off in the midst of our code."""

    class TimeIsUpError(Exception):
        pass

    def handler(*_):
        raise TimeIsUpError

    monkeypatch.setattr(monitor.Monitor, "_watch" if step == "enter" else "_end", handler)
    loop = new_loop(kind)
    done = loop.create_future()
    done.set_result(None)
    with pytest.raises(TimeIsUpError):
        loop.run_until_complete(done)
    loop.close()
    monkeypatch.undo()
    run(kind, asyncio.sleep(0))
    assert probe.tagged("loop_closed")


def test_what_a_signal_handler_raises_while_tasks_are_counted(monkeypatch):
    def handler(*_):
        raise TimeoutError

    async def main():
        monkeypatch.setattr(loop_tasks, "islice", handler)
        with pytest.raises(TimeoutError):
            count_now(TaskCount(SETS))
        monkeypatch.setattr(loop_tasks, "islice", mistake(KeyError()))
        assert count_now(TaskCount(SETS)) is None

    asyncio.run(main())


def test_a_loop_that_refuses_beats_is_let_alone(probe):
    class Odd(asyncio.SelectorEventLoop):
        def call_soon_threadsafe(self, callback, *args, context=None):
            raise ValueError("not here")

    loop = Odd()

    async def main():
        for _ in range(2):
            probe.look()

    loop.run_until_complete(main())
    loop.close()
    assert probe.notices == [
        f"an event loop of class {__name__}.{Odd.__qualname__} is not watched: ValueError: not here"
    ]
    assert len(probe.tagged("loop_closed")) == 1
    probe.notices.clear()


def test_a_forked_child_begins_anew(probe):
    async def main():
        pid = os.fork()
        if pid:
            return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        code = 1
        try:
            events = asyncio.events
            events._set_running_loop(None)
            probe.messages.clear()
            probe.jobs.clear()
            asyncio.run(asyncio.sleep(0))
            opened, closed = probe.tagged("loop_opened"), probe.tagged("loop_closed")
            code = 0 if len(opened) == len(closed) == 3 and not probe.jobs else 2
        finally:
            os._exit(code)

    assert asyncio.run(main()) == 0


def test_the_loop_of_a_notebooks_kernel_is_left_out(probe, kind, monkeypatch):
    """Each cell is a callback of it, however long that takes."""
    kernel = types.ModuleType("ipykernel.kernelapp")
    exec("def start(cell): return cell()", vars(kernel))
    monkeypatch.setitem(sys.modules, "ipykernel", types.ModuleType("ipykernel"))
    with Driver(probe):
        run(kind, asyncio.sleep(0))
    watched = len(probe.tagged("loop_opened"))
    assert watched
    kernel.start(lambda: run(kind, asyncio.sleep(0)))
    assert len(probe.tagged("loop_opened")) == watched
    assert set(probe.notices) == {"the event loop of the notebook's kernel is not watched: its cells run in it"}
    probe.notices.clear()


async def waits_for_itself(probe):
    await seen_idle(probe)
    loop = asyncio.get_running_loop()
    future = asyncio.run_coroutine_threadsafe(asyncio.sleep(0), loop)
    with contextlib.suppress(TimeoutError):
        future.result(timeout=0.4)  # blocks


async def waits_for_a_thread(probe):
    await seen_idle(probe)
    with ThreadPoolExecutor(1) as pool:  # blocks
        pool.submit(time.sleep, 0.4)


async def waits_for_a_future(probe):
    await seen_idle(probe)
    pool = ThreadPoolExecutor(1)
    pool.submit(time.sleep, 0.4).result()  # blocks
    pool.shutdown()


async def waits_for_a_lock(probe):
    await seen_idle(probe)
    lock = threading.Lock()
    lock.acquire()
    threading.Timer(0.4, lock.release).start()
    with lock:  # blocks
        pass


@pytest.mark.parametrize(
    ("main", "gate"),
    [
        (waits_for_itself, "own_coroutine"),
        (waits_for_a_thread, "executor_end"),
        (waits_for_a_future, "future"),
        (waits_for_a_lock, "lock"),
        (sleeper, ""),
    ],
)
def test_what_a_loop_is_stopped_at(probe, main, gate):
    with Driver(probe):
        run("asyncio", main(probe))
    block = max(probe.ended_blocks(), key=seconds)
    (raw,) = [message for message in probe.messages if message[:3] == block[:3] and message[4]]
    assert raw[10] == gate
    if block[6]:
        assert block[6][0] == line_of(main, "# blocks")


def test_a_loop_at_work_is_told_of(probe):
    """None of its callbacks blocks it, and it has no rest all the same."""

    async def step(end):
        while time.perf_counter() < end:
            spin(time.perf_counter() + 0.02)
            await asyncio.sleep(0)

    async def main():
        end = time.perf_counter() + 2.5
        await asyncio.gather(*(step(end) for _ in range(3)))

    with Driver(probe):
        run("asyncio", main())
    loads = [parse(message) for message in probe.tagged("loop_load")]
    assert loads
    most = max(loads, key=lambda load: load.share)
    assert most.share > 0.5
    assert most.tasks >= 3
    assert most.evidence.wall_ns == most.at_ns - most.since_ns
    (heaviest, _), *_ = most.lines
    assert heaviest[0][2] == "spin"
