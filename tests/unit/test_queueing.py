"""What tasks queue for within their runs, and how their delay compares with their own work."""

import pytest
from pool_support import ORIGIN, SECOND

from poolscope.aggregation.pool_history import PoolHistory
from poolscope.aggregation.stretches import Stretch
from poolscope.messages import Line, PoolBatch, PoolOpened, Stack, StackSample
from poolscope.signals.amplification import delay
from poolscope.signals.measure import Surroundings, measure
from poolscope.signals.pool_signals import PoolSignals, ProcessSignals
from poolscope.signals.queueing import LEAST_WORK, queueing, takes, with_gates
from poolscope.signals.significance import Before
from poolscope.signals.window import Window

LOCK, WORK = ("/app/db.py", 8, "save"), ("/app/db.py", 9, "save")
NOBODY: frozenset[int] = frozenset()
HOST = ProcessSignals(cores_used=0.1, cores_allowed=4.0, gil=True)


def sample(at: int, *stacks: Stack) -> StackSample:
    return StackSample(1, at, list(stacks))


def at_lock(workers: int, *, gate: str = "lock", of: int = 8, function: int = 1, at: int = 0) -> StackSample:
    """So many workers at a gate, and the others at work."""
    there = [n for worker in range(workers) for n in (worker, function, at)]
    working = [n for worker in range(workers, of) for n in (worker, function, at)]
    return sample(at, Stack([LOCK], 0, there, gate), Stack([WORK], 0, working))


def test_the_share_of_the_time() -> None:
    found = queueing([at_lock(6, at=at) for at in range(20)], NOBODY, {})
    assert found is not None
    assert (found.shares, found.workers) == ({1: 0.75}, 6)
    assert found.worked(1) == 0.25
    assert found.worked(2) == 1.0  # not seen, so all of it


def test_never_below_a_tenth() -> None:
    found = queueing([at_lock(40, of=40, at=at) for at in range(20)], NOBODY, {})
    assert found is not None
    assert found.worked(1) == LEAST_WORK


@pytest.mark.parametrize(
    "samples",
    [
        [at_lock(6, at=at) for at in range(9)],  # too few
        [at_lock(0, at=at) for at in range(20)],
        [at_lock(6, gate="child", at=at) for at in range(20)],
        [at_lock(6, gate="", at=at) for at in range(20)],
        [],
    ],
)
def test_what_is_not_known(samples: list[StackSample]) -> None:
    assert queueing(samples, NOBODY, {}) is None


def test_consumers_stand_at_a_semaphore_on_purpose_and_at_no_lock() -> None:
    everyone = frozenset(range(8))
    assert queueing([at_lock(6, gate="semaphore", at=at) for at in range(20)], everyone, {}) is None
    assert queueing([at_lock(6, at=at) for at in range(20)], everyone, {}) is not None


def test_tasks_that_wait_in_the_queue_of_another_pool() -> None:
    samples = [at_lock(0, at=at) for at in range(20)]
    found = queueing(samples, NOBODY, {at: {(0, at), (1, at)} for at in range(20)})
    assert found is not None
    assert found.shares == {1: 0.25}


def test_connections_that_are_waited_for_at_a_line() -> None:
    samples = [at_lock(4, gate="", at=at) for at in range(20)]
    found = queueing(samples, NOBODY, {}, (LOCK,))
    assert found is not None
    assert found.shares == {1: 0.5}


@pytest.mark.parametrize(
    ("text", "gate"),
    [
        ("lock.acquire()", "lock"),
        ("self._locks[key].acquire()", "lock"),
        ("if not lock.acquire(timeout=5):", "lock"),
        ("got = semaphore.acquire()", "semaphore"),
        ("fcntl.flock(file, fcntl.LOCK_EX)", "lock"),
        ("fcntl.lockf(file.fileno(), fcntl.LOCK_EX)  # one at a time", "lock"),
        ("flock(file, LOCK_EX | LOCK_NB)", ""),
        ("fcntl.flock(file, fcntl.LOCK_UN)", ""),
        ("lock.acquire(False)", ""),
        ("while not lock.acquire(blocking=False):", ""),
        ("_ = lock.acquire(), time.sleep(held), lock.release()", ""),
        ("time.sleep(0.1)", ""),
        (None, ""),
    ],
)
def test_a_lock_that_is_taken_in_c_is_read_from_the_line(text: str | None, gate: str) -> None:
    [told] = with_gates([at_lock(6, gate="")], lambda _file, line: text if line == LOCK[1] else None)
    assert [stack.gate for stack in told.stacks] == [gate, ""]


@pytest.mark.parametrize(
    ("lines", "text", "taken"),
    [
        ((LOCK,), "with self.lock:", True),
        ((LOCK,), "fcntl.flock(file, fcntl.LOCK_EX)", True),
        ((LOCK,), 'cursor.execute("BEGIN IMMEDIATE")', True),
        ((LOCK,), "connection = engine.connect()", True),
        ((LOCK, ("/usr/lib/python3.13/queue.py", 199, "Queue.get")), "item = free.get()", True),
        ((LOCK, ("/lib/requests/api.py", 73, "get")), "requests.get(url)", False),
        ((LOCK,), "time.sleep(0.2)", False),
        ((LOCK,), "def save(self):", False),
        ((LOCK,), "clock.block()", False),
        ((LOCK,), None, False),
        ((), None, False),
    ],
)
def test_whether_something_scarce_is_taken_at_a_line(lines: tuple[Line, ...], text: str | None, taken: bool) -> None:
    assert takes(lines, lambda _file, _line: text) is taken


# -- the delay of tasks, by function ----------------------------------------------------------------------------


class Told:
    """A pool of two workers that tells of tasks as (function, submitted, started, ended), in seconds."""

    def __init__(self) -> None:
        opened = PoolOpened(1, "pool", "thread", "x", "app.py:1", 2, ORIGIN)
        self.history = PoolHistory(opened, pid=1, keep_tasks=100, wait_bounds=(), run_bounds=())
        self.at = 0.0

    def tell(
        self,
        at: float,
        finished: list[tuple[int, float, float, float]] = [],  # noqa: B006 - nothing changes it
        *,
        waiting: list[tuple[int, float]] = [],  # noqa: B006
        cancelled: list[tuple[int, float, float]] = [],  # noqa: B006
    ) -> None:
        def ns(seconds: float) -> int:
            return ORIGIN + round(seconds * SECOND)

        came = [
            *((function, submitted) for function, submitted, *_ in finished),
            *((function, submitted) for function, submitted, *_ in cancelled),
            *waiting,
        ]
        self.at = at
        self.history.fold(
            PoolBatch(
                pool=1,
                at_ns=ns(at),
                workers=2,
                max_workers=2,
                cpu_ns=0,
                rejected=0,
                finished=[n for f, sub, start, end in finished for n in (1, 2 * f, ns(sub), ns(start), ns(end))],
                running=[],
                cancelled=[n for f, sub, when in cancelled for n in (f, ns(sub), ns(when))],
                broken=[],
                arrivals=[n for function, submitted in came for n in (function, ns(submitted))],
            )
        )

    def window(self, begin: float = 0.0) -> Window:
        return Window(self.history, ORIGIN + round(begin * SECOND), ORIGIN + round(self.at * SECOND))

    def measure(self) -> PoolSignals:
        end = ORIGIN + round(self.at * SECOND)
        around = Surroundings(process=HOST, came_before=Before())
        return measure(self.history, Stretch(ORIGIN, end, open=True), self.window(), around)


def one_after_another(
    function: int, count: int, run: float, wait: float = 0.0, begin: float = 0.0
) -> list[tuple[int, float, float, float]]:
    return [(function, begin + n * run - wait, begin + n * run, begin + (n + 1) * run) for n in range(count)]


def test_tasks_that_are_still_queued_count_with_what_they_have_waited() -> None:
    told = Told()
    told.tell(1.0, one_after_another(1, 10, 0.1))
    told.tell(5.0, waiting=[(1, 1.0)] * 30)
    found = delay(told.window(), told.history.functions, None)
    assert found is not None
    assert (found.wait_ns, found.counts) == (4 * SECOND, True)
    assert found.times == pytest.approx(41)
    # Nothing started in the window, and nothing ends: the runs from before it say how long one takes.
    found = delay(told.window(2.0), told.history.functions, None)
    assert found is not None
    assert found.times == pytest.approx(41, rel=0.03)


def test_tasks_that_were_cancelled_in_the_queue_count_with_what_they_had_waited() -> None:
    told = Told()
    told.tell(9.0, one_after_another(1, 10, 0.8), cancelled=[(1, n / 10, n / 10 + 2.0) for n in range(60)])
    found = delay(told.window(), told.history.functions, None)
    assert found is not None
    assert found.wait_ns == 2 * SECOND
    signals = told.measure()
    assert signals.amplification == pytest.approx(3.5)


def test_the_function_that_suffers_most_counts() -> None:
    told = Told()
    long = one_after_another(1, 9, 1.0, wait=0.5)
    short = [(2, n - 0.9, n + 0.01, n + 0.02) for n in range(1, 9)]
    told.tell(10.0, long + short)
    found = delay(told.window(), told.history.functions, None)
    assert found is not None
    assert found.times == pytest.approx(0.92 / 0.01, rel=0.01)
    assert told.measure().wait_p50_seconds == pytest.approx(0.91)


def test_a_function_that_hardly_ever_runs_does_not_count() -> None:
    told = Told()
    told.tell(10.0, one_after_another(1, 95, 0.1) + [(2, n - 0.9, n + 0.01, n + 0.02) for n in range(1, 6)])
    found = delay(told.window(), told.history.functions, None)
    assert found is not None
    assert found.times == pytest.approx(1.0)


def test_a_wait_of_a_moment_does_not_count() -> None:
    told = Told()
    told.tell(10.0, one_after_another(1, 50, 0.001, wait=0.05) + one_after_another(2, 50, 0.1, begin=1.0))
    found = delay(told.window(), told.history.functions, None)
    assert found is not None
    assert not found.counts
    assert told.measure().negligible


def test_what_a_task_is_queued_for_within_its_run_is_not_its_work() -> None:
    told = Told()
    told.tell(10.0, one_after_another(1, 10, 1.0, wait=0.5))
    queued = queueing([at_lock(6, at=at) for at in range(20)], NOBODY, {})
    found = delay(told.window(), told.history.functions, queued)
    assert found is not None
    assert found.working_ns == SECOND / 4
    assert found.times == pytest.approx(6)


def test_a_long_queue_is_looked_at_in_part() -> None:
    told = Told()
    told.tell(1.0, one_after_another(1, 10, 0.1))
    told.tell(5.0, waiting=[(1, 1.0 + n / 10_000) for n in range(30_000)])
    queued, each = told.history.some_queued()
    assert 500 <= len(queued) < 1_000
    assert each * len(queued) == pytest.approx(30_000, rel=0.01)
    found = delay(told.window(), told.history.functions, None)
    assert found is not None
    assert found.wait_ns == pytest.approx(2.5 * SECOND, rel=0.01)
