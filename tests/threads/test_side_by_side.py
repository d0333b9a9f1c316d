"""What threads share, used by all of them at once: for `pytest --parallel-threads=4`, which runs each test in four.

What a test shares is made once, by its fixture; what it finds at its end must hold whatever the others do.
"""

from __future__ import annotations

import threading
from collections import Counter

import pytest
from probe_support import FakeProbe

from poolscope.executors.threads import ThreadPoolExecutor
from poolscope.probe.recording import pool_watch
from poolscope.probe.recording.function_table import FunctionTable
from poolscope.probe.recording.pool_watch import Instances, Watch
from poolscope.probe.recording.recorder import PoolRecorder
from poolscope.probe.transport.dispatcher import Dispatcher

LIMIT = 30  # seconds for what is sure to come
TASKS = 500


class Shared:
    """A recorder, and what has been drained of it by anybody."""

    def __init__(self):
        self.probe = FakeProbe()
        self.recorder = PoolRecorder(
            1, name="shared", kind="thread", executor="x.Y", created_at="a.py:1", size=lambda: (1, 1)
        )
        self.watch = Watch(self.probe, self.recorder)
        self.batches = []

    def drain(self):
        self.batches.append(self.recorder.drain(self.probe.clock))

    def drained(self, field, width):
        flat = [value for batch in list(self.batches) for value in batch[field]]
        return Counter(zip(*[iter(flat)] * width, strict=True))


@pytest.fixture
def shared():
    return Shared()


def test_no_record_is_lost_or_torn_while_everybody_drains(shared):
    me = threading.get_ident()
    log = pool_watch.own_log(shared.watch)
    assert pool_watch.own_log(shared.watch) is log
    for number in range(TASKS):
        shared.recorder.arrivals.extend((me, number))
        shared.recorder.cancelled.extend((me, number, number))
        log.running = (1, number, number)
        log.finished.extend((log.worker, me, number, number, number))
        log.running = None
        if number % 7 == 0:
            shared.drain()
    shared.drain()
    for field, record in ((11, 2), (9, 3), (7, 5)):
        found = shared.drained(field, record)
        assert set(found.values()) == {1}
        mine = [row for row in found if me in row]
        # Others may hold what they have drained of ours and not kept yet: never more than was written.
        assert len(mine) <= TASKS
        assert all(len(row) == record for row in mine)


def test_each_thread_has_a_worker_of_its_own(shared):
    logs = [pool_watch.own_log(shared.watch) for _ in range(50)]
    assert len(set(map(id, logs))) == 1
    assert logs[0].ident == threading.get_ident()
    assert shared.recorder.workers[logs[0].worker - 1] is logs[0]


class Named:
    def __init__(self):
        self.told = []
        self.table = FunctionTable(self.told.append)
        self.functions = [eval(f"lambda: {number}") for number in range(50)]
        for number, function in enumerate(self.functions):
            function.__qualname__ = f"f{number}"


@pytest.fixture
def named():
    return Named()


def test_a_function_has_one_number(named):
    numbers = [named.table.identify(function) for function in named.functions]
    assert numbers == [named.table.identify(function) for function in named.functions]
    told = {message[1]: message[2].rpartition(".")[2] for message in list(named.told)}
    assert [told[number] for number in numbers] == [function.__qualname__ for function in named.functions]
    assert len(named.told) == len(named.functions)


class Opened:
    def __init__(self):
        self.probe = FakeProbe()
        self.instances = Instances()
        self.executors = [ThreadPoolExecutor.__new__(ThreadPoolExecutor) for _ in range(50)]


@pytest.fixture
def unopened():
    made = Opened()
    for executor in made.executors:
        executor._max_workers, executor._threads, executor._shutdown, executor._broken = 1, set(), False, False
    return made


def test_a_pool_is_opened_once(unopened):
    watches = [unopened.instances.open(executor, lambda: unopened.probe, "p") for executor in unopened.executors]
    assert [executor._poolscope for executor in unopened.executors] == watches
    assert len({id(watch) for watch in watches}) == len(unopened.probe.recorders) == len(unopened.executors)


class Delivered:
    def __init__(self):
        self.faults = []
        self.outlet = Dispatcher(self.faults.append)
        self.reading = threading.Lock()


@pytest.fixture
def delivered():
    return Delivered()


def test_each_message_reaches_a_sink_once_and_in_order(delivered):
    me, mine = threading.get_ident(), []
    remove = delivered.outlet.add(mine.append)
    for number in range(TASKS):
        delivered.outlet.push(("fault", me, number))
        if number % 5 == 0:
            with delivered.reading:
                delivered.outlet.deliver()
    with delivered.reading:
        delivered.outlet.deliver()
    remove()
    assert [message[2] for message in mine if message[1] == me] == list(range(TASKS))
    assert not delivered.faults


@pytest.fixture
def pool():
    with ThreadPoolExecutor(2, name="side by side") as made:
        yield made


def test_one_executor_serves_them_all(pool):
    futures = [pool.submit(pow, number, 2) for number in range(TASKS)]
    cancelled = [future for future in futures[::3] if future.cancel()]
    called = []
    for future in futures:
        future.add_done_callback(called.append)
    assert [future.result(LIMIT) for future in futures if future not in cancelled] == [
        number**2 for number, future in enumerate(futures) if future not in cancelled
    ]
    assert all(future.cancelled() for future in cancelled)
    for future in futures:
        assert future.done()
    pool.submit(int).result(LIMIT)
