import gc

import pytest
from runtime_support import MS, SECOND, FakeCpu, FakeExecutor, HandClock, Record, Worker, submit

from poolscope.probe.recording import registry as module
from poolscope.probe.recording.registry import Pools


class Harness:
    """Pools whose messages and failures are kept."""

    def __init__(self):
        self.clock = HandClock()
        self.cpu = FakeCpu()
        self.record = Record()
        self.failures: list[BaseException] = []
        self.pools = Pools(self.clock, self.cpu, self.record, self.failures.append)

    def open(self, executor, size=None):
        return self.pools.open(executor, name="p", kind="thread", created_at="a/b.py:1", size=size)

    def read(self, **options):
        """The messages of one reading, 0.1 s after the last."""
        self.clock.advance(0.1)
        self.record.clear()
        self.full = self.pools.read(**options)
        return list(self.record.messages)

    def tags(self, **options):
        return [message[0] for message in self.read(**options)]


def watches():
    """All that there are in this process."""
    return {thing for thing in gc.get_objects() if type(thing) is module.PoolWatch}


@pytest.fixture
def harness():
    return Harness()


def test_a_pool_is_opened_by_its_first_reading(harness):
    executor = FakeExecutor(4)
    opened_at = harness.clock()
    recorder = harness.open(executor)
    opened, batch = harness.read()
    kind = f"{FakeExecutor.__module__}.FakeExecutor"
    assert opened == ("pool_opened", recorder.id, "p", "thread", kind, "a/b.py:1", 4, opened_at, "")
    assert batch[:2] == ("pool_batch", recorder.id)
    assert batch[3:5] == (0, 4)
    assert harness.tags() == []


def test_a_quiet_pool_says_nothing_until_something_arrives(harness):
    executor = FakeExecutor()
    recorder = harness.open(executor)
    harness.read()
    worker = Worker(recorder, harness.clock)
    for _ in range(5):
        assert harness.tags(ask_all=False) == []
    submitted = submit(recorder, harness.clock)
    [batch] = harness.read(ask_all=False)
    assert batch[11] == [1, submitted]
    # Queued, then running: told each time, as ages grow.
    assert harness.tags(ask_all=False) == ["pool_batch"]
    worker.start(1, submitted)
    assert [message[8] for message in harness.read(ask_all=False)] == [[1, 1, submitted, harness.clock() - MS * 100]]
    worker.finish()
    assert harness.tags(ask_all=False) == ["pool_batch"]
    # Until the CPU time of all of it has been read.
    silent = [harness.tags(ask_all=False) for _ in range(4)]
    assert silent[-1] == []


def test_a_refusal_is_news(harness):
    executor = FakeExecutor()
    recorder = harness.open(executor)
    harness.read()
    recorder.rejected.append(harness.clock())
    [batch] = harness.read()
    assert batch[6] == 1


def test_cpu_clocks_are_read_four_times_a_second_at_most(harness):
    executor = FakeExecutor(1)
    recorder = harness.open(executor)
    worker = Worker(recorder, harness.clock, native_id=11)
    worker.start(1, submit(recorder, harness.clock))
    harness.cpu.threads = {11: 5 * MS}
    totals = []
    for _ in range(11):
        totals += [message[5] for message in harness.read() if message[0] == "pool_batch"]
        harness.cpu.threads[11] += MS
    assert harness.cpu.readings == 4
    assert totals[0] == 5 * MS
    assert totals == sorted(totals)
    # A flush wants it at once.
    assert harness.read(read_cpu=True)[0][5] == harness.cpu.threads[11]


def test_the_cpu_time_of_the_last_task_is_told_before_silence(harness):
    executor = FakeExecutor(1)
    recorder = harness.open(executor)
    worker = Worker(recorder, harness.clock, native_id=11)
    harness.cpu.threads = {11: 0}
    harness.read()
    worker.start(1, submit(recorder, harness.clock))
    worker.finish()
    harness.cpu.threads[11] = 77
    batches = [message for _ in range(6) for message in harness.read()]
    assert batches[-1][5] == 77
    assert len(batches) < 5


def test_full_means_that_tasks_wait_while_every_worker_is_in_one(harness):
    executor = FakeExecutor(2)
    executor._threads = {1}
    recorder = harness.open(executor)
    workers = [Worker(recorder, harness.clock, ident) for ident in (1, 2)]

    def full():
        harness.read()
        return bool(harness.full)

    workers[0].start(1, submit(recorder, harness.clock))
    waiting = submit(recorder, harness.clock)
    assert not full()  # one more worker may be started
    executor._threads = {1, 2}
    assert not full()  # and is idle
    workers[1].start(1, submit(recorder, harness.clock))
    assert full()
    recorder.cancelled.extend((1, waiting, harness.clock()))
    assert not full()  # nobody waits
    submit(recorder, harness.clock)
    assert full()
    workers[0].finish()
    assert not full()


def test_filled_means_that_tasks_end_and_others_begin_while_none_waits(harness):
    executor = FakeExecutor(2)
    executor._threads = {1, 2}
    recorder = harness.open(executor)
    workers = [Worker(recorder, harness.clock, ident) for ident in (1, 2)]

    def filled():
        harness.read()
        assert not harness.full
        return [watch.filled for watch in harness.pools.everyone()]

    for worker in workers:
        worker.start(1, submit(recorder, harness.clock))
    assert filled() == [False]  # they may hold their workers for good
    workers[0].finish()
    assert filled() == [False]
    workers[0].start(1, submit(recorder, harness.clock))
    workers[1].finish()
    workers[1].start(1, submit(recorder, harness.clock))
    assert filled() == [True]


def test_full_where_workers_are_taken_for_longer_than_a_task_runs(harness):
    executor = FakeExecutor(2)
    recorder = harness.open(executor, size=lambda: (1, 2))
    taken = 1
    recorder.taken = lambda: taken
    worker = Worker(recorder, harness.clock)
    worker.start(1, submit(recorder, harness.clock))
    submit(recorder, harness.clock)
    harness.read()
    assert not harness.full
    taken = 2  # the other one has ended its task, and the pool has not heard of it
    harness.read()
    assert harness.full


def test_a_pool_whose_size_goes_on_changing_is_read_until_it_does_not(harness):
    executor = FakeExecutor(2)
    sizes = [3, 3, 3, 2, 1]
    recorder = harness.open(executor, size=lambda: (0, sizes.pop(0) if sizes[1:] else sizes[0]))
    recorder.settled = lambda: not sizes[1:]
    told = [message[4] for _ in range(20) for message in harness.read() if message[0] == "pool_batch"]
    assert told[-1] == 1
    assert len(told) < 10


class TestEnd:
    def test_a_pool_that_was_never_used_leaves_nothing(self, harness):
        for _ in range(100):
            harness.open(FakeExecutor())
        assert len(harness.pools) == 0
        assert harness.tags() == []

    def test_a_pool_that_was_told_of_is_closed(self, harness):
        executor = FakeExecutor()
        recorder = harness.open(executor)
        harness.read()
        del executor
        assert harness.read(ask_all=False) == [("pool_closed", recorder.id, harness.clock())]
        assert recorder.closed
        assert len(harness.pools) == 0
        assert harness.tags() == []

    def test_a_pool_used_and_dropped_between_two_readings_tells_all(self, harness):
        executor = FakeExecutor()
        recorder = harness.open(executor)
        worker = Worker(recorder, harness.clock)
        worker.start(1, submit(recorder, harness.clock))
        worker.finish()
        del executor
        assert harness.tags() == ["pool_opened", "pool_batch", "pool_closed"]
        assert len(harness.pools) == 0

    def test_ten_thousand_pools_leave_nothing(self, harness):
        others = watches()  # of tests that ran in this process before
        for number in range(10_000):
            executor = FakeExecutor()
            recorder = harness.open(executor)
            if number % 2:
                worker = Worker(recorder, harness.clock)
                worker.start(1, submit(recorder, harness.clock))
                worker.finish()
            del executor
            if number % 1000 == 0:
                harness.read()
        harness.read()
        del recorder, worker
        gc.collect()
        assert len(harness.pools) == 0
        assert watches() == others

    def test_tasks_outlive_the_executor(self, harness):
        executor = FakeExecutor()
        recorder = harness.open(executor)
        worker = Worker(recorder, harness.clock)
        worker.start(1, submit(recorder, harness.clock))
        queued = submit(recorder, harness.clock)
        del executor
        assert harness.tags() == ["pool_opened", "pool_batch"]
        worker.finish()
        assert harness.tags() == ["pool_batch"]
        worker.start(1, queued)
        worker.finish()
        assert harness.tags() == ["pool_batch", "pool_closed"]

    def test_tasks_that_nobody_will_run_do_not_keep_a_pool_for_ever(self, harness):
        executor = FakeExecutor()
        recorder = harness.open(executor)
        worker = Worker(recorder, harness.clock)
        submit(recorder, harness.clock)
        del executor
        for _ in range(100):
            assert "pool_closed" not in harness.tags()  # the worker may come to it
        worker.log.left = True
        tags = [tag for _ in range(70) for tag in harness.tags()]
        assert tags.count("pool_closed") == 1
        assert tags.index("pool_closed") >= module.DESERTED_NS // (SECOND // 10) - 1
        assert len(harness.pools) == 0

    def test_a_pool_that_was_shut_down_is_closed_when_its_last_worker_is_gone(self, harness):
        executor = FakeExecutor()
        executor._threads = {1}
        recorder = harness.open(executor)
        worker = Worker(recorder, harness.clock)
        worker.start(1, submit(recorder, harness.clock))
        executor._shutdown = True
        assert harness.tags() == ["pool_opened", "pool_batch"]
        worker.finish()
        assert harness.tags() == ["pool_batch"]
        executor._threads = set()
        assert harness.tags() == ["pool_batch", "pool_closed"]
        assert harness.tags() == []
        assert len(harness.pools) == 1
        del executor
        assert len(harness.pools) == 0

    def test_quiet_pools_are_asked_now_and_then(self, harness):
        executor = FakeExecutor()
        harness.open(executor)
        harness.read()
        executor._shutdown = True
        assert harness.tags(ask_all=False) == []
        assert harness.tags(ask_all=True) == ["pool_closed"]

    def test_a_refusal_after_the_end_comes_under_a_new_number(self, harness):
        executor = FakeExecutor()
        recorder = harness.open(executor)
        executor._shutdown = True
        harness.read()
        first = recorder.id
        recorder.rejected.append(harness.clock())
        opened, batch, closed = harness.read()
        assert opened[0] == "pool_opened"
        assert opened[1] == batch[1] == closed[1] == recorder.id != first
        assert batch[6] == 1
        assert harness.tags() == []

    def test_an_executor_collected_while_it_is_read_is_closed(self, harness):
        box = [FakeExecutor()]

        def size():
            # What a reader meets at the worst moment: the pool is told of, and then gone.
            box.clear()
            return (1, 2)

        recorder = harness.open(box[0], size=lambda: (1, 2))
        recorder.size = size
        assert harness.tags() == ["pool_opened", "pool_batch", "pool_closed"]
        assert len(harness.pools) == 0


def test_a_pool_that_cannot_be_read_does_not_harm_the_others(harness):
    broken, sound = FakeExecutor(), FakeExecutor()
    harness.open(broken).size = lambda: 1 / 0
    recorder = harness.open(sound)
    messages = harness.read()
    assert [type(failure) for failure in harness.failures] == [ZeroDivisionError]
    assert ("pool_batch", recorder.id) in [message[:2] for message in messages]
    assert len(harness.pools) == 1
    harness.read()
    assert len(harness.failures) == 1


def test_an_executor_without_weak_references_is_refused(harness):
    class Slotted:
        __slots__ = ()

    with pytest.raises(TypeError):
        harness.open(Slotted(), size=lambda: (0, 1))
    assert len(harness.pools) == 0
