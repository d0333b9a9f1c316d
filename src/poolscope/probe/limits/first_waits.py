"""The first waits at semaphores and locks of asyncio: noted, and looked at by our thread, whether they last.

A wait that is over soon, and is the only one there, costs no more than this note.
"""

from __future__ import annotations

from collections import deque
from weakref import ref

from poolscope.probe.limits.known_limits import Limits
from poolscope.probe.limits.limit import MOMENT_NS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import CodeType, FrameType
    from typing import Any

    from poolscope.probe.interpreter.stacks import Site

#: Where a semaphore or lock keeps its record: before that, its first wait.
ATTRIBUTE = "_poolscope_limit"
#: So many first waits are looked at, whether they last.
FIRSTS_KEPT = 10_000

_get, _set = object.__getattribute__, object.__setattr__


def record_of(owner: Any) -> Any:
    """Return what is recorded of a semaphore or lock, past what a class of the program's answers; None: nothing was
    ever waited for there."""
    try:
        return _get(owner, ATTRIBUTE)
    except AttributeError:
        return None


def keep(owner: Any, record: Any) -> None:
    """Keep what is recorded of it."""
    _set(owner, ATTRIBUTE, record)


class FirstWait:
    """Since when it lasts (ns), the code that asked with its globals and the instruction, the task that waits, weakly
    (`asks`), and where the semaphore or lock was made, with its size."""

    __slots__ = ("asks", "at", "code", "made", "names", "since_ns")

    def __init__(self, since_ns: int, caller: FrameType | None, task: Any, made: tuple[Site, int | None]) -> None:
        self.since_ns = since_ns
        self.code: CodeType | None = None if caller is None else caller.f_code
        self.at = 0 if caller is None else caller.f_lasti
        self.names: dict[str, Any] = {} if caller is None else caller.f_globals
        self.asks: Callable[[], Any] = _nothing if task is None else ref(task)
        self.made = made

    def __reduce__(self) -> Any:
        # A copy of its owner has none.
        return type(None), ()


def _nothing() -> None:
    return None


class FirstWaits(Limits):
    """The limits of a family, and the first waits at others."""

    def __init__(self) -> None:
        super().__init__()
        # The oldest first. Single steps only: loops of several threads append, and any thread may look.
        self._firsts: deque[tuple[ref[Any], FirstWait, Callable[[], object]]] = deque(maxlen=FIRSTS_KEPT)
        self._clock: Callable[[], int] = int

    def wait(self, owner: Any, probe: Any, first: FirstWait, hear: Callable[[], object]) -> None:
        """Note the first wait at `owner`: if it lasts, its loop is to call `hear`, which refers to `owner` weakly."""
        keep(owner, first)
        self._clock = probe.clock
        self._firsts.append((ref(owner), first, hear))
        self.start(probe)
        probe.wake()

    def look(self, now_ns: int = 0) -> None:
        """See `Limits`."""
        firsts = self._firsts
        while firsts and self._clock() - firsts[0][1].since_ns >= MOMENT_NS:
            try:
                weak, first, hear = firsts.popleft()
            except IndexError:
                break  # another thread looks, too
            owner = weak()
            # It is over, or there was another one meanwhile.
            if owner is not None and owner._waiters and record_of(owner) is first:
                try:
                    owner._loop.call_soon_threadsafe(hear)
                except Exception:
                    pass  # the loop is closed, or is none of asyncio's
            del owner
        super().look(now_ns)

    def forget(self) -> None:
        """See `Limits`, here and below."""
        self._firsts.clear()
        super().forget()

    def end(self) -> None:
        """Look at none of them any more."""
        self._firsts.clear()
        super().end()
