"""Queues with consumers as pools: what is recorded, what is none, and that they stay what they are."""

from __future__ import annotations

import asyncio
import copy
import gc
import inspect
import logging
import logging.handlers
import queue
import threading
import time
import traceback
import weakref
from types import SimpleNamespace

import pytest
from probe_support import FakeProbe, Ledger, mistake

from poolscope.probe.interpreter import shapes
from poolscope.probe.interpreter.shapes import Unfamiliar
from poolscope.probe.limits import asyncio_queues, queue_registry, threading_queues, work_queue
from poolscope.probe.settings import ProbeSettings

LIMIT = 30  # seconds for what is sure to come
LONG = 20_000_000  # ns: an item that is in a queue for so long has waited
MODULES = (asyncio.queues, queue)
CLASSES = [getattr(module, name) for module in MODULES for name in ("Queue", "PriorityQueue", "LifoQueue")]


def contents(cls):
    # The first copy of an instance adds a name.
    return {name: value for name, value in vars(cls).items() if name != "__slotnames__"}


BEFORE = {cls: contents(cls) for cls in CLASSES}


class Clock:
    """Each reading is 1 ns later than the one before, unless the test lets time pass."""

    def __init__(self):
        self.now = 0

    def __call__(self):
        self.now += 1
        return self.now


class Probe(FakeProbe):
    def __init__(self):
        super().__init__(Clock())
        self.jobs = []
        self.sites = []

    def add_job(self, _seconds, job):
        self.jobs.append(job)
        return lambda: self.jobs.remove(job)

    def open_pool(self, executor, *, name, prefix, kind, size, site=None):
        self.sites.append(site)
        return super().open_pool(executor, name=name, prefix=prefix, kind=kind, size=size, site=site)

    def look(self):
        for job in list(self.jobs):
            job(0)

    def notices(self):
        return [message[1] for message in self.messages if message[0] == "notice"]


@pytest.fixture
def probe():
    made = Probe()
    for family in (asyncio_queues, threading_queues):
        family.patch(made)
    yield made
    for family in (asyncio_queues, threading_queues):
        family.unpatch()
    assert not made.faults
    for cls in CLASSES:
        assert contents(cls) == BEFORE[cls]


def ledger(probe, which=0):
    return Ledger(probe.recorders[which], probe)


async def turns(times=3):
    for _ in range(times):
        await asyncio.sleep(0)


async def consume(items, gate, *, says_done=True):
    while True:
        await items.get()
        await gate.wait()
        gate.clear()
        if says_done:
            items.task_done()


class Consumers:
    """Tasks that take items, and go on when they are told to."""

    def __init__(self, items, number, **how):
        self.gates = [asyncio.Event() for _ in range(number)]
        self.tasks = [asyncio.ensure_future(consume(items, gate, **how)) for gate in self.gates]

    async def next(self, *which):
        for number in which or range(len(self.gates)):
            self.gates[number].set()
        await turns()

    async def end(self):
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)


async def follow(probe, items, number, **how):
    """Return so many consumers of a queue that holds items: each has ended one, and the row of the queue is open."""
    consumers = Consumers(items, number, **how)
    await turns()
    probe.clock.now += LONG
    await consumers.next()
    probe.look()
    return consumers


def filled(items, number):
    for item in range(number):
        items.put_nowait(item)
    return items


# -- tasks -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("says_done", [True, False])
@pytest.mark.parametrize("make", [asyncio.Queue, asyncio.LifoQueue, asyncio.PriorityQueue])
def test_an_item_is_a_task_and_a_consumer_a_worker(probe, make, says_done):
    async def main():
        items = filled(make(), 6)
        consumers = await follow(probe, items, 2, says_done=says_done)
        book = ledger(probe)
        book.only(submitted=6, succeeded=2, running=2, queued=2)
        assert (book.workers, book.max_workers) == (2, 2)
        # From the first item on, though it was opened later.
        assert probe.recorders[0].since_ns <= min(task[3] for task in book.finished)
        for _ in range(2):
            await consumers.next()
        book.only(submitted=6, succeeded=6)
        items.put_nowait(6)
        await turns()
        book.only(submitted=7, succeeded=6, running=1)
        await consumers.end()
        book.read()  # which sees that they are gone
        book.only(submitted=7, succeeded=7)
        assert (book.workers, book.max_workers) == (0, 2)

    asyncio.run(main())
    assert probe.opened == [(None, "", "queue")]
    assert probe.function_names()[1].endswith("test_work_queues.consume")
    [(place, name, _)] = probe.sites
    assert place.startswith("threads/test_work_queues.py:")
    assert "test_an_item_is_a_task_and_a_consumer_a_worker.<locals>.main" in name


@pytest.mark.parametrize("make", [asyncio.Queue, asyncio.LifoQueue, asyncio.PriorityQueue])
def test_each_item_has_its_own_wait(probe, make):
    async def main():
        items = make()
        for number in (2, 1, 3):
            probe.clock.now = number * 1_000
            items.put_nowait(number)
        record = items._poolscope_items
        order = [await items.get() for _ in range(3)]
        log = record.logs[0]
        submitted = [*log.finished[2::5], log.running[1]]
        assert [time // 1_000 for time in submitted] == order

    asyncio.run(main())


def test_nothing_is_opened_for_items_that_do_not_wait(probe):
    async def main():
        items = asyncio.Queue()
        consumers = Consumers(items, 3)
        for number in range(9):
            items.put_nowait(number)
            await turns()
            await consumers.next()
        probe.look()
        await consumers.end()

    asyncio.run(main())
    assert probe.recorders == []


def test_a_queue_whose_items_do_not_wait_is_left_at_rest_until_it_holds_items(probe):
    async def main():
        items = asyncio.Queue()
        for number in range(work_queue.LOOKED_AT):
            await items.put(number)
            await items.get()
        assert items._poolscope_items is None
        for number in range(20):
            items.put_nowait(number)
        consumers = Consumers(items, 2)
        await turns()
        probe.look()
        assert items._poolscope_items is None
        probe.look()
        assert items._poolscope_items is not None
        probe.clock.now += LONG
        for _ in range(3):
            await consumers.next()
            probe.look()
        book = ledger(probe)
        # Those that were in hand when it was seen are not known.
        book.only(submitted=18, succeeded=4, running=2, queued=12)
        assert book.max_workers == 2
        await consumers.end()

    asyncio.run(main())


def test_a_queue_without_consumers_is_none(probe, monkeypatch):
    monkeypatch.setattr(work_queue, "UNPROVEN_LIMIT", 100)

    async def main():
        items = asyncio.Queue()
        for number in range(150):
            items.put_nowait(number)
            probe.clock.now += LONG
        assert items._poolscope_items is None
        for _ in range(3):
            probe.look()
        assert len(items._poolscope_items.stamps) == 0

    asyncio.run(main())
    assert probe.recorders == []


def test_consumers_that_each_take_one_item_are_none(probe):
    async def main():
        items = filled(asyncio.Queue(), 20)
        probe.clock.now += LONG
        for _ in range(20):
            await asyncio.ensure_future(items.get())
            probe.look()
        assert len(items._poolscope_items.logs) < 20  # places are used again

    asyncio.run(main())
    assert probe.recorders == []


def test_a_stock_is_none(probe):
    async def use(stock):
        connection = await stock.get()
        probe.look()
        await asyncio.sleep(0)
        stock.put_nowait(connection)

    async def user(stock):
        for _ in range(work_queue.DECIDED_AT):
            await use(stock)

    async def main():
        stock = asyncio.LifoQueue()
        for _ in range(3):
            stock.put_nowait(object())
        probe.clock.now += LONG
        await asyncio.gather(*(user(stock) for _ in range(4)))
        probe.look()
        assert stock._poolscope_items is None
        for _ in range(3):
            probe.look()
        assert stock._poolscope_items is None

    asyncio.run(main())
    assert probe.recorders == []


def test_results_that_the_main_task_takes_are_none(probe):
    async def main():
        results = asyncio.Queue()
        for number in range(50):
            results.put_nowait(number)
        for _ in range(50):
            probe.clock.now += LONG
            await results.get()
            probe.look()

    asyncio.run(main())
    assert probe.recorders == []


def test_one_consumer_is_enough(probe):
    async def main():
        items = filled(asyncio.Queue(), 5)
        consumers = await follow(probe, items, 1, says_done=False)
        book = ledger(probe)
        book.only(submitted=5, succeeded=1, running=1, queued=3)
        assert book.max_workers == 1
        await consumers.end()

    asyncio.run(main())


def test_a_consumer_that_is_gone_counts_until_the_others_have_gone_on(probe):
    async def main():
        items = filled(asyncio.Queue(), 40)
        consumers = await follow(probe, items, 3)
        book = ledger(probe)
        consumers.tasks[0].cancel()
        await turns()
        book.read()  # which sees that it is gone
        book.read()
        assert (book.workers, book.max_workers) == (2, 3)
        for _ in range(work_queue.TAKES_EACH * 3 // 2):
            await consumers.next(1, 2)
        book.read()
        assert (book.workers, book.max_workers) == (2, 2)
        await consumers.end()

    asyncio.run(main())


def test_a_consumer_that_does_something_else_does_not_count(probe):
    async def main():
        items = filled(asyncio.Queue(), 40)
        consumers = await follow(probe, items, 2)
        book = ledger(probe)
        await items.get()
        items.task_done()
        assert book.read().workers == 3
        probe.clock.now += work_queue.AWAY_NS
        assert book.read().workers == 2
        await consumers.end()

    asyncio.run(main())


def test_where_consumers_are_and_what_waits_for_them(probe):
    async def produce(items):
        for number in range(9):
            await items.put(number)

    async def finish(items):
        await items.join()

    async def main():
        items = asyncio.Queue(4)
        producer = asyncio.ensure_future(produce(items))
        await turns()
        consumers = Consumers(items, 2)
        joiner = asyncio.ensure_future(finish(items))
        await turns()
        probe.clock.now += LONG
        await consumers.next()
        probe.look()
        held, waiting = probe.recorders[0].look(100)
        [[lines, _, tasks, gate]] = held
        assert (lines[0][2], gate, tasks[::3]) == ("consume", "await", [1, 2])
        places = {stack[3]: stack[0][0][2] for stack in waiting}
        assert places["put"].endswith("produce")
        assert places["join"].endswith("finish")
        producer.cancel()
        joiner.cancel()
        await consumers.end()

    asyncio.run(main())


def test_what_they_use_is_at_most_what_their_loop_uses(probe):
    async def main():
        items = filled(asyncio.Queue(), 5)
        consumers = await follow(probe, items, 1)
        readings = iter([500, 700, None, 650, 900])
        clocks = SimpleNamespace(thread=lambda _: next(readings))
        assert [probe.recorders[0].cpu(clocks) for _ in range(5)] == [0, 200, 200, 200, 450]
        await consumers.end()

    asyncio.run(main())


def test_items_that_call_something_go_by_its_name(probe):
    def load(number):
        return number

    async def main():
        items = asyncio.Queue()
        for number in range(4):
            items.put_nowait((load, number))
        consumers = await follow(probe, items, 1)
        book = ledger(probe)
        book.only(submitted=4, succeeded=1, running=1, queued=2)
        assert not any(book.tasks[task] < 0 for task in book.tasks)
        names = probe.function_names()
        assert names[book.finished[0][1]].endswith("load")
        await consumers.end()

    asyncio.run(main())


def test_a_consumer_that_polls_is_idle_when_there_is_nothing(probe):
    async def poll(items, gate):
        while True:
            try:
                items.get_nowait()
            except asyncio.QueueEmpty:
                pass
            await gate.wait()
            gate.clear()

    async def main():
        items, gate = asyncio.Queue(), asyncio.Event()
        for number in range(3):
            items.put_nowait(number)
        probe.clock.now += LONG
        poller = asyncio.ensure_future(poll(items, gate))
        await turns()
        for _ in range(2):
            gate.set()
            await turns()
            probe.look()
        book = ledger(probe)
        book.only(submitted=3, succeeded=2, running=1)
        gate.set()
        await turns()
        book.only(submitted=3, succeeded=3)
        poller.cancel()

    asyncio.run(main())


# -- threads -----------------------------------------------------------------------------------------------------------


class Workers:
    """Threads that take items, and go on when they are told to."""

    def __init__(self, items, number, *, says_done=False):
        self.items = items
        self.says_done = says_done
        self.gates = [threading.Semaphore(0) for _ in range(number)]
        self.ready = [threading.Semaphore(0) for _ in range(number)]
        self.threads = [threading.Thread(target=self.run, args=(each,)) for each in range(number)]
        for thread in self.threads:
            thread.start()

    def run(self, number):
        while True:
            item = self.items.get()
            if item == 1_000:
                return
            self.ready[number].release()
            assert self.gates[number].acquire(timeout=LIMIT)
            if self.says_done:
                self.items.task_done()

    def started(self):
        for ready in self.ready:
            assert ready.acquire(timeout=LIMIT)

    def next(self):
        for gate in self.gates:
            gate.release()

    def end(self):
        for gate in self.gates:
            gate.release(100)
        for _ in self.threads:
            self.items.put(1_000)
        for thread in self.threads:
            thread.join(LIMIT)


def follow_threads(probe, items, number, **how):
    """As `follow` does: each thread has ended one item, and is in the next one."""
    workers = Workers(items, number, **how)
    workers.started()
    probe.clock.now += LONG
    workers.next()
    workers.started()
    probe.look()
    return workers


def until(what):
    patience = time.monotonic() + LIMIT
    while not what():
        assert time.monotonic() < patience
        time.sleep(0.001)


@pytest.mark.parametrize("says_done", [True, False])
@pytest.mark.parametrize("make", [queue.Queue, queue.LifoQueue, queue.PriorityQueue])
def test_threads_are_workers_too(probe, make, says_done):
    items = filled(make(), 6)
    workers = follow_threads(probe, items, 2, says_done=says_done)
    book = ledger(probe)
    book.only(submitted=6, succeeded=2, running=2, queued=2)
    assert (book.workers, book.max_workers) == (2, 2)
    idents = {log.ident for log in probe.recorders[0].workers}
    assert idents == {thread.ident for thread in workers.threads}
    workers.next()
    workers.started()
    workers.end()
    until(lambda: book.read().workers == 0)
    book.only(submitted=8, succeeded=8)
    assert book.max_workers == 2
    assert probe.function_names()[1].endswith("Workers.run")


def test_threads_that_wait_for_room_or_the_end(probe):
    items = queue.Queue(4)
    for number in range(4):
        items.put(number)
    workers = follow_threads(probe, items, 2, says_done=True)

    def produce():
        for number in range(5):
            items.put(number)

    producer, joiner = threading.Thread(target=produce), threading.Thread(target=items.join)
    producer.start()
    joiner.start()
    until(lambda: items.not_full._waiters and items.all_tasks_done._waiters)
    waiting = probe.recorders[0].waiting
    until(lambda: len(waiting(100)) == 2)
    places = {stack[3]: stack[0][0][2] for stack in waiting(100)}
    assert places["put"].endswith("produce")
    assert "join" in places
    workers.end()
    until(lambda: not items.not_full._waiters)
    producer.join(LIMIT)
    while not items.empty():
        items.get()
        items.task_done()
    # Nobody has said so of what ended the threads.
    for _ in range(items.unfinished_tasks):
        items.task_done()
    joiner.join(LIMIT)


def test_a_log_that_a_listener_writes_is_none(probe):
    written = []

    class Handler(logging.Handler):
        def emit(self, record):
            written.append(record)

    records = queue.Queue()
    log = logging.Logger("log")
    log.addHandler(logging.handlers.QueueHandler(records))
    for number in range(20):
        log.warning("%d", number)
    probe.clock.now += LONG
    listener = logging.handlers.QueueListener(records, Handler())
    listener.start()
    until(lambda: len(written) == 20)
    probe.look()
    listener.stop()
    assert type(records._poolscope_items) is queue_registry.Fresh
    assert probe.recorders == []


def test_results_of_a_pool_that_the_main_thread_takes_are_none(probe):
    results = queue.Queue()
    for number in range(30):
        results.put(number)
    for _ in range(30):
        probe.clock.now += LONG
        results.get()
        probe.look()
    assert probe.recorders == []


def test_many_threads_at_once(probe):
    items, done = queue.Queue(), []

    def work():
        while True:
            item = items.get()
            if item is None:
                return
            probe.clock.now += LONG
            done.append(item)
            items.task_done()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for number in range(2_000):
        items.put(number)
    for thread in threads:
        thread.start()
    items.join()
    probe.look()
    assert sorted(done) == list(range(2_000))
    for _ in threads:
        items.put(None)
    for thread in threads:
        thread.join(LIMIT)
    book = ledger(probe)
    book.read()
    book.only(submitted=2_004, succeeded=2_004)


# -- bad input ---------------------------------------------------------------------------------------------------------


def test_what_is_cleared_past_us_counts_as_cancelled(probe):
    items = filled(queue.Queue(), 6)
    workers = follow_threads(probe, items, 1)
    with items.mutex:
        items.queue.clear()
    items.put(7)
    ledger(probe).only(submitted=7, succeeded=1, running=1, queued=1, cancelled=4)
    items.queue.append(8)
    workers.next()
    workers.started()
    ledger(probe).only(submitted=1, succeeded=1, running=1, queued=0 - 1)
    workers.end()


@pytest.mark.skipif(not hasattr(queue.Queue, "shutdown"), reason="queues cannot be shut down before 3.13")
def test_what_a_shutdown_drops_counts_as_cancelled(probe):
    items = filled(queue.Queue(), 6)
    workers = follow_threads(probe, items, 1)
    items.shutdown(immediate=True)
    ledger(probe).only(submitted=6, succeeded=1, running=1, cancelled=4)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(threading, "excepthook", lambda _: None)
        for gate in workers.gates:
            gate.release()
        for thread in workers.threads:
            thread.join(LIMIT)


def test_subclasses_that_override_are_left_alone_and_said(probe):
    class Unique(queue.Queue):
        def _put(self, item):
            if item not in self.queue:
                super()._put(item)

    class Renamed(queue.Queue):
        def put(self, item, block=True, timeout=None):
            super().put(item, block, timeout)

    unique, renamed = Unique(), Renamed()
    for items in (unique, renamed):
        items.put(1)
        items.put(1)
    assert unique.qsize() == 1
    assert unique._poolscope_items is None
    assert renamed._poolscope_items.puts == 2
    [notice] = probe.notices()
    assert "Unique" in notice
    assert "_put" in notice


def test_a_subclass_is_named_by_where_it_is_made(probe):
    class Named(queue.Queue):
        def __init__(self, name):
            super().__init__()
            self.name = name

    jobs = Named("jobs")
    line = test_a_subclass_is_named_by_where_it_is_made.__code__.co_firstlineno + 6
    jobs.put(1)
    assert jobs._poolscope_items.site[0] == f"threads/test_work_queues.py:{line}"


def test_a_queue_with_a_container_of_its_own_is_left_alone(probe):
    class Bag(queue.Queue):
        def _init(self, maxsize):
            self.queue = Container()

    class Container(list):
        def popleft(self):
            return self.pop()

    bag = Bag()
    bag.put(1)
    assert bag.get() == 1
    assert bag._poolscope_items is None


def test_what_a_comparison_raises_is_raised_as_without_us(probe):
    def fails():
        items = queue.PriorityQueue()
        items.put(1)
        items.put("a")

    with pytest.raises(TypeError) as raised:
        fails()
    names = [frame.name for frame in traceback.extract_tb(raised.value.__traceback__)]
    assert names[-3:] == ["fails", "put", "_put"]
    with pytest.raises(ValueError, match="too many times") as raised:
        queue.Queue().task_done()
    names = [frame.name for frame in traceback.extract_tb(raised.value.__traceback__)]
    assert names[-1] == "task_done"
    assert len(names) == 2


def test_a_failure_of_ours_ends_the_watch_of_that_queue(probe, monkeypatch):
    items = queue.Queue()
    items.put(1)
    monkeypatch.setattr(work_queue.WorkQueue, "_arrives", mistake(RuntimeError("ours")))
    items.put(2)
    assert [items.get(), items.get()] == [1, 2]
    assert items._poolscope_items is None
    assert probe.faults == []  # not while the lock of the queue is held
    probe.look()
    [(part, _)] = probe.faults
    assert part == "pools"
    probe.faults.clear()


def test_the_settings_turn_it_off():
    made = Probe()
    made.settings = ProbeSettings(limits=False)
    threading_queues.patch(made)
    assert contents(queue.Queue) == BEFORE[queue.Queue]
    threading_queues.unpatch()


def test_one_that_is_in_use_when_the_patch_goes_works_on():
    made = Probe()
    threading_queues.patch(made)
    items = filled(queue.Queue(), 6)
    workers = follow_threads(made, items, 1)
    threading_queues.unpatch()
    ledger(made).only(submitted=6, succeeded=2, cancelled=4)
    workers.end()
    assert not made.faults
    assert made.jobs == []


def test_nothing_of_ours_keeps_a_queue_an_item_or_a_consumer(probe):
    class Item:
        pass

    async def main():
        items, item = asyncio.Queue(), Item()
        for _ in range(5):
            items.put_nowait(Item())
        items.put_nowait(item)
        consumers = await follow(probe, items, 2)
        assert len(probe.recorders) == 1
        await consumers.next()
        await consumers.next()
        await consumers.end()
        return [weakref.ref(each) for each in (items, item, *consumers.tasks)]

    references = asyncio.run(main())
    gc.collect()
    assert [reference() for reference in references] == [None] * 4


def test_thousands_of_short_lived_queues_leave_nothing(probe):
    for _ in range(3_000):
        items = queue.Queue()
        items.put(1)
        items.get()
    del items
    gc.collect()
    assert threading_queues._family.queues._known == {}
    assert probe.recorders == []


def test_too_many_at_once_are_said(probe, monkeypatch):
    monkeypatch.setattr(queue_registry, "QUEUES_KEPT", 2)
    made = [queue.Queue() for _ in range(4)]
    for items in made:
        items.put(1)
    probe.look()
    probe.look()
    assert [items._poolscope_items is None for items in made] == [False, False, True, True]
    [notice] = probe.notices()
    assert "more than 2 queues" in notice


def test_a_copy_of_a_queue_has_no_record(probe):
    items = asyncio.Queue()
    items.put_nowait(1)
    assert items._poolscope_items is not None
    twin = copy.deepcopy(items)
    assert twin._poolscope_items is None
    assert twin.get_nowait() == 1
    assert items.qsize() == 1


def test_parameters_stay(probe):
    for cls in CLASSES:
        for name in ("__init__", "task_done", "put", "get"):
            before = BEFORE[cls].get(name)
            if before is not None:
                assert [*inspect.signature(getattr(cls, name)).parameters] == [*inspect.signature(before).parameters]


@pytest.mark.parametrize("module", MODULES)
def test_a_standard_library_of_another_shape_costs_one_notice(module):
    check = shapes.asyncio_queues if module is asyncio.queues else shapes.threading_queues

    class Queue(module.Queue):
        def _put(self, item):
            raise NotImplementedError(item)

    other = SimpleNamespace(
        __name__=module.__name__, Queue=Queue, PriorityQueue=module.PriorityQueue, LifoQueue=module.LifoQueue
    )
    with pytest.raises(Unfamiliar, match="_put"):
        check(other)
