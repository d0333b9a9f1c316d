"""What a task raised, with the traceback that it has in the standard executor.

A worker of ours runs a task in a function of ours. Its frame is taken out of the traceback, and the exception raised
once more, in the standard function, in whose place that stands: so the line, the columns, the local names and all else
are its own. Only a task that has raised pays for that.
"""

from __future__ import annotations

from poolscope.probe.interpreter import shapes
from poolscope.probe.interpreter.tracebacks import in_place_of, leave_out_ours

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

#: Raises the exception that it is given, in no frame: a generator that has ended has none. For any thread at once.
_ended: Any = (_ for _ in ())
next(_ended, None)
throw: Callable[[BaseException], Any] = _ended.throw


class _Future:
    """Stands for the future of a task that runs, and keeps what the standard function would set."""

    def __init__(self) -> None:
        self.caught: list[BaseException] = []
        self.set_exception = self.caught.append

    def set_running_or_notify_cancel(self) -> bool:
        return True


class _Task:
    """Stands for a work item. The frames of the traceback go on to refer to `args`, and to what `task` holds."""

    def __init__(self, args: list[BaseException]) -> None:
        self.future = _Future()
        self.fn = throw
        self.args = args
        self.kwargs: dict[str, Any] = {}
        self.task: Any = throw, args, self.kwargs


class _Raising:
    """Stands for the context of a worker, and for its task's frames, which the exception has already."""

    run = staticmethod(throw)


class AsStandard:
    """How the standard executor of `module`, `concurrent.futures.thread`, raises what tasks raise. Any thread may use
    it."""

    def __init__(self, module: Any, shape: str | None, *, direct: bool = False) -> None:
        """`shape` is what `shapes.thread_pool` says of it; None: it is not known, and nothing is done. `direct`: tasks
        are called by the function of ours itself, also where the standard one has a context do that."""
        self._run: Any = None if shape is None else _own(module, module._WorkItem, "run")
        self._in_context = shape == shapes.CONTEXT
        self._context: Any = module.WorkerContext(None, ()) if self._in_context and direct else None

    def retell(self, exc: BaseException, *, resolved: bool = False) -> None:
        """Give `exc`, which was just caught in the function that runs tasks, the traceback of the standard one.

        `resolved`: a context has run this task after all.
        """
        run = self._run
        if run is None:
            return
        leave_out_ours(exc)
        task = _Task([exc])
        try:
            if not self._in_context:
                run(task)
            elif self._context is not None and not resolved:
                run(task, self._context)
            else:
                task.task = exc
                run(task, _Raising)
            if task.future.caught[0] is not exc:
                raise task.future.caught[0]  # one of the program's that came up meanwhile
        finally:
            # Break reference cycles with the exception: its frames refer to the arguments, and to this one as theirs.
            task.args.clear()
            del exc, task

    def place(self, function: Any) -> None:
        """Have `function`, which runs tasks, be where the standard one calls them, for what counts frames."""
        asked = Exception()
        self.retell(asked)
        traceback = asked.__traceback__
        while traceback is not None and traceback.tb_next is not None:
            traceback = traceback.tb_next
        if traceback is not None:
            in_place_of(function, traceback.tb_frame.f_code.co_filename, traceback.tb_lineno)


def standard_submit(module: Any) -> Any:
    """Return the standard `submit`, past what has replaced it; None if that is not to be found."""
    return _own(module, module.ThreadPoolExecutor, "submit")


def _own(module: Any, cls: Any, name: str) -> Any:
    """Return the method that this module itself has written, whatever subclass or wrapper is in its place."""
    for base in cls.__mro__:
        method = base.__dict__.get(name)
        while method is not None:
            if getattr(method, "__globals__", None) is module.__dict__:
                return method
            method = getattr(method, "__wrapped__", None)
    return None
