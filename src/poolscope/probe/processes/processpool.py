"""The standard process pool: recorded by instance, drop-in, attached or patched in place alike.

Replaced attributes of objects that belong to one executor: `put` of its queue of work ids (an arrival, under the lock
of `submit`, before a worker can take the call), `recv` of the pipe that results come back by (an end, before the future
is set), and the context that makes its processes, also those that replace others (so the workers run
`processchild.work`, which stamps the true start and end, and shows what runs in shared memory). A callback of the
future sees calls that end otherwise: cancelled, not pickled, or lost with their process. `patch` only opens every
executor of the process. `processcalls` follows a call to its end.
"""

from __future__ import annotations

import functools
import sys
from weakref import ref

from poolscope.probe.executors.patching import Patch, Switch
from poolscope.probe.interpreter import shapes
from poolscope.probe.interpreter.tracebacks import leave_out
from poolscope.probe.processes.processcalls import Calls
from poolscope.probe.processes.worker_table import alive
from poolscope.probe.recording.pool_watch import ATTRIBUTE, UNOPENED, Instances
from poolscope.probe.recording.results import watch_takers

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from poolscope.probe.recording.pool_watch import Watch


def _equip(executor: Any, watch: Watch) -> None:
    with executor._shutdown_lock:
        if executor._processes is not None:  # else it was shut down: nothing will come
            _equip_with(executor, watch, Calls(watch, executor, _is_patched))


def _equip_with(executor: Any, watch: Watch, calls: Calls) -> None:
    context = executor._mp_context
    if type(context) is _Context:  # of a watch that the executor had before
        context = executor._mp_context = context._context
    if calls.stamped:
        executor._mp_context = _Context(context, calls)
    watch_traffic(executor, watch, calls)


def watch_traffic(executor: Any, watch: Watch, calls: Calls) -> None:
    """Have `calls` hear of what goes into an executor and comes back. Under its `_shutdown_lock`."""
    queue, reader = executor._work_ids, executor._result_queue._reader
    put, get, recv = type(queue).put, type(queue).get, type(reader).recv
    # Weakly: we must not keep an object, or an end of a pipe, alive.
    weak_queue, weak_reader = ref(queue), ref(reader)

    def put_id(work_id: int) -> None:
        try:
            calls.arrived(work_id)
        except Exception as exc:
            watch.give_up(exc)
        put(weak_queue(), work_id)

    def get_id(*args: Any, **kwargs: Any) -> Any:
        # The managing thread begins: the workers are forked by now. The probe's thread had ended before that.
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

    watch.recorder.hands = _hands(executor)
    reader.recv = recv_item
    queue.put, queue.get = put_id, get_id


def _hands(executor: Any) -> Callable[[], tuple[Any, Any]]:
    weak = ref(executor)

    def hands() -> tuple[Any, Any]:
        pool = weak()
        # The queue of calls pickles them in a thread of its own.
        sender = getattr(getattr(pool, "_call_queue", None), "_thread", None)
        return sender, getattr(pool, "_executor_manager_thread", None)

    return hands


class _Context:
    """Stands in for an executor's `_mp_context`: the same, but that its processes are workers of ours."""

    def __init__(self, context: Any, calls: Calls) -> None:
        self._context = context
        self._calls = calls

    @property  # type: ignore[misc]  # as it is read only
    def __class__(self) -> Any:
        return type(self._context)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self._context.__reduce_ex__(protocol)

    def Process(self, *args: Any, **kwargs: Any) -> Any:  # noqa: N802 - the standard name
        return self._calls.process(self._context.Process, *args, **kwargs)


def _is_patched() -> bool:
    return _switch.current is not None


def sizer(executor: Any) -> Callable[[], tuple[int, int] | None]:
    """Return what says how many processes an executor has, and may have."""
    # The executor drops its processes before they end.
    weak, processes, max_workers = ref(executor), executor._processes, executor._max_workers
    if processes is None:
        processes = {}  # shut down

    def size() -> tuple[int, int] | None:
        return sum(map(alive, list(processes.values()))), getattr(weak(), "_max_workers", max_workers)

    return size


_instances = Instances("process", sizer, _equip)


class _Patch(Patch):
    """The patch of the standard process pool."""

    def kind_of(self, pool: Any) -> str:  # noqa: ARG002 - others have two
        """Return what its rows are called."""
        return "process"

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
    watch_takers(state, module._base)
    return state


def familiar(probe: Any) -> bool:
    """Whether we know this standard library; if not, the probe gets a notice."""
    # Tools that unload and re-import modules exist: what counts is the module that is in use now.
    module: Any = sys.modules.get("concurrent.futures.process") or __import__(
        "concurrent.futures.process", fromlist=["process"]
    )
    return shapes.known(shapes.process_pool, module, probe, "process pools are not watched")


_switch = Switch(_instances, familiar, _put_on)
patch, unpatch, watch_own = _switch.on, _switch.off, _switch.watch_own


def _submit(state: _Patch, original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def submit(self: Any, fn: Any, /, *args: Any, **kwargs: Any) -> Any:
        # With a default: another thread may take the patch off at any point.
        watch = getattr(self, ATTRIBUTE, None) if state.active else None
        if watch is UNOPENED:
            watch = state.watch(self)
        try:
            return original(self, fn, *args, **kwargs)
        except BaseException as exc:
            # The drop-in executor notes its own.
            if isinstance(exc, RuntimeError) and watch is not None and not getattr(type(self), "_poolscope_own", False):
                note_refusal(self, watch)
            # A bare `raise` adds no line for this frame: the traceback is the one without us.
            leave_out(exc)
            raise

    return submit


def note_refusal(executor: Any, watch: Watch) -> None:
    """Record that `submit` raised, if that was a refusal."""
    module: Any = sys.modules["concurrent.futures.process"]
    if executor._broken or executor._shutdown_thread or module._global_shutdown:
        watch.rejected()
