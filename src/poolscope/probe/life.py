"""A thread of ours that can be ended, so that a fork finds the process without it.

It is started below `threading`: nobody finds it in `threading.enumerate()`, a program that waits for its
threads does not wait for it, and tools that replace `threading` (gevent) do not reach it.
"""

from __future__ import annotations

from poolscope.probe.cpu import thread_clocks_readable, thread_cpu_ns
from poolscope.probe.native import allocate_lock, get_ident, get_native_id, sleep, start_new_thread

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

#: How long one look for the end of a thread lasts (s).
_POLL = 0.0002


class Life:
    """One life of a thread. `_ended` is held until it is over.

    Each field is set once: `stopping` by whoever ends it, the others by the thread itself.
    """

    __slots__ = ("_ended", "_ident", "_native_id", "stopping")

    def __init__(self) -> None:
        #: The thread is to look at this.
        self.stopping = False
        self._ident = 0
        self._native_id = 0
        self._ended = allocate_lock()
        self._ended.acquire()

    def begin(self, live: Callable[[Life], object]) -> None:
        """Runs `live` in a thread. Raises RuntimeError if the system gives us none."""
        start_new_thread(self._live, (live,))

    def _live(self, live: Callable[[Life], object]) -> None:
        try:
            self._ident = get_ident()
            self._native_id = get_native_id()
            live(self)
        finally:
            self._ended.release()

    def end(self, interrupt: Callable[[], object], timeout: float) -> None:
        """Tells the thread to end and calls `interrupt`, which is to wake it; waits `timeout` seconds at most.

        It does not wait in the thread itself.
        """
        self.stopping = True
        interrupt()
        if self._ident != get_ident() and self._ended.acquire(timeout=timeout):
            self._await_exit(timeout)

    def _await_exit(self, timeout: float) -> None:
        """Waits until the system has let go of a thread that has run its last line: it still counts in a fork."""
        if not thread_clocks_readable:
            return
        for _ in range(int(timeout / _POLL)):
            if thread_cpu_ns(self._native_id) is None:
                return
            sleep(_POLL)
