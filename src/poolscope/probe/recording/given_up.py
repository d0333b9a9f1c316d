"""Futures that nothing waits for any more, though their tasks run.

Cancelling a running future does not stop its task. It shows that the result is not wanted: `wait_for` and any other
cancelled task of asyncio do that. `as_completed` with a timeout waits until then. Any thread may note a future; they
are held weakly.
"""

from __future__ import annotations

from functools import partial
from weakref import ref

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

# By identity: a class of the program's may compare as it likes. Single dict operations only.
_futures: dict[int, ref[Any]] = {}
# The same, and until when (ns) something waits for them.
_until: dict[int, tuple[ref[Any], int]] = {}

#: The most of those to remember.
UNTIL_LIMIT = 4_000


def note(future: Any) -> None:
    """Note that a running future was cancelled. Never raises."""
    try:
        key = id(future)
        _futures[key] = ref(future, partial(_futures.pop, key))
    except TypeError:
        pass  # of a class of the program's that cannot be referred to weakly


def note_until(futures: Iterable[Any], until_ns: int) -> None:
    """Note futures that something waits for until then. May raise what a class of the program's raises."""
    for future in futures:
        if len(_until) >= UNTIL_LIMIT:
            _forget_done()
        if len(_until) >= UNTIL_LIMIT or future._state == "FINISHED":
            continue
        key = id(future)
        _until[key] = ref(future, partial(_forget, key)), max(until_ns, asked_until(future) or 0)


def asked_until(future: Any) -> int | None:
    """Return until when (ns) something said to wait for this one; None if nothing did."""
    noted = _until.get(id(future))
    return noted[1] if noted is not None and noted[0]() is future else None


def _forget(key: int, _: object) -> None:
    _until.pop(key, None)


def _forget_done() -> None:
    for key, (weak, _) in list(_until.items()):
        future = weak()
        if future is None or future._state not in ("PENDING", "RUNNING"):
            _until.pop(key, None)


def any_noted() -> bool:
    """Whether there is one."""
    return bool(_futures or _until)


def is_noted(future: Any) -> bool:
    """Whether this is one of them."""
    noted = _futures.get(id(future))
    return noted is not None and noted() is future
