"""Futures that nothing waits for any more, though their tasks run: what asks for them has given up.

To cancel a running future does nothing to its task. It says that the result is not wanted: so it is with `wait_for` and
any other cancelled task of asyncio. Any thread may note one; held weakly.
"""

from __future__ import annotations

from functools import partial
from weakref import ref

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# By identity: a class of the program's may compare as it likes. Single dict operations only.
_futures: dict[int, ref[Any]] = {}


def note(future: Any) -> None:
    """Note that a running future was cancelled. Never raises."""
    try:
        key = id(future)
        _futures[key] = ref(future, partial(_futures.pop, key))
    except TypeError:
        pass  # of a class of the program's that cannot be referred to weakly


def any_noted() -> bool:
    """Whether there is one."""
    return bool(_futures)


def is_noted(future: Any) -> bool:
    """Whether this is one of them."""
    noted = _futures.get(id(future))
    return noted is not None and noted() is future
