"""Threads and processes of no pool, by the line or library that starts them. They are reported, not judged."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec

from poolscope.messages import Started
from poolscope.model import OwnStart
from poolscope.rules.wording import are, children

#: Lines and libraries with counts of their own; all further ones share one.
PLACES_KEPT = 50
#: Characters of a name.
_LONGEST = 200
_OTHERS = "other lines"
_EXECUTOR = "an executor of a kind that is not known"
_UNKNOWN = f"is {_EXECUTOR}"


class OwnStarts:
    """Those of all processes together. Not thread-safe: the engine's owner guards it."""

    def __init__(self) -> None:
        self._found: dict[tuple[str, str, bool], OwnStart] = {}

    def add(self, message: Started) -> None:
        """Take in that a process has started more of them."""
        more = OwnStart(
            what="process" if message.what == "process" else "thread",
            where=message.where[:_LONGEST],
            library=bool(message.library),
            count=max(0, message.more),
            in_turn=message.in_turn,
            executor=message.executor[:_LONGEST],
        )
        if len(self._found) >= PLACES_KEPT and (more.what, more.where, more.library) not in self._found:
            more = msgspec.structs.replace(more, where=_OTHERS, library=False, executor="", in_turn=False)
        key = more.what, more.where, more.library
        known = self._found.get(key)
        if known is not None:
            more = msgspec.structs.replace(more, count=known.count + more.count, in_turn=known.in_turn and more.in_turn)
        self._found[key] = more

    def reports(self) -> tuple[OwnStart, ...]:
        """Return them, the most starts first."""
        return tuple(sorted(self._found.values(), key=lambda start: -start.count))


def texts(starts: Sequence[OwnStart], *, nothing_else: bool) -> Iterator[str]:
    """Return a notice for each place. A single thread is told of only where there is `nothing_else` to see, and those
    of a library only where several of them were there at once: else it is a helper, and no pool of any kind. The
    processes of a library are a server's, each watched for itself, unless an executor starts them. A class of executor
    that is not known, and not seen to start any, is told by its own line."""
    starting = {start.executor for start in starts if start.count}
    for start in starts:
        if not start.count:
            if start.executor not in starting:
                yield f"{start.executor} ({start.where}) {_UNKNOWN}: what it runs is not seen"
            continue
        if start.count < 2 and not nothing_else:
            continue
        server = start.what == "process" and not start.executor
        if start.library and (start.in_turn or start.count < 2 or server):
            continue
        by = f"that {start.where} started" if start.library else f"that the program started itself at {start.where}"
        if start.executor:
            by += f" ({start.executor}, {_EXECUTOR})"
        turns = ", one after the other," if start.in_turn and start.count > 1 else ""
        yield f"{children(start.count, start.what)} {by}{turns} {are(start.count)} not watched as a pool"
