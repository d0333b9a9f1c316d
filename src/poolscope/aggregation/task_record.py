"""The tasks of one pool that are known one by one: the last that ended, those that run and those that wait.

Pure: times (ns) come in. Not thread-safe: its owner guards it.
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice

from poolscope.aggregation.durations import Durations
from poolscope.aggregation.kept_tasks import KeptTask, KeptTasks
from poolscope.aggregation.occupancy import RunningTask
from poolscope.aggregation.replay import Task, run_times
from poolscope.probe.transport.backlog import Backlog


class TaskRecord:
    """The tasks, which `PoolHistory` writes. `most` bounds in each method how many tasks are looked at: the latest of
    those that ended, the first of those that wait."""

    __slots__ = ("_durations", "kept", "queued", "running")

    def __init__(self, most: int, durations: Durations) -> None:
        """Keep the last `most` tasks that end; `durations` says how long a task that has not ended takes."""
        self._durations = durations
        self.kept = KeptTasks(most)
        #: By worker.
        self.running: dict[int, RunningTask] = {}
        self.queued = Backlog(partial(array, "q"))

    def spans(self, most: int | None = None) -> Iterator[tuple[int, int]]:
        """When each of the tasks that `for_replay` gives was submitted, and when it finished: for one that has not,
        beyond all times. Without tasks that never started."""
        yield from ((submitted, finished) for _, submitted, started, finished in self.kept.known(most) if started >= 0)
        yield from ((task.submitted_ns, sys.maxsize) for task in self.running.values())
        yield from ((submitted, sys.maxsize) for submitted, _ in islice(self.queued.waiting(), most))

    def for_replay(
        self, now_ns: int, most: int | None = None, wanted: Callable[[int], bool] = lambda _: True
    ) -> list[Task]:
        """Return the kept tasks and those still queued or running, in order of submission, for a replay.

        Where tasks are missing, those since then. A task that never ran gets the median run time of its function, or of
        the pool; one that still runs at least the time it has run. `wanted` says of which functions.
        """
        known = [task for task in self.known(most) if wanted(task[0])]
        if not known:
            return []
        functions, submitted, started, finished = zip(*known, strict=True)
        runs = run_times(functions, started, finished, now_ns, self._durations.usual_runs())
        # With the start: of tasks submitted at the same moment, the one that started first was first in the queue.
        starts = [at if at >= 0 else sys.maxsize for at in started]
        return [Task(at, run) for at, _, run in sorted(zip(submitted, starts, runs, strict=True))]

    def known(self, most: int | None = None, *, cancelled: bool = True) -> list[KeptTask]:
        """Return the kept, the running and the waiting tasks; with `cancelled` also those that never started."""
        known = [task for task in self.kept.known(most) if cancelled or task[2] >= 0]
        known += [(task.function, task.submitted_ns, task.started_ns, -1) for task in self.running.values()]
        known += [(function, at, -1, -1) for at, function in islice(self.queued.waiting(), most)]
        return known

    def ended_within(self, begin_ns: int, end_ns: int, most: int | None = None) -> list[KeptTask]:
        """Return those of the last `most` kept tasks that were submitted, ran and ended in this time."""
        known = self.kept.known(most)
        return [task for task in known if task[2] >= 0 and task[1] >= begin_ns and task[3] <= end_ns]

    def within(self, begin_ns: int, end_ns: int, now_ns: int, most: int | None = None) -> list[Task]:
        """Return the tasks that were in the pool in this time, as if what came or started before it had done so as it
        began; without those that never ran and never will."""
        known = [
            task for task in self.known(most, cancelled=False) if task[1] <= end_ns and not 0 <= task[3] <= begin_ns
        ]
        if not known:
            return []
        functions, submitted, started, finished = zip(*known, strict=True)
        starts = [max(at, begin_ns) if at >= 0 else at for at in started]
        runs = run_times(functions, starts, finished, now_ns, self._durations.usual_runs())
        order = [at if at >= 0 else sys.maxsize for at in starts]
        tasks = sorted(zip((max(at, begin_ns) for at in submitted), order, runs, strict=True))
        return [Task(at, run) for at, _, run in tasks]

    def packed(self, origin_ns: int, functions: dict[int, int]) -> tuple[bytes, bytes]:
        """Return the kept tasks and those that have not ended, and the worker of each, as a PoolTrace holds them.

        `functions` gives each function id its index there.
        """
        tasks = list(zip(self.kept, self.kept.workers, strict=True))
        running = self.running.items()
        tasks += [((task.function, task.submitted_ns, task.started_ns, -1), worker) for worker, task in running]
        tasks += [((function, at, -1, -1), 0) for at, function in self.queued.waiting()]
        packed, workers = array("q"), array("q")
        # As they were in the queue, see `for_replay`.
        for (function, *moments), worker in sorted(tasks, key=lambda task: (task[0][1], task[0][2] < 0, task[0][2])):
            packed.append(functions[function])
            packed.extend(moment - origin_ns if moment >= 0 else -1 for moment in moments)
            workers.append(worker)
        if sys.byteorder == "big":
            packed.byteswap()
            workers.byteswap()
        return packed.tobytes(), workers.tobytes()

    def function_ids(self) -> list[int]:
        """Return the functions of all tasks that `packed` holds."""
        return sorted(self.kept.functions() | self._open())

    def unfinished(self) -> set[int]:
        """Return the functions of tasks that never ran, or still run."""
        return self.kept.unstarted() | self._open()

    def _open(self) -> set[int]:
        """Return the functions of the tasks that run or wait."""
        functions = {task.function for task in self.running.values()}
        return functions | {function for _, function in self.queued.waiting()}

    def forget(self) -> None:
        """Drop all tasks."""
        self.kept = KeptTasks(self.kept.most)
        self.queued = Backlog(partial(array, "q"))
        self.running.clear()

    @property
    def numbers(self) -> int:
        """Return about how many numbers the tasks hold."""
        return 5 * len(self.kept) + 2 * self.queued.depth + 4 * len(self.running)
