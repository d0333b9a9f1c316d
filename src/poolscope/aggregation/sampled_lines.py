"""Counts the lines at which the workers of a pool were seen. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from poolscope.messages import Line, StackSample

#: (lines, how many times a worker was seen there), the most first; and the number of all.
LineCounts = tuple[list[tuple[tuple[Line, ...], int]], int]


def worker_lines(
    samples: Iterable[StackSample], begin_ns: int, end_ns: int, only: frozenset[int] | None = None
) -> LineCounts:
    """Count where the workers were in [begin, end]; `only` these workers."""
    counts: dict[tuple[Line, ...], int] = {}
    for sample in samples:
        if begin_ns <= sample.at_ns <= end_ns:
            for stack in sample.stacks:
                key, workers = tuple(stack.lines), stack.tasks[::3]
                count = len(workers) if only is None else sum(worker in only for worker in workers)
                if count:
                    counts[key] = counts.get(key, 0) + count
    return _most_first(counts)


def waiting_lines(samples: Iterable[StackSample], begin_ns: int, end_ns: int) -> LineCounts:
    """Count the lines that waited for a limit."""
    counts: dict[tuple[Line, ...], int] = {}
    for sample in samples:
        if begin_ns <= sample.at_ns <= end_ns:
            for stack in sample.waiting:
                key = tuple(stack.lines)
                counts[key] = counts.get(key, 0) + len(stack.tasks) // 3
    return _most_first(counts)


def _most_first(counts: dict[tuple[Line, ...], int]) -> LineCounts:
    return sorted(counts.items(), key=lambda item: -item[1]), sum(counts.values())
