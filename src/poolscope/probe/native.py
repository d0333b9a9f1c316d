"""Threads and locks of the operating system, also where gevent or eventlet have put their own in place.

Our thread must run while the program's greenlets do not, and wait without them. For state of ours only, and only where
nothing that greenlets wait for is called while a lock is held. Whatever belongs to the program's threads (a pool's
workers, who submits) takes `_thread` and `threading` as the program finds them.
"""

from __future__ import annotations

import _thread
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import ModuleType


def replaced() -> bool:
    """Whether greenlets stand for threads in this process now."""
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
