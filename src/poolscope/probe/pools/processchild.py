"""What runs in the worker processes of a watched process pool: it notes when each call starts and ends.

A new interpreter loads this file by its path, so nothing of ours need be importable there, and this imports the
standard library only. The calls themselves, their arguments and their results pass as they are.

`perf_counter_ns` is the clock of the machine: what is stamped here can be compared with stamps of the parent.
"""

from __future__ import annotations

from concurrent.futures import process as standard
from time import perf_counter_ns, process_time_ns

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from multiprocessing.heap import BufferWrapper
    from typing import Any

#: How many of its latest calls a worker shows to the parent: the one that it is in, and those before it whose
#: results are still under way.
SHOWN = 4
#: Integers of a shown call: its number (the worker's first is 1), its work id, when it started (ns).
ENTRY = 3
#: Integers of a worker.
SEAT = SHOWN * ENTRY


def work(
    call_queue: Any,
    result_queue: Any,
    initializer: Callable[..., object] | None,
    initargs: tuple[Any, ...],
    max_tasks: int | None,
    shared: BufferWrapper,
    worker: int,
    number: int,
) -> None:
    """The standard worker's life as worker number `worker`, whose last call had the number `number`.

    Each call is shown in the shared memory, and its result tells (worker, number, started, ended, CPU time of the
    process), all times in ns.
    """
    shown = shared.create_memoryview().cast("q")
    get, put = call_queue.get, result_queue.put
    started = 0

    def noting_get(*args: Any, **kwargs: Any) -> Any:
        nonlocal number, started
        item = get(*args, **kwargs)
        if item is not None:
            started = perf_counter_ns()
            number += 1
            at = (worker - 1) * SEAT + number % SHOWN * ENTRY
            shown[at] = 0  # a reader who finds another number before and after its reading does not use it
            shown[at + 1] = item.work_id
            shown[at + 2] = started
            shown[at] = number
        return item

    def noting_put(item: Any) -> None:
        if isinstance(item, standard._ResultItem):
            item._poolscope = (  # type: ignore[attr-defined]  # ours; it is pickled with the rest
                worker,
                number,
                started,
                perf_counter_ns(),
                process_time_ns(),
            )
        put(item)

    call_queue.get, result_queue.put = noting_get, noting_put
    standard._process_worker(call_queue, result_queue, initializer, initargs, max_tasks)
