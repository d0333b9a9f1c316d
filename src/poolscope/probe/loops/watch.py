"""One event loop while it runs: beats, where its thread is, how many tasks it has.

A beat is a callback that notes the time. It is made of C functions alone: no line of ours shows up in the loop's
stack, and a signal that comes meanwhile is handled in the user's code, not in ours.
"""

from __future__ import annotations

import sys
from collections import deque
from functools import partial
from itertools import repeat, starmap
from weakref import ref

from poolscope.probe.interpreter import shapes
from poolscope.probe.interpreter.stacks import is_user_file, user_lines
from poolscope.probe.loops.blocks import BlockTracker, Observation
from poolscope.probe.loops.load import LoopLoad
from poolscope.probe.loops.meter import Meter, Reading
from poolscope.probe.loops.tasks import TaskCount

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType
    from typing import Any

    from poolscope.probe.loops.meter import Counters

    Clock = Callable[[], int]
    Message = tuple[Any, ...]
    Lines = tuple[tuple[str, int, str], ...]

#: How often to post a beat to a loop that is between two callbacks: an idle one should stay asleep.
IDLE_BEAT_NS = 250_000_000
#: Its tasks are counted at most this often.
TASKS_NS = 500_000_000
#: Frames to walk from the innermost to the callback's first: Python's own limit, and some.
_ROOT_LIMIT = 2000
#: Modules with the `_run_once` of a loop: where one runs within a callback, that is not what holds it.
_TURNS = ("asyncio.base_events", "nest_asyncio", "nest_asyncio2")
#: The flags of coroutines' and asynchronous generators' code (`inspect.CO_COROUTINE`, `CO_ASYNC_GENERATOR`).
_CO_ASYNC = 0x80 | 0x200
#: Enough memory blocks to use up those that have just been freed.
_DECOYS = 64


class HandleRoot:
    """A call of an asyncio handle, or a step of a task. Equal to another look at the same one, as long as that lives.

    Not its frame: the next callback's is often at the very same address.
    """

    __slots__ = ("handle",)

    def __init__(self, handle: ref[Any]) -> None:
        self.handle = handle

    def __eq__(self, other: object) -> bool:
        # Handles of timers compare by time and callback; there is one plain weak reference per object.
        return isinstance(other, HandleRoot) and self.handle is other.handle

    def __hash__(self) -> int:
        return id(self.handle)


def stamp_into(ran: dict[str, int], clock: Clock, *others: Iterator[object]) -> Callable[[], object]:
    """Return a callable, all in C, that keeps the time of its first call as `ran["at"]` and draws from `others`."""
    stamps = map(ran.setdefault, repeat("at"), starmap(clock, repeat(())))
    return partial(next, zip(stamps, *others, strict=False))


class _Silent:
    """Stands in for a handle of a loop in debug mode, and is run by being asked whether it is cancelled.

    So it is never timed and logged as slow.
    """

    __slots__ = ("_run",)

    def __init__(self, run: Callable[[], object]) -> None:
        self._run = run

    @property
    def _cancelled(self) -> bool:
        self._run()
        return True


class Familiar:
    """What of asyncio is as we know it, for all loops of a process. What is not is told to `tell`, and goes without.

    `handles`: which callback runs is seen from its frame; `ready`: a loop in debug mode is asked without being timed;
    `register`: where its tasks are, None if they are not counted.
    """

    __slots__ = ("handles", "ready", "register")

    def __init__(self, tell: Callable[[str], object] = lambda _: None) -> None:
        self.handles = _known(tell, "what holds asyncio's event loops is not seen", shapes.handles, "asyncio.events")
        self.ready = _known(
            tell, "event loops in debug mode may log our callbacks", shapes.ready_queue, "asyncio.base_events"
        )
        self.register: str | None = None
        try:
            self.register = shapes.task_register(sys.modules.get("asyncio.tasks"))
        except shapes.Unfamiliar as reason:
            tell(shapes.missed("tasks of event loops are not counted", reason))


class _Nothing(Familiar):
    """Of a loop that has nothing of asyncio's."""

    def __init__(self) -> None:
        self.handles = self.ready = False
        self.register = None


UNUSED = _Nothing()


def _known(tell: Callable[[str], object], otherwise: str, check: Callable[[Any], object], module: str) -> bool:
    try:
        check(sys.modules.get(module))
    except shapes.Unfamiliar as reason:
        tell(shapes.missed(otherwise, reason))
        return False
    return True


class LoopWatch:
    """What the probe knows of a loop that runs. One caller at a time, but for the beats.

    `base` is the `id` of the frame that runs the loop, which lives as long as the run; None if that is not known.
    """

    def __init__(
        self,
        loop: Any,
        *,
        number: int,
        kind: str,
        name: str,
        ident: int,
        native_id: int,
        base: int | None,
        adopted: bool,
        tracker: BlockTracker,
        meter: Meter,
        clock: Clock,
        load: LoopLoad | None = None,
        familiar: Familiar | None = None,
    ) -> None:
        self.loop = ref(loop)
        #: What its class is called.
        self.label = f"{type(loop).__module__}.{type(loop).__qualname__}"
        self.number = number
        self.kind = kind
        self.name = name
        self.ident = ident
        self.native_id = native_id
        #: We did not see it begin, so we must look for its end.
        self.adopted = adopted
        self.tracker = tracker
        self.meter = meter
        self.load = load
        self.counters: Counters | None = None
        self.idle_since_ns: int | None = None
        self.looks = 0
        #: What its thread waits for, if the loop may be held and that is known.
        self.gate = ""
        self._idle = False
        self._quiet: Reading | None = None
        self._base = base
        self._clock = clock
        self._root_bytes = 0
        #: Counts the times in which one frame may have followed another at its address, unseen.
        self._era = 0
        #: Of the beat that has not been answered: when it was posted, and what it notes.
        self._beat: tuple[int, dict[str, int]] | None = None
        self._answered_ns = clock()
        self._counted_ns: int | None = None
        self._lags_ns: list[int] = []
        self._familiar = familiar or Familiar()
        #: Its callbacks have no frame of asyncio's below them.
        self._by_frame = kind != "asyncio"
        register = self._familiar.register
        self._count = loop.count if kind == "trio" else None if register is None else TaskCount(register)
        self._tasks = self._told_tasks = 0
        self._told_ns = self._answered_ns

    # -- beats ---------------------------------------------------------------------------------------------

    @property
    def pending_ns(self) -> int | None:
        """Since when a beat is unanswered."""
        return None if self._beat is None else self._beat[0]

    def collect(self) -> list[Message]:
        """Take in the beat if it has run."""
        if self._beat is None:
            return []
        posted_ns, ran = self._beat
        at = ran.get("at")
        if at is None:
            return []
        self._beat = None
        self._answered_ns = at
        lag_ns = max(0, at - posted_ns)
        self._lags_ns.append(lag_ns)
        if self.load is not None:
            self.load.late(lag_ns)
        tasks = None if self._count is None else self._count.take(ran)
        self._tasks = self._tasks if tasks is None else tasks
        return self.tracker.ran(at)

    def post(self, now_ns: int, *, asked: bool) -> None:
        """Post a beat to the loop if none is under way, and there is reason to: `asked`, or the last was long ago.

        Raises what the loop raises, but for its being closed.
        """
        if self._beat is not None or not (asked or now_ns - self._answered_ns >= IDLE_BEAT_NS):
            return
        loop = self.loop()
        if loop is None:
            return
        ran: dict[str, int] = {}
        counting: list[Iterator[object]] = []
        if self._count is not None and (self._counted_ns is None or now_ns - self._counted_ns >= TASKS_NS):
            self._counted_ns = now_ns
            counting.append(self._count.ask(loop, ran, now_ns))
        run = stamp_into(ran, self._clock, *counting)
        self._beat = (self._clock(), ran)
        try:
            _post(loop, run, self.kind == "asyncio" and self._familiar.ready)
        except RuntimeError:
            self._beat = None
            if not loop.is_closed():
                raise
        except BaseException:
            self._beat = None
            raise

    def tick(self, now_ns: int, interval_ns: int) -> list[Message]:
        """Return a `loop_tick` if that is due and there is something new."""
        if now_ns - self._told_ns < interval_ns:
            return []
        busy_ns = 0 if self.load is None else self.load.take_busy()
        if not (self._lags_ns or busy_ns or self._tasks != self._told_tasks):
            return []
        self._told_ns, self._told_tasks = now_ns, self._tasks
        lags, self._lags_ns = self._lags_ns, []
        return [("loop_tick", self.number, now_ns, lags, self._tasks, busy_ns)]

    # -- where it is ---------------------------------------------------------------------------------------

    def decoys(self) -> list[bytes]:
        """Memory to hold while frames are read, so that no frame gets the address of one that has just ended.

        The frames of uvloop's callbacks can only be told apart by address. A frame object is made when it is first
        looked at, from the block of its size that was freed last, which is often that of the callback before.
        """
        if not self._root_bytes:
            return []
        return [bytes(self._root_bytes) for _ in range(_DECOYS)]

    def locate(self, frame: FrameType | None) -> tuple[object, Lines]:
        """Return (the callback that the loop is in, its lines) or (None, ()), by the innermost frame of its thread."""
        root = self._root_frame(frame)
        if root is None:
            self._root_bytes = 0
            return None, ()
        # The code that runs the loop is no line of the callback's.
        lines = _lines(frame, self._base if self._by_frame else id(root))
        if self._by_frame:
            # An empty bytes object takes 33 bytes itself.
            self._root_bytes = max(1, sys.getsizeof(root) - 33)
            return self._current_task() or id(root), lines
        handle = root.f_locals.get("self")
        return (None if handle is None else HandleRoot(ref(handle))), lines

    def _current_task(self) -> HandleRoot | None:
        """Return the task whose step uvloop runs: another one than the next, even if their frames have one address."""
        loop, tasks = self.loop(), sys.modules.get("asyncio.tasks")
        if loop is None or tasks is None or self.kind != "uvloop":
            return None
        task = tasks.current_task(loop)
        return None if task is None else HandleRoot(ref(task))

    def _root_frame(self, frame: FrameType | None) -> FrameType | None:
        """asyncio: the frame of `Handle._run`; else the callback's own first one."""
        if not self._by_frame and not self._familiar.handles:
            return None
        events = getattr(sys.modules.get("asyncio.events"), "__dict__", None)
        found = None
        for _ in range(_ROOT_LIMIT):
            if frame is None:
                # Not below the frame that runs the loop, so not in one of its callbacks.
                return None if self._by_frame or self._base is not None else found
            if id(frame) == self._base:
                return found
            if self._by_frame:
                found = frame
            elif found is None and frame.f_globals.get("__name__") in _TURNS and frame.f_code.co_name == "_run_once":
                return None  # one that runs within a callback, and waits
            elif found is None and frame.f_code.co_name == "_run" and frame.f_globals is events:
                found = frame
            frame = frame.f_back
        return None if self._by_frame else found

    def begin(self, reading: Reading) -> None:
        """Take in the clocks at the loop's start; called in its thread."""
        self.counters = self.meter.advance(reading, first=True)
        self.tracker.begin(self.counters)

    def look(
        self,
        reading: Reading,
        root: object,
        lines: Lines,
        busy: list[tuple[int, Lines, int]],
        *,
        suspected: bool = True,
    ) -> list[Message]:
        """Take in one look, and return what to report; `busy` as from `BusyThreads.read`."""
        others = [(busy_lines, cpu_ns) for ident, busy_lines, cpu_ns in busy if ident != self.ident]
        self.looks += 1
        messages: list[Message] = []
        quiet, self._quiet = self._quiet, None
        if quiet is not None:
            self.counters = self.meter.advance(quiet, on_time=True)
            messages = self.tracker.look(Observation(self.counters))
            messages += self._work(False, (), [])
        before, self.counters = self.counters, self.meter.advance(reading)
        self._idle = root is None and self._beat is None
        if isinstance(root, int):
            if self._left_alone(before, self.counters):
                self._era += 1
            root = (root, self._era)
        told = others if suspected else []
        messages += self.tracker.look(Observation(self.counters, root, lines, told, self.pending_ns, self.gate))
        return messages + self._work(root is not None or self._due(), lines, others)

    def _work(self, at_work: bool, lines: Lines, others: list[tuple[Lines, int]]) -> list[Message]:
        if self.load is None or self.counters is None:
            return []
        return self.load.look(self.counters, at_work=at_work, lines=lines, others=others, tasks=self._tasks)

    @property
    def full(self) -> bool:
        """Whether it had little rest, or was late, at the last look."""
        return self.load is not None and self.load.told

    def last_load(self) -> list[Message]:
        """Return the last report of its work, as it has stopped."""
        return [] if self.load is None or self.counters is None else self.load.tell(self.counters)

    def _due(self) -> bool:
        """Whether callbacks wait to be run. A loop that polls gives the GIL away there: we mostly find it there, even
        if it is busy."""
        loop = self.loop()
        # Not by an attribute of a class of the program's.
        ready = getattr(loop, "__dict__", {}).get("_ready") if self.kind == "asyncio" else None
        return type(ready) is deque and len(ready) > 0

    def _left_alone(self, before: Counters | None, now: Counters) -> bool:
        """Whether one callback may have ended and others have run between two looks.

        Not in the time of a look or two, nor if the thread never woke up, nor if it kept the GIL from us all the time.
        """
        if before is None or now.at_ns - before.at_ns <= 2 * self.meter.period_ns:
            return False
        return now.loop_cpu_ns != before.loop_cpu_ns and now.held_ns == before.held_ns

    def unmoved(self, loop_cpu_ns: int | None, now_ns: int) -> bool:
        """Whether the loop is asleep between two callbacks as it was at the last look, and need not be woken.

        Its thread's clock tells: a thread that wakes up uses CPU.
        """
        return (
            self._idle
            and self._beat is None
            and loop_cpu_ns is not None
            and self.counters is not None
            and loop_cpu_ns == self.counters.loop_cpu_ns
            and now_ns - self._answered_ns < IDLE_BEAT_NS
        )

    def rest(self, reading: Reading) -> None:
        """Replace a look at a loop that is `unmoved`: only keep what the next look compares with."""
        self._quiet = reading


def _lines(frame: FrameType | None, stop: int | None) -> Lines:
    """Return the lines of `user_lines`. Where no line is the user's, that of the innermost coroutine and of what it
    called: within one call of a library the innermost line is another one each time. Without a coroutine, that of the
    library which waits for a thread, and not that of `threading` in which it does."""
    lines = tuple(user_lines(frame, stop))
    if len(lines) != 1 or is_user_file(lines[0][0]):
        return lines
    threads = getattr(sys.modules.get("threading"), "__file__", None)
    outside: Lines = ()
    called: Lines = ()
    for _ in range(_ROOT_LIMIT):
        if frame is None or id(frame) == stop:
            break
        code = frame.f_code
        line = (code.co_filename, frame.f_lineno or 0, code.co_qualname)
        if code.co_flags & _CO_ASYNC:
            return (line, *called)
        if code.co_filename != threads:
            outside, called = outside or (line,), (line,)
        frame = frame.f_back
    return outside or lines


def _post(loop: Any, run: Callable[[], object], ready_known: bool) -> None:
    if ready_known and loop.get_debug():
        ready = getattr(loop, "_ready", None)
        if type(ready) is deque:
            # In debug mode a handle keeps where it came from, and the loop logs those that it finds slow.
            ready.append(_Silent(run))
            loop._write_to_self()
            return
    loop.call_soon_threadsafe(run)
