"""Where messages leave the probe: a queue that any thread may fill, and the sinks that get its messages."""

from __future__ import annotations

from collections import deque

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    Message = tuple[Any, ...]
    Sink = Callable[[Message], object]

#: Messages that open something, and those that end it: a later sink gets what is open.
_OPENS = {
    "function": "function",
    "pool_opened": "pool",
    "loop_opened": "loop",
    "notice": "notice",
    "incident": "notice",
}
_CLOSES = {"pool_closed": "pool", "loop_closed": "loop"}


#: The most messages to keep; further ones are dropped.
_WAITING_LIMIT = 200_000


class _Entry:
    """A sink. Any thread may take `active` off it, for good; `greeted` belongs to the thread that delivers.

    One that has `put` and `flush` gets each message by `put`, and `flush` after the last one for now: what
    that returns says whether it has something left to send, and wants to be called again soon.
    """

    __slots__ = ("active", "flush", "greeted", "put", "sink")

    def __init__(self, sink: Sink) -> None:
        self.sink = sink
        self.put: Sink = getattr(sink, "put", sink)
        self.flush: Callable[[], object] | None = getattr(sink, "flush", None)
        self.active = True
        self.greeted = False


class Dispatcher:
    """A queue of messages and the sinks they go to.

    `push` and `add` may be called by any thread and never wait: they append to a deque and a list, which are
    single atomic operations with and without the GIL. So a slow sink holds up only the thread that delivers.
    `deliver` is for one thread at a time: the probe's lock sees to that.
    """

    def __init__(self, failed: Callable[[BaseException], object]) -> None:
        self._queue: deque[Message] = deque()
        self._entries: list[_Entry] = []
        self._failed = failed
        # (kind, id) -> message. Changed by the thread that delivers only.
        self._standing: dict[tuple[str, Any], Message] = {}

    @property
    def sinks(self) -> tuple[Sink, ...]:
        """The sinks that get what is pushed now."""
        return tuple(entry.sink for entry in list(self._entries) if entry.active)

    def push(self, message: Message) -> None:
        """Queue a message for the next delivery. Drop it if there was none for far too long."""
        if len(self._queue) < _WAITING_LIMIT:
            self._queue.append(message)

    @property
    def waiting(self) -> int:
        """Return how many messages wait for the next delivery."""
        return len(self._queue)

    def add(self, sink: Sink) -> Callable[[], None]:
        """Add a sink. With the next delivery it first gets all that is still open, then what is new.

        Returns a function that takes it out again; a delivery that is under way in another thread may call it
        once more.
        """
        entry = _Entry(sink)
        self._entries.append(entry)

        def remove() -> None:
            entry.active = False

        return remove

    def deliver(self) -> bool:
        """Hand the messages that are waiting now to all sinks, and drop them if there is none.

        A sink that raises is taken out and reported. Returns what `flush` does.
        """
        # Count before reading the list of sinks: a sink that is added now gets all that is pushed after it.
        waiting = len(self._queue)
        # Entries that were taken out leave here, by one replacement: `add` appends to the very list.
        for entry in [entry for entry in self._entries if not entry.active]:
            self._entries.remove(entry)
        entries = list(self._entries)
        for entry in entries:
            if not entry.greeted:
                entry.greeted = True
                for message in list(self._standing.values()):
                    self._ask(entry, entry.put, message)
        # Messages that sinks push are for the next delivery, or this one might never end.
        for _ in range(waiting):
            message = self._queue.popleft()
            self._note(message)
            for entry in entries:
                self._ask(entry, entry.put, message)
        return self.flush()

    def flush(self) -> bool:
        """Have the sinks send what they have; return whether one has more. For the thread that may `deliver`."""
        left = [self._ask(entry, entry.flush) for entry in list(self._entries) if entry.flush is not None]
        return any(left)

    def _ask(self, entry: _Entry, call: Callable[..., object], *message: Message) -> object:
        if not entry.active:
            return None
        try:
            return call(*message)
        except Exception as exc:
            entry.active = False
            self._failed(exc)
            return None

    def _note(self, message: Message) -> None:
        tag = message[0]
        kind = _OPENS.get(tag)
        if kind is not None:
            self._standing[kind, message[1]] = message
            return
        kind = _CLOSES.get(tag)
        if kind is not None:
            self._standing.pop((kind, message[1]), None)
