"""Threads, locks, clocks and files of the operating system, even where something has replaced them.

gevent or eventlet may have, or a test of the program's that mocks `open` to count its calls. Our thread uses what this
file took when the first module of ours was imported.

Our thread must run while the program's greenlets do not, and wait without them. For state of ours only, and only where
nothing that greenlets wait for is called while a lock is held. Code in the program's threads (a pool's workers, the
threads that submit) uses `_thread` and `threading` as the program finds them.
"""

from __future__ import annotations

import _thread
import os
import sys
import time
from _operator import call, eq
from itertools import compress, starmap

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType, ModuleType
    from typing import Any


def replaced() -> bool:
    """Whether greenlets replace threads in this process now."""
    return not _built_in(_thread.start_new_thread)


def _built_in(function: object) -> bool:
    return type(function) is type(len)


def _genuine(module: ModuleType, replaced: bool) -> ModuleType:
    if not replaced:
        return module
    # Another instance of the built-in module, with its functions as they were made.
    from _frozen_importlib import BuiltinImporter, module_from_spec

    spec = BuiltinImporter.find_spec(module.__name__)
    assert spec is not None
    assert spec.loader is not None
    fresh = module_from_spec(spec)
    spec.loader.exec_module(fresh)
    return fresh


_threads = _genuine(_thread, replaced())
_times = _genuine(time, not _built_in(time.sleep))

allocate_lock = _threads.allocate_lock
RLock = _threads.RLock
start_new_thread = _threads.start_new_thread
get_ident = _threads.get_ident
get_native_id = _threads.get_native_id
sleep = _times.sleep
perf_counter = _times.perf_counter

clock_gettime_ns: Callable[[int], int] = getattr(_times, "clock_gettime_ns", None)  # type: ignore[assignment]
process_time_ns: Callable[[], int] = _times.process_time_ns
thread_time_ns: Callable[[], int] = _times.thread_time_ns

# `os` takes these from there, and is what programs and tools change.
_system: Any = sys.modules.get("posix") or sys.modules.get("nt") or os
getpid: Callable[[], int] = _system.getpid
times: Callable[[], os.times_result] = _system.times
cpu_count: Callable[[], int | None] = _system.cpu_count
#: None on systems without it.
sched_getaffinity: Callable[[int], set[int]] | None = getattr(_system, "sched_getaffinity", None)
_open: Callable[[str, int], int] = _system.open
_read: Callable[[int, int], bytes] = _system.read
_close: Callable[[int], None] = _system.close
_READ = os.O_RDONLY | getattr(os, "O_CLOEXEC", 0)
_PART_BYTES = 1 << 16

_current_frames = sys._current_frames
#: Modules that make interpreters, under their names before and since 3.13.
_MAKERS = frozenset(("_interpreters", "_xxsubinterpreters"))
#: Whether `sys._current_frames` keeps to the interpreter that calls it.
_own_frames_only: bool = getattr(sys.implementation, "supports_isolated_interpreters", False)


def current_frames() -> dict[int, FrameType]:
    """Thread -> its frame. Empty while there are other interpreters, where frames of theirs would be among them: to let
    go of these with our allocator crashes the process."""
    if _own_frames_only:
        return _current_frames()
    makers = _MAKERS.intersection(sys.modules)
    alone: map[bool]
    if makers:
        lists = [sys.modules[name].list_all for name in makers]
        alone = map(eq, (1,), map(len, map(call, lists)))
    else:
        alone = map(call, (sys.modules.keys().isdisjoint,), (_MAKERS,))
    # From the question to the frames it is all C code: the interpreter lets no other thread in that makes one.
    return next(starmap(_current_frames, compress(((),), alone)), None) or {}


def read_file(path: str, most: int = 0) -> bytes:
    """Return the contents of a file; with `most`, what one reading of so many bytes gives. Raises OSError.

    Not kept open: a program that turns itself into a daemon closes all files, and the number would be another's.
    """
    descriptor = _open(path, _READ)
    try:
        contents = part = _read(descriptor, most or _PART_BYTES)
        while part and not most:
            part = _read(descriptor, _PART_BYTES)
            contents += part
        return contents
    finally:
        _close(descriptor)
