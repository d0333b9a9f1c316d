"""Each race of two operations on a pool, provoked at every step of the first one; see `stepping`.

One line above each scenario says which race it is. They hold for the drop-in executor and the standard one patched.
"""

from __future__ import annotations

import concurrent.futures
import concurrent.futures.thread
import gc
import os
import signal
import threading
from concurrent.futures import CancelledError, ThreadPoolExecutor

import pytest
from probe_support import FakeProbe, Ledger
from stepping import LIMIT, Scenario, interleavings

import poolscope
from poolscope.probe import runtime
from poolscope.probe.recording.function_table import FunctionTable
from poolscope.probe.runtime import Probe
from poolscope.probe.settings import ProbeSettings
from poolscope.probe.transport.dispatcher import Dispatcher


@pytest.fixture(autouse=True)
def one_thing_at_a_time():
    """No collection at a moment of its own, which would be more steps to count."""
    gc.disable()
    yield
    gc.enable()


@pytest.fixture(params=["drop-in", "patched"])
def executor_class(request, monkeypatch):
    monkeypatch.setitem(runtime._made, "probe", None)
    if request.param == "drop-in":
        yield poolscope.ThreadPoolExecutor
    else:
        # The patch asks for the probe when it is put on, and each scenario has one of its own.
        yield ThreadPoolExecutor


class Pool:
    """One executor with a probe and a ledger of its own."""

    def __init__(self, executor_class, max_workers=1, **kwargs):
        self.probe = runtime._made["probe"] = FakeProbe()
        self.installed = None
        if executor_class is ThreadPoolExecutor:
            self.installed = poolscope.install(loops=False)
        self.executor = executor_class(max_workers, **kwargs)
        self.ledger = Ledger(self.probe.recorders[0], self.probe)
        self.opened = threading.Event()

    def block(self):
        started = threading.Event()

        def hold():
            started.set()
            assert self.opened.wait(LIMIT)

        self.executor.submit(hold)
        assert started.wait(LIMIT)

    def close(self):
        """Ends the pool, and checks that each task was recorded once."""
        self.opened.set()
        self.executor.shutdown()
        if self.installed is not None:
            self.installed.uninstall()
        self.ledger.read()
        assert set(self.ledger.tasks.values()) <= {0}, self.ledger.tasks
        assert (self.ledger.queued, self.ledger.running) == (0, 0)
        assert not self.probe.faults
        return {name: count for name, count in self.ledger.counts().items() if count}


class PoolScenario(Scenario):
    """A pool with one worker; in it a task that notes that it ran."""

    blocked = False

    def __init__(self, executor_class):
        self.pool = Pool(executor_class)
        self.ran = []
        self.submitted = threading.Event()
        self.pool.probe.functions.identify(self.task)  # a function that has been met before
        if self.blocked:
            self.pool.block()

    def submit(self):
        self.future = self.pool.executor.submit(self.task)
        self.submitted.set()

    def task(self):
        self.ran.append(1)
        return "value"

    def await_submit(self):
        assert self.submitted.wait(LIMIT)

    def end_of_worker(self):
        """Lets the worker go and waits for it to end."""
        self.pool.opened.set()
        self.pool.executor.shutdown()


class Stepped(PoolScenario):
    """The worker is the first operation: from its start through one task to its end."""

    steps = "workers"

    def first(self):
        self.submit()
        self.end_of_worker()


class Queued(PoolScenario):
    """The task is queued behind another one that the second operation lets go."""

    blocked = True

    def __init__(self, executor_class):
        super().__init__(executor_class)
        self.submit()


# -- start and cancel --------------------------------------------------------------------------------------


class CheckedCancel:
    def check(self):
        counts = self.pool.close()
        others = int(self.blocked)
        assert self.ran == ([] if self.said else [1])
        assert self.future.cancelled() == self.said
        assert self.future.done()
        if self.said:
            assert counts == {"submitted": 1 + others, "cancelled": 1} | ({"succeeded": others} if others else {})
        else:
            assert counts == {"submitted": 1 + others, "succeeded": 1 + others}


# A worker takes the task out of the queue while somebody cancels it.
class StartAgainstCancel(CheckedCancel, Stepped):
    def second(self):
        self.await_submit()
        self.said = self.future.cancel()


# Somebody cancels the task while a worker takes it out of the queue.
class CancelAgainstStart(CheckedCancel, Queued):
    def first(self):
        self.said = self.future.cancel()

    def second(self):
        self.end_of_worker()


# Two threads cancel at once: both are told yes, the callback is called once, and it counts once.
class CancelAgainstCancel(Queued):
    def __init__(self, executor_class):
        super().__init__(executor_class)
        self.said, self.called = [], []
        self.future.add_done_callback(self.called.append)

    def first(self):
        self.said.append(self.future.cancel())

    second = first

    def check(self):
        assert self.said == [True, True]
        assert self.called == [self.future]
        assert self.pool.close() == {"submitted": 2, "succeeded": 1, "cancelled": 1}


# The task is cancelled while the pool breaks: it is cancelled or failed, not both.
class BreakAgainstCancel(Stepped):
    def __init__(self, executor_class):
        super().__init__(executor_class)
        executor = self.pool.executor
        if hasattr(executor, "_create_worker_context"):  # from 3.14 on
            executor._create_worker_context = lambda: concurrent.futures.thread.WorkerContext(self.fail, ())
        else:
            executor._initializer = self.fail

    def fail(self):
        # Not before the task is queued behind the first.
        assert self.submitted.wait(LIMIT)
        raise ValueError

    def submit(self):
        self.pool.executor.submit(self.task)
        try:
            super().submit()
        except concurrent.futures.BrokenExecutor:  # pragma: no cover
            raise AssertionError("the initializer waits") from None

    def second(self):
        self.await_submit()
        self.said = self.future.cancel()

    def check(self):
        counts = self.pool.close()
        assert self.future.cancelled() == self.said
        assert counts == ({"submitted": 2, "broken": 1, "cancelled": 1} if self.said else {"submitted": 2, "broken": 2})


# -- submit and shutdown -----------------------------------------------------------------------------------


class SubmitOrNot(PoolScenario):
    cancel_futures = False
    future = None

    def submit(self):
        try:
            super().submit()
        except RuntimeError:
            self.submitted.set()

    def shut(self):
        self.pool.executor.shutdown(wait=False, cancel_futures=self.cancel_futures)

    def check(self):
        counts = self.pool.close()
        if self.future is None:
            assert counts == {"rejected": 1}
        elif self.future.cancelled():
            assert self.cancel_futures
            assert counts == {"submitted": 1, "cancelled": 1}
        else:
            assert self.future.result(LIMIT) == "value"
            assert counts == {"submitted": 1, "succeeded": 1}


# The pool is shut down while a task is submitted: refused, or run to its end.
class SubmitAgainstShutdown(SubmitOrNot):
    def first(self):
        self.submit()

    def second(self):
        self.shut()


# The same the other way round.
class ShutdownAgainstSubmit(SubmitOrNot):
    def first(self):
        self.shut()

    def second(self):
        self.submit()


# The same with a shutdown that cancels what is queued.
class SubmitAgainstCancellingShutdown(SubmitAgainstShutdown):
    cancel_futures = True


class CancellingShutdownAgainstSubmit(ShutdownAgainstSubmit):
    cancel_futures = True


# The worker starts the task that a shutdown is about to cancel.
class StartAgainstCancellingShutdown(Stepped):
    def second(self):
        self.await_submit()
        self.pool.executor.shutdown(wait=False, cancel_futures=True)

    def check(self):
        counts = self.pool.close()
        how = "cancelled" if self.future.cancelled() else "succeeded"
        assert counts == {"submitted": 1, how: 1}
        assert self.ran == [1] * (how == "succeeded")


# Two threads submit at once, the pool has room for both.
class SubmitAgainstSubmit(PoolScenario):
    def __init__(self, executor_class):
        super().__init__(executor_class)
        self.futures = []

    def first(self):
        self.futures.append(self.pool.executor.submit(self.task))

    second = first

    def check(self):
        assert [future.result(LIMIT) for future in self.futures] == ["value"] * 2
        assert self.pool.close() == {"submitted": 2, "succeeded": 2}


# -- reading and recording ---------------------------------------------------------------------------------


class Read:
    """What a reading in between may find: each task once, and none that has not arrived."""

    def read(self):
        ledger = self.pool.ledger.read()
        assert set(ledger.tasks.values()) <= {0, 1}
        assert ledger.queued >= 0
        assert all(ledger.tasks[row[1], row[2]] == 1 for row in ledger.running_tasks)

    def check(self):
        self.counts = self.pool.close()
        assert sum(self.counts.values()) == 2 * self.counts["submitted"]


# A reader comes between the steps of a submit.
class SubmitAgainstRead(Read, PoolScenario):
    def first(self):
        self.submit()

    def second(self):
        self.read()


# A reader comes between the steps of a start and of an end.
class RunAgainstRead(Read, Stepped):
    def second(self):
        self.read()


# A reader comes between the steps of a cancellation.
class CancelAgainstRead(Read, Queued):
    def first(self):
        assert self.future.cancel()

    def second(self):
        self.read()


# A task arrives, starts and ends between the steps of a reader.
class ReadAgainstLife(Read, PoolScenario):
    def first(self):
        self.read()

    def second(self):
        self.submit()
        self.end_of_worker()


# A queued task starts and ends, or is cancelled, between the steps of a reader.
class ReadAgainstRun(Read, Queued):
    def first(self):
        self.read()

    def second(self):
        self.end_of_worker()


class ReadAgainstCancel(Read, Queued):
    def first(self):
        self.read()

    def second(self):
        assert self.future.cancel()


# A new worker joins between the steps of a reader, and a reader between the steps of another one.
class ReadAgainstRead(Queued):
    def __init__(self, executor_class):
        super().__init__(executor_class)
        self.batches = []

    def first(self):
        self.batches.append(self.pool.probe.recorders[0].drain(self.pool.probe.clock))

    def second(self):
        self.first()

    def check(self):
        assert sum(len(batch[-1]) // 2 for batch in self.batches) == 2
        self.pool.opened.set()
        self.pool.executor.shutdown()
        if self.pool.installed is not None:
            self.pool.installed.uninstall()


# -- those who wait for a result ---------------------------------------------------------------------------


class Awaited:
    def check(self):
        assert self.seen == ["value"]
        self.pool.close()


# A thread begins to wait for a result while it is set.
class ResultAgainstEnd(Awaited, Queued):
    def first(self):
        self.seen = [self.future.result(LIMIT)]

    def second(self):
        self.end_of_worker()


# The result is set while a thread begins to wait for it.
class EndAgainstResult(Awaited, Stepped):
    def second(self):
        self.await_submit()
        self.seen = [self.future.result(LIMIT)]


# A callback is added while the future is set: it is called once, with a future that is done.
class CallbackAgainstEnd(Awaited, Queued):
    def called(self, future):
        self.seen.append(future.result(0))

    def first(self):
        self.seen = []
        self.future.add_done_callback(self.called)

    def second(self):
        self.end_of_worker()


class EndAgainstCallback(CallbackAgainstEnd, Stepped):
    blocked = False

    def __init__(self, executor_class):
        Stepped.__init__(self, executor_class)
        self.seen = []

    first = Stepped.first

    def second(self):
        self.await_submit()
        self.future.add_done_callback(self.called)


# `wait` and `as_completed` leave their waiters at a future while it is set.
class WaitAgainstEnd(Awaited, Queued):
    def first(self):
        done, _ = concurrent.futures.wait([self.future], LIMIT)
        self.seen = [future.result(0) for future in done]

    def second(self):
        self.end_of_worker()


class EndAgainstWait(Awaited, Stepped):
    def second(self):
        self.await_submit()
        done, _ = concurrent.futures.wait([self.future], LIMIT)
        self.seen = [future.result(0) for future in done]


class AsCompletedAgainstEnd(Awaited, Queued):
    def first(self):
        self.seen = [future.result(0) for future in concurrent.futures.as_completed([self.future], LIMIT)]

    def second(self):
        self.end_of_worker()


class EndAgainstAsCompleted(Awaited, Stepped):
    def second(self):
        self.await_submit()
        self.seen = [future.result(0) for future in concurrent.futures.as_completed([self.future], LIMIT)]


# A thread begins to wait, or `wait` leaves its waiter, while the task is cancelled.
class ResultAgainstCancel(Awaited, Queued):
    def first(self):
        try:
            self.future.result(LIMIT)
        except CancelledError:
            self.seen = ["value"]

    def second(self):
        assert self.future.cancel()


class CancelAgainstResult(ResultAgainstCancel):
    first, second = ResultAgainstCancel.second, ResultAgainstCancel.first


class CancelAgainstWait(Awaited, Queued):
    def first(self):
        assert self.future.cancel()
        self.pool.opened.set()  # a cancelled future tells `wait` once a worker has met it

    def second(self):
        done, _ = concurrent.futures.wait([self.future], LIMIT)
        self.seen = ["value" for future in done if future.cancelled()]


# -- taking the patch off ----------------------------------------------------------------------------------


# The patch is taken off while a task is submitted: it runs, and is recorded in full or not at all.
class SubmitAgainstUninstall(Awaited, PoolScenario):
    def first(self):
        self.submit()
        self.seen = [self.future.result(LIMIT)]

    def second(self):
        if self.pool.installed is not None:
            self.pool.installed.uninstall()


# The same while it runs.
class RunAgainstUninstall(Awaited, Stepped):
    def first(self):
        super().first()
        self.seen = [self.future.result(LIMIT)]

    second = SubmitAgainstUninstall.second


# The same while it is cancelled.
class CancelAgainstUninstall(Awaited, Queued):
    def first(self):
        assert self.future.cancel()
        self.seen = ["value"]

    second = SubmitAgainstUninstall.second


# -- the end of an executor --------------------------------------------------------------------------------


class Collected(Scenario):
    """A real probe and one executor whose last reference goes while the probe reads."""

    tasks = 1

    def __init__(self, executor_class):
        self.messages = []
        self.probe = runtime._made["probe"] = Probe(ProbeSettings(sample_interval=3600))
        self.probe.supervised = True
        self.probe.add_sink(self.messages.append)
        self.installed = poolscope.install(loops=False) if executor_class is ThreadPoolExecutor else None
        self.executor = executor_class(1)
        self.futures = [self.executor.submit(int) for _ in range(self.tasks)]
        self.threads = list(self.executor._threads)
        self.drop_installed()

    def drop_installed(self):
        if self.installed is not None:
            self.installed.uninstall()

    def drop(self):
        self.executor = None

    def read(self):
        assert self.probe.flush(LIMIT)

    def check(self):
        for thread in self.threads:
            thread.join(LIMIT)
        assert self.probe.flush()
        assert self.probe.flush()
        self.probe.stop(LIMIT)
        tags = [message[0] for message in self.messages if message[0].startswith("pool_")]
        batches = [message for message in self.messages if message[0] == "pool_batch"]
        assert not [message for message in self.messages if message[0] == "fault"]
        assert sum(len(batch[11]) // 2 for batch in batches) == self.tasks
        assert sum(len(batch[7]) // 5 for batch in batches) == self.tasks
        assert tags.count("pool_opened") == tags.count("pool_closed") <= 1
        assert tags[-1:] in ([], ["pool_closed"])
        assert len(self.probe._pools) == 0


# An executor with a task that nobody has read yet is collected between the steps of a reader.
class ReadAgainstCollection(Collected):
    def first(self):
        self.read()

    def second(self):
        self.drop()


# The reader comes between the steps of that. Of the standard executor, patched, the collector calls next to nothing in
# Python: no function of ours.
class CollectionAgainstRead(Collected):
    fewest = 0

    def first(self):
        self.drop()

    def second(self):
        self.read()


# The same with an executor that never had a task.
class ReadAgainstUnusedCollection(ReadAgainstCollection):
    tasks = 0


class UnusedCollectionAgainstRead(CollectionAgainstRead):
    tasks = 0


# -- what pools share --------------------------------------------------------------------------------------


# Two threads name the same new function at once: one number, announced once and before it is used.
class NameAgainstName(Scenario):
    def __init__(self, executor_class):
        self.told, self.seen = [], []
        self.table = FunctionTable(self.told.append)

    def first(self):
        number = self.table.identify(self.check)
        self.seen.append((number, len(self.told)))

    second = first

    def check(self):
        assert self.seen == [(1, 1)] * 2
        assert len(self.told) == 1


# A sink comes, and messages with it, between the steps of a delivery: none twice, and none out of order.
class DeliveryAgainstSink(Scenario):
    def __init__(self, executor_class):
        self.faults, self.early, self.late = [], [], []
        self.outlet = Dispatcher(self.faults.append)
        self.outlet.add(self.early.append)
        self.outlet.add(self.faults.append)()
        for number in range(3):
            self.outlet.push(("notice", number))

    def first(self):
        self.outlet.deliver()

    def second(self):
        self.outlet.add(self.late.append)
        self.outlet.push(("notice", 3))

    def check(self):
        self.outlet.deliver()
        assert self.early == self.late == [("notice", number) for number in range(4)]
        assert not self.faults


# -- forks -------------------------------------------------------------------------------------------------


class Forked:
    """The second operation is a fork. Its child has none of the threads, and must not wait for their locks."""

    def __init__(self, executor_class):
        self.executor_class = executor_class
        self.held = threading.Event()
        self.prepared = threading.Event()
        super().__init__(executor_class)
        if self.steps == "caller":
            self.prepare()

    def prepare(self):
        """A task in the same pool that is queued behind one that does not end, and touched by nobody."""
        self.pool.executor.submit(self.hold)
        self.bystander = self.pool.executor.submit(int)
        self.prepared.set()

    def hold(self):
        self.held.set()
        assert self.pool.opened.wait(LIMIT)

    def second(self):
        assert self.prepared.wait(LIMIT)
        pid = os.fork()
        if pid == 0:
            try:
                os._exit(self.live())
            except BaseException:
                os._exit(9)
        self.status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    def live(self):
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(LIMIT // 3)
        self.bystander.add_done_callback(id)
        if not self.bystander.cancel():
            return 2
        probe = runtime._made["probe"] = FakeProbe()
        with self.executor_class(2) as pool:
            # Many, all of them kept: futures share their locks.
            futures = [pool.submit(int, number) for number in range(100)]
            if [future.result(LIMIT) for future in futures] != list(range(100)):
                return 3
        if self.executor_class is not ThreadPoolExecutor:
            counts = Ledger(probe.recorders[0], probe).read().counts()
            if counts["succeeded"] != 100 or counts["submitted"] != 100:
                return 4
        return 0

    def check(self):
        assert self.status == 0
        self.pool.close()


# A process forks while a task is submitted, cancelled, or starts and ends.
class SubmitAgainstFork(Forked, PoolScenario):
    def first(self):
        self.submit()


class CancelAgainstFork(Forked, Queued):
    def first(self):
        assert self.future.cancel()


class RunAgainstFork(Forked, Stepped):
    def first(self):
        self.submit()
        self.prepare()
        assert self.held.wait(LIMIT)


# The same while the pool is read.
class ReadAgainstFork(Forked, Queued):
    def first(self):
        self.pool.ledger.read()


SCENARIOS = [
    StartAgainstCancel,
    CancelAgainstStart,
    CancelAgainstCancel,
    BreakAgainstCancel,
    SubmitAgainstShutdown,
    ShutdownAgainstSubmit,
    SubmitAgainstCancellingShutdown,
    CancellingShutdownAgainstSubmit,
    StartAgainstCancellingShutdown,
    SubmitAgainstSubmit,
    SubmitAgainstRead,
    RunAgainstRead,
    CancelAgainstRead,
    ReadAgainstLife,
    ReadAgainstRun,
    ReadAgainstCancel,
    ReadAgainstRead,
    ResultAgainstEnd,
    EndAgainstResult,
    CallbackAgainstEnd,
    EndAgainstCallback,
    WaitAgainstEnd,
    EndAgainstWait,
    AsCompletedAgainstEnd,
    EndAgainstAsCompleted,
    ResultAgainstCancel,
    CancelAgainstResult,
    CancelAgainstWait,
    SubmitAgainstUninstall,
    RunAgainstUninstall,
    CancelAgainstUninstall,
    ReadAgainstCollection,
    CollectionAgainstRead,
    ReadAgainstUnusedCollection,
    UnusedCollectionAgainstRead,
    NameAgainstName,
    DeliveryAgainstSink,
]
FORKS = [SubmitAgainstFork, CancelAgainstFork, RunAgainstFork, ReadAgainstFork]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__)
def test_at_every_step(executor_class, scenario, caplog):
    caplog.set_level("CRITICAL" if scenario is not BreakAgainstCancel else 100, "concurrent.futures")
    steps = interleavings(lambda: scenario(executor_class))
    assert steps >= getattr(scenario, "fewest", 6), "the first operation was not stepped through"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # what it warns of is what this is about
@pytest.mark.parametrize("scenario", FORKS, ids=lambda scenario: scenario.__name__)
def test_a_fork_at_every_step(executor_class, scenario):
    # A lock is held for several steps, and a fork is dear.
    assert interleavings(lambda: scenario(executor_class), every=3) > 5
