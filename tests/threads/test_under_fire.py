"""Everything at once, in real time, against a log that the tasks keep themselves.

64 producers submit to pools of 1 to 64 workers, tasks fail and submit more tasks, futures are cancelled, executors are
shut down and dropped while all this goes on. What poolscope says must be what happened: each count exactly, each
moment and each integral between the stamps that the log took around it.
"""

from __future__ import annotations

import random
import sys
import threading
from bisect import bisect_left
from collections import Counter, defaultdict
from concurrent.futures import CancelledError, ThreadPoolExecutor
from itertools import pairwise
from time import perf_counter_ns as now
from time import sleep

import pytest

import poolscope
from poolscope import profiler
from poolscope.probe import runtime
from poolscope.probe.runtime import Probe
from poolscope.probe.settings import ProbeSettings

LIMIT = 60  # seconds for what is sure to come
PRODUCERS = 64
SIZES = (1, 2, 4, 16, 64)
#: The rounds: seed, how many operations each producer makes, and how often threads take turns (s).
ROUNDS = [(1, 40, 1e-6), (2, 60, 0.005), (3, 80, 1e-5), (4, 100, 0.005), (5, 120, 1e-6), (6, 160, 0.001)]
#: Nothing is drained or judged in between but by `Fire.look`: then saturation is exact, however late a thread comes on.
BY_HAND = ProbeSettings(sample_interval=3600)


class Task:
    """What the log knows of one submission; all stamps in ns, around what happened."""

    __slots__ = ("asked", "before", "behind", "done", "ended", "future", "kind", "started", "submitted", "thread")

    def __init__(self, kind):
        self.kind = kind
        self.before = now()
        #: After the submission.
        self.submitted = None
        #: In the task: its first and last line, its thread, and the end of what this thread ran before.
        self.started = self.ended = self.thread = None
        self.behind = 0
        #: Before the first call that may have cancelled it.
        self.asked = None
        #: When its callback came: whatever became of it was recorded by then.
        self.done = None
        self.future = None

    @property
    def started_after(self):
        return max(self.before, self.behind)


class Log:
    """Of one pool. Any thread appends; what has been appended can be counted at any time."""

    def __init__(self, name, size):
        self.name = name
        self.size = size
        self.begun, self.accepted, self.refused = [], [], []
        self.entered, self.left, self.done = [], [], []
        #: Tasks that somebody is about to cancel, and those of which he was told that they are.
        self.asked, self.cancelled = [], []
        self.shut_at = None
        self.by_thread = defaultdict(list)  # thread -> its tasks in order; each thread has only its own


class Unlucky(BaseException):
    """Not an Exception, as SystemExit is not."""


class Fire:
    """One round."""

    def __init__(self, executor_class, seed, operations):
        self.seed = seed
        self.operations = operations
        self.logs = [Log(f"{seed}-{size}-{number}", size) for number, size in enumerate(SIZES * 2)]
        #: An executor that was dropped is None.
        self.pools = [executor_class(log.size, log.name) for log in self.logs]
        self.ends = threading.local()
        self.over = threading.Event()
        self.errors = []

    # -- tasks -----------------------------------------------------------------------------------------------

    def submit(self, index, task_body, rng):
        """Submits to a pool, and logs it; None if there is no such pool any more, or it refuses."""
        pool, log = self.pools[index], self.logs[index]
        if pool is None:
            return None
        task = Task(task_body.__name__)
        # Drawn here: a generator is not to be shared by threads.
        fate = rng.random(), rng.random() * 0.002, rng.random()
        log.begun.append(task)
        try:
            future = pool.submit(task_body, index, task, fate)
        except RuntimeError:
            log.refused.append(task)
            return None
        task.submitted = now()
        task.future = future
        log.accepted.append(task)
        nested = random.Random(fate[0])

        def done(future):
            task.done = now()
            log.done.append(task)
            if fate[2] < 0.1:
                # A shutdown that cancels holds a lock of its executor, so not into the same one.
                target = index + 1 if future.cancelled() else index
                if target < len(self.pools):
                    self.submit(target, self.quick, nested)

        future.add_done_callback(done)
        return task

    def enter(self, index, task):
        task.started = now()
        task.thread = threading.get_ident()
        task.behind = getattr(self.ends, "last", 0)
        self.logs[index].entered.append(task)

    def leave(self, index, task):
        log = self.logs[index]
        log.by_thread[task.thread].append(task)
        log.left.append(task)
        task.ended = self.ends.last = now()

    def quick(self, index, task, fate):
        self.enter(index, task)
        self.leave(index, task)

    def slow(self, index, task, fate):
        self.enter(index, task)
        sleep(fate[1])
        self.leave(index, task)

    def failing(self, index, task, fate):
        self.enter(index, task)
        self.leave(index, task)
        raise (ValueError if fate[0] < 0.5 else Unlucky)(index)

    def nesting(self, index, task, fate):
        """Waits for a task of a later pool: no circle, so no deadlock."""
        self.enter(index, task)
        rng = random.Random(fate[0])
        if index + 1 < len(self.pools):
            inner = self.submit(rng.randrange(index + 1, len(self.pools)), self.slow, rng)
            if inner is not None:
                try:
                    inner.future.result(LIMIT)
                except CancelledError:
                    pass
        self.submit(index, self.quick, rng)
        self.leave(index, task)

    # -- threads ---------------------------------------------------------------------------------------------

    def cancel(self, log, task):
        if task.asked is None:
            task.asked = now()
        log.asked.append(task)
        if task.future.cancel():
            log.cancelled.append(task)

    def produce(self, number):
        rng = random.Random(self.seed * 1000 + number)
        mine = []
        for _ in range(self.operations):
            index = rng.randrange(len(self.pools))
            what = rng.choices((self.quick, self.slow, self.failing, self.nesting), (5, 3, 2, 1))[0]
            task = self.submit(index, what, rng)
            if task is not None:
                mine.append((self.logs[index], task))
            if mine and rng.random() < 0.2:
                self.cancel(*mine[rng.randrange(len(mine))])
            if rng.random() < 0.05:
                sleep(rng.random() * 0.002)

    def end_some(self):
        """Ends half of the pools in mid-flight, each in its own way."""
        rng = random.Random(self.seed)
        for index in rng.sample(range(len(self.pools)), len(self.pools) // 2):
            while not self.over.is_set() and len(self.logs[index].begun) < rng.randrange(self.operations * 5):
                sleep(0.001)
            way = rng.choice(("wait", "cancel", "leave", "drop"))
            pool, log = self.pools[index], self.logs[index]
            if way == "drop":
                self.pools[index] = None
                del pool
                continue
            if way == "cancel":
                log.shut_at = now()
            pool.shutdown(wait=way == "wait", cancel_futures=way == "cancel")

    def look(self):
        """What a scrape shows at any moment lies between what the log had before and after it."""
        rng = random.Random(self.seed)
        while True:
            last = self.over.is_set()
            least = []
            for log in self.logs:
                accepted, cancelled = len(log.accepted), {id(task) for task in list(log.cancelled)}
                done = sum(not task.future.cancelled() for task in list(log.done))
                least.append((accepted, done, len(cancelled)))
            shown = {pool.name: pool for pool in profiler._observer.snapshot().pools}
            for log, (accepted, done, cancelled) in zip(self.logs, least, strict=True):
                row = shown.get(log.name)
                if row is None:
                    assert not accepted
                    continue
                finished = row.succeeded + row.failed
                assert row.submitted == finished + row.cancelled + row.queue_depth + row.active
                assert accepted <= row.submitted <= len(log.begun)
                assert done <= finished <= len(log.left)
                assert cancelled <= row.cancelled <= (len(log.begun) if log.shut_at else len(log.asked))
                assert 0 <= row.active <= row.workers <= row.max_workers or not row.alive
                assert row.rejected <= len(log.begun) - row.submitted
                assert row.queue_depth >= 0
                assert sum(started for _, started, _ in row.functions) == finished + row.active
            if last:
                return
            sleep(rng.random() * 0.02)

    def guarded(self, run, *args):
        try:
            run(*args)
        except BaseException as error:
            self.errors.append(error)

    def burn(self):
        """Runs the round to its end: nothing queued, nothing running."""
        producers = [threading.Thread(target=self.guarded, args=(self.produce, n)) for n in range(PRODUCERS)]
        others = [threading.Thread(target=self.guarded, args=(run,)) for run in (self.end_some, self.look)]
        for thread in (*producers, *others):
            thread.start()
        for thread in producers:
            thread.join(LIMIT)
        others[0].join(LIMIT)
        while True:
            accepted = [task for log in self.logs for task in log.accepted]
            for task in accepted:
                # Not `wait`: it never hears of a future that a shutdown has cancelled.
                try:
                    task.future.exception(LIMIT)
                except CancelledError:
                    pass
            if all(task.done is not None for task in accepted) and len(accepted) == sum(
                len(log.accepted) for log in self.logs
            ):
                break
        self.over.set()
        others[1].join(LIMIT)
        for pool in self.pools:
            if pool is not None:
                pool.shutdown()
        if self.errors:
            raise self.errors[0]


class Told:
    """A sink that keeps what the probe said, by pool name."""

    def __init__(self):
        self.names, self.functions = {}, {}
        self.closed = set()
        self.records = defaultdict(lambda: defaultdict(list))
        self.faults = []

    def __call__(self, message):
        tag = message[0]
        if tag == "pool_opened":
            self.names[message[1]] = message[2]
        elif tag == "pool_closed":
            self.closed.add(self.names[message[1]])
        elif tag == "function":
            self.functions[message[1]] = message[2].rpartition(".")[2]
        elif tag == "fault":
            self.faults.append(message)
        elif tag == "pool_batch":
            into = self.records[self.names[message[1]]]
            for what, flat, width in zip(
                ("finished", "cancelled", "broken", "arrived"),
                (message[7], message[9], message[10], message[11]),
                (5, 3, 3, 2),
                strict=True,
            ):
                into[what] += zip(*[iter(flat)] * width, strict=True)
            into["rejected"] += [0] * message[6]


@pytest.fixture(params=["drop-in", "patched"])
def fire_class(request, monkeypatch):
    probe = Probe(BY_HAND)
    monkeypatch.setitem(runtime._made, "probe", probe)
    monkeypatch.setattr(profiler, "_observer", profiler.Observer(probe, profiler.Settings(sample_interval=3600.0)))
    if request.param == "drop-in":
        yield poolscope.ThreadPoolExecutor
    else:
        with poolscope.install(loops=False):
            yield ThreadPoolExecutor
    profiler._observer.close()
    probe.stop(LIMIT)


@pytest.fixture
def take_turns():
    before = sys.getswitchinterval()
    yield sys.setswitchinterval
    sys.setswitchinterval(before)


@pytest.mark.parametrize(("seed", "operations", "interval"), ROUNDS)
def test_what_is_told_is_what_happened(fire_class, take_turns, seed, operations, interval):
    told = Told()
    runtime.current().add_sink(told)
    fire = Fire(fire_class, seed, operations)
    take_turns(interval)
    fire.burn()
    report = profiler._observer.finish().report
    runtime.current().flush()
    assert not told.faults
    rows = {row.name: row for row in report.pools}
    for log in fire.logs:
        if log.begun:
            check_records(log, told.records[log.name], told.functions)
            check_report(log, rows[log.name])
            assert log.name in told.closed
    assert len(runtime.current()._pools) == sum(pool is not None for pool in fire.pools)


def outcome(task):
    if task.future.cancelled():
        return "cancelled"
    return "succeeded" if task.future.exception() is None else "failed"


def check_records(log, records, functions):
    """Each record is of one task of the log, and each task has one."""
    assert len(records["rejected"]) == len(log.refused)
    assert len(records["arrived"]) == len(log.accepted)
    assert not records["broken"]
    by_outcome = Counter(outcome(task) for task in log.accepted)
    assert len(records["cancelled"]) == by_outcome["cancelled"]
    assert len(records["finished"]) == by_outcome["succeeded"] + by_outcome["failed"]
    # Per function: what arrived is what ended.
    arrived = Counter(functions[number] for number, _ in records["arrived"])
    assert arrived == Counter(task.kind for task in log.accepted)
    ended = Counter(functions[record[1] >> 1] for record in records["finished"])
    ended.update(functions[number] for number, *_ in records["cancelled"])
    assert arrived == ended
    # The tasks of a worker come in the order of its thread, so that each can be told from the others.
    by_worker = defaultdict(list)
    for worker, key, *stamps in records["finished"]:
        by_worker[worker].append((functions[key >> 1], bool(key & 1), *stamps))
    threads = sorted(log.by_thread.values(), key=lambda tasks: tasks[0].started)
    workers = sorted(by_worker.values(), key=lambda rows: rows[0][3])
    assert sorted(map(len, threads)) == sorted(map(len, workers))
    # By its start a worker finds its thread: the first one after it.
    starts = [tasks[0].started for tasks in threads]
    for rows in reversed(workers):
        place = bisect_left(starts, rows[0][3])
        tasks = threads.pop(place)
        del starts[place]
        for task, (kind, failed, submitted, started, finished) in zip(tasks, rows, strict=True):
            assert (kind, failed) == (task.kind, outcome(task) == "failed")
            assert task.before <= submitted <= task.submitted
            assert task.started_after <= started <= task.started
            assert task.ended <= finished <= task.done


def check_report(log, row):
    """The counts are those of the log, and each integral lies between the least and the most that it can be."""
    tasks = log.accepted
    by_outcome = Counter(outcome(task) for task in tasks)
    counts = row.tasks
    assert counts.submitted == len(tasks) == counts.started + counts.cancelled
    assert counts.rejected == len(log.refused)
    for name in ("succeeded", "failed", "cancelled"):
        assert getattr(counts, name) == by_outcome[name], name
    assert {f.name.rpartition(".")[2]: f.started for f in row.functions} == Counter(
        task.kind for task in tasks if outcome(task) != "cancelled"
    )
    ran = [task for task in tasks if outcome(task) != "cancelled"]
    surely_busy = [(task.started, task.ended) for task in ran]
    maybe_busy = [(task.started_after, task.done) for task in ran]
    assert length(surely_busy) <= row.busy_seconds * 1e9 + 1 <= length(maybe_busy) + 2
    for function in row.functions:
        kind = function.name.rpartition(".")[2]
        of = [place for place, task in enumerate(ran) if task.kind == kind]
        least, most = length([surely_busy[i] for i in of]), length([maybe_busy[i] for i in of])
        assert least <= function.busy_seconds * 1e9 + 1 <= most + 2
    surely_queued = [(task.submitted, leaves_after(log, task)) for task in tasks]
    maybe_queued = [(task.before, task.done if outcome(task) == "cancelled" else task.started) for task in tasks]
    maybe_in_it = [(task.before, task.done) for task in tasks]
    assert length(surely_queued) <= row.queued_seconds * 1e9 + 1 <= length(maybe_queued) + 2
    # A worker that is on its way into a task is not idle: more tasks than workers are enough. Nor is one between two
    # tasks, however long the machine lets it wait there.
    between = [(one.done, next_.started_after) for its in log.by_thread.values() for one, next_ in pairwise(its)]
    least = saturated(surely_queued, surely_busy, (), log.size)
    most = saturated(maybe_queued, maybe_busy + between, maybe_in_it, log.size)
    assert least <= row.saturated_seconds * 1e9 + 1 <= most + 2


def leaves_after(log, task):
    """A moment before which the task was surely in the queue, once it was submitted."""
    if outcome(task) != "cancelled":
        return task.started_after
    return min(at for at in (task.asked, log.shut_at) if at is not None)


def length(intervals):
    return sum(max(0, end - begin) for begin, end in intervals)


def saturated(queued, busy, inside, size):
    """For how long at least one task was queued and at least `size` workers busy, or more than `size` tasks in the
    pool (ns)."""
    kinds = enumerate((queued, busy, inside))
    spans = [(begin, end, which) for which, each in kinds for begin, end in each if end > begin]
    events = [(at, which, step) for begin, end, which in spans for at, step in ((begin, 1), (end, -1))]
    # An end and a begin at the same moment leave no gap.
    events.sort(key=lambda event: (event[0], -event[2]))
    standing, last, total = [0, 0, 0], 0, 0
    for at, which, step in events:
        if (standing[0] > 0 and standing[1] >= size) or standing[2] > size:
            total += at - last
        standing[which] += step
        last = at
    return total
