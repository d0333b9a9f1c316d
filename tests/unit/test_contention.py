"""Facts from lines and functions: who waits for whom, and who holds the workers."""

import random
from collections.abc import Callable

import msgspec
import pytest

from poolscope.messages import Line, Stack, StackSample
from poolscope.signals.contention import Contention, FunctionShare, HeldUp, children_share, contention, held_up, hogs

WAIT, HOLD, OTHER = ("/app/db.py", 8, "save"), ("/app/db.py", 9, "save"), ("/app/db.py", 20, "load")
#: How much longer than that a task goes on.
LEFT = {WAIT: 50, HOLD: 10, OTHER: 100}
STEP = 1_000


class Samples:
    """Samples of a pool, each worker in a task of its own each time, unless told otherwise."""

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self.samples: list[StackSample] = []
        self.ended: dict[tuple[int, int], int] = {}

    def add(
        self,
        elsewhere: dict[int, Line],
        *,
        functions: dict[Line, int] | None = None,
        lasting: frozenset[int] = frozenset(),
        spots: dict[int, int] | None = None,
        left: dict[Line, int] = LEFT,
    ) -> None:
        """All workers are at WAIT but for some."""
        at = (len(self.samples) + 1) * STEP
        stacks: dict[tuple[Line, int], list[int]] = {}
        for worker in range(1, self.workers + 1):
            line = elsewhere.get(worker, WAIT)
            function, spot = (functions or {}).get(line, 1), (spots or {}).get(worker, 0)
            started = worker if worker in lasting else at - 100 + worker
            stacks.setdefault((line, spot), []).extend((worker, function, started))
            if worker not in lasting:
                self.ended[function, started] = at + left[line]
        self.samples.append(StackSample(1, at, [Stack([line], spot, tasks) for (line, spot), tasks in stacks.items()]))

    def judge(
        self,
        *,
        lasting: frozenset[int] = frozenset(),
        starts: int = 1000,
        worth: float = 0.0,
        usual: dict[int, float] | None = None,
        takes: Callable[[tuple[Line, ...]], bool] = lambda _: True,
    ) -> Contention | None:
        return contention(
            self.samples,
            self.workers,
            lasting=lasting,
            starts=starts,
            ended=self.ended,
            usual=usual or {},
            worth=worth,
            takes=takes,
        )


def resource(workers: int, holders: int, count: int = 20, *, noise: float = 0.0) -> Samples:
    """`holders` workers at a time hold it, others each time; now and then one is seen in between."""
    rng = random.Random(workers)
    samples = Samples(workers)
    for _ in range(count):
        samples.add(dict.fromkeys(rng.sample(range(1, workers + 1), holders + (rng.random() < noise)), HOLD))
    return samples


@pytest.mark.parametrize(
    ("workers", "holders"), [(16, 1), (20, 2), (10, 1), (4, 1), (64, 8), (12, 4), (8, 4), (8, 5), (40, 15), (8, 6)]
)
def test_a_constant_number_gets_past_the_line(workers: int, holders: int) -> None:
    found = resource(workers, holders, 30, noise=0.1).judge()
    assert found is not None
    assert (found.holders, found.waiting, found.holding) == (holders, (WAIT,), (HOLD,))


@pytest.mark.parametrize("full", [WAIT, HOLD])
def test_who_waits_for_room_in_a_full_queue_waits_for_no_worker_of_the_pool(full: Line) -> None:
    subject = resource(6, 1)
    for sample in subject.samples:
        for index, stack in enumerate(sample.stacks):
            if stack.lines == [full]:
                sample.stacks[index] = msgspec.structs.replace(stack, gate="queue")
    assert subject.judge() is None


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(300))
def test_two_stages_scatter(seed: int) -> None:
    rng = random.Random(seed)
    workers, share = rng.choice([2, 4, 8, 16, 32]), rng.uniform(0.03, 0.97)
    samples = Samples(workers)
    for _ in range(rng.randint(10, 50)):
        samples.add({worker: HOLD for worker in range(1, workers + 1) if rng.random() < share})
    assert samples.judge() is None


@pytest.mark.parametrize(
    "samples",
    [
        resource(16, 1, count=9),  # too few
        resource(8, 0),  # all at one line
        resource(2, 1, count=10),  # of two workers, one each is what chance brings
    ],
)
def test_what_is_no_shared_resource(samples: Samples) -> None:
    assert samples.judge() is None


def test_a_consumer_that_keeps_its_worker_holds_nothing() -> None:
    samples = Samples(8)
    for _ in range(50):
        samples.add({3: OTHER}, lasting=frozenset({3}))
    assert samples.judge(lasting=frozenset({3})) is None


def test_consumers_beside_short_tasks_do_not_wait_for_these() -> None:
    """Six workers are kept by tasks of another function: the other two have nothing that those want."""
    samples = Samples(8)
    consumers = frozenset(range(3, 9))
    for _ in range(50):
        samples.add({1: HOLD, 2: HOLD}, lasting=consumers, functions={WAIT: 7})
    assert samples.judge(lasting=consumers) is None


def test_those_who_wait_need_not_do_what_the_holder_does() -> None:
    """Readers wait for a writer."""
    samples = Samples(8)
    for at in range(50):
        samples.add({1 + at % 8: HOLD}, functions={WAIT: 7})
    found = samples.judge()
    assert found is not None
    assert (found.holders, found.waiting, found.holding) == (1, (WAIT,), (HOLD,))


def test_one_that_is_stuck_says_nothing_of_the_others() -> None:
    samples, stuck = Samples(8), frozenset({3})
    for _ in range(50):
        samples.add(dict.fromkeys({*range(1, 9)} - stuck, HOLD), lasting=stuck)
    assert samples.judge(lasting=stuck) is None


def test_half_of_the_workers_must_be_seen() -> None:
    samples = resource(8, 1)
    samples.workers = 16
    assert samples.judge() is None


def test_it_takes_tasks_that_come_and_go() -> None:
    assert resource(8, 2).judge(starts=19) is None
    assert resource(8, 2).judge(starts=20) is not None


def test_stages_in_step_do_not_hold_each_other_up() -> None:
    """Two fixed times, evenly spread: always two of eight at the second. But tasks are as fast as ever."""
    assert resource(8, 2).judge(worth=7.9) is None
    assert resource(8, 2).judge(worth=4.9) is not None


def test_tasks_may_do_something_else_before() -> None:
    samples = Samples(8)
    for at in range(30):
        samples.add({1 + at % 8: HOLD} | {1 + (at + ahead) % 8: OTHER for ahead in range(1, 1 + at % 4)})
    found = samples.judge()
    assert found is not None
    assert (found.holders, found.waiting, found.holding) == (1, (WAIT,), (HOLD,))


def test_tasks_may_do_something_else_afterwards() -> None:
    """Most workers are past the lock: that is not where they wait."""
    samples, after = Samples(8), ("/app/db.py", 30, "send")
    for at in range(30):
        past = {1 + (at + ahead) % 8: after for ahead in range(1, 5 + at % 2)}
        samples.add({1 + at % 8: HOLD} | past, left=LEFT | {after: 5})
    found = samples.judge()
    assert found is not None
    assert (found.holders, found.waiting, found.holding) == (1, (WAIT,), (HOLD,))


def test_the_unlucky_may_wait_all_the_time() -> None:
    samples, unlucky = Samples(8), frozenset({1, *range(3, 9)})
    for _ in range(30):
        samples.add({1: OTHER, 2: HOLD}, lasting=unlucky)
    found = samples.judge(lasting=unlucky)
    assert found is not None
    assert (found.holders, found.waiting, found.holding) == (1, (WAIT,), (HOLD,))
    # Where nothing scarce is taken they may as well never come back.
    assert samples.judge(lasting=unlucky, takes=lambda _: False) is None


def test_one_line_may_take_a_lock_and_use_it() -> None:
    samples = Samples(8)
    for at in range(30):
        holder = 1 + at % 8
        samples.add({}, spots={holder: 4})
        samples.ended[1, (at + 1) * STEP - 100 + holder] = (at + 1) * STEP + 1
    found = samples.judge()
    assert found is not None
    assert (found.holders, found.waiting, found.holding) == (1, (WAIT,), (WAIT,))


def starving(workers: int, turns: int, turn: int) -> Samples:
    """All are in one call that takes a lock and gives it back: one goes on and on, and the others starve for a turn."""
    samples = Samples(workers)
    for at in range(1, turns * turn + 1):
        now, begun = at * STEP, (at - 1) // turn * turn * STEP
        lucky = 1 + (at - 1) // turn % workers
        tasks = []
        for worker in range(1, workers + 1):
            started = now - 5 if worker == lucky else begun + worker
            samples.ended[1, started] = now + 5 if worker == lucky else begun + turn * STEP + worker
            tasks += [worker, 1, started]
        samples.samples.append(StackSample(1, now, [Stack([WAIT], 0, tasks)]))
    return samples


def test_those_that_starve_in_one_call_show_by_their_age() -> None:
    found = starving(8, 12, 5).judge(usual={1: 10.0})
    assert found is not None
    assert (found.holders, found.waiting, found.holding) == (1, (WAIT,), (WAIT,))


def test_each_of_those_that_starve_may_do_so_for_most_of_the_time() -> None:
    """Whoever has starved for long enough changes places with the lucky one, and the number stays the same."""
    samples, workers = Samples(8), 8
    starts = dict.fromkeys(range(1, workers + 1), 0)
    for at in range(1, 61):
        now, lucky = at * STEP, 1 + at // 5 % workers
        if at % 5 == 0:
            starts[1 + (at // 5 - 1) % workers] = now - STEP
        tasks = []
        for worker in range(1, workers + 1):
            started = now - 5 if worker == lucky else starts[worker] + worker
            samples.ended[1, started] = now + (5 if worker == lucky else 30 * STEP)
            tasks += [worker, 1, started]
        samples.samples.append(StackSample(1, now, [Stack([WAIT], 0, tasks)]))
    found = samples.judge(usual={1: 10.0})
    assert found is not None
    assert (found.holders, found.waiting, found.holding) == (1, (WAIT,), (WAIT,))


def test_few_long_tasks_are_not_known_to_starve() -> None:
    """The same, but for so long that it is the same tasks again and again."""
    found = starving(8, 3, 20).judge(usual={1: 10.0})
    assert found is not None
    assert not found.sure


@pytest.mark.parametrize("seed", range(50))
def test_long_and_short_tasks_of_one_line_scatter(seed: int) -> None:
    rng = random.Random(seed)
    workers, samples = 8, Samples(8)
    share = rng.uniform(0.5, 0.95)
    for at in range(1, 61):
        tasks = []
        for worker in range(1, workers + 1):
            long = rng.random() < share
            started = at * STEP - (500 if long else 5) + worker
            samples.ended[1, started] = at * STEP + (500 if long else 5)
            tasks += [worker, 1, started]
        samples.samples.append(StackSample(1, at * STEP, [Stack([WAIT], 0, tasks)]))
    assert samples.judge(usual={1: 10.0}) is None


def test_many_samples_of_many_workers_are_thinned_out() -> None:
    for workers, samples in ((64, 30), (8, 100)):
        found = resource(workers, workers // 8, count=600).judge()
        assert found is not None
        assert (found.holders, found.samples) == (workers // 8, samples)


def share(function: int, starts: int, run: int, wait: int = 0) -> FunctionShare:
    return FunctionShare(function, starts, starts * run, [wait] * starts, [run] * starts)


def test_few_long_tasks_hold_the_pool() -> None:
    found = hogs([share(1, 900, 10, 500), share(2, 80, 1000), share(3, 20, 3000)])
    assert found is not None
    assert found.functions == (3, 2)
    assert (found.busy_share, found.start_share) == pytest.approx((140 / 149, 0.1))
    assert (found.others_wait_ns, found.others_run_ns) == (500, 10)


@pytest.mark.parametrize(
    "shares",
    [
        [],
        [share(1, 100, 10)],
        [share(1, 100, 10), share(2, 100, 11)],  # alike
        [share(1, 10, 10), share(2, 100, 1000)],  # the long ones are the many
        [share(1, 900, 10), share(2, 1, 1000)],  # hold little
        [share(1, 9, 10), share(2, 3, 1000)],  # too few of the others
    ],
)
def test_pools_that_nobody_hogs(shares: list[FunctionShare]) -> None:
    assert hogs(shares) is None


def test_those_on_their_way_there_are_no_holders() -> None:
    """Ten samples: one worker holds it each time, and three others are elsewhere most of the time."""
    samples = Samples(12)
    for at in range(10):
        ahead = 3 if at < 9 else 1
        samples.add({1 + at: HOLD} | {1 + (at + step) % 12: OTHER for step in range(1, 1 + ahead)})
    found = samples.judge()
    assert found is not None
    assert (found.holders, found.holding) == (1, (HOLD,))


def gated(count: int, *stacks: Stack) -> list[StackSample]:
    return [StackSample(1, at * STEP, list(stacks)) for at in range(count)]


def three(worker: int) -> list[int]:
    """Three workers, from this one on."""
    return [number for each in range(worker, worker + 3) for number in (each, 1, 0)]


def test_who_waits_at_something_that_lets_few_pass_is_held_up() -> None:
    samples = gated(
        10,
        Stack([WAIT], 0, three(1), "lock"),
        Stack([WAIT], 4, three(4), "lock"),
        Stack([OTHER], 0, three(7), "semaphore"),
        Stack([HOLD], 0, three(10)),
    )
    assert held_up(samples, frozenset()) == HeldUp("lock", 0.75, (WAIT,))
    assert held_up(samples[:9], frozenset()) is None
    # Who has been in one task all the time may wait for work.
    assert held_up(samples, frozenset(range(1, 7))) == HeldUp("semaphore", 0.5, (OTHER,))
    assert held_up(samples, frozenset(range(1, 10))) is None


def test_who_waits_for_anything_else_is_not_held_up() -> None:
    assert held_up(gated(10, Stack([WAIT], 0, three(1)), Stack([HOLD], 0, three(4), "child")), frozenset()) is None


def test_how_many_wait_for_child_processes() -> None:
    samples = gated(10, Stack([WAIT], 0, three(1), "lock"), Stack([HOLD], 0, three(4), "child"))
    assert children_share(samples) == 0.5
    assert children_share(samples[:9]) == 0.0
