"""The end of a process by `signal.raise_signal`, as uvicorn and its workers end: no `atexit` runs then.

That function is replaced while there are hooks, if the program has imported `signal` by then.
"""

from __future__ import annotations

import functools
import os
import sys

from poolscope.probe.interpreter.tracebacks import leave_out

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

#: Signals whose default action does not end a process.
_HARMLESS = ("SIGCHLD", "SIGCONT", "SIGSTOP", "SIGTSTP", "SIGTTIN", "SIGTTOU", "SIGURG", "SIGWINCH", "SIGINFO")

# Single list operations only: any thread may register, and a signal handler may come in between.
_callbacks: list[Callable[[], object]] = []


def register(callback: Callable[[], object]) -> None:
    """Have `callback()` called before the process ends that way, in the thread that ends it. Idempotent.

    Its exceptions are dropped.
    """
    if callback not in _callbacks:
        _callbacks.append(callback)
    module: Any = sys.modules.get("signal")
    original = getattr(module, "raise_signal", None)
    if original is not None and not hasattr(original, "_poolscope"):
        module.raise_signal = _announcing(module, original)


def unregister(callback: Callable[[], object]) -> None:
    """Stop calling it. With the last one `signal` is put back as it was."""
    if callback in _callbacks:
        _callbacks.remove(callback)
    module: Any = sys.modules.get("signal")
    original = getattr(getattr(module, "raise_signal", None), "_poolscope", None)
    if not _callbacks and original is not None:
        module.raise_signal = original


def _announcing(module: Any, original: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(original)
    def raise_signal(*args: Any, **kwargs: Any) -> None:
        try:
            if _ends(module, *args, **kwargs):
                for callback in list(_callbacks):
                    callback()
        except Exception:
            pass  # a failure must not hold up the end of the program
        try:
            original(*args, **kwargs)
        except BaseException as exc:  # of a handler, or of the call
            # A bare `raise` adds no line for this frame: the traceback is the one without us.
            leave_out(exc)
            raise

    raise_signal._poolscope = original  # type: ignore[attr-defined]
    return raise_signal


def _ends(module: Any, number: int) -> bool:
    """Whether this signal ends the process at once. Process 1 of a container does not end by its own."""
    return (
        number not in [getattr(module, name, None) for name in _HARMLESS]
        and module.getsignal(number) == module.SIG_DFL
        and number not in module.pthread_sigmask(module.SIG_BLOCK, ())
        and os.getpid() != 1
    )
