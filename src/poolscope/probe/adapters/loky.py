"""loky: its executor of processes, and the one of joblib, which brings a loky of its own.

It is made like the standard process pool and recorded as that is (`processes.processpool`), but for its processes: they
are started in a way of loky's own, and so it is estimated when a call starts, from the order of the calls. What is
replaced, and put back by `unpatch`, are `ProcessPoolExecutor.__init__` and `.submit`; of an executor that is watched,
`put` of its queue of work ids, and `recv` of the pipe that results come back by.
"""

from __future__ import annotations

import functools

from poolscope.probe.adapters import LibrarySwitch
from poolscope.probe.executors.patching import Patch
from poolscope.probe.interpreter import shapes
from poolscope.probe.interpreter.tracebacks import leave_out
from poolscope.probe.processes.processcalls import Calls
from poolscope.probe.processes.processpool import sizer, watch_traffic
from poolscope.probe.recording.pool_watch import ATTRIBUTE, UNOPENED, Instances

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from poolscope.probe.recording.pool_watch import Watch

#: Module -> what it defines last of what we need.
MODULES = dict.fromkeys(("loky.process_executor", "joblib.externals.loky.process_executor"), "ProcessPoolExecutor")


def _equip(executor: Any, watch: Watch) -> None:
    with executor._shutdown_lock:
        if executor._result_queue is not None:  # else it was shut down: nothing will come
            chunk = type(executor).map.__globals__.get("_process_chunk")
            watch_traffic(executor, watch, Calls(watch, executor, _is_patched, chunk))


def _is_patched() -> bool:
    return _switch.current is not None


_instances = Instances("process", sizer, _equip)


class _Patch(Patch):
    """The patch of both."""

    def kind_of(self, pool: Any) -> str:  # noqa: ARG002 - others have two
        """Return what its rows are called."""
        return "process"

    def watch(self, executor: Any) -> Watch | None:
        """Open the pool of `executor`: when it is made, or with its first task if it is older."""
        return _instances.open(executor, self.find_probe, "") if self.active else None


def _put_on(state: _Patch, _: str, module: Any) -> None:
    cls = module.ProcessPoolExecutor
    state.put(cls, ATTRIBUTE, UNOPENED)
    state.put(cls, "submit", _submit(state, cls.submit, module.ShutdownExecutorError))
    state.put_constructor(cls, "max_workers", state.sized, state.watch)


def _missing(_: str, module: Any) -> str | None:
    """Return what we need of a module and it has not."""
    try:
        shapes.needs(module, ["ShutdownExecutorError", "_process_chunk"])
        cls = module.ProcessPoolExecutor
        own = ["_max_workers", "_processes", "_pending_work_items", "_work_ids", "_shutdown_lock", "_flags"]
        shapes.needs_use(cls, "__init__", own)
        shapes.needs_use(cls, "_setup_queues", ["_result_queue"])
        shapes.needs_use(cls, "submit", ["_pending_work_items", "_work_ids", "put", "shutdown_lock"])
        shapes.needs_use(module._ExecutorManagerThread, "wait_result_broken_or_wakeup", ["_reader", "recv"])
        shapes.needs_use(module._ExecutorManagerThread, "process_result_item", ["work_id", "exception"])
    except (AttributeError, shapes.Unfamiliar) as reason:
        return f"ProcessPoolExecutor as expected ({reason})"
    return None


def _submit(state: _Patch, original: Callable[..., Any], refusal: type[BaseException]) -> Callable[..., Any]:
    @functools.wraps(original)
    def submit(self: Any, /, *args: Any, **kwargs: Any) -> Any:
        # With a default: another thread may take the patch off at any point.
        watch = getattr(self, ATTRIBUTE, None) if state.active else None
        if watch is UNOPENED:
            watch = state.watch(self)
        try:
            return original(self, *args, **kwargs)
        except BaseException as exc:
            if watch is not None and isinstance(exc, refusal):
                watch.rejected()
            # A bare `raise` adds no line for this frame: the traceback is the one without us.
            leave_out(exc)
            raise

    return submit


_switch = LibrarySwitch(
    "loky",
    "its executors are not watched",
    MODULES,
    _missing,
    make=_Patch,
    put=_put_on,
    forget=functools.partial(_instances.forget, owned=False),
)
patch, unpatch = _switch.on, _switch.off
