"""An exception that comes up in the midst of our code, wherever one can, reaches the program; the record stays true.

A signal handler raises wherever the main thread is, and another thread may set an exception in a worker. Each step of
ours is such a place (see `stepping`): the exception must come out of the call, a submission that raised is no task
unless the queue has it, and the pool is recorded on.
"""

from __future__ import annotations

import concurrent.futures
import gc
import queue
import threading
import weakref
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import count

import pytest
from probe_support import FakeProbe, Ledger, as_ours, mistake
from stepping import LIMIT, TimeIsUpError, interrupting

import poolscope
from poolscope.probe import runtime
from poolscope.probe.interpreter.blame import is_ours


class Pool:
    """An executor with one worker that is held, its probe and its ledger."""

    def __init__(self, kind, monkeypatch):
        self.probe = FakeProbe()
        monkeypatch.setitem(runtime._made, "probe", self.probe)
        self.installed = None if kind == "drop-in" else poolscope.install(loops=False)
        self.executor = (poolscope.ThreadPoolExecutor if kind == "drop-in" else ThreadPoolExecutor)(1)
        self.ran = []
        self.opened = threading.Event()
        started = threading.Event()
        self.executor.submit(lambda: started.set() or self.opened.wait(LIMIT))
        assert started.wait(LIMIT)
        self.ledger = Ledger(self.probe.recorders[0], self.probe)

    def task(self):
        self.ran.append(1)

    def close(self):
        self.opened.set()
        self.executor.shutdown()
        if self.installed is not None:
            self.installed.uninstall()
        assert not self.probe.faults
        self.ledger.read()
        return self.ledger.counts()


@pytest.fixture(params=["drop-in", "patched"])
def make(request, monkeypatch):
    gc.disable()
    made = []

    def make():
        made.append(Pool(request.param, monkeypatch))
        return made[-1]

    yield make
    gc.enable()
    for pool in made:
        pool.opened.set()
        if pool.installed is not None:
            pool.installed.uninstall()


@pytest.fixture(scope="module")
def interrupt():
    with interrupting() as interrupt:
        yield interrupt


def test_a_submission_may_be_interrupted_at_each_step(make, interrupt):
    for at in count(1):
        pool = make()
        pool.probe.functions.identify(pool.task)
        raised = interrupt(lambda pool=pool: pool.executor.submit(pool.task), at)
        pool.executor.submit(pool.task)
        counts = pool.close()
        # The one after it and the one before it are recorded; itself, if its submission was not taken back.
        recorded = counts["succeeded"] - 2
        assert recorded in (0, 1)
        assert recorded <= len(pool.ran) - 1
        assert counts["submitted"] == counts["succeeded"] + counts["cancelled"]
        assert (counts["queued"], counts["running"]) == (0, 0)
        if not raised:
            break
    assert at > 10


def test_a_cancellation_may_be_interrupted_at_each_step(make, interrupt):
    for at in count(1):
        pool = make()
        future = pool.executor.submit(pool.task)
        raised = interrupt(future.cancel, at)
        counts = pool.close()
        assert counts["submitted"] == 2
        assert (counts["queued"], counts["running"]) == (0, 0), f"at step {at}"
        if not raised:
            break


def test_an_exception_that_passed_through_is_in_no_cycle(make, interrupt):
    pool = make()
    kept = []

    def submit():
        try:
            pool.executor.submit(pool.task)
        except TimeIsUpError as error:
            kept.append(weakref.ref(error))
            raise

    for at in range(1, 10):
        assert interrupt(submit, at)
    assert [ref() for ref in kept] == [None] * 9
    pool.close()


def test_what_the_queue_refuses_is_no_task(make):
    pool = make()

    class Shedding(queue.Queue):
        def put(self, item, block=True, timeout=None):
            super().put(item, block=item is None)

    before, pool.executor._work_queue = pool.executor._work_queue, Shedding(2)
    accepted = [pool.executor.submit(pool.task) for _ in range(2)]
    for _ in range(3):
        with pytest.raises(queue.Full):
            pool.executor.submit(pool.task)
    counts = pool.ledger.read().counts()
    assert (counts["submitted"], counts["queued"]) == (3, 2)
    # The worker waits at the queue that it was made with.
    while not pool.executor._work_queue.empty():
        before.put(pool.executor._work_queue.get())
    pool.executor._work_queue = before
    counts = pool.close()
    assert (counts["submitted"], counts["succeeded"], counts["cancelled"]) == (3, 3, 0)
    assert [future.done() for future in accepted] == [True, True]


def test_what_is_taken_back_after_it_was_told_counts_as_cancelled(make):
    """A reading comes between the record of a submission and the refusal of the queue."""
    pool = make()

    class Read(queue.SimpleQueue):
        def put(self, item, *_):
            pool.ledger.read()
            raise queue.Full

    queue_of_worker, pool.executor._work_queue = pool.executor._work_queue, Read()
    with pytest.raises(queue.Full):
        pool.executor.submit(pool.task)
    pool.executor._work_queue = queue_of_worker
    counts = pool.close()
    assert (counts["submitted"], counts["succeeded"], counts["cancelled"], counts["queued"]) == (2, 1, 1, 0)


def test_futures_of_the_program_are_asked_for_nothing(make):
    pool = make()
    asked = []

    class Proxy(Future):
        def __getattr__(self, name):
            asked.append(name)
            return getattr(self.result(), name)

    proxy = Proxy()
    assert proxy.cancel()
    other = Proxy()
    other.set_exception(concurrent.futures.thread.BrokenThreadPool("broken"))
    assert [name for name in asked if not name.startswith("__")] == []
    pool.close()


@as_ours
def frames_of(function):
    try:
        function()
    except BaseException as error:
        return error
    raise AssertionError("it raised nothing")


@pytest.mark.parametrize(
    ("error", "ours"),
    [
        (frames_of(mistake(KeyError("x"))), True),
        (frames_of(mistake(MemoryError())), True),
        (frames_of(mistake(TimeoutError())), False),
        (frames_of(mistake(Exception("time is up"))), False),
        (frames_of(lambda: pytest.raises(3)), False),
        (frames_of(as_ours(lambda: pytest.approx(1).__eq__.nothing)), True),
        (frames_of(mistake(TimeIsUpError())), False),
        (frames_of(mistake(KeyboardInterrupt())), False),
        (frames_of(lambda: {}["x"]), False),
        (frames_of(lambda: concurrent.futures.Future().result(0)), False),
        (RuntimeError("never raised"), True),
    ],
    ids=lambda value: type(value).__name__,
)
def test_whose_an_exception_is(error, ours):
    assert is_ours(error) == ours
