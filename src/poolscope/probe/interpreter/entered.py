"""The `async with` blocks that a suspended coroutine is in, read from its stack: nothing of the program's is called.

A coroutine keeps the method by which it leaves each block on its stack, where the garbage collector finds it: bound to
the object, or with the object beside it. Which of these it is shows a coroutine of ours.
"""

from __future__ import annotations

from gc import get_referents
from types import FunctionType, MethodType

from poolscope.probe.interpreter.shapes import Unfamiliar

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Generator
    from typing import Any

_EXIT = "__aexit__"


def entered(coroutine: Any, beside: int) -> list[Any]:
    """Return the objects of the blocks that a coroutine or asynchronous generator is in or about to enter, once for
    each; `beside` is what `layout` says."""
    seen = get_referents(coroutine)
    found = []
    for at, each in enumerate(seen):
        if type(each) is MethodType:
            if _is_exit(each.__func__):
                found.append(each.__self__)
        elif beside and _is_exit(each) and 0 <= at + beside < len(seen):
            found.append(seen[at + beside])
    return found


def _is_exit(function: Any) -> bool:
    return type(function) is FunctionType and function.__name__ == _EXIT


class _Gate:
    async def __aenter__(self) -> None:
        pass

    async def __aexit__(self, *_: object) -> None:
        pass


class _Pause:
    def __await__(self) -> Generator[None]:
        yield


async def _inside(gate: _Gate, _other: object) -> None:
    async with gate, gate:
        await _Pause()


def layout() -> int:
    """Return where the object of a block is: 0, in the method by which it is left; else how far from it among what the
    collector finds. Raises Unfamiliar if it is in neither place."""
    gate = _Gate()
    waiting = _inside(gate, object())
    waiting.send(None)
    try:
        for beside in (0, 1, -1):
            if entered(waiting, beside) == [gate, gate]:
                return beside
    finally:
        waiting.close()
    raise Unfamiliar("coroutines do not show which blocks they are in")
