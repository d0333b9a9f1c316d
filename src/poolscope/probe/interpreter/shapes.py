"""What poolscope touches of the interpreter beyond its documentation, part by part, and whether it is there.

Only this file knows the shapes of CPython's own modules. It compares no versions: a part checks the attributes and
signatures that it needs before it changes anything. If something is missing, only that part is switched off, and one
line says which and why (`missed`).

Each function takes the module that is in use now, as tools that unload and re-import modules exist. It returns a shape
where there are several that work, and raises Unfamiliar for any other.
"""

from __future__ import annotations

import sys
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

#: How a thread pool's work item carries its task: as it was submitted (3.11 to 3.13), or as one value that the worker's
#: context runs (3.14 and 3.15).
PLAIN, CONTEXT = "plain", "context"
#: How asyncio knows its tasks: in sets of the module (3.11 to 3.13), or in a table that only its C code sees, which
#: `all_tasks` copies (3.14 and 3.15).
SETS, TABLE = "sets", "table"

_HAS_VARARGS, _HAS_VARKEYWORDS = 0x04, 0x08
#: The most wrappers to look through.
_WRAPPED_LIMIT = 20


class Unfamiliar(Exception):
    """A part of the interpreter is not as poolscope knows it. The text says what: "no _worker in queue"."""


def missed(what: str, reason: Unfamiliar) -> str:
    """Return the line for a part that is left out: `what` is the part with its verb, "thread pools are not watched"."""
    return f"{what}: {reason} in Python {sys.version.split()[0]}"


def known(check: Callable[[Any], object], module: Any, probe: Any, otherwise: str) -> bool:
    """Whether a module has the shape that `check`, one of the functions below, looks for. If not, the probe gets the
    line for what that costs: `otherwise` is the part with its verb."""
    try:
        check(module)
    except Unfamiliar as reason:
        probe.notice(missed(otherwise, reason))
        return False
    return True


def needs(owner: Any, names: Iterable[str]) -> None:
    """Raise Unfamiliar for the first attribute that a module or class does not have."""
    for name in names:
        if not hasattr(owner, name):
            raise Unfamiliar(f"no {name} in {_path(owner)}")


def takes(function: Any, parameters: list[str], *, more: bool = False) -> bool:
    """Whether the function has just these parameters; with `more`, whether it begins with them."""
    found = parameters_of(function)
    if found is None:
        return False
    return (found[: len(parameters)] if more else found) == parameters


def parameters_of(function: Any) -> list[str] | None:
    """Return the names of a function's parameters, in their order; None for what is not written in Python.

    A class has those of its `__init__`, a method has no `self`, and a wrapper those of what it wraps. `inspect` would
    say the same, but imports ten modules that most programs do without.
    """
    bound = 0
    if isinstance(function, type):
        function, bound = function.__init__, 1  # type: ignore[misc]  # of no instance
    for _ in range(_WRAPPED_LIMIT):
        if isinstance(function, MethodType):
            function, bound = function.__func__, bound + 1
        elif not isinstance(function, FunctionType):
            return None
        elif "__wrapped__" in function.__dict__:
            function = function.__dict__["__wrapped__"]
        else:
            break
    code: CodeType = function.__code__
    plain = code.co_argcount
    named = plain + code.co_kwonlyargcount
    names = list(code.co_varnames)
    rest = [names[named]] if code.co_flags & _HAS_VARARGS else []
    found = names[:plain] + rest + names[plain:named]
    if code.co_flags & _HAS_VARKEYWORDS:
        found.append(names[named + len(rest)])
    return found[bound:]


def needs_use(owner: Any, name: str, used: Iterable[str]) -> None:
    """Raise Unfamiliar unless the function `name` of a module or class is written in Python and names these variables
    and attributes in its code."""
    needs(owner, [name])
    code = getattr(_innermost(getattr(owner, name)), "__code__", None)
    if code is None:
        raise Unfamiliar(f"{name} of {_path(owner)} is a builtin")
    known = {*code.co_names, *code.co_varnames, *code.co_cellvars, *code.co_freevars}
    for each in used:
        if each not in known:
            raise Unfamiliar(f"{name} of {_path(owner)} does not use {each}")


def needs_names(owner: Any, name: str, names: list[str]) -> None:
    """Raise Unfamiliar unless the method `name` of a class, and no wrapper of it, names just these globals and
    attributes: then it does no more than one step with them."""
    needs(owner, [name])
    code = getattr(getattr(owner, name), "__code__", None)
    if code is None or list(code.co_names) != names:
        raise Unfamiliar(f"{name} of {_path(owner)} uses something else than {' and '.join(names)}")


def _innermost(function: Any) -> Any:
    for _ in range(_WRAPPED_LIMIT):
        if not isinstance(function, FunctionType) or "__wrapped__" not in function.__dict__:
            break
        function = function.__dict__["__wrapped__"]
    return function


def needs_parameters(owner: Any, name: str, parameters: list[str], *, more: bool = False) -> None:
    """Raise Unfamiliar unless the function `name` of a module or class takes these parameters."""
    needs(owner, [name])
    if not takes(getattr(owner, name), parameters, more=more):
        raise Unfamiliar(f"{name} of {_path(owner)} does not take ({', '.join(parameters)})")


def thread_pool(module: Any) -> str:
    """`concurrent.futures.thread`, for the patched and the drop-in executor: PLAIN or CONTEXT."""
    needs(module, ["_WorkItem", "_base", "_shutdown", "_global_shutdown_lock", "_threads_queues", "BrokenThreadPool"])
    item, executor = module._WorkItem, module.ThreadPoolExecutor
    # Not the methods of the executor that other tools wrap: we wrap them as they are.
    needs(executor, ["_adjust_thread_count", "_initializer_failed"])
    needs(item, ["run"])
    if takes(item, ["future", "fn", "args", "kwargs"]) and takes(item.run, ["self"]):
        return PLAIN
    if takes(item, ["future", "task"]) and takes(item.run, ["self", "ctx"]):
        needs(executor, ["prepare_context"])
        return CONTEXT
    raise Unfamiliar("a work item of another shape in concurrent.futures.thread")


def known_thread_pool(module: Any) -> str | None:
    """Return the same; None where it is another one."""
    try:
        return thread_pool(module)
    except Unfamiliar:
        return None


#: What the two methods that take a future from PENDING to FINISHED do, by the names in their code: see `future_steps`.
_RUNNING_STEPS = (
    *("_condition", "_state", "CANCELLED", "CANCELLED_AND_NOTIFIED", "_waiters", "add_cancelled", "PENDING", "RUNNING"),
    *("LOGGER", "critical", "id", "RuntimeError"),
)
_RESULT_STEPS = (
    *("_condition", "_state", "CANCELLED", "CANCELLED_AND_NOTIFIED", "FINISHED", "InvalidStateError", "format"),
    *("_result", "_waiters", "add_result", "notify_all", "_invoke_callbacks"),
)


def future_steps(base: Any, threading: Any) -> None:
    """`concurrent.futures._base` and `threading`: a future becomes a running one, and gets its result, by known steps,
    which can be done here where it has no waiters. Its condition holds a lock and a queue."""
    future = base.Future
    for method, steps in ((future.set_running_or_notify_cancel, _RUNNING_STEPS), (future.set_result, _RESULT_STEPS)):
        code = getattr(method, "__code__", None)
        if code is None or code.co_names != steps or method.__globals__ is not base.__dict__:
            raise Unfamiliar(f"{getattr(method, '__name__', method)} of {_path(future)} is another one")
    needs(threading.Condition(), ["_lock", "_waiters"])


# -- pools of processes ---------------------------------------------------------------------------------------------


def process_pool(module: Any) -> None:
    """`concurrent.futures.process`: what shows when a call arrives in a pool and when it comes back."""
    needs(module, ["ProcessPoolExecutor", "_ExecutorManagerThread", "_global_shutdown"])
    needs_parameters(module, "_WorkItem", ["future", "fn", "args", "kwargs"])
    needs_parameters(module, "_ResultItem", ["work_id", "exception", "result"], more=True)
    manager = module._ExecutorManagerThread
    executor = ["_shutdown_lock", "_processes", "_result_queue", "_work_ids", "_pending_work_items"]
    needs_use(manager, "__init__", executor)
    needs_use(manager, "add_call_item_to_queue", ["get"])
    needs_use(manager, "wait_result_broken_or_wakeup", ["_reader", "recv"])
    needs_use(manager, "process_result_item", ["work_id", "exception"])
    needs_use(manager, "is_shutting_down", ["_shutdown_thread"])


def process_workers(module: Any) -> None:
    """`concurrent.futures.process`: what lets the workers of a pool report when they start and end a call."""
    needs_parameters(module, "_process_worker", ["call_queue", "result_queue"], more=True)
    needs_parameters(module, "_CallItem", ["work_id"], more=True)
    if hasattr(module._ResultItem, "__slots__"):
        raise Unfamiliar("_ResultItem of concurrent.futures.process has no place for more")
    executor = module.ProcessPoolExecutor
    # All get their process from the context of the executor.
    needs_use(executor, "_spawn_process", ["_mp_context"])
    if hasattr(module, "_spawn_worker"):  # from 3.14 on
        needs_use(module._ExecutorManagerThread, "_replace_dead_worker", ["_mp_context"])
        needs_use(module, "_spawn_worker", ["Process", "_process_worker"])
    else:
        needs_use(executor, "_spawn_process", ["Process", "_process_worker"])


def process_chunks(module: Any) -> None:
    """`concurrent.futures.process`: what a chunk of `map` is submitted as."""
    needs_parameters(module, "_process_chunk", ["fn"], more=True)


def multiprocessing_pool(module: Any) -> None:
    """`multiprocessing.pool`: what both pools have in common, and all that is needed for its `ThreadPool`."""
    needs(module, ["Pool", "ThreadPool", "mapstar", "starmapstar", "_helper_reraises_exception"])
    pool = module.Pool
    # Where tasks are submitted.
    for name in ("apply_async", "_map_async", "imap", "imap_unordered"):
        needs_use(pool, name, ["_check_running", "_taskqueue"])
    needs_use(pool, "__init__", ["_taskqueue", "_processes", "_pool", "_change_notifier"])


def multiprocessing_workers(module: Any) -> None:
    """`multiprocessing.pool`: what a pool of processes needs in addition."""
    pool = module.Pool
    needs(module, ["MapResult"])
    needs_parameters(module, "worker", ["inqueue", "outqueue"], more=True)
    needs_parameters(pool, "_repopulate_pool_static", ["ctx", "Process"], more=True)
    needs_parameters(pool, "_handle_tasks", ["taskqueue", "put", "outqueue", "pool", "cache"], more=True)
    needs_parameters(pool, "_handle_results", ["outqueue", "get", "cache"], more=True)
    needs_parameters(pool, "_guarded_task_generation", ["self", "result_job", "func", "iterable"], more=True)
    needs_parameters(pool, "_get_tasks", ["func", "it", "size"], more=True)
    if (pool._wrap_exception, module.ThreadPool._wrap_exception) != (True, False):
        raise Unfamiliar("_wrap_exception of another sense in multiprocessing.pool")
    # A pool must be opened before its threads get the objects that we replace.
    in_order = ["_setup_queues", "_repopulate_pool", "Process", "_quick_put", "_quick_get", "_terminate_pool"]
    needs_use(pool, "__init__", in_order)
    if [name for name in _innermost(pool.__init__).__code__.co_names if name in in_order] != in_order:
        raise Unfamiliar(f"__init__ of multiprocessing.pool.Pool does not use {', '.join(in_order)} in this order")


# -- event loops: `probe/loops` and `sampling/coroutines.py` -----------------------------------------------------------


def loop_class(cls: Any) -> None:
    """Check a class of event loops: its `run_forever` lasts from the start of a loop to its end."""
    needs(cls, ["run_forever", "is_running", "is_closed", "get_debug", "call_soon_threadsafe"])


def trio_loop(module: Any) -> None:
    """`trio._core._run`: what `run` drives until it ends is the generator that `unrolled_run` makes."""
    needs_use(module, "run", ["setup_runner", "unrolled_run", "send", "get_events"])
    needs_parameters(module, "unrolled_run", ["runner", "async_fn", "args"], more=True)
    needs_use(module, "unrolled_run", ["entry_queue", "tasks", "runq"])
    needs_use(module.EntryQueue, "run_sync_soon", ["queue", "append", "done"])


def asyncio_limits(locks: Any) -> None:
    """`asyncio.locks`: `_get_loop` is called only by what is about to wait, which then stands in the queue `_waiters`
    until it has it or gives up; `release` looks into that queue by way of one method."""
    needs(locks, ["Lock", "Semaphore"])
    queue = ["_waiters", "_get_loop", "create_future", "append", "remove"]
    for name, wake, value in (("Lock", "_wake_up_first", "_locked"), ("Semaphore", "_wake_up_next", "_value")):
        cls = getattr(locks, name)
        needs(cls, ["_get_loop"])
        needs_use(cls, "acquire", [*queue, wake, value])
        needs_use(cls, "release", [wake, value])
        needs_use(cls, wake, ["_waiters", "done", "set_result"])
        needs_parameters(cls, "acquire", ["self"])
        needs_parameters(cls, "release", ["self"])
    needs_parameters(locks.Semaphore, "__init__", ["self", "value"])


def anyio_limits(backend: Any) -> None:
    """`anyio._backends._asyncio`: what waits for a semaphore or lock stands in its queue `_waiters`, and `release`
    looks into that and takes out what gets it next."""
    needs(backend, ["Lock", "Semaphore"])
    for cls in (backend.Lock, backend.Semaphore):
        needs_use(cls, "__init__", ["_waiters"])
        needs_use(cls, "acquire", ["_waiters", "append", "remove", "cancelled", "release"])
        needs_use(cls, "release", ["_waiters", "popleft", "cancelled", "set_result"])
    needs_use(backend.Semaphore, "release", ["_value"])


def threading_limits(threading: Any) -> None:
    """`threading`: a semaphore waits at its condition, which calls `_release_save` and `_acquire_restore` there and
    nowhere else, unless its lock has these; `release` ends in `notify`, which calls `_is_owned`."""
    needs(threading, ["Condition", "Lock", "Semaphore", "BoundedSemaphore"])
    condition, semaphore = threading.Condition, threading.Semaphore
    needs(condition, ["_release_save", "_acquire_restore", "_is_owned"])
    needs_use(condition, "__init__", ["_lock"])
    needs_use(condition, "wait", ["_release_save", "_acquire_restore", "gotit"])
    needs_use(condition, "notify", ["_is_owned", "n"])
    needs_use(semaphore, "__init__", ["_cond", "_value"])
    needs_use(semaphore, "acquire", ["_cond", "wait", "_value"])
    for cls in (semaphore, threading.BoundedSemaphore):
        needs_use(cls, "release", ["_cond", "notify", "_value"])
    made = condition(threading.Lock())
    if {"_release_save", "_acquire_restore", "_is_owned"} & vars(made).keys():
        raise Unfamiliar("a lock with methods of its own for conditions in threading")


def asyncio_queues(queues: Any) -> None:
    """`asyncio.queues`: items go in by `_put` and out by `_get`, in as few steps as ours; what is about to wait for one
    calls `_get_loop`, and what does not wait asks `empty`."""
    _queues(queues, "_queue", "put_nowait", "get_nowait")
    needs(queues.Queue, ["_get_loop"])
    needs_names(queues.Queue, "empty", ["_queue"])
    needs_use(queues.Queue, "get", ["_get_loop"])
    needs_use(queues.Queue, "get_nowait", ["empty"])
    needs_use(queues.Queue, "__init__", ["_putters", "_finished"])


def threading_queues(queues: Any) -> None:
    """`queue`: items go in by `_put` and out by `_get`, in as few steps as ours, with the lock in hand; `get` asks
    `_qsize` first."""
    _queues(queues, "queue", "put", "get")
    for cls in (queues.Queue, queues.PriorityQueue, queues.LifoQueue):
        needs_names(cls, "_qsize", ["len", "queue"])
    needs_use(queues.Queue, "get", ["_qsize"])
    needs_use(queues.Queue, "__init__", ["mutex", "not_full", "all_tasks_done"])


def _queues(queues: Any, items: str, put: str, get: str) -> None:
    needs(queues, ["Queue", "PriorityQueue", "LifoQueue"])
    needs_names(queues.Queue, "_put", [items, "append"])
    needs_names(queues.Queue, "_get", [items, "popleft"])
    needs_names(queues.LifoQueue, "_put", [items, "append"])
    needs_names(queues.LifoQueue, "_get", [items, "pop"])
    needs_use(queues.PriorityQueue, "_put", [items])
    needs_use(queues.PriorityQueue, "_get", [items])
    needs_use(queues.Queue, put, ["_put"])
    needs_use(queues.Queue, get, ["_get"])
    needs_parameters(queues.Queue, "task_done", ["self"])


def handles(events: Any) -> None:
    """`asyncio.events`: the outermost frame of `_run` below a loop is that of its callback, and `self` the handle."""
    needs(events, ["Handle"])
    handle = events.Handle
    if getattr(_innermost(getattr(handle, "_run", None)), "__globals__", None) is events.__dict__:
        needs_parameters(handle, "_run", ["self"])
    else:
        needs(handle, ["_run"])  # another tool's lies over it, and calls it
    if not handle.__weakrefoffset__:
        raise Unfamiliar(f"no weak references to {_path(handle)}")


def ready_queue(base_events: Any) -> None:
    """`asyncio.base_events`: a loop takes handles out of `_ready`, and does not time those that are `_cancelled`."""
    needs(base_events, ["BaseEventLoop"])
    needs(base_events.BaseEventLoop, ["_write_to_self"])
    needs_use(base_events.BaseEventLoop, "_run_once", ["_ready", "popleft", "_cancelled"])


def task_register(tasks: Any) -> str:
    """`asyncio.tasks`: SETS or TABLE."""
    needs(tasks, ["all_tasks", "Task"])
    if isinstance(tasks.all_tasks, BuiltinFunctionType):
        needs(tasks, ["_scheduled_tasks", "_eager_tasks"])  # of other kinds of tasks
        return TABLE
    sets = [name for name in ("_all_tasks", "_scheduled_tasks") if hasattr(tasks, name)]
    if not sets:
        raise Unfamiliar(f"no set of tasks in {_path(tasks)}")
    needs_use(tasks, "all_tasks", sets)
    needs(tasks, ["_PyTask"])
    needs(tasks.Task, ["done", "get_loop"])
    return SETS


def chains(tasks: Any, futures: Any) -> dict[CodeType, str]:
    """`asyncio.tasks` and `.futures`: code of the callbacks of a future that is done with another one -> the name under
    which that is in their closure."""
    needs(tasks, ["Task"])
    needs(futures, ["Future"])
    needs(tasks.Task, ["get_coro", "_fut_waiter", "_callbacks"])
    found: dict[CodeType, str] = {}
    for module, function, callback, name in (
        (futures, "_chain_future", "_call_check_cancel", "source"),
        (tasks, "shield", "_outer_done_callback", "inner"),
    ):
        code = _code_within(module, function, callback)
        if name not in code.co_freevars:
            raise Unfamiliar(f"{callback} in {function} of {_path(module)} does not use {name}")
        found[code] = name
    return found


def _code_within(module: Any, function: str, name: str) -> CodeType:
    """Return the code of a function that is defined in another one."""
    needs(module, [function])
    outer = getattr(_innermost(getattr(module, function)), "__code__", None)
    for constant in () if outer is None else outer.co_consts:
        if isinstance(constant, CodeType) and constant.co_name == name:
            return constant
    raise Unfamiliar(f"no {name} in {function} of {_path(module)}")


# -- what threads wait for: `sampling/waits.py` and `sampling/wait_reasons.py` ----------------------------------------


def thread_table(threading: Any) -> dict[int, Any]:
    """`threading`: its threads by identifier. `enumerate` says the same under a lock that a loop might wait for."""
    needs(threading, ["_active"])
    found: dict[int, Any] = threading._active
    return found


def waiting(threading: Any, base: Any) -> None:
    """`threading` and `concurrent.futures._base`: a thread that waits for a future is in `Condition.wait`, and the
    local names of its callers lead to the futures."""
    needs_parameters(threading.Condition, "wait", ["self"], more=True)
    needs_use(threading.Event, "wait", ["wait"])
    for name in ("result", "exception"):
        needs_parameters(base.Future, name, ["self"], more=True)
        needs_use(base.Future, name, ["_state", "wait"])
    needs_use(base.Future, "add_done_callback", ["_done_callbacks"])
    needs_use(base, "wait", ["return_when", "not_done"])
    needs_use(base, "as_completed", ["pending"])


def blocking(threading: Any, queue: Any) -> None:
    """`threading` and `queue`: a thread that waits at a semaphore or a full queue is in `Condition.wait`."""
    needs_use(threading.Condition, "wait", ["acquire"])
    needs_use(threading.Semaphore, "acquire", ["wait"])
    needs_use(queue.Queue, "put", ["wait"])


def codes(owner: Any, names: Iterable[str]) -> list[CodeType]:
    """Return the codes of those functions of a module or class that are written in Python."""
    found = (getattr(_innermost(getattr(owner, name, None)), "__code__", None) for name in names)
    return [code for code in found if code is not None]


def live_locals() -> bool:
    """Whether `frame.f_locals` of a function shows its variables themselves (3.13 and later), and no copy of them that
    the frame keeps."""
    return type(sys._getframe().f_locals) is not dict


class _Spot:
    """Notes at which instruction of its caller it is entered, and called."""

    entered = called = 0

    def __enter__(self) -> None:
        self.entered = sys._getframe(1).f_lasti

    def __exit__(self, *_: object) -> None:
        pass

    def __call__(self) -> None:
        self.called = sys._getframe(1).f_lasti


def _enter_and_call(spot: _Spot) -> None:
    with spot:
        spot()


def entering() -> bytes:
    """Return the end of the bytecode of a frame that is entering a `with`, up to the operation at `f_lasti`.

    Found by entering one: where `with` has no operation of its own for it, the operation before it is needed too.
    """
    spot = _Spot()
    _enter_and_call(spot)
    code, at = _enter_and_call.__code__.co_code, spot.entered
    begin = at if code[at] != code[spot.called] else at - 2
    if code[begin : at + 1] == code[spot.called - at + begin : spot.called + 1]:
        raise Unfamiliar("entering a `with` is a call like any other")
    return code[begin : at + 1]


def _path(owner: Any) -> str:
    if owner is None:
        return "a module that is not imported"
    module = getattr(owner, "__module__", None)
    return f"{module}.{owner.__qualname__}" if module is not None else str(owner.__name__)
