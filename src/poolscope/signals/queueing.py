"""How long the tasks of a pool are queued within their runs: that time is not their work.

A task is queued inside of its run while it stands at a lock, a semaphore, a full queue or a connection that another
task has, or waits for a task that another pool has not started. Once that pool's worker runs the task, the time is
work. The share of the time comes from samples, each of which shows all workers at one moment. Pure: no clock, no
thread, no I/O.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence

import msgspec

from poolscope.messages import Line, Stack, StackSample
from poolscope.signals.contention import SAMPLES_NEEDED

#: Gives the text of a line of a file, if it can be read.
SourceOf = Callable[[str, int], str | None]
#: A task: its worker, and when it started (ns).
Task = tuple[int, int]

#: The gates at which a task waits for others to make room.
GATES = frozenset(("lock", "semaphore", "queue"))
#: At least this share of a run counts as work, however long a task queues: samples are not exact enough for less.
LEAST_WORK = 0.1
#: Consumers may stand at these gates on purpose, so a worker that is in one task all the time does not count there. No
#: task waits for a lock on purpose.
_LOCK = "lock"

#: The source of a line is read only if it has this share of the workers' time.
READ_SHARE = 0.1
#: A line whose only call takes a lock or a semaphore, or locks a file, which in C has no frame of its own.
_ACQUIRES = re.compile(
    r"(?:(?:if|while|return|not|\w+ =)\s+)*(?:[\w.\[\]'\"]+\.acquire\([^()]*\)"
    r"|(?:fcntl\.)?(?:flock|lockf)\((?:[^()]|\(\))*\))\s*:?(?:\s*#.*)?$"
)
#: Calls that do not wait, or not for long.
_AT_ONCE = re.compile(r"acquire\(\s*(?:False|blocking\s*=\s*False|timeout\s*=\s*0\b)|acquire_nowait|\bLOCK_(?:NB|UN)\b")
#: Words of a line at which a lock, a semaphore, a connection or a database lock is taken.
_TAKES = re.compile(
    r"acquire|(?<![a-z])[rf]?lock|semaphore|\bBEGIN\b|\bexecute(?:many|script)?\(|\bcommit\(|checkout|get_?conn|"
    r"connection|\bconnect\(",
    re.IGNORECASE,
)
#: Functions of the standard library, by file and end of the name, that wait for something that others give back.
_STOCKS = (("queue.py", ".get"), ("threading.py", "Condition.wait"), ("threading.py", "Semaphore.acquire"))


class Queueing(msgspec.Struct, frozen=True):
    """The part (0 to 1) of the run for which the tasks of each function are queued, where samples show it, and the mean
    number of workers in such tasks."""

    shares: Mapping[int, float]
    workers: float

    def worked(self, function: int) -> float:
        """Return the part (0 to 1) of a run that is work, as far as is known."""
        return max(LEAST_WORK, 1.0 - self.shares.get(function, 0.0))


def queueing(
    samples: Sequence[StackSample],
    lasting: Collection[int],
    elsewhere: Mapping[int, Collection[Task]],
    waiting: tuple[Line, ...] = (),
) -> Queueing | None:
    """Return how long the tasks are queued within their runs; None if there are too few samples, or none shows it.

    `lasting` are workers that were in one task all the time. `elsewhere`: moment of a sample -> the tasks that waited
    for another pool to start one. `waiting` is a line at which tasks wait for something scarce.
    """
    if len(samples) < SAMPLES_NEEDED:
        return None
    seen: Counter[int] = Counter()
    queued: Counter[int] = Counter()
    for sample in samples:
        there = elsewhere.get(sample.at_ns, ())
        for stack in sample.stacks:
            stands = stack.gate in GATES or (bool(waiting) and tuple(stack.lines) == waiting)
            tasks = iter(stack.tasks)
            for worker, function, started in zip(tasks, tasks, tasks, strict=True):
                seen[function] += 1
                if (stands and (worker not in lasting or stack.gate == _LOCK)) or (worker, started) in there:
                    queued[function] += 1
    if not queued:
        return None
    shares = {
        function: count / seen[function] for function, count in queued.items() if seen[function] >= SAMPLES_NEEDED
    }
    return Queueing(shares, queued.total() / len(samples)) if shares else None


def with_gates(samples: Sequence[StackSample], source_of: SourceOf) -> list[StackSample]:
    """Return the same samples, with a gate where a line takes a lock or semaphore in C: its source shows that.

    Only lines with much of the time are read: files may be large, and there may be thousands of lines.
    """
    places: Counter[tuple[Line, ...]] = Counter()
    for stack in (stack for sample in samples for stack in sample.stacks):
        places[tuple(stack.lines)] += len(stack.tasks)
    least = READ_SHARE * places.total()
    known = {lines: _acquires(lines, source_of) for lines, count in places.items() if count >= least}
    if not any(known.values()):
        return list(samples)

    def gated(stack: Stack) -> Stack:
        gate = stack.gate or known.get(tuple(stack.lines), "")
        return stack if gate == stack.gate else msgspec.structs.replace(stack, gate=gate)

    return [msgspec.structs.replace(sample, stacks=list(map(gated, sample.stacks))) for sample in samples]


def _acquires(lines: tuple[Line, ...], source_of: SourceOf) -> str:
    if len(lines) != 1:
        return ""  # it called a function written in Python: the gate would be known
    text = (source_of(*lines[0][:2]) or "").strip()
    if not _ACQUIRES.match(text) or _AT_ONCE.search(text):
        return ""
    return "semaphore" if "sem" in text.lower() else _LOCK


def takes(lines: Sequence[Line], source_of: SourceOf) -> bool:
    """Whether something scarce is taken at these lines, as far as they show it."""
    if not lines:
        return False
    file, _, function = lines[-1]
    below = file.replace("\\", "/").rsplit("/", 1)[-1]
    if len(lines) > 1 and any(below == name and function.endswith(end) for name, end in _STOCKS):
        return True
    return any(_TAKES.search(source_of(*line[:2]) or "") is not None for line in lines)
