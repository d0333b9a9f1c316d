"""The time in which tasks waited because a worker process had ended and its replacement had not started yet.

Pure: times (ns) come in. Not thread-safe: its owner guards it.
"""

from __future__ import annotations

from collections import deque

#: Replaced workers that are remembered.
REPLACED_KEPT = 5_000


class Replacements:
    """Takes starts of worker processes and the tasks of each worker in order; knows the gaps between them.

    A gap goes from the end of the last task of one process to the start of the first task of the one after it, as far
    as that task was waiting by then. The first process of a worker replaces none: a pool is set up once.
    """

    def __init__(self) -> None:
        # Worker -> starts of those of its processes of which no task is known (a start may be reported before the
        # tasks of the process before it); and the end of its last task.
        self._begun: dict[int, deque[int]] = {}
        self._ends: dict[int, int] = {}
        self._gaps: deque[tuple[int, int]] = deque(maxlen=REPLACED_KEPT)

    @property
    def known(self) -> bool:
        """Whether worker starts are reported: then no gap means that no worker was replaced."""
        return bool(self._begun or self._ends)

    def began(self, worker: int, at_ns: int) -> None:
        """Note that a process was started for a worker."""
        self._begun.setdefault(worker, deque(maxlen=REPLACED_KEPT)).append(at_ns)
        self._ends.setdefault(worker, -1)

    def worked(self, worker: int, submitted_ns: int, started_ns: int) -> None:
        """Note that a worker has begun a task."""
        begun, ended = self._begun.get(worker), self._ends.get(worker, -1)
        if begun is None or started_ns < begun[0]:
            return
        while begun and begun[0] <= started_ns:
            begun.popleft()
        if not begun:
            del self._begun[worker]
        if 0 <= ended <= started_ns:
            self._gaps.append((max(ended, min(submitted_ns, started_ns)), started_ns))

    def ended(self, worker: int, at_ns: int) -> None:
        """Note that a worker has ended a task."""
        if worker in self._ends:
            self._ends[worker] = max(self._ends[worker], at_ns)

    def waited_ns(self, begin_ns: int, end_ns: int, oldest_ns: int | None) -> int:
        """Return the gaps within that time, all together. A worker whose process has yet to take its first task has one
        since `oldest_ns`, when the task was submitted that waits longest (None: none waits)."""
        gaps = list(self._gaps)
        if oldest_ns is not None:
            lasting = (self._ends[worker] for worker in self._begun if self._ends.get(worker, -1) >= 0)
            gaps += [(max(ended, oldest_ns), end_ns) for ended in lasting]
        return sum(max(0, min(end, end_ns) - max(begin, begin_ns)) for begin, end in gaps)
