"""Futures that nothing waits for any more, though their tasks run: what asks for them has given up.

To cancel a running future does nothing to its task. It says that the result is not wanted: so it is with `wait_for` and
any other cancelled task of asyncio. `as_completed` with a timeout waits until then. Any thread may note one; held
weakly.
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

#: So many of those are remembered.
UNTIL_LIMIT = 4_000


def note(future: Any) -> None:
    """Note that a running future was cancelled. Never raises."""
    try:
        key = id(future)
        _futures[key] = ref(future, partial(_futures.pop, key))
    except TypeError:
        pass  # of a class of the program's that cannot be referred to weakly


def note_until(futures: Iterable[Any], until_ns: int) -> None:
    """Note futures that are waited for until then. May raise what a class of the program's raises."""
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
