"""Iterators over the results of a pool: how many results wait in them, and which thread takes them.

These come from `Executor.map`, `as_completed` and the `imap` of `multiprocessing`. Each is noted once, when it is made
or begins, and our thread looks at it now and then. A task and a result take no further step; only with `imap`, each
result notes the thread that takes it. We hold none of them: the note goes as soon as the program drops the iterator.
"""

from __future__ import annotations

import functools
import sys
from _thread import get_ident
from collections import deque
from functools import partial
from itertools import islice
from types import GeneratorType, MethodType
from weakref import ref

from poolscope.probe.interpreter.stacks import is_user_file
from poolscope.probe.interpreter.tracebacks import leave_out
from poolscope.probe.recording import given_up
from poolscope.probe.recording.pool_watch import ATTRIBUTE, CALLS, CLAIM, FUTURES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import CodeType, FrameType
    from typing import Any

    from poolscope.probe.recording.pool_watch import Watch
    from poolscope.probe.recording.recorder import PoolRecorder

#: Futures to look at: a sample of those of `as_completed`, the next ones of `map`.
FUTURES_LIMIT = 500
NEXT_LIMIT = 100
#: Callbacks of a future to look at: ours is its first.
CALLBACKS_LIMIT = 4
#: Seconds: no program waits for longer.
TIMEOUT_LIMIT = 1e6
#: The most iterators of one pool to know at once.
ITERATORS_LIMIT = 100
#: Frames to look through for a function of the program's.
DEPTH_LIMIT = 50

_FINISHED = "FINISHED"


class Taken:
    """One iterator. `code` is that of the program's function that made it: as long as that runs, its thread takes the
    results. None: the thread is known to take them."""

    __slots__ = ("_count", "code", "ident")

    def __init__(self, count: Callable[[], int | None], ident: int, code: CodeType | None) -> None:
        self._count = count
        self.ident = ident
        self.code = code

    def waiting(self) -> tuple[int | None, int]:
        """Return how many results wait to be taken, None if that is not known, and the thread that takes them."""
        return self._count(), self.ident


class _Items(deque[object]):
    """The next results of an `imap`: notes the thread that takes one out."""

    __slots__ = ("taken",)
    taken: Taken

    def popleft(self) -> object:
        item = super().popleft()
        self.taken.ident = get_ident()
        return item


def note_imap(recorder: PoolRecorder, results: Any) -> None:
    """Note an `imap` that has handed no task to the pool yet."""
    if type(results._items) is not deque or results._items or len(recorder.taking) >= ITERATORS_LIMIT:
        return
    items = _Items()
    weak = ref(items, partial(recorder.taking.pop, id(items)))
    # The thread is known once it has taken a result.
    items.taken = recorder.taking[id(items)] = Taken(lambda: _length(weak()), 0, None)
    results._items = items


def _length(items: _Items | None) -> int | None:
    return None if items is None or not items.taken.ident else len(items)


def _note(recorder: PoolRecorder, iterator: Any, count: Callable[[], int | None]) -> None:
    """Note an iterator that the calling thread has made, or begun to take from: `count` must not hold it."""
    taking = recorder.taking
    frame: FrameType | None = sys._getframe(1)
    for _ in range(DEPTH_LIMIT):
        if frame is None or is_user_file(frame.f_code.co_filename):
            break
        frame = frame.f_back
    if frame is not None and len(taking) < ITERATORS_LIMIT:
        key = id(iterator)
        taken = Taken(count, get_ident(), frame.f_code)
        # The reference to the iterator lives as long as what is noted of it, and takes that out.
        taking[key] = taken
        _references[key] = ref(iterator, partial(_forget, taking, key))


_references: dict[int, ref[Any]] = {}


def _forget(taking: dict[int, Any], key: int, _: object) -> None:
    taking.pop(key, None)
    _references.pop(key, None)


def watch_takers(state: Any, base: Any) -> None:
    """Have `Executor.map` and `as_completed` of this module, `concurrent.futures._base`, noted as long as `state`, a
    patch, is on. Done once, however many patches ask for it."""
    original = base.Executor.map
    if hasattr(original, "_poolscope_noted"):
        return
    install = getattr(base, "_create_and_install_waiters", None)

    @functools.wraps(original)
    def map(self: Any, /, *args: Any, **kwargs: Any) -> Any:  # noqa: A001 - the standard name
        try:
            results = original(self, *args, **kwargs)
        except BaseException as exc:
            # A bare `raise` adds no line for this frame: the traceback is the one without us.
            leave_out(exc)
            raise
        if state.active:
            try:
                _note_map(self, results)
            except Exception as exc:
                state.find_probe().fail("results", exc)
        return results

    map._poolscope_noted = True  # type: ignore[attr-defined]
    state.put(base.Executor, "map", map)
    if install is None:
        return

    @functools.wraps(install)
    def _create_and_install_waiters(fs: Any, return_when: Any) -> Any:
        waiter = install(fs, return_when)
        if state.active and return_when == "_AS_COMPLETED" and type(fs) is set:
            try:
                _note_completed(fs)
                timeout = sys._getframe(1).f_locals.get("timeout")
                if isinstance(timeout, (int, float)) and 0 <= timeout < TIMEOUT_LIMIT:
                    until_ns = state.find_probe().clock() + int(timeout * 1e9)
                    given_up.note_until(islice(fs, FUTURES_LIMIT), until_ns)
            except Exception as exc:
                state.find_probe().fail("results", exc)
        return waiter

    state.put(base, "_create_and_install_waiters", _create_and_install_waiters)


def _note_map(executor: Any, results: Any) -> None:
    watch = getattr(executor, ATTRIBUTE, None)
    if not watch or type(results) is not GeneratorType or results.gi_frame is None:
        return
    futures = results.gi_frame.f_locals.get("fs")
    if type(futures) is list:
        _note(watch.recorder, results, lambda: _done_next(futures))


def _done_next(futures: list[Any]) -> int:
    """Return how many of the next futures are done. Once the iterator has begun, the last one in the list is next."""
    count = 0
    for future in reversed(futures[-NEXT_LIMIT:]):
        if future._state != _FINISHED:
            break
        count += 1
    return count


def _note_completed(futures: set[Any]) -> None:
    watch = next((found for future in islice(futures, NEXT_LIMIT) if (found := _watch_of(future))), None)
    if watch is not None:
        weak = ref(futures)
        _note(watch.recorder, futures, lambda: _done(weak()))


def _done(futures: set[Any] | None) -> int | None:
    """Return how many of the futures that were not taken are done."""
    if not futures:
        return None
    some = list(islice(futures, FUTURES_LIMIT))
    done = [future for future in some if future._state == _FINISHED]
    return len(done) * len(futures) // max(1, len(some))


def _watch_of(future: Any) -> Watch | None:
    """Return the watch of the pool that has the task of a future; None if we know none."""
    claim_of = FUTURES.get(type(future))
    claim = claim_of(future) if claim_of is not None else vars(future).get(CLAIM)
    if claim is not None:
        watch: Watch = claim[0]
        return watch
    if claim_of is None:
        for callback in islice(future._done_callbacks, CALLBACKS_LIMIT):
            method = callback.func if type(callback) is partial else None
            owner: Any = method.__self__ if type(method) is MethodType else None
            if type(owner) in CALLS:
                found: Watch = owner.watch
                return found
    return None
