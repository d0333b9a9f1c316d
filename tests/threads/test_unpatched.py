"""What is the system's, also where somebody has put something else in its place."""

from __future__ import annotations

import _thread
import builtins
import importlib.util
import os
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from cli_support import same_as_without, script

from poolscope.probe.interpreter import unpatched
from poolscope.probe.interpreter.cpu import CpuClocks

CONTENTS = b"0123456789" * 20_000


def again() -> ModuleType:
    """The module as it is where it is imported now."""
    spec = importlib.util.spec_from_file_location("unpatched_again", unpatched.__file__)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_as_it_is() -> None:
    assert not unpatched.replaced()
    assert unpatched.start_new_thread is _thread.start_new_thread
    assert unpatched.sleep is time.sleep


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


def test_files_are_read_whatever_the_program_has_put_in_place_of_open(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A test of the program's may count the calls of its mock, and would count ours."""
    path = tmp_path / "contents"
    path.write_bytes(CONTENTS)

    ours: list[str] = []

    def mock(name: str, original: Any) -> Any:
        def called(*args: object, **kwargs: object) -> Any:
            # The collector may close a file of an earlier test meanwhile: that is none of ours.
            caller = sys._getframe(1).f_globals["__name__"]
            if caller.startswith(("poolscope", "unpatched_again")):
                ours.append(f"{caller}: {name}")
            return original(*args, **kwargs)

        return called

    for owner, names in (
        (builtins, ["open"]),
        (os, ["open", "read", "close", "getpid", "times", "cpu_count", "sched_getaffinity"]),
    ):
        for name in names:
            monkeypatch.setattr(owner, name, mock(name, getattr(owner, name)))
    for module in (unpatched, again()):
        assert module.read_file(str(path)) == CONTENTS
        assert module.read_file(str(path), 7) == b"0123456"
        assert module.getpid() > 0
        with pytest.raises(FileNotFoundError):
            module.read_file(str(path) + ".absent")
    assert CpuClocks().allowed(0) > 0
    assert CpuClocks().children() >= 0
    assert ours == []


class Maker(ModuleType):
    """A module that makes interpreters."""

    def __init__(self, number: int) -> None:
        super().__init__("maker")
        self.number = number

    def list_all(self) -> list[int]:
        return list(range(self.number))


@pytest.mark.parametrize("name", ["_interpreters", "_xxsubinterpreters"])
@pytest.mark.parametrize(("own", "number", "read"), [(False, 1, True), (False, 2, False), (True, 2, True)])
def test_frames_are_not_read_beside_another_interpreter_whose_frames_would_be_among_them(
    monkeypatch: pytest.MonkeyPatch, name: str, own: bool, number: int, read: bool
) -> None:
    for maker in ("_interpreters", "_xxsubinterpreters"):
        monkeypatch.delitem(sys.modules, maker, raising=False)
    monkeypatch.setattr(unpatched, "_own_frames_only", own)
    assert _thread.get_ident() in unpatched.current_frames()
    monkeypatch.setitem(sys.modules, name, Maker(number))
    assert (_thread.get_ident() in unpatched.current_frames()) == read


@pytest.mark.skipif(sys.version_info < (3, 12), reason="all interpreters share one lock and one allocator")
def test_a_program_that_makes_interpreters_beside_an_event_loop_goes_on(tmp_path: Path) -> None:
    program = script(
        tmp_path,
        """
        import asyncio
        try:
            import _interpreters as interpreters
        except ImportError:
            import _xxsubinterpreters as interpreters

        run = getattr(interpreters, "exec", None) or interpreters.run_string

        async def main():
            for _ in range(6):
                interpreter = interpreters.create()
                run(interpreter, "sum(range(100_000))")
                interpreters.destroy(interpreter)

        asyncio.run(main())
        print("done")
        """,
    )
    assert same_as_without(program, cwd=tmp_path).out == "done\n"
