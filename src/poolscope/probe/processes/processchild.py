"""What runs in the worker processes of a watched pool: it notes when each call starts and ends.

A new interpreter loads this file by its path, so poolscope need not be importable there, and the file imports the
standard library only. Calls, arguments and results pass unchanged.

`perf_counter_ns` is the clock of the machine: its stamps can be compared with those of the parent.
"""

from __future__ import annotations

import sys
from time import perf_counter_ns, process_time_ns

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from multiprocessing.heap import BufferWrapper
    from typing import Any

#: How many of its latest calls a worker shows to the parent: the present one, and those before it whose results are
#: still under way. These may be many short calls if the thread that takes the results is held up.
SHOWN = 256
#: Integers of a shown call: its number (the worker's first is 1), its work id, when it started (ns), and whether its
#: result was put into the pipe.
ENTRY = 4
#: Integers of a worker.
PER_WORKER = SHOWN * ENTRY
#: Integers of the place of a worker, after those of all workers: the number of the call that it is the place of, the
#: bytes of a text, and the text (see `worker_place`).
PLACE = 256


def work(
    target: Callable[..., None],
    args: tuple[Any, ...],
    shared: BufferWrapper,
    worker: int,
    number: int,
) -> None:
    """Run the standard worker, `target(*args)`, as worker number `worker`, whose last call had the number `number`.

    The first two of `args` are the queues that calls come by and results go by: of `concurrent.futures`, items with a
    `work_id`; of `multiprocessing.pool`, tuples that begin with (job, index). Each call is shown in the shared memory,
    and its result tells (worker, number, started, ended, CPU time of the process), all times in ns.
    """
    shown = shared.create_memoryview().cast("q")
    calls, results = args[:2]
    get, put = calls.get, results.put
    started = at = 0

    def noting_get(*args: Any, **kwargs: Any) -> Any:
        nonlocal number, started, at
        try:
            item = get(*args, **kwargs)
        except BaseException as exc:
            _without_us(exc)
            raise
        if item is not None:
            started = perf_counter_ns()
            number += 1
            at = (worker - 1) * PER_WORKER + number % SHOWN * ENTRY
            shown[at] = 0  # a reader that finds another number after its reading than before does not use it
            shown[at + 1] = work_id(*item[:2]) if type(item) is tuple else item.work_id
            shown[at + 2] = started
            shown[at + 3] = 0
            shown[at] = number
        return item

    def noting_put(item: Any) -> None:
        stamps = worker, number, started, perf_counter_ns(), process_time_ns()
        if type(item) is tuple:
            item = (*item, stamps)
        elif hasattr(item, "work_id"):
            item._poolscope = stamps  # pickled with the rest
        try:
            put(item)
        except BaseException as exc:
            _without_us(exc)
            raise
        shown[at + 3] = 1

    calls.get, results.put = noting_get, noting_put
    _show_place(shown, worker)
    try:
        target(*args)
    except BaseException as exc:
        _without_us(exc)
        raise


def _show_place(shown: memoryview[int], worker: int) -> None:
    """Show where a lasting call is, if this process is watched. Never raises."""
    if "poolscope.probe.runtime" not in sys.modules:
        return
    try:
        worker_place: Any = sys.modules.get("poolscope.probe.processes.worker_place")
        if worker_place is None:  # in a new interpreter: what is forked has it from the parent, and imports nothing
            from poolscope.probe.processes import worker_place
        most = len(shown) // (PER_WORKER + PLACE)
        at = most * PER_WORKER + (worker - 1) * PLACE
        # A new interpreter has run this file by its path.
        forked = __name__ == "poolscope.probe.processes.processchild"
        worker_place.show(shown[(worker - 1) * PER_WORKER : worker * PER_WORKER], shown[at : at + PLACE], forked=forked)
    except Exception:
        pass  # then the lines of lasting calls are not known


def _without_us(exc: BaseException) -> None:
    """Remove the frame that has caught this from the traceback. A bare `raise` does not add it again."""
    # By the slot itself: a class of the program's may refuse to be written to.
    slot: Any = BaseException.__dict__["__traceback__"]
    traceback = slot.__get__(exc)
    if traceback is not None:
        slot.__set__(exc, traceback.tb_next)


def work_id(job: int, index: int) -> int:
    """One number for a task of `multiprocessing.pool`, of 64 bits."""
    return (job & 0x7FFF_FFFF) << 32 | index & 0xFFFF_FFFF
