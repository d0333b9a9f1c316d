"""The standard process pool: recorded by instance, drop-in, attached or patched in place alike.

What is put in the way, as attributes of objects that belong to one executor: `put` of its queue of work ids (an
arrival, under the lock of `submit`, before anybody can take the call), `recv` of the pipe that results come back by
(an end, before the future is set), and `_spawn_process` (so that the workers run `processchild.work`, which stamps
the true start and end, and shows what runs in shared memory). Calls that end otherwise, cancelled, not to be
pickled, or lost with their process, are heard of by a callback of their future. `patch` only sees to it that every
executor of the process is opened. What becomes of a call is `processcalls`.

3.14 and later: expected to work where `familiar` finds what it knows, untested.
"""

from __future__ import annotations

import functools
import inspect
import sys
from weakref import ref

from poolscope.probe.pools.patching import Patch, Switch
from poolscope.probe.pools.processcalls import Calls
from poolscope.probe.pools.seats import alive
from poolscope.probe.pools.watching import ATTRIBUTE, UNOPENED, Instances

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from poolscope.probe.pools.watching import Watch


def _equip(executor: Any, watch: Watch) -> None:
    with executor._shutdown_lock:
        if executor._processes is not None:  # else it was shut down: nothing will come
            _equip_with(executor, watch, Calls(watch, executor, _is_patched))


def _equip_with(executor: Any, watch: Watch, calls: Calls) -> None:
    queue, reader = executor._work_ids, executor._result_queue._reader
    put, get, recv = type(queue).put, type(queue).get, type(reader).recv
    # Weakly: nothing of ours may keep an object, or an end of a pipe, longer than without us.
    weak, weak_queue, weak_reader = ref(executor), ref(queue), ref(reader)

    def put_id(work_id: int) -> None:
        try:
            calls.arrived(work_id)
        except Exception as exc:
            watch.give_up(exc)
        put(weak_queue(), work_id)

    def get_id(*args: Any, **kwargs: Any) -> Any:
        # The managing thread begins: the workers are forked by now, before which the probe's thread has ended.
        weak_queue().__dict__.pop("get", None)
        watch.probe.wake()
        return get(weak_queue(), *args, **kwargs)

    def recv_item() -> Any:
        item = recv(weak_reader())
        try:
            calls.returned(item)
        except Exception as exc:
            watch.give_up(exc)
        return item

    if calls.stamped:
        executor.__dict__["_spawn_process"] = lambda: calls.spawn(weak())
    else:
        text = f"pool {watch.recorder.name}: when its tasks start is estimated, as its processes are not ours"
        watch.probe.emit(("notice", text))
    reader.recv = recv_item
    queue.put, queue.get = put_id, get_id


def _is_patched() -> bool:
    return _switch.current is not None


def _sizer(executor: Any) -> Callable[[], tuple[int, int] | None]:
    # The executor lets go of its processes before they end.
    weak, processes, max_workers = ref(executor), executor._processes, executor._max_workers
    if processes is None:
        processes = {}  # shut down

    def size() -> tuple[int, int] | None:
        return sum(map(alive, list(processes.values()))), getattr(weak(), "_max_workers", max_workers)

    return size


_instances = Instances("process", _sizer, _equip)


class _Patch(Patch):
    """The patch of the standard process pool."""

    def watch(self, executor: Any) -> Watch | None:
        """Open the pool of `executor`: when it is made, or with its first task if it is older."""
        if not self.active or getattr(type(executor), "_poolscope_own", False):
            return None  # the drop-in executor records itself
        return _instances.open(executor, self.find_probe, "")


def _put_on(probe: Any) -> _Patch:
    state = _Patch(probe)
    module: Any = sys.modules["concurrent.futures.process"]
    executor = module.ProcessPoolExecutor
    state.put(executor, ATTRIBUTE, UNOPENED)
    state.put(executor, "submit", _submit(state, executor.submit))
    state.put_constructor(executor, "max_workers", state.sized, state.watch)
    return state


def familiar(probe: Any) -> bool:
    """Whether the standard library is one that we know; if not, the probe gets a notice."""
    # Tools that unload and re-import modules exist: what counts is the module that is in use now.
    module: Any = sys.modules.get("concurrent.futures.process") or __import__(
        "concurrent.futures.process", fromlist=["process"]
    )
    try:
        known = (
            module.ProcessPoolExecutor._spawn_process.__code__.co_names == _SPAWN
            and list(inspect.signature(module._process_worker).parameters) == _WORKER
            and list(inspect.signature(module._WorkItem).parameters) == ["future", "fn", "args", "kwargs"]
            and list(inspect.signature(module._ResultItem).parameters)[:3] == ["work_id", "exception", "result"]
            and callable(module._process_chunk)
        )
    except (AttributeError, TypeError, ValueError):
        known = False
    if not known:
        version = sys.version.split()[0]
        probe.emit(("notice", f"process pools are not watched: unknown to this version in Python {version}"))
    return known


_switch = Switch(_instances, familiar, _put_on)
patch, unpatch, watch_own = _switch.on, _switch.off, _switch.watch_own

#: What the standard `_spawn_process`, for which `Calls.spawn` stands in, looks up; and its target's parameters.
_SPAWN = (
    "_mp_context",
    "Process",
    "_process_worker",
    "_call_queue",
    "_result_queue",
    "_initializer",
    "_initargs",
    "_max_tasks_per_child",
    "start",
    "_processes",
    "pid",
)
_WORKER = ["call_queue", "result_queue", "initializer", "initargs", "max_tasks"]


def _submit(state: _Patch, original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def submit(self: Any, fn: Any, /, *args: Any, **kwargs: Any) -> Any:
        # With a default: another thread may take the patch off at any point.
        watch = getattr(self, ATTRIBUTE, None) if state.active else None
        if watch is UNOPENED:
            watch = state.watch(self)
        try:
            return original(self, fn, *args, **kwargs)
        except RuntimeError:
            # The drop-in executor notes its own.
            if watch is not None and not getattr(type(self), "_poolscope_own", False):
                note_refusal(self, watch)
            raise

    return submit


def note_refusal(executor: Any, watch: Watch) -> None:
    """Records that `submit` raised, if that was a refusal."""
    module: Any = sys.modules["concurrent.futures.process"]
    if executor._broken or executor._shutdown_thread or module._global_shutdown:
        watch.rejected()
