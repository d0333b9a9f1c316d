"""A thread of ours that can be ended, so that a fork finds the process without it.

It is started below `threading`: it is not in `threading.enumerate()`, a program that waits for its
threads does not wait for it, and tools that replace `threading` (gevent) do not reach it.
"""

from __future__ import annotations

from poolscope.probe.interpreter.cpu import thread_clocks_readable, thread_cpu_ns
from poolscope.probe.interpreter.unpatched import (
    allocate_lock,
    get_ident,
    get_native_id,
    perf_counter,
    sleep,
    start_new_thread,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

#: How long one look for the end of a thread lasts (s).
_POLL = 0.0002


class NativeThread:
    """One life of a thread. `_ended` is held until it is over.

    Each field is set once: `stopping` by the thread that ends it, the others by the thread itself.
    """

    __slots__ = ("_ended", "_ident", "_native_id", "stopping")

    def __init__(self) -> None:
        #: The thread checks this, and ends.
        self.stopping = False
        self._ident = 0
        self._native_id = 0
        self._ended = allocate_lock()
        self._ended.acquire()

    def begin(self, live: Callable[[NativeThread], object]) -> None:
        """Run `live` in a thread. Raises RuntimeError if the system gives us none."""
        start_new_thread(self._live, (live,))

    def _live(self, live: Callable[[NativeThread], object]) -> None:
        try:
            self._ident = get_ident()
            self._native_id = get_native_id()
            live(self)
        finally:
            self._ended.release()

    def end(self, interrupt: Callable[[], object], timeout: float) -> None:
        """Tell the thread to end, call `interrupt` to wake it, and wait at most `timeout` seconds.

        Does not wait if called by the thread itself.
        """
        self.stopping = True
        interrupt()
        if self._ident != get_ident() and self._ended.acquire(timeout=timeout):
            await_exit(self._native_id, timeout)


def await_exit(native_id: int, timeout: float) -> None:
    """Wait at most `timeout` seconds until the system has removed a thread that is about to end: after its last line it
    still counts in a fork."""
    deadline = perf_counter() + timeout
    while not has_exited(native_id) and perf_counter() < deadline:
        sleep(_POLL)


def has_exited(native_id: int) -> bool:
    """Whether the system has removed a thread of this process, or does not say."""
    return not thread_clocks_readable or thread_cpu_ns(native_id) is None
