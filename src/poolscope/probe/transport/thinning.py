"""Batches of a pool as numbers, for tasks that come faster than they can be taken in one by one.

Counts and sums are exact, and so are the tasks that are still in the queue: they are sent as usual. Tasks that came and
went meanwhile are left out, except a sample of waits and runs. Memory is bounded by the length of the program's queue.
"""

from __future__ import annotations

import sys
from operator import itemgetter, sub

from poolscope.probe.interpreter.standard import standard
from poolscope.probe.transport.backlog import Backlog

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from typing import Any

    Message = tuple[Any, ...]

bisect_right: Callable[[Sequence[int], int, int], int] = standard("bisect").bisect_right

#: The most integers of a message, 8 bytes each in its frame.
MOST_NUMBERS = 30_000
#: The most tasks of a delivery to give to an engine of the same process one by one.
TASKS_AT_ONCE = 30_000
#: The most tasks of a sample. Twice as many are halved, and from then on half as many taken.
SAMPLE_TASKS = 1_000


class Thinning:
    """The pools of one process whose batches are added up, from the first `add` of each to the next `take`.

    For one thread at a time.
    """

    def __init__(self) -> None:
        self._pools: dict[int, _Sums] = {}
        # By pool: time and running tasks of the last batch that was sent as it is.
        self._told: dict[int, tuple[int, Sequence[int]]] = {}

    def passed(self, batch: Message) -> None:
        """Pass this batch on as it is."""
        self._told[batch[1]] = batch[2], batch[8]

    def holds(self, pool: int) -> bool:
        """Whether there are batches of this pool that have not been sent: the next one cannot go before them."""
        return pool in self._pools

    def add(self, batch: Message) -> None:
        """Add up a batch that is not sent."""
        sums = self._pools.get(batch[1])
        if sums is None:
            sums = self._pools[batch[1]] = _Sums(*self._told.get(batch[1], (0, ())))
        sums.add(batch)

    def take(self, pool: int | None = None) -> list[Message]:
        """Return the messages of all pools, or of this one, which has ended."""
        pools = list(self._pools) if pool is None else [pool]
        messages: list[Message] = []
        for each in pools:
            sums = self._pools.pop(each, None)
            if sums is not None:
                over, rest = sums.messages()
                self.passed(rest)
                if sums.ended:
                    messages += split_sums(over)
                messages += split_batch(rest)
        if pool is not None:
            self._told.pop(pool, None)
        return messages


class Thinned:
    """A sink in front of an engine of the same process, which takes tasks in one by one in the time of the program.

    In a delivery with more finished tasks than `most`, the batches beyond that are added up: otherwise, where tasks
    come faster than they are judged, each delivery would take longer than the last.
    """

    def __init__(self, sink: Callable[[Message], object], most: int = TASKS_AT_ONCE) -> None:
        self._sink = sink
        self._most = self._left = most
        self._thinning = Thinning()

    def __call__(self, message: Message) -> None:
        """Take one message, as `put` and `flush` do."""
        self.put(message)
        self.flush()

    def put(self, message: Message) -> None:
        """Take one message of a delivery."""
        if message[0] == "pool_batch":
            tasks = len(message[7]) // 5
            if tasks > self._left or self._thinning.holds(message[1]):
                self._thinning.add(message)
                return
            self._left -= tasks
            self._thinning.passed(message)
        elif message[0] == "pool_closed":
            for part in self._thinning.take(message[1]):
                self._sink(part)
        self._sink(message)

    def flush(self) -> bool:
        """Say whether the delivery is complete."""
        self._left = self._most
        for part in self._thinning.take():
            self._sink(part)
        return False


class _Sums:
    """What one pool did since `since_ns`, when `running` was sent."""

    def __init__(self, since_ns: int, running: Sequence[int]) -> None:
        self._since_ns = since_ns
        # A task that was sent as running has left the queue, as the reader sees it: worker -> (submitted, started).
        self._lasting = dict(zip(running[::4], zip(running[2::4], running[3::4], strict=True), strict=True))
        self._batch: Message = ()
        #: When the first of the tasks that arrived was submitted; before there is one, never.
        self._first_ns = sys.maxsize
        self._arrived = self._last_ns = 0
        self._cancelled = self._broken = self._unstarted_ns = self._rejected = 0
        self._functions: dict[int, list[int]] = {}
        # Function, wait and run of every so many tasks, and how many come before the next of them.
        self._sample: list[int] = []
        self._every, self._until_next = 1, 0
        self._backlog = Backlog()
        #: When tasks were submitted that had arrived before all this, and wait no longer.
        self._left: list[int] = []
        self._latest: dict[int, int] = {}  # worker -> start of its last task that ended

    @property
    def ended(self) -> bool:
        """Whether anything has. Else the rest is all that there is to send."""
        return bool(self._functions or self._cancelled or self._broken)

    def add(self, batch: Message) -> None:
        """Add up one more batch."""
        finished, _, cancelled, broken, arrivals = batch[7:]
        self._batch = batch
        self._rejected += batch[6]
        if arrivals:
            times = arrivals[1::2]
            self._first_ns = min(self._first_ns, min(times))
            self._arrived += len(times)
            self._backlog.add(times, arrivals[::2])
        gone = cancelled[1::3] + broken[1::3]
        self._cancelled += len(cancelled) // 3
        self._broken += len(broken) // 3
        self._unstarted_ns += sum(cancelled[2::3]) + sum(broken[2::3]) - sum(gone)
        if finished:
            gone += self._finish(finished)
        # A task that was submitted earlier than all new arrivals had arrived before.
        if gone and min(gone) < self._first_ns:
            self._left += [at for at in gone if at < self._first_ns]
            gone = [at for at in gone if at >= self._first_ns]
        self._backlog.leave(gone)

    def _finish(self, finished: list[int]) -> list[int]:
        """Count tasks; return when those were submitted that had not left the queue before."""
        if finished[::5] != sorted(finished[::5]):
            tasks = iter(finished)
            by_worker = sorted(zip(*([tasks] * 5), strict=True), key=itemgetter(0))
            finished = [number for task in by_worker for number in task]
        workers, keys, submitted, started, ended = (finished[column::5] for column in range(5))
        waits, runs = list(map(sub, started, submitted)), list(map(sub, ended, started))
        self._last_ns = max(self._last_ns, max(ended))
        first = keys[0]
        if keys.count(first) == len(keys):
            self._count(first >> 1, (first & 1) * len(keys), waits, runs)
        else:
            by_key: dict[int, tuple[list[int], list[int]]] = {}
            for key, wait, run in zip(keys, waits, runs, strict=True):
                mine = by_key.get(key)
                if mine is None:
                    mine = by_key[key] = ([], [])
                mine[0].append(wait)
                mine[1].append(run)
            for key, (key_waits, key_runs) in by_key.items():
                self._count(key >> 1, (key & 1) * len(key_waits), key_waits, key_runs)
        self._keep(keys, waits, runs)
        begin, told = 0, []
        while begin < len(workers):
            worker, end = workers[begin], bisect_right(workers, workers[begin], begin)
            self._latest[worker] = started[end - 1]
            if self._lasting.pop(worker, None) == (submitted[begin], started[begin]):
                told.append(submitted[begin])
            begin = end
        for at in told:
            submitted.remove(at)
        return submitted

    def _count(self, function: int, failed: int, waits: list[int], runs: list[int]) -> None:
        finished, all_failed, wait_ns, run_ns, longest_wait, longest_run = self._functions.get(function, [0] * 6)
        self._functions[function] = [
            finished + len(waits),
            all_failed + failed,
            wait_ns + sum(waits),
            run_ns + sum(runs),
            max(longest_wait, max(waits)),
            max(longest_run, max(runs)),
        ]

    def _keep(self, keys: list[int], waits: list[int], runs: list[int]) -> None:
        chosen = slice(self._until_next, None, self._every)
        taken = [key >> 1 for key in keys[chosen]]
        self._until_next += len(taken) * self._every - len(keys)
        for task in zip(taken, waits[chosen], runs[chosen], strict=True):
            self._sample += task
        while len(self._sample) > 6 * SAMPLE_TASKS:
            self._sample = [
                number for place in range(0, len(self._sample), 6) for number in self._sample[place : place + 3]
            ]
            self._every *= 2

    def _running(self) -> list[int]:
        """Return the tasks that ran at the last batch, without those whose end is recorded by now."""
        tasks, latest = iter(self._batch[8]), self._latest
        return [
            number for task in zip(*([tasks] * 4), strict=True) if task[3] > latest.get(task[0], -1) for number in task
        ]

    def messages(self) -> tuple[Message, Message]:
        """Return what is over, and what goes on: as a batch that comes after that."""
        batch = self._batch
        waiting, strays = self._backlog.sift()
        running = self._running()
        over = (
            "pool_sums",
            batch[1],
            self._since_ns,
            batch[2],
            self._arrived - len(waiting),
            self._first_ns if self._arrived else 0,
            self._last_ns,
            self._cancelled,
            self._broken,
            self._unstarted_ns,
            [number for function, counts in self._functions.items() for number in (function, *counts)],
            self._sample,
            [*self._left, *strays.elements()],
            running,
            [number for latest in self._latest.items() for number in latest],
        )
        arrivals = [number for at, function in waiting for number in (function, at)]
        return over, (*batch[:6], self._rejected, [], running, [], [], arrivals)


def split_batch(batch: Message) -> Iterator[Message]:
    """Return the batch as one or several. All but the last are as of no time: the last one says how the pool stands."""
    finished, running, cancelled, broken, arrivals = batch[7:]
    if sum(map(len, batch[7:])) <= MOST_NUMBERS:
        yield batch
        return
    part = (*batch[:2], 0, *batch[3:5], 0, 0)
    # First what arrived, or tasks would leave before they came.
    for numbers in _chunks(arrivals, 2):
        yield (*part, [], [], [], [], numbers)
    for numbers in _chunks(cancelled, 3):
        yield (*part, [], [], numbers, [], [])
    for numbers in _chunks(broken, 3):
        yield (*part, [], [], [], numbers, [])
    for numbers in _chunks(finished, 5):
        yield (*part, numbers, [], [], [], [])
    yield (*batch[:7], [], running, [], [], [])


def split_sums(sums: Message) -> Iterator[Message]:
    """Return the same for sums, all but the last of which end where they begin."""
    functions, sample, left, running, latest = sums[10:]
    if sum(map(len, sums[10:])) <= MOST_NUMBERS:
        yield sums
        return
    part = (*sums[:3], sums[2], 0, 0, 0, 0, 0, 0)
    for numbers in _chunks(left, 1):
        yield (*part, [], [], numbers, [], [])
    if len(functions) + len(sample) + len(running) + len(latest) > MOST_NUMBERS:
        # A sample goes with the counts of its functions: of so many functions it would say little.
        for numbers in _chunks(functions, 7):
            yield (*part, numbers, [], [], [], [])
        functions, sample = [], []
    yield (*sums[:10], functions, sample, [], running, latest)


def _chunks(numbers: list[int], record: int) -> Iterator[list[int]]:
    """Parts of whole records."""
    most = MOST_NUMBERS - MOST_NUMBERS % record
    for begin in range(0, len(numbers), most):
        yield numbers[begin : begin + most]
