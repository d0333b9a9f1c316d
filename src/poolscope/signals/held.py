"""Workers that are in one task for long: whether the task goes on, comes back to its line, or stands still for good.

Each fact stands for itself, without a threshold of a rule. Pure: no clock, no thread, no I/O.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import pairwise

import msgspec

from poolscope.aggregation.columns import groups
from poolscope.aggregation.occupancy import RunningTask
from poolscope.aggregation.pool_history import PoolHistory
from poolscope.messages import HeldSample, Line, StackSample

#: Says of a line whether the source has it in a loop around a wait that ends by itself; False: no, or it is not known.
InLoop = Callable[[Line], bool]

#: Tasks shorter than this never hold a worker.
HELD_SECONDS = 1.0
#: A task that moved this often between two looks comes back to its line again and again.
MOVES = 3
#: Fewer looks than this give no share of the workers.
LOOKS_NEEDED = 10
#: A look at a worker is missed now and then; after a longer time without one (ns) nothing is known of it any more.
GAP_NS = 3_000_000_000
#: Gates at which another thread has to give something: see `Stack`.
LOCKS = ("lock", "semaphore", "queue")
INHERITED = "inherited"
GATES = (*LOCKS, INHERITED)
LEAKED = "leaked"
#: Of more samples of the stacks than this only so many are looked at.
SAMPLES_KEPT = 60


class HeldWorker(msgspec.Struct, frozen=True):
    """A worker that has been in one task for long: seconds, and how many times the p99 run of the task's function
    (None: the function never finished, so there is nothing to compare with). `stays`: it is there on purpose, as far as
    can be seen (`long_lived`). `given_up`: nothing waits for the task any more. `leaked`: it is a hold of a
    limit, and what took it has ended, at a line that is known if it is `taken`."""

    worker: int
    function: int
    seconds: float
    times: float | None
    stays: bool = False
    given_up: bool = False
    leaked: bool = False
    taken: bool = False


class Standing(msgspec.Struct, frozen=True):
    """For how long (s) all workers of a pool have stood at locks, semaphores or full queues, while no other thread of
    the process moved. `inherited`: no thread of their process can release the locks."""

    seconds: float
    inherited: bool = False


def held_workers(
    history: PoolHistory, now_ns: int, in_loop: InLoop = lambda _: False, *, closely: bool = True
) -> tuple[HeldWorker, ...]:
    """Return the workers that are in a task for at least `HELD_SECONDS` now, the longest first.

    `closely`: read their samples too, which costs more.
    """
    held = []
    longest: dict[int, float | None] = {}
    # The worker has ended a task whose result is under way.
    old = {
        worker: task
        for worker, task in history.running.items()
        if now_ns - task.started_ns >= HELD_SECONDS * 1e9 and not history.has_ended(worker)
    }
    looks = _Looks(history, old, in_loop) if old and closely else None
    leaked = _leaked(history) if old and closely else {}
    for worker, task in old.items():
        age_ns = now_ns - task.started_ns
        if task.function not in longest:
            known = _has_finished(history, task.function)
            run = history.functions[task.function].run if known else None
            longest[task.function] = None if run is None else max(1.0, run.quantiles((0.99,))[0])
        usual = longest[task.function]
        held.append(
            HeldWorker(
                worker,
                task.function,
                age_ns / 1e9,
                None if usual is None else age_ns / usual,
                # If other calls of the function have come back, one that does not is stuck.
                stays=usual is None and looks is not None and looks.stays(worker),
                given_up=looks is not None and looks.given_up(worker),
                leaked=(worker, task.started_ns) in leaked,
                taken=leaked.get((worker, task.started_ns), False),
            )
        )
    return tuple(sorted(held, key=lambda worker: -worker.seconds))


def _leaked(history: PoolHistory) -> dict[tuple[int, int], bool]:
    """Return worker and start of the holds that have been seen to be leaked at the last look at them, and whether it is
    known which line took them."""
    found = [stack for stack in (history.stacks[-1].stacks if history.stacks else ()) if stack.gate == LEAKED]
    return {(worker, started): bool(each.lines) for each in found for worker, _, started in groups(each.tasks, 3)}


def _has_finished(history: PoolHistory, function: int) -> bool:
    own = history.functions.get(function)
    return own is not None and own.run.count > 0


class _Looks:
    """What the samples of some workers say of the tasks that they are in."""

    def __init__(self, history: PoolHistory, tasks: dict[int, RunningTask], in_loop: InLoop) -> None:
        self._in_loop = in_loop
        since_ns = min(task.started_ns for task in tasks.values())
        self._cpu: dict[int, list[int]] = {worker: [] for worker in tasks}
        self._places: dict[int, list[tuple[Line, ...]]] = {worker: [] for worker in tasks}
        self._spots: dict[int, list[object]] = {worker: [] for worker in tasks}
        self._given_up: dict[int, int] = {}
        for sample in history.held:
            if sample.at_ns < since_ns:
                continue
            for worker, started, cpu_ns, given_up in groups(sample.workers, 4):
                if worker in tasks and tasks[worker].started_ns == started:
                    if cpu_ns >= 0:
                        self._cpu[worker].append(cpu_ns)
                    self._given_up[worker] = given_up
        # If calls of a function have come back, its lines are not needed.
        first = {worker for worker, task in tasks.items() if not _has_finished(history, task.function)}
        samples = [sample for sample in history.stacks if sample.at_ns >= since_ns] if first else []
        for stacks in samples[:: 1 + len(samples) // SAMPLES_KEPT]:
            for stack in stacks.stacks:
                place = tuple(stack.lines)
                for worker, _, started in groups(stack.tasks, 3):
                    if worker in first and tasks[worker].started_ns == started:
                        self._places[worker].append(place)
                        self._spots[worker].append((place, stack.spot))

    def stays(self, worker: int) -> bool:
        """Whether the task comes back to its line again and again, or the source says that it does."""
        moves = sum(later > earlier for earlier, later in pairwise(self._cpu[worker]))
        turns = sum(later != earlier for earlier, later in pairwise(self._spots[worker]))
        if max(moves, turns) >= MOVES:
            return True
        places = self._places[worker]
        return bool(places) and bool(places[-1]) and self._in_loop(places[-1][0])

    def given_up(self, worker: int) -> bool:
        """Whether nothing waits for the task, as it was seen last."""
        return self._given_up.get(worker, 0) == 1


def given_up_share(samples: Sequence[HeldSample], max_workers: int) -> float:
    """Return the part of the workers that tasks hold which nothing waits for any more, on average; 0 if they have not
    been looked at often enough."""
    if len(samples) < LOOKS_NEEDED:
        return 0.0
    count: int = sum(given_up for sample in samples for _, _, _, given_up in groups(sample.workers, 4))
    return count / (len(samples) * max_workers)


def standing(history: PoolHistory, end_ns: int) -> Standing | None:
    """Return how all workers stand; None if some do not, or it is not known."""
    running = history.running
    if len(running) < history.size or not history.stacks:
        return None
    # The cheap tests come first: hardly any pool stands still.
    if any(stack.gate not in GATES for stack in history.stacks[-1].stacks):
        return None
    stood = _stood(history.stacks, running)
    if len(stood) < len(running) or any(
        gate not in GATES or end_ns - last_ns > GAP_NS for _, _, last_ns, gate in stood.values()
    ):
        return None
    inherited = all(gate == INHERITED for _, _, _, gate in stood.values())
    since_ns = max(since_ns for _, since_ns, _, _ in stood.values())
    if not inherited:
        since_ns = max(since_ns, _still_since(history.held, end_ns))
    return Standing(max(0, end_ns - since_ns) / 1e9, inherited)


def _stood(
    stacks: Iterable[StackSample], running: Mapping[int, RunningTask]
) -> dict[int, tuple[object, int, int, str]]:
    """Return by worker: the place of its task where it was seen last, since when it has been there, when that was seen
    last, and what it waits for there."""
    found: dict[int, tuple[object, int, int, str]] = {}
    for sample in stacks:
        at_ns = sample.at_ns
        for stack in sample.stacks:
            place = (tuple(stack.lines), stack.spot, stack.gate)
            for worker, _, started in groups(stack.tasks, 3):
                task = running.get(worker)
                if task is None or task.started_ns != started:
                    continue
                known = found.get(worker)
                stays = known is not None and known[0] == place and at_ns - known[2] <= GAP_NS
                found[worker] = (place, known[1] if known is not None and stays else at_ns, at_ns, stack.gate)
    return found


def _still_since(samples: Iterable[HeldSample], end_ns: int) -> int:
    """Since when no other thread of the process has moved."""
    since_ns = last_ns = None
    for sample in samples:
        if last_ns is None or not sample.still or sample.at_ns - last_ns > GAP_NS:
            since_ns = sample.at_ns
        last_ns = sample.at_ns
    return end_ns if since_ns is None or last_ns is None or end_ns - last_ns > GAP_NS else since_ns
