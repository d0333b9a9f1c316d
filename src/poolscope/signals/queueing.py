"""What the tasks of a pool queue for within their runs: that time is not their work.

A task is queued inside of its run while it stands at a lock, a semaphore, a full queue or a connection that another one
has, or waits for a task that has not started in another pool. What that pool's worker does for it is work. The part of
the time comes from samples, each of which sees all workers at one moment. Pure: no clock, no thread, no I/O.
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

#: The gates at which one waits for others to make room.
GATES = frozenset(("lock", "semaphore", "queue"))
#: However long a task queues, so much of its run is taken for work: the samples know no better.
LEAST_WORK = 0.1
#: At a gate that consumers may stand at on purpose a worker that is in one task all the time does not count. No lock is
#: waited for on purpose.
_LOCK = "lock"

#: Lines that have less of the workers' time than this are not read.
READ_SHARE = 0.1
#: A line whose only call takes a lock or a semaphore, which in C has no frame of its own.
_ACQUIRES = re.compile(r"(?:(?:if|while|return|not|\w+ =)\s+)*[\w.\[\]'\"]+\.acquire\([^()]*\)\s*:?(?:\s*#.*)?$")
#: What such a call waits for, but not for long.
_AT_ONCE = re.compile(r"acquire\(\s*(?:False|blocking\s*=\s*False|timeout\s*=\s*0\b)|acquire_nowait")
#: Words of a line at which a lock, a semaphore, a connection or a database lock is taken.
_TAKES = re.compile(
    r"acquire|(?<![a-z])[rf]?lock|semaphore|\bBEGIN\b|\bexecute(?:many|script)?\(|\bcommit\(|checkout|get_?conn|"
    r"connection|\bconnect\(",
    re.IGNORECASE,
)
#: Functions of the standard library, by file and end of the name, in which one waits for what others give back.
_STOCKS = (("queue.py", ".get"), ("threading.py", "Condition.wait"), ("threading.py", "Semaphore.acquire"))


class Queueing(msgspec.Struct, frozen=True):
    """Part (0 to 1) of the workers' time in tasks of each function in which these are queued, where enough was seen of
    it, and how many workers are, on average."""

    shares: Mapping[int, float]
    workers: float

    def worked(self, function: int) -> float:
        """Return the part of a run that is work, as far as is known."""
        return max(LEAST_WORK, 1.0 - self.shares.get(function, 0.0))


def queueing(
    samples: Sequence[StackSample],
    lasting: Collection[int],
    elsewhere: Mapping[int, Collection[Task]],
    waiting: tuple[Line, ...] = (),
) -> Queueing | None:
    """Return what the tasks queue for; None if the pool has not been looked at often enough, or none is seen to.

    `lasting` are workers that were in one task all the time. `elsewhere` gives for moments at which samples were taken
    the tasks that waited for another pool to start one. `waiting` is a line at which something scarce is waited for.
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
    """Return the same, with the gate of those that take a lock or semaphore in C: their line says it.

    Only lines are read at which much of the time goes: the file may be large, and there may be thousands of them.
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
        return ""  # it called a function in Python, whose frame would be known
    text = (source_of(*lines[0][:2]) or "").strip()
    if not _ACQUIRES.match(text) or _AT_ONCE.search(text):
        return ""
    return "semaphore" if "sem" in text.lower() else _LOCK


def takes(lines: Sequence[Line], source_of: SourceOf) -> bool:
    """Whether something scarce is taken at these lines, as far as they say."""
    if not lines:
        return False
    file, _, function = lines[-1]
    below = file.replace("\\", "/").rsplit("/", 1)[-1]
    if len(lines) > 1 and any(below == name and function.endswith(end) for name, end in _STOCKS):
        return True
    return any(_TAKES.search(source_of(*line[:2]) or "") is not None for line in lines)
