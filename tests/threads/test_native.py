"""What is the system's, also where somebody has put something else in its place."""

from __future__ import annotations

import _thread
import importlib.util
import time
from types import ModuleType

import pytest

from poolscope.probe import native


def again() -> ModuleType:
    """The module as it is where it is imported now."""
    spec = importlib.util.spec_from_file_location("native_again", native.__file__)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_as_it_is() -> None:
    assert not native.replaced()
    assert native.start_new_thread is _thread.start_new_thread
    assert native.sleep is time.sleep


def test_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    """gevent and eventlet replace these, in the modules that everybody has imported."""

    def greenlet(*args: object) -> int:
        raise AssertionError("this is no thread")

    for name in ("start_new_thread", "allocate_lock", "get_ident"):
        monkeypatch.setattr(_thread, name, greenlet)
    monkeypatch.setattr(time, "sleep", greenlet)
    module = again()
    assert module.replaced()
    seen: list[int] = []
    done = module.allocate_lock()
    done.acquire()

    def live() -> None:
        module.sleep(0)
        seen.append(module.get_native_id())
        done.release()

    module.start_new_thread(live, ())
    assert done.acquire(timeout=30)
    assert seen != [module.get_native_id()]
