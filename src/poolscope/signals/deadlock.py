"""What waits for what: proof that workers can never go on, and how much of a pool's time goes to another pool.

The proof of a deadlock: from all workers that wait, remove those that can go on, again and again, until none can. A
wait for all needs each of its targets, a wait for any needs one. A running target comes if its worker can go on; a
queued one comes if its pool has a worker that can, or may still start one; a target that we cannot see always comes.
The workers that are left (the greatest fixpoint of the waits-for relation) only wait for each other.

A sample is not taken at one moment: it may show a worker waiting for a task, and show the worker of that task in the
next one already. So only workers count that were in the same task, by its start, in the sample before. The first of
them to go on would need another one of them that has ended its task, and none has.

Pure: no clock, no thread, no I/O.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Collection, Iterable, Mapping
from types import MappingProxyType

import msgspec

from poolscope.messages import Line, Wait, WaitSample

#: How many samples of a pool are kept: as many as of its stacks.
WAITS_KEPT = 600
#: Fewer samples of a full pool than this do not show where its time goes.
SAMPLES_NEEDED = 10
#: Or than this, where each of them shows so many of the workers waiting for the same pool.
FEW_SAMPLES = 3
AGREEING_SHARE = 0.75

#: So many pools are remembered by the one task that has waited for them.
POOLS_KEPT = 1_000

#: No pool is a limit.
NO_LIMITS: Mapping[int, str] = MappingProxyType({})

#: (pool, worker); worker 0: the pool's queue.
Node = tuple[int, int]


class Cycle(msgspec.Struct, frozen=True):
    """A deadlock as one of its pools sees it."""

    #: When it may have begun at the earliest.
    since_ns: int
    #: This pool's workers in it, and the number of workers of all pools.
    workers: tuple[int, ...]
    all_workers: int
    #: The pool that most of them wait for: another one where there is one.
    next_pool: int
    #: How many pools it goes through.
    pools: int


class Deadlock(msgspec.Struct, frozen=True):
    """A proven cycle, last seen at `at_ns`, and the name of its next pool (None: this one), with its kind if it is a
    limit. `next_lines` are those at which what has the next pool's places waits, the user's line first."""

    cycle: Cycle
    at_ns: int
    next_pool: str | None
    next_kind: str = ""
    next_lines: tuple[Line, ...] = ()


class Awaited(msgspec.Struct, frozen=True):
    """Part (0 to 1) of a full pool's worker time that goes to waiting for futures of the pool of that name; `kind`: for
    one of the holds of a limit of that kind."""

    pool: str
    share: float
    kind: str = ""


def stuck(waits: Iterable[Wait], capacity: Mapping[int, int]) -> dict[Node, Wait]:
    """Return the waiting workers that can never go on.

    `capacity` gives the most workers that a pool has or may have; a pool that is not in it is not watched.
    """
    left = {(wait.pool, wait.worker): wait for wait in waits}
    while True:
        held = Counter(pool for pool, _ in left)
        free = [
            node
            for node, wait in left.items()
            if (any if wait.any else all)(not _never(target, left, held, capacity) for target in wait.targets)
        ]
        if not free:
            return left
        for node in free:
            del left[node]


def _never(target: Node, left: Collection[Node], held: Mapping[int, int], capacity: Mapping[int, int]) -> bool:
    """Whether a target never comes as long as none of `left` goes on."""
    pool, worker = target
    if worker:
        return target in left
    return pool in capacity and held[pool] >= capacity[pool]


def cycles(waits: Iterable[Wait], capacity: Mapping[int, int]) -> dict[int, Cycle]:
    """Return the deadlocks among those waits, by pool.

    A pool is in one if its stuck workers wait, directly or through others, for a queued task that can only start once
    one of them is free. Workers that merely wait for such a pool are stuck too, but not in the cycle.
    """
    left = stuck(waits, capacity)
    held = Counter(pool for pool, _ in left)
    edges: dict[Node, set[Node]] = {
        node: {target for target in wait.targets if _never(target, left, held, capacity)} for node, wait in left.items()
    }
    queues = {target for targets in edges.values() for target in targets if not target[1]}
    for queue in queues:
        edges[queue] = {node for node in left if node[0] == queue[0]}
    against: dict[Node, set[Node]] = {node: set() for node in edges}
    for node, targets in edges.items():
        for target in targets:
            against[target].add(node)
    found: dict[int, Cycle] = {}
    for queue in sorted(queues):
        members = _reached(queue, edges) & _reached(queue, against)
        workers = [node for node in members if node[1]]
        pools = sorted({pool for pool, _ in workers})
        since = max((left[node].since_ns for node in workers), default=0)
        for pool in pools:
            mine = sorted(node for node in workers if node[0] == pool)
            towards = Counter(target[0] for node in mine for target in edges[node] & members)
            other = [after for after, _ in towards.most_common() if after != pool]
            numbers = tuple(worker for _, worker in mine)
            found.setdefault(pool, Cycle(since, numbers, len(workers), (other or [pool])[0], len(pools)))
    return found


def _reached(start: Node, edges: Mapping[Node, set[Node]]) -> set[Node]:
    """Return what can be reached from `start` in one step or more."""
    seen: set[Node] = set()
    ahead = [start]
    while ahead:
        new = edges[ahead.pop()] - seen
        seen |= new
        ahead += new
    return seen


class DeadlockWatch:
    """The deadlocks of one process, from its samples in order. Not thread-safe: the engine's owner guards it."""

    def __init__(self) -> None:
        self._before: frozenset[tuple[int, int, int]] = frozenset()
        self._before_ns = 0
        self._suspected: dict[int, int] = {}  # pool -> since when

    def take(self, sample: WaitSample, capacity: Mapping[int, int]) -> dict[int, Cycle]:
        """Return the deadlocks that this sample proves together with the one before."""
        suspected = cycles(sample.waits, capacity)
        # Suspected for the first time: the sample before did not look like a deadlock.
        self._suspected = {
            pool: self._suspected.get(pool, max(cycle.since_ns, self._before_ns)) for pool, cycle in suspected.items()
        }
        same = [wait for wait in sample.waits if (wait.pool, wait.worker, wait.started_ns) in self._before]
        proven = suspected if len(same) == len(sample.waits) else cycles(same, capacity)
        self._before = frozenset((wait.pool, wait.worker, wait.started_ns) for wait in sample.waits)
        self._before_ns = sample.at_ns
        return {
            pool: msgspec.structs.replace(cycle, since_ns=min(self._suspected.get(pool, cycle.since_ns), sample.at_ns))
            for pool, cycle in proven.items()
        }


class PoolWaits:
    """What one pool's workers wait for, as time goes on. Not thread-safe: the engine's owner guards it."""

    def __init__(self, pool: int) -> None:
        self._pool = pool
        #: The last deadlock that the pool was seen in.
        self.deadlock: Deadlock | None = None
        # When, and how many workers waited for which other pool, and of which kind that is.
        self._samples: deque[tuple[int, Counter[tuple[str, str]]]] = deque(maxlen=WAITS_KEPT)
        # The first task that was seen to wait for another pool, by that; None: others have waited for it too.
        self._only: dict[int, tuple[int, int] | None] = {}
        # When, and which tasks (worker, started) waited for another pool that had not started one for them.
        self._queued: deque[tuple[int, frozenset[tuple[int, int]]]] = deque(maxlen=WAITS_KEPT)

    def note(
        self,
        at_ns: int,
        waits: Iterable[Wait],
        cycle: Cycle | None,
        names: Mapping[int, str],
        telling: Collection[int] = (),
        limits: Mapping[int, str] = NO_LIMITS,
        next_lines: tuple[Line, ...] = (),
    ) -> None:
        """Take in the waits of this pool's workers in one sample; `names` of the pools that there are. `telling` are
        those of which it is known what they run: a task that they do not run waits in their queue. `limits` are those
        that are limits, with their kinds; `next_lines` are as of a `Deadlock`."""
        if cycle is not None:
            other = names.get(cycle.next_pool) if cycle.next_pool != self._pool else None
            self.deadlock = Deadlock(cycle, at_ns, other, limits.get(cycle.next_pool, ""), next_lines)
        counts: Counter[tuple[str, str]] = Counter()
        queued: list[tuple[int, int]] = []
        waits = list(waits)
        for wait in waits:
            self._remember(wait)
        for wait in waits:
            if all(pool != self._pool and pool in telling and not worker for pool, worker in wait.targets):
                queued.append((wait.worker, wait.started_ns))
            [(towards, _)] = Counter(pool for pool, _ in wait.targets).most_common(1)
            if towards != self._pool and towards in names and not self._is_own(wait, towards):
                counts[names[towards], limits.get(towards, "")] += 1
        self._samples.append((at_ns, counts))
        if queued:
            self._queued.append((at_ns, frozenset(queued)))

    def _remember(self, wait: Wait) -> None:
        if len(self._only) >= POOLS_KEPT:
            self._only.clear()
        task = wait.worker, wait.started_ns
        for pool in {pool for pool, _ in wait.targets}:
            if self._only.setdefault(pool, task) != task:
                self._only[pool] = None

    def _is_own(self, wait: Wait, pool: int) -> bool:
        """Whether a task waits for a pool that it alone uses, and that runs all that it waits for: there are as many of
        these pools as such tasks, and none of them is scarce."""
        return self._only.get(pool) is not None and all(worker for _, worker in wait.targets)

    def queued(self, begin_ns: int, end_ns: int) -> dict[int, frozenset[tuple[int, int]]]:
        """Return by the moment of a sample in [begin, end] which tasks (worker, started) waited for another pool to
        start one."""
        return {at_ns: tasks for at_ns, tasks in self._queued if begin_ns <= at_ns <= end_ns}

    def awaited(self, begin_ns: int, end_ns: int, workers: int) -> Awaited | None:
        """Return the other pool that the workers, which were all busy, have waited for most in [begin, end]."""
        inside = [counts for at_ns, counts in self._samples if begin_ns <= at_ns <= end_ns]
        if len(inside) < FEW_SAMPLES:
            return None
        total: Counter[tuple[str, str]] = Counter()
        for counts in filter(None, inside):  # mostly no worker waited
            total.update(counts)
        if not total:
            return None
        [((pool, kind), count)] = total.most_common(1)
        agree = all(counts[pool, kind] >= AGREEING_SHARE * workers for counts in inside)
        if len(inside) < SAMPLES_NEEDED and not agree:
            return None
        return Awaited(pool, count / (len(inside) * max(1, workers)), kind)
