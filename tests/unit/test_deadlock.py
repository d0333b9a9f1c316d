"""The proof of a deadlock, against a scheduler that tries everything, and sample after sample."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from poolscope.messages import Wait, WaitSample
from poolscope.signals.deadlock import DeadlockWatch, PoolWaits, cycles, stuck

#: A pool in these systems may add a worker up to this size.
Pools = dict[int, int]


@dataclass
class System:
    """Workers in tasks, each of which waits (for futures by number) or does not, and queues. Futures in `queued` belong
    to tasks that end at once when they are started; a future in neither place comes from elsewhere."""

    sizes: Pools
    waits: dict[tuple[int, int], tuple[bool, list[int]]] = field(default_factory=dict)
    running: dict[int, tuple[int, int]] = field(default_factory=dict)  # future -> who runs it
    queued: dict[int, int] = field(default_factory=dict)  # future -> pool

    def told(self) -> list[Wait]:
        """As a sample says it."""
        where = {future: (pool, 0) for future, pool in self.queued.items()} | self.running
        return [
            Wait(pool, worker, 1, 1, enough, sorted({where.get(future, (0, 0)) for future in futures}))
            for (pool, worker), (enough, futures) in self.waits.items()
        ]

    def play(self) -> set[tuple[int, int]]:
        """Lets everything happen that can, until nothing can any more: who still waits then."""
        busy = set(self.running.values()) | set(self.waits)
        waits, queued, running = dict(self.waits), dict(self.queued), dict(self.running)
        while True:
            pending = set(queued) | set(running)
            able = [
                worker
                for worker in busy
                if worker not in waits or (any if waits[worker][0] else all)(f not in pending for f in waits[worker][1])
            ]
            startable = [
                future for future, pool in queued.items() if sum(at == pool for at, _ in busy) < self.sizes[pool]
            ]
            if not able and not startable:
                return set(waits)
            for worker in able:
                busy.discard(worker)
                waits.pop(worker, None)
                running = {future: at for future, at in running.items() if at != worker}
            for future in startable:
                del queued[future]


@st.composite
def systems(draw: st.DrawFn) -> System:
    sizes = {pool: draw(st.integers(1, 3)) for pool in range(1, draw(st.integers(1, 3)) + 1)}
    workers = [(pool, worker) for pool, size in sizes.items() for worker in range(1, draw(st.integers(0, size)) + 1)]
    futures = list(range(len(workers) + draw(st.integers(0, 5))))
    system = System(sizes)
    # The first futures are those of the running tasks; of the others some are queued, and the rest come from elsewhere.
    system.running = dict(zip(futures, workers, strict=False))
    for future in futures[len(workers) :]:
        pool = draw(st.sampled_from([0, *sizes]))
        if pool:
            system.queued[future] = pool
    for worker in workers:
        if futures and draw(st.integers(0, 4)):
            system.waits[worker] = (
                draw(st.booleans()),
                draw(st.lists(st.sampled_from(futures), min_size=1, max_size=3)),
            )
    return system


@settings(max_examples=500, deadline=None)
@given(systems())
def test_stuck_is_who_still_waits_when_everything_that_can_happen_has(system: System) -> None:
    assert set(stuck(system.told(), system.sizes)) == system.play()


@pytest.mark.slow
@settings(max_examples=500, deadline=None)
@given(systems())
def test_a_cycle_goes_through_a_queue_whose_workers_are_all_stuck(system: System) -> None:
    left = system.play()
    found = cycles(system.told(), system.sizes)
    in_cycles = {(pool, worker) for pool, cycle in found.items() for worker in cycle.workers}
    assert in_cycles <= left
    assert all(cycle.workers and cycle.next_pool in found for cycle in found.values())
    full = {pool for pool, size in system.sizes.items() if sum(at == pool for at, _ in left) == size}
    assert not found or full & set(found) & set(system.queued.values())


def wait(pool: int, worker: int, *targets: tuple[int, int], any_of: bool = False, started: int = 1) -> Wait:
    return Wait(pool, worker, started, started, any_of, list(targets))


OWN, A, B, C, ELSEWHERE = (1, 0), (1, 0), (2, 0), (3, 0), (0, 0)


@pytest.mark.parametrize(
    ("waits", "sizes", "expected"),
    [
        pytest.param([wait(1, 1, OWN), wait(1, 2, OWN)], {1: 2}, {1: ((1, 2), 1)}, id="own queue"),
        pytest.param([wait(1, 1, OWN), wait(1, 2, OWN)], {1: 3}, {}, id="one worker works or may be added"),
        pytest.param([wait(1, 1, OWN), wait(1, 2, ELSEWHERE)], {1: 2}, {}, id="one waits for something else"),
        pytest.param([wait(1, 1, OWN, ELSEWHERE)], {1: 1}, {1: ((1,), 1)}, id="all of them, one never comes"),
        pytest.param([wait(1, 1, OWN, ELSEWHERE, any_of=True)], {1: 1}, {}, id="any of them, one comes"),
        pytest.param([wait(1, 1, B), wait(2, 1, A)], {1: 1, 2: 1}, {1: ((1,), 2), 2: ((1,), 1)}, id="two pools"),
        pytest.param(
            [wait(1, 1, B), wait(2, 1, C), wait(3, 1, A)],
            {1: 1, 2: 1, 3: 1},
            {1: ((1,), 2), 2: ((1,), 3), 3: ((1,), 1)},
            id="three pools",
        ),
        pytest.param(
            [wait(1, 1, (2, 1)), wait(2, 1, A)],
            {1: 1, 2: 4},
            {1: ((1,), 2), 2: ((1,), 1)},
            id="through a running task of a pool that is not full",
        ),
        pytest.param([wait(1, 1, B), wait(1, 2, (2, 1))], {1: 2, 2: 1}, {}, id="a slow pool downstream"),
        pytest.param(
            [wait(1, 1, OWN), wait(2, 1, A), wait(2, 2, (1, 1))], {1: 1, 2: 2}, {1: ((1,), 1)}, id="a victim is no part"
        ),
        pytest.param(
            [wait(1, 1, (2, 1)), wait(2, 1, B), wait(3, 1, A)],
            {1: 1, 2: 1, 3: 1},
            {2: ((1,), 2)},
            id="nor are a victim's victims",
        ),
        pytest.param(
            [wait(1, 1, OWN), wait(1, 2, (1, 2))], {1: 2}, {1: ((1,), 1)}, id="beside one that is stuck alone"
        ),
        pytest.param([wait(1, 1, (1, 2)), wait(1, 2, (1, 1))], {1: 2}, {}, id="two that run, for each other: no queue"),
        pytest.param([wait(1, 1, (1, 1))], {1: 1}, {}, id="for itself: no queue"),
        pytest.param([wait(1, 1, (9, 0))], {1: 1}, {}, id="a pool that is gone"),
        pytest.param([], {1: 1}, {}, id="nobody waits"),
    ],
)
def test_cycles(waits: list[Wait], sizes: Pools, expected: dict[int, tuple[tuple[int, ...], int]]) -> None:
    found = cycles(waits, sizes)
    assert {pool: (cycle.workers, cycle.next_pool) for pool, cycle in found.items()} == expected
    assert {cycle.pools for cycle in found.values()} <= {len(expected)}


class TestProof:
    """Two samples, with the same tasks."""

    def test_one_sample_is_none(self) -> None:
        watch = DeadlockWatch()
        assert watch.take(WaitSample(10, [wait(1, 1, OWN)]), {1: 1}) == {}
        assert set(watch.take(WaitSample(20, [wait(1, 1, OWN)]), {1: 1})) == {1}

    def test_another_task_of_the_same_worker_is_none(self) -> None:
        watch = DeadlockWatch()
        watch.take(WaitSample(10, [wait(1, 1, OWN), wait(1, 2, OWN)]), {1: 2})
        later = [wait(1, 1, OWN), wait(1, 2, OWN, started=15)]
        assert watch.take(WaitSample(20, later), {1: 2}) == {}
        assert set(watch.take(WaitSample(30, later), {1: 2})) == {1}

    def test_it_began_after_the_last_sample_without_it(self) -> None:
        watch = DeadlockWatch()
        watch.take(WaitSample(10, []), {1: 1})
        watch.take(WaitSample(20, [wait(1, 1, OWN)]), {1: 1})
        for at in (30, 40):
            assert watch.take(WaitSample(at, [wait(1, 1, OWN)]), {1: 1})[1].since_ns == 10

    def test_it_began_after_what_is_waited_for_was_submitted(self) -> None:
        watch = DeadlockWatch()
        watch.take(WaitSample(10, []), {1: 1})
        late = Wait(1, 1, 5, 17, False, [OWN])
        watch.take(WaitSample(20, [late]), {1: 1})
        assert watch.take(WaitSample(30, [late]), {1: 1})[1].since_ns == 17


class TestAwaited:
    def test_the_other_pool_that_takes_most_time(self) -> None:
        waits = PoolWaits(1)
        names = {1: "front", 2: "back", 3: "side"}
        for at in range(20):
            waits.note(at, [wait(1, 1, B), wait(1, 2, B if at % 2 else C), wait(1, 3, OWN)], None, names)
        found = waits.awaited(0, 19, 4)
        assert found is not None
        assert (found.pool, found.share) == ("back", pytest.approx((20 + 10) / (20 * 4)))
        assert waits.awaited(15, 19, 4) is None, "too few samples"

    @pytest.mark.parametrize(("count", "found"), [(2, False), (3, True)])
    def test_few_samples_are_enough_where_they_agree(self, count: int, found: bool) -> None:
        waits = PoolWaits(1)
        for at in range(count):
            waits.note(at, [wait(1, number, B) for number in range(1, 4)], None, {1: "front", 2: "back"})
        assert (waits.awaited(0, 19, 4) is not None) == found

    def test_neither_the_own_pool_nor_one_that_nobody_knows(self) -> None:
        waits = PoolWaits(1)
        for at in range(20):
            waits.note(at, [wait(1, 1, OWN), wait(1, 2, ELSEWHERE), wait(1, 3, (9, 0))], None, {1: "front"})
        assert waits.awaited(0, 19, 3) is None
