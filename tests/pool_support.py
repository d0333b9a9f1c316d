"""A pool in virtual time: arrivals and run times in, the batches a probe would have sent out.

First come, first served on `workers` workers, in nanoseconds from 1 s; no clock, no thread.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from heapq import heappop, heappush

from poolscope.aggregation.pool_history import PoolHistory
from poolscope.engine.finding_builder import FindingBuilder
from poolscope.engine.pool_case import PoolCase
from poolscope.engine.sizing_advisor import SizingAdvisor
from poolscope.messages import PoolBatch, PoolOpened, StackSample
from poolscope.rules.reason import Criteria
from poolscope.signals.pool_signals import ProcessSignals

SECOND = 1_000_000_000
ORIGIN = SECOND
TICK = SECOND // 10

#: submitted (seconds from the origin), run (seconds), function
Load = Sequence[tuple[float, float, int]]


def poisson(rate: float, seconds: float, seed: int, begin: float = 0.0) -> Iterator[float]:
    rng = random.Random(seed)
    at = begin
    while (at := at + rng.expovariate(rate)) < begin + seconds:
        yield at


def simulate(load: Load, workers: int) -> list[tuple[int, int, int, int, int]]:
    """(worker, function, submitted, started, finished) of each task, in order of submission."""
    free = [(0, worker) for worker in range(1, workers + 1)]
    done = []
    for submitted, run, function in sorted(load):
        at = ORIGIN + round(submitted * SECOND)
        # Of the workers that are free by then, any; else the one that is free first.
        when, worker = heappop(free)
        start = max(at, when)
        end = start + max(1, round(run * SECOND))
        heappush(free, (end, worker))
        done.append((worker, function, at, start, end))
    return done


def batches(
    tasks: Sequence[tuple[int, int, int, int, int]], workers: int, cpu_share: float = 0.0
) -> Iterator[PoolBatch]:
    """What the probe sends each tick until all is done."""
    if not tasks:
        return
    last = max(end for *_, end in tasks)
    at = ORIGIN
    busy = 0
    begun = 0
    unfinished: list[tuple[int, int, int, int, int]] = []
    while at < last + 3 * TICK:
        previous, at = at, at + TICK
        fresh = []
        while begun < len(tasks) and tasks[begun][2] < at:
            fresh.append(tasks[begun])
            begun += 1
        unfinished += fresh
        ended = [task for task in unfinished if task[4] < at]
        for _, _, _, start, end in unfinished:
            busy += max(0, min(end, at) - max(start, previous))
        unfinished = [task for task in unfinished if task[4] >= at]
        # Per worker in order of time, as each worker's own log has it.
        ended.sort(key=lambda task: (task[0], task[3]))
        yield PoolBatch(
            pool=1,
            at_ns=at,
            workers=workers,
            max_workers=workers,
            cpu_ns=int(busy * cpu_share),
            rejected=0,
            finished=[n for w, f, sub, start, end in ended for n in (w, f * 2, sub, start, end)],
            running=[n for w, f, sub, start, _ in unfinished if start < at for n in (w, f, sub, start)],
            cancelled=[],
            broken=[],
            arrivals=[n for _, f, sub, _, _ in fresh for n in (f, sub)],
        )


class VirtualPool:
    """Runs a load through a history and a case, tick by tick, as the judge does."""

    def __init__(
        self,
        workers: int,
        *,
        criteria: Criteria | None = None,
        process: ProcessSignals | None = None,
        keep_tasks: int = 200_000,
        kind: str = "thread",
        look: Callable[[int], StackSample] | None = None,
    ) -> None:
        """`look` gives what is seen of the workers at a time (ns)."""
        self.workers = workers
        self._look = look
        opened = PoolOpened(1, "pool", kind, "x.ThreadPoolExecutor", "app.py:1", workers, ORIGIN)
        self.history = PoolHistory(opened, pid=1, keep_tasks=keep_tasks, wait_bounds=(), run_bounds=())
        told = process or ProcessSignals(cores_used=0.1, cores_allowed=2.0, gil=True)
        self.case = PoolCase(
            self.history,
            criteria or Criteria(),
            builder=FindingBuilder(
                self.history,
                origin_ns=ORIGIN,
                function_of=lambda function: None,
                source_of=lambda file, line: None,
            ),
            advisor=SizingAdvisor(self.history),
            process_of=lambda begin, end: told,
        )
        self.events: list[tuple[float, str, bool]] = []

    def run(self, load: Load, cpu_share: float = 0.0, *, finish: bool = True) -> VirtualPool:
        return self.play(simulate(load, self.workers), cpu_share, finish=finish)

    def play(
        self, tasks: Sequence[tuple[int, int, int, int, int]], cpu_share: float = 0.0, *, finish: bool = True
    ) -> VirtualPool:
        """Take in tasks as `simulate` gives them."""
        at = ORIGIN
        for batch in batches(tasks, self.workers, cpu_share):
            at = batch.at_ns
            self.history.fold(batch)
            if self._look is not None:
                self.history.sample(self._look(at))
            self.history.settle(at - 2 * TICK)
            self._note(at, self.case.judge(at))
        if finish:
            self._note(at, self.case.finish(at))
        return self

    def _note(self, at: int, events: list) -> None:
        self.events += [((at - ORIGIN) / SECOND, finding.pattern, began) for finding, began in events]
